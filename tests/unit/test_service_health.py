"""Health over HTTP: alive, ready, metrics."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.errors import ConfigError
from tacit.service.health import Health, HealthServer, writable


class Seconds:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def server(seconds: Seconds) -> Iterator[HealthServer]:
    with HealthServer(Health(seconds), ("127.0.0.1", 0)) as made:
        yield made


def get(server: HealthServer, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"{server.url}{path}", timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()) if error.code == 503 else {}


def test_a_loop_that_hangs_is_neither_alive_nor_ready(
    server: HealthServer, seconds: Seconds
) -> None:
    assert get(server, "/healthz") == (200, {"alive": True, "reason": ""})
    seconds.now += 60
    assert get(server, "/healthz")[0] == 503
    assert get(server, "/readyz")[0] == 503
    server.health.beat()
    assert get(server, "/healthz")[0] == 200


def test_readiness_names_every_reason(server: HealthServer, tmp_path: Path) -> None:
    reason = "not connected"
    server.health.check("connection", lambda: reason)
    server.health.check("state", writable(tmp_path / "gone"))
    server.health.check("broken", lambda: str(1 / 0))
    status, body = get(server, "/readyz")
    assert status == 503
    assert body["reasons"] == {
        "connection": "not connected",
        "state": f"{tmp_path / 'gone'} cannot be written",
        "broken": "ZeroDivisionError",
    }
    reason = ""
    server.health.check("state", writable(tmp_path))
    server.health.check("broken", lambda: "")
    assert get(server, "/readyz") == (200, {"ready": True, "reasons": {}})


def test_metrics_are_counters_and_gauges(server: HealthServer, seconds: Seconds) -> None:
    server.health.count("messages")
    server.health.count("messages", 2)
    server.health.gauge("runs", lambda: 7)
    seconds.now += 2
    assert get(server, "/metrics")[1] == {"uptime_seconds": 2.0, "messages": 3, "runs": 7}


def test_nothing_else_is_served(server: HealthServer) -> None:
    assert get(server, "/")[0] == 404
    request = urllib.request.Request(f"{server.url}/metrics", b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)
    with caught.value:
        assert caught.value.code == 501


def test_a_taken_address_is_named(server: HealthServer) -> None:
    with pytest.raises(ConfigError) as caught:
        HealthServer(Health(), ("127.0.0.1", server.server_address[1]))
    assert caught.value.code == "service.listen"
