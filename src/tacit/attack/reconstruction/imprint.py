"""The planted layer: a model that a malicious server ships so that sums fall apart into single records."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from tacit.learn.code import LoadedModel
from tacit.learn.feature_map import FeatureMap
from tacit.learn.layout import Entry, Layout
from tacit.learn.models import Features, mean_of_finite
from tacit.privacy.integers import Part
from tacit.types import Digest

__all__ = ["ImprintModel", "planted_model", "separated"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

FAINT = 1e-2
"""Largest logit, about: gradients are then as large as can be, and alike for all records of a class."""

LEAST_COUNT = 1e-6
"""Bins whose share of the bias's gradient is below this, relative to the largest, are taken as empty."""


class ImprintModel:
    """A linear layer of bins with a rectifier, and fixed logits.

    Every bin has the same weights, a direction, and another threshold: a record activates all bins up to its
    place along the direction. Neighbouring bins' gradients then differ by the records between them, and the
    ratio of weight to bias is such a record, if it is alone.

    Args:
        direction: ``float64[k]``.
        thresholds: In rising order, ``float64[bins]``.
        classes: Number of logits.

    Reference:
        Fowl et al. 2022, "Robbing the Fed"; Boenisch et al. 2023, "When the curious abandon honesty".
    """

    def __init__(self, direction: Floats, thresholds: Floats, classes: int) -> None:
        self._direction = direction
        self._thresholds = thresholds
        # Alternating, so that no class has a gradient of zero; inputs are scaled to be so small that all
        # predictions stay near uniform.
        self._logits = np.where(np.arange(classes) % 2, 1.0, -1.0)

    @property
    def dimension(self) -> int:
        """Number of parameters."""
        return len(self._thresholds) * (len(self._direction) + 1)

    @property
    def layout(self) -> Layout:
        """``weight`` and ``bias``."""
        bins, features = len(self._thresholds), len(self._direction)
        return Layout(
            (
                Entry("weight", (bins, features), "float64", "shared"),
                Entry("bias", (bins,), "float64", "shared"),
            )
        )

    def initial(self, seed: bytes) -> Floats:
        """The planted weights, whatever the seed."""
        weights = np.tile(self._direction, (len(self._thresholds), 1))
        return np.concatenate([weights.ravel(), -self._thresholds])

    def gradients(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """See ``Model.gradients``."""
        inputs: Floats = np.asarray(x, dtype=np.float64)
        active, shares = self._forward(theta, inputs)
        shares[np.arange(len(y)), y] -= 1.0
        errors = active * (shares @ self._logits)[:, None]
        weights = (errors[:, :, None] * inputs[:, None, :]).reshape(len(x), -1)
        return np.concatenate([weights, errors], axis=1)

    def gradient_parts(self, theta: Floats, x: Features, y: Labels) -> list[Part]:
        """See ``Model.gradient_parts``."""
        return [self.gradients(theta, x, y)]

    def mean_gradient(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """See ``Model.mean_gradient``."""
        return mean_of_finite(self.gradients(theta, x, y))

    def assess(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """See ``Model.assess``."""
        shares = self.scores(theta, x)
        own = shares[np.arange(len(y)), y]
        right = (shares.argmax(axis=1) == y).astype(np.float64)
        return np.stack([-np.log(own), right, shares[:, -1]], axis=1)

    def scores(self, theta: Floats, x: Features) -> Floats:
        """See ``Model.scores``."""
        return self._forward(theta, np.asarray(x, dtype=np.float64))[1]

    def loss(self, theta: Floats, x: Features, y: Labels) -> float:
        """See ``Model.loss``."""
        return float(np.mean(self.assess(theta, x, y)[:, 0]))

    def tensors(self, theta: Floats) -> dict[str, Floats]:
        """See ``Model.tensors``."""
        bins, features = len(self._thresholds), len(self._direction)
        weights = theta[: bins * features].reshape(bins, features)
        return {"weight": weights, "bias": theta[bins * features :]}

    def _forward(self, theta: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Which bins are active, ``float64[n, bins]``, and class probabilities."""
        parts = self.tensors(theta)
        # Elementwise, one record at a time: a row's rounding must not depend on its position.
        inputs = (x[:, None, :] * parts["weight"][None]).sum(axis=2) + parts["bias"]
        active = (inputs > 0.0).astype(np.float64)
        logits = (inputs * active).sum(axis=1)[:, None] * self._logits
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return active, exponentials / exponentials.sum(axis=1, keepdims=True)


def planted_model(
    known: Floats, classes: int, bins: int, generator: np.random.Generator, feature_map: FeatureMap
) -> LoadedModel:
    """An imprint model whose bins hold about as many records each, by what the adversary knows of the kind.

    Args:
        known: Records of the kind, scaled, ``float64[N, k]``.
        classes: Number of classes.
        bins: How many; more separate more records.
        generator: The attacker's.
        feature_map: The job's.
    """
    direction: Floats = np.asarray(generator.standard_normal(known.shape[1]))
    direction = direction * FAINT / (bins * float(np.abs(known @ direction).max()))
    places = np.sort(known @ direction)
    inner: Floats = np.asarray(np.quantile(places, np.linspace(0.0, 1.0, bins + 2)[1:-1]))
    inner[0] = min(inner[0], places[0] - 0.1 * (places[-1] - places[0]))
    inner = np.maximum.accumulate(inner)
    model = ImprintModel(direction, inner, classes)
    code = Digest(hashlib.sha256(b"planted" + direction.tobytes() + inner.tobytes()).digest())
    return LoadedModel(model, code, pinned=False, feature_map=feature_map)


def separated(total: Floats, features: int) -> Floats:
    """What the bins of a sum hold, divided by how much of it there is: ``float64[m, k]``, empty ones left out.

    Args:
        total: Sum of gradients of an ``ImprintModel``, ``float64[dimension]``.
        features: k.
    """
    bins = len(total) // (features + 1)
    weight, bias = total[: bins * features].reshape(bins, features), total[bins * features :]
    weights = np.concatenate([weight[:-1] - weight[1:], weight[-1:]])
    counts = np.concatenate([bias[:-1] - bias[1:], bias[-1:]])
    full = np.abs(counts) > LEAST_COUNT * max(float(np.abs(bias).max()), 1e-300)
    found: Floats = weights[full] / counts[full, None]
    return found
