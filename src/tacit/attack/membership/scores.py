"""Membership scores of a released model: loss, LiRA and RMIA, as pure functions of score matrices.

Rows are models, columns are records. ``target`` is ``float64[t, n]``, ``shadow`` is ``float64[s, n]`` and
``inside`` is ``bool[s, n]``: whether a shadow model trained on a record. Higher results speak for membership.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["lira_offline", "lira_online", "logit_confidence", "rmia"]

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

LEAST_DEVIATION = 1e-6
"""Shadow models that all agree to the last digit would otherwise divide by zero."""

ENOUGH = 64
"""From so many shadow models of a kind on every record has a variance of its own; below it they share one."""

SMALLEST = 1e-30


def logit_confidence(losses: Floats) -> Floats:
    """The logit of the probability that a model gave the true label, from its cross-entropy in nats.

    Reference:
        Carlini et al. 2022, "Membership inference attacks from first principles", section V-A.
    """
    safe = np.maximum(losses, SMALLEST)
    return -safe - np.log(-np.expm1(-safe))


def _deviation(values: Floats, mean: Floats, mask: Marks) -> Floats:
    """Standard deviation over the masked rows: by column where there are enough, else one for all."""
    squares = np.where(mask, (values - mean) ** 2, 0.0)
    counts = mask.sum(axis=0)
    if counts.min() >= ENOUGH:
        own: Floats = np.sqrt(squares.sum(axis=0) / (counts - 1))
        return np.maximum(own, LEAST_DEVIATION)
    free = max(1, int(counts.sum()) - values.shape[1])
    pooled = math.sqrt(float(squares.sum()) / free)
    return np.full(values.shape[1], max(pooled, LEAST_DEVIATION))


def _mean(values: Floats, mask: Marks) -> Floats:
    counts = mask.sum(axis=0)
    if not counts.all():
        raise ValueError("every record needs a shadow model of the kind")
    mean: Floats = np.where(mask, values, 0.0).sum(axis=0) / counts
    return mean


def lira_offline(target: Floats, shadow: Floats, inside: Marks) -> Floats:
    """How far a score lies above those of models that never saw the record, in standard deviations.

    Args:
        target: Logit-scaled confidences of the models under attack.
        shadow: The same of the adversary's own models.
        inside: Which of those saw which record; every record has at least one that did not.

    Raises:
        ValueError: A record that every shadow model saw.

    Reference:
        Carlini et al. 2022, section VI-A: monotone in their one-sided ``1 - Pr[Z > score]``.
    """
    outside = ~inside
    mean = _mean(shadow, outside)
    return (target - mean) / _deviation(shadow, mean, outside)


def lira_online(target: Floats, shadow: Floats, inside: Marks) -> Floats:
    """Log ratio of the Gaussian densities of a score, with and without the record.

    Args:
        target: As for ``lira_offline``.
        shadow: As for ``lira_offline``.
        inside: As for ``lira_offline``; every record has models of both kinds.

    Raises:
        ValueError: A record that all shadow models saw, or none.

    Reference:
        Carlini et al. 2022, algorithm 1; one variance for all records with few shadow models, section V-B.
    """
    found = np.zeros_like(target)
    for mask, sign in ((inside, 1.0), (~inside, -1.0)):
        mean = _mean(shadow, mask)
        deviation = _deviation(shadow, mean, mask)
        found += sign * (-0.5 * ((target - mean) / deviation) ** 2 - np.log(deviation))
    return found


def rmia(
    target: Floats, shadow: Floats, inside: Marks, population: Marks, *, gamma: float = 1.0
) -> Floats:
    """The share of population records that a record's likelihood ratio dominates.

    Args:
        target: Probabilities of the true label, in (0, 1].
        shadow: The same of the adversary's own models.
        inside: Which of those saw which record; a record has models of both kinds, or is in the population.
        population: ``bool[n]``: columns that serve as the population; a record is not compared to itself.
        gamma: By how much a ratio has to exceed another.

    Returns:
        ``float64[t, n]``, from 0 to 1.

    Reference:
        Zarifzadeh, Liu, Shokri 2024, "Low-cost high-power membership inference attacks", equations 2 to 4,
        online: Pr(x) is the mean over models of both kinds, each kind of the same weight.
    """
    counts = inside.sum(axis=0)
    both = (counts > 0) & (counts < len(inside))
    mean_in = np.where(inside, shadow, 0.0).sum(axis=0) / np.maximum(counts, 1)
    mean_out = np.where(inside, 0.0, shadow).sum(axis=0) / np.maximum(len(inside) - counts, 1)
    prior = np.where(both, 0.5 * (mean_in + mean_out), shadow.mean(axis=0))
    ratios = target / np.maximum(prior, SMALLEST)
    found = np.empty_like(target)
    for row, ratio in enumerate(ratios):
        others = np.sort(ratio[population])
        below = np.searchsorted(others, ratio / gamma, side="right").astype(np.float64)
        itself = population & (ratio >= gamma * ratio)
        found[row] = (below - itself) / np.maximum(len(others) - population, 1)
    return found
