"""What a model is to Tacit, and the shipped one: logistic regression in closed form."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.learn.layout import Entry, Layout
from tacit.privacy.integers import Part

__all__ = ["LogisticRegression", "Model"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Model(Protocol):
    """A loss over single records, differentiable in one flat parameter vector.

    Shapes: ``theta`` is ``float64[dimension]``, ``x`` is ``float64[n, features]``, ``y`` is
    ``int64[n]`` with class indices.
    """

    @property
    def dimension(self) -> int:
        """Number of parameters."""
        ...

    @property
    def layout(self) -> Layout:
        """Every tensor of the model's state; all parameters shared, in the order of ``theta``."""
        ...

    def initial(self, seed: bytes) -> Floats:
        """The first parameters, ``float64[dimension]``: a function of ``seed`` and nothing else."""
        ...

    def gradients(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """Gradient of each record's own loss, ``float64[n, dimension]``.

        At a fixed ``n``, row i depends, bit for bit, on record i and ``theta`` only: neither on
        the other records nor on its own position.
        """
        ...

    def gradient_parts(self, theta: Floats, x: Floats, y: Labels) -> list[Part]:
        """The columns of ``gradients``, at least one part, as the model comes by them: no copies."""
        ...

    def assess(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """Each record's loss, and 1.0 if it is classified right, else 0.0: ``float64[n, 2]``.

        Rows are as independent as those of ``gradients``.
        """
        ...

    def scores(self, theta: Floats, x: Floats) -> Floats:
        """Class probabilities, ``float64[n, classes]``."""
        ...

    def loss(self, theta: Floats, x: Floats, y: Labels) -> float:
        """Mean loss; ``n`` is at least 1."""
        ...

    def tensors(self, theta: Floats) -> dict[str, Floats]:
        """``theta`` as named tensors, the way a model file stores them."""
        ...


class LogisticRegression:
    """Logistic regression with bias: one weight vector for two classes, softmax for more.

    Everything is elementwise or a sum over a contiguous last axis. A matrix product would be
    shorter, but BLAS may round a row differently depending on where it stands in the batch, and
    then removing one record would change the contributions of others.

    Parameters are the rows of ``weight`` one after the other, then ``bias``.

    Guarantee:
        Row i of ``gradients`` and of ``assess`` is a function of record i and ``theta`` alone, bit for
        bit, at any position and any ``n``. Test:
        ``tests/property/test_learn_models.py::test_logistic_rows_are_independent``.

    Args:
        features: Number of features, at least 1.
        classes: Number of classes, at least 2.
    """

    def __init__(self, features: int, classes: int) -> None:
        if features < 1 or classes < 2:
            raise ValueError("logistic regression needs at least 1 feature and 2 classes")
        self._features = features
        self._classes = classes
        self._rows = 1 if classes == 2 else classes

    @property
    def dimension(self) -> int:
        """Number of parameters."""
        return self._rows * (self._features + 1)

    @property
    def layout(self) -> Layout:
        """``weight`` and ``bias``; see ``tensors``."""
        return Layout(
            (
                Entry("weight", (self._rows, self._features), "float64", "shared"),
                Entry("bias", (self._rows,), "float64", "shared"),
            )
        )

    def initial(self, seed: bytes) -> Floats:
        """Zeros, whatever the seed."""
        return np.zeros(self.dimension)

    def gradients(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """Per-record gradients of the cross-entropy; see ``Model.gradients``."""
        with np.errstate(all="ignore"):  # non-finite rows are the encoder's business
            probabilities = self.scores(theta, x)
            targets = (y[:, None] == np.arange(self._classes)).astype(np.float64)
            errors = (probabilities - targets)[:, -self._rows :]
            weights = (errors[:, :, None] * x[:, None, :]).reshape(len(x), -1)
            return np.concatenate([weights, errors], axis=1)

    def gradient_parts(self, theta: Floats, x: Floats, y: Labels) -> list[Part]:
        """All columns of ``gradients`` in one part."""
        return [self.gradients(theta, x, y)]

    def scores(self, theta: Floats, x: Floats) -> Floats:
        """Class probabilities, ``float64[n, classes]``."""
        with np.errstate(all="ignore"):
            exponentials: Floats = np.exp(self._shifted_logits(theta, x))
            total: Floats = exponentials.sum(axis=1, keepdims=True)
            return exponentials / total

    def assess(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """Cross-entropy in nats and correctness of each record; see ``Model.assess``."""
        with np.errstate(all="ignore"):
            logits = self._shifted_logits(theta, x)
            losses = self._losses(logits, y)
        return np.stack([losses, (logits.argmax(axis=1) == y).astype(np.float64)], axis=1)

    def loss(self, theta: Floats, x: Floats, y: Labels) -> float:
        """Mean cross-entropy in nats."""
        with np.errstate(all="ignore"):
            return float(np.mean(self._losses(self._shifted_logits(theta, x), y)))

    def tensors(self, theta: Floats) -> dict[str, Floats]:
        """``weight`` as ``float64[rows, features]`` and ``bias`` as ``float64[rows]``."""
        split = self._rows * self._features
        return {
            "weight": theta[:split].reshape(self._rows, self._features),
            "bias": theta[split:],
        }

    def _losses(self, logits: Floats, y: Labels) -> Floats:
        normaliser: Floats = np.log(np.exp(logits).sum(axis=1))
        return normaliser - np.take_along_axis(logits, y[:, None], axis=1)[:, 0]

    def _shifted_logits(self, theta: Floats, x: Floats) -> Floats:
        """Logits less the row's largest, ``float64[n, classes]``; the first of two classes has 0."""
        parts = self.tensors(theta)
        x = np.ascontiguousarray(x)
        logits = np.zeros((len(x), self._classes))
        for row in range(self._rows):
            column = self._classes - self._rows + row
            logits[:, column] = (x * parts["weight"][row]).sum(axis=1) + parts["bias"][row]
        largest: Floats = logits.max(axis=1, keepdims=True)
        return logits - largest
