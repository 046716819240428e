"""Models whose gradient on one record is an outer product: errors of the outputs times the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.exact import IntegerRows

__all__ = ["Factors", "LinearHead"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """The gradients of ``n`` records, factored, and what was assessed on the way.

    Args:
        errors: ``float64[n, r]``: derivatives of the loss by the outputs.
        inputs: ``n`` rows of ``k`` inputs; record i's gradient is ``errors[i] (x) inputs[i]``.
        assessed: As ``Model.assess`` returns it.
    """

    errors: Floats
    inputs: IntegerRows
    assessed: Floats

    def norms(self) -> Floats:
        """Norms of the records' gradients, ``float64[n]``; not finite where a gradient is not.

        Element i depends, bit for bit, on record i only.
        """
        with np.errstate(all="ignore"):
            lengths: Floats = np.sqrt(np.square(self.errors).sum(axis=1))
            return lengths * self.inputs.norms


@runtime_checkable
class LinearHead(Protocol):
    """A ``Model`` that can tell its gradients as factors; their sum then costs matrix products only."""

    def factors(
        self, theta: Floats, x: NDArray[np.float32 | np.float64], y: NDArray[np.int64]
    ) -> Factors:
        """Factors of each record's gradient; rows are as independent as those of ``gradients``."""
        ...

    def arranged(self, matrix: NDArray[np.int64]) -> NDArray[np.int64]:
        """A sum of outer products, ``int64[r, k]``, as ``int64[dimension]`` in the order of ``theta``."""
        ...
