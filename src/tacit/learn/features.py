"""From a sanitised batch to feature vectors of bounded norm, by public ranges only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tacit.learn.feature_map import FeatureMap

if TYPE_CHECKING:  # Who checks models only need not load what reads data.
    from tacit.connect.batch import SanitisedBatch

__all__ = ["scale_features", "unit_columns"]

Floats = NDArray[np.float64]


def scale_features(
    batch: SanitisedBatch,
    *,
    scale: Literal["linear", "log1p"],
    norm: float,
    feature_map: FeatureMap = FeatureMap(),  # noqa: B008 - frozen
) -> Floats:
    """Feature vectors whose L2 norm is at most ``norm``.

    With ``u = (x - lower) / (upper - lower)`` from the contract's public range of the column:

    - ``linear``: ``v = 2 u - 1``.
    - ``log1p``: the same after ``sign(x) log1p(|x|)`` of value and range. It bends what spans orders
      of magnitude (an area in 100 to 5000) and leaves small quantities all but linear (a smoothness
      in 0.05 to 0.2); the curve therefore depends on the unit that the contract states.

    Either way ``v`` lies in [-1, 1]; then the record as a whole is shortened to ``norm``, if it is
    longer: ``v * min(1, norm / ||v||)``. With fixed features it is ``u`` that they are computed from, and
    ``norm`` times these is the result.

    Args:
        batch: Features ``float64[n, k]``, each within its column's range.
        scale: Curve of every column.
        norm: Largest L2 norm of a row (up to rounding), positive and finite.
        feature_map: Fixed features and public prior, if any.

    Returns:
        ``float64[n, k]``, read-only.

    Raises:
        ValueError: ``scale`` or ``norm`` is out of range.

    Guarantee:
        Row i depends, bit for bit, on record i and the public schema only, at any position and
        any ``n``; no statistic of the data enters. Test:
        ``tests/property/test_learn_features.py::test_rows_are_independent``.
    """
    if scale not in ("linear", "log1p"):
        raise ValueError(f"unknown scale {scale!r}")
    if not (math.isfinite(norm) and norm > 0):
        raise ValueError("norm must be positive")
    unit = unit_columns(batch, scale)
    if feature_map.fixed:
        mapped = norm * feature_map.apply(unit)
        mapped.setflags(write=False)
        return mapped
    scaled = 2.0 * unit - 1.0
    lengths = np.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    scaled *= norm / np.maximum(lengths, norm)
    scaled.setflags(write=False)
    return scaled


def unit_columns(batch: SanitisedBatch, scale: Literal["linear", "log1p"]) -> Floats:
    """Every column along its curve, from 0 at the lower end of its public range to 1 at the upper one.

    Args:
        batch: Features ``float64[n, k]``.
        scale: See ``scale_features``.

    Returns:
        ``float64[n, k]``, contiguous.
    """
    columns = batch.schema.features
    lower = np.array([column.lower for column in columns])
    upper = np.array([column.upper for column in columns])
    values: Floats = batch.features
    if scale == "log1p":
        values, lower, upper = _signed_log1p(values), _signed_log1p(lower), _signed_log1p(upper)
    return np.ascontiguousarray((values - lower) / (upper - lower))


def _signed_log1p(values: Floats) -> Floats:
    result: Floats = np.copysign(np.log1p(np.abs(values)), values)
    return result
