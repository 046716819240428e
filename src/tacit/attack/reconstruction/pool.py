"""The records a reconstruction is judged against, and the way back from features to what was written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tacit.attack.findings import Picture
from tacit.attack.scratch import DataPool
from tacit.learn.features import unit_columns
from tacit.party.workload import Workload

__all__ = ["PSNR_FLOOR", "TOLERANCE", "Pool", "psnr"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

PSNR_FLOOR = 20.0
"""An image counts as reconstructed above this, in dB, if it is nearest to its original besides."""

TOLERANCE = 0.01
"""A value counts as recovered within this share of its column's public range. In the bundled table no two
records come within three times as much of each other in every column."""

SHORTENED = 1e-3
"""A record whose length is this close to the norm was, for all that its features say, shortened to it."""

MOST_CROSSED = 64
"""Columns up to which their products are used to estimate a length."""
RIDGE = 1e-3


def psnr(found: Floats, truth: Floats) -> Floats:
    """Peak signal to noise ratio by row in dB, ``float64[n]``; values from 0 to 1, at most 150 dB."""
    error = np.maximum(np.mean((found - truth) ** 2, axis=-1), 1e-15)
    ratios: Floats = -10.0 * np.log10(error)
    return ratios


@dataclass(frozen=True)
class Pool:
    """All public records: candidates, background knowledge, and the yardstick.

    Args:
        features: As the model sees them, ``float64[N, k]``.
        labels: Class indices, ``int64[N]``.
        values: As they were written down, in shares of the public range, ``float64[N, c]``.
        curve: Along the job's curve, ``float64[N, c]`` from 0 to 1.
        lower: Lower ends of the public ranges, ``float64[c]``.
        upper: Upper ends, ``float64[c]``.
        scale: The job's curve, ``linear`` or ``log1p``.
        norm: L2 bound of a scaled record.
        mapped: Whether the model sees fixed features instead of columns: there is no way back then, and
            ``values`` are those features, scaled.
    """

    features: Floats
    labels: Rows
    values: Floats
    curve: Floats
    lower: Floats
    upper: Floats
    scale: str
    norm: float
    mapped: bool = False

    @classmethod
    def of(cls, workload: Workload, data: DataPool) -> Pool:
        """The pool of a data set for a job's computation."""
        options, columns = workload.job.features, data.batch.schema.features
        lower = np.array([column.lower for column in columns], dtype=np.float64)
        upper = np.array([column.upper for column in columns], dtype=np.float64)
        features = np.array(workload.prepare(data.batch).features, dtype=np.float64)
        mapped = bool(workload.model.feature_map.fixed)
        values = (np.asarray(data.batch.features, dtype=np.float64) - lower) / (upper - lower)
        return cls(
            features=features,
            labels=np.array(data.batch.labels, dtype=np.int64),
            values=(features / options.norm + 1.0) / 2.0 if mapped else values,
            curve=unit_columns(data.batch, options.scale),
            lower=lower,
            upper=upper,
            scale=options.scale,
            norm=float(options.norm),
            mapped=mapped,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def image(self) -> tuple[int, int] | None:
        """Height and width, if the columns are pixels: a square number of columns of one range."""
        side = math.isqrt(self.values.shape[1])
        alike = np.ptp(self.lower) == 0 and np.ptp(self.upper) == 0
        return (side, side) if alike and side >= 4 and side**2 == self.values.shape[1] else None

    def restored(self, features: Floats, hidden: Rows) -> Floats:
        """What was written down, from features: in shares of the public ranges.

        Scaling shortens long records, which loses one number of each. It is estimated by ridge regression
        of length on direction over the records that the adversary knows: all but the hidden ones.

        Args:
            features: ``float64[n, k]``, as an attack found them.
            hidden: Rows of the pool that the adversary does not know, ``int64[h]``.

        Returns:
            ``float64[n, c]`` within 0 and 1.
        """
        found = np.nan_to_num(np.atleast_2d(features), posinf=0.0, neginf=0.0)
        if self.mapped:
            return np.clip((found / self.norm + 1.0) / 2.0, 0.0, 1.0)
        lengths = np.linalg.norm(found, axis=1)
        shortened = lengths >= self.norm * (1.0 - SHORTENED)
        if shortened.any():
            directions = found[shortened] / lengths[shortened, None]
            wanted = np.maximum(self.norm, self._lengths(directions, hidden))
            found = found.copy()
            found[shortened] = directions * wanted[:, None]
        curve = np.clip((found + 1.0) / 2.0, 0.0, 1.0)
        if self.scale == "linear":
            return curve
        low, high = _log1p(self.lower), _log1p(self.upper)
        bent = curve * (high - low) + low
        raw = np.copysign(np.expm1(np.abs(bent)), bent)
        return np.clip((raw - self.lower) / (self.upper - self.lower), 0.0, 1.0)

    def _lengths(self, directions: Floats, hidden: Rows) -> Floats:
        """The lengths that records had before they were shortened, from their directions."""
        known = np.setdiff1d(np.arange(len(self)), hidden)
        scaled = 2.0 * self.curve[known] - 1.0
        lengths = np.linalg.norm(scaled, axis=1)
        if not (lengths > self.norm * (1.0 + SHORTENED)).any():
            return np.full(len(directions), self.norm)
        inputs = _quadratic(scaled / np.maximum(lengths, 1e-12)[:, None])
        mean, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-12
        inputs = (inputs - mean) / spread
        kernel = inputs @ inputs.T
        kernel[np.diag_indices_from(kernel)] += RIDGE
        weights = np.linalg.solve(kernel, lengths - lengths.mean())
        found: Floats = ((_quadratic(directions) - mean) / spread) @ (inputs.T @ weights)
        predicted: Floats = found + lengths.mean()
        return predicted

    def nearest(self, values: Floats) -> Rows:
        """The row of the pool nearest to each, ``int64[n]``."""
        squares = (self.values**2).sum(axis=1)
        distances = squares[None, :] - 2.0 * values @ self.values.T
        places: Rows = np.argmin(distances, axis=1).astype(np.int64)
        return places

    def close(self, values: Floats, rows: Rows) -> NDArray[np.bool_]:
        """Which of them are good enough by themselves, whatever lies nearest: ``bool[n]``."""
        if self.image is not None:
            return psnr(values, self.values[rows]) > PSNR_FLOOR
        within: NDArray[np.bool_] = np.abs(values - self.values[rows]) <= TOLERANCE
        return np.asarray(within.all(axis=1), dtype=np.bool_)

    def columns(self, values: Floats, rows: Rows) -> Floats:
        """The share of values within the tolerance, by record: ``float64[n]``."""
        shares: Floats = (np.abs(values - self.values[rows]) <= TOLERANCE).mean(axis=1)
        return shares

    def same(self, first: Rows, second: Rows) -> NDArray[np.bool_]:
        """Whether rows hold the same record, equal ones included: ``bool[n]``."""
        equal: NDArray[np.bool_] = (self.values[first] == self.values[second]).all(axis=-1)
        return equal

    def reconstructed(self, values: Floats, rows: Rows) -> NDArray[np.bool_]:
        """Which records were reconstructed: close, and nearest to the true one of all: ``bool[n]``."""
        return self.close(values, rows) & self.same(self.nearest(values), rows)

    def recovered(self, values: Floats, members: Rows) -> NDArray[np.bool_]:
        """Which members some reconstruction is of, when nobody knows whose is whose: ``bool[m]``."""
        nearest = self.nearest(values)
        good = self.close(values, nearest)
        return np.array([bool((good & self.same(nearest, row)).any()) for row in members])

    @cached_property
    def null(self) -> float:
        """Rate of reconstruction without access.

        The larger of two: the mean of the record's class (without it), and a random record of the pool,
        which is right once in as many draws as there are records.
        """
        return max(float(self._class_means_hit.mean()), 1.0 / len(self))

    @cached_property
    def null_columns(self) -> float:
        """Share of values within the tolerance of the class mean."""
        return float(self.columns(self._class_means, np.arange(len(self))).mean())

    @cached_property
    def _class_means(self) -> Floats:
        means = np.zeros_like(self.values)
        for label in np.unique(self.labels):
            mine = self.labels == label
            total, count = self.values[mine].sum(axis=0), int(mine.sum())
            means[mine] = (total - self.values[mine]) / max(1, count - 1)
        return means

    @cached_property
    def _class_means_hit(self) -> NDArray[np.bool_]:
        return self.reconstructed(self._class_means, np.arange(len(self)))

    def picture(self, row: int, found: Floats, caption: str) -> Picture:
        """Original and reconstruction, for the page."""
        shape = self.image or (1, self.values.shape[1])
        clipped = np.clip(found, 0.0, 1.0)
        return Picture(_rounded(self.values[row]), _rounded(clipped), shape, caption)


def _rounded(values: Floats) -> tuple[float, ...]:
    listed: Sequence[float] = values.round(4).tolist()
    return tuple(listed)


def _quadratic(directions: Floats) -> Floats:
    """Columns and their products; columns alone where the products would be too many."""
    if directions.shape[1] > MOST_CROSSED:
        return directions
    first, second = np.triu_indices(directions.shape[1])
    return np.concatenate([directions, directions[:, first] * directions[:, second]], axis=1)


def _log1p(values: Floats) -> Floats:
    bent: Floats = np.copysign(np.log1p(np.abs(values)), values)
    return bent
