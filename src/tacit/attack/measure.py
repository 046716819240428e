"""What a measured attack is worth: estimates with intervals, beside chance and beside what theory allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from tacit.privacy import accounting
from tacit.privacy.plan import Plan

__all__ = [
    "Ceiling",
    "Estimate",
    "auc",
    "ceiling_of",
    "clustered",
    "difference",
    "proportion",
    "true_positives",
]

Floats = NDArray[np.float64]
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """One measured number.

    Args:
        value: The estimate.
        low: Lower end of its 95% interval.
        high: Upper end; infinite where the figure is a lower bound, that holds with 95% confidence.
        null: What an adversary without any access scores.
        ceiling: What no adversary can exceed, by theory; None where theory promises nothing.
        trials: How many independent trials are behind it.
        unit: ``share``, ``advantage``, ``auc``, ``epsilon``, ``accuracy``, ``bytes``, ...
        how: Method of the interval and anything a reader must know, in one line.
    """

    value: float
    low: float
    high: float
    null: float | None
    ceiling: float | None
    trials: int
    unit: str
    how: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.low <= self.value <= self.high):
            raise ValueError("an estimate lies in its interval")

    @property
    def above_null(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.null is not None and self.low > self.null

    @property
    def one_sided(self) -> bool:
        """Whether it is a lower bound: how large the figure may be, nobody measured."""
        return self.high == math.inf

    @property
    def within_ceiling(self) -> bool | None:
        """Whether the data are consistent with the ceiling; None without one."""
        return None if self.ceiling is None else self.low <= self.ceiling

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Estimate:
        """Reads what ``record`` made."""
        return cls(**record)


def proportion(
    hits: int, trials: int, *, null: float | None, ceiling: float | None = None, how: str = ""
) -> Estimate:
    """A share of independent trials, with the exact interval of Clopper and Pearson.

    Raises:
        ValueError: No trials, or more hits than trials.
    """
    if not 0 <= hits <= trials or not trials:
        raise ValueError("hits lie between 0 and trials, and there is at least one trial")
    tail = (1.0 - CONFIDENCE) / 2.0
    low = float(stats.beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1.0 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    method = "Clopper-Pearson" + (f"; {how}" if how else "")
    return Estimate(hits / trials, low, high, null, ceiling, trials, "share", method)


def clustered(
    values: Sequence[float],
    *,
    null: float | None,
    ceiling: float | None = None,
    unit: str = "share",
    how: str = "",
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """A mean over independent runs, whose trials inside are not: Student's t over the runs.

    Args:
        values: One per run, at least two.
        null: Chance.
        ceiling: Theory.
        unit: See ``Estimate``.
        how: More for the reader.
        bounds: The interval is cut to these.
    """
    if len(values) < 2:
        raise ValueError("an interval over runs needs at least two")
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1.0 + CONFIDENCE) / 2.0, len(values) - 1)) * error
    low, high = max(bounds[0], mean - reach), min(bounds[1], mean + reach)
    method = "Student t over runs" + (f"; {how}" if how else "")
    return Estimate(mean, min(low, mean), max(high, mean), null, ceiling, len(values), unit, method)


def difference(
    first: tuple[int, int],
    second: tuple[int, int],
    *,
    null: float | None = 0.0,
    ceiling: float | None = None,
    how: str = "",
) -> Estimate:
    """An advantage, TPR less FPR, of independent trials: Newcombe's interval from Wilson scores.

    Args:
        first: True positives and trials.
        second: False positives and trials.
        null: Chance.
        ceiling: Theory.
        how: More for the reader.

    Reference:
        Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    (p, low_p, high_p), (q, low_q, high_q) = _wilson(*first), _wilson(*second)
    value = p - q
    low = value - math.hypot(p - low_p, high_q - q)
    high = value + math.hypot(high_p - p, q - low_q)
    method = "Newcombe" + (f"; {how}" if how else "")
    trials = min(first[1], second[1])
    return Estimate(value, low, high, null, ceiling, trials, "advantage", method)


def _wilson(hits: int, trials: int) -> tuple[float, float, float]:
    z = float(stats.norm.ppf((1.0 + CONFIDENCE) / 2.0))
    share = hits / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    reach = z * spread / (1 + z * z / trials)
    return share, min(share, centre - reach), max(share, centre + reach)


