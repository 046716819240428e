"""Which of known candidates were in an update, a sum, or a noisy sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[import-untyped]

__all__ = ["evidence", "if_sampled", "members_of_sum", "of_single", "sampled"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def of_single(update: Floats, candidates: Floats) -> NDArray[np.int64]:
    """Candidates by how well the direction of their update fits a seen one, the best first.

    A matched filter that no rescaling deceives: clipping hides nothing.

    Args:
        update: Of one record, in one or several rounds: ``float64[R, d]``.
        candidates: Theirs, ``float64[R, M, d]``.

    Returns:
        ``int64[M]``.
    """
    products = np.einsum("rmd,rd->rm", candidates, update)
    lengths = np.linalg.norm(candidates, axis=2) * np.linalg.norm(update, axis=1)[:, None]
    fits = (products / np.maximum(lengths, 1e-300)).sum(axis=0)
    return np.argsort(-fits, kind="stable").astype(np.int64)


def members_of_sum(
    total: Floats, candidates: Floats, *, least: float = 0.5
) -> tuple[NDArray[np.int64], Floats]:
    """The candidates that a sum without noise is made of, by non-negative least squares.

    Args:
        total: The sum, all rounds behind each other, ``float64[R d]``.
        candidates: Each one's share of it, ``float64[M, R d]``.
        least: Weight from which a candidate counts as a member; a member's is 1.

    Returns:
        Members, ``int64[m]``, and all weights, ``float64[M]``.
    """
    # Squared, the problem has M equations instead of R d, and the weights are the same.
    scale = max(float(np.abs(candidates).max()), 1e-300)
    a, b = candidates / scale, total / scale
    gram = a @ a.T
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-13 * max(float(values[-1]), 1e-300)
    root = np.sqrt(values[kept])
    factor = root[:, None] * vectors[:, kept].T
    target = (vectors[:, kept].T @ (a @ b)) / root
    weights, _ = nnls(factor, target, maxiter=20 * len(candidates))
    return np.flatnonzero(weights >= least).astype(np.int64), weights


def evidence(
    residuals: Floats, candidates: Floats, noise_std: float, sampling_rate: float
) -> Floats:
    """How likely each candidate's presence makes the sums that were seen: log likelihood ratios.

    Everything else in the sums is known, and so is the law of the noise: this is the best test there is of
    one candidate against another. In every round a present candidate was sampled or not.

    Args:
        residuals: What is left of each round's sum, ``float64[R, d]``.
        candidates: What each would have added, ``float64[R, M, d]``.
        noise_std: Of the noise in every coordinate.
        sampling_rate: In (0, 1].

    Returns:
        ``float64[M]``.
    """
    totals = np.zeros(candidates.shape[1])
    for residual, rows in zip(residuals, candidates, strict=True):
        fit = (rows @ residual - 0.5 * (rows * rows).sum(axis=1)) / noise_std**2
        totals += if_sampled(fit, sampling_rate)
    return totals


def if_sampled(fit: Floats, sampling_rate: float) -> Floats:
    """Log likelihood ratios of one round, when a present record is in it with a probability.

    Args:
        fit: What they are if it is, any shape.
        sampling_rate: In (0, 1].
    """
    if sampling_rate >= 1.0:
        return fit
    with np.errstate(under="ignore"):
        found: Floats = np.logaddexp(np.log1p(-sampling_rate), np.log(sampling_rate) + fit)
    return found


def sampled(total: Integers, rows: Integers) -> NDArray[np.bool_] | None:
    """Which records a site's exact contribution holds; None if that does not follow from it.

    Args:
        total: The contribution, ``int64[length]``.
        rows: Each record's share, ``int64[m, length]``.
    """
    found, *_ = np.linalg.lstsq(rows.T.astype(np.float64), total.astype(np.float64), rcond=None)
    chosen = found > 0.5
    exact = np.array_equal(rows[chosen].sum(axis=0), total)
    return chosen if exact else None
