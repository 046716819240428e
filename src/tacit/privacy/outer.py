"""Contributions that are outer products: encoded, bounded and summed without ever being written out.

A linear layer's gradient on one record is the outer product of an error per output and the inputs. Both
factors become integers, so the record's contribution is an integer matrix of norm ``|a| |b|``; that is
checked exactly from the factors. The sum over records is one matrix product of integers, which is exact
in floating point (``tacit.algebra.exact``). Design note 0011.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.exact import PRECISION, IntegerRows
from tacit.privacy.integers import MARGIN, encode_records, sensitivity, squares_within

__all__ = ["MAX_ROWS", "OuterRows", "encode_outer", "right_bits"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

MAX_ROWS = 2**22
"""Rows of one sum: each product of two coordinates is at most D < 2^31, so sums stay below 2^53."""

SHORTFALLS = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.5])
"""By how many units a left factor stays below its bound before it is rounded, the first that fits.
Rounding adds 0.4 units to a norm at one standard deviation; whatever does not fit is truncated."""

ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
STEP = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64 (Steele, Lea and Flood 2014): it spreads bits and keeps no secret."""


@dataclass(frozen=True, slots=True, eq=False)
class OuterRows:
    """Encoded contributions: row i is the matrix ``left[i] (x) right[i]`` and, beside it, ``extra[i]``.

    Args:
        left: ``float64[n, r]``, integers.
        right: ``float64[n, k]``, integers.
        extra: ``int64[n, c]``.
    """

    left: Floats
    right: Floats
    extra: Integers

    def drop(self, rows: slice) -> None:
        """Makes the contributions of ``rows`` zero."""
        self.left[rows] = 0.0
        self.extra[rows] = 0

    def sums(self) -> tuple[Integers, Integers]:
        """The sum of the matrices, ``int64[r, k]``, and of what stands beside them, ``int64[c]``.

        Raises:
            ValueError: There are more than ``MAX_ROWS`` rows.

        Guarantee:
            Exact, in whatever order and by however many threads it is computed. Test:
            ``tests/property/test_privacy_outer.py::test_the_sum_is_that_of_the_integers``.
        """
        if len(self.left) > MAX_ROWS:
            raise ValueError(f"at most {MAX_ROWS} rows are summed at once")
        return (self.left.T @ self.right).astype(np.int64), self.extra.sum(axis=0)


