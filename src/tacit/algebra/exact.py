"""Exact matrix products in floating point: integers so small that no partial sum is ever rounded.

A float64 holds every integer up to 2**53. Where the magnitudes of the products that a sum adds up stay
below that in total, so does every partial sum. Then a matrix product is exact, in whatever order and
with whatever fused operations the library computes it: no element depends on its position, on the
other rows or on the number of threads, and no product is slower than BLAS can make it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRECISION", "IntegerRows", "products"]

Floats = NDArray[np.float64]

PRECISION = 26
"""Bits of a row's norm. Rounded, k < 2**31 coordinates have norm 2**26 + 2**15 at most, and
(2**26 + 2**15)**2 < 2**53: that bounds the products of two rows and a row's sum of squares."""

SMALLEST_SQUARE, LARGEST_SQUARE = 2.0**-800, 2.0**800
"""Between these no unit, integer or product of two rows over- or underflows."""


@dataclass(frozen=True, slots=True, eq=False)
class IntegerRows:
    """Rows of real numbers, each rounded to integers on a unit of its own: a power of two.

    A unit is the norm's power of two, divided by ``2**bits``. A row that is not finite, or whose norm
    is ``2**400`` or more, has no unit; one whose norm is ``2**-400`` or less is zero.

    Args:
        values: ``float64[n, k]``: integers, of norm ``2**bits + sqrt(k) / 2`` at most (up to 1e-9 of
            it); zeros where there is no unit.
        units: ``float64[n]``: row i stands for ``units[i] * values[i]``; NaN where there is none.
        norms: ``float64[n]``: norms of the rows before they were rounded; in float64, not finite for
            a row that is not.
        bits: At most ``PRECISION``.
    """

    values: Floats
    units: Floats
    norms: Floats
    bits: int

    @classmethod
    def of(cls, x: Floats, bits: int = PRECISION) -> IntegerRows:
        """Rounds the rows of ``float64[n, k]``, whatever they hold, to the nearest integers.

        Raises:
            ValueError: ``x`` is no matrix, has 2**31 columns or more, or ``bits`` is out of range.

        Guarantee:
            Row i of the result depends on row i of ``x`` only, bit for bit. Test:
            ``tests/property/test_algebra_exact.py::test_a_row_depends_on_itself_only``.
        """
        if x.ndim != 2 or x.shape[1] >= 2**31 or not 0 <= bits <= PRECISION:
            raise ValueError(f"rows are a matrix and are rounded to at most {PRECISION} bits")
        x = np.ascontiguousarray(x, dtype=np.float64)
        with np.errstate(all="ignore"):  # a row that is not finite is marked, not reported
            squares = np.einsum("ij,ij->i", x, x)  # its order depends on k alone
            norms = np.sqrt(squares)
            usable = squares < LARGEST_SQUARE  # false for NaN
            exponents = np.where(usable, np.frexp(norms)[1], 0)
            scales = np.ldexp(1.0, bits - exponents)
            values = x * np.where(squares > SMALLEST_SQUARE, scales, 0.0)[:, None]
            np.rint(values, out=values)
        _clear(values, ~usable)
        return cls(values, np.where(usable, 1.0 / scales, np.nan), norms, bits)

    def coarser(self, bits: int) -> IntegerRows:
        """The same rows in fewer bits; ties of what was rounded before go to even integers.

        Raises:
            ValueError: ``bits`` is negative or more than there are.
        """
        if not 0 <= bits <= self.bits:
            raise ValueError(f"these rows have {self.bits} bits")
        factor = 2.0 ** (self.bits - bits)
        values = self.values * (1.0 / factor)
        np.rint(values, out=values)
        return IntegerRows(values, self.units * factor, self.norms, bits)

    def squares(self) -> Floats:
        """Each row's sum of squared integers, ``float64[n]``, exact."""
        result: Floats = np.einsum("ij,ij->i", self.values, self.values)
        return result


def products(rows: IntegerRows, other: Floats) -> Floats:
    """The dot product of every row with every row of ``other``, both rounded: ``float64[n, r]``.

    Args:
        rows: ``n`` rows of ``k`` columns.
        other: ``float64[r, k]``; rounded to ``PRECISION`` bits of each row's norm.

    Returns:
        Element (i, j) errs by less than ``sqrt(k) (2**-rows.bits + 2**-26)`` times the product of the
        two norms; it is NaN where either row has no unit.

    Guarantee:
        Element (i, j) is a function of row i and row j alone, bit for bit, whatever the library, the
        position, the other rows or the number of threads. Test:
        ``tests/property/test_algebra_exact.py::test_products_are_those_of_the_integers``.
    """
    columns = IntegerRows.of(other)
    exact: Floats = rows.values @ columns.values.T
    return exact * rows.units[:, None] * columns.units


def _clear(values: Floats, rows: NDArray[np.bool_]) -> None:
    if rows.any():
        values[rows] = 0.0
