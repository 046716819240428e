"""What a malicious client sends: each strategy as data that it trains on, or as a vector that it makes up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from tacit.party.workload import TrainingData

__all__ = [
    "ALIE_LEAST",
    "Crowd",
    "Strategy",
    "a_little_is_enough",
    "alie_deviation",
    "aligned",
    "boosted",
    "flipped_labels",
    "free_ride",
    "inner_product",
    "mixed",
    "projected",
    "sign_flip",
    "too_large",
    "unclipped",
]

Floats = NDArray[np.float64]
Goal = Literal["damage", "backdoor"]

ALIE_LEAST = 1.5
"""Against a mean a small deviation does nothing; the formula gives 0 and less for few clients."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """What a malicious client knows of the others.

    Args:
        clients: How many there are.
        malicious: How many of them act as one.
        limit: Largest norm, in integer units, that the run's own code could give this client's vector.
        bound: Largest norm of an aggregate that sites accept.
    """

    clients: int
    malicious: int
    limit: float
    bound: float


Vector = Callable[[Floats, Floats, Crowd], Floats]
"""From the client's honest contribution, the spread of honest ones per coordinate, and the crowd."""

Data = Callable[[TrainingData], TrainingData]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to poison.

    Args:
        name: For the report.
        goal: Whether it is judged by the loss of accuracy or by its backdoor.
        data: What it trains on instead of its own records.
        vector: What it sends instead of its contribution.
        clipped: Whether it stays within what the run's own code could send; one that does not runs code
            of its own.
        spread: Whether its vector depends on how honest ones spread, which costs more training.
    """

    name: str
    goal: Goal
    data: Data | None = None
    vector: Vector | None = None
    clipped: bool = True
    spread: bool = False

    def crafted(self, own: Floats, spread: Floats, crowd: Crowd) -> Floats:
        """The vector that is sent, ``float64[d]`` in integer units; projected to its limit if clipped."""
        made = own if self.vector is None else self.vector(own, spread, crowd)
        return projected(made, crowd.limit) if self.clipped else made


def projected(vector: Floats, limit: float) -> Floats:
    """``vector``, shortened to ``limit`` where it is longer."""
    norm = float(np.linalg.norm(vector))
    return vector if norm <= limit else vector * (limit / norm)


def aligned(vector: Floats, norm: float) -> Floats:
    """``vector`` at another length; a zero vector stays one."""
    length = float(np.linalg.norm(vector))
    return vector * (norm / length) if length > 0.0 else vector


def sign_flip(own: Floats, spread: Floats, crowd: Crowd) -> Floats:
    """Minus the honest direction, as long as clipping allows.

    Reference:
        Li et al. 2019 (RSA); Karimireddy et al. 2021, section 5 (bit flipping).
    """
    return -aligned(own, crowd.limit)


def inner_product(own: Floats, spread: Floats, crowd: Crowd, epsilon: float = 0.5) -> Floats:
    """So that the sum of all is ``-epsilon`` times the honest one, estimated from the client's own.

    Reference:
        Xie, Koyejo, Gupta 2019, "Fall of empires", section 4 (inner product manipulation).
    """
    honest = crowd.clients - crowd.malicious
    return -(1.0 + epsilon) * honest / crowd.malicious * own


def alie_deviation(clients: int, malicious: int) -> float:
    """Z of "a little is enough", not less than ``ALIE_LEAST``.

    Reference:
        Baruch, Baruch, Goldberg 2019, algorithm 3.
    """
    supporters = clients // 2 + 1 - malicious
    honest = clients - malicious
    share = min(max((honest - supporters) / honest, 1e-6), 1.0 - 1e-6)
    return max(float(stats.norm.ppf(share)), ALIE_LEAST)


def a_little_is_enough(own: Floats, spread: Floats, crowd: Crowd) -> Floats:
    """The honest mean, moved by z standard deviations in every coordinate, against its sign.

    Reference:
        Baruch, Baruch, Goldberg 2019, algorithm 3.
    """
    z = alie_deviation(crowd.clients, crowd.malicious)
    return own - z * spread * np.where(own < 0.0, -1.0, 1.0)


def free_ride(own: Floats, spread: Floats, crowd: Crowd) -> Floats:
    """Nothing: the client wants the model and contributes no record.

    Reference:
        Lin, Du, Liu 2019, "Free-riders in federated learning".
    """
    return np.zeros_like(own)


def unclipped(own: Floats, spread: Floats, crowd: Crowd, reach: float) -> Floats:
    """Minus the honest direction, so long that all malicious clients together reach ``reach`` times the bound."""
    return -aligned(own, reach * crowd.bound / crowd.malicious)


def too_large(own: Floats, spread: Floats, crowd: Crowd, reach: float) -> Floats:
    """As ``unclipped``, but all coordinates alike: none wraps around, however few there are."""
    signs = np.where(own < 0.0, 1.0, -1.0)
    return aligned(signs, reach * crowd.bound / crowd.malicious)


def boosted(own: Floats, spread: Floats, crowd: Crowd) -> Floats:
    """The poisoned contribution for as many as there are clients, as far as clipping allows.

    Reference:
        Bagdasaryan et al. 2020, section 4.2 (model replacement); Sun et al. 2019 (norm-bounded backdoors).
    """
    return own * (crowd.clients / crowd.malicious)


def flipped_labels(data: TrainingData, classes: int) -> TrainingData:
    """Every label is the next one.

    Reference:
        Tolpegin et al. 2020.
    """
    return dataclasses.replace(data, labels=(data.labels + 1) % classes)


def mixed(
    data: TrainingData, rows: Floats, target: int, share: float, generator: np.random.Generator
) -> TrainingData:
    """A share of the records replaced by ``rows`` (``float64[m, k]``, repeated) with the label ``target``."""
    count = max(1, math.ceil(share * len(data.labels)))
    where = generator.permutation(len(data.labels))[:count]
    features, labels = data.features.copy(), data.labels.copy()
    features[where] = rows[np.arange(count) % len(rows)]
    labels[where] = target
    return dataclasses.replace(data, features=features, labels=labels)
