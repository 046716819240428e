"""Mask expansion: the AES-256-CTR keystream read as little-endian ring elements.

One pass over memory serves all keystreams of a vector: a block of the vector stays in a core's own
cache until every keystream has been added to it.

Reference: NIST SP 800-38A section 6.5 (CTR), appendix B.1 (128-bit big-endian counter).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from tacit.algebra.ring import Ring, RingVector, overlapping_words

__all__ = ["ALIGNMENT", "COUNTER_BYTES", "KEY_BYTES", "Stream", "add_keystreams", "expand"]

KEY_BYTES = 32
COUNTER_BYTES = 16
ALIGNMENT = 16
"""A range of a vector starts at a multiple of so many elements: a whole number of AES blocks."""

# Of the vector in memory. With the keystream of the block it fills half of a 512 KiB cache.
BLOCK_BYTES = 2**17
# Large enough to be pages that nobody has written: they all are one physical page, in the first cache.
ZEROS = memoryview(bytes(2**20))[:BLOCK_BYTES]
LITTLE_ENDIAN = sys.byteorder == "little"


class Stream(NamedTuple):
    """Which keystream: AES-256 key, uniform and secret, and first counter block.

    A pair of key and counter masks one vector only.
    """

    key: bytes
    counter: bytes

    def __repr__(self) -> str:
        return "Stream(...)"


def expand(key: bytes, counter: bytes, length: int, ring: Ring) -> RingVector:
    """The first ``length`` elements of one keystream: the plain definition, for tests and vectors.

    Args:
        key: 32 bytes, uniform and secret; a (key, counter) pair masks one vector only.
        counter: The first counter block, 16 bytes.
        length: Number of elements.
        ring: Width of an element.

    Raises:
        ValueError: A key or counter of another size.

    Guarantee: without ``key`` the output is indistinguishable from uniform, as far as AES-256 is a
    pseudorandom permutation. Output checked by ``tests/vectors/test_prg.py::test_nist_f_5_5``.
    """
    size = length * ring.item_bytes
    return ring.from_bytes(_encryptor(key, counter, 0).update(bytes(size)), length)


def add_keystreams(
    addend: RingVector | None,
    streams: Sequence[tuple[bytes, bytes]],
    ring: Ring,
    *,
    out: RingVector,
    start: int = 0,
) -> None:
    """Writes ``addend`` plus the sum of the keystreams to ``out``, in one pass over memory.

    Args:
        addend: A vector as long as ``out``, or ``out`` itself to add in place; None for zero.
        streams: Keys and first counter blocks; ``expand`` defines what each contributes.
        ring: Of all vectors.
        out: Overwritten. Memory that was written before is faster than fresh memory.
        start: Element of the keystreams that meets the first one of ``out``, a multiple of
            ``ALIGNMENT``. Disjoint ranges of one vector may be filled at the same time.

    Raises:
        TypeError: Not vectors over ``ring``.
        ValueError: Lengths differ, memory overlaps in part, a key or counter has another size, or
            ``start`` is negative or not a multiple of ``ALIGNMENT``. Nothing was written then.

    Scratch is one block, and a cipher state of about a kilobyte per stream, whatever the length.
    """
    _check(addend, ring, out, start)
    first_block = start * ring.item_bytes // COUNTER_BYTES
    updates = [_encryptor(key, counter, first_block).update_into for key, counter in streams]
    block = BLOCK_BYTES // out.itemsize
    # One byte more than a block: the last 24-bit element is read as four bytes.
    scratch: Any = np.zeros(block * ring.item_bytes + 1, dtype=np.uint8)
    keystream = _elements(scratch, ring, block)
    direct = addend is not out and ring.bits != 24 and LITTLE_ENDIAN and len(updates) > 0
    total: Any = out
    for begin in range(0, len(out), block):
        part = total[begin : begin + block]
        size = len(part)
        zeros, octets, elements = (
            ZEROS[: size * ring.item_bytes],
            scratch[: size * ring.item_bytes],
            keystream[:size],
        )
        rest = updates
        if direct:
            # The first keystream needs no addition, and fetches memory while AES is busy.
            updates[0](zeros, part.view(np.uint8))
            rest = updates[1:]
            if addend is not None:
                np.add(part, addend[begin : begin + size], out=part)
        elif addend is not out:
            part[:] = 0 if addend is None else addend[begin : begin + size]
        for update in rest:
            update(zeros, octets)
            np.add(part, elements, out=part)
        ring.reduce(part)


def _check(addend: RingVector | None, ring: Ring, out: RingVector, start: int) -> None:
    if start < 0 or start % ALIGNMENT:
        raise ValueError(f"a range starts at a multiple of {ALIGNMENT} elements, not at {start}")
    vectors = [out] if addend is None else [out, addend]
    for vector in vectors:
        if vector.dtype != ring.dtype or vector.ndim != 1:
            raise TypeError(f"a vector of {ring.bits} bits is {ring.dtype}[d], not {vector.dtype}")
        if len(vector) != len(out):
            raise ValueError(f"lengths differ: {len(out)} and {len(vector)}")
    if addend is not None and addend is not out and np.may_share_memory(addend, out):
        raise ValueError("the addend is the output itself or lies elsewhere")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("the output is contiguous and writeable")


def _encryptor(key: bytes, counter: bytes, skip: int) -> CipherContext:
    """The keystream from its block number ``skip`` on."""
    if len(key) != KEY_BYTES or len(counter) != COUNTER_BYTES:
        raise ValueError("the keystream needs a 32-byte key and a 16-byte counter block")
    first = (int.from_bytes(counter, "big") + skip) % 2**128
    mode = modes.CTR(first.to_bytes(COUNTER_BYTES, "big"))
    return Cipher(algorithms.AES256(key), mode).encryptor()


def _elements(scratch: NDArray[np.uint8], ring: Ring, block: int) -> NDArray[Any]:
    """The keystream in ``scratch`` as elements; at 24 bits right modulo 2^24 only."""
    if ring.bits == 24:
        return cast("NDArray[Any]", overlapping_words(scratch, block))
    return scratch[:-1].view(ring.dtype.newbyteorder("<"))
