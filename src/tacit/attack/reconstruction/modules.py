"""Gradients of torch modules as functions of the record, in float64."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, jacfwd, vmap

from tacit.attack.reconstruction.gradients import LocalSteps
from tacit.attack.reconstruction.matching import Match, Observed
from tacit.learn.torch_model import TorchModel

__all__ = ["ModuleUpdates", "class_slopes", "cosine_descent"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ADAM_RATE = 0.1


class ModuleUpdates:
    """What clients with one record each send of a module, by automatic differentiation.

    Local training is unrolled: every step is a function of the record as the step before it is.

    Args:
        model: The module.
        local: Local training, or none.

    Reference:
        Geiping et al. 2020, "Inverting gradients"; Dimitrov et al. 2022, "Data leakage in federated averaging"
        (unrolled local steps).
    """

    def __init__(self, model: TorchModel, local: LocalSteps = LocalSteps()) -> None:  # noqa: B008
        self._module, self._loss, self._shapes = model.exact_copy()
        self._features = model.features
        self._local = local
        self._rows = vmap(vmap(self._update, (None, 0, 0)), (0, None, None))
        inner = jacfwd(self._update, argnums=1)
        self._jacobian = vmap(vmap(inner, (None, 0, 0)), (0, None, None))

    @property
    def features(self) -> int:
        """Length of a record."""
        return self._features

    def rows(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """See ``Updates``."""
        with torch.no_grad():
            found: Floats = self._rows(*_tensors(theta, x, y)).numpy()
        return found

    def jacobian(self, theta: Floats, x: Floats, y: Labels) -> Floats:
        """See ``Updates``."""
        with torch.no_grad():
            found: Floats = self._jacobian(*_tensors(theta, x, y)).numpy()
        return found

    def differentiable(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """``rows`` with a graph to the records: ``float64[R, n, d]``."""
        found: Tensor = self._rows(theta, x, y)
        return found

    def _update(self, theta: Tensor, record: Tensor, label: Tensor) -> Tensor:
        if not self._local.steps:
            return self._gradient(theta, record, label)
        moved = theta
        for _ in range(self._local.steps):
            moved = moved - self._local.rate * self._gradient(moved, record, label)
        return moved - theta

    def _gradient(self, theta: Tensor, record: Tensor, label: Tensor) -> Tensor:
        def loss(parameters: dict[str, Tensor]) -> Tensor:
            logits = functional_call(self._module, parameters, (record[None],))
            return self._loss(logits, label[None])

        found = grad(loss)(self._split(theta))
        return torch.cat([found[name].reshape(-1) for name in self._shapes])

    def _split(self, theta: Tensor) -> dict[str, Tensor]:
        parts = torch.split(theta, [shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in named}


def class_slopes(
    model: TorchModel, theta: Floats, x: Floats, classes: Labels
) -> tuple[Floats, Floats]:
    """Log probabilities of classes and their derivatives by the records: ``float64[n]``, ``float64[n, k]``.

    Args:
        model: The module.
        theta: Its parameters, ``float64[d]``.
        x: Records, ``float64[n, k]``.
        classes: One each, ``int64[n]``.
    """
    module, _, shapes = model.exact_copy()
    parts = torch.split(torch.from_numpy(theta.copy()), [s.numel() for s in shapes.values()])
    named = zip(shapes.items(), parts, strict=True)
    parameters = {name: part.reshape(shape) for (name, shape), part in named}

    def likely(record: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(module, parameters, (record[None],))[0]
        return torch.log_softmax(logits, dim=0).gather(0, label[None])[0]

    records, labels = torch.from_numpy(x.copy()), torch.from_numpy(classes.copy())
    slopes, values = vmap(grad_and_value(likely))(records, labels)
    return values.detach().numpy(), slopes.detach().numpy()


def cosine_descent(
    updates: ModuleUpdates,
    seen: Observed,
    start: Floats,
    *,
    iterations: int,
    variation: float = 1e-3,
    image: tuple[int, int] | None = None,
    bound: float = 1.0,
) -> Match:
    """Signed Adam on the cosine distance of updates and the records' total variation.

    For models too large for Gauss-Newton, whose cost grows with the cube of the unknowns; slower and less
    exact. The rate decays by ten times at 3/8, 5/8 and 7/8 of the way.

    Args:
        updates: Of a module.
        seen: What was seen.
        start: ``float64[n, k]``.
        iterations: Steps.
        variation: Weight of total variation.
        image: Height and width, for total variation; none otherwise.
        bound: Largest magnitude of a feature.

    Reference:
        Geiping et al. 2020, "Inverting gradients", section 4.
    """
    theta, target, labels = (
        torch.from_numpy(np.array(part)) for part in (seen.theta, seen.updates, seen.labels)
    )
    records = torch.from_numpy(start.copy()).requires_grad_(True)
    optimiser = torch.optim.Adam([records], lr=ADAM_RATE)
    marks = [int(iterations * share) for share in (0.375, 0.625, 0.875)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, marks, 0.1)
    cost = torch.ones(())
    for _ in range(iterations):
        made = updates.differentiable(theta, records, labels).sum(dim=1)
        cost = 1.0 - torch.nn.functional.cosine_similarity(made, target, dim=1).mean()
        loss = cost
        if image is not None and variation:
            pixels = records.reshape(-1, *image)
            loss = loss + variation * (
                pixels.diff(dim=1).abs().mean() + pixels.diff(dim=2).abs().mean()
            )
        (slope,) = torch.autograd.grad(loss, records)
        records.grad = slope.sign()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            records.clamp_(-bound, bound)
    return Match(records.detach().numpy(), 2.0 * float(cost.detach()))


def _tensors(theta: Floats, x: Floats, y: Labels) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(np.array(theta, dtype=np.float64)),
        torch.from_numpy(np.array(x, dtype=np.float64)),
        torch.from_numpy(np.array(y, dtype=np.int64)),
    )
