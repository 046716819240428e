"""The record-level contribution: a sum of clipped, encoded per-record gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.learn.linear import LinearHead
from tacit.learn.memory import keep_freed_memory
from tacit.learn.models import Features, Labels, Model
from tacit.learn.record_metrics import COORDINATES, MetricCode
from tacit.privacy.integers import encode_records
from tacit.privacy.outer import encode_outer

__all__ = ["record_sum"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def record_sum(  # noqa: PLR0913 - records, selection and public parameters are all needed
    model: Model,
    theta: Floats,
    x: Features,
    y: Labels,
    selected: NDArray[np.bool_],
    *,
    clip_norm: float,
    grid: float,
    micro_batch: int,
    metrics: MetricCode | None = None,
) -> Integers:
    """Integer sum of the selected records' clipped gradients, ``int64[d]``; with metrics ``[d + 2]``.

    The records are gathered and padded to whole micro-batches, as many as all ``n`` records would
    fill, at least one: the work done does not depend on how many were selected.

    Args:
        model: Gives per-record gradients; a ``LinearHead`` is asked for their factors instead, which
            costs two matrix products where rows would cost as many elements as records times ``d``.
        theta: Parameters, ``float64[d]``.
        x: Scaled features, ``float64[n, k]`` or ``float32``.
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
    keep_freed_memory()
    encoding = _Encoding(clip_norm, grid, metrics)
    chosen = np.flatnonzero(selected)
    total = np.zeros(model.dimension + (COORDINATES if metrics is not None else 0), dtype=np.int64)
    for start in range(0, max(n, 1), micro_batch):
        rows = chosen[start : start + micro_batch]
        features = np.zeros((micro_batch, x.shape[1]), dtype=x.dtype)
        labels = np.zeros(micro_batch, dtype=np.int64)
        features[: len(rows)], labels[: len(rows)] = x[rows], y[rows]
        if isinstance(model, LinearHead):
            total += encoding.outer_sum(model, theta, features, labels, len(rows))
        else:
            total += encoding.row_sum(model, theta, features, labels, len(rows))
    return total


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How a micro-batch becomes an integer sum; only the first ``present`` records count.

    What follows them is padding, which has a gradient too: that of a zero record.
    """

    clip_norm: float
    grid: float
    metrics: MetricCode | None

    def row_sum(
        self, model: Model, theta: Floats, x: Features, y: Labels, present: int
    ) -> Integers:
        """For any model: per-record rows, written out."""
        rows = model.gradients(theta, x, y)
        if self.metrics is not None:
            rows = self.metrics.rows(rows, model.assess(theta, x, y))
        encoded = encode_records(rows, self.clip_norm, self.grid)
        encoded[present:] = 0
        total: Integers = encoded.sum(axis=0)
        return total

    def outer_sum(
        self, model: LinearHead, theta: Floats, x: Features, y: Labels, present: int
    ) -> Integers:
        """For a linear head: the same from factors, without the rows."""
        factors = model.factors(theta, x, y)
        errors, beside = factors.errors, None
        if self.metrics is not None:
            errors = errors * self.metrics.factors(factors.norms())[:, None]
            beside = self.metrics.code(factors.assessed)
        encoded = encode_outer(errors, factors.inputs, self.clip_norm, self.grid, beside)
        encoded.drop(slice(present, None))
        matrix, sums = encoded.sums()
        return np.concatenate([model.arranged(matrix), sums])
