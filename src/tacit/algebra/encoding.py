"""Fixed-point encoding: real numbers as integer multiples of a public grid."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode", "truncate"]

LIMIT = 2.0**62


def truncate(values: NDArray[np.float64], grid: float) -> NDArray[np.int64]:
    """The integer part of ``values / grid``, toward zero.

    The quotient is rounded to float64 before it is truncated, so that ``decode(truncate(v))`` may
    exceed ``v`` by one unit in the last place: bounds are to be checked on the integers.

    Args:
        values: float64[...], finite.
        grid: Width of one unit, finite and positive.

    Returns:
        int64[...] of the same shape; every element depends on its own value only.

    Raises:
        ValueError: A value is not finite or is 2^62 units or more.
    """
    quotient = np.asarray(values, dtype=np.float64) / _checked(grid)
    if not np.all(np.abs(quotient) < LIMIT):
        raise ValueError("a value is not finite or too large for the grid")
    return np.trunc(quotient).astype(np.int64)


def decode(x: NDArray[np.int64], grid: float) -> NDArray[np.float64]:
    """The real numbers ``x * grid``, one float64 product per element."""
    return np.asarray(x, dtype=np.int64).astype(np.float64) * _checked(grid)


def _checked(grid: float) -> float:
    if not (math.isfinite(grid) and grid > 0.0):
        raise ValueError("the grid must be finite and positive")
    return grid
