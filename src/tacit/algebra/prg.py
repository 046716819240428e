"""Mask expansion: the AES-256-CTR keystream read as little-endian 32-bit ring elements.

Reference: NIST SP 800-38A section 6.5 (CTR), appendix B.1 (128-bit big-endian counter).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.algebra.ring import Ring, add_into, subtract_into

__all__ = [
    "COUNTER_BYTES",
    "KEY_BYTES",
    "add_keystream_into",
    "expand",
    "subtract_keystream_into",
]

KEY_BYTES = 32
COUNTER_BYTES = 16
# One block and the part of the vector that it meets stay in a core's own cache.
BLOCK_ELEMENTS = 16_384
ZEROS = memoryview(bytes(4 * BLOCK_ELEMENTS))


def expand(key: bytes, counter: bytes, length: int) -> Ring:
    """The first ``length`` elements of the keystream.

    Args:
        key: 32 bytes, uniform and secret; a (key, counter) pair masks one vector only.
        counter: The first counter block, 16 bytes.
        length: Number of elements.

    Returns:
        uint32[length].

    Guarantee: without ``key`` the output is indistinguishable from uniform, as far as AES-256 is a
    pseudorandom permutation. Output checked by ``tests/vectors/test_prg.py::test_nist_f_5_5``.
    """
    total = np.zeros(length, dtype=np.uint32)
    add_keystream_into(total, key, counter)
    return total


def add_keystream_into(total: Ring, key: bytes, counter: bytes) -> None:
    """Adds ``expand(key, counter, len(total))`` in place, with scratch of one block."""
    _combine(add_into, total, key, counter)


def subtract_keystream_into(total: Ring, key: bytes, counter: bytes) -> None:
    """Subtracts ``expand(key, counter, len(total))`` in place, with scratch of one block."""
    _combine(subtract_into, total, key, counter)


def _combine(
    operation: Callable[[Ring, Ring], None], total: Ring, key: bytes, counter: bytes
) -> None:
    start = 0
    for block in _keystream(key, counter, len(total)):
        operation(total[start : start + len(block)], block)
        start += len(block)


def _keystream(key: bytes, counter: bytes, length: int) -> Iterator[Ring]:
    """The keystream in blocks; each is overwritten by the next."""
    if len(key) != KEY_BYTES or len(counter) != COUNTER_BYTES:
        raise ValueError("the keystream needs a 32-byte key and a 16-byte counter block")
    stream = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
    scratch: Any = np.empty(BLOCK_ELEMENTS, dtype="<u4")
    for start in range(0, length, BLOCK_ELEMENTS):
        size = min(BLOCK_ELEMENTS, length - start)
        stream.update_into(ZEROS[: 4 * size], scratch[:size].view(np.uint8))
        yield scratch[:size].astype(np.uint32, copy=False)
