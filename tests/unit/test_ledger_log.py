"""The event log: canonical events, rollback, restart, and a store that was tampered with."""

from __future__ import annotations

import hashlib
import json

import pytest

from tacit.errors import LedgerError, LocalProtocolError, TransportError
from tacit.ledger.log import BATCH, EVENTS, Log, log_origin
from tacit.ledger.merkle import Tree, leaf_hash, verify_consistency
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


def test_record_holds_the_run_and_the_partys_own_events_since_it_began() -> None:
    store = MemoryStore()
    log = new_log(store)
    with store.transaction():
        for run in (None, "b", "a", None, "b", "a", None):
            log.append({"type": "test.event", **({"run": run} if run else {})}, NOW)
    events = dict(log.events())
    first_two = hashlib.sha256(b"\x01" + leaf_hash(events[0]) + leaf_hash(events[1]))
    record = log.record("a")
    assert record.events == b"".join(events[index] + b"\n" for index in (2, 3, 5, 6))
    assert json.loads(record.proof) == {
        "before": [first_two.hexdigest()],
        "leaves": {"4": leaf_hash(events[4]).hex()},
        "start": 2,
    }


def test_a_rolled_back_event_never_was() -> None:
    store, log = filled(5)
    before = log.checkpoint()
    events = log.events("a")
    with pytest.raises(RuntimeError), store.transaction():
        log.append({"type": "test.lost", "run": "a"}, NOW)
        log.append({"type": "test.lost"}, NOW)
        raise RuntimeError
    assert len(log) == 5
    assert log.events("a") == events
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


def test_verify_reads_the_store_again() -> None:
    store, log = filled(5)
    assert log.verify() == log.head()
    log.checkpoint()
    assert log.verify() == log.head()
    event = store.get("ledger-events", f"{2:012d}")
    forge(store, lambda store: store.put("ledger-events", f"{2:012d}", b"{}"))
    # What is in memory does not notice.
    assert len(log) == 5
    with pytest.raises(LedgerError):
        log.verify()
    forge(store, lambda store: store.put("ledger-events", f"{2:012d}", event))
    assert log.verify() == log.head()


@pytest.mark.parametrize(
    "data",
    [
        b'{"run":"a","seq":3,"time":1,"type":"test"}',
        b'{"previous":1,"run":"a","seq":2,"time":1,"type":"test"}',
        b'{"previous":0,"run":"b","seq":2,"time":1,"type":"test"}',
        b'{"previous":0,"run":"a","time":1,"type":"test"}',
        b'{"previous":0,"run":"a","seq":2,"time":1, "type":"test"}',
        b'{"previous":0,"run":"a","seq":2,"time":1,"type":"test"',
        b'{"previous":0,"run":["a"],"seq":2,"time":1,"type":"test"}',
        b"[2]",
        b"2",
    ],
)
def test_verify_refuses_events_that_the_log_did_not_write(data: bytes) -> None:
    """Even if whoever wrote them computed the head anew; a checkpoint is not needed."""
    store, log = filled(3)
    tree = Tree()
    for leaf in (*(data for _, data in log.events()[:2]), data):
        tree.append(leaf_hash(leaf))
    head = b"3 " + tree.root().hex().encode()

    def change(store: MemoryStore) -> None:
        store.put("ledger-events", f"{2:012d}", data)
        store.put("ledger", "head", head)

    with pytest.raises(LedgerError):
        new_log(forge(store, change)).verify()


def test_verify_compares_with_the_head_and_with_the_checkpoint() -> None:
    """An event that looks as if the log had written it is still another one."""
    other = b'{"number":9,"run":"b","seq":1,"time":1,"type":"test.event"}'
    store, log = filled(2)
    tree = Tree()
    for data in (log.events()[0][1], other):
        tree.append(leaf_hash(data))
    forge(store, lambda store: store.put("ledger-events", f"{1:012d}", other))
    with pytest.raises(LedgerError):
        log.verify()
    head = b"2 " + tree.root().hex().encode()
    assert new_log(forge(store.crash(), lambda store: store.put("ledger", "head", head))).verify()
    store, log = filled(2)
    log.checkpoint()
    forge(store, lambda store: store.put("ledger-events", f"{1:012d}", other))
    forge(store, lambda store: store.put("ledger", "head", head))
    with pytest.raises(LedgerError):
        log.verify()


def test_a_long_log_opens_in_batches() -> None:
    count = 2 * BATCH + 5
    store, log = filled(count)
    log.checkpoint()
    opened = new_log(store)
    assert opened.head() == log.head() == log.verify()
    assert opened.events() == log.events()
    assert opened.events("b") == log.events("b")
    for index in (0, BATCH - 1, BATCH, 2 * BATCH, count - 1):
        with pytest.raises(LedgerError):
            new_log(
                forge(store.crash(), lambda store, at=index: store.delete(EVENTS, f"{at:012d}"))
            )


def test_a_store_that_fails_while_a_log_is_read_leaves_nothing_half_noted() -> None:
    store, log = filled(4)
    other = new_log(store)
    with store.transaction():
        for number in range(100):
            other.append({"type": "test.event", "run": "a", "number": number}, NOW)
    missing = store.get(EVENTS, f"{90:012d}")
    forge(store, lambda store: store.delete(EVENTS, f"{90:012d}"))
    for _ in range(2):
        with pytest.raises(LedgerError):
            log.record("a")
    forge(store, lambda store: store.put(EVENTS, f"{90:012d}", missing))
    assert log.events("a") == other.events("a")


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
        {"type": "test", "table": {"\u00e9": "x"}},
        {"type": "test", "run": 1},
        {"type": "test", "long": "x" * (2 * 1024 * 1024)},
        {"type": "test", "surrogate": "\ud800"},
        {"type": "test", "deep": [[[[[[[[[1]]]]]]]]]},
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
