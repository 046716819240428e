"""Append-only Merkle trees with inclusion and consistency proofs.

Leaves and inner nodes are hashed with different prefixes, so that neither can be taken for the other.

Reference: RFC 6962 section 2.1 and RFC 9162 section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from tacit.errors import LedgerError, LocalProtocolError
from tacit.types import Digest

__all__ = [
    "EMPTY_ROOT",
    "CompactRange",
    "Head",
    "Tree",
    "leaf_hash",
    "verify_consistency",
    "verify_inclusion",
]

LEAF = b"\x00"
NODE = b"\x01"
SIZE = 32
PAIR = 2 * SIZE

EMPTY_ROOT = Digest(sha256(b"").digest())
"""Root of the tree without leaves."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a log holds: its number of leaves, and the root over them."""

    size: int
    root: Digest


def leaf_hash(data: bytes) -> Digest:
    """Hash of one leaf, SHA-256(0x00 || data)."""
    return Digest(sha256(LEAF + data).digest())


def _node_hash(left: bytes, right: bytes) -> Digest:
    return Digest(sha256(NODE + left + right).digest())


class Tree:
    """A Merkle tree in memory: keeps the hash of every complete subtree, 64 bytes a leaf.

    Guarantee: Roots and proofs equal those of RFC 9162's recursive definitions at every size
    (tests/property/test_ledger_merkle.py::test_matches_the_recursive_definitions).

    Reference: RFC 9162 sections 2.1.1, 2.1.3.1 and 2.1.4.1.
    """

    def __init__(self) -> None:
        # The i-th hash in _levels[k] is that of leaves i * 2^k to (i + 1) * 2^k - 1.
        self._levels = [bytearray()]

    def __len__(self) -> int:
        return len(self._levels[0]) // SIZE

    def append(self, leaf: Digest) -> int:
        """Adds a leaf hash; returns its index."""
        self.extend(leaf)
        return len(self) - 1

    def extend(self, leaves: bytes | bytearray) -> None:
        """Adds leaf hashes, which follow each other without a gap."""
        levels = self._levels
        levels[0] += leaves
        for level, nodes in enumerate(levels):
            if len(nodes) < PAIR:
                return
            if level + 1 == len(levels):
                levels.append(bytearray())
            above = levels[level + 1]
            pairs = range(2 * len(above), len(nodes) - len(nodes) % PAIR, PAIR)
            if not pairs:
                return
            above += b"".join([sha256(NODE + nodes[at : at + PAIR]).digest() for at in pairs])

    def truncate(self, size: int) -> None:
        """Drops every leaf from index ``size`` on.

        Raises:
            LocalProtocolError: The tree has fewer leaves.
        """
        self._check_size(size)
        for level, nodes in enumerate(self._levels):
            del nodes[(size >> level) * SIZE :]

    def root(self, size: int | None = None) -> Digest:
        """The root over the first ``size`` leaves, by default all.

        Raises:
            LocalProtocolError: The tree has fewer leaves.
        """
        size = self._check_size(len(self) if size is None else size)
        return self._subtree(0, size)

    def leaf(self, index: int) -> Digest:
        """The hash of leaf ``index``.

        Raises:
            LocalProtocolError: No such leaf.
        """
        if not 0 <= index < len(self):
            raise LocalProtocolError("ledger.index", f"no leaf {index} in a tree of {len(self)}")
        return self._node(0, index)

    def peaks(self, size: int) -> tuple[Digest, ...]:
        """Hashes of the complete subtrees that make up the first ``size`` leaves, largest first.

        Raises:
            LocalProtocolError: The tree has fewer leaves.
        """
        return tuple(self._peaks(0, self._check_size(size)))

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[Digest, ...]:
        """The siblings from leaf ``index`` up to the root over ``size`` leaves, lowest first.

        Raises:
            LocalProtocolError: No such leaf or size.
        """
        size = self._check_size(len(self) if size is None else size)
        if not 0 <= index < size:
            raise LocalProtocolError("ledger.index", f"no leaf {index} in a tree of {size}")
        path: list[Digest] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency_proof(self, old: int, size: int | None = None) -> tuple[Digest, ...]:
        """What shows that the tree of ``old`` leaves is a prefix of the tree of ``size`` leaves.

        Raises:
            LocalProtocolError: No such sizes.
        """
        size = self._check_size(len(self) if size is None else size)
        if not 0 <= old <= size:
            raise LocalProtocolError("ledger.size", f"no prefix of {old} in a tree of {size}")
        if old in (0, size):
            return ()
        path: list[Digest] = []
        start, end, whole = 0, size, True
        while end != old:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._subtree(start, end))
        return tuple(reversed(path))

    def _subtree(self, start: int, end: int) -> Digest:
        """Hash of leaves ``start`` to ``end - 1``; ``start`` is a multiple of the next power of two."""
        return _fold(self._peaks(start, end))

    def _peaks(self, start: int, end: int) -> list[Digest]:
        """The complete subtrees of such leaves, largest first."""
        peaks, width = [], end - start
        while width:
            level = width.bit_length() - 1
            peaks.append(self._node(level, start >> level))
            start += 1 << level
            width -= 1 << level
        return peaks

    def _node(self, level: int, index: int) -> Digest:
        return Digest(bytes(self._levels[level][index * SIZE : (index + 1) * SIZE]))

    def _check_size(self, size: int) -> int:
        if not 0 <= size <= len(self):
            raise LocalProtocolError("ledger.size", f"no size {size} in a tree of {len(self)}")
        return size


