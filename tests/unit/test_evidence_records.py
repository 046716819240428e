"""A party's record: any event dropped, changed, added or moved is refused."""

from __future__ import annotations

import json

import pytest
import rfc8785

from tacit.errors import DecodeError, LedgerError
from tacit.evidence.records import Event, read_log
from tacit.ledger.log import Log
from tacit.ledger.merkle import Tree, leaf_hash
from tacit.ledger.note import Checkpoint, open_checkpoint
from tacit.ledger.record import LogRecord, write_record
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.types import Milliseconds

RUN, OTHER = "aa" * 32, "bb" * 32


def record() -> tuple[LogRecord, Checkpoint]:
    """Events of a run, interleaved with those of another and the party's own."""
    signer = Identity.generate(SeededEntropy("north"))
    store = MemoryStore()
    log = Log(store, "demo/north", signer)
    with store.transaction():
        for number in range(4):
            log.append({"type": "client.test.event", "run": RUN, "round": number}, Milliseconds(1))
            log.append({"type": "client.test.event", "run": OTHER}, Milliseconds(1))
        log.append({"type": "party.restarted"}, Milliseconds(1))
        log.append({"type": "client.run.closed", "run": RUN, "note": 'é\n"\x1f'}, Milliseconds(2))
        log.append({"type": "client.test.event", "run": OTHER}, Milliseconds(1))
    checkpoint = open_checkpoint(log.checkpoint(), {"demo/north": signer.public_key})
    return log.record(RUN), checkpoint


def test_honest_record_is_read_even_when_runs_interleave() -> None:
    data, checkpoint = record()
    log = read_log("north", RUN, data, checkpoint, sizes=[3])
    assert [event.index for event in log.events] == [0, 2, 4, 6, 9]
    assert [event.kind for event in log.events] == ["test.event"] * 4 + ["run.closed"]
    assert [event.kind for event in log.own] == ["party.restarted"]
    assert log.events[4].text("note") == 'é\n"\x1f'
    assert log.closed
    assert [event.index for event in log.in_round("test.event", 2)] == [4]
    assert (log.start, log.size, log.root_at(log.size)) == (0, 11, checkpoint.root)
    assert log.root_at(3) not in (None, checkpoint.root)


def refused(data: LogRecord, checkpoint: Checkpoint, run: str = RUN) -> None:
    with pytest.raises(LedgerError):
        read_log("north", run, data, checkpoint)


def test_any_dropped_or_changed_event_is_refused() -> None:
    data, checkpoint = record()
    lines = data.events.splitlines(keepends=True)
    forgeries = [b"".join(lines[:i] + lines[i + 1 :]) for i in range(len(lines))]
    forgeries += [b"".join([*lines[: i + 1], lines[i], *lines[i + 1 :]]) for i in range(len(lines))]
    forgeries += [b"".join([lines[1], lines[0], *lines[2:]]), b"", data.events[:-1]]
    forgeries += [data.events + b"\n", data.events.replace(b'"round":2', b'"round":3')]
    for forged in forgeries:
        refused(LogRecord(forged, data.proof), checkpoint)


@pytest.mark.parametrize("index", range(6))
def test_an_event_hidden_among_those_of_other_runs_is_missed(index: int) -> None:
    """All hashes are right; only the chain of the shown events, or its end, tells. One is the party's own."""
    data, checkpoint = record()
    lines = data.events.splitlines()
    proof = json.loads(data.proof)
    hidden = json.loads(lines[index])["seq"]
    proof["leaves"][str(hidden)] = leaf_hash(lines[index]).hex()
    rest = data.events.replace(lines[index] + b"\n", b"")
    forged = LogRecord(rest, rfc8785.dumps(proof))
    if index == len(lines) - 1:
        assert not read_log("north", RUN, forged, checkpoint).closed
    else:
        refused(forged, checkpoint)


def test_every_flipped_byte_is_refused() -> None:
    data, checkpoint = record()
    for position in range(0, len(data.events), 3):
        forged = bytearray(data.events)
        forged[position] ^= 1
        refused(LogRecord(bytes(forged), data.proof), checkpoint)


