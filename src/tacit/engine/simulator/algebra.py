"""Exact linear algebra over a prime field: what follows from the equations that somebody holds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRIME", "eliminate", "isolated", "rank"]

PRIME = 2**31 - 1
"""Coefficients are sums of a few ones: no accidental zero modulo this prime."""

Matrix = NDArray[np.int64]
Equation = Mapping[Hashable, int]


def _reduced(rows: Matrix, columns: int) -> tuple[Matrix, int]:
    """Row echelon form over the first ``columns`` columns, and the number of pivots in them."""
    rows = rows % PRIME
    pivots = 0
    for column in range(columns):
        candidates = np.flatnonzero(rows[pivots:, column])
        if not candidates.size:
            continue
        best = pivots + int(candidates[0])
        if best != pivots:
            rows[[pivots, best]] = rows[[best, pivots]]
        inverse = pow(int(rows[pivots, column]), PRIME - 2, PRIME)
        rows[pivots] = rows[pivots] * inverse % PRIME
        below = pivots + 1 + np.flatnonzero(rows[pivots + 1 :, column])
        if below.size:
            rows[below] = (rows[below] - rows[below, column][:, None] * rows[pivots]) % PRIME
        pivots += 1
        if pivots == len(rows):
            break
    return rows, pivots


def rank(rows: Matrix) -> int:
    """The rank of an integer matrix over the prime field."""
    if 0 in rows.shape:
        return 0
    return _reduced(rows.astype(np.int64), rows.shape[1])[1]


def eliminate(
    equations: Sequence[Equation], secret: set[Hashable]
) -> tuple[list[Hashable], Matrix]:
    """What follows from equations once all unknowns in ``secret`` are eliminated.

    Args:
        equations: Unknown -> coefficient; the left-hand sides that the adversary can evaluate.
        secret: Unknowns that are uniform and unknown, so that only combinations without them speak.

    Returns:
        The other unknowns, and a basis of the combinations of these alone, one a row.
    """
    unknowns = {unknown for equation in equations for unknown in equation}
    hidden = sorted(unknowns & secret, key=repr)
    open_ = sorted(unknowns - secret, key=repr)
    place = {unknown: index for index, unknown in enumerate([*hidden, *open_])}
    rows = np.zeros((len(equations), len(place)), dtype=np.int64)
    for row, equation in zip(rows, equations, strict=True):
        for unknown, coefficient in equation.items():
            row[place[unknown]] = coefficient
    if not len(rows):
        return open_, rows
    rows, pivots = _reduced(rows, len(hidden))
    rest = rows[pivots:, len(hidden) :]
    return open_, rest[np.any(rest, axis=1)]


def isolated(
    equations: Sequence[Equation],
    owners: Mapping[Hashable, str],
    threshold: int,
) -> set[str] | None:
    """A group of fewer than ``threshold`` owners whose inputs alone some combination is made of.

    Args:
        equations: As for ``eliminate``.
        owners: Every unknown input and whose it is; all other unknowns are masks.
        threshold: The least number of owners that an honest sum mixes.

    Returns:
        The owners of the smallest such group; None when there is none.
    """
    masks = {unknown for equation in equations for unknown in equation} - set(owners)
    inputs, basis = eliminate(equations, masks)
    if not len(basis):
        return None
    whole = rank(basis)
    names = sorted({owners[unknown] for unknown in inputs})
    for size in range(1, min(threshold, len(names) + 1)):
        for group in combinations(names, size):
            outside = [i for i, unknown in enumerate(inputs) if owners[unknown] not in group]
            if rank(basis[:, outside]) < whole:
                return set(group)
    return None
