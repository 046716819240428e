"""Trade-off curves: what a mechanism of a given strength allows a test, and the epsilon that it has.

A family of curves is the hypothesis under which a test result becomes an epsilon: the plan's mechanism
with more or less noise, or a Gaussian mechanism. That a curve was exceeded is a fact without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from scipy import optimize, special  # type: ignore[import-untyped]

from tacit.privacy import accounting

__all__ = ["Curves", "Gaussian", "Sampled", "strongest", "weakest_refuted"]

MOST = 60.0
"""Largest epsilon that an audit reports; more canaries than a run holds would be needed to tell it from more."""

EPSILONS = tuple(
    float(e) for e in np.concatenate([np.arange(0.0, 4.0, 0.05), np.arange(4.0, 60.1, 0.5)])
)
STEPS = 9


class Curves(Protocol):
    """Mechanisms by strength ``mu``, sensitivity over noise of one release; stronger leaks more."""

    def reaches(self, mu: float, rate: float) -> float:
        """Largest TPR of a test whose FPR is ``rate``."""
        ...

    def needs(self, mu: float, rate: float) -> float:
        """Smallest FPR of a test whose TPR is ``rate``: the inverse of ``reaches``."""
        ...

    def epsilon(self, mu: float) -> float:
        """Epsilon at the family's delta."""
        ...


@dataclass(frozen=True, slots=True)
class Gaussian:
    """One Gaussian release: ``mu``-GDP.

    Reference:
        Dong, Roth, Su 2022, "Gaussian differential privacy", section 2 and corollary 1.
    """

    delta: float

    def reaches(self, mu: float, rate: float) -> float:
        """See ``Curves``."""
        return float(special.ndtr(special.ndtri(rate) + mu))

    def needs(self, mu: float, rate: float) -> float:
        """See ``Curves``."""
        return float(special.ndtr(special.ndtri(rate) - mu))

    def epsilon(self, mu: float) -> float:
        """The epsilon whose delta is the family's, at most ``MOST``."""
        if mu <= 0.0:
            return 0.0
        if mu >= 15.0:  # Beyond MOST at every delta that a plan may have; infinity without noise.
            return MOST

        def excess(epsilon: float) -> float:
            first = special.ndtr(-epsilon / mu + mu / 2.0)
            second = special.log_ndtr(-epsilon / mu - mu / 2.0)
            return float(first - math.exp(min(epsilon + second, 700.0)) - self.delta)

        if excess(0.0) <= 0.0:
            return 0.0
        if excess(MOST) >= 0.0:
            return MOST
        return float(optimize.brentq(excess, 0.0, MOST, xtol=1e-6))


@dataclass(frozen=True, slots=True)
class Sampled:
    """The plan's releases with other noise: so many Poisson-sampled Gaussian sums, by the accountant.

    Args:
        rate: Sampling rate that the adversary does not see.
        rounds: Releases.
        delta: Of them all.
    """

    rate: float
    rounds: int
    delta: float

    def reaches(self, mu: float, rate: float) -> float:
        """See ``Curves``; never below the true curve, whatever the grid of epsilons.

        Reference:
            Kairouz, Oh, Viswanath 2015: every (epsilon, delta) is a pair of half planes.
        """
        growth, deltas = _profile(mu, self.rate, self.rounds)
        bounds = np.minimum(growth * rate + deltas, 1.0 - (1.0 - deltas - rate) / growth)
        return float(min(1.0, bounds.min()))

    def needs(self, mu: float, rate: float) -> float:
        """See ``Curves``; never above the true value."""
        growth, deltas = _profile(mu, self.rate, self.rounds)
        bounds = np.maximum((rate - deltas) / growth, 1.0 - deltas - growth * (1.0 - rate))
        return float(max(0.0, bounds.max()))

    def epsilon(self, mu: float) -> float:
        """By the accountant, at most ``MOST``."""
        if mu <= 0.0:
            return 0.0
        growth, deltas = _profile(mu, self.rate, self.rounds)
        inside = np.flatnonzero(deltas <= self.delta)
        if not len(inside):
            return MOST
        at = int(inside[0])
        if at == 0:
            return 0.0
        # Between two points log delta is concave in epsilon to a good approximation: round down.
        high, low = math.log(deltas[at - 1]), math.log(deltas[at])
        share = (high - math.log(self.delta)) / (high - low)
        left, right = math.log(growth[at - 1]), math.log(growth[at])
        return left + share * (right - left)


@lru_cache(maxsize=512)
def _profile(
    mu: float, rate: float, rounds: int
) -> tuple[
    np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]
]:
    """``exp(epsilon)`` and delta, ``float64[k]`` each."""
    found = accounting.deltas(
        noise_ratio=1.0 / mu, sampling_rate=rate, rounds=rounds, epsilons=EPSILONS
    )
    return np.exp(np.array(EPSILONS)), np.array(found)


def weakest_refuted(
    curves: Curves, refuted: Callable[[float], bool], least: float, most: float
) -> float:
    """The lower bound that a test gives: epsilon of the strongest mechanism that it refutes.

    Args:
        curves: The family.
        refuted: Whether data contradict a mechanism of strength ``mu``: true up to some strength.
        least: Strength below which nothing is reported.
        most: Strength above which nothing is told apart.

    Returns:
        Epsilon, 0.0 if nothing is refuted; rounded down to a step of the bisection.
    """
    if not refuted(least):
        return 0.0
    low, high = math.log(least), math.log(most)
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(math.exp(middle)) else (low, middle)
    return curves.epsilon(math.exp(low))


def strongest(rates: tuple[float, float], curves: Curves, mu: float) -> bool:
    """Whether a test whose FPR and FNR are at most ``rates`` is better than a mechanism allows."""
    false_positives, false_negatives = rates
    return 1.0 - false_negatives > curves.reaches(
        mu, false_positives
    ) or 1.0 - false_positives > curves.reaches(mu, false_negatives)
