"""Tricks with logs, checkpoints and the cosignatures under them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import rfc8785

from tacit.evidence import layout
from tacit.ledger.log import Log
from tacit.ledger.merkle import leaf_hash
from tacit.ledger.note import add_signatures, cosign, sign_checkpoint
from tacit.ledger.record import LogRecord
from tacit.testing.bundles import LEADER, SITES
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.testing.tampering_base import SyntheticBundle, Tampered, case, replaced
from tacit.trust.identity import Identity
from tacit.types import Milliseconds, PartyName

__all__: list[str] = []

EAST, NORTH = SITES[0], SITES[1]
Lines = list[bytes]


def _lines(bundle: SyntheticBundle, party: PartyName) -> Lines:
    return bundle.members[layout.events(party)].splitlines(keepends=True)


def _events(
    bundle: SyntheticBundle, change: Callable[[Lines], Lines], party: PartyName = EAST
) -> Tampered:
    """One party's events changed, all else sealed again by the leader."""
    lines = change(_lines(bundle, party))
    return bundle.resealed({layout.events(party): b"".join(lines)})


def _at(lines: Lines, kind: str) -> int:
    return next(i for i, line in enumerate(lines) if json.loads(line)["type"].endswith(kind))


def _field(kind: str, field: str, value: Any) -> Callable[[SyntheticBundle], Tampered]:
    """One field of one event with another value."""

    def change(lines: Lines) -> Lines:
        index = _at(lines, kind)
        event = {**json.loads(lines[index]), field: value}
        return [*lines[:index], rfc8785.dumps(event) + b"\n", *lines[index + 1 :]]

    return lambda bundle: _events(bundle, change)


for _kind, _name, _value in (
    ("policy.decided", "allowed", False),
    ("policy.decided", "type", "client.policy.denied"),
    ("upload.sent", "round", 9),
    ("upload.sent", "run", "00" * 32),
    ("run.settled", "epsilon", "0.1"),
    ("receipt.issued", "receipt", "11" * 32),
    ("run.closed", "seq", 3),
    ("run.closed", "time", 1),
    ("run.closed", "previous", 1),
    ("run.closed", "unknown", "field"),
):
    case(f"event-{_kind}-{_name}", "log-inclusion")(_field(_kind, _name, _value))


