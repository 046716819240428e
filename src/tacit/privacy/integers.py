"""From real gradients to integers whose exact L2 norm is at most the sensitivity.

Privacy rests on the integer check at the end of ``encode_records`` alone. The floating-point steps
before it only make sure that an honest record passes.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.encoding import truncate

__all__ = ["MAX_SENSITIVITY", "encode_records", "sensitivity"]

MAX_SENSITIVITY = 2**31 - 1
"""Largest D: one record must fit into the 32-bit ring."""

MAX_LENGTH = 2**31 - 1
"""Longest vector for which ``_within`` is proved not to overflow."""

BLOCK_ELEMENTS = 1 << 20

MARGIN = 1.0 - 2.0**-40
"""Keeps an honest record below D although its norm is rounded: pairwise summation and the divisions
err by less than 2**-45 relative at any length that fits into memory."""


def sensitivity(clip_norm: float, grid: float) -> int:
    """The exact integer sensitivity D = floor(clip_norm / grid).

    Args:
        clip_norm: L2 bound on one record's gradient; positive and finite.
        grid: Value of one integer unit; positive and finite.

    Raises:
        ValueError: D is not between 1 and ``MAX_SENSITIVITY``.
    """
    if not (0.0 < clip_norm < math.inf and 0.0 < grid < math.inf):
        raise ValueError("clip_norm and grid must be positive and finite")
    bound = Fraction(clip_norm) // Fraction(grid)
    if not 1 <= bound <= MAX_SENSITIVITY:
        raise ValueError(f"clip_norm / grid must lie between 1 and {MAX_SENSITIVITY}")
    return int(bound)


def encode_records(
    gradients: NDArray[np.float64], clip_norm: float, grid: float
) -> NDArray[np.int64]:
    """Clips every record to ``clip_norm`` and encodes it in integer units, towards zero.

    A record with a non-finite coordinate, or one that fails the exact integer check in spite of the
    clipping, counts as zero: never an abort, which would tell that such a record exists.

    Args:
        gradients: float64[n, d], one row per record, any values including NaN and infinities.
        clip_norm: L2 bound on one record's gradient; positive and finite.
        grid: Value of one integer unit; positive and finite, at most ``clip_norm``.

    Returns:
        int64[n, d].

    Raises:
        ValueError: Not a matrix, too long a row, or ``clip_norm / grid`` out of range.

    Guarantee:
        Whatever the input, every row has ``sum(x**2) <= D**2`` over the integers with
        D = ``sensitivity(clip_norm, grid)``, and row i of the result depends on row i of the input
        only, bit for bit. So adding or removing one record (replacing it by zero) moves the sum of
        the rows by an L2 distance of at most D.
        Checked by ``tests/property/test_privacy_integers.py::test_no_input_exceeds_the_sensitivity``
        ``::test_the_bound_rests_on_the_integers_alone`` and ``::test_a_row_depends_on_itself_only``.

    Reference:
        docs/design/0003-discrete-gaussian.md, section 2.
    """
    bound = sensitivity(clip_norm, grid)
    values = np.ascontiguousarray(gradients, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError("gradients must be a matrix: one row per record")
    count, length = values.shape
    if length > MAX_LENGTH:
        raise ValueError(f"a record must have at most {MAX_LENGTH} coordinates")
    encoded = np.zeros((count, length), dtype=np.int64)
    if length == 0:
        return encoded
    rows = max(1, BLOCK_ELEMENTS // length)
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        encoded[block] = _encode_block(values[block], bound, grid)
    return encoded


def _encode_block(values: NDArray[np.float64], bound: int, grid: float) -> NDArray[np.int64]:
    """``encode_records`` of a few rows. Sums run along a contiguous row, so rows do not mix."""
    with np.errstate(all="ignore"):  # NaN, inf and overflow are what this function is about
        peak = np.abs(values).max(axis=1, keepdims=True)
        usable = np.isfinite(peak) & (peak > 0.0)
        unit = np.where(usable, values, 0.0) / np.where(usable, peak, 1.0)
        length = np.sqrt(np.square(unit).sum(axis=1, keepdims=True))
        length = np.where(usable, length, 1.0)
        limit = bound * grid * MARGIN
        clipped = np.where(peak * length <= limit, values, unit * (limit / length))
        clipped = np.where(usable, clipped, 0.0)
    # Bounded before the conversion: an int64 cast of a huge float would be undefined.
    ceiling = bound * grid
    x = truncate(np.clip(clipped, -ceiling, ceiling), grid)
    np.clip(x, -bound, bound, out=x)  # the proof of _within counts on no float
    x[~_within(x, bound)] = 0
    return x


def _within(x: NDArray[np.int64], bound: int) -> NDArray[np.bool_]:
    """Whether each row's sum of squares is at most ``bound**2``, exactly.

    With |x| <= bound < 2^31 a square is below 2^62. Its halves are below 2^30 and 2^32, so their
    sums over fewer than 2^31 coordinates stay below 2^61 and 2^63: nothing overflows uint64.
    """
    half = np.uint64(32)
    low_mask = np.uint64(2**32 - 1)
    squares = np.square(x).view(np.uint64)
    low = (squares & low_mask).sum(axis=1, dtype=np.uint64)
    high = (squares >> half).sum(axis=1, dtype=np.uint64) + (low >> half)
    low &= low_mask
    limit_high, limit_low = np.uint64(bound**2 >> 32), np.uint64(bound**2 & (2**32 - 1))
    result: NDArray[np.bool_] = (high < limit_high) | ((high == limit_high) & (low <= limit_low))
    return result
