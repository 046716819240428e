"""Training metrics as two more coordinates of a record's row: its loss, and whether it is right.

They share the row's norm with the gradient, hence its sensitivity, its noise and its charge: a metric
is no second release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["COORDINATES", "MetricCode"]

Floats = NDArray[np.float64]

COORDINATES = 2
"""Number of coordinates that the metrics take."""


@dataclass(frozen=True, slots=True)
class MetricCode:
    """How a record's metrics lie in its row.

    Both are coded symmetrically, which halves the noise of what is decoded: a loss of 0 and a right
    answer as ``+unit``, a loss of ``loss_bound`` or more and a wrong answer as ``-unit``.

    Args:
        clip_norm: L2 bound of the whole row, positive.
        share: Part of the squared bound that the two coordinates take, in (0, 0.5].
        loss_bound: Largest loss that is told apart, positive.

    Raises:
        ValueError: A number is out of range.
    """

    clip_norm: float
    share: float
    loss_bound: float

    def __post_init__(self) -> None:
        for value in (self.clip_norm, self.loss_bound):
            if not (math.isfinite(value) and value > 0):
                raise ValueError("clip_norm and loss_bound must be positive")
        if not 0 < self.share <= 0.5:
            raise ValueError("the metrics' share must lie in (0, 0.5]")

    @property
    def unit(self) -> float:
        """Largest magnitude of either coordinate; the pair has norm ``clip_norm sqrt(share)``."""
        return self.clip_norm * math.sqrt(self.share / COORDINATES)

    @property
    def gradient_norm(self) -> float:
        """L2 bound that is left to the gradient: ``clip_norm sqrt(1 - share)``."""
        return self.clip_norm * math.sqrt(1.0 - self.share)

    def rows(self, gradients: Floats, assessed: Floats) -> Floats:
        """Rows of norm ``clip_norm`` at most, up to rounding: clipped gradients, then metrics.

        Args:
            gradients: ``float64[n, d]``; a row that is not finite stays so.
            assessed: ``float64[n, 2]``: loss, and 1.0 or 0.0 for right or wrong.

        Returns:
            ``float64[n, d + 2]``; row i depends, bit for bit, on record i only.
        """
        return np.concatenate([self._shortened(gradients), self.code(assessed)], axis=1)

    def factors(self, norms: Floats) -> Floats:
        """By how much gradients of these norms, ``float64[n]``, are shortened to ``gradient_norm``."""
        with np.errstate(all="ignore"):  # what is not finite is the encoder's business
            return np.minimum(1.0, self.gradient_norm / norms)

    def code(self, assessed: Floats) -> Floats:
        """The coordinates of records, ``float64[n, 2]``; a loss that is no number counts as large."""
        coded = np.empty((len(assessed), COORDINATES))
        losses = np.nan_to_num(assessed[:, 0], nan=self.loss_bound, posinf=self.loss_bound)
        coded[:, 0] = 1.0 - 2.0 * np.clip(losses, 0.0, self.loss_bound) / self.loss_bound
        coded[:, 1] = 2.0 * assessed[:, 1] - 1.0
        return self.unit * coded

    def decode(self, mean: Floats, noise_std: float) -> dict[str, float]:
        """The estimates that a mean of coded records holds.

        Args:
            mean: ``float64[2]``: a (noisy) sum of rows' metrics, divided by the number of rows.
            noise_std: Standard deviation of the noise in ``mean``.

        Returns:
            ``train_loss`` (records clipped to ``loss_bound``) and ``train_accuracy``, each with the
            standard deviation of its noise under ``..._std``. Unbiased, so not confined to the range
            of an exact value.
        """
        loss, right = (float(value) / self.unit for value in mean)
        spread = noise_std / self.unit / 2.0
        return {
            "train_loss": self.loss_bound * (1.0 - loss) / 2.0,
            "train_loss_std": self.loss_bound * spread,
            "train_accuracy": (1.0 + right) / 2.0,
            "train_accuracy_std": spread,
        }

    def _shortened(self, gradients: Floats) -> Floats:
        """Rows scaled down to ``gradient_norm``; by their largest coordinate first: no overflow."""
        with np.errstate(all="ignore"):  # rows that are not finite are the encoder's business
            values = np.ascontiguousarray(gradients)
            peak = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
            unit = values / np.where(peak > 0.0, peak, 1.0)
            length = np.sqrt(np.square(unit).sum(axis=1, keepdims=True))
            short = peak * length <= self.gradient_norm
            factor = self.gradient_norm / np.where(length > 0.0, length, 1.0)
            return np.where(short, values, unit * factor)
