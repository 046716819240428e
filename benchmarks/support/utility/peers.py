"""The peers, in NumPy and independent of the library: float64 Gaussian noise added in one place.

One training loop for records and one for clients serve all of them; they differ in how much noise is in a
sum. Central DP-SGD adds what its accountant asks for. Local DP adds as much for every site or client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = NDArray[np.float32 | np.float64]
Labels = NDArray[np.int64]

BLOCK = 2048
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Central:
    """Noisy gradient descent at one place.

    Args:
        classes: Number of classes.
        sampling_rate: Poisson rate of records or clients.
        rounds: Number of steps.
        clip_norm: Of a record's gradient or a client's update.
        noise: Standard deviation of the noise in a sum, over the clip norm.
        learning_rate: Of the steps on the mean.
        cosine: Whether the rate falls to 0 over the rounds.
        average_from: Part of the rounds after which iterates are averaged; below 1.
    """

    classes: int
    sampling_rate: float
    rounds: int
    clip_norm: float
    noise: float
    learning_rate: float
    cosine: bool
    average_from: float

    @property
    def outputs(self) -> int:
        """Weight vectors: one is enough for two classes."""
        return 1 if self.classes == 2 else self.classes

    def zeros(self, features: int) -> Floats:
        """First weights, ``float64[features + 1, outputs]``; the last row is the bias."""
        return np.zeros((features + 1, self.outputs))

    def noisy(self, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
        """Where a round's sum starts from."""
        return generator.normal(0.0, self.noise * self.clip_norm, shape)

    @property
    def averaged(self) -> range:
        """The rounds, counted from 0, whose results are averaged."""
        return range(math.floor(self.average_from * self.rounds), self.rounds)

    def rate(self, done: int) -> float:
        """The learning rate after ``done`` rounds."""
        factor = (1.0 + math.cos(math.pi * done / self.rounds)) / 2.0 if self.cosine else 1.0
        return self.learning_rate * factor

    def shortened(self, norms: Features) -> Features:
        """Factors that clip rows of these norms."""
        return np.minimum(1.0, self.clip_norm / np.maximum(norms, TINY))


def dp_sgd(x: Features, y: Labels, how: Central, generator: np.random.Generator) -> Floats:
    """Central DP-SGD of a linear model: the sum of clipped gradients is ``X^T (s E)``.

    Args:
        x: ``[n, k]``.
        y: ``int64[n]``.
        how: Its parameters.
        generator: Samples records, draws noise.

    Returns:
        Averaged weights, ``float64[k + 1, outputs]``.

    Reference:
        Abadi et al. 2016, algorithm 1.
    """
    weights = how.zeros(x.shape[1])
    iterates = np.zeros_like(weights)
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x) + 1.0)
    for done in range(how.rounds):
        chosen = np.flatnonzero(generator.random(len(y)) < how.sampling_rate)
        total = how.noisy(weights.shape, generator)
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            inputs = x[block]
            errors = _errors(outputs(weights, inputs), y[block])
            norms = np.sqrt(np.square(errors).sum(axis=1)) * lengths[block]
            errors *= how.shortened(norms)[:, None]
            total[:-1] += inputs.T @ errors
            total[-1] += errors.sum(axis=0)
        weights -= how.rate(done) / (how.sampling_rate * len(y)) * total
        if done in how.averaged:
            iterates += weights / len(how.averaged)
    return iterates


@dataclass(frozen=True, slots=True)
class Local:
    """A client's training: steps on all of its records.

    Args:
        steps: Their number.
        rate: Their learning rate.
    """

    steps: int
    rate: float


def dp_fedavg(
    x: Features, y: Labels, how: Central, local: Local, generator: np.random.Generator
) -> Floats:
    """Central DP-FedAvg of a linear model, the noise added by a trusted server.

    An update is a combination of the client's inputs, so local training happens in as many coordinates
    as it has records.

    Args:
        x: ``[clients, n, k]``.
        y: ``int64[clients, n]``.
        how: Its parameters.
        local: What a client does.
        generator: Samples clients, draws noise.

    Returns:
        Averaged weights, ``float64[k + 1, outputs]``.

    Reference:
        McMahan et al. 2018, algorithm 1.
    """
    clients, n, k = x.shape
    weights = how.zeros(k)
    iterates = np.zeros_like(weights)
    products = x @ x.transpose(0, 2, 1) + x.dtype.type(1.0)  # the bias is an input of value 1
    for done in range(how.rounds):
        chosen = np.flatnonzero(generator.random(clients) < how.sampling_rate)
        inputs, kernel = x[chosen].reshape(-1, k), products[chosen]
        before = outputs(weights, inputs).reshape(len(chosen), n, -1)
        moved = np.zeros_like(before)
        for _ in range(local.steps):
            moved -= local.rate / n * _errors(before + kernel @ moved, y[chosen])
        norms = np.sqrt(np.maximum((moved * (kernel @ moved)).sum(axis=(1, 2)), 0.0))
        moved *= how.shortened(norms)[:, None, None]
        total = how.noisy(weights.shape, generator)
        total[:-1] += inputs.T @ moved.reshape(len(inputs), -1)
        total[-1] += moved.sum(axis=(0, 1))
        weights += how.rate(done) / (how.sampling_rate * clients) * total
        if done in how.averaged:
            iterates += weights / len(how.averaged)
    return iterates


def newton(x: Floats, y: Labels, *, ridge: float = 1e-3, steps: int = 60) -> Floats:
    """Logistic regression of two classes on pooled records, no privacy: ``float64[k + 1, 1]``."""
    inputs = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weights = np.zeros(inputs.shape[1])
    for _ in range(steps):
        chance = 1.0 / (1.0 + np.exp(-(inputs @ weights)))
        curvature = (inputs * (chance * (1.0 - chance))[:, None]).T @ inputs / len(y)
        slope = inputs.T @ (chance - y) / len(y) + ridge * weights
        weights -= np.linalg.solve(curvature + ridge * np.eye(len(weights)), slope)
    return weights[:, None]


def outputs(weights: Floats, x: Features) -> Features:
    """What the model says of every record, before any softmax: ``[n, outputs]`` in the type of ``x``."""
    parts = weights.astype(x.dtype)
    return x @ parts[:-1] + parts[-1]


def accuracy(weights: Floats, x: Features, y: Labels) -> float:
    """In percent."""
    said = outputs(weights, x)
    found = said.argmax(axis=1) if said.shape[1] > 1 else (said[:, 0] > 0).astype(np.int64)
    return 100.0 * float(np.mean(found == y))


def _errors(said: Features, y: Labels) -> Features:
    """Derivatives of the cross-entropy by what the model says."""
    if said.shape[-1] == 1:
        return 1.0 / (1.0 + np.exp(-said)) - y[..., None].astype(said.dtype)
    errors = np.exp(said - said.max(axis=-1, keepdims=True))
    errors /= errors.sum(axis=-1, keepdims=True)
    np.put_along_axis(
        errors, y[..., None], np.take_along_axis(errors, y[..., None], -1) - 1, axis=-1
    )
    return errors
