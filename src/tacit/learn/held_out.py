"""Evaluation on records that are held out from training, inside the vector that training fills.

A unit is either trained on or held out, so its row is either a gradient or an evaluation: each may use
the whole clip norm, and evaluation costs no epsilon beyond that of the round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeldOutCode"]

Floats = NDArray[np.float64]

LOSS, RIGHT, COUNT = range(3)
LEAST_SIGNAL = 3.0
"""Standard deviations of noise that a count must exceed before anything is divided by it."""


@dataclass(frozen=True, slots=True)
class HeldOutCode:
    """How a held-out unit lies in the vector: loss, correctness, a one, and one cell of a histogram.

    Each of these blocks has norm ``clip_norm / sqrt(blocks)``. Loss and correctness are coded
    symmetrically; the histogram, for two classes only, is one-hot over label and score.

    Args:
        clip_norm: L2 bound of the row, positive.
        loss_bound: Largest loss that is told apart, positive.
        classes: Number of classes; a histogram, hence an AUC, for two only.
        bins: Bins of the score, at least 2.

    Raises:
        ValueError: A number is out of range.

    Reference:
        Evaluation of AUC from score histograms: Sun et al. 2022 (differentially private AUC in
        federated learning); its sampling error: Hanley and McNeil 1982.
    """

    clip_norm: float
    loss_bound: float
    classes: int
    bins: int

    def __post_init__(self) -> None:
        for value in (self.clip_norm, self.loss_bound):
            if not (math.isfinite(value) and value > 0):
                raise ValueError("clip_norm and loss_bound must be positive")
        if self.classes < 2 or self.bins < 2:
            raise ValueError("there are at least two classes and two bins")

    @property
    def coordinates(self) -> int:
        """Number of coordinates of a row."""
        return COUNT + 1 + self._cells

    @property
    def unit(self) -> float:
        """Magnitude of a block's coordinate."""
        return self.clip_norm / math.sqrt(COUNT + 1 + (1 if self._cells else 0))

    @property
    def _cells(self) -> int:
        return 2 * self.bins if self.classes == 2 else 0

    def rows(self, assessed: Floats, labels: NDArray[np.int64]) -> Floats:
        """One row per unit, of norm ``clip_norm`` at most, up to rounding.

        Args:
            assessed: ``float64[n, 3]`` of ``Model.assess``: loss, correctness, score of the last class.
            labels: ``int64[n]``.

        Returns:
            ``float64[n, coordinates]``; row i depends, bit for bit, on unit i only. A loss that is no
            number counts as large, a score that is none as 0.
        """
        rows = np.zeros((len(labels), self.coordinates))
        losses = np.nan_to_num(assessed[:, LOSS], nan=self.loss_bound, posinf=self.loss_bound)
        rows[:, LOSS] = 1.0 - 2.0 * np.clip(losses, 0.0, self.loss_bound) / self.loss_bound
        rows[:, RIGHT] = np.where(assessed[:, RIGHT] > 0.5, 1.0, -1.0)
        rows[:, COUNT] = 1.0
        if self._cells:
            scores = np.clip(np.nan_to_num(assessed[:, 2]), 0.0, 1.0)
            bins = np.minimum((scores * self.bins).astype(np.int64), self.bins - 1)
            cell = COUNT + 1 + np.clip(labels, 0, 1) * self.bins + bins
            rows[np.arange(len(labels)), cell] = 1.0
        return self.unit * rows

    def decode(self, total: Floats, noise_std: float) -> dict[str, float]:
        """The estimates in a (noisy) sum of rows.

        Args:
            total: ``float64[coordinates]``.
            noise_std: Standard deviation of the noise in each coordinate.

        Returns:
            ``held_out_loss``, ``held_out_accuracy`` and, for two classes, ``held_out_auc``, each with a
            standard error under ``..._std``: that of the noise and, for accuracy and AUC, of drawing
            records too. What the noise drowns is left out; a small sum may give an empty result.
        """
        values, noise = total / self.unit, noise_std / self.unit
        count = float(values[COUNT])
        if count <= max(LEAST_SIGNAL * noise, 1.0):
            return {}
        loss, right = float(values[LOSS]) / count, float(values[RIGHT]) / count
        accuracy = min(max((1.0 + right) / 2.0, 0.0), 1.0)
        spread = [noise * math.sqrt(1.0 + ratio**2) / count / 2.0 for ratio in (loss, right)]
        drawn = math.sqrt(accuracy * (1.0 - accuracy) / count)
        found = {
            "held_out_loss": self.loss_bound * (1.0 - loss) / 2.0,
            "held_out_loss_std": self.loss_bound * spread[0],
            "held_out_accuracy": (1.0 + right) / 2.0,
            "held_out_accuracy_std": math.hypot(spread[1], drawn),
        }
        return found | self._auc(values[COUNT + 1 :], noise)

    def _auc(self, histogram: Floats, noise: float) -> dict[str, float]:
        """The area under the curve of a noisy histogram, a shared bin counting half.

        The derivative by a cell is linear in the other class's cells, so the noise is propagated to
        first order; half of what falls into shared bins bounds what the bins hide.
        """
        if not len(histogram):
            return {}
        negative, positive = histogram[: self.bins], histogram[self.bins :]
        negatives, positives = float(negative.sum()), float(positive.sum())
        if min(negatives, positives) <= max(LEAST_SIGNAL * noise * math.sqrt(self.bins), 1.0):
            return {}
        below = np.cumsum(negative) - negative / 2.0
        above = positives - np.cumsum(positive) + positive / 2.0
        area = float(positive @ below) / (positives * negatives)
        slopes = np.concatenate([above / positives - area, below / negatives - area])
        scales = np.repeat([negatives, positives], self.bins)
        drawn = _hanley_mcneil(min(max(area, 0.0), 1.0), positives, negatives)
        shared = float(np.abs(positive) @ np.abs(negative)) / (2.0 * positives * negatives)
        error = math.sqrt(
            float(np.square(slopes / scales).sum()) * noise**2 + drawn + shared**2 / 3
        )
        return {"held_out_auc": area, "held_out_auc_std": error}


def _hanley_mcneil(area: float, positives: float, negatives: float) -> float:
    """Variance of an area under the curve from drawing that many records."""
    first, second = area / (2.0 - area), 2.0 * area**2 / (1.0 + area)
    spread = (
        area * (1.0 - area)
        + (positives - 1.0) * (first - area**2)
        + (negatives - 1.0) * (second - area**2)
    )
    return max(spread, 0.0) / (positives * negatives)
