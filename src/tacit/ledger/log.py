"""The event log of one party: canonical events in a store, a Merkle tree over them, checkpoints.

Whatever releases information is appended first and acted on after the commit.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from tacit.errors import LedgerError, TacitError
from tacit.ledger.event import LINKS, Event, canonical, encode_event, run_of
from tacit.ledger.merkle import EMPTY_ROOT, Head, Tree, leaf_hash
from tacit.ledger.note import open_checkpoint, sign_checkpoint
from tacit.ledger.record import LogRecord, write_record
from tacit.types import Digest, Milliseconds, PartyName, Signer, Store

__all__ = ["Log", "log_origin"]

EVENTS = "ledger-events"
STATE = "ledger"
HEAD = "head"
CHECKPOINT = "checkpoint"
BATCH_DIGITS = 4
BATCH = 10**BATCH_DIGITS
"""Events whose keys begin alike: read at once when many are."""
FEW = 64


def log_origin(federation: str, party: PartyName) -> str:
    """The origin of a party's log, unique within its federation: ``federation/party``."""
    return f"{quote(federation, safe='')}/{quote(party, safe='')}"


class Log:
    """An append-only log over a ``Store``.

    Args:
        store: Durable state of the party; the log uses the spaces ``ledger`` and ``ledger-events``.
        origin: Name of the log in its checkpoints, see ``log_origin``; also the name of its key.
        signer: The party's identity.

    Raises:
        LedgerError: The stored events do not lead to the last signed checkpoint.

    Guarantee: Events that a stored checkpoint covers cannot be changed, dropped or reordered without
    the party's key or the next open failing
    (tests/unit/test_ledger_log.py::test_open_refuses_a_store_that_was_tampered_with). Against the
    party's own administrator only a checkpoint kept elsewhere helps.
    """

    def __init__(self, store: Store, origin: str, signer: Signer) -> None:
        self._store = store
        self._origin = origin
        self._signer = signer
        self._head: bytes | None = None
        self._tree = Tree()
        # Indices of each run's events; None has the party's own.
        self._runs: dict[str | None, array[int]] = {}
        self._catch_up()
        self._check_last_checkpoint(self._tree)

    def __len__(self) -> int:
        self._catch_up()
        return len(self._tree)

    def append(self, event: Event, now: Milliseconds) -> int:
        """Adds one event inside the caller's transaction; returns its index.

        Args:
            event: Its ``type`` and fields: text, integers below 2^53, booleans, lists and tables of
                these; names are ASCII. No personal data and no floats; a decimal travels as text.
                With a ``run`` it belongs to that run, without it to the party itself.
            now: The time to record. The log adds it as ``time``, the index as ``seq``, and as
                ``previous`` and ``own`` the indices of events before it, see ``_links``: an auditor
                sees that none is missing even if runs interleave.

        Raises:
            LocalProtocolError: Not such an event, or no transaction is open.
            TransportError: The store refused the write.
        """
        self._catch_up()
        index = len(self._tree)
        named = event.get("run")
        run = named if isinstance(named, str) else None
        last = {key: self._runs[key][-1] for key in (run, None) if self._runs.get(key)}
        data = encode_event(event, index, now, _links(run, last))
        self._store.put(EVENTS, _key(index), data)
        self._tree.append(leaf_hash(data))
        self._note_run(index, run)
        self._head = b"%d %b" % (index + 1, self._tree.root().hex().encode())
        self._store.put(STATE, HEAD, self._head)
        return index

    def events(self, run: str | None = None) -> list[tuple[int, bytes]]:
        """Index and canonical bytes of every event, or of those whose ``run`` field is ``run``."""
        self._catch_up()
        if run is None:
            return list(enumerate(self._read_range(0, len(self._tree))))
        return [(index, self._read(index)) for index in self._runs.get(run, ())]

    def head(self) -> Head:
        """Size and root of the log now, an open transaction's events included."""
        self._catch_up()
        return Head(len(self._tree), self._tree.root())

    def checkpoint(self) -> bytes:
        """Signs the current size and root, keeps the note in the store and returns it."""
        self._catch_up()
        size = len(self._tree)
        note = sign_checkpoint(
            self._origin, size, self._tree.root(), self._signer, name=self._origin
        )
        with self._store.transaction():
            self._store.put(STATE, CHECKPOINT, note)
        return note

    def inclusion_proof(self, index: int) -> tuple[Digest, ...]:
        """The proof of event ``index`` under the root at the current size."""
        self._catch_up()
        return self._tree.inclusion_proof(index)

    def consistency_proof(self, old: int) -> tuple[Digest, ...]:
        """What shows that the log at size ``old`` is a prefix of the log now."""
        self._catch_up()
        return self._tree.consistency_proof(old)

    def record(self, run: str) -> LogRecord:
        """The events of ``run`` and the party's own since it began, for whoever has the checkpoint.

        Of a run of which nothing was logged it is empty, and begins at the end of the log. Goes with a ``checkpoint()`` taken at the same size.
        """
        self._catch_up()
        own = self._runs.get(run, array("q"))
        start = own[0] if own else len(self._tree)
        others = self._runs.get(None, array("q"))
        shown = sorted(own + others[bisect_left(others, start) :])
        return write_record(self._tree, start, ((index, self._read(index)) for index in shown))

    def verify(self) -> Head:
        """Reads the whole log from its store again, and checks it against what was signed.

        Opening checks the same root; this also checks every event: that its bytes are canonical, and
        that it names its index and the events before it.

        Returns:
            The head to which the stored events lead.

        Raises:
            LedgerError: The store was tampered with.
        """
        size, root = _parse_head(self._store.get(STATE, HEAD), self._origin)
        tree, last = Tree(), dict[str | None, int]()
        for index, data in enumerate(self._read_range(0, size)):
            if not _is_event(index, data, last):
                raise _damaged(f"event {index} of log {self._origin} is not as the log writes it")
            tree.append(leaf_hash(data))
        if tree.root() != root:
            raise self._astray()
        self._check_last_checkpoint(tree)
        return Head(size, tree.root())

    def _forget(self) -> None:
        self._head = None
        self._tree = Tree()
        self._runs = {}

    def _catch_up(self) -> None:
        """Brings the tree to the store's state: on open, after a rollback, after another writer."""
        head = self._store.get(STATE, HEAD)
        if head == self._head:
            return
        size, root = _parse_head(head, self._origin)
        try:
            if not self._extend(size, root):
                self._forget()
                if not self._extend(size, root):
                    raise self._astray()
        except BaseException:
            self._forget()  # Half of a batch may be noted.
            raise
        self._head = head

    def _extend(self, size: int, root: bytes) -> bool:
        """Truncates or extends the tree to ``size``; whether it then has the root."""
        if len(self._tree) > size:
            self._tree.truncate(size)
            for indices in self._runs.values():
                del indices[bisect_left(indices, size) :]
        for start in range(len(self._tree), size, BATCH):
            leaves = bytearray()
            for index, data in enumerate(self._read_range(start, min(start + BATCH, size)), start):
                leaves += leaf_hash(data)
                try:
                    self._note_run(index, run_of(data))
                except (ValueError, RecursionError) as error:
                    raise _damaged(
                        f"event {index} of log {self._origin} is not an event"
                    ) from error
            self._tree.extend(leaves)
        return self._tree.root() == root

    def _note_run(self, index: int, run: object) -> None:
        self._runs.setdefault(run if isinstance(run, str) else None, array("q")).append(index)

    def _read(self, index: int) -> bytes:
        data = self._store.get(EVENTS, _key(index))
        if data is None:
            raise self._missing(index)
        return data

    def _read_range(self, start: int, end: int) -> Iterator[bytes]:
        """The events from ``start`` to ``end - 1``; many at a time if they are many."""
        if end - start < FEW:
            yield from map(self._read, range(start, end))
            return
        index = start
        for batch in range(start // BATCH, (end - 1) // BATCH + 1):
            for key, data in self._store.items(EVENTS, _key(batch * BATCH)[:-BATCH_DIGITS]):
                if index < end and key == _key(index):
                    yield data
                    index += 1
        if index < end:
            raise self._missing(index)

    def _missing(self, index: int) -> LedgerError:
        return _damaged(f"event {index} of log {self._origin} is missing")

    def _astray(self) -> LedgerError:
        return _damaged(f"the events of log {self._origin} do not lead to its head")

    def _check_last_checkpoint(self, tree: Tree) -> None:
        note = self._store.get(STATE, CHECKPOINT)
        if note is None:
            return
        try:
            last = open_checkpoint(note, {self._origin: self._signer.public_key})
        except TacitError as error:
            raise _damaged(f"the stored checkpoint of log {self._origin} is not its own") from error
        known = last.origin == self._origin and last.size <= len(tree)
        if not known or tree.root(last.size) != last.root:
            raise _damaged(
                f"log {self._origin} does not contain what it signed at size {last.size}"
            )


def _damaged(message: str) -> LedgerError:
    return LedgerError(
        "ledger.damaged",
        message,
        remedy="restore the party's state from a backup; never edit it",
    )


def _links(run: str | None, last: Mapping[str | None, int]) -> dict[str, int]:
    """What a new event says of those before it, so that none can be left out of a run's record.

    ``previous`` is the last event of its run, or for one of the party's own the last of these; ``own``,
    in a run, the last of the party's own if it came after ``previous``. The first of a run has neither.

    Args:
        run: The new event's run; None if it is the party's own.
        last: Index of the last event of the run, and under None of the party's own.
    """
    if run not in last:
        return {}
    links = {"previous": last[run]}
    if last.get(None, -1) > last[run]:
        links["own"] = last[None]
    return links


def _is_event(index: int, data: bytes, last: dict[str | None, int]) -> bool:
    """Whether the log wrote an event; ``last`` is each run's last index so far, and the party's own."""
    try:
        fields = json.loads(data)
        run, links = fields.get("run"), {key: fields[key] for key in LINKS if key in fields}
        if canonical(fields) != data or fields["seq"] != index or links != _links(run, last):
            return False
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return False
    last[run] = index
    return True


def _parse_head(head: bytes | None, origin: str) -> tuple[int, bytes]:
    """Size and root of the stored events."""
    if head is None:
        return 0, EMPTY_ROOT
    size, _, root = head.partition(b" ")
    try:
        if not size.isdigit():
            raise ValueError("size")
        return int(size), bytes.fromhex(root.decode())
    except ValueError as error:
        raise _damaged(f"the head of log {origin} is malformed") from error


def _key(index: int) -> str:
    return f"{index:012d}"
