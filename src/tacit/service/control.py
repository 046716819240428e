"""How people and scripts on the coordinator's machine command it: HTTP over a Unix socket in its folder.

The socket is readable and writable for its owner alone, so whoever may read the coordinator's keys may
command it, and nobody else.

Reference: ``GET /runs``, ``POST /runs`` ``{"job": PATH, "clients": [NAME]}``, ``GET /runs/ID``,
``POST /runs/ID/cancel``, ``GET /runs/ID/log?after=BYTES``. What went wrong is answered with the error's
diagnostics.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tacit import errors
from tacit.errors import ConfigError, RoundAborted, TacitError, TransportError
from tacit.service.runs import LOG_FILE, Runs

__all__ = ["SOCKET", "Control", "ControlServer"]

SOCKET = "control.sock"
LONGEST = 100
"""Bytes of a socket's path; systems take 103 to 107."""
BODY_LIMIT = 1024 * 1024
ANSWER_LIMIT = 64 * 1024 * 1024
LOG_PART = 256 * 1024
IDLE_S = 30.0
SUBMIT_S = 600.0
DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """A path of a socket that is short enough, while the block lasts.

    Raises:
        ConfigError: It is too long, and this system knows no way around that.
    """
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    if not DESCRIPTORS.is_dir():
        raise ConfigError(
            "control.path",
            f"{path} is too long for a socket",
            remedy=f"move the coordinator's folder to where its path has at most {LONGEST - 13} bytes",
            file=str(path),
        )
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield str(DESCRIPTORS / str(handle) / path.name)
    finally:
        os.close(handle)


