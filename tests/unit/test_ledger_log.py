"""The event log: canonical events, rollback, restart, and a store that was tampered with."""

from __future__ import annotations

import json

import pytest

from tacit.errors import LedgerError, LocalProtocolError, TransportError
from tacit.ledger.log import Log, log_origin
from tacit.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from tacit.ledger.note import open_checkpoint
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.types import Milliseconds, PartyName

ORIGIN = log_origin("demo", PartyName("north"))
SIGNER = Identity.generate(SeededEntropy("north"))
NOW = Milliseconds(1)


def root_of(count: int) -> bytes:
    _, log = filled(count)
    return open_checkpoint(log.checkpoint(), {ORIGIN: SIGNER.public_key}).root.hex().encode()


def new_log(store: MemoryStore) -> Log:
    return Log(store, ORIGIN, SIGNER)


def filled(count: int) -> tuple[MemoryStore, Log]:
    store = MemoryStore()
    log = new_log(store)
    with store.transaction():
        for number in range(count):
            log.append({"type": "test.event", "run": "ab"[number % 2], "number": number}, NOW)
    return store, log


def test_events_are_canonical_and_numbered() -> None:
    _, log = filled(2)
    assert log.events() == [
        (0, b'{"number":0,"run":"a","seq":0,"time":1,"type":"test.event"}'),
        (1, b'{"number":1,"run":"b","seq":1,"time":1,"type":"test.event"}'),
    ]
    assert [index for index, _ in log.events("b")] == [1]
    assert len(log) == 2


def test_record_proves_every_event_of_the_run_against_the_checkpoint() -> None:
    _, log = filled(11)
    checkpoint = open_checkpoint(log.checkpoint(), {ORIGIN: SIGNER.public_key})
    lines = [json.loads(line) for line in log.record("a").splitlines()]
    assert [line["index"] for line in lines] == [0, 2, 4, 6, 8, 10]
    events = dict(log.events("a"))
    for line in lines:
        leaf = json.dumps(line["event"], sort_keys=True, separators=(",", ":")).encode()
        assert leaf == events[line["index"]]
        proof = [bytes.fromhex(node) for node in line["proof"]]
        verify_inclusion(leaf_hash(leaf), line["index"], checkpoint.size, proof, checkpoint.root)


def test_a_rolled_back_event_never_was() -> None:
    store, log = filled(5)
    before = log.checkpoint()
    with pytest.raises(RuntimeError), store.transaction():
        log.append({"type": "test.lost"}, NOW)
        log.append({"type": "test.lost"}, NOW)
        raise RuntimeError
    assert len(log) == 5
    assert log.checkpoint() == before
    with store.transaction():
        assert log.append({"type": "test.kept"}, NOW) == 5
    assert new_log(store).checkpoint() == log.checkpoint()


def test_a_refused_write_leaves_the_log_as_it_was() -> None:
    store, log = filled(5)
    before = log.checkpoint()
    for steps in range(3):
        store.fail_after = steps
        with pytest.raises(TransportError), store.transaction():
            log.append({"type": "test.lost"}, NOW)
        store.fail_after = None
        assert log.checkpoint() == before


def test_restart_continues_the_same_log() -> None:
    store, log = filled(9)
    first = open_checkpoint(log.checkpoint(), {ORIGIN: SIGNER.public_key})
    store = store.crash()
    log = new_log(store)
    with store.transaction():
        log.append({"type": "test.later"}, NOW)
    second = open_checkpoint(log.checkpoint(), {ORIGIN: SIGNER.public_key})
    verify_consistency(
        first.size, second.size, first.root, second.root, log.consistency_proof(first.size)
    )


def test_events_of_a_run_name_the_one_before_even_when_runs_interleave() -> None:
    _, log = filled(5)
    previous = [json.loads(data).get("previous") for _, data in log.events("a")]
    assert previous == [None, 0, 2]


def test_two_writers_on_one_store_agree_even_after_a_rollback() -> None:
    store, first = filled(3)
    second = new_log(store)
    with pytest.raises(RuntimeError), store.transaction():
        first.append({"type": "test.lost", "run": "a"}, NOW)
        raise RuntimeError
    with store.transaction():
        second.append({"type": "test.kept", "run": "b"}, NOW)
        second.append({"type": "test.kept", "run": "b"}, NOW)
    assert first.checkpoint() == second.checkpoint() == new_log(store).checkpoint()
    assert first.record("a") == second.record("a")


def forge(store: MemoryStore, change) -> MemoryStore:
    with store.transaction():
        change(store)
    return store


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.put("ledger-events", f"{2:012d}", b"{}"),
        lambda store: store.delete("ledger-events", f"{2:012d}"),
        lambda store: store.put("ledger", "head", b"4 " + root_of(4)),
        lambda store: store.delete("ledger", "head"),
        lambda store: store.put("ledger", "head", b"rubbish"),
        lambda store: store.put("ledger", "checkpoint", b"rubbish"),
    ],
    ids=["rewritten", "removed", "tail dropped", "all dropped", "head", "checkpoint"],
)
def test_open_refuses_a_store_that_was_tampered_with(change) -> None:
    store, log = filled(5)
    log.checkpoint()
    new_log(store)
    with pytest.raises(LedgerError):
        new_log(forge(store, change))


def test_open_refuses_the_log_of_another_party() -> None:
    store, log = filled(5)
    log.checkpoint()
    with pytest.raises(LedgerError):
        Log(store, ORIGIN, Identity.generate(SeededEntropy("south")))
    with pytest.raises(LedgerError):
        Log(store, log_origin("demo", PartyName("south")), SIGNER)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": 1},
        {"type": "test", "seq": 1},
        {"type": "test", "time": 1},
        {"type": "test", "previous": 1},
        {"type": "test", "epsilon": 0.5},
        {"type": "test", "list": [{"deep": 0.5}]},
        {"type": "test", "none": None},
        {"type": "test", "bytes": b"x"},
        {"type": "test", "large": 2**53},
        {"type": "test", "table": {1: "x"}},
        {"type": "test", "long": "x" * (2 * 1024 * 1024)},
    ],
)
def test_events_that_cannot_be_recorded(event) -> None:
    store = MemoryStore()
    log = new_log(store)
    with pytest.raises(LocalProtocolError), store.transaction():
        log.append(event, NOW)
    assert len(log) == 0


def test_append_needs_a_transaction() -> None:
    with pytest.raises(LocalProtocolError):
        new_log(MemoryStore()).append({"type": "test"}, NOW)


def test_origins_are_unambiguous() -> None:
    assert log_origin("demo", PartyName("north")) == "demo/north"
    assert log_origin("a/b", PartyName("c")) != log_origin("a", PartyName("b/c"))
