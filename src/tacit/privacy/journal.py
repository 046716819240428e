"""The journal of a site's budget: what runs reserved, charged and settled, as a hash chain in a store.

Append-only. Every record holds the digest of the one before it, so that the last digest stands for all
of them; what a run holds and has spent is nothing but its records, read in order.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, get_args

from tacit.errors import VerificationError
from tacit.types import Digest, Milliseconds, Store

__all__ = ["WINDOW", "Account", "Entry", "Heads", "Journal", "Kind", "Record"]

SPACE = "budget"
HEAD = "head"
VERSION = 1
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
"""Equal to RFC 8785 for records: no floats, integers below 2^53, keys in ASCII."""

TYPES: dict[type, tuple[str, ...]] = {
    str: ("kind", "run", "population", "purpose", "unit", "epsilon", "delta", "previous"),
    int: ("version", "sequence", "round", "time"),
}
DOMAIN = b"tacit budget v1\x00"
EMPTY = Digest(bytes(32))
ZERO = Decimal(0)

WINDOW = 64
"""Reservations whose digests are shown to peers."""

Kind = Literal["reserve", "charge", "settle", "release"]


@dataclass(frozen=True, slots=True)
class Account:
    """Where the cost of a run is booked.

    Args:
        population: The people whom the data are about; data sets about the same people share one.
        purpose: What the run is for.
        unit: Unit of privacy; epsilons of different units do not add up.
    """

    population: str
    purpose: str
    unit: str


@dataclass(frozen=True, slots=True)
class Record:
    """What happened once.

    Args:
        kind: ``reserve``; ``charge``; ``settle``: closed after something left; ``release``: closed
            before anything left.
        run: Run id.
        account: Where it is booked.
        epsilon: Reserved; otherwise what the run has cost so far.
        delta: Likewise.
        round_number: The charged round; 0 before the first charge.
        time: When, as the site's clock said; nothing depends on it.
    """

    kind: Kind
    run: str
    account: Account
    epsilon: Decimal
    delta: Decimal
    round_number: int
    time: Milliseconds


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run reserved and spent.

    Args:
        run: Run id.
        account: Where it is booked.
        epsilon: Reserved.
        delta: Reserved; spent in full by the first charge.
        charged: Epsilon charged so far; after settlement, what the run spent.
        round_number: Last charged round, 0 for none.
        open: Whether the reservation is still open.
    """

    run: str
    account: Account
    epsilon: Decimal
    delta: Decimal
    charged: Decimal = ZERO
    round_number: int = 0
    open: bool = True

    @property
    def spent_delta(self) -> Decimal:
        """Delta that outputs of the run may have used."""
        return self.delta if self.charged or self.round_number else ZERO

    @property
    def counts(self) -> bool:
        """Whether the run has spent or holds anything."""
        return self.open or bool(self.charged) or bool(self.round_number)


@dataclass(frozen=True, slots=True)
class Heads:
    """What a peer need know of a journal to notice later that it went back.

    Args:
        count: Reservations ever made.
        digests: Of the journal as it was when each of the last ``WINDOW`` of them had been made,
            oldest first.
        released: Which of these were closed before anything left, by their number, ascending.
    """

    count: int
    digests: tuple[Digest, ...]
    released: tuple[int, ...] = ()

    def at(self, count: int) -> Digest | None:
        """The digest when ``count`` reservations had been made; None outside the window."""
        place = count - 1 - (self.count - len(self.digests))
        return self.digests[place] if 0 <= place < len(self.digests) else None