def auc(
    positive: Floats, negative: Floats, *, null: float | None = 0.5, ceiling: float | None = None
) -> Estimate:
    """Area under the ROC curve of independent scores, with DeLong's interval, on the logit scale.

    Args:
        positive: Scores that ought to be high, at least two.
        negative: Scores that ought to be low, at least two.
        null: Chance.
        ceiling: Theory.

    Reference:
        DeLong, DeLong, Clarke-Pearson 1988; ranks as in Sun and Xu 2014.
    """
    m, n = len(positive), len(negative)
    if m < 2 or n < 2:
        raise ValueError("an AUC needs at least two scores of each kind")
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    inner = stats.rankdata(positive), stats.rankdata(negative)
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    above = (ranks[:m] - inner[0]) / n
    below = 1.0 - (ranks[m:] - inner[1]) / m
    error = math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / n)
    reach = float(stats.norm.ppf((1.0 + CONFIDENCE) / 2.0)) * error
    low, high = max(0.0, value - reach), min(1.0, value + reach)
    if error > 0.0 and 0.0 < value < 1.0:  # on the logit scale: near the ends the law is skewed
        odds, spread = math.log(value / (1.0 - value)), reach / (value * (1.0 - value))
        low, high = (1.0 / (1.0 + math.exp(-odds + sign * spread)) for sign in (1.0, -1.0))
    if error == 0.0:  # separated completely: the rule of three bounds what was not seen
        low, high = (max(0.0, value - 3.0 / min(m, n)), min(1.0, value + 3.0 / min(m, n)))
    return Estimate(value, low, high, null, ceiling, min(m, n), "auc", "DeLong")


def true_positives(positive: Floats, negative: Floats, false_positive_rate: float) -> float:
    """TPR at the threshold that at most so large a share of ``negative`` exceeds."""
    allowed = math.floor(false_positive_rate * len(negative))
    threshold = np.sort(negative)[::-1][allowed] if allowed < len(negative) else -np.inf
    return float((positive > threshold).mean())


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What differential privacy allows any adversary at all, from the accountant's privacy profile.

    Args:
        epsilon: At the plan's delta, against this adversary.
        advantage: Largest TPR - FPR of a membership test: delta at epsilon 0.
        profile: ``(epsilon, delta)`` pairs.
    """

    epsilon: float
    advantage: float
    profile: tuple[tuple[float, float], ...]

    def identification(self, candidates: int) -> float:
        """Largest rate at which the true one of so many equally likely candidates is picked (ReRo).

        Reference:
            Hayes, Mahloujifar, Balle 2023, "Bounding training data reconstruction in DP-SGD": success is
            at most the largest probability that an event of probability 1 / M without the record has with it.
        """
        return self.true_positives(1.0 / candidates)

    def true_positives(self, false_positive_rate: float) -> float:
        """Largest TPR of a membership test at a false positive rate.

        Reference:
            Kairouz, Oh, Viswanath 2015: TPR <= exp(epsilon) FPR + delta(epsilon) and
            1 - FPR <= exp(epsilon) (1 - TPR) + delta(epsilon), for every epsilon.
        """
        rate = false_positive_rate
        above = (math.exp(e) * rate + d for e, d in self.profile)
        below = (1.0 - math.exp(-e) * (1.0 - rate - d) for e, d in self.profile)
        return min(1.0, *above, *below)


def ceiling_of(plan: Plan, rounds: int | None = None, colluding: int | None = None) -> Ceiling:
    """The ceiling of a plan, for one unit.

    Args:
        plan: The run's plan.
        rounds: Rounds that the adversary sees; all of them by default.
        colluding: Helpers whose noise it knows; the plan's ``max_colluding`` by default.

    Returns:
        Without differential privacy, or against all helpers: epsilon infinite, everything else 1.
    """
    rounds = plan.rounds if rounds is None else rounds
    releases = plan.releases(rounds, colluding)
    if releases is None:
        return Ceiling(math.inf, 1.0, ((0.0, 1.0),))
    rate = releases.sampling.rate if releases.sampling.kind == "secret" else 1.0
    profile = _profile(releases.noise_ratio, rate, rounds)
    return Ceiling(plan.epsilon(rounds, colluding, "leader"), profile[0][1], profile)


@lru_cache(maxsize=64)
def _profile(ratio: float, rate: float, rounds: int) -> tuple[tuple[float, float], ...]:
    epsilons = [i / 20.0 for i in range(201)]
    found = accounting.deltas(
        noise_ratio=ratio, sampling_rate=rate, rounds=rounds, epsilons=epsilons
    )
    return tuple(zip(epsilons, found, strict=True))
