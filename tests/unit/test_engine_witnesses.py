"""Asking independent witnesses: what one that is slow, hostile or shared can do to a run."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tacit.engine import witnesses
from tacit.engine.store import SqliteStore
from tacit.engine.witness import WitnessServer, WitnessService
from tacit.engine.witnesses import IndependentWitnesses, WitnessTable, submit
from tacit.errors import LedgerError, TransportError
from tacit.ledger.note import check_cosignature, note_text
from tacit.testing.entropy import SeededEntropy
from tacit.testing.logs import PartyLog
from tacit.trust.identity import Identity
from tacit.types import PartyName

OBSERVER = Identity.generate(SeededEntropy("observer"))
NORTH = PartyName("north")


@pytest.fixture
def north() -> PartyLog:
    return PartyLog("demo", "north").grow(3)


def table(port: int) -> WitnessTable:
    return WitnessTable(
        name="observer", url=f"http://127.0.0.1:{port}", key=OBSERVER.public_key.hex()
    )


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[WitnessTable]:
    """A witness that does as ``serve`` says with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield table(listener.getsockname()[1])
        over.set()
        thread.join()


def dripping(connection: socket.socket) -> None:
    """A byte now and then, so that no single wait is long."""
    connection.recv(65536)
    try:
        for byte in b"HTTP/1.1 200 OK\r\nX-Wait: " + b"w" * 40:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


def test_an_answer_that_drips_in_is_not_waited_for(north: PartyLog) -> None:
    with server(dripping) as slow:
        began = time.monotonic()
        with pytest.raises(TransportError) as caught:
            submit(slow, north.log, timeout_s=0.3)
        assert time.monotonic() - began < 1.0
        assert caught.value.code == "witness.unreachable"


def test_a_slow_witness_costs_its_patience_only(
    north: PartyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers every time just before anybody would give up."""
    monkeypatch.setattr(witnesses, "PATIENCE_S", 0.5)
    calls: list[float] = []

    def slowly(_: WitnessTable, __: object, timeout_s: float, ___: int) -> str:
        calls.append(timeout_s)
        time.sleep(min(timeout_s, 0.2))
        if timeout_s < 0.2:
            raise TransportError("witness.unreachable", "too slow")
        return "line\n"

    monkeypatch.setattr(witnesses, "submit", slowly)
    asked = IndependentWitnesses((table(1),), {NORTH: north.log})
    asked.begin()
    before = len(calls)
    began = time.monotonic()
    for _ in range(20):
        asked.follow()
    assert time.monotonic() - began < 1.0
    assert 2 <= len(calls) - before <= 3
    assert list(asked.failures) == ["observer"]
    asked.conclude({})  # At the end it is asked again.
    assert asked.failures == {}


def test_another_process_of_the_same_party_is_no_rollback_and_no_fork(
    tmp_path: Path, north: PartyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one submits, another one over the same store logs and submits more."""
    keys = {north.origin: north.identity.public_key}
    service = WitnessService(SqliteStore(tmp_path / "db"), "observer", OBSERVER, keys)
    with WitnessServer(service, ("127.0.0.1", 0)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        observer = table(running.server_address[1])
        submit(observer, north.log)
        post, faster = witnesses._post, [True, True, False]

        def late(*arguments: object) -> tuple[int, bytes]:
            if faster and faster.pop(0):
                with monkeypatch.context() as inner:
                    inner.setattr(witnesses, "_post", post)
                    submit(observer, north.grow(1).log)
            return post(*arguments)

        north.grow(1)
        monkeypatch.setattr(witnesses, "_post", late)
        line = submit(observer, north.log)
        check_cosignature(line, note_text(north.log.checkpoint()), "observer", OBSERVER.public_key)
        running.shutdown()
        thread.join()


def test_a_witness_that_never_agrees_is_left_alone(north: PartyLog) -> None:
    sizes = iter((1, 2, 1, 2, 1, 2, 1, 2))

    def disagree(connection: socket.socket) -> None:
        connection.recv(65536)
        body = b"%d\n" % next(sizes)
        head = b"HTTP/1.1 409 Conflict\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        connection.sendall(head + body)

    with server(disagree) as false, pytest.raises(TransportError):
        submit(false, north.log, timeout_s=5)


def test_a_witness_sends_nobody_elsewhere(north: PartyLog) -> None:
    visited: list[bytes] = []
    with server(lambda connection: visited.append(connection.recv(65536))) as inner:
        head = f"HTTP/1.1 302 Found\r\nLocation: {inner.url}\r\nContent-Length: 0\r\n\r\n"

        def elsewhere(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(head.encode())

        with server(elsewhere) as false, pytest.raises(TransportError):
            submit(false, north.log, timeout_s=5)
    assert visited == []


def test_what_a_witness_knows_is_asked_for_once(tmp_path: Path, north: PartyLog) -> None:
    sent: list[int] = []

    class Counted(WitnessService):
        def answer(self, body: bytes):
            reply = super().answer(body)
            sent.append(reply.status)
            return reply

    keys = {north.origin: north.identity.public_key}
    service = Counted(SqliteStore(tmp_path / "db"), "observer", OBSERVER, keys)
    with WitnessServer(service, ("127.0.0.1", 0)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        asked = IndependentWitnesses((table(running.server_address[1]),), {NORTH: north.log})
        asked.begin()
        for _ in range(3):
            north.grow(1)
            asked.follow()
        assert asked.failures == {}
        assert sent == [200] * 4
        running.shutdown()
        thread.join()


def test_other_leaves_are_a_fork_whatever_was_known(tmp_path: Path, north: PartyLog) -> None:
    other = north.copy().grow(2, "test.other")
    keys = {north.origin: north.identity.public_key}
    service = WitnessService(SqliteStore(tmp_path / "db"), "observer", OBSERVER, keys)
    with WitnessServer(service, ("127.0.0.1", 0)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        observer = table(running.server_address[1])
        submit(observer, north.grow(2).log)
        for known in (0, 3, 5):
            with pytest.raises(LedgerError) as caught:
                submit(observer, other.log, known=known)
            assert caught.value.code == "witness.forked"
        running.shutdown()
        thread.join()
