"""The record-level contribution: a sum of clipped, encoded per-record gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tacit.learn.models import Model
from tacit.learn.record_metrics import COORDINATES, MetricCode
from tacit.privacy.integers import add_encoded

__all__ = ["record_sum"]


def record_sum(  # noqa: PLR0913 - records, selection and public parameters are all needed
    model: Model,
    theta: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.int64],
    selected: NDArray[np.bool_],
    *,
    clip_norm: float,
    grid: float,
    micro_batch: int,
    metrics: MetricCode | None = None,
) -> NDArray[np.int64]:
    """Integer sum of the selected records' clipped gradients, ``int64[d]``; with metrics ``[d + 2]``.

    The records are gathered and padded to whole micro-batches, as many as all ``n`` records would
    fill, at least one: the work done does not depend on how many were selected.

    Args:
        model: Gives per-record gradients.
        theta: Parameters, ``float64[d]``.
        x: Scaled features, ``float64[n, k]``.
        y: Class indices, ``int64[n]``.
        selected: The round's Poisson sample, ``bool[n]``.
        clip_norm: L2 bound of one record's gradient, positive.
        grid: Value of one integer unit, positive.
        micro_batch: Records per gradient computation, at least 1; the same at every site.
        metrics: Appends two metric coordinates to every record's row, within the same bound.

    Raises:
        ValueError: Shapes disagree or ``micro_batch`` is below 1.

    Guarantee:
        Adding or removing one record changes the result by exactly that record's encoded row, a
        function of the record, ``theta`` and public parameters, of integer norm at most
        ``floor(clip_norm / grid)`` as a whole, metrics included; padding and records whose gradient
        is not finite contribute zero. Tests:
        ``tests/property/test_learn_gradient_sum.py::test_removing_a_record_removes_its_share``,
        ``::test_a_row_with_metrics_keeps_the_sensitivity``.

    Reference:
        Abadi et al. 2016, algorithm 1.
    """
    n = len(x)
    if x.ndim != 2 or y.shape != (n,) or selected.shape != (n,) or micro_batch < 1:
        raise ValueError("x is [n, k], y and selected are [n], micro_batch is at least 1")
    chosen = np.flatnonzero(selected)
    features, labels = np.empty((micro_batch, x.shape[1])), np.empty(micro_batch, dtype=np.int64)
    total = np.zeros(model.dimension + (0 if metrics is None else COORDINATES), dtype=np.int64)
    for start in range(0, max(1, n), micro_batch):
        batch = chosen[start : start + micro_batch]
        features[: len(batch)], features[len(batch) :] = x[batch], 0.0
        labels[: len(batch)], labels[len(batch) :] = y[batch], 0
        if metrics is None:
            parts = model.gradient_parts(theta, features, labels)
        else:
            assessed = model.assess(theta, features, labels)
            parts = [metrics.rows(model.gradients(theta, features, labels), assessed)]
        # padding has a gradient too, that of a zero record
        add_encoded(parts, clip_norm, grid, total, kept=len(batch))
        del parts  # before the next ones take as much again
    return total
