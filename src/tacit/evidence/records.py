"""Reading a party's log from a bundle: events, their proofs, their order, and nothing left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from tacit.errors import DecodeError, LedgerError
from tacit.evidence.head import HEX_DIGEST
from tacit.ledger.merkle import leaf_hash, verify_inclusion
from tacit.ledger.note import Checkpoint

__all__ = ["Event", "PartyLog", "read_log"]

ROLES = ("client.", "helper.", "leader.")
PREFIX = '{"event":'
TAIL = re.compile(
    r',"index":(?P<index>0|[1-9][0-9]{0,17}),"proof":\[(?P<proof>(?:"[0-9a-f]{64}"(?:,(?=")|(?=\])))*)\]\}'
)
NODE = re.compile("[0-9a-f]{64}")
DECODER = json.JSONDecoder()
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
# Equal to RFC 8785 for what a log accepts: no floats, integers below 2^53, text without surrogates.


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its index in the party's log, its kind without the role, and its fields."""

    index: int
    kind: str
    fields: Mapping[str, Any]

    @property
    def role(self) -> str:
        """The role in which the party logged it."""
        kind = str(self.fields.get("type", ""))
        prefixed = next((role[:-1] for role in ROLES if kind.startswith(role)), "")
        return str(self.fields.get("role", prefixed))

    def text(self, name: str) -> str:
        """A text field.

        Raises:
            DecodeError: It is missing or not text.
        """
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise self._wrong(name)
        return value

    def digest(self, name: str) -> bytes:
        """A digest, written as 64 hexadecimal digits.

        Raises:
            DecodeError: Anything else.
        """
        value = self.text(name)
        if HEX_DIGEST.fullmatch(value) is None:
            raise self._wrong(name)
        return bytes.fromhex(value)

    def digests(self, name: str) -> tuple[bytes, ...]:
        """A list of digests.

        Raises:
            DecodeError: Anything else.
        """
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(
            isinstance(item, str) and HEX_DIGEST.fullmatch(item) for item in value
        ):
            raise self._wrong(name)
        return tuple(bytes.fromhex(item) for item in value)

    def number(self, name: str) -> int:
        """A non-negative integer.

        Raises:
            DecodeError: Anything else.
        """
        value = self.fields.get(name)
        if type(value) is not int or value < 0:
            raise self._wrong(name)
        return value

    def decimal(self, name: str) -> Decimal:
        """A finite, non-negative number, written as text.

        Raises:
            DecodeError: Anything else.
        """
        try:
            value = Decimal(self.text(name))
        except InvalidOperation as error:
            raise self._wrong(name) from error
        if not value.is_finite() or value < 0:
            raise self._wrong(name)
        return value

    def flag(self, name: str) -> bool:
        """A boolean.

        Raises:
            DecodeError: Anything else.
        """
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name)
        return value

    def _wrong(self, name: str) -> DecodeError:
        return DecodeError(
            "evidence.event", f"event {self.index} ({self.kind}) has no valid field '{name}'"
        )


class PartyLog:
    """The events of one run at one party, proven to be all of them up to the last."""

    def __init__(self, party: str, events: Sequence[Event]) -> None:
        self.party = party
        self.events = tuple(events)
        self._by_kind: dict[str, list[Event]] = {}
        self._by_round: dict[tuple[str, int], list[Event]] = {}
        for event in events:
            self._by_kind.setdefault(event.kind, []).append(event)
            number = event.fields.get("round")
            if type(number) is int:
                self._by_round.setdefault((event.kind, number), []).append(event)

    def of(self, kind: str) -> list[Event]:
        """The events of this kind, in order."""
        return self._by_kind.get(kind, [])

    def in_round(self, kind: str, number: int) -> list[Event]:
        """The events of this kind that name this round, in order."""
        return self._by_round.get((kind, number), [])

    @property
    def closed(self) -> bool:
        """Whether the party closed the run, so that nothing can follow."""
        return bool(self.of("run.closed"))


def read_log(party: str, run: str, data: bytes, checkpoint: Checkpoint) -> PartyLog:
    """Reads what ``Log.record`` wrote, under a checkpoint that was verified.

    Every event must stand under the checkpoint's root, belong to ``run``, and name the run's event
    before it: the first names none, so none is missing from the first to the last.

    Raises:
        LedgerError: It is not so.

    Guarantee: Against a leader that collects the logs: no event of the run up to the last shown was
    changed, added, dropped or reordered since its party signed
    (tests/unit/test_evidence_records.py::test_any_dropped_or_changed_event_is_refused).
    """
    events: list[Event] = []
    for line in data.split(b"\n")[:-1]:
        event = _read_line(party, line, checkpoint)
        expected = events[-1].index if events else None
        if event.fields.get("run") != run or event.fields.get("seq") != event.index:
            raise _bad(party, f"event {event.index} belongs elsewhere")
        if event.fields.get("previous") != expected:
            raise _bad(party, f"an event is missing before event {event.index}")
        events.append(event)
    if not events or not data.endswith(b"\n"):
        raise _bad(party, "there are no events, or the last is cut off")
    return PartyLog(party, events)


def _read_line(party: str, line: bytes, checkpoint: Checkpoint) -> Event:
    """One line ``{"event":{...},"index":0,"proof":["hex",...]}``; the event's own bytes are the leaf."""
    try:
        text = line.decode("utf-8")
        if not text.startswith(PREFIX):
            raise ValueError("prefix")
        fields, end = DECODER.raw_decode(text, len(PREFIX))
        leaf, tail = text[len(PREFIX) : end], TAIL.fullmatch(text, end)
        if tail is None or CANONICAL.encode(fields) != leaf:
            raise ValueError("not canonical")
        index = int(tail["index"])
        nodes = [bytes.fromhex(node) for node in NODE.findall(tail["proof"])]
        kind = fields["type"]
        if not isinstance(kind, str):
            raise ValueError("type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad(party, "a line is not an event with its proof") from error
    try:
        verify_inclusion(leaf_hash(leaf.encode()), index, checkpoint.size, nodes, checkpoint.root)
    except LedgerError as error:
        raise _bad(party, f"event {index} is not under the signed checkpoint") from error
    return Event(index, _without_role(kind), fields)


def _without_role(kind: str) -> str:
    """``client.run.closed`` -> ``run.closed``: who spoke is clear from the kind and the log."""
    for role in ROLES:
        rest = kind.removeprefix(role)
        if rest != kind and "." in rest:
            return rest
    return kind


def _bad(party: str, message: str) -> LedgerError:
    return LedgerError("evidence.log", f"log of {party}: {message}")
