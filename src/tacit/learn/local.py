"""Local training of the FedAvg baseline: epochs of plain mini-batch SGD on one site's records."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.learn.memory import keep_freed_memory
from tacit.learn.models import Features, Labels, Model

__all__ = ["LocalSettings", "local_update"]


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Local SGD.

    Args:
        epochs: Passes over the records, at least 1.
        batch: Records per step, at least 1.
        learning_rate: Positive.
    """

    epochs: int
    batch: int
    learning_rate: float

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if self.epochs < 1 or self.batch < 1 or not (math.isfinite(rate) and rate > 0):
            raise ValueError("epochs and batch are at least 1, learning_rate is positive")


def local_update(
    model: Model,
    theta: NDArray[np.float64],
    x: Features,
    y: Labels,
    settings: LocalSettings,
    entropy_seed: bytes,
) -> NDArray[np.float64]:
    """How local training moves the model: its parameters afterwards less ``theta``, ``float64[d]``.

    This has no record-level guarantee; a record whose gradient is not finite is left out. Too large a
    learning rate may leave an update that is not finite. The same call gives the same bits on one
    machine; another machine's matrix products may be rounded otherwise.

    Args:
        model: Gives mean gradients.
        theta: Parameters at the start of the round, ``float64[d]``.
        x: Scaled features, ``float64[n, k]`` or ``float32``, n at least 1.
        y: Class indices, ``int64[n]``.
        settings: Epochs, batch and learning rate.
        entropy_seed: Governs the order of the records and nothing else; not used where one batch
            holds them all.

    Raises:
        ValueError: There are no records.

    Reference:
        McMahan et al. 2017, algorithm 1, ClientUpdate.
    """
    if not len(x):
        raise ValueError("local training needs at least one record")
    keep_freed_memory()
    order = np.random.Generator(np.random.PCG64(int.from_bytes(entropy_seed, "little")))
    local = theta.copy()
    for _ in range(settings.epochs):
        whole = settings.batch >= len(x)  # one batch holds all: its order would only round sums
        shuffled = np.arange(len(x)) if whole else order.permutation(len(x))
        for start in range(0, len(x), settings.batch):
            chosen = shuffled[start : start + settings.batch]
            with np.errstate(all="ignore"):  # whoever uses the update looks whether it is finite
                local -= settings.learning_rate * model.mean_gradient(local, x[chosen], y[chosen])
    return local - theta