class CompactRange:
    """The first leaves of a tree, of which only the hashes of complete subtrees are kept.

    Args:
        size: How many leaves there are.
        peaks: The hashes, as ``Tree.peaks`` gives them.

    Raises:
        LedgerError: There cannot be so many subtrees in ``size`` leaves.

    Reference: RFC 9162 section 2.1.2, whose stack this is.
    """

    def __init__(self, size: int = 0, peaks: Sequence[Digest] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != SIZE for peak in peaks):
            raise LedgerError("ledger.peaks", f"{len(peaks)} hashes cannot make up {size} leaves")
        self._size = size
        self._peaks = list(peaks)

    def append(self, leaf: Digest) -> None:
        """Adds a leaf hash."""
        node, size = leaf, self._size
        while size & 1:
            node = _node_hash(self._peaks.pop(), node)
            size >>= 1
        self._peaks.append(node)
        self._size += 1

    def root(self) -> Digest:
        """The root over all leaves so far."""
        return _fold(self._peaks)


def _fold(peaks: Sequence[Digest]) -> Digest:
    """The root over complete subtrees, largest first."""
    if not peaks:
        return EMPTY_ROOT
    node = peaks[-1]
    for peak in peaks[-2::-1]:
        node = _node_hash(peak, node)
    return node


def _split(width: int) -> int:
    """The largest power of two below ``width``, at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Checks that ``leaf`` (a leaf hash) is number ``index`` of the ``size`` leaves under ``root``.

    Raises:
        LedgerError: It is not, or the proof does not show it.

    Guarantee: Against anyone who cannot find a SHA-256 collision: with size and root from one signed
    checkpoint, a proof exists for no other leaf at ``index``
    (tests/property/test_ledger_merkle.py::test_no_other_inclusion_is_accepted).

    Reference: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise LedgerError("ledger.inclusion", f"leaf {index} is outside a tree of {size}")
    position, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0 or len(sibling) != SIZE:
            raise LedgerError("ledger.inclusion", f"the proof of leaf {index} is malformed")
        if position & 1 or position == last:
            node = _node_hash(sibling, node)
            position, last = _skip_right_edge(position, last)
        else:
            node = _node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or node != root:
        raise LedgerError("ledger.inclusion", f"leaf {index} is not under the signed root")


def _skip_right_edge(position: int, last: int) -> tuple[int, int]:
    """Climbs while the node has no right sibling."""
    while not position & 1 and position:
        position, last = position >> 1, last >> 1
    return position, last


def verify_consistency(
    old: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """Checks that the ``old`` leaves under ``old_root`` are the first of the ``size`` under ``root``.

    Raises:
        LedgerError: They are not, or the proof does not show it.

    Guarantee: Against anyone who cannot find a SHA-256 collision, a log that rewrote or dropped an
    event has no proof (tests/property/test_ledger_merkle.py::test_no_rewritten_log_is_consistent).

    Reference: RFC 9162 section 2.1.4.2; the empty tree is a prefix of every tree.
    """
    if not 0 <= old <= size:
        raise LedgerError("ledger.consistency", f"a log of {size} cannot extend one of {old}")
    if old in (0, size):
        known = EMPTY_ROOT if old == 0 else root
        if proof or old_root != known:
            raise LedgerError("ledger.consistency", f"the logs of {old} and {size} differ")
        return
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path or any(len(sibling) != SIZE for sibling in path):
        raise LedgerError("ledger.consistency", "the consistency proof is malformed")
    position, last = old - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise LedgerError("ledger.consistency", "the consistency proof is too long")
        if position & 1 or position == last:
            first, second = _node_hash(sibling, first), _node_hash(sibling, second)
            position, last = _skip_right_edge(position, last)
        else:
            second = _node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or first != old_root or second != root:
        raise LedgerError("ledger.consistency", f"the logs of {old} and {size} leaves differ")
