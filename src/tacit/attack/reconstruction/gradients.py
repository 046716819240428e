"""Per-record gradients as functions of the record: what an adversary inverts, and how they bend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.learn.models import LogisticRegression, Model
from tacit.party.workload import Workload

__all__ = ["LocalSteps", "LogisticUpdates", "Updates", "updates_of"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """A client's own training on a single record.

    Args:
        steps: How many steps of SGD; 0 for a client that sends its gradient.
        rate: Its learning rate.
    """

    steps: int = 0
    rate: float = 1.0


class Updates(Protocol):
    """What clients with one record each send, as a function of those records.

    Shapes: ``theta`` is ``float64[R, d]``, one model a round; ``x`` is ``float64[n, k]``, ``y`` ``int64[n]``.
    """

    @property
    def features(self) -> int:
        """Length k of a record."""
        ...

    def rows(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """Gradients, or updates of local training: ``float64[R, n, d]``."""
        ...

    def jacobian(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """Their derivatives by the record, ``float64[R, n, d, k]``."""
        ...


def updates_of(workload: Workload, local: LocalSteps = LocalSteps()) -> Updates:
    """The updates of a workload's model; local layers are not supported.

    Raises:
        ValueError: The model is neither of the shipped kind nor a torch module, or has local layers.
    """
    model: Model = workload.model.model
    if workload.state_layout.local_dimension:
        raise ValueError("the model keeps layers at the sites")
    if isinstance(model, LogisticRegression):
        return LogisticUpdates(model, local)
    from tacit.attack.reconstruction.modules import ModuleUpdates  # noqa: PLC0415 - torch is optional
    from tacit.learn.torch_model import TorchModel  # noqa: PLC0415 - torch is optional

    if isinstance(model, TorchModel):
        return ModuleUpdates(model, local)
    raise ValueError(f"{type(model).__name__} has no gradients that can be differentiated")


class LogisticUpdates:
    """Logistic regression, in closed form.

    Local training on one record only moves the model along that record: an update is a multiple of a
    gradient, the same for every coordinate of a class; ``steps`` are followed exactly in ``rows``.

    Args:
        model: The model.
        local: Local training; derivatives are those of its first step.
    """

    def __init__(self, model: LogisticRegression, local: LocalSteps = LocalSteps()) -> None:
        weight = model.tensors(np.zeros(model.dimension))["weight"]
        self._outputs, self._features = weight.shape
        self._local = local

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs of the model and length of a record; weights come first, then one bias an output."""
        return int(self._outputs), int(self._features)

    def over(self, features: int) -> LogisticUpdates:
        """The updates of the same kind of model over records of another length."""
        classes = self._outputs if self._outputs > 1 else 2
        return LogisticUpdates(LogisticRegression(features, classes), self._local)

    @property
    def features(self) -> int:
        """Length of a record."""
        return int(self._features)

    def rows(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """See ``Updates``."""
        if not self._local.steps:
            return self._gradients(theta, x, y)
        moved = np.repeat(theta[:, None, :], len(x), axis=1)
        for _ in range(self._local.steps):
            for index in range(len(x)):
                here = slice(index, index + 1)
                step = self._gradients(moved[:, index], x[here], y[here])[:, 0]
                moved[:, index] -= self._local.rate * step
        return moved - theta[:, None, :]

    def jacobian(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """See ``Updates``."""
        weights = theta[:, : self._outputs * self._features].reshape(
            -1, self._outputs, self._features
        )
        p = self._probabilities(theta, x)
        errors = p - self._targets(y)
        if self._outputs == 1:
            bent = (p * (1.0 - p))[..., None] * weights[:, None]
        else:
            mean = np.einsum("rnc,rck->rnk", p, weights)
            bent = p[..., None] * (weights[:, None] - mean[:, :, None, :])
        identity = np.eye(self._features)
        inner = errors[..., None, None] * identity + x[None, :, None, :, None] * bent[:, :, :, None]
        flat = inner.reshape(*inner.shape[:2], -1, self._features)
        found: Floats = np.concatenate([flat, bent], axis=2)
        return found if not self._local.steps else -self._local.rate * found

    def _gradients(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        errors = self._probabilities(theta, x) - self._targets(y)
        weights = errors[..., None] * x[None, :, None, :]
        return np.concatenate([weights.reshape(*errors.shape[:2], -1), errors], axis=2)

    def _probabilities(self, theta: Floats, x: Floats) -> Floats:
        split = self._outputs * self._features
        weights = theta[:, :split].reshape(-1, self._outputs, self._features)
        logits = np.einsum("rck,nk->rnc", weights, x) + theta[:, None, split:]
        if self._outputs == 1:
            found: Floats = 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0)))
            return found
        exponentials = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares: Floats = exponentials / exponentials.sum(axis=2, keepdims=True)
        return shares

    def _targets(self, y: Labels) -> Floats:
        if self._outputs == 1:
            return y[:, None].astype(np.float64)
        return np.equal(y[:, None], np.arange(self._outputs)).astype(np.float64)
