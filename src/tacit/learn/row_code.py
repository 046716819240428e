"""What one unit of privacy puts into the vector: its gradient, a clip bit, training metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.learn.clipping import ClipMode, Clipping
from tacit.learn.record_metrics import MetricCode

__all__ = ["RowCode"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RowCode:
    """How a unit's row shares one L2 bound out, so that nothing in it is a second release.

    Args:
        clipping: Shortens the gradient to what is left of the bound.
        metrics: Codes training metrics; None for none.
    """

    clipping: Clipping
    metrics: MetricCode | None = None

    @classmethod
    def of(
        cls,
        clip_norm: float,
        mode: ClipMode = "flat",
        *,
        layers: tuple[int, ...] = (),
        bit_share: float = 0.0,
        metrics: MetricCode | None = None,
    ) -> RowCode:
        """Divides the bound: a share for the clip bit, one for the metrics, the rest for the gradient.

        Args:
            clip_norm: L2 bound of the whole row, positive.
            mode: How gradients are shortened.
            layers: Sizes of the tensors, for ``per-layer``.
            bit_share: Part of the squared bound that the bit of ``adaptive`` takes; else ignored.
            metrics: Codes training metrics.

        Raises:
            ValueError: Nothing is left for the gradient.
        """
        share = bit_share if mode == "adaptive" else 0.0
        rest = 1.0 - share - (metrics.share if metrics is not None else 0.0)
        if rest <= 0.0:
            raise ValueError("metrics and clip bit leave nothing of the bound to the gradient")
        bound, bit = clip_norm * math.sqrt(rest), clip_norm * math.sqrt(share)
        return cls(Clipping(mode, bound, layers, bit), metrics)

    @property
    def extra(self) -> int:
        """Coordinates behind the gradient."""
        return self.clipping.coordinates + (0 if self.metrics is None else self.metrics.coordinates)

    @property
    def plain(self) -> bool:
        """Whether a row is the gradient as it comes, which the encoding itself clips flat."""
        return self.clipping.mode == "flat" and not self.extra

    def beside(self, norms: Floats, assessed: Floats, scale: float = 1.0) -> Floats:
        """What stands behind the gradient in the rows of units, ``float64[n, extra]``.

        Args:
            norms: Of their gradients, ``float64[n]``.
            assessed: ``float64[n, 3]``, see ``Model.assess``.
            scale: The public scale of adaptive clipping.
        """
        parts = [np.zeros((len(norms), 0))]
        if self.clipping.coordinates:
            parts.append(self.clipping.bits(norms, scale)[:, None])
        if self.metrics is not None:
            parts.append(self.metrics.code(assessed))
        return np.concatenate(parts, axis=1)

    def rows(self, gradients: Floats, assessed: Floats | None, scale: float = 1.0) -> Floats:
        """The rows of units; of at most the norm that `of` divided, up to rounding.

        Args:
            gradients: ``float64[n, d]``; a row that is not finite stays so.
            assessed: ``float64[n, 3]``, see ``Model.assess``; needed with metrics only.
            scale: The public scale of adaptive clipping.

        Returns:
            ``float64[n, d + extra]``; row i depends, bit for bit, on unit i only.
        """
        rows = self.clipping.rows(gradients, scale)
        if self.metrics is None:
            return rows
        assert assessed is not None
        return np.concatenate([rows, self.metrics.code(assessed)], axis=1)
