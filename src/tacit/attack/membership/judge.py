"""What membership scores are worth: thresholds and attacks are chosen on other runs than those they judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tacit.attack.findings import Roc
from tacit.attack.measure import Ceiling, Estimate, auc, clustered

__all__ = ["Judged", "auc_ceiling", "best_threshold", "judge", "likely_positives", "roc"]

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

LOW_RATES = {"tpr_at_1": 0.01, "tpr_at_0.1": 0.001}
FEWEST_FALSE = 2
"""A threshold below which fewer negatives of the other runs lie is no estimate of a rate."""

ROC_POINTS = 60
_GRID = 2001


@dataclass(frozen=True, slots=True)
class Judged:
    """What one family of attacks scored.

    Args:
        measured: By metric, without a prefix.
        chosen: The attack that was chosen for most of the runs, by its advantage in the others.
    """

    measured: dict[str, Estimate]
    chosen: str


def best_threshold(positive: Floats, negative: Floats) -> tuple[float, float]:
    """The threshold at which TPR - FPR is largest, scores at or above it counting, and that difference."""
    values = np.concatenate([positive, negative])
    order = np.argsort(-values, kind="stable")
    steps = np.concatenate(
        [np.full(len(positive), 1.0 / len(positive)), np.full(len(negative), -1.0 / len(negative))]
    )
    ranked, gains = values[order], np.cumsum(steps[order])
    last = np.append(ranked[1:] != ranked[:-1], True)
    index = int(np.argmax(np.where(last, gains, -np.inf)))
    below = ranked[index + 1] if index + 1 < len(ranked) else ranked[index] - 1.0
    middle = 0.5 * (ranked[index] + below)
    threshold = middle if below < middle <= ranked[index] else ranked[index]
    return float(threshold), float(gains[index])


def likely_positives(ceiling: Ceiling, rate: float) -> float:
    """Largest TPR at a false positive rate, by both sides of a privacy profile.

    Reference:
        Dong, Roth, Su 2022, proposition 2.5: a trade-off function of add-or-remove neighbours is symmetric.
    """
    mirrored = (1.0 - math.exp(-e) * (1.0 - rate - d) for e, d in ceiling.profile)
    return min(ceiling.true_positives(rate), 1.0, *mirrored)


def auc_ceiling(ceiling: Ceiling) -> float:
    """Largest area under the ROC curve that a privacy profile allows: the integral of the largest TPR."""
    rates = np.linspace(0.0, 1.0, _GRID)
    values = np.array([likely_positives(ceiling, float(rate)) for rate in rates])
    return float(min(1.0, values[1:].mean()))  # a monotone function's upper sum: never too low


def judge(
    scores: Mapping[str, Sequence[Floats]],
    members: Sequence[Marks],
    ceiling: Ceiling | None,
    *,
    how: str = "",
) -> Judged:
    """Estimates of a family's best attack, with intervals over runs.

    Args:
        scores: By attack, for every run one score a record.
        members: For every run which records were in; at least two runs.
        ceiling: What theory allows; None where it promises nothing.
        how: More for the reader.

    Guarantee:
        Which attack stands for the family, and its threshold, are chosen for each run on the others alone, so
        that without any access the expected advantage is 0. Test:
        ``tests/attack/test_membership.py::test_without_access_the_estimates_keep_their_coverage``.
    """
    clean = {name: [np.nan_to_num(one) for one in found] for name, found in scores.items()}
    runs = range(len(members))
    folds = {name: [_fold(found, members, run) for run in runs] for name, found in clean.items()}
    picked = [max(folds, key=lambda name: folds[name][run].expected) for run in runs]
    areas = {name: _areas(found, members) for name, found in clean.items()}
    best = [max(areas, key=lambda name: _without(areas[name], run)) for run in runs]
    trials = sum(len(one) for one in members)
    method = f"attack and threshold chosen on the other runs; {trials} records" + (
        f"; {how}" if how else ""
    )
    limit = None if ceiling is None else ceiling.advantage
    measured = {
        "advantage": _over_runs(
            [folds[name][run].advantage for run, name in enumerate(picked)],
            (0.0, limit, trials, "advantage", method),
        ),
        "auc": _over_runs(
            [areas[name][run] for run, name in enumerate(best)],
            (0.5, None if ceiling is None else auc_ceiling(ceiling), trials, "auc", method),
        ),
    }
    for metric, rate in LOW_RATES.items():
        if (len(members) - 1) * len(members[0]) / 2 * rate < FEWEST_FALSE:
            continue
        leading = [max(folds, key=lambda n: folds[n][run].seen[metric]) for run in runs]
        false = float(np.mean([folds[n][r].false[metric] for r, n in enumerate(leading)]))
        limit = None if ceiling is None else likely_positives(ceiling, max(rate, false))
        note = f"{method}; realised false positive rate {false:.4f}"
        values = [folds[n][r].true[metric] for r, n in enumerate(leading)]
        measured[metric] = _over_runs(values, (max(rate, false), limit, trials, "share", note))
    return Judged(measured, max(set(picked), key=picked.count))


@dataclass(frozen=True, slots=True)
class _Fold:
    """One attack on one run, and what it scored on the others."""

    advantage: float
    expected: float
    true: dict[str, float]
    false: dict[str, float]
    seen: dict[str, float]


def _areas(scores: Sequence[Floats], members: Sequence[Marks]) -> list[float]:
    """Each run's part in the area under the ROC curve, members against non-members of other runs.

    Pairs within a run share its noise, which no threshold that was fixed beforehand can make use of.

    Returns:
        Values whose mean is the area, and whose spread over the runs gives its error: the two structural
        components of a run added up.

    Reference:
        Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data".
    """
    own, other = [], []
    for run in range(len(scores)):
        rest = [index for index in range(len(scores)) if index != run]
        positive = np.concatenate([scores[index][members[index]] for index in rest])
        negative = np.concatenate([scores[index][~members[index]] for index in rest])
        own.append(auc(scores[run][members[run]], negative).value)
        other.append(auc(positive, scores[run][~members[run]]).value)
    mean = 0.5 * float(np.mean(own) + np.mean(other))
    return [a + b - mean for a, b in zip(own, other, strict=True)]


def _without(values: Sequence[float], run: int) -> float:
    return sum(values) - values[run]


def _fold(scores: Sequence[Floats], members: Sequence[Marks], run: int) -> _Fold:
    others = [index for index in range(len(scores)) if index != run]
    positive = np.concatenate([scores[index][members[index]] for index in others])
    negative = np.concatenate([scores[index][~members[index]] for index in others])
    inside, outside = scores[run][members[run]], scores[run][~members[run]]
    threshold, expected = best_threshold(positive, negative)
    true, false, seen = {}, {}, {}
    descending = np.sort(negative)[::-1]
    for metric, rate in LOW_RATES.items():
        limit = descending[min(math.floor(rate * len(negative)), len(negative) - 1)]
        true[metric], false[metric] = (
            float((inside > limit).mean()),
            float((outside > limit).mean()),
        )
        seen[metric] = float((positive > limit).mean())
    advantage = float((inside >= threshold).mean() - (outside >= threshold).mean())
    return _Fold(advantage, expected, true, false, seen)


def _over_runs(
    values: Sequence[float], about: tuple[float, float | None, int, str, str]
) -> Estimate:
    """A mean over runs; where they all agree the rule of three bounds what was not seen."""
    null, ceiling, trials, unit, how = about
    bounds = (-1.0, 1.0) if unit == "advantage" else (0.0, 1.0)
    found = clustered(values, null=null, ceiling=ceiling, unit=unit, how=how, bounds=bounds)
    least = 3.0 / trials
    low = max(bounds[0], min(found.low, found.value - least))
    return replace(found, low=low, high=min(bounds[1], max(found.high, found.value + least)))


def roc(attack: str, scores: Sequence[Floats], members: Sequence[Marks]) -> Roc:
    """The ROC curve over all runs together, with points down to the smallest false positive rate."""
    positive = np.sort(np.concatenate([one[m] for one, m in zip(scores, members, strict=True)]))
    negative = np.sort(np.concatenate([one[~m] for one, m in zip(scores, members, strict=True)]))
    count = len(negative)
    wanted = np.geomspace(1.0, count, ROC_POINTS // 2)
    even = np.linspace(0.0, count, ROC_POINTS // 2)
    allowed = np.unique(np.concatenate([[0.0], wanted, even]).astype(np.int64))
    points = [(0.0, 0.0)]
    for number in allowed:
        if number >= count:
            break
        threshold = negative[count - 1 - number]
        false = (count - int(np.searchsorted(negative, threshold, side="right"))) / count
        true = 1.0 - int(np.searchsorted(positive, threshold, side="right")) / len(positive)
        points.append((false, true))
    points.append((1.0, 1.0))
    return Roc(attack, tuple(dict.fromkeys(points)))
