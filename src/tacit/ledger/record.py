"""The part of a log that belongs to one run, as it travels and lies in a bundle.

``events`` holds the run's events and the party's own, from the run's first event on: one line of
canonical JSON each, whose bytes without the newline are the leaf. ``proof`` holds what else leads to
the log's root: the hashes of the subtrees before the first event, and of the events of other runs::

    {"before":["hex",...],"leaves":{"17":"hex",...},"start":12}

To verify takes one pass over the leaves, whatever their number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tacit.errors import LedgerError, LocalProtocolError
from tacit.ledger.merkle import EMPTY_ROOT, CompactRange, Tree, leaf_hash
from tacit.ledger.note import Checkpoint
from tacit.types import Digest

__all__ = ["LogRecord", "OpenedRecord", "open_record", "write_record"]

NEWLINE = b"\n"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The events of a run and what leads from them to the root of their log."""

    events: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class OpenedRecord:
    """A record that leads to a signed root.

    Attributes:
        events: Index and bytes of the run's events and the party's own, in order.
        start: Index of the run's first event.
        size: Leaves of the log at the checkpoint.
        roots: Size -> root of the log when it had that size.
    """

    events: tuple[tuple[int, bytes], ...]
    start: int
    size: int
    roots: Mapping[int, Digest]

    def root_at(self, size: int) -> Digest | None:
        """The root of the log when it had ``size`` leaves; None before the run's first event.

        Raises:
            LedgerError: The log never had so many.
            LocalProtocolError: The record was opened without this size.
        """
        if size > self.size:
            raise LedgerError("ledger.size", f"a log of {self.size} never had {size} leaves")
        if size < self.start:
            return None
        if size not in self.roots:
            raise LocalProtocolError("ledger.size", f"the record was opened without size {size}")
        return self.roots[size]


def write_record(tree: Tree, start: int, events: Iterable[tuple[int, bytes]]) -> LogRecord:
    """The record of a run that began at index ``start``.

    Args:
        tree: The log's tree.
        start: Index of the first event; the size of the tree if there is none.
        events: Index and bytes of what to show from there on, in order.
    """
    shown = dict(events)
    hidden = {
        str(index): tree.leaf(index).hex()
        for index in range(start, len(tree))
        if index not in shown
    }
    before = [peak.hex() for peak in tree.peaks(start)]
    return LogRecord(
        events=b"".join(data + NEWLINE for data in shown.values()),
        proof=_canonical({"before": before, "leaves": hidden, "start": start}),
    )


def open_record(
    record: LogRecord, checkpoint: Checkpoint, sizes: Iterable[int] = ()
) -> OpenedRecord:
    """Opens what ``write_record`` wrote, under a checkpoint whose signature was verified.

    What the events say is not looked at: whoever reads them checks that each names its index
    (``seq``), and those shown before it (``previous``, ``own``), without which an
    event could hide among the hashes.

    Args:
        record: The record.
        checkpoint: The log's checkpoint at the size at which the record was made.
        sizes: For which earlier sizes of the log the root is asked for.

    Raises:
        LedgerError: It does not lead to the checkpoint's root, or is not in the one form that it has.

    Guarantee: Against anyone who cannot find a SHA-256 collision, the events returned are the log's at
    these indices, every index from the first to the last is accounted for, and a root returned is the
    one that the log had (tests/property/test_ledger_record.py::test_no_mutated_record_opens).

    Reference: RFC 9162 section 2.1.2.
    """
    start, before, leaves = _read_proof(record.proof)
    lines = _lines(record.events)
    if start + len(lines) + len(leaves) != checkpoint.size:
        raise _bad(f"it does not account for all of {checkpoint.size} leaves")
    tree = CompactRange(start, before)
    asked = {start, checkpoint.size, *sizes}
    roots = {start: tree.root()}
    events: list[tuple[int, bytes]] = []
    for index in range(start, checkpoint.size):
        leaf = leaves.get(index)
        if leaf is None:
            if len(events) == len(lines):
                raise _bad("it holds a hash of an event that is not the log's")
            data = lines[len(events)]
            events.append((index, data))
            leaf = leaf_hash(data)
        tree.append(leaf)
        if index + 1 in asked:
            roots[index + 1] = tree.root()
    if roots[checkpoint.size] != checkpoint.root:
        raise _bad("it does not lead to the signed root")
    return OpenedRecord(tuple(events), start, checkpoint.size, roots)


def _lines(events: bytes) -> list[bytes]:
    lines = events.split(NEWLINE)
    if lines.pop():
        raise _bad("its last event is cut off")
    return lines


def _read_proof(proof: bytes) -> tuple[int, list[Digest], dict[int, Digest]]:
    """First index, subtree hashes before it, and leaf hash by index."""
    try:
        fields = json.loads(proof)
        start: int = fields["start"]
        before = [_digest(node) for node in fields["before"]]
        leaves = {int(index): _digest(node) for index, node in fields["leaves"].items()}
        # The one form there is: no other key, number or digit, and no key twice.
        same = {
            "before": [node.hex() for node in before],
            "leaves": {str(index): node.hex() for index, node in leaves.items()},
            "start": start,
        }
        if type(start) is not int or start < 0 or _canonical(same) != proof:
            raise ValueError("form")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _bad("its proof is malformed") from error
    return start, before, leaves


def _digest(text: str) -> Digest:
    data = bytes.fromhex(text)
    if len(data) != len(EMPTY_ROOT):
        raise ValueError("length")
    return Digest(data)


def _canonical(fields: Mapping[str, object]) -> bytes:
    """RFC 8785 of ASCII text, integers, lists and tables."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _bad(message: str) -> LedgerError:
    return LedgerError("ledger.record", f"the record of a run does not open: {message}")
