"""The event log of one party: canonical events in a store, a Merkle tree over them, checkpoints.

Whatever releases information is appended first and acted on after the commit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import rfc8785

from tacit.errors import LedgerError, LocalProtocolError, TacitError
from tacit.ledger.merkle import EMPTY_ROOT, Tree, leaf_hash
from tacit.ledger.note import open_checkpoint, sign_checkpoint
from tacit.types import Digest, Milliseconds, PartyName, Signer, Store

__all__ = ["Log", "log_origin"]

EVENTS = "ledger-events"
STATE = "ledger"
HEAD = "head"
CHECKPOINT = "checkpoint"
EVENT_LIMIT = 2 * 1024 * 1024
MAX_INTEGER = 2**53 - 1
MAX_NESTING = 8

Event = Mapping[str, object]


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
        self._forget()
        self._catch_up()
        self._check_last_checkpoint()

    def __len__(self) -> int:
        self._catch_up()
        return len(self._tree)

    def append(self, event: Event, now: Milliseconds) -> int:
        """Adds one event inside the caller's transaction; returns its index.

        Args:
            event: Its ``type`` and fields: text, integers below 2^53, booleans, lists and tables of
                these. No personal data and no floats; a decimal travels as text.
            now: The time to record. The log adds it as ``time``, the index as ``seq`` and, after the
                first event of a ``run``, the index of the run's event before it as ``previous``: an
                auditor sees that none is missing even if runs interleave.

        Raises:
            LocalProtocolError: Not such an event, or no transaction is open.
            TransportError: The store refused the write.
        """
        self._catch_up()
        index = len(self._tree)
        run = event.get("run")
        own = self._runs.get(run, ()) if isinstance(run, str) else ()
        data = _encode(event, index, now, own[-1] if own else None)
        self._store.put(EVENTS, _key(index), data)
        self._take(index, data)
        self._head = b"%d %b" % (index + 1, self._tree.root().hex().encode())
        self._store.put(STATE, HEAD, self._head)
        return index

    def events(self, run: str | None = None) -> list[tuple[int, bytes]]:
        """Index and canonical bytes of every event, or of those whose ``run`` field is ``run``."""
        self._catch_up()
        indices = range(len(self._tree)) if run is None else self._runs.get(run, [])
        return [(index, self._read(index)) for index in indices]

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

    def record(self, run: str) -> bytes:
        """The events of ``run`` with their proofs at the current size.

        One line of canonical JSON each, ``{"event":{...},"index":0,"proof":["hex",...]}``; the bytes
        of ``event`` are the leaf. Goes with a ``checkpoint()`` taken at the same size.
        """
        return b"".join(
            _record_line(index, data, self._tree.inclusion_proof(index))
            for index, data in self.events(run)
        )

    def _forget(self) -> None:
        self._tree = Tree()
        self._runs: dict[str, list[int]] = {}

    def _catch_up(self) -> None:
        """Brings the tree to the store's state: on open, after a rollback, after another writer."""
        head = self._store.get(STATE, HEAD)
        if head == self._head:
            return
        size, root = _parse_head(head, self._origin)
        if not self._extend(size, root):
            self._forget()
            if not self._extend(size, root):
                raise _damaged(f"the events of log {self._origin} do not lead to its head")
        self._head = head

    def _extend(self, size: int, root: bytes) -> bool:
        """Truncates or extends the tree to ``size``; whether it then has the root."""
        if len(self._tree) > size:
            self._tree.truncate(size)
            for run, indices in self._runs.items():
                self._runs[run] = [index for index in indices if index < size]
        for index in range(len(self._tree), size):
            self._take(index, self._read(index))
        return self._tree.root() == root

    def _take(self, index: int, data: bytes) -> None:
        try:
            run = json.loads(data).get("run")
        except (ValueError, AttributeError, RecursionError) as error:
            raise _damaged(f"event {index} of log {self._origin} is not an event") from error
        if isinstance(run, str):
            self._runs.setdefault(run, []).append(index)
        self._tree.append(leaf_hash(data))

    def _read(self, index: int) -> bytes:
        data = self._store.get(EVENTS, _key(index))
        if data is None:
            raise _damaged(f"event {index} of log {self._origin} is missing")
        return data

    def _check_last_checkpoint(self) -> None:
        note = self._store.get(STATE, CHECKPOINT)
        if note is None:
            return
        try:
            last = open_checkpoint(note, {self._origin: self._signer.public_key})
        except TacitError as error:
            raise _damaged(f"the stored checkpoint of log {self._origin} is not its own") from error
        size = len(self._tree)
        if (
            last.origin != self._origin
            or last.size > size
            or self._tree.root(last.size) != last.root
        ):
            raise _damaged(
                f"log {self._origin} does not contain what it signed at size {last.size}"
            )


def _damaged(message: str) -> LedgerError:
    return LedgerError(
        "ledger.damaged",
        message,
        remedy="restore the party's state from a backup; never edit it",
    )


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


def _encode(event: Event, index: int, now: Milliseconds, previous: int | None) -> bytes:
    """The canonical bytes of an event, which are its leaf."""
    if not isinstance(event.get("type"), str) or event.keys() & {"seq", "time", "previous"}:
        raise LocalProtocolError(
            "ledger.event", "an event has a type and no seq, time or previous of its own"
        )
    whole = {**event, "seq": index, "time": int(now)}
    if previous is not None:
        whole["previous"] = previous
    _check_value(whole, 0)
    data = bytes(rfc8785.dumps(whole))  # type: ignore[arg-type]
    if len(data) > EVENT_LIMIT:
        raise LocalProtocolError("ledger.event", f"an event of {len(data)} bytes")
    return data


def _check_value(value: object, depth: int) -> None:
    if depth > MAX_NESTING:
        raise LocalProtocolError("ledger.event", "an event is too deeply nested")
    if isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise LocalProtocolError("ledger.event", "an integer of an event is too large")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_value(item, depth + 1)
    elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        for item in value.values():
            _check_value(item, depth + 1)
    else:
        raise LocalProtocolError(
            "ledger.event", f"a {type(value).__name__} cannot stand in an event"
        )


def _record_line(index: int, data: bytes, proof: Sequence[bytes]) -> bytes:
    hashes = ",".join(f'"{node.hex()}"' for node in proof)
    return b'{"event":%b,"index":%d,"proof":[%b]}\n' % (data, index, hashes.encode())
