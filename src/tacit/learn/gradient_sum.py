"""The contribution of a data holder: a sum of clipped, encoded rows, one for every sampled unit.

A unit is a record, or an entity with several of them. Whatever is sampled, the same work is done: units
are gathered and padded to whole micro-batches, as many as all of them would fill, at least one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.learn.held_out import HeldOutCode
from tacit.learn.linear import Factors, LinearHead
from tacit.learn.memory import keep_freed_memory
from tacit.learn.models import Features, Model
from tacit.learn.row_code import RowCode
from tacit.privacy.integers import encode_records
from tacit.privacy.outer import encode_outer

__all__ = ["Encoding", "Records", "held_out_sum", "unit_sum"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Records = tuple[Features, Integers]
"""Scaled features ``float64[n, k]``, or ``float32``, and class indices ``int64[n]``."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How rows become integers, and how many are computed at a time.

    Args:
        clip_norm: L2 bound of one row, positive.
        grid: Value of one integer unit, positive.
        micro_batch: Units per computation, at least 1; the same at every site.
        scale: The public scale of adaptive clipping.
        padded: Whether the work is that of all units, whatever was sampled. Without it the time tells
            how many were: only where nobody has to be protected.

    Raises:
        ValueError: ``micro_batch`` is below 1.
    """

    clip_norm: float
    grid: float
    micro_batch: int
    scale: float = 1.0
    padded: bool = True

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise ValueError("micro_batch is at least 1")

    def add(self, rows: Floats, count: int, total: Integers) -> None:
        """Encodes rows and adds the first ``count`` of them to ``total``; the others are padding."""
        encoded = encode_records(rows, self.clip_norm, self.grid)
        encoded[count:] = 0  # padding has a gradient too: that of a zero record
        total += encoded.sum(axis=0)


@dataclass(frozen=True, slots=True)
class _Batch:
    """One micro-batch of units, padded: ``used[i, j]`` says whether unit i has a j-th record."""

    records: Records
    used: NDArray[np.bool_]
    count: int

    def means(self, values: Floats) -> Floats:
        """Means over each unit's records, added in order: ``[m c, d]`` to ``[m, d]``."""
        units, width = self.used.shape
        if width == 1:
            return values
        parts = values.reshape(units, width, -1)
        total: Floats = np.zeros((units, parts.shape[2]))
        for index in range(width):
            total += np.where(self.used[:, index, None], parts[:, index], 0.0)
        total /= np.maximum(self.used.sum(axis=1), 1)[:, None]
        return total


def unit_sum(
    model: Model,
    theta: Floats,
    records: Records,
    groups: Integers,
    code: RowCode,
    encoding: Encoding,
) -> Integers:
    """Integer sum of the sampled units' rows, ``int64[d + code.extra]``.

    An entity's gradient, and its metrics, are the mean over those of its records that are used.

    Args:
        model: Gives per-record gradients; a ``LinearHead`` is asked for their factors instead, which
            costs two matrix products where rows would cost as many elements as records times ``d``.
        theta: Parameters, ``float64[d]``.
        records: All records of the data holder.
        groups: ``int64[m, c]``, see ``privacy.sampling.draw_groups``.
        code: How a row is made up.
        encoding: How it becomes integers.

    Raises:
        ValueError: Shapes disagree.

    Guarantee:
        Adding or removing one unit, with all of its records, changes the result by exactly its encoded
        row, a function of its records, ``theta`` and public parameters, of integer norm at most
        ``floor(clip_norm / grid)`` as a whole, clip bit and metrics included, however many records it
        has; padding and units whose gradient is not finite contribute zero. Tests:
        ``tests/property/test_learn_gradient_sum.py::test_removing_a_record_removes_its_share``,
        ``::test_a_row_with_metrics_keeps_the_sensitivity`` and
        ``::test_removing_an_entity_removes_its_share``.

    Reference:
        Abadi et al. 2016, algorithm 1; McMahan et al. 2018 (one clipped contribution per user).
    """
    keep_freed_memory()
    total = np.zeros(model.dimension + code.extra, dtype=np.int64)
    factored = groups.shape[1] == 1 and code.clipping.mode != "per-layer"
    for batch in _batches(records, groups, encoding):
        x, y = batch.records
        if factored and isinstance(model, LinearHead):
            total += _outer_sum(model.factors(theta, x, y), model, batch.count, code, encoding)
            continue
        gradients = batch.means(model.gradients(theta, x, y))
        assessed = batch.means(model.assess(theta, x, y)) if code.metrics is not None else None
        encoding.add(code.rows(gradients, assessed, encoding.scale), batch.count, total)
    return total


def _outer_sum(
    factors: Factors, model: LinearHead, count: int, code: RowCode, encoding: Encoding
) -> Integers:
    """The rows of a linear head's first ``count`` records, summed without being written out."""
    norms = factors.norms()
    with np.errstate(all="ignore"):  # what is not finite is the encoder's business
        errors = factors.errors * code.clipping.factors(norms, encoding.scale)[:, None]
    beside = code.beside(norms, factors.assessed, encoding.scale)
    encoded = encode_outer(errors, factors.inputs, encoding.clip_norm, encoding.grid, beside)
    encoded.drop(slice(count, None))
    matrix, sums = encoded.sums()
    return np.concatenate([model.arranged(matrix), sums])


def held_out_sum(
    model: Model,
    theta: Floats,
    records: Records,
    groups: Integers,
    code: HeldOutCode,
    encoding: Encoding,
) -> Integers:
    """Integer sum of the evaluations of sampled held-out units, ``int64[code.coordinates]``.

    Arguments and guarantee as for ``unit_sum``, for units that nothing is trained on; ``groups`` has one
    record of each. Test:
    ``tests/property/test_learn_held_out.py::test_removing_a_held_out_record_removes_its_row``.
    """
    total = np.zeros(code.coordinates, dtype=np.int64)
    for batch in _batches(records, groups[:, :1], encoding):
        x, y = batch.records
        encoding.add(code.rows(model.assess(theta, x, y), y), batch.count, total)
    return total


def _batches(records: Records, groups: Integers, encoding: Encoding) -> Iterator[_Batch]:
    """Micro-batches of the sampled units and then of padding, as many as all units would fill."""
    (x, y), size = records, encoding.micro_batch
    if x.ndim != 2 or y.shape != (len(x),) or groups.ndim != 2:
        raise ValueError("x is [n, k], y is [n], groups is [m, c]")
    sampled = groups[groups[:, 0] >= 0]
    units = len(groups) if encoding.padded else len(sampled)
    for start in range(0, max(1, -(-units // size)) * size, size):
        chosen = sampled[start : start + size]
        group = np.full((size, groups.shape[1]), -1, dtype=np.int64)
        group[: len(chosen)] = chosen
        flat = group.reshape(-1)
        there = flat >= 0
        features = np.zeros((len(flat), x.shape[1]), dtype=x.dtype)
        labels = np.zeros(len(flat), dtype=np.int64)
        features[there], labels[there] = x[flat[there]], y[flat[there]]
        yield _Batch((features, labels), group >= 0, len(chosen))
