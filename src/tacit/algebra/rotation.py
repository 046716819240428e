"""Randomised block-Hadamard rotation: spreads a vector evenly before it is rounded to few bits.

A block of 2^k elements is multiplied by public random signs and then by the orthonormal
Walsh-Hadamard matrix. Whatever the vector was, its elements are afterwards about as large as those of
a Gaussian vector of the same norm, so that a narrow ring wraps around with a probability that the
signs alone decide.

Reference: Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform", SIAM J. Comput. 39 (2009);
Suresh, Yu, Kumar and McMahan, "Distributed mean estimation with limited communication", ICML 2017,
section 3.
"""

from __future__ import annotations

import math

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from tacit.algebra.prg import COUNTER_BYTES, KEY_BYTES, add_keystreams
from tacit.algebra.ring import Ring

__all__ = ["padded_length", "rotate", "unrotate"]

BLOCK = 2**14
MAX_BLOCK = 2**20
SEED_BYTES = 32
PURPOSE = b"tacit rotation v1"
# Elements that all butterflies of a tile meet, and that one call signs: they stay in a core's cache.
TILE = 2**14
SIGNS = 2**16
WORDS = Ring(32)


def padded_length(length: int, block: int = BLOCK) -> int:
    """The number of elements of a rotated vector: ``length`` rounded up to whole blocks.

    Raises:
        ValueError: A negative length, or a block that is no power of two up to 2^20.
    """
    if length < 0:
        raise ValueError("a length is not negative")
    if not 1 <= block <= MAX_BLOCK or block & (block - 1):
        raise ValueError(f"a block is a power of two up to 2^20, not {block}")
    return -(-length // block) * block


def rotate(values: NDArray[np.float64], seed: bytes, block: int = BLOCK) -> NDArray[np.float64]:
    """Signs, then the Walsh-Hadamard transform of every block; linear, keeps the Euclidean norm.

    Args:
        values: float64[d]; left as it is.
        seed: 32 bytes that all parties know and that nobody could choose for known ``values``.
        block: Elements per block, a power of two up to 2^20.

    Returns:
        float64[padded_length(d, block)]; zeros fill the last block before it is rotated.

    Raises:
        ValueError: Not a vector, a seed of another size, or a block that is no power of two.

    Guarantee: none of secrecy, ``seed`` is public. The norm of every block is kept up to rounding.
    Checked by ``tests/property/test_algebra_rotation.py::test_the_norm_is_kept``.
    """
    result = _padded(values, padded_length(len(values), block))
    _flip(result, seed)
    _transform(result, block)
    return result


def unrotate(
    values: NDArray[np.float64], seed: bytes, length: int, block: int = BLOCK
) -> NDArray[np.float64]:
    """The inverse of ``rotate`` up to rounding, of rotated vectors and of their sums.

    Args:
        values: float64[padded_length(length, block)]; left as it is.
        seed: That of ``rotate``.
        length: Number of elements before the padding.
        block: That of ``rotate``.

    Returns:
        float64[length].

    Raises:
        ValueError: As ``rotate``, or ``values`` has another length.
    """
    if len(values) != padded_length(length, block):
        raise ValueError(
            f"{length} elements rotate to {padded_length(length, block)}, not {len(values)}"
        )
    result = _padded(values, len(values))
    _transform(result, block)
    _flip(result, seed)
    return result[:length]


def _padded(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    if values.ndim != 1:
        raise ValueError("only vectors rotate")
    result = np.empty(length, dtype=np.float64)
    result[: len(values)] = values
    result[len(values) :] = 0.0
    return result


def _flip(values: NDArray[np.float64], seed: bytes) -> None:
    """Multiplies by the signs of ``seed`` in place: bit i of the keystream, lowest first, is i's."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a rotation's seed has {SEED_BYTES} bytes, not {len(seed)}")
    size = KEY_BYTES + COUNTER_BYTES
    material = HKDF(algorithm=SHA256(), length=size, salt=None, info=PURPOSE).derive(seed)
    stream = (material[:KEY_BYTES], material[KEY_BYTES:])
    for start in range(0, len(values), SIGNS):
        part = values[start : start + SIGNS]
        octets = WORDS.zeros(-(-len(part) // 32))
        add_keystreams(None, [stream], WORDS, out=octets, start=start // 32)
        bits = np.unpackbits(
            np.frombuffer(WORDS.to_bytes(octets), np.uint8), count=len(part), bitorder="little"
        )
        np.multiply(part, 1 - 2 * bits.view(np.int8), out=part)


def _transform(values: NDArray[np.float64], block: int) -> None:
    """The orthonormal Walsh-Hadamard transform of every block, in place.

    A block is a matrix: butterflies between its rows, transposed, butterflies between what were its
    columns. Additions run over whole rows, in an order that is the same on every machine.
    """
    columns = 2 ** ((block.bit_length() - 1) // 2)
    rows = block // columns
    tile = max(block, TILE)
    one, other = np.empty(tile), np.empty(tile)
    for start in range(0, len(values), tile):
        part = values[start : start + tile]
        shape = (len(part) // block, rows, columns)
        x, y = one[: len(part)], other[: len(part)]
        x[:] = part
        x, y = _butterflies(x, y, rows, columns)
        np.copyto(y.reshape(-1, columns, rows), x.reshape(shape).transpose(0, 2, 1))
        y, x = _butterflies(y, x, columns, rows)
        turned = y.reshape(-1, columns, rows).transpose(0, 2, 1)
        np.multiply(turned, 1.0 / math.sqrt(block), out=part.reshape(shape))


def _butterflies(
    x: NDArray[np.float64], y: NDArray[np.float64], rows: int, columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transforms all matrices of rows by columns in ``x`` along their rows; result and scratch."""
    distance = 1
    while distance < rows:
        run = distance * columns
        source, target = x.reshape(-1, 2, run), y.reshape(-1, 2, run)
        np.add(source[:, 0], source[:, 1], out=target[:, 0])
        np.subtract(source[:, 0], source[:, 1], out=target[:, 1])
        x, y = y, x
        distance *= 2
    return x, y
