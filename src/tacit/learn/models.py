"""What a model is to Tacit, and the shipped one: logistic regression in closed form."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.exact import IntegerRows, products
from tacit.learn.layout import Entry, Layout
from tacit.learn.linear import Factors

__all__ = ["Features", "LogisticRegression", "Model", "mean_of_finite"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Features = NDArray[np.float32 | np.float64]
"""Records' features; the same values give the same results in either type."""

BLOCK_ELEMENTS = 2**18
"""Elements of ``x`` whose logits are computed at a time: rounded copies stay in a core's own cache."""


class Model(Protocol):
    """A loss over single records, differentiable in one flat parameter vector.

    Shapes: ``theta`` is ``float64[dimension]``, ``x`` is ``float64[n, features]`` or ``float32``, ``y``
    is ``int64[n]`` with class indices.
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

    def gradients(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Gradient of each record's own loss, ``float64[n, dimension]``.

        At a fixed ``n``, row i depends, bit for bit, on record i and ``theta`` only: neither on
        the other records nor on its own position.
        """
        ...

    def mean_gradient(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Mean of the records' gradients, ``float64[dimension]``; ``n`` is at least 1.

        A record whose gradient is not finite counts as zero. For training without a record-level
        guarantee: how the mean is rounded may depend on the batch and on the machine.
        """
        ...

    def assess(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Each record's loss, 1.0 or 0.0 for right or wrong, and its score: ``float64[n, 3]``.

        The score is the probability of the last class. Rows are as independent as those of
        ``gradients``.
        """
        ...

    def scores(self, theta: Floats, x: Features) -> Floats:
        """Class probabilities, ``float64[n, classes]``."""
        ...

    def loss(self, theta: Floats, x: Features, y: Labels) -> float:
        """Mean loss; ``n`` is at least 1."""
        ...

    def tensors(self, theta: Floats) -> dict[str, Floats]:
        """``theta`` as named tensors, the way a model file stores them."""
        ...


class LogisticRegression:
    """Logistic regression with bias: one weight vector for two classes, softmax for more.

    Features and parameters are rounded to 26 bits of their norm, so that the logits are exact products
    of integers: BLAS computes them, and still no record's depend on where it stands in the batch. All
    the rest is elementwise or a sum over a contiguous last axis.

    Parameters are the rows of ``weight`` one after the other, then ``bias``.

    Guarantee:
        Row i of ``gradients``, of ``assess`` and of ``factors`` is a function of record i and ``theta``
        alone, bit for bit, at any position and any ``n``. Test:
        ``tests/property/test_learn_models.py::test_logistic_rows_are_independent``.

    Args:
        features: Number of features, at least 1.
        classes: Number of classes, at least 2.

    Reference:
        docs/design/0011-linear-heads-by-exact-integers.md.
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

    def factors(self, theta: Floats, x: Features, y: Labels) -> Factors:
        """The factors of each record's gradient; see ``tacit.learn.linear.LinearHead``."""
        inputs = self._inputs(x)
        logits = self._shifted_logits(theta, inputs)
        return Factors(self._errors(logits, y), inputs, _assessed(logits, y))

    def arranged(self, matrix: NDArray[np.int64]) -> NDArray[np.int64]:
        """A sum of outer products, ``int64[rows, features + 1]``, in the order of ``theta``."""
        return np.concatenate([matrix[:, :-1].ravel(), matrix[:, -1]])

    def gradients(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Per-record gradients of the cross-entropy; see ``Model.gradients``."""
        errors = self._errors(self._logits(theta, x), y)
        with np.errstate(all="ignore"):  # non-finite rows are the encoder's business
            weights = (errors[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        return np.concatenate([weights, errors], axis=1)

    def mean_gradient(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """By two plain matrix products, without the records' rows; see ``Model.mean_gradient``."""
        parts, x = self.tensors(theta), x.astype(np.float64)
        with np.errstate(all="ignore"):
            errors = self._errors(self._shifted(x @ parts["weight"].T + parts["bias"]), y)
        finite = np.isfinite(errors).all(axis=1) & np.isfinite(x).all(axis=1)
        errors[~finite], x[~finite] = 0.0, 0.0
        errors /= len(x)
        return np.concatenate([(errors.T @ x).ravel(), errors.sum(axis=0)])

    def scores(self, theta: Floats, x: Features) -> Floats:
        """Class probabilities, ``float64[n, classes]``."""
        return _probabilities(self._logits(theta, x))

    def assess(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Cross-entropy in nats, correctness and last score of each record; see ``Model.assess``."""
        return _assessed(self._logits(theta, x), y)

    def loss(self, theta: Floats, x: Features, y: Labels) -> float:
        """Mean cross-entropy in nats."""
        return float(np.mean(self.assess(theta, x, y)[:, 0]))

    def tensors(self, theta: Floats) -> dict[str, Floats]:
        """``weight`` as ``float64[rows, features]`` and ``bias`` as ``float64[rows]``."""
        split = self._rows * self._features
        return {
            "weight": theta[:split].reshape(self._rows, self._features),
            "bias": theta[split:],
        }

    def _inputs(self, x: Features) -> IntegerRows:
        """Features and a one for the bias."""
        inputs = np.empty((len(x), self._features + 1))
        inputs[:, :-1], inputs[:, -1] = x, 1.0
        return IntegerRows.of(inputs)

    def _logits(self, theta: Floats, x: Features) -> Floats:
        """``_shifted_logits`` of any number of records, a few at a time."""
        rows = max(1, BLOCK_ELEMENTS // self._features)
        blocks = [x[start : start + rows] for start in range(0, len(x), rows)] or [x]
        return np.concatenate(
            [self._shifted_logits(theta, self._inputs(block)) for block in blocks]
        )

    def _shifted_logits(self, theta: Floats, inputs: IntegerRows) -> Floats:
        """Logits of rounded records, by exact products; see ``_shifted``."""
        parts = self.tensors(theta)
        weights = np.concatenate([parts["weight"], parts["bias"][:, None]], axis=1)
        return self._shifted(products(inputs, weights))

    def _shifted(self, outputs: Floats) -> Floats:
        """Logits less the row's largest, ``float64[n, classes]``; the first of two classes has 0."""
        logits = np.zeros((len(outputs), self._classes))
        logits[:, -self._rows :] = outputs
        with np.errstate(all="ignore"):
            largest: Floats = logits.max(axis=1, keepdims=True)
            return logits - largest

    def _errors(self, logits: Floats, y: Labels) -> Floats:
        """Derivative of the cross-entropy by the logits that have parameters, ``float64[n, rows]``."""
        targets = np.equal(y[:, None], np.arange(self._classes)).astype(np.float64)
        errors: Floats = _probabilities(logits) - targets
        return errors[:, -self._rows :]


def _probabilities(logits: Floats) -> Floats:
    with np.errstate(all="ignore"):
        exponentials: Floats = np.exp(logits)
        total: Floats = exponentials.sum(axis=1, keepdims=True)
        return exponentials / total


def _assessed(logits: Floats, y: Labels) -> Floats:
    with np.errstate(all="ignore"):
        exponentials: Floats = np.exp(logits)
        total: Floats = exponentials.sum(axis=1)
        losses = np.log(total) - np.take_along_axis(logits, y[:, None], axis=1)[:, 0]
        scores = exponentials[:, -1] / total
    right = (logits.argmax(axis=1) == y).astype(np.float64)
    return np.stack([losses, right, scores], axis=1)


def mean_of_finite(gradients: Floats) -> Floats:
    """``Model.mean_gradient`` from per-record rows ``float64[n, d]``."""
    finite = np.isfinite(gradients).all(axis=1, keepdims=True)
    mean: Floats = np.where(finite, gradients, 0.0).mean(axis=0)
    return mean
