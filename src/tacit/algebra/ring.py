"""Vectors over the ring of integers modulo 2^32, held as ``uint32`` arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ring", "add_into", "centred", "ring_sum", "subtract_into", "to_ring"]

Ring = NDArray[np.uint32]
"""A vector over Z / 2^32."""

MASK = 2**32 - 1


def to_ring(x: NDArray[np.int64]) -> Ring:
    """Integers modulo 2^32.

    Args:
        x: int64[d], any values.

    Returns:
        uint32[d]; ``centred`` inverts it for values in [-2^31, 2^31).
    """
    return (np.asarray(x, dtype=np.int64) & MASK).astype(np.uint32)


def centred(x: Ring) -> NDArray[np.int64]:
    """The representatives of ``x`` in [-2^31, 2^31), int64[d]."""
    return _checked(x).astype(np.int32).astype(np.int64)


def add_into(total: Ring, x: Ring) -> None:
    """Adds ``x`` to ``total`` in place, modulo 2^32; both uint32[d]."""
    _same_shape(total, x)
    np.add(total, x, out=total)


def subtract_into(total: Ring, x: Ring) -> None:
    """Subtracts ``x`` from ``total`` in place, modulo 2^32; both uint32[d]."""
    _same_shape(total, x)
    np.subtract(total, x, out=total)


def ring_sum(vectors: Iterable[Ring], length: int) -> Ring:
    """The sum of any number of vectors of ``length`` elements, modulo 2^32."""
    total = np.zeros(length, dtype=np.uint32)
    for vector in vectors:
        add_into(total, vector)
    return total


def _checked(x: Ring) -> Ring:
    if x.dtype != np.uint32 or x.ndim != 1:
        raise TypeError(f"a ring vector is uint32[d], not {x.dtype}[{x.ndim} axes]")
    return x


def _same_shape(total: Ring, x: Ring) -> None:
    if _checked(total).shape != _checked(x).shape:
        raise ValueError(f"lengths differ: {total.shape[0]} and {x.shape[0]}")
