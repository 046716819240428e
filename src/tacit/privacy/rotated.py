"""One client's whole update in 16 bits: clip, rotate, saturate, round at random, check the norm.

For unit ``none`` with ``ring_bits = 16`` (``Plan.rotated``). Rotated by public random signs and a
Walsh-Hadamard transform, no coordinate of an update is much larger than the others, so that each may
have few bits; rounding at random keeps the mean.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from tacit.algebra.encoding import decode
from tacit.algebra.rotation import padded_length, rotate, unrotate
from tacit.privacy.integers import (
    LEAST_SQUARES,
    MARGIN,
    MOST_SQUARES,
    rounded_norm_bound,
    sensitivity,
    sum_of_squares,
)
from tacit.types import Entropy

__all__ = ["decode_rotated", "encode_rotated", "rotated_length", "rotation_block"]

Floats = NDArray[np.float64]

LEAST_BLOCK, MOST_BLOCK = 2**6, 2**16
BLOCKS = 64
"""A vector has more blocks than this, unless blocks would be the shortest: padding stays below 1/64."""

MAX_COORDINATE = 2**15 - 1
ATTEMPTS = 64
"""Roundings that are tried before a vector is truncated instead: all fail with probability 2e-14."""

CHUNK = 1 << 15
ZEROS = memoryview(bytes(4 * CHUNK))


def rotation_block(length: int) -> int:
    """Elements per block of the rotation of a vector; the same for a length and its padded length.

    Returns:
        A power of two from 64 to 65,536, less than ``length / 64`` if that is more than 64.
    """
    power = max(0, (length - 1) // BLOCKS).bit_length() - 1
    return min(max(LEAST_BLOCK, 1 << max(power, 0)), MOST_BLOCK)


def rotated_length(length: int) -> int:
    """Elements of the rotated vector: ``length`` in whole blocks, at most 1/64 more if above 4,096."""
    return padded_length(length, rotation_block(length))


def encode_rotated(
    update: Floats,
    *,
    clip_norm: float,
    grid: float,
    coordinate_bound: int,
    seed: bytes,
    entropy: Entropy,
) -> NDArray[np.int16]:
    """Clips, rotates, saturates and rounds one update.

    Args:
        update: float64[d], any values; one that is not finite counts as zero.
        clip_norm: L2 bound of the update; positive and finite.
        grid: Value of one integer unit.
        coordinate_bound: Where a rotated coordinate saturates, in units: ``Plan.coordinate_bound``.
        seed: 32 public bytes, of the rotation; the same for all contributions of a sum.
        entropy: Secret randomness of the rounding: 32 bytes are drawn.

    Returns:
        int16[rotated_length(d)]; its unsigned view is a vector over ``Ring(16)``.

    Raises:
        ValueError: Not a vector, ``clip_norm / grid`` or ``coordinate_bound`` out of range, or a
            seed of another size.

    Guarantee:
        Whatever the update, no coordinate exceeds ``coordinate_bound`` in magnitude and the integer
        norm is at most ``rounded_norm_bound(D, rotated_length(d))`` with
        D = ``sensitivity(clip_norm, grid)``, exactly; both depend on public values only. Checked by
        ``tests/property/test_privacy_rotated.py::test_no_update_exceeds_the_bounds`` and
        ``::test_the_bounds_rest_on_the_integers_alone``. Rounding alone has mean zero up to 2**-32
        units: ``::test_rounding_keeps_the_mean``.

    Reference:
        Kairouz, Liu and Steinke 2021, algorithm 1 and section 4 (conditional stochastic rounding);
        docs/design/0003-discrete-gaussian.md, section 8.
    """
    bound = sensitivity(clip_norm, grid)
    if update.ndim != 1 or not 1 <= coordinate_bound <= MAX_COORDINATE:
        raise ValueError(f"an update is a vector, its bound lies between 1 and {MAX_COORDINATE}")
    with np.errstate(all="ignore"):  # NaN, inf and overflow are what clipping is about
        clipped = _clipped(np.asarray(update, dtype=np.float64), bound * grid * MARGIN)
        clipped /= grid
    values = rotate(clipped, seed, rotation_block(len(update)))
    del clipped
    np.clip(values, -coordinate_bound, coordinate_bound, out=values)
    key = entropy.draw(32)
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    limit = rounded_norm_bound(bound, len(values)) ** 2
    x = np.empty(len(values), dtype=np.int16)
    with np.errstate(invalid="ignore"):  # nothing rests on the floats being what they should be
        for _ in range(ATTEMPTS):
            if _round_into(x, values, coordinate_bound, stream) <= limit:
                return x
        if _round_into(x, values, coordinate_bound, None) > limit:
            x[...] = 0
    return x


def decode_rotated(total: NDArray[np.int64], grid: float, seed: bytes, length: int) -> Floats:
    """The real sum behind a centred sum of ``encode_rotated``; deterministic, elementwise.

    Args:
        total: int64[rotated_length(length)].
        grid: That of the contributions.
        seed: That of the contributions.
        length: Elements of one update.

    Returns:
        float64[length]: the sum of the clipped updates, up to rounding and saturation.

    Raises:
        ValueError: ``total`` has another length, or a seed of another size.
    """
    return unrotate(decode(total, grid), seed, length, rotation_block(length))


def _clipped(update: Floats, limit: float) -> Floats:
    """A copy of norm at most ``limit``, up to rounding; zero for what is not finite."""
    squares = sum_of_squares(update)
    if LEAST_SQUARES < squares < MOST_SQUARES:
        norm = math.sqrt(squares)
        return update.copy() if norm <= limit else update * (limit / norm)
    peak = float(np.abs(update).max(initial=0.0))
    if not 0.0 < peak < math.inf:
        return np.zeros_like(update)
    unit: Floats = update / peak
    length = math.sqrt(sum_of_squares(unit))
    return update.copy() if peak * length <= limit else unit * (limit / length)


def _round_into(
    x: NDArray[np.int16], values: Floats, bound: int, stream: CipherContext | None
) -> int:
    """Rounds to a neighbouring integer with the right mean, or towards zero without a stream.

    With a uniform 32-bit word w the result is ``floor(v + w / 2**32)``. For an integer v below 2**15
    that sum is exact, so v stays as it is; any other v comes out between its neighbours, because
    rounding to float64 is monotone.

    Returns:
        The exact sum of squares.
    """
    words, scratch = np.empty(CHUNK, dtype="<u4"), np.empty(CHUNK)
    squares = 0
    for start in range(0, len(values), CHUNK):
        block = values[start : start + CHUNK]
        y = scratch[: len(block)]
        if stream is None:
            np.trunc(block, out=y)
        else:
            drawn = words[: len(block)]
            buffer: Any = drawn.view(np.uint8)
            stream.update_into(ZEROS[: drawn.nbytes], buffer)
            np.multiply(drawn, 2.0**-32, out=y)
            np.floor(np.add(y, block, out=y), out=y)
        rounded = x[start : start + CHUNK]
        rounded[...] = y
        np.clip(rounded, -bound, bound, out=rounded)  # counts on no float
        integers = rounded.astype(np.int64)
        squares += int(np.einsum("i,i->", integers, integers))  # below 2**45: exact
    return squares
