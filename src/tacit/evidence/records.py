"""Reading a party's log from a bundle: events, their proof, their order, and nothing left out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tacit.errors import DecodeError, LedgerError
from tacit.evidence.head import HEX_DIGEST
from tacit.ledger.event import LINKS, MAX_INTEGER
from tacit.ledger.note import Checkpoint
from tacit.ledger.record import LogRecord, OpenedRecord, open_record
from tacit.types import Digest

__all__ = ["Event", "PartyLog", "read_log"]

ROLES = ("client.", "helper.", "leader.")


def _no_float(text: str) -> Any:
    raise ValueError(f"an event holds the float {text[:20]}")


DECODER = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float)
LONG = re.compile(rb"[0-9]{16}")
"""In every leaf with an integer of 2^53 or more, and in few others."""


def _short(text: str) -> int:
    value = int(text)
    if abs(value) > MAX_INTEGER:
        raise ValueError("an event holds an integer of 2^53 or more")
    return value


SHORT = json.JSONDecoder(parse_int=_short)
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

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts.

        Raises:
            DecodeError: Anything else.
        """
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name)
        return tuple(value)

    def number(self, name: str) -> int:
        """A non-negative integer below 2^53.

        Raises:
            DecodeError: Anything else.
        """
        value = self.fields.get(name)
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise self._wrong(name)
        return value

    def decimal(self, name: str) -> Decimal:
        """A finite, non-negative number, written as parties write it: the shortest text of a float.

        Raises:
            DecodeError: Anything else: another spelling, or a number that is no float.
        """
        text = self.text(name)
        try:
            value = float(text)
        except ValueError as error:
            raise self._wrong(name) from error
        if not math.isfinite(value) or math.copysign(1.0, value) < 0.0 or repr(value) != text:
            raise self._wrong(name)
        return Decimal(text)

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
    """The events of one run at one party, proven to be all of them up to the last.

    Args:
        party: Whose log.
        events: The run's events, in order.
        own: The party's own events since the run began, which belong to no run.
        opened: The record that they come from.
    """

    def __init__(
        self,
        party: str,
        events: Sequence[Event],
        own: Sequence[Event],
        opened: OpenedRecord,
    ) -> None:
        self.party = party
        self.events = tuple(events)
        self.own = tuple(own)
        self._opened = opened
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
    def start(self) -> int:
        """Index of the run's first event."""
        return self._opened.start

    @property
    def size(self) -> int:
        """Events of the whole log."""
        return self._opened.size

    def root_at(self, size: int) -> Digest | None:
        """The root of the log when it had ``size`` events; None from before the run began."""
        return self._opened.root_at(size)

    @property
    def closed(self) -> bool:
        """Whether the party closed the run, so that nothing can follow."""
        return bool(self.of("run.closed"))


def read_log(
    party: str, run: str, record: LogRecord, checkpoint: Checkpoint, sizes: Iterable[int] = ()
) -> PartyLog:
    """Reads a party's record of a run, under a checkpoint that was verified.

    Every event must stand under the checkpoint's root, belong to ``run`` or to the party itself, and
    name the run's event before it: the first names none, so none is missing from the first to the
    last.

    Args:
        party: Whose log.
        run: Run id in hexadecimal.
        record: What ``Log.record`` gave.
        checkpoint: Of the same size.
        sizes: Sizes of the log at which its root will be asked for.

    Raises:
        LedgerError: It is not so.

    Guarantee: Against a leader that collects the logs: no event of the run, and none of the party's own
    before it, was changed, added, dropped or reordered up to the run's last shown, since its party signed
    (tests/unit/test_evidence_records.py::test_any_dropped_or_changed_event_is_refused).
    """
    opened = open_record(record, checkpoint, sizes)
    events: list[Event] = []
    own: list[Event] = []
    for index, leaf in opened.events:
        event = _read_leaf(party, index, leaf)
        if type(event.fields.get("seq")) is not int or event.fields["seq"] != index:
            raise _bad(party, f"event {index} stands in another place than it says")
        if event.fields.get("run", run) != run:
            raise _bad(party, f"event {index} belongs to another run")
        mine = "run" in event.fields
        if not _follows(event, (events, own), opened.start):
            raise _bad(party, f"an event is missing before event {index}")
        (events if mine else own).append(event)
    if not events or events[0].index != opened.start:
        raise _bad(party, "there are no events, or the record does not begin with the run's first")
    return PartyLog(party, events, own, opened)


def _follows(event: Event, shown: tuple[list[Event], list[Event]], start: int) -> bool:
    """Whether an event names those shown before it, so that none is missing.

    In a run ``previous`` is the run's event before, and ``own`` the party's own last one if it came
    after that; the first of the run has neither. The party's own name the one before of these; the first
    that is shown may name one from before the run.
    """
    events, own = shown
    links = {name: event.fields[name] for name in LINKS if name in event.fields}
    if any(type(index) is not int for index in links.values()):
        return False
    expected: dict[str, int] = {}
    if "run" not in event.fields:
        if not own:
            return not links or (links.keys() == {"previous"} and 0 <= links["previous"] < start)
        expected["previous"] = own[-1].index
    elif events:
        expected["previous"] = events[-1].index
        if own and own[-1].index > events[-1].index:
            expected["own"] = own[-1].index
    return links == expected


def _read_leaf(party: str, index: int, leaf: bytes) -> Event:
    """One event: RFC 8785 JSON without floats."""
    try:
        text = leaf.decode("utf-8")
        fields = DECODER.decode(text)
        if LONG.search(leaf) is not None:
            SHORT.decode(text)
        if type(fields) is not dict or CANONICAL.encode(fields) != text:
            raise ValueError("not canonical")
        kind = fields["type"]
        if not isinstance(kind, str):
            raise ValueError("type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad(party, f"event {index} is not an event in its one form") from error
    return Event(index, _without_role(kind), fields)


def _without_role(kind: str) -> str:
    """``client.run.closed`` -> ``run.closed``: who spoke is clear from the kind and the log."""
    for role in ROLES:
        if kind.startswith(role) and "." in kind[len(role) :]:
            return kind[len(role) :]
    return kind


def _bad(party: str, message: str) -> LedgerError:
    return LedgerError("evidence.log", f"log of {party}: {message}")
