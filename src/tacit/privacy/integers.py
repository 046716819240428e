"""From real gradients to integers whose exact L2 norm is at most the sensitivity.

Privacy rests on the check at the end of every encoding alone: an exact sum of squared integers or,
for long vectors, a certificate in floating point with a proved error that decides nothing near the
bound. The steps before only make sure that an honest record passes.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.encoding import truncate

__all__ = [
    "MAX_SENSITIVITY",
    "encode_records",
    "encode_row",
    "rounded_norm_bound",
    "sensitivity",
    "squares_within",
    "sum_of_squares",
]

MAX_SENSITIVITY = 2**31 - 1
"""Largest D: one record must fit into the 32-bit ring."""

MAX_LENGTH = 2**31 - 1
"""Longest vector for which ``_square_sums`` is proved not to overflow."""

BLOCK_ELEMENTS = 1 << 20

LONG_ROW = 1 << 15
"""A row of this length or more is encoded in blocks of it, which stay in a core's own cache."""

MARGIN = 1.0 - 2.0**-32
"""Keeps an honest record below D although its norm is rounded: sums of squares, roots, products and
quotients together err by less than 2**-34 relative, in whatever order a block is summed."""

CERTAIN = 1.0 - 2.0**-34
"""A float64 sum of squares up to this share of D**2 proves that the true one is at most D**2."""

LEAST_SQUARES, MOST_SQUARES = 1e-280, 1e280
"""Between these a plain sum of squares neither overflows nor loses what matters to underflow."""

LOW_HALF = 2**32 - 1

Signed = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.int64]


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


def rounded_norm_bound(bound: int, dimension: int) -> int:
    """The norm that a vector of norm at most D still has after conditional stochastic rounding.

    Args:
        bound: D, the norm before rounding, in integer units.
        dimension: Number d of coordinates.

    Returns:
        The largest integer R with ``R**2 <= min(D**2 + d / 4 + D + sqrt(d) / 2, (D + sqrt(d))**2)``,
        where roots of d are rounded up: one rounding keeps it with probability
        ``1 - exp(-1 / 2) > 0.39`` at least.

    Reference:
        Kairouz, Liu and Steinke 2021, proposition 22 at beta = exp(-1/2), in units of the grid.
    """
    root = math.isqrt(dimension - 1) + 1 if dimension > 0 else 0
    likely = bound**2 + bound + (dimension + 3) // 4 + (root + 1) // 2
    return math.isqrt(min(likely, (bound + root) ** 2))


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
        Checked by ``tests/property/test_privacy_integers.py::test_no_input_exceeds_the_sensitivity``,
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
    if length >= LONG_ROW:
        encoded = np.empty((count, length), dtype=np.int64)
        for i in range(count):
            encode_row(values[i], clip_norm, grid, encoded[i])
        return encoded
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
        values, peak = np.where(usable, values, 0.0), np.where(usable, peak, 1.0)
        length = np.sqrt(np.square(values / peak).sum(axis=1, keepdims=True))
        scale = np.concatenate((peak, np.where(usable, length, 1.0)), axis=1)
        x = _clipped_units(values, scale, bound, grid)
    x[~squares_within(x, bound**2)] = 0
    return x


def _clipped_units(
    values: NDArray[np.float64], scale: NDArray[np.float64], bound: int, grid: float
) -> NDArray[np.int64]:
    """Rows of finite values, clipped to D units and truncated; no coordinate exceeds D.

    ``scale[i]`` is row i's largest magnitude, and its norm as a multiple of that: their product
    alone could overflow.
    """
    peak, length = scale[:, :1], scale[:, 1:]
    limit = bound * grid * MARGIN
    clipped = np.where(peak * length <= limit, values, values / peak * (limit / length))
    # Bounded before the conversion: an int64 cast of a huge float would be undefined.
    ceiling = bound * grid
    x = truncate(np.clip(clipped, -ceiling, ceiling), grid)
    np.clip(x, -bound, bound, out=x)  # the proof of _square_sums counts on no float
    return x