class Journal:
    """The records of one site's budget, and what follows from them.

    Reads what it has not read yet, from this process or another one, when ``refresh`` is called: all of
    it when opened or when the store went back, else only what is new.

    Args:
        store: Durable state of the site; the journal owns the space ``budget``.

    Attributes:
        entries: One entry a run, in the order of their reservations.

    Guarantee:
        A record that was changed, dropped, added or put elsewhere, and a head that is not its last
        digest, are found when the journal is opened
        (test: ``tests/unit/test_privacy_journal.py::test_damage_is_found_when_opened``). Not found here:
        an older state as a whole, consistent in itself; for that peers remember ``heads``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._head: bytes | None = None
        self._opened = False
        self._clear()

    def _clear(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._size = 0
        self._digest = EMPTY
        self._count = 0
        self._window: deque[tuple[Digest, str]] = deque(maxlen=WINDOW)

    @property
    def heads(self) -> Heads:
        """What to show to peers."""
        first = self._count - len(self._window) + 1
        released = (
            number
            for number, (_, run) in enumerate(self._window, first)
            if not self.entries[run].counts
        )
        return Heads(self._count, tuple(digest for digest, _ in self._window), tuple(released))

    def refresh(self) -> None:
        """Brings entries and heads to the store's state.

        Raises:
            VerificationError: The stored journal is damaged.
        """
        head = self._store.get(SPACE, HEAD)
        if self._opened and head == self._head:
            return
        size, last = _parse_head(head)
        if not (self._opened and self._extend(size, last)):
            self._opened = False
            self._read_all(size, last)
        self._head, self._opened = head, True

    def append(self, record: Record) -> None:
        """Adds a record inside the caller's transaction, after ``refresh`` in the same one.

        Raises:
            TransportError: The store refused the write.
        """
        data = _encode(record, self._size, self._digest)
        head = _head_text(self._size + 1, _digest(data))
        self._store.put(SPACE, _key(self._size), data)
        self._store.put(SPACE, HEAD, head)
        self._take(data)
        self._head = head

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        self.refresh()
        for key, value in self._store.items(SPACE):
            if key != HEAD:
                yield _decode(value)[0]

    def _extend(self, size: int, last: Digest) -> bool:
        """Reads the records that are new; whether they continue those that were read."""
        try:
            for index in range(self._size, size):
                self._take(self._store.get(SPACE, _key(index)) or b"")
        except VerificationError:
            return False
        return (self._size, self._digest) == (size, last)

    def _read_all(self, size: int, last: Digest) -> None:
        self._clear()
        stored = [(key, value) for key, value in self._store.items(SPACE) if key != HEAD]
        if [key for key, _ in stored] != [_key(index) for index in range(size)]:
            raise _damaged("it does not hold exactly the records that its head counts")
        for _, value in stored:
            self._take(value)
        if self._digest != last:
            raise _damaged("its records do not lead to its head")

    def _take(self, data: bytes) -> None:
        """Follows one record."""
        record, place = _decode(data)
        if place != (self._size, self._digest):
            raise _damaged(f"record {self._size} does not continue the one before it")
        self.entries[record.run] = _follow(self.entries.get(record.run), record)
        self._size += 1
        self._digest = _digest(data)
        if record.kind == "reserve":
            self._count += 1
            self._window.append((self._digest, record.run))


def _follow(entry: Entry | None, record: Record) -> Entry:
    """What a run holds after a record."""
    if record.kind == "reserve" and entry is None and not record.round_number:
        return Entry(record.run, record.account, record.epsilon, record.delta)
    if (
        record.kind != "reserve"
        and entry is not None
        and entry.open
        and entry.account == record.account
        and entry.charged <= record.epsilon <= entry.epsilon
        and entry.round_number <= record.round_number
    ):
        after = replace(
            entry,
            charged=record.epsilon,
            round_number=record.round_number,
            open=record.kind == "charge",
        )
        if after.spent_delta == record.delta and (record.kind == "release") == (not after.counts):
            return after
    raise _damaged(f"a record of run {record.run} does not follow from those before it")


def _encode(record: Record, index: int, previous: Digest) -> bytes:
    content = {
        "version": VERSION,
        "sequence": index,
        "previous": previous.hex(),
        "kind": record.kind,
        "run": record.run,
        "population": record.account.population,
        "purpose": record.account.purpose,
        "unit": record.account.unit,
        "epsilon": str(record.epsilon),
        "delta": str(record.delta),
        "round": record.round_number,
        "time": record.time,
    }
    return CANONICAL.encode(content).encode()


def _decode(data: bytes) -> tuple[Record, tuple[int, Digest]]:
    """A record and its place; strict: what ``_encode`` did not write stops everything."""
    try:
        content: dict[str, Any] = json.loads(data)
        if all(type(content[name]) is kind for kind, names in TYPES.items() for name in names):
            account = Account(content["population"], content["purpose"], content["unit"])
            record = Record(
                kind=content["kind"],
                run=content["run"],
                account=account,
                epsilon=Decimal(content["epsilon"]),
                delta=Decimal(content["delta"]),
                round_number=content["round"],
                time=content["time"],
            )
            place = (content["sequence"], Digest(bytes.fromhex(content["previous"])))
            amounts = _is_amount(record.epsilon) and _is_amount(record.delta)
            if amounts and record.kind in get_args(Kind) and _encode(record, *place) == data:
                return record, place
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        pass
    raise _damaged("a record is not one that this version wrote")


def _is_amount(value: Decimal) -> bool:
    """Whether it can have been a float: others would not add up exactly."""
    return value.is_finite() and value >= 0 and Decimal(repr(float(value))) == value


def _digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(DOMAIN + data).digest())


def _key(index: int) -> str:
    return f"{index:012d}"


def _head_text(size: int, last: Digest) -> bytes:
    return f"{size} {last.hex()}".encode()


def _parse_head(head: bytes | None) -> tuple[int, Digest]:
    """Size and last digest of the stored journal."""
    if head is None:
        return 0, EMPTY
    size, _, last = head.partition(b" ")
    try:
        parsed = int(size), Digest(bytes.fromhex(last.decode()))
    except ValueError as error:
        raise _damaged("its head is malformed") from error
    if _head_text(*parsed) != head:
        raise _damaged("its head is malformed")
    return parsed


def _damaged(what: str) -> VerificationError:
    return VerificationError(
        "budget.damaged",
        f"the budget's journal is damaged: {what}",
        remedy="retire the budget of these data: what was spent can no longer be told; an older copy of "
        "the state would forget some of it, and the other parties would notice",
    )
