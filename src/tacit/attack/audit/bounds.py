"""What an audit concludes from scores of canaries: lower bounds of epsilon, and one estimate.

Every canary was in or out by a fair coin of the auditor's. A bound holds with probability 1 - ``level`` over
coins and noise; what it assumes beyond that stands in its docstring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats  # type: ignore[import-untyped]

from tacit.attack.audit.curves import MOST, Curves, Gaussian, strongest, weakest_refuted

__all__ = [
    "Scores",
    "canary_estimate",
    "gap",
    "multi_run",
    "multi_run_curves",
    "one_run",
    "one_run_fdp",
    "threshold_for",
]

Floats = NDArray[np.float64]

PLANNED = 0.05
"""Level for which thresholds are chosen; they are valid at any."""

LEAST, LARGEST = 1e-3, 20.0
"""Strengths between which families of curves are searched."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of canaries, higher where the adversary believes them in, and the coins.

    Args:
        values: ``float64[m]``.
        coins: ``bool[m]``: which were in.
    """

    values: Floats
    coins: NDArray[np.bool_]

    @property
    def inside(self) -> Floats:
        """Scores of those that were in."""
        return self.values[self.coins]

    @property
    def outside(self) -> Floats:
        """Scores of those that were out."""
        return self.values[~self.coins]

    def guessed(self, guesses: int) -> int:
        """How many of so many guesses are right: in for the highest scores, out for the lowest."""
        order, half = np.argsort(self.values, kind="stable"), guesses // 2
        right = int((~self.coins[order[:half]]).sum())
        return right + int(self.coins[order[len(order) - (guesses - half) :]].sum())

    def mistaken(self, threshold: float) -> tuple[int, int]:
        """False positives and false negatives of a threshold."""
        return int((self.outside > threshold).sum()), int((self.inside <= threshold).sum())


def one_run(scores: Scores, guesses: int, *, delta: float, level: float) -> float:
    """Epsilon, at least: one run, any mechanism, any dependence between scores.

    Args:
        scores: Of m canaries in one run.
        guesses: How many of them the auditor guesses, fixed before it saw a score.
        delta: Of the claim.
        level: Probability that the bound is above the truth.

    Reference:
        Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run", theorem 5.2.
    """
    count, right = len(scores.values), scores.guessed(guesses)

    def possible(epsilon: float) -> float:
        return _chance(right, guesses, count, epsilon, delta) - level

    if possible(0.0) >= 0.0:
        return 0.0
    if possible(MOST) <= 0.0:
        return MOST
    found = float(optimize.brentq(possible, 0.0, MOST, xtol=1e-4))
    return max(0.0, found - 1e-4)


def _chance(right: int, guesses: int, count: int, epsilon: float, delta: float) -> float:
    """Largest probability of so many right guesses under (epsilon, delta)-DP."""
    if right == 0:
        return 1.0
    rate = 1.0 / (1.0 + math.exp(-epsilon))
    base = float(special.betainc(right, guesses - right + 1, rate))
    steps = np.arange(1, right + 1)
    below = stats.binom.pmf(right - steps, guesses, rate).cumsum()
    return min(1.0, base + 2.0 * count * delta * float((below / steps).max()))


def one_run_fdp(scores: Scores, guesses: int, curves: Curves, *, level: float) -> float:
    """Epsilon, at least: one run, any dependence between scores, curves of a known family.

    Args:
        scores: Of m canaries in one run.
        guesses: How many of them the auditor guesses, fixed before it saw a score.
        curves: The family. That a curve of it is refuted assumes nothing of the kind.
        level: Probability that the bound is above the truth.

    Reference:
        Mahloujifar, Melis, Chaudhuri 2024, "Auditing f-differential privacy in one run", theorem 3.2. With
        p_j the probability of j right guesses of k among m canaries and r_i the sum over j >= i of
        (j / m) p_j, h_i that of ((k - j) / m) p_j: r_(i+1) is at most ``reaches(h_i)``, since a right guess
        with the other coins fixed and the wrong one with its own coin turned are a test's two errors.
    """
    count, right = len(scores.values), scores.guessed(guesses)

    def refuted(mu: float) -> bool:
        return _too_many(right, guesses, count, curves, (mu, level))

    return weakest_refuted(curves, refuted, LEAST, LARGEST)


def _too_many(
    right: int, guesses: int, count: int, curves: Curves, mechanism: tuple[float, float]
) -> bool:
    """Whether so many right guesses have a probability below ``level`` under a curve."""
    mu, level = mechanism
    wrong = level * (guesses - right) / count
    correct = level * right / count
    whole = guesses / count
    for i in range(right - 1, -1, -1):
        grown = max(wrong, curves.needs(mu, correct))
        correct += (i / (guesses - i)) * (grown - wrong)
        wrong = grown
        if correct + wrong > whole:
            return True
    return False


def gap(scores: Scores, *, delta: float, level: float) -> float:
    """Epsilon, at least, if scores are Gaussian and independent: not free of assumptions.

    Half of ``level`` goes to the gap of the means (Welch), half to the spread of those that were out.
    """
    inside, outside = scores.inside, scores.outside
    if min(len(inside), len(outside)) < 2:
        return 0.0
    within, without = inside.var(ddof=1) / len(inside), outside.var(ddof=1) / len(outside)
    if without == 0.0:  # No noise at all.
        return MOST if inside.min() > outside.max() else 0.0
    freedom = (within + without) ** 2 / (
        within**2 / (len(inside) - 1) + without**2 / (len(outside) - 1)
    )
    reach = float(stats.t.ppf(1.0 - level / 2.0, freedom)) * math.sqrt(within + without)
    free = len(outside) - 1
    spread = math.sqrt(outside.var(ddof=1) * free / float(stats.chi2.ppf(level / 2.0, free)))
    least = float(inside.mean() - outside.mean()) - reach
    return Gaussian(delta).epsilon(least / spread)


def canary_estimate(scores: Scores, *, delta: float) -> float:
    """An estimate of epsilon from the scores' means and spread. No bound: nothing is said of its error.

    Reference:
        Andrew, Kairouz, Oh, Oprea, McMahan, Suriyakumar 2024, "One-shot empirical privacy estimation for
        federated learning", section 3: two Gaussians are fitted, and their epsilon is the estimate.
    """
    inside, outside = scores.inside, scores.outside
    if min(len(inside), len(outside)) < 2:
        return 0.0
    spread = math.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2.0)
    distance = float(inside.mean() - outside.mean())
    if spread == 0.0:
        return MOST if distance > 0.0 else 0.0
    return Gaussian(delta).epsilon(distance / spread)


def _worst_rates(scores: Scores, threshold: float, level: float) -> tuple[float, float]:
    """Upper bounds of FPR and FNR that hold together (Clopper and Pearson, half of ``level`` each)."""
    positives, negatives = scores.mistaken(threshold)
    rates = []
    for mistakes, trials in ((positives, len(scores.outside)), (negatives, len(scores.inside))):
        whole = mistakes == trials
        rest = max(trials - mistakes, 1)
        bound = 1.0 if whole else float(special.betaincinv(mistakes + 1, rest, 1.0 - level / 2.0))
        rates.append(bound)
    return rates[0], rates[1]


def _epsilon_of(rates: tuple[float, float], delta: float) -> float:
    """Epsilon that errors of at most these rates need, by the definition of (epsilon, delta)-DP."""
    (first, second), found = rates, 0.0
    for mistake, other in ((first, second), (second, first)):
        if mistake > 0.0 and 1.0 - other - delta > mistake:
            found = max(found, math.log((1.0 - other - delta) / mistake))
    return min(found, MOST)


def multi_run(scores: Scores, threshold: float, *, delta: float, level: float) -> float:
    """Epsilon, at least: independent trials, any mechanism.

    Args:
        scores: Independent trials: of runs, or of canaries that meet neither each other nor each other's noise.
        threshold: Fixed before a score was seen; see ``threshold_for``.
        delta: Of the claim.
        level: Probability that the bound is above the truth.

    Reference:
        Jagielski, Ullman, Oprea 2020, "Auditing differentially private machine learning", section 4.
    """
    return _epsilon_of(_worst_rates(scores, threshold, level), delta)


def multi_run_curves(scores: Scores, threshold: float, curves: Curves, *, level: float) -> float:
    """Epsilon, at least: independent trials, curves of a known family.

    Args:
        scores: As for ``multi_run``.
        threshold: As for ``multi_run``.
        curves: The family. That a curve of it is refuted assumes nothing of the kind.
        level: Probability that the bound is above the truth.

    Reference:
        Nasr et al. 2023, "Tight auditing of differentially private machine learning", section 4.
    """
    rates = _worst_rates(scores, threshold, level)
    return weakest_refuted(curves, lambda mu: strongest(rates, curves, mu), LEAST, LARGEST)


def threshold_for(signal: float, spreads: tuple[float, float], trials: int, delta: float) -> float:
    """The threshold that promises ``multi_run`` most, by the plan alone: no score is looked at.

    Args:
        signal: Expected score of a canary that is in; it is 0 for one that is out.
        spreads: Standard deviations of scores inside and outside.
        trials: Of each kind.
        delta: Of the claim.
    """
    inside, outside = spreads
    thresholds = np.linspace(-4.0 * outside, signal + 4.0 * inside, 161)
    mistakes = (special.ndtr(-thresholds / outside), special.ndtr((thresholds - signal) / inside))
    tail = 1.0 - PLANNED / 2.0
    bounds = [
        special.betaincinv(rate * trials + 1, np.maximum(trials - rate * trials, 1e-9), tail)
        for rate in mistakes
    ]
    promised = [_epsilon_of((float(a), float(b)), delta) for a, b in zip(*bounds, strict=True)]
    return float(thresholds[int(np.argmax(promised))])
