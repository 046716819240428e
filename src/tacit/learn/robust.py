"""Rules that combine single updates although some of them are malicious: pure functions over float64 rows.

They need every update in the clear, so that no run uses them today: the attack suite compares with what they
would do for a leader that sees updates.

All take ``rows``, ``float64[n, d]`` with n at least 1, and return a mean-like ``float64[d]``. None depends on the
order of the rows, up to rounding and ties.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "centered_clipping",
    "coordinate_median",
    "geometric_median",
    "krum_scores",
    "mean",
    "multi_krum",
    "nearest_mixing",
    "trimmed_mean",
]

Floats = NDArray[np.float64]


def mean(rows: Floats) -> Floats:
    """The mean; one malicious row moves it anywhere."""
    found: Floats = rows.mean(axis=0)
    return found


def coordinate_median(rows: Floats) -> Floats:
    """The median of every coordinate; of an even number the mean of the middle two.

    Reference:
        Yin et al. 2018, definition 1.
    """
    found: Floats = np.median(rows, axis=0)
    return found


def trimmed_mean(rows: Floats, f: int) -> Floats:
    """In every coordinate the mean without the ``f`` smallest and ``f`` largest values.

    Raises:
        ValueError: ``2 f`` is not less than n.

    Guarantee:
        With at most f malicious rows every coordinate lies between the least and the largest honest value.
        Test: ``tests/unit/test_learn_robust.py::test_trimming_keeps_to_the_honest_range``.

    Reference:
        Yin et al. 2018, definition 2.
    """
    _check(rows, f, 2 * f < len(rows))
    found: Floats = np.sort(rows, axis=0)[f : len(rows) - f].mean(axis=0)
    return found


def krum_scores(rows: Floats, f: int, near: int | None = None) -> Floats:
    """For each row the sum of squared distances to its nearest others: ``float64[n]``.

    Args:
        rows: Updates.
        f: How many of them may be malicious.
        near: How many others; ``n - f - 2`` by default, at least one. Some implementations take one more.

    Reference:
        Blanchard et al. 2017, section 4.
    """
    _check(rows, f, f < len(rows))
    squares = _squared_distances(rows)
    near = max(1, len(rows) - f - 2) if near is None else near
    scores: Floats = np.sort(squares, axis=1)[:, 1 : near + 1].sum(axis=1)
    return scores


def multi_krum(rows: Floats, f: int, keep: int | None = None, near: int | None = None) -> Floats:
    """The mean of the ``keep`` rows with the least scores; ``n - f`` by default, 1 is Krum.

    ``near`` is that of ``krum_scores``.

    Reference:
        Blanchard et al. 2017, sections 4 and 6.
    """
    keep = len(rows) - f if keep is None else keep
    order = np.argsort(krum_scores(rows, f, near), kind="stable")
    found: Floats = rows[order[:keep]].mean(axis=0)
    return found


def geometric_median(rows: Floats, steps: int = 100, smoothing: float = 1e-9) -> Floats:
    """The point with the least sum of distances, by Weiszfeld's iteration with smoothed distances.

    Args:
        rows: Updates.
        steps: Of the iteration, at most.
        smoothing: Least distance, relative to the largest norm of a row.

    Reference:
        Pillutla, Kakade, Harchaoui 2022, algorithm 2 (RFA).
    """
    least = smoothing * max(float(np.linalg.norm(rows, axis=1).max()), 1e-300)
    point: Floats = rows.mean(axis=0)
    for _ in range(steps):
        weights = 1.0 / np.maximum(np.linalg.norm(rows - point, axis=1), least)
        after: Floats = weights @ rows / weights.sum()
        moved = float(np.linalg.norm(after - point))
        point = after
        if moved <= least:
            break
    return point


def centered_clipping(
    rows: Floats, radius: float | None = None, steps: int = 5, start: Floats | None = None
) -> Floats:
    """Moves a centre by the mean of the differences to it, each clipped to ``radius``.

    Args:
        rows: Updates.
        radius: By default the median distance to the start.
        steps: How often.
        start: Where the centre begins, last round's result for example; the coordinate-wise median by
            default.

    Reference:
        Karimireddy, He, Jaggi 2021, algorithm 2.
    """
    centre = coordinate_median(rows) if start is None else start
    if radius is None:
        radius = float(np.median(np.linalg.norm(rows - centre, axis=1)))
    for _ in range(steps):
        moves = rows - centre
        norms = np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1e-300)
        centre = centre + (moves * np.minimum(1.0, radius / norms)).mean(axis=0)
    return centre


def nearest_mixing(rows: Floats, f: int) -> Floats:
    """Each row replaced by the mean of its ``n - f`` nearest rows, itself included: ``float64[n, d]``.

    A step before another rule, which it makes robust where honest updates differ.

    Reference:
        Allouah et al. 2023, algorithm 2 (NNM).
    """
    _check(rows, f, f < len(rows))
    near = np.argsort(_squared_distances(rows), axis=1, kind="stable")[:, : len(rows) - f]
    found: Floats = rows[near].mean(axis=1)
    return found


def _squared_distances(rows: Floats) -> Floats:
    """``float64[n, n]``, exactly 0 on the diagonal; one row at a time, for memory."""
    return np.stack([np.square(rows - row).sum(axis=1) for row in rows])


def _check(rows: Floats, f: int, holds: bool) -> None:
    if f < 0 or not holds:
        raise ValueError(f"{f} of {len(rows)} rows are too many to be malicious")
