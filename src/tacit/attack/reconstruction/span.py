"""Sums of a linear model's updates span little: the search moves there.

A record's gradient in the weights is an outer product with the record itself, so that all sums over n
records, one row a round and output, span the n records and nothing else. What is searched for are n
coordinates a record instead of all its features, however many these are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.attack.reconstruction.gradients import LogisticUpdates, Updates
from tacit.attack.reconstruction.matching import Observed

__all__ = ["Span", "span_of", "unknowns_of"]

Floats = NDArray[np.float64]

WIDE = 4
"""Features for each record, and rows for two of them, from which on the span is worth finding."""


@dataclass(frozen=True, slots=True)
class Span:
    """A search for records in the span of their sums.

    Args:
        updates: What records send, as a function of their coordinates.
        seen: What was seen of it, in the same coordinates.
        basis: ``float64[n, k]``, orthonormal rows: coordinates times it are records.
    """

    updates: Updates
    seen: Observed
    basis: Floats


def unknowns_of(updates: Updates, rounds: int, count: int) -> int:
    """How many values a search for ``count`` records behind ``rounds`` sums solves for at once."""
    return count * (count if _spans(updates, rounds, count) else updates.features)


def _spans(updates: Updates, rounds: int, count: int) -> bool:
    if not isinstance(updates, LogisticUpdates):
        return False
    outputs, features = updates.shape
    return features >= WIDE * count and rounds * outputs >= 2 * count


def span_of(updates: Updates, seen: Observed) -> Span | None:
    """The span of the records behind sums; None where it is not smaller, or the model is not linear.

    Args:
        updates: What records send.
        seen: Sums over n records, in R rounds; what is known of the records besides is not needed here.
    """
    count, rounds = len(seen), len(seen.theta)
    if (
        seen.scaled
        or not isinstance(updates, LogisticUpdates)
        or not _spans(updates, rounds, count)
    ):
        return None
    outputs, features = updates.shape
    split = outputs * features
    slopes = seen.updates[:, :split].reshape(rounds * outputs, features)
    basis: Floats = np.linalg.svd(slopes, full_matrices=False)[2][:count]

    def inside(flat: Floats) -> Floats:
        weights = flat[:, :split].reshape(rounds, outputs, features) @ basis.T
        return np.concatenate([weights.reshape(rounds, -1), flat[:, split:]], axis=1)

    found = Observed(inside(seen.theta), inside(seen.updates), seen.labels)
    return Span(updates.over(count), found, basis)