def right_bits(bound: int, outputs: int, inputs: int) -> int:
    """How many bits of the inputs' norm a contribution keeps; a function of public sizes alone.

    With ``|a| |b| = D``, rounding errs by ``sqrt(r) / |a|`` and ``sqrt(k) / |b|``, which balance at
    ``|b|**2 = D sqrt(k / r)``. This is the largest power of two up to there: errors in ``b`` are a
    record's same ones in every round, those in ``a`` are not.

    Args:
        bound: D.
        outputs: r, length of a left factor, at least 1.
        inputs: k, length of a right factor.
    """
    fourth_power = bound**2 * inputs // outputs
    return min(PRECISION, max(0, fourth_power.bit_length() - 1) // 4)


def encode_outer(
    left: Floats,
    right: IntegerRows,
    clip_norm: float,
    grid: float,
    extra: Floats | None = None,
) -> OuterRows:
    """Clips every record's ``left (x) right`` to ``clip_norm`` and encodes its factors in integers.

    The inputs are rounded to ``right_bits``; a left factor, shortened to what the inputs and ``extra``
    leave of the norm, is rounded to neighbouring integers with the right mean: whether up or down is
    decided by a hash of the record's own numbers, so that the errors of many records cancel and yet
    nothing but the record decides. ``extra`` is truncated. A record with anything that is not finite,
    or one that fails the exact check in spite of the clipping, counts as zero.

    Args:
        left: ``float64[n, r]``, r at least 1; any values including NaN and infinities.
        right: ``n`` rows of ``k`` columns; any values too.
        clip_norm: L2 bound on one record as a whole; positive and finite.
        grid: Value of one integer unit; positive and finite, at most ``clip_norm``.
        extra: ``float64[n, c]``: further coordinates of the record, under the same bound; they are
            served first.

    Raises:
        ValueError: Shapes disagree, or ``clip_norm / grid`` is out of range.

    Guarantee:
        Whatever the input, row i of the result has ``sum(left**2) * sum(right**2) + sum(extra**2) <=
        D**2`` over the integers with D = ``sensitivity(clip_norm, grid)``, and depends on row i of the
        input only, bit for bit. So adding or removing one record (replacing it by zero) moves
        ``OuterRows.sums`` by an L2 distance of at most D. Tests:
        ``tests/property/test_privacy_outer.py::test_no_input_exceeds_the_sensitivity``,
        ``::test_a_violation_planted_before_the_check_is_caught`` and
        ``::test_a_row_depends_on_itself_only``.

    Reference:
        docs/design/0011-linear-heads-by-exact-integers.md.
    """
    bound = sensitivity(clip_norm, grid)
    count = len(right.values)
    further = np.zeros((count, 0)) if extra is None else extra
    if left.ndim != 2 or left.shape[1] < 1 or not count == len(left) == len(further):
        raise ValueError("left, right and extra are matrices with one row per record")
    bits = right_bits(bound, left.shape[1], right.values.shape[1])
    with np.errstate(all="ignore"):  # NaN, inf and overflow are what this function is about
        rows = right.coarser(min(right.bits, bits))
        squares = rows.squares()
        whole = squares < 2.0**53  # what is computed is exact then; false for NaN
        target = np.ascontiguousarray(left) * (rows.units / grid)[:, None]
        whole &= np.isfinite(target).all(axis=1) & np.isfinite(further).all(axis=1)
        target = np.where(whole[:, None], target, 0.0)
        squares = np.where(whole, squares, 0.0)
    if not whole.all():
        rows.values[~whole] = 0.0
    beside = encode_records(np.where(whole[:, None], further, 0.0), clip_norm, grid)
    room = bound**2 - np.square(beside).sum(axis=1)
    room //= np.maximum(squares, 1.0).astype(np.int64)
    factors = _rounded(target, room, _thresholds(left, squares, right.norms), bound)
    return OuterRows(factors.astype(np.float64), rows.values, beside)


def _rounded(target: Floats, room: Integers, thresholds: Floats, bound: int) -> Integers:
    """Integer rows near ``target`` whose sum of squares is at most ``room``, exactly: ``int64[n, r]``.

    A row whose norm is too large is shortened; of the ways to round it, the first that fits.
    """
    candidates = _candidates(target, np.sqrt(room.astype(np.float64)), thresholds)
    # Bounded before the conversion: an int64 cast of a huge float would be undefined.
    x = np.clip(candidates, -bound, bound).astype(np.int64)
    np.clip(x, -bound, bound, out=x)  # the exact check counts on no float
    ways, n, r = x.shape
    fits = squares_within(x.reshape(ways * n, r), np.tile(room, ways)).reshape(ways, n)
    chosen: Integers = np.take_along_axis(x, fits.argmax(axis=0)[None, :, None], axis=0)[0]
    chosen[~fits.any(axis=0)] = 0
    return chosen


def _candidates(target: Floats, limit: Floats, thresholds: Floats) -> Floats:
    """Ways to round, the best first, the last one towards zero: ``float64[ways, n, r]``."""
    peak = np.abs(target).max(axis=1)
    direction = target / np.where(peak > 0.0, peak, 1.0)[:, None]
    length = np.sqrt(np.square(direction).sum(axis=1))
    limits = np.maximum(limit - SHORTFALLS[:, None], 0.0)
    limits = np.concatenate([limits, limit[None] * MARGIN])
    with np.errstate(all="ignore"):  # the product may be infinite: it is too long, as it should be
        short = peak * length <= limits
        factor = limits / np.where(length > 0.0, length, 1.0)
    shortened = np.where(short[:, :, None], target, direction * factor[:, :, None])
    np.floor(shortened[:-1] + thresholds, out=shortened[:-1])
    np.trunc(shortened[-1], out=shortened[-1])
    return shortened


def _thresholds(left: Floats, squares: Floats, norms: Floats) -> Floats:
    """Evenly spread over [0, 1), ``float64[n, r]``: a hash of the record's own factors.

    ``floor(value + threshold)`` then has mean ``value``.
    """
    records = _mixed(_mixed(_bits(norms)) ^ _bits(squares))
    places = np.arange(left.shape[1], dtype=np.uint64) * STEP
    words = _mixed(_bits(left) ^ (records[:, None] + places))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _bits(values: Floats) -> Words:
    return np.ascontiguousarray(values).view(np.uint64)


def _mixed(words: Words) -> Words:
    for shift, multiplier in ROUNDS:
        words = (words ^ (words >> shift)) * multiplier
    return words ^ (words >> np.uint64(31))