class ControlServer(ThreadingHTTPServer):
    """Serves the runs of one coordinator; the process must hold its folder (``only_process``).

    Args:
        runs: What is commanded.
        path: The socket; a stale one is replaced.

    Raises:
        ConfigError: Something else lies there, or the path is too long.
        TransportError: The socket cannot be made.

    Guarantee: Nobody but the owner of the coordinator's folder can connect
    (tests/unit/test_service_control.py::test_the_socket_is_its_owners).
    """

    address_family = socket.AF_UNIX
    daemon_threads = True

    def __init__(self, runs: Runs, path: Path) -> None:
        self.runs = runs
        self._path = path
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(
                "control.taken",
                f"{path} is not a socket",
                remedy="move it away",
                file=str(path),
            )
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            with _address(path) as address:
                super().__init__(address, _Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise TransportError(
                "control.socket",
                f"cannot make {path}: {error.strerror}",
                remedy="check the folder's permissions; some network file systems have no sockets",
                file=str(path),
            ) from error
        finally:
            os.umask(before)
        self._thread = threading.Thread(target=self.serve_forever, name="control", daemon=True)

    def server_bind(self) -> None:
        """Binds; a Unix socket has neither host nor port."""
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "tacit", 0

    def start(self) -> None:
        """Serves from now on, in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Serves no longer, and removes the socket."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        self._path.unlink(missing_ok=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: ControlServer
    timeout = IDLE_S
    server_version = "tacit"
    sys_version = ""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        url = urllib.parse.urlsplit(self.path)
        parts = [part for part in url.path.split("/") if part]
        try:
            found = self._find(method, parts, urllib.parse.parse_qs(url.query))
        except TacitError as error:
            self._answer(HTTPStatus.UNPROCESSABLE_ENTITY, error.diagnostics())
            return
        except Exception as error:  # noqa: BLE001 - a job's own code failed, or there is a fault here
            told = ConfigError(
                "control.failed",
                f"the request failed: {type(error).__name__}",
                remedy="if the job names a model file, check that it loads; otherwise report this",
            )
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, told.diagnostics())
            return
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, _unknown(method, url.path).diagnostics())
        else:
            self._answer(HTTPStatus.OK, found)

    def _find(
        self, method: str, parts: Sequence[str], query: dict[str, list[str]]
    ) -> dict[str, Any] | None:
        runs = self.server.runs
        match method, *parts:
            case "GET", "runs":
                return {"runs": [state.record() for state in runs.all()]}
            case "POST", "runs":
                return self._submit()
            case "GET", "runs", name:
                return runs.find(name).record()
            case "POST", "runs", name, "cancel":
                return runs.cancel(name).record()
            case "GET", "runs", name, "log":
                state = runs.find(name)
                return _log_part(Path(state.folder) / LOG_FILE, query.get("after", ["0"])[0])
        return None

    def _submit(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() else BODY_LIMIT + 1
        try:
            if size > BODY_LIMIT:
                raise ValueError("length")
            body = json.loads(self.rfile.read(size))
            job, clients = body["job"], body.get("clients", [])
            if not isinstance(job, str) or not all(isinstance(name, str) for name in clients):
                raise TypeError("text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                "control.request",
                "the request names no job",
                remedy='send {"job": PATH, "clients": [NAME, ...]}',
            ) from error
        return self.server.runs.submit(Path(job), clients).record()

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Requests are not logged; what they do is."""


def _log_part(path: Path, after: str) -> dict[str, Any]:
    """Whole lines of a log from a byte on, and the byte after them."""
    start = int(after) if after.isascii() and after.isdigit() else 0
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(LOG_PART)
    except OSError:
        data = b""
    whole = data[: data.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):  # A torn line of a process that was killed.
            lines.append(json.loads(line))
    return {"lines": lines, "next": start + len(whole)}


def _unknown(method: str, path: str) -> TacitError:
    return ConfigError(
        "control.unknown", f"nothing answers {method} {path}", remedy="see docs/reference/cli.md"
    )


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("tacit", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with _address(self._path) as address:
            self.sock.connect(address)


class Control:
    """Commands the coordinator of a folder on this machine.

    Args:
        folder: The coordinator's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SOCKET

    def submit(self, job: Path, clients: Sequence[str] = ()) -> dict[str, Any]:
        """Hands in a job; what is told of its run.

        Raises:
            TacitError: What the coordinator refused it with, or it cannot be reached.
        """
        body = {"job": str(job.absolute()), "clients": list(clients)}
        return self._ask("POST", "/runs", body)

    def runs(self) -> list[dict[str, Any]]:
        """What is told of all runs.

        Raises:
            TransportError: The coordinator cannot be reached.
        """
        return list(self._ask("GET", "/runs")["runs"])

    def run(self, name: str) -> dict[str, Any]:
        """What is told of one run.

        Raises:
            TacitError: There is none, or the coordinator cannot be reached.
        """
        return self._ask("GET", f"/runs/{_quoted(name)}")

    def cancel(self, name: str) -> dict[str, Any]:
        """Ends a run in order.

        Raises:
            TacitError: There is none, it is over, or the coordinator cannot be reached.
        """
        return self._ask("POST", f"/runs/{_quoted(name)}/cancel")

    def log(self, name: str, after: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Events of a run from a byte of its log on, and the byte after them.

        Raises:
            TacitError: There is no such run, or the coordinator cannot be reached.
        """
        found = self._ask("GET", f"/runs/{_quoted(name)}/log?after={after}")
        return found["lines"], found["next"]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = _Connection(self._path, SUBMIT_S)
        data = json.dumps(body).encode() if body is not None else b""
        try:
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read(ANSWER_LIMIT))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransportError(
                "control.unreachable",
                f"no coordinator answers at {self._path}",
                remedy="start it with 'tacit coordinator DIR', or pass its folder with --coordinator",
                file=str(self._path),
            ) from error
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            raise _raised(found)
        return dict(found)


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _raised(record: dict[str, Any]) -> TacitError:
    """The error that the coordinator told of."""
    told = {key: record.pop(key, "") for key in ("error", "code", "message", "remedy")}
    kind = getattr(errors, str(told["error"]), ConfigError)
    code, message, remedy = (str(told[key]) for key in ("code", "message", "remedy"))
    if not isinstance(kind, type) or not issubclass(kind, TacitError):
        kind = ConfigError
    if issubclass(kind, RoundAborted):
        return kind(code, message, retryable=False, remedy=remedy, **record)
    return kind(code, message, remedy=remedy, **record)
