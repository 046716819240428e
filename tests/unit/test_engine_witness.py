"""The witness as a service in this process, and the file that names witnesses."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.engine.store import SqliteStore
from tacit.engine.witness import Observation, WitnessServer, WitnessService
from tacit.engine.witnesses import WitnessTable, load_witnesses, submit
from tacit.errors import ConfigError, TransportError
from tacit.ledger.submission import Submission
from tacit.testing.entropy import SeededEntropy
from tacit.testing.logs import PartyLog
from tacit.trust.identity import Identity
from tacit.types import Digest

OBSERVER = Identity.generate(SeededEntropy("observer"))


class Watched:
    """A service, its store, and what it told."""

    def __init__(self, path: Path, *logs: PartyLog) -> None:
        self.store = SqliteStore(path / "tacit.db")
        self.told: list[Observation] = []
        keys = {log.origin: log.identity.public_key for log in logs}
        self.service = WitnessService(self.store, "observer", OBSERVER, keys, self.told.append)

    def show(self, log: PartyLog, old: int = 0) -> int:
        proof = log.log.consistency_proof(old)
        return self.service.answer(Submission(old, proof, log.log.checkpoint()).encode()).status


@pytest.fixture
def north() -> PartyLog:
    return PartyLog("demo", "north").grow(3)


@pytest.fixture
def watched(tmp_path: Path, north: PartyLog) -> Watched:
    return Watched(tmp_path, north)


@pytest.fixture
def server(watched: Watched) -> Iterator[WitnessServer]:
    address = ("127.0.0.1", 0)
    with WitnessServer(watched.service, address, connections=2, timeout_s=0.5) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def table(server: WitnessServer) -> WitnessTable:
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    return WitnessTable(name="observer", url=url, key=OBSERVER.public_key.hex())


def test_a_misdeed_is_logged_once_however_often_it_is_sent(
    watched: Watched, north: PartyLog
) -> None:
    other = north.copy().grow(2, "test.other")
    assert watched.show(north.grow(2)) == 200
    assert [watched.show(other) for _ in range(5)] == [409] * 5
    assert watched.told == [
        Observation("demo/north", 5, 0),
        Observation("demo/north", 5, 5, "witness.forked"),
    ]
    (event,) = (json.loads(data) for _, data in watched.service._log.events())
    # The proof of the split view: two heads of one size, both signed by the log's owner.
    notes = [event["before"].encode(), event["note"].encode()]
    assert notes == [north.log.checkpoint(), other.log.checkpoint()]


def test_a_log_cannot_fill_the_disk_with_forks(watched: Watched, north: PartyLog) -> None:
    views = [north.copy().grow(2, f"test.view-{number}") for number in range(5)]
    assert [watched.show(view) for view in views] == [200, 409, 409, 409, 409]
    assert len(watched.service._log.events()) == 1


def test_nobody_else_can_have_a_log_accused(watched: Watched, north: PartyLog) -> None:
    """Whoever knows a log's checkpoints sends old ones, and new ones with proofs of his own."""
    old = north.log.checkpoint()
    assert watched.show(north.grow(2)) == 200
    new = north.grow(4).log.checkpoint()
    wrong = (Digest(bytes(32)),)
    for known, proof, note in ((0, (), old), (5, (), old), (3, (), old), (5, wrong, new)):
        answer = watched.service.answer(Submission(known, proof, note).encode())
        assert answer.status in (400, 409, 422)
    assert watched.told == [Observation("demo/north", 5, 0)]
    assert watched.service._log.events() == []
    assert watched.show(north, 5) == 200


