"""Sums over records by name, for tests that know nothing of entities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tacit.learn.gradient_sum import Encoding, unit_sum
from tacit.learn.models import Model
from tacit.learn.record_metrics import MetricCode
from tacit.learn.row_code import RowCode

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
    """``unit_sum`` over the selected records, clipped flat."""
    if selected.shape != (len(x),):
        raise ValueError("selected is [n]")
    groups = np.where(selected, np.arange(len(x)), -1)[:, None]
    code = RowCode.of(clip_norm, metrics=metrics)
    return unit_sum(model, theta, (x, y), groups, code, Encoding(clip_norm, grid, micro_batch))
