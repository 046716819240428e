"""The record of a run among interleaved ones, and records that must not open."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tacit.errors import LedgerError, LocalProtocolError
from tacit.ledger.log import Log
from tacit.ledger.merkle import Tree, leaf_hash
from tacit.ledger.note import Checkpoint, open_checkpoint
from tacit.ledger.record import LogRecord, open_record
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.types import Milliseconds

ORIGIN = "demo/north"
SIGNER = Identity.generate(SeededEntropy("north"))

# Whose event it is, in the order of the log: of run a or b, or the party's own.
logs = st.lists(st.sampled_from(["a", "b", ""]), max_size=40)


def log_of(runs: list[str]) -> tuple[Log, Checkpoint]:
    store = MemoryStore()
    log = Log(store, ORIGIN, SIGNER)
    with store.transaction():
        for number, run in enumerate(runs):
            event = {"type": "test.event", "number": number, "text": 'é"\n\x1f'}
            log.append({**event, "run": run} if run else event, Milliseconds(number))
    return log, open_checkpoint(log.checkpoint(), {ORIGIN: SIGNER.public_key})


def tree_of(log: Log) -> Tree:
    tree = Tree()
    for _, data in log.events():
        tree.append(leaf_hash(data))
    return tree


@given(logs)
@settings(deadline=None)
def test_a_record_shows_the_run_and_the_partys_own_and_nothing_else(runs: list[str]) -> None:
    log, checkpoint = log_of(runs)
    start = runs.index("a") if "a" in runs else len(runs)
    record = log.record("a")
    opened = open_record(record, checkpoint)
    events = dict(log.events())
    shown = [index for index in range(start, len(runs)) if runs[index] != "b"]
    assert opened.events == tuple((index, events[index]) for index in shown)
    assert (opened.start, opened.size) == (start, len(runs))
    assert (
        record.proof
        == json.dumps(json.loads(record.proof), sort_keys=True, separators=(",", ":")).encode()
    )
    for index, data in events.items():
        assert (data in record.events) == (index in shown)


@given(logs)
@settings(deadline=None)
def test_roots_are_those_that_the_log_had(runs: list[str]) -> None:
    log, checkpoint = log_of(runs)
    opened = open_record(log.record("a"), checkpoint, range(len(runs) + 1))
    tree = tree_of(log)
    for size in range(len(runs) + 1):
        assert opened.root_at(size) == (tree.root(size) if size >= opened.start else None)
    with pytest.raises(LedgerError):
        opened.root_at(len(runs) + 1)


def test_a_root_that_was_not_asked_for_is_misuse() -> None:
    log, checkpoint = log_of(["a", "b", "a", "a"])
    opened = open_record(log.record("a"), checkpoint, [2, 99])
    assert opened.root_at(0) == tree_of(log).root(0)
    assert opened.root_at(2) == tree_of(log).root(2)
    assert opened.root_at(4) == checkpoint.root
    with pytest.raises(LocalProtocolError):
        opened.root_at(3)


def mutate_lines(draw: st.DataObject, events: bytes) -> bytes:
    lines = events.splitlines(keepends=True)
    at = draw.draw(st.integers(0, len(lines) - 1))
    to = draw.draw(st.integers(0, len(lines) - 1))
    flipped = bytearray(events)
    flipped[draw.draw(st.integers(0, len(events) - 1))] ^= draw.draw(st.integers(1, 255))
    moved = lines[:at] + lines[at + 1 :]
    moved.insert(to, lines[at])
    return draw.draw(
        st.sampled_from(
            [
                bytes(flipped),
                b"".join(lines[:at] + lines[at + 1 :]),
                b"".join([*lines[: at + 1], *lines[at:]]),
                b"".join(moved),
                events[:-1],
                events + b"\n",
                events + b"{}",
                b"\n" + events,
                b"".join([*lines[:at], b"{}\n", *lines[at:]]),
            ]
        )
    )


def mutate_proof(draw: st.DataObject, proof: bytes) -> bytes:
    fields = json.loads(proof)
    flipped = bytearray(proof)
    flipped[draw.draw(st.integers(0, len(proof) - 1))] ^= draw.draw(st.integers(1, 255))
    kind = draw.draw(st.sampled_from(["flip", "start", "before", "drop", "add", "index", "space"]))
    if kind == "start":
        fields["start"] = draw.draw(st.integers(-1, 41))
    elif kind == "before":
        fields["before"] = fields["before"][1:] if fields["before"] else ["00" * 32]
    elif kind == "drop" and fields["leaves"]:
        fields["leaves"].popitem()
    elif kind == "add":
        fields["leaves"][str(draw.draw(st.integers(-1, 45)))] = "00" * 32
    elif kind == "index" and fields["leaves"]:
        index, node = fields["leaves"].popitem()
        fields["leaves"][draw.draw(st.sampled_from([f"0{index}", f"{index} ", "1", "99"]))] = node
    elif kind == "space":
        return json.dumps(fields, sort_keys=True).encode()
    else:
        return bytes(flipped)
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@given(logs, st.data())
@settings(deadline=None)
def test_no_mutated_record_opens(runs: list[str], draw: st.DataObject) -> None:
    assume("a" in runs)
    log, checkpoint = log_of(runs)
    record = log.record("a")
    if draw.draw(st.booleans()):
        forged = LogRecord(mutate_lines(draw, record.events), record.proof)
    else:
        forged = LogRecord(record.events, mutate_proof(draw, record.proof))
    assume(forged != record)
    with pytest.raises(LedgerError):
        open_record(forged, checkpoint)


@given(logs, st.integers(0, 39))
@settings(deadline=None)
def test_a_shown_event_may_not_hide_among_the_hashes_of_others_without_leaving_a_gap(
    runs: list[str], at: int
) -> None:
    """Such a record does open: that is why ``previous`` is in every event and must be followed."""
    assume(runs.count("a") > 1)
    log, checkpoint = log_of(runs)
    record = log.record("a")
    fields, lines = json.loads(record.proof), record.events.splitlines(keepends=True)
    own = [index for index, run in enumerate(runs) if run == "a"]
    victim = own[1 + at % (len(own) - 1)]
    shown = [index for index in range(own[0], len(runs)) if runs[index] != "b"]
    data = lines.pop(shown.index(victim))
    fields["leaves"][str(victim)] = leaf_hash(data[:-1]).hex()
    proof = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    opened = open_record(LogRecord(b"".join(lines), proof), checkpoint)
    events = [json.loads(data) for _, data in opened.events]
    named = {event[link] for event in events for link in ("previous", "own") if link in event}
    there = {event["seq"] for event in events}
    # Somebody names what is missing, unless nothing of the run comes after it.
    assert (victim in named - there) or victim >= own[-1]


@given(logs)
@settings(deadline=None)
def test_a_record_opens_under_its_own_checkpoint_only(runs: list[str]) -> None:
    log, checkpoint = log_of(runs)
    record = log.record("a")
    for size, root in (
        (checkpoint.size, checkpoint.root[::-1]),
        (checkpoint.size + 1, checkpoint.root),
        (2**62, checkpoint.root),
    ):
        with pytest.raises(LedgerError):
            open_record(record, Checkpoint(ORIGIN, size, root))


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        b"[]",
        b"{}",
        b'{"before":[],"leaves":{},"start":true}',
        b'{"before":[],"leaves":{},"start":0.0}',
        b'{"before":[],"leaves":[],"start":0}',
        b'{"before":[1],"leaves":{},"start":0}',
        b'{"before":["\xc3\xa9"],"leaves":{},"start":0}',
        b'{"before":[],"leaves":{},"leaves":{},"start":0}',
        b'{"before":[],"leaves":{},"more":1,"start":0}',
        b"[" * 100_000,
    ],
)
def test_malformed_proofs_are_refused(proof: bytes) -> None:
    with pytest.raises(LedgerError):
        open_record(LogRecord(b"", proof), Checkpoint(ORIGIN, 0, tree_of(log_of([])[0]).root()))
