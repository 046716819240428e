"""How gradients are shortened before they are encoded.

Privacy does not rest on this: the encoding clips whatever comes to ``clip_norm`` and checks it over the
integers. What is chosen here is which direction survives, and how much of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClipMode", "Clipping", "row_norms"]

Floats = NDArray[np.float64]

ClipMode = Literal["flat", "per-layer", "adaptive", "normalised"]

STABILISER = 0.01
"""Of ``normalised``, in units of the bound: keeps a vanishing gradient small (Bu et al. 2023, AUTO-S)."""


@dataclass(frozen=True, slots=True)
class Clipping:
    """The rule that shortens one unit's gradient, and the bit that steers an adaptive one.

    - ``flat``: to the bound, where it is longer.
    - ``per-layer``: every tensor to the bound over the root of their number.
    - ``adaptive``: to ``scale`` times the bound, where it is longer, then divided by ``scale``, a public
      number that follows the noisy fraction of gradients that were short enough.
    - ``normalised``: to about the bound, whether longer or shorter.

    Args:
        mode: Which of them.
        bound: L2 bound of the shortened gradient, positive.
        layers: Sizes of the tensors in order, for ``per-layer``.
        bit: Magnitude of the coordinate that says whether the gradient was short enough; 0.0 is none.

    Raises:
        ValueError: A number is out of range.

    Reference:
        Abadi et al. 2016 (flat); McMahan et al. 2018 (per-layer); Andrew et al. 2021, algorithm 1
        (adaptive); Bu et al. 2023 (normalised).
    """

    mode: ClipMode
    bound: float
    layers: tuple[int, ...] = ()
    bit: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0 and math.isfinite(self.bit)):
            raise ValueError("the bound must be positive, the bit finite")
        if (self.mode == "adaptive") != (self.bit > 0):
            raise ValueError("a bit goes with adaptive clipping, and only with it")

    @property
    def coordinates(self) -> int:
        """Coordinates behind the gradient: 1 for ``adaptive``, else 0."""
        return 1 if self.bit else 0

    def factors(self, norms: Floats, scale: float = 1.0) -> Floats:
        """What a gradient is multiplied by, given its norm; not for ``per-layer``.

        Args:
            norms: ``float64[n]``, not negative; a NaN or an infinity may come out as anything.
            scale: The public scale of ``adaptive``; 1.0 for the others.

        Returns:
            ``float64[n]``.
        """
        with np.errstate(all="ignore"):
            if self.mode == "normalised":
                return self.bound / (norms + STABILISER * self.bound)
            limit = scale * self.bound
            return np.where(norms <= limit, 1.0 / scale, self.bound / np.maximum(norms, limit))

    def bits(self, norms: Floats, scale: float) -> Floats:
        """``+bit`` where a gradient was short enough, else ``-bit``: ``float64[n]``."""
        return np.where(norms <= scale * self.bound, self.bit, -self.bit)

    def rows(self, gradients: Floats, scale: float = 1.0) -> Floats:
        """Shortened gradients, then the bit if there is one.

        Args:
            gradients: ``float64[n, d]``; a row that is not finite stays so.
            scale: As for ``factors``.

        Returns:
            ``float64[n, d + coordinates]``; row i depends, bit for bit, on row i only.
        """
        values = np.ascontiguousarray(gradients)
        with np.errstate(all="ignore"):  # rows that are not finite are the encoder's business
            if self.mode == "per-layer":
                return self._by_layer(values)
            peak, length = row_norms(values)
            norms = peak * length
            short = values / peak[:, None] * (peak * self.factors(norms, scale))[:, None]
            if self.mode == "flat":
                short = np.where((norms <= self.bound)[:, None], values, short)
            if not self.bit:
                return short
            return np.concatenate([short, self.bits(norms, scale)[:, None]], axis=1)

    def fraction(self, total: float, units: float) -> float:
        """The fraction of gradients that were short enough, from the sum of their bits.

        Args:
            total: (Noisy) sum of the bits.
            units: The constant number of units that is expected in the sum.

        Returns:
            In [0, 1].
        """
        return min(max(0.5 + 0.5 * total / (self.bit * units), 0.0), 1.0)

    def _by_layer(self, values: Floats) -> Floats:
        part = Clipping("flat", self.bound / math.sqrt(len(self.layers)))
        ends = np.cumsum(self.layers)[:-1]
        return np.concatenate(
            [part.rows(layer) for layer in np.split(values, ends, axis=1)], axis=1
        )


def row_norms(values: Floats) -> tuple[Floats, Floats]:
    """Every row's largest magnitude (1.0 for a zero row) and its norm as a multiple of that.

    Their product is the norm; apart they neither overflow nor underflow.

    Args:
        values: ``float64[n, d]``, contiguous, any values.
    """
    peak = np.abs(values).max(axis=1, initial=0.0)
    peak = np.where(peak > 0.0, peak, 1.0)
    length: Floats = np.sqrt(np.square(values / peak[:, None]).sum(axis=1))
    return peak, length