def encode_row(values: NDArray[np.float64], clip_norm: float, grid: float, out: Signed) -> None:
    """Clips and encodes one long vector, block by block; no other memory than a few blocks.

    Args:
        values: float64[d], any values including NaN and infinities.
        clip_norm: L2 bound; positive and finite.
        grid: Value of one integer unit; positive and finite, at most ``clip_norm``.
        out: int16[d], int32[d] or int64[d], overwritten; wide enough for D. The signed view of a
            ring vector will do.

    Raises:
        ValueError: Shapes disagree, ``out`` is too narrow, or ``clip_norm / grid`` out of range.

    Guarantee:
        Whatever the input, ``sum(out**2) <= D**2`` over the integers with D =
        ``sensitivity(clip_norm, grid)``; a vector that is not finite, or that fails, becomes zero.
        Checked by ``tests/property/test_privacy_integers.py::test_no_long_row_exceeds_the_sensitivity``
        and ``::test_a_violation_planted_before_the_certificate_is_caught``.

    Reference:
        docs/design/0003-discrete-gaussian.md, section 2.
    """
    bound = sensitivity(clip_norm, grid)
    if values.ndim != 1 or values.shape != out.shape or len(values) > MAX_LENGTH:
        raise ValueError(f"values and out must be vectors of one length, at most {MAX_LENGTH}")
    if np.iinfo(out.dtype).max < bound:
        raise ValueError("the integers of out are too narrow for clip_norm / grid")
    with np.errstate(all="ignore"):  # NaN, inf and overflow are what this function is about
        squares = sum_of_squares(values)
        if not LEAST_SQUARES < squares < MOST_SQUARES or not 1e-100 < grid < 1e100:
            _encode_odd_row(values, bound, grid, out)
            return
        limit, norm = bound * grid * MARGIN, math.sqrt(squares)
        factor = (1.0 if norm <= limit else limit / norm) / grid
        scratch, total = np.empty(LONG_ROW), 0.0
        for start in range(0, len(values), LONG_ROW):
            block = values[start : start + LONG_ROW]
            q = np.multiply(block, factor, out=scratch[: len(block)])
            out[start : start + LONG_ROW] = q  # truncates towards zero
            total += float(np.einsum("i,i->", q, q))
        if not _certain(total, bound):
            _encode_odd_row(values, bound, grid, out)


def sum_of_squares(values: NDArray[np.float64]) -> float:
    """The sum of squares in float64, relative error below 2**-35 unless it under- or overflows.

    The order of summation depends on the length alone, never on an address or a thread.
    """
    total = 0.0
    for start in range(0, len(values), LONG_ROW):
        block = values[start : start + LONG_ROW]
        total += float(np.einsum("i,i->", block, block))
    return total


def _certain(squares: float, bound: int) -> bool:
    """Whether a blocked float64 sum of squares of q proves that q, truncated, has norm at most D.

    With u = 2**-53, an element passes through one product and, in whatever order, fewer additions
    than a block has elements and a row has blocks: 2**15 + 2**16. All terms are positive, so the
    computed sum is at least ``(1 - u)**(2**17)``, which is over ``1 - 2**-35``, times the exact sum
    of those squares that do not underflow; one that does belongs to an element that truncates to
    zero. Truncation only shrinks. ``CERTAIN * bound**2`` is rounded three times more. A NaN or an
    infinity proves nothing, and where the sum is finite and so small every q is below 2**31, whose
    conversion to an integer is exact.
    """
    return squares <= CERTAIN * float(bound) ** 2


def _encode_odd_row(values: NDArray[np.float64], bound: int, grid: float, out: Signed) -> None:
    """``encode_row`` for any values at all, by the exact check; slower and rarely needed."""
    blocks = [slice(start, start + LONG_ROW) for start in range(0, len(values), LONG_ROW)]
    peak = float(np.max([np.abs(values[block]).max() for block in blocks], initial=0.0))
    out[...] = 0
    if not 0.0 < peak < math.inf:
        return
    length = math.sqrt(sum(float(np.square(values[block] / peak).sum()) for block in blocks))
    squares = 0
    for block in blocks:
        x = _clipped_units(values[block][None, :], np.array([[peak, length]]), bound, grid)
        out[block] = x[0]
        high, low = _square_sums(x)
        squares += (int(high[0]) << 32) + int(low[0])
    if squares > bound**2:
        out[...] = 0


def squares_within(x: NDArray[np.int64], limit: int | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row's sum of squares is at most ``limit``, exactly: ``bool[n]``.

    Args:
        x: int64[n, d], magnitudes below 2^31.
        limit: For all rows, or ``int64[n]``; from 0 to 2^62.
    """
    high, low = _square_sums(x)
    limits = np.asarray(limit, dtype=np.int64).view(np.uint64)
    limit_high, limit_low = limits >> np.uint64(32), limits & np.uint64(LOW_HALF)
    result: NDArray[np.bool_] = (high < limit_high) | ((high == limit_high) & (low <= limit_low))
    return result


def _square_sums(x: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Each row's exact sum of squares, as upper part and lower 32 bits.

    With |x| < 2^31 a square is below 2^62. Its halves are below 2^30 and 2^32, so their sums over
    fewer than 2^31 coordinates stay below 2^61 and 2^63: nothing overflows uint64.
    """
    half, low_half = np.uint64(32), np.uint64(LOW_HALF)
    squares = np.square(x).view(np.uint64)
    low = (squares & low_half).sum(axis=1, dtype=np.uint64)
    high = (squares >> half).sum(axis=1, dtype=np.uint64) + (low >> half)
    return high, low & low_half
