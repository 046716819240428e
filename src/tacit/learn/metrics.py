"""Metrics on the job's public evaluation set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tacit.errors import RoundAborted
from tacit.learn.models import Features, Model

__all__ = ["accuracy", "auc", "evaluate"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def accuracy(scores: Floats, labels: Labels) -> float:
    """Fraction of records whose highest score is their label's; ties go to the lower class.

    Args:
        scores: ``float64[n, classes]``, n at least 1.
        labels: ``int64[n]``, class indices.
    """
    return float(np.mean(scores.argmax(axis=1) == labels))


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive record scores above a negative one, a tie counting half.

    Args:
        scores: ``float64[n]``, finite.
        positive: ``bool[n]``.

    Raises:
        ValueError: One of the two groups is empty, or a score is not finite.

    Reference:
        Mann and Whitney 1947; ranks shared within ties.
    """
    positives = int(np.count_nonzero(positive))
    negatives = len(positive) - positives
    if not positives or not negatives:
        raise ValueError("auc needs positive and negative records")
    if not np.isfinite(scores).all():
        raise ValueError("auc needs finite scores")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    twice_ranks = 2 * np.cumsum(counts) - counts + 1  # integers: exact, whatever the ties
    twice_wins = int(twice_ranks[inverse][positive].sum()) - positives * (positives + 1)
    return twice_wins / (2 * positives * negatives)


def evaluate(model: Model, theta: Floats, x: Features, y: Labels) -> dict[str, float]:
    """``accuracy``, ``loss`` and ``auc`` (macro one-vs-rest for more than two classes).

    ``auc`` averages over the classes that occur and is absent when only one does.

    Args:
        model: The model.
        theta: Its parameters, ``float64[d]``.
        x: Scaled features, ``float64[n, k]`` or ``float32``, n at least 1.
        y: ``int64[n]``, class indices.

    Raises:
        RoundAborted: The model's scores are not finite.
        ValueError: There are no records.
    """
    if not len(y):
        raise ValueError("there are no records to evaluate on")
    scores = model.scores(theta, x)
    if not np.isfinite(scores).all():
        raise RoundAborted(
            "learn.diverged",
            "the model's scores are not finite",
            retryable=False,
            remedy="lower training.learning_rate",
        )
    result = {"accuracy": accuracy(scores, y), "loss": model.loss(theta, x, y)}
    present = [label for label in range(scores.shape[1]) if 0 < np.sum(y == label) < len(y)]
    if scores.shape[1] == 2:
        present = present[-1:]
    if present:
        areas = [auc(scores[:, label], y == label) for label in present]
        result["auc"] = float(np.mean(areas))
    return result
