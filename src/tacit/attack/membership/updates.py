"""Who is in the sums of a run's rounds: likelihood ratios from sequences of updates.

What an adversary knows: the candidates, everybody's clipped gradient at every model (``rows``), the sampling
rate, and the noise. What it sees: the sum of every source, a site or all of them together. A source's sum is
``sum_i m_i s_ir g_ir + noise`` with membership ``m_i`` and sampling ``s_ir``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg  # type: ignore[import-untyped]

__all__ = ["Observed", "informed", "joint", "matched", "over_sources"]

Floats = NDArray[np.float64]

FLOOR = 1e-12
"""Variance, of the largest there is in a round, below which float64 sums say nothing."""

CERTAIN = 1e-9
"""Share of a candidate's variance that a sum without noise leaves unexplained, at the least."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One round, turned to the axes in which the candidates' gradients are uncorrelated.

    Args:
        rows: The candidates' gradients, ``float64[n, r]``; columns are orthogonal.
        spectrum: Squared norms of the columns, ``float64[r]``.
        sums: What each source summed to, ``float64[s, r]``; what no candidate explains is dropped: noise
            that is independent of all the rest.
        rate: Sampling rate of records in this round.
        noise: Variance of the noise in every coordinate.
    """

    rows: Floats
    spectrum: Floats
    sums: Floats
    rate: float
    noise: float

    @classmethod
    def of(cls, rows: Floats, sums: Floats, rate: float, noise_std: float) -> Observed:
        """Turns a round.

        Args:
            rows: ``float64[n, d]``.
            sums: ``float64[s, d]``.
            rate: In (0, 1].
            noise_std: At least 0.
        """
        count, length = rows.shape
        if length <= count:
            _, values, axes = np.linalg.svd(rows, full_matrices=False)
            turned, seen = rows @ axes.T, sums @ axes.T
            spectrum: Floats = values**2
        else:
            spectrum, axes = np.linalg.eigh(rows @ rows.T)
            kept = spectrum > FLOOR * max(float(spectrum[-1]), 1e-300)
            spectrum, axes = spectrum[kept], axes[:, kept]
            roots = np.sqrt(spectrum)
            turned, seen = axes * roots, (sums @ rows.T) @ axes / roots
        return cls(turned, spectrum, seen, rate, noise_std**2)

    def variance(self, per_record: float) -> Floats:
        """Variance along each axis, where every candidate adds ``per_record`` times its gradient's square."""
        total: Floats = self.noise + per_record * self.spectrum
        return total + FLOOR * float(self.spectrum.max(initial=0.0)) + 1e-300


def joint(
    rounds: Sequence[Observed], prior: float, after: Sequence[int] | None = None
) -> list[Floats]:
    """Log likelihood ratios of membership from all rounds together, in the Gaussian approximation.

    Nobody else's membership is known: it is estimated along, which a single round's filter cannot do. With
    noise it is the best linear estimator, without noise least squares.

    Args:
        rounds: In order, of the same candidates and sources.
        prior: Probability that a candidate is in one source.
        after: After how many rounds; after all of them by default.

    Returns:
        ``float64[n, s]`` for each.

    Reference:
        Rasmussen and Williams 2006, section 2.1 (Bayesian linear regression).
    """
    count, wanted = len(rounds[0].rows), {len(rounds)} if after is None else set(after)
    spread = prior * (1.0 - prior)
    precision = np.eye(count) / spread
    pull = np.zeros((count, len(rounds[0].sums)))
    found = []
    for number, one in enumerate(rounds, 1):
        weights = 1.0 / one.variance(one.rate * (1.0 - one.rate) * prior)
        expected = one.rate * prior * one.rows.sum(axis=0)
        weighted = one.rows * weights
        precision += one.rate**2 * (weighted @ one.rows.T)
        pull += one.rate * (weighted @ (one.sums - expected).T)
        if number in wanted:
            factor = linalg.cho_factor(precision, lower=True)
            inverse = linalg.cho_solve(factor, np.eye(count))
            left = np.clip(np.diag(inverse), CERTAIN * spread, spread)[:, None]
            mean = prior + linalg.cho_solve(factor, pull)
            found.append(mean / left - prior / spread - 0.5 * (1.0 / left - 1.0 / spread))
    return found


def matched(rounds: Sequence[Observed], prior: float) -> Floats:
    """Log likelihood ratios of membership from single rounds, added up: matched filters under sampling.

    Each round's is ``log(1 - q + q exp(l))`` with l the ratio of having been sampled; the others are noise,
    anew in every round.

    Args:
        rounds: As for ``joint``.
        prior: As for ``joint``.

    Returns:
        ``float64[n, s]``.
    """
    total = np.zeros((len(rounds[0].rows), len(rounds[0].sums)))
    for one in rounds:
        share = one.rate * prior
        each = share * (1.0 - share)
        weights = 1.0 / one.variance(each)
        weighted = one.rows * weights
        own = np.einsum("ir,ir->i", weighted, one.rows)
        rest = share * (one.rows.sum(axis=0) - one.rows)
        product = weighted @ one.sums.T - np.einsum("ir,ir->i", weighted, rest)[:, None]
        shrink = 1.0 / np.maximum(1.0 - each * own, CERTAIN)
        total += _sampled(product * shrink[:, None], (own * shrink)[:, None], one.rate)
    return total


def informed(rounds: Sequence[Observed], members: NDArray[np.bool_]) -> Floats:
    """``matched`` for an adversary that knows every other member: the one that a guarantee is about.

    Args:
        rounds: With one source each.
        members: ``bool[n]``; entry i enters the scores of the others alone.

    Returns:
        ``float64[n]``, on the scale of ``over_sources``.
    """
    total = np.zeros(len(members))
    for one in rounds:
        weights = 1.0 / one.variance(0.5 * one.rate * (1.0 - one.rate))
        weighted = one.rows * weights
        own = np.einsum("ir,ir->i", weighted, one.rows)
        known = one.rate * (one.rows[members].sum(axis=0) - one.rows * members[:, None])
        product = np.einsum("ir,ir->i", weighted, one.sums[0] - known)
        total += _sampled(product, own, one.rate)
    return np.arcsinh(total)


def _sampled(product: Floats, own: Floats, rate: float) -> Floats:
    ratio = product - 0.5 * own
    if rate >= 1.0:
        return ratio
    mixed: Floats = np.logaddexp(np.log1p(-rate), np.log(rate) + ratio)
    return mixed


def over_sources(ratios: Floats) -> Floats:
    """The ratio of being in any one of the sources, each as likely: ``float64[n, s]`` to ``float64[n]``.

    Given as its inverse hyperbolic sine: exact sums make ratios of many orders of magnitude, and a threshold
    halfway between those of one run's records would mean nothing in another.
    """
    found: Floats = np.arcsinh(np.logaddexp.reduce(ratios, axis=1) - np.log(ratios.shape[1]))
    return found
