"""``tacit witness`` as a process of its own, asked over HTTP by logs that behave and logs that do not."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tacit.engine.store import SqliteStore
from tacit.engine.witnesses import submit
from tacit.errors import LedgerError, SignatureError, TransportError
from tacit.ledger.log import Log
from tacit.ledger.note import (
    COSIGNATURE,
    check_cosignature,
    note_text,
    parse_checkpoint,
    sign_note,
    verifier_key,
)
from tacit.ledger.submission import SUBMISSION_LIMIT
from tacit.testing.commands import tacit
from tacit.testing.logs import PartyLog, write_federation
from tacit.testing.witness import Running
from tacit.trust.identity import Identity


@pytest.fixture
def north() -> PartyLog:
    return PartyLog("demo", "north").grow(3)


@pytest.fixture
def roster(tmp_path: Path, north: PartyLog) -> Path:
    return write_federation(tmp_path / "federation.toml", north, PartyLog("demo", "south"))


@pytest.fixture
def witness(tmp_path: Path, roster: Path) -> Iterator[Running]:
    running = Running(tmp_path / "observer", roster)
    yield running
    if running.process.poll() is None:
        assert running.end() == (0, "")


def refusals(folder: Path) -> list[dict[str, Any]]:
    """What the witness kept of what it refused."""
    identity = Identity.load(folder / "keys" / "witness.key")
    log = Log(SqliteStore(folder / "state" / "tacit.db"), folder.name, identity)
    assert log.verify() == log.head()
    return [json.loads(data) for _, data in log.events()]


def test_it_says_who_it_is_and_keeps_its_key_to_itself(witness: Running) -> None:
    status, kind, body = witness.ask("GET", "/")
    assert (status, kind) == (200, "application/json")
    key = bytes.fromhex(witness.who["key"])
    said = {
        "name": "observer",
        "key": key.hex(),
        "verifier_key": verifier_key("observer", key, COSIGNATURE),
    }
    assert json.loads(body) == said
    assert witness.who == {**said, "url": witness.who["url"]}
    key_file = witness.folder / "keys" / "witness.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file.parent.stat().st_mode) == 0o700
    assert Identity.load(key_file).public_key == key


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(witness: Running, number: int) -> None:
    assert witness.end(number) == (0, "")


def test_a_growing_log_is_cosigned(witness: Running, north: PartyLog) -> None:
    for size in (3, 7, 7):
        north.grow(size - len(north.log))
        line = submit(witness.table, north.log)
        text = note_text(north.log.checkpoint())
        assert check_cosignature(line, text, "observer", bytes.fromhex(witness.who["key"])) > 1.7e9
        assert witness.said() | {"known": 0} == {
            "log": "demo/north",
            "size": size,
            "known": 0,
            "code": "",
        }


def test_two_conflicting_heads_are_not_both_cosigned(witness: Running, north: PartyLog) -> None:
    other = north.copy().grow(2, "test.other")
    submit(witness.table, north.grow(2).log)
    for _ in range(2):
        with pytest.raises(LedgerError) as caught:
            submit(witness.table, other.log)
        assert caught.value.code == "witness.forked"
    longer = other.copy().grow(5)
    with pytest.raises(LedgerError) as caught:
        submit(witness.table, longer.log)
    assert caught.value.code == "witness.forked"
    submit(witness.table, north.grow(1).log)
    said = [witness.said() for _ in range(3)]
    assert [(one["size"], one["code"]) for one in said] == [
        (5, ""),
        (5, "witness.forked"),
        (6, ""),
    ]
    assert witness.end() == (0, "")
    events = refusals(witness.folder)
    assert [(one["type"], one["log"], one["size"], one["known"]) for one in events] == [
        ("witness.refused", "demo/north", 5, 5),
    ]
    # The proof of the split view: two heads of one size, both signed by the log's owner.
    assert events[0]["note"].encode() == other.log.checkpoint()
    assert parse_checkpoint(note_text(events[0]["before"].encode())).size == 5


def test_conflicting_heads_at_once_are_not_both_cosigned(witness: Running, north: PartyLog) -> None:
    views = [north.copy().grow(2, f"test.view-{number}") for number in range(4)]

    def attempt(number: int) -> int | None:
        try:
            submit(witness.table, views[number % 4].copy().log)
        except LedgerError:
            return None
        return number % 4

    with ThreadPoolExecutor(16) as pool:
        cosigned = set(pool.map(attempt, range(32))) - {None}
    assert len(cosigned) == 1


def test_a_restored_log_is_refused_even_after_the_witness_was_killed(
    witness: Running, roster: Path, north: PartyLog
) -> None:
    old = north.copy()
    submit(witness.table, north.grow(4).log)
    witness.process.kill()
    witness.process.communicate()
    again = Running(witness.folder, roster)
    assert (again.who["name"], again.who["key"]) == (witness.who["name"], witness.who["key"])
    with pytest.raises(LedgerError) as caught:
        submit(again.table, old.log)
    assert caught.value.code == "witness.rolled-back"
    assert caught.value.details["known"] == 7
    submit(again.table, north.grow(1).log)
    assert again.said()["size"] == 8  # The old head is no news: anybody can show one again.
    assert again.end() == (0, "")


def test_a_wrong_old_size_is_answered_with_the_right_one(witness: Running, north: PartyLog) -> None:
    submit(witness.table, north.log)
    log = north.grow(4).log
    note = log.checkpoint()
    for old in (0, 2, 7):
        proof = log.consistency_proof(old)
        assert witness.add(old, proof, note) == (409, "text/x.tlog.size", b"3\n")
    status, kind, line = witness.add(3, log.consistency_proof(3), note)
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    assert line.startswith("— observer ".encode())
    # Nothing of this was a misdeed.
    assert witness.end() == (0, "")
    assert refusals(witness.folder) == []


def test_what_is_not_to_be_cosigned(witness: Running, north: PartyLog) -> None:
    submit(witness.table, north.log)
    log = north.grow(4).log
    note, proof = log.checkpoint(), log.consistency_proof(3)
    stranger = PartyLog("other", "north").grow(2)
    impostor = PartyLog("demo", "north")
    impostor.identity = stranger.identity
    forged = Log(impostor.store, impostor.origin, stranger.identity).checkpoint()
    not_a_checkpoint = sign_note("demo/north\n7\n", north.identity, "demo/north")
    for expected, answer in (
        (422, witness.add(3, proof[:-1], note)),
        (422, witness.add(3, log.consistency_proof(2), note)),
        (404, witness.add(0, (), stranger.log.checkpoint())),
        (403, witness.add(0, (), forged)),
        (400, witness.add(0, (), not_a_checkpoint)),
        (400, witness.add(8, (), note)),
        (400, witness.add(0, (), b"rubbish")),
        (400, witness.ask("POST", "/add-checkpoint", b"old 03\n\n" + note)),
        (404, witness.ask("POST", "/sign-subtree", b"old 0\n\n" + note)),
        (404, witness.ask("GET", "/keys/witness.key")),
        (413, witness.ask("POST", "/add-checkpoint", bytes(SUBMISSION_LIMIT + 1))),
        (411, witness.ask("POST", "/add-checkpoint", **{"Content-Length": "-1"})),
        (411, witness.ask("POST", "/add-checkpoint", **{"Transfer-Encoding": "chunked"})),
        (501, witness.ask("PUT", "/add-checkpoint")),
    ):
        assert answer[0] == expected
    assert witness.add(3, proof, note)[0] == 200


def test_who_keeps_a_connection_waiting_does_not_keep_others(
    witness: Running, north: PartyLog
) -> None:
    host, _, port = witness.who["url"].removeprefix("http://").partition(":")
    waiting = [socket.create_connection((host, int(port))) for _ in range(8)]
    waiting[0].sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 100\r\n\r\nold")
    submit(witness.table, north.log)
    for connection in waiting:
        connection.close()


def test_one_witness_serves_several_federations(
    tmp_path: Path, roster: Path, north: PartyLog
) -> None:
    stranger = PartyLog("other", "north").grow(2)
    second = write_federation(tmp_path / "other.toml", stranger)
    running = Running(tmp_path / "observer", roster, second)
    submit(running.table, north.log)
    submit(running.table, stranger.log)
    assert [running.said()["log"] for _ in range(2)] == ["demo/north", "other/north"]
    assert running.end() == (0, "")


def test_a_log_hears_why_it_is_not_cosigned(witness: Running, north: PartyLog) -> None:
    with pytest.raises(LedgerError) as caught:
        submit(witness.table, PartyLog("other", "north").log)
    assert caught.value.code == "witness.unknown-log"
    for change in ({"name": "somebody"}, {"key": "00" * 32}):
        with pytest.raises(SignatureError):
            submit(witness.table.model_copy(update=change), north.log)
    assert witness.end() == (0, "")
    with pytest.raises(TransportError) as gone:
        submit(witness.table, north.log)
    assert gone.value.code == "witness.unreachable"


def test_what_cannot_be_started_says_why(
    tmp_path: Path, roster: Path, witness: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    for code, *options in (
        ("witness.listen", "--listen", "nowhere"),
        ("witness.listen", "--listen", witness.who["url"].removeprefix("http://")),
        ("witness.name", "--name", "two words"),
        ("witness.name", "--name", "demo/north"),
        ("file.read", "--roster", tmp_path / "missing.toml"),
    ):
        result = tacit(
            capsys, "witness", tmp_path / "second", "--roster", roster, *options, "--json"
        )
        assert (result[0], json.loads(result[1])["code"]) == (1, code)
    result = tacit(
        capsys, "witness", witness.folder, "--roster", roster, "--name", "else", "--json"
    )
    assert json.loads(result[1])["code"] == "witness.name"
    assert "observer" in json.loads(result[1])["message"]
    assert tacit(capsys, "witness", tmp_path / "third")[0] == 64


def test_two_rosters_may_not_disagree_on_a_log(
    tmp_path: Path, roster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = PartyLog("demo", "north")
    other.identity = PartyLog("demo", "west").identity
    second = write_federation(tmp_path / "second.toml", other)
    options = ["--roster", roster, "--roster", second, "--json"]
    code, out, _ = tacit(capsys, "witness", tmp_path / "observer", *options)
    assert (code, json.loads(out)["code"]) == (1, "witness.rosters")
