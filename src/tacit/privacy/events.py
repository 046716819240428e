"""What happened: noisy sums that were released, as plain values. What they cost is another matter.

An event states all that its price depends on, the neighbouring relation included. What nobody knows
how to price soundly cannot be stated: it is refused here, or by ``accounting.price``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tacit.errors import ConfigError

__all__ = [
    "SEES_PARTICIPATION",
    "Adjacency",
    "Observer",
    "Releases",
    "Sampling",
    "SamplingKind",
    "Unit",
    "refused",
]

Unit = Literal["record", "entity", "client"]
"""Whose data are protected: one record, all records of one entity, all data of one client."""

Adjacency = Literal["add-or-remove", "zero-out"]
"""``add-or-remove``: one unit is there or not. ``zero-out``: it takes part as before, but contributes
zero. To whoever does not see who takes part both are the same, for sums are divided by constants."""

SamplingKind = Literal["secret", "visible", "none"]

Observer = Literal["released-models", "client", "leader", "helper"]
"""Who looks: a holder of the released models and nothing else, another client of the federation, the
leader, a helper. The noise that an observer can subtract is no longer in the noise ratio."""

SEES_PARTICIPATION: frozenset[Observer] = frozenset(("client", "leader", "helper"))
"""Whom the protocol tells which clients are in a sum; clients read it in every aggregate."""

WHY_NOT = {
    "replace-one": "replacing a unit counts as removing one and adding another, twice the sensitivity",
    "fixed-size": "samples of a fixed size are not independent coins, and cost more",
    "without-replacement": "samples of a fixed size are not independent coins, and cost more",
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Who takes part in one release.

    Args:
        kind: ``secret``: every unit by a coin of its own, which its data holder alone sees.
            ``visible``: by such a coin, but leader, helpers and clients see who took part. ``none``:
            all units, in every release.
        rate: Probability of heads, as realised, in (0, 1]; 1.0 for ``none``.

    Raises:
        ConfigError: Any other kind, for example samples of a fixed size.
        ValueError: The rate is out of range.
    """

    kind: SamplingKind
    rate: float

    def __post_init__(self) -> None:
        _check_choice("sampling", self.kind, get_args(SamplingKind))
        if not 0.0 < self.rate <= 1.0 or (self.kind == "none" and self.rate != 1.0):
            raise ValueError("a sampling rate lies in (0, 1]; without sampling it is 1.0")


@dataclass(frozen=True, slots=True)
class Releases:
    """Adaptive releases of Gaussian-noised sums of bounded contributions, all of one kind.

    Args:
        unit: Unit of privacy.
        adjacency: Neighbouring relation.
        noise_ratio: Standard deviation of the equivalent continuous Gaussian noise that the observer
            cannot subtract, divided by the sensitivity; positive and finite.
        sampling: Who takes part.
        rounds: Number of releases, at least 1.
        participations: Cap: a unit that took part so often contributes zero from then on. None if
            there is no cap.

    Raises:
        ConfigError: The unit or the neighbouring relation is none that can be priced.
        ValueError: A number is out of range.
    """

    unit: Unit
    adjacency: Adjacency
    noise_ratio: float
    sampling: Sampling
    rounds: int
    participations: int | None

    def __post_init__(self) -> None:
        _check_choice("unit", self.unit, get_args(Unit))
        _check_choice("adjacency", self.adjacency, get_args(Adjacency))
        if not 0.0 < self.noise_ratio < math.inf:
            raise ValueError("the noise ratio must be positive and finite")
        if self.rounds < 1 or (self.participations is not None and self.participations < 1):
            raise ValueError("rounds and participations must be at least 1")

    @property
    def contributions(self) -> int:
        """How often one unit contributes at most."""
        return self.rounds if self.participations is None else min(self.rounds, self.participations)


def refused(key: str, reason: str, remedy: str) -> ConfigError:
    """The error for what has no sound price."""
    return ConfigError("accounting.unsupported", f"{key}: {reason}", remedy=remedy, key=key)


def _check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        reason = WHY_NOT.get(value, "nothing is known about its price")
        raise refused(key, f"{value!r} cannot be priced: {reason}", f"choose {' or '.join(known)}")