def test_a_store_that_refuses_is_no_reason_to_cosign(
    watched: Watched, north: PartyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TransportError("store.io", "the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(watched.store, "put", refuse)
        assert watched.show(north) == 503
    assert watched.told == []
    assert watched.show(north) == 200


def test_a_memory_that_was_tampered_with_is_no_reason_to_cosign(
    watched: Watched, north: PartyLog
) -> None:
    assert watched.show(north) == 200
    with watched.store.transaction():
        watched.store.put("witness", "demo/north", b"rubbish")
    assert watched.show(north.grow(1), 3) == 503


def test_connections_over_the_limit_are_closed_and_idle_ones_end(
    server: WitnessServer, north: PartyLog
) -> None:
    address = ("127.0.0.1", server.server_address[1])
    idle = [socket.create_connection(address, timeout=10) for _ in range(2)]
    with pytest.raises(TransportError):
        submit(table(server), north.log)
    for connection in idle:
        assert connection.recv(1) == b""  # The server has waited long enough.
        connection.close()
    assert submit(table(server), north.log).startswith("— observer ")


def test_a_connection_serves_several_requests(server: WitnessServer, north: PartyLog) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    body = Submission(0, (), north.log.checkpoint()).encode()
    for expected in (200, 409, 409):
        connection.request("POST", "/add-checkpoint", body)
        answer = connection.getresponse()
        assert answer.status == expected
        answer.read()
    connection.close()


def test_who_drips_its_request_in_is_hung_up_on(watched: Watched, north: PartyLog) -> None:
    address, limits = ("127.0.0.1", 0), {"connections": 1, "timeout_s": 5.0, "lifetime_s": 0.4}
    with WitnessServer(watched.service, address, **limits) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        began, sent = time.monotonic(), 0
        with socket.create_connection(running.server_address, timeout=10) as slow:
            with pytest.raises(OSError):
                while time.monotonic() - began < 4:
                    slow.sendall(b"G")
                    sent += 1
                    time.sleep(0.05)
            assert sent > 3
            assert submit(table(running), north.log).startswith("— observer ")
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nContent-Length: %d\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Length: %d\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: %d\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nContent-Length: %d\r\n\r\n",
    ],
)
def test_a_body_is_never_taken_for_a_request(server: WitnessServer, first: bytes) -> None:
    """A proxy that thinks otherwise would hand its answer to somebody else."""
    hidden = b"GET /hidden HTTP/1.1\r\n\r\n"
    address = ("127.0.0.1", server.server_address[1])
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(first % len(hidden) + hidden)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 ") == 1


def test_an_ipv6_address_is_listened_on(watched: Watched) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with WitnessServer(watched.service, ("::1", 0)) as running:
        assert running.server_address[0] == "::1"


def test_a_server_that_is_no_witness_is_not_believed(north: PartyLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        false = WitnessTable(name="observer", url=url, key=OBSERVER.public_key.hex())
        for answer in (b"", b"rubbish\r\n\r\n", b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n"):

            def serve(answer: bytes = answer) -> None:
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(TransportError):
                submit(false, north.log, timeout_s=5)
            thread.join()


def test_a_witness_keeps_its_name(tmp_path: Path, north: PartyLog) -> None:
    watched = Watched(tmp_path, north)
    with pytest.raises(ConfigError) as caught:
        WitnessService(watched.store, "else", OBSERVER, {})
    assert caught.value.code == "witness.name"


FILE = f"""
version = 1

[[witness]]
name = "observer"
url = "http://127.0.0.1:7878"
key = "{OBSERVER.public_key.hex()}"
"""


def test_witnesses_are_named_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "witnesses.toml"
    assert load_witnesses(path) == ()
    path.write_text(FILE)
    (witness,) = load_witnesses(path)
    assert (witness.name, witness.url) == ("observer", "http://127.0.0.1:7878")
    assert witness.key == OBSERVER.public_key.hex()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("url =", "uri =", "config.unknown-key"),
        ("version = 1", "version = 2", "config.value"),
        ("http://", "file://", "config.value"),
        ("http://127", "http:// 127", "config.value"),
        (OBSERVER.public_key.hex(), "abc", "config.value"),
        ('"observer"', '"two words"', "witness.name"),
        ("version = 1\n", "version = 1\n" + FILE.split("\n", 3)[3], "witness.name"),
    ],
)
def test_a_wrong_witnesses_file_is_refused(tmp_path: Path, old: str, new: str, code: str) -> None:
    path = tmp_path / "witnesses.toml"
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_witnesses(path)
    assert caught.value.code == code
    assert "witnesses.toml" in caught.value.message