@case("event-added", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _events(bundle, lambda lines: [*lines, lines[-1]])


@case("event-dropped", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _events(bundle, lambda lines: lines[:3] + lines[4:])


@case("events-reordered", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _events(bundle, lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]])


@case("events-reversed", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _events(bundle, lambda lines: list(reversed(lines)))


@case("events-tail-dropped", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _events(bundle, lambda lines: lines[:-2])


@case("events-last-newline-dropped", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _events(bundle, lambda lines: [*lines[:-1], lines[-1][:-1]])


@case("events-of-another-party", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.events(EAST): bundle.members[layout.events(NORTH)]})


@case("event-not-canonical", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _events(bundle, lambda lines: [lines[0].replace(b",", b", ", 1), *lines[1:]])


@case("events-missing", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.events(EAST): None})


# --- proofs ----------------------------------------------------------------------------------------


def _proof(bundle: SyntheticBundle, change: Callable[[Any], None]) -> Tampered:
    name = layout.proof(EAST)
    record = json.loads(bundle.members[name])
    change(record)
    return bundle.resealed({name: rfc8785.dumps(record)})


@case("proof-missing", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.proof(EAST): None})


@case("proof-start", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _proof(bundle, lambda record: record.update(start=record["start"] + 1))


@case("proof-before", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _proof(bundle, lambda record: record["before"].append("00" * 32))


@case("proof-leaf-changed", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    def change(record: Any) -> None:
        record["leaves"][min(record["leaves"])] = "00" * 32

    return _proof(bundle, change)


@case("proof-leaf-dropped", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _proof(bundle, lambda record: record["leaves"].pop(min(record["leaves"])))


@case("proof-leaf-added", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _proof(bundle, lambda record: record["leaves"].update({"100000": "00" * 32}))


@case("proof-unknown-key", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _proof(bundle, lambda record: record.update(more=1))


@case("proof-not-canonical", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.proof(EAST): bundle.members[layout.proof(EAST)] + b"\n"})


def _hidden(bundle: SyntheticBundle, kind: str) -> Tampered:
    """An event of the run shown as if it were of another: its hash in its place."""
    lines = _lines(bundle, EAST)
    index = _at(lines, kind)
    line = lines[index]
    proof = json.loads(bundle.members[layout.proof(EAST)])
    proof["leaves"][str(json.loads(line)["seq"])] = leaf_hash(line[:-1]).hex()
    shown = b"".join([*lines[:index], *lines[index + 1 :]])
    return bundle.resealed({layout.events(EAST): shown, layout.proof(EAST): rfc8785.dumps(proof)})


@case("event-hidden-as-another-runs", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _hidden(bundle, "budget.charged")


@case("own-event-hidden-as-another-runs", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _hidden(bundle, "party.restarted")


@case("last-event-hidden-as-another-runs", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _hidden(bundle, "run.closed")


# --- checkpoints -----------------------------------------------------------------------------------


def _checkpoint(bundle: SyntheticBundle, note: bytes | None, party: PartyName = EAST) -> Tampered:
    return bundle.resealed({layout.checkpoint(party): note})


def _note(bundle: SyntheticBundle, party: PartyName = EAST) -> Lines:
    return bundle.members[layout.checkpoint(party)].splitlines(keepends=True)


def _marks(bundle: SyntheticBundle, party: PartyName = EAST) -> dict[str, bytes]:
    """Signature lines of a checkpoint, by name."""
    return {line.decode().split(" ")[1]: line for line in _note(bundle, party)[4:]}


def _with_marks(bundle: SyntheticBundle, marks: dict[str, bytes]) -> bytes:
    return b"".join([*_note(bundle)[:4], *(marks[name] for name in sorted(marks))])


for _line, _what in enumerate(("origin", "size", "root")):

    @case(f"checkpoint-{_what}", "log-inclusion")
    def _(bundle: SyntheticBundle, line: int = _line) -> Tampered:
        note = _note(bundle)
        last = note[line][-2:-1]
        note[line] = note[line][:-2] + (b"1" if last != b"1" else b"2") + b"\n"
        return _checkpoint(bundle, b"".join(note))


@case("checkpoint-missing", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _checkpoint(bundle, None)


@case("checkpoint-of-another-party", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _checkpoint(bundle, bundle.members[layout.checkpoint(NORTH)])


@case("checkpoint-without-its-owners-signature", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    marks = _marks(bundle)
    del marks[bundle.run.origin(EAST)]
    return _checkpoint(bundle, _with_marks(bundle, marks))


@case("checkpoint-signed-by-the-leader", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    run, log = bundle.run, bundle.run.logs[EAST]
    head, origin = log.head(), run.origin(EAST)
    note = sign_checkpoint(origin, head.size, head.root, run.identities[LEADER], name=origin)
    marks = {name: line.decode() for name, line in _marks(bundle).items() if name != origin}
    return _checkpoint(bundle, add_signatures(note, marks.values()))


@case("older-checkpoint-replayed", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _checkpoint(bundle, bundle.older[EAST][1])


@case("older-record-replayed", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    record, note = bundle.older[EAST]
    return bundle.resealed(
        {
            layout.events(EAST): record.events,
            layout.proof(EAST): record.proof,
            layout.checkpoint(EAST): note,
        }
    )


@case("every-older-record-replayed", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    changes: dict[str, bytes | None] = {}
    for party, (record, note) in bundle.older.items():
        changes[layout.events(party)] = record.events
        changes[layout.proof(party)] = record.proof
        changes[layout.checkpoint(party)] = note
    return bundle.resealed(changes)


# --- cosignatures ----------------------------------------------------------------------------------


@case("cosignatures-left-out", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    origin = bundle.run.origin(EAST)
    return _checkpoint(bundle, _with_marks(bundle, {origin: _marks(bundle)[origin]}))


@case("cosignatures-too-few", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    marks = _marks(bundle)
    for name in sorted(marks.keys() - {bundle.run.origin(EAST)})[:2]:
        del marks[name]
    return _checkpoint(bundle, _with_marks(bundle, marks))


@case("cosignature-twice", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    note = _note(bundle)
    return _checkpoint(bundle, b"".join([*note, note[-1]]))


@case("cosignatures-out-of-order", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    note = _note(bundle)
    return _checkpoint(bundle, b"".join([*note[:4], *reversed(note[4:])]))


@case("cosignature-forged-with-the-leaders-key", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    run, marks = bundle.run, _marks(bundle)
    origin = run.origin(NORTH)
    marks[origin] = cosign(b"".join(_note(bundle)), run.identities[LEADER], origin, 7).encode()
    return _checkpoint(bundle, _with_marks(bundle, marks))


@case("cosignature-with-another-time", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    run, marks = bundle.run, _marks(bundle)
    origin = run.origin(NORTH)
    text = marks[origin]
    # The base64 of key hash and time comes first: its eighth digit is within the time.
    place = text.rindex(b" ") + 12
    digit = b"B" if text[place : place + 1] != b"B" else b"C"
    marks[origin] = text[:place] + digit + text[place + 1 :]
    return _checkpoint(bundle, _with_marks(bundle, marks))


@case("cosignature-of-an-older-checkpoint", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    marks, origin = _marks(bundle), bundle.run.origin(NORTH)
    older = bundle.older[EAST][1].splitlines(keepends=True)[4:]
    marks[origin] = next(line for line in older if line.decode().split(" ")[1] == origin)
    return _checkpoint(bundle, _with_marks(bundle, marks))


@case("cosignature-of-another-log", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    marks, origin = _marks(bundle), bundle.run.origin(SITES[2])
    marks[origin] = _marks(bundle, NORTH)[origin]
    return _checkpoint(bundle, _with_marks(bundle, marks))


@case("cosignature-by-a-stranger-counts-for-nothing", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    origin = bundle.run.origin(EAST)
    own = _with_marks(bundle, {origin: _marks(bundle)[origin]})
    strangers = (f"stranger-{number}" for number in range(4))
    lines = [cosign(own, Identity.generate(SeededEntropy(name)), name, 7) for name in strangers]
    return _checkpoint(bundle, add_signatures(own, lines))


# --- a leader that rewrites its own log ---------------------------------------------------------------


def _rewritten(
    bundle: SyntheticBundle, change: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> tuple[LogRecord, bytes]:
    """The leader's log, written again with other events, and its checkpoint."""
    run = bundle.run
    store = MemoryStore()
    log = Log(store, run.origin(LEADER), run.identities[LEADER])
    for _, data in run.logs[LEADER].events():
        event = json.loads(data)
        time = Milliseconds(event["time"])
        kept = change({k: v for k, v in event.items() if k not in ("seq", "time", "previous")})
        if kept is not None:
            with store.transaction():
                log.append(kept, time)
    return log.record(run.run.hex()), log.checkpoint()


def _leader(
    bundle: SyntheticBundle,
    change: Callable[[dict[str, Any]], dict[str, Any] | None],
    *,
    marks: bool = False,
) -> Tampered:
    record, note = _rewritten(bundle, change)
    if marks:
        own = bundle.run.origin(LEADER)
        old = [line.decode() for name, line in _marks(bundle, LEADER).items() if name != own]
        note = add_signatures(note, old)
    return bundle.resealed(
        {
            layout.events(LEADER): record.events,
            layout.proof(LEADER): record.proof,
            layout.checkpoint(LEADER): note,
        }
    )


def _last_round_forgotten(event: dict[str, Any]) -> dict[str, Any] | None:
    return None if event.get("round") == 3 else event


def _one_more_event(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "note": "x"} if event["type"].endswith("run.closed") else event


def _first_event_changed(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "note": "x"} if event["type"].endswith("run.offered") else event


@case("leader-rewrites-its-log", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    return _leader(bundle, _one_more_event)


@case("leader-rewrites-its-log-and-keeps-the-cosignatures", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    return _leader(bundle, _one_more_event, marks=True)


@case("leader-rewrites-its-log-before-a-message", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _leader(bundle, _first_event_changed)


@case("leader-forgets-a-round", "witness")
def _(bundle: SyntheticBundle) -> Tampered:
    return _leader(bundle, _last_round_forgotten)


@case("leader-drops-its-tail", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    return _leader(
        bundle, lambda event: None if event["type"].endswith("leader.run.closed") else event
    )


@case("leader-shows-the-log-of-another-run", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    name, run = layout.events(LEADER), bundle.run.run.hex().encode()
    return bundle.resealed({name: replaced(bundle.members[name], run, b"00" * 32)})
