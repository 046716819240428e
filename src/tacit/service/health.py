"""What a long-lived process says of itself over HTTP: ``/healthz``, ``/readyz``, ``/metrics``.

Nothing here is secret and nothing can be changed: counters and reasons, no value of any record.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tacit.errors import ConfigError, TacitError

__all__ = ["Check", "Health", "HealthServer", "writable"]

Check = Callable[[], str]
"""Says why a process is not ready; empty when it is."""

UNRESPONSIVE_S = 15.0
CONNECTIONS = 16
TIMEOUT_S = 5.0


class Health:
    """The state of one process; safe to use from any thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._checks: dict[str, Check] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._counters: Counter[str] = Counter()
        self._began = self._beat = clock()

    def beat(self) -> None:
        """To be called by the process's loop every second: a loop that hangs is not alive."""
        self._beat = self._clock()

    def check(self, name: str, check: Check) -> None:
        """Adds a condition of readiness."""
        with self._lock:
            self._checks[name] = check

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """Adds a number that is asked for when somebody looks."""
        with self._lock:
            self._gauges[name] = value

    def count(self, name: str, by: int = 1) -> None:
        """Adds to a counter."""
        with self._lock:
            self._counters[name] += by

    def alive(self) -> str:
        """Why the process is to be restarted; empty when it is alive."""
        silent = self._clock() - self._beat
        return f"the loop has not answered for {silent:.0f} s" if silent > UNRESPONSIVE_S else ""

    def unready(self) -> dict[str, str]:
        """Why the process cannot do its work now, by condition; empty when it can."""
        with self._lock:
            checks = dict(self._checks)
        found = {name: _reason(check) for name, check in checks.items()}
        found["loop"] = self.alive()
        return {name: reason for name, reason in found.items() if reason}

    def metrics(self) -> dict[str, float]:
        """All counters and gauges."""
        with self._lock:
            counters, gauges = dict(self._counters), dict(self._gauges)
        return {
            "uptime_seconds": round(self._clock() - self._began, 3),
            **counters,
            **{name: value() for name, value in gauges.items()},
        }


def _reason(check: Check) -> str:
    """A check that fails itself is a reason, too."""
    try:
        return check()
    except TacitError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - whatever it is, the process is not ready
        return type(error).__name__


def writable(folder: Path) -> Check:
    """Whether files can be written in ``folder``."""

    def check() -> str:
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"

    return check


class HealthServer(ThreadingHTTPServer):
    """Serves ``Health`` under an address, in a thread, as a context manager.

    Args:
        health: What to tell.
        address: Host and port; port 0 takes a free one.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, health: Health, address: tuple[str, int]) -> None:
        self.health = health
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise ConfigError(
                "service.listen",
                f"cannot listen on {address[0]}:{address[1]}: {error.strerror}",
                remedy="choose another 'listen' in service.toml, or stop what listens there",
                key="listen",
            ) from error
        self._thread = threading.Thread(target=self.serve_forever, name="health", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """One thread for every connection, of which there are few at once."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Gives the slot back, however the connection ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: HealthServer
    timeout = TIMEOUT_S
    server_version = "tacit"
    sys_version = ""

    def do_GET(self) -> None:
        health = self.server.health
        match self.path.partition("?")[0]:
            case "/healthz":
                reason = health.alive()
                self._answer(not reason, {"alive": not reason, "reason": reason})
            case "/readyz":
                reasons = health.unready()
                self._answer(not reasons, {"ready": not reasons, "reasons": reasons})
            case "/metrics":
                self._answer(True, health.metrics())
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, good: bool, body: Mapping[str, Any]) -> None:
        data = json.dumps(body, indent=2).encode() + b"\n"
        self.send_response(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""
