"""A named public prior: what public data say about how features vary, as one fixed linear map.

Noise is the same in every direction, while the features vary a thousand times more in some than in
others. Where they should vary is not private: other images of the same kind show it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tacit.errors import DecodeError
from tacit.types import Digest

__all__ = ["PublicPrior"]

Floats = NDArray[np.float64]

RIDGE = 1e-5
"""Added to every variance before the power: directions that hardly vary in public are not blown up."""

FEATURE_UNIT = 2.0**-22
"""Features are rounded to it, in [-1, 1]."""

LARGEST_MASS = 2**30
"""Bound on a column's sum of absolute weights: with 2**22 levels every product, less its offset, is an
integer of at most 2**53, and float64 holds all of these."""

ROUNDING = 1e-9
BLOCK = 1024

LARGEST_NAME = 200


@dataclass(frozen=True, slots=True, eq=False)
class PublicPrior:
    """Centres features, turns them to the public data's principal axes and evens these out.

    ``x -> (x - mean) U (variance + 1e-5)^(-power / 2)``, to unit norm, in integers up to the norm. A
    result that was trained with it rests on public data, and has to say so by ``name``.

    Args:
        name: The public data, for people: 1 to 200 printable characters.
        matrix: The scaled axes as columns, ``int32[k, rank]``; absolute values in a column add up to
            at most ``LARGEST_MASS``.
        offset: ``mean`` in units of ``FEATURE_UNIT`` times ``matrix``, ``int64[rank]``.

    Raises:
        ValueError: A shape, type or bound is violated.

    Reference:
        Tramer and Boneh 2021 (features from public data); preconditioning as in Amid et al. 2022.
    """

    name: str
    matrix: NDArray[np.int32]
    offset: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= LARGEST_NAME and self.name.isprintable()):
            raise ValueError("a prior has a name of 1 to 200 printable characters")
        matrix, offset = self.matrix, self.offset
        if matrix.dtype != np.int32 or matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError("the matrix of a prior is int32[k, rank]")
        if offset.dtype != np.int64 or offset.shape != matrix.shape[1:]:
            raise ValueError("the offset of a prior is int64[rank]")
        if np.abs(matrix.astype(np.int64)).sum(axis=0).max() > LARGEST_MASS:
            raise ValueError("the matrix of a prior exceeds its bound")
        if (np.abs(offset.astype(np.float64)) > LARGEST_MASS / FEATURE_UNIT).any():
            raise ValueError("the offset of a prior exceeds its bound")

    @classmethod
    def fit(cls, features: Floats, *, name: str, rank: int, power: float) -> PublicPrior:
        """The prior of public records. Never call it on records that anybody has to protect.

        Args:
            features: ``float64[n, k]`` in [-1, 1], of the same features as it is to be applied to;
                n at least 2.
            name: What the records are.
            rank: Axes to keep, at least 1, fewer than n and at most k.
            power: In [0, 2]: 0 only turns, 1 makes the public variances equal.

        Raises:
            ValueError: An argument is out of range.
        """
        if features.ndim != 2 or not (np.abs(features) <= 1.0 + ROUNDING).all():
            raise ValueError("features are [n, k] in [-1, 1]")
        n, k = features.shape
        if not (1 <= rank < n and rank <= k and 0.0 <= power <= 2.0):
            raise ValueError("rank is at least 1, below n and at most k; power lies in [0, 2]")
        mean = features.mean(axis=0)
        centred = features - mean
        variances, axes = np.linalg.eigh(centred.T @ centred / n)
        largest = slice(None, -rank - 1, -1)
        kept = np.maximum(variances[largest], 0.0) + RIDGE
        weights = axes[:, largest] * kept ** (-power / 2)
        # Rounding adds at most a half for each of the k weights of a column.
        unit = (LARGEST_MASS - k) / np.abs(weights).sum(axis=0).max()
        matrix = np.rint(weights * unit).astype(np.int32)
        offset = _levels(mean).astype(np.int64) @ matrix.astype(np.int64)
        return cls(name, np.ascontiguousarray(matrix), offset)

    @property
    def dimension(self) -> int:
        """Number of features that come out."""
        return len(self.offset)

    @property
    def digest(self) -> Digest:
        """SHA-256 of ``to_bytes``, under a domain of its own."""
        return Digest(hashlib.sha256(b"tacit public prior v1\x00" + self.to_bytes()).digest())

    def apply(self, features: Floats) -> Floats:
        """Features of unit norm along the prior's axes.

        Args:
            features: ``float64[n, k]``. What lies outside [-1, 1] is moved to the nearer end, and what
                is not a number counts as 0.

        Returns:
            ``float64[n, dimension]``, read-only; a row's L2 norm is 1 up to rounding, or 0.

        Raises:
            ValueError: ``features`` has another shape.

        Guarantee:
            Row i depends, bit for bit, on row i of ``features`` and the prior only, at any position
            and any ``n``. Test: ``tests/property/test_learn_prior.py::test_rows_are_independent``.
        """
        if features.ndim != 2 or features.shape[1] != len(self.matrix):
            raise ValueError(f"features must be [n, {len(self.matrix)}]")
        matrix, offset = self.matrix.astype(np.float64), self.offset.astype(np.float64)
        result = np.empty((len(features), self.dimension))
        for start in range(0, len(features), BLOCK):
            rows = _levels(features[start : start + BLOCK]) @ matrix - offset
            lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
            result[start : start + BLOCK] = rows / np.where(lengths > 0.0, lengths, 1.0)
        result.setflags(write=False)
        return result

    def to_bytes(self) -> bytes:
        """A safetensors file of ``matrix``, ``offset`` and ``name`` (UTF-8)."""
        name = np.frombuffer(self.name.encode(), dtype=np.uint8)
        return save({"matrix": self.matrix, "offset": self.offset, "name": name})

    @classmethod
    def from_bytes(cls, data: bytes) -> PublicPrior:
        """The inverse of ``to_bytes``.

        Raises:
            DecodeError: ``data`` is not what ``to_bytes`` writes.
        """
        try:
            tensors = load(data)
            prior = cls(
                tensors["name"].tobytes().decode(),
                tensors["matrix"],
                tensors["offset"],
            )
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DecodeError("learn.prior", f"this is no public prior: {error}") from error
        if prior.to_bytes() != data:
            raise DecodeError("learn.prior", "this prior is not written the one way there is")
        return prior


def _levels(values: Floats) -> Floats:
    """Integers in [-2**22, 2**22]."""
    bounded = np.clip(np.where(np.isnan(values), 0.0, values), -1.0, 1.0)
    return np.rint(bounded / FEATURE_UNIT)