def test_a_record_under_another_checkpoint_or_run_is_refused() -> None:
    data, checkpoint = record()
    refused(data, Checkpoint("demo/north", checkpoint.size, checkpoint.root[::-1]))
    refused(data, checkpoint, OTHER)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "client.run.closed", "run": RUN, "seq": 7},
        {"type": "client.run.closed", "run": RUN, "seq": 0, "previous": 0},
        {"type": "client.run.closed", "run": RUN, "seq": 0, "time": 1.5},
        {"type": 7, "run": RUN, "seq": 0},
        {"run": RUN, "seq": 0},
        {"type": "client.run.closed", "run": None, "seq": 0},
        {"type": "client.run.closed", "seq": 0},
        ["type"],
    ],
)
def test_what_a_party_signs_must_be_an_event_of_the_run(event: object) -> None:
    """By a party that writes its log by other means."""
    signed(json.dumps(event, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "leaf", [b"", b"{}", b'{"run":1,"run":1}', b"\xff", b"[" * 5000, b'{"type": "x"}']
)
def test_what_a_party_signs_must_be_canonical(leaf: bytes) -> None:
    signed(leaf)


def signed(leaf: bytes) -> None:
    """A log of one leaf, properly signed: it is the leaf that must be refused."""
    tree = Tree()
    tree.append(leaf_hash(leaf))
    refused(write_record(tree, 0, [(0, leaf)]), Checkpoint("demo/north", 1, tree.root()))


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("text", 1),
        ("digest", "ab"),
        ("digests", ["ab"]),
        ("digests", "ab" * 32),
        ("number", -1),
        ("number", True),
        ("number", "1"),
        ("decimal", "NaN"),
        ("decimal", "-1"),
        ("decimal", "x"),
        ("decimal", "1e999"),
        ("decimal", "inf"),
        ("decimal", "-0.0"),
        ("decimal", "1"),
        ("decimal", "1.50"),
        ("decimal", "1E3"),
        ("decimal", "0.1" + "0" * 100_000 + "1"),
        ("decimal", "9" * 100_000),
        ("decimal", "\u0663.0"),
        ("decimal", 1),
        ("number", 2**53),
        ("flag", 1),
    ],
)
def test_fields_are_typed(read: str, value: object) -> None:
    for fields in ({"field": value}, {}):
        with pytest.raises(DecodeError):
            getattr(Event(0, "test", fields), read)("field")


@pytest.mark.parametrize("value", [0.0, 5e-324, 0.1, 7.999999999999999, 1e16, 1.7e308])
def test_a_decimal_is_what_parties_write(value: float) -> None:
    assert float(Event(0, "test", {"field": repr(value)}).decimal("field")) == value


@pytest.mark.parametrize("number", [2**53 - 1, 2**53, -(2**53), 10**30])
def test_an_integer_lies_below_2_to_the_53(number: int) -> None:
    leaf = f'{{"n":{number},"run":"{RUN}","seq":0,"type":"a.b"}}'.encode()
    record = LogRecord(leaf + b"\n", b'{"before":[],"leaves":{},"start":0}')
    checkpoint = Checkpoint("demo/north", 1, leaf_hash(leaf))
    if number == 2**53 - 1:
        assert len(read_log("north", RUN, record, checkpoint).events) == 1
        return
    with pytest.raises(LedgerError):
        read_log("north", RUN, record, checkpoint)


@pytest.mark.parametrize("seq", ["false", "0"])
def test_a_place_is_a_number(seq: str) -> None:
    leaf = f'{{"run":"{RUN}","seq":{seq},"type":"a.b"}}'.encode()
    record = LogRecord(leaf + b"\n", b'{"before":[],"leaves":{},"start":0}')
    checkpoint = Checkpoint("demo/north", 1, leaf_hash(leaf))
    if seq == "0":
        assert len(read_log("north", RUN, record, checkpoint).events) == 1
        return
    with pytest.raises(LedgerError):
        read_log("north", RUN, record, checkpoint)


def test_hidden_hashes_cannot_be_cut_elsewhere() -> None:
    """Two neighbours' hashes give the same root wherever the cut between them is."""
    leaf = f'{{"run":"{RUN}","seq":0,"type":"a.b"}}'.encode()
    tree = Tree()
    for data in (leaf, b"1", b"2", b"3"):
        tree.append(leaf_hash(data))
    checkpoint = Checkpoint("demo/north", 4, tree.root())
    pair = leaf_hash(b"2").hex() + leaf_hash(b"3").hex()
    for cut in (64, 62):
        leaves = {"1": leaf_hash(b"1").hex(), "2": pair[:cut], "3": pair[cut:]}
        proof = json.dumps(
            {"before": [], "leaves": leaves, "start": 0}, sort_keys=True, separators=(",", ":")
        )
        record = LogRecord(leaf + b"\n", proof.encode())
        if cut == 64:
            assert read_log("north", RUN, record, checkpoint).size == 4
        else:
            with pytest.raises(LedgerError):
                read_log("north", RUN, record, checkpoint)
