"""What a result says of its privacy: every fact that its epsilon depends on, for programs and people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any, Literal

from tacit.privacy import sampling
from tacit.privacy.events import Adjacency, Observer, SamplingKind, Unit
from tacit.privacy.plan import ADJACENCY, Plan

__all__ = ["PrivacyStatement", "Tuning", "make_statement"]

Tuning = Literal["charged", "public-data", "not-declared"]

ACCOUNTANT = "dp-accounting"

ONE: dict[Unit, str] = {
    "record": "one record",
    "entity": "all records of one entity at one site",
    "client": "all data of one client",
}
EACH: dict[Unit, str] = {"record": "record", "entity": "entity", "client": "client"}

RELATION: dict[Adjacency, str] = {
    "add-or-remove": "{one} is there, or is absent, or counts as zero",
    "zero-out": "what {one} contributes is there, or counts as zero in every round; that it is "
    "enrolled, and who is seen to take part, is not hidden",
}

COINS: dict[SamplingKind, str] = {
    "secret": "each {each} is drawn anew in every round with probability {rate:.6g}, by a coin that "
    "only the party that holds its data sees",
    "visible": "each {each} is drawn anew in every round with probability {rate:.6g}, by an honest "
    "coin; leader, helpers and clients see who is drawn; the leader releases every round, whoever is in it",
    "none": "none: each {each} takes part in every round",
}

OBSERVERS: dict[Observer, str] = {
    "released-models": "whoever holds the released models and nothing else",
    "client": "another client",
    "leader": "the leader",
    "helper": "a helper",
}

TUNING: dict[Tuning, str] = {
    "charged": "The job declares that its settings were searched for in earlier runs on the protected "
    "data; each of them was charged by itself and adds to these figures (not checked).",
    "public-data": "The job declares that its settings were searched for on public data (not checked).",
    "not-declared": "How the settings were chosen is not declared; if it was by trying them on the "
    "protected data, these figures do not cover it.",
}


@dataclass(frozen=True, slots=True)
class PrivacyStatement:
    """Made by ``make_statement``; an epsilon is infinite where nothing is promised.

    Args:
        unit: Whose data are protected: ``record``, ``entity``, ``client`` or ``none``.
        epsilon: Of all rounds together, against those whom ``against`` names.
        delta: Of all rounds together, for every epsilon here.
        adjacency: What two neighbouring inputs differ in, in words.
        against: Whom ``epsilon`` is promised against, in words.
        sampling: What is assumed of sampling, in words.
        coalitions: Epsilon against the leader and 0, 1, ... helpers who pool what they know.
        observers: Epsilon against each observer by itself; a helper can subtract its own noise.
        dropouts: What is charged when somebody drops out, in words.
        accountant: Name of the distribution that computed every epsilon.
        accountant_version: Its version.
        tuning: How the choice of the settings was paid for.
        public_data: Names of the data that are declared public.
        rounds: Rounds charged: all that the plan allows.
        clip_norm: L2 bound of one unit's contribution to one sum.
    """

    unit: str
    epsilon: float
    delta: float
    adjacency: str
    against: str
    sampling: str
    coalitions: tuple[float, ...]
    observers: tuple[tuple[Observer, float], ...]
    dropouts: str
    accountant: str
    accountant_version: str
    tuning: Tuning
    public_data: tuple[str, ...]
    rounds: int
    clip_norm: float

    def to_record(self) -> dict[str, str | int | list[str] | dict[str, str]]:
        """Text and integers, alone or in lists; a float as its shortest decimal text."""
        return {
            "unit": self.unit,
            "epsilon": repr(self.epsilon),
            "delta": repr(self.delta),
            "adjacency": self.adjacency,
            "against": self.against,
            "sampling": self.sampling,
            "coalitions": [repr(epsilon) for epsilon in self.coalitions],
            "observers": {name: repr(epsilon) for name, epsilon in self.observers},
            "dropouts": self.dropouts,
            "accountant": self.accountant,
            "accountant_version": self.accountant_version,
            "tuning": self.tuning,
            "public_data": list(self.public_data),
            "rounds": self.rounds,
            "clip_norm": repr(self.clip_norm),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> PrivacyStatement:
        """Reads what ``to_record`` returned, for people; evidence is read by the verifier.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: It is something else.
        """
        texts = ("unit", "adjacency", "against", "sampling", "dropouts", "accountant")
        return cls(
            **{name: str(record[name]) for name in (*texts, "accountant_version")},
            epsilon=float(record["epsilon"]),
            delta=float(record["delta"]),
            coalitions=tuple(map(float, record["coalitions"])),
            observers=tuple((name, float(value)) for name, value in record["observers"].items()),
            tuning=record["tuning"],
            public_data=tuple(map(str, record["public_data"])),
            rounds=int(record["rounds"]),
            clip_norm=float(record["clip_norm"]),
        )

    def lines(self) -> tuple[str, ...]:
        """Plain sentences for people; an epsilon is rounded up."""
        if self.unit == "none":
            return (
                "There is no differential privacy: epsilon is infinite.",
                *self._data_lines(),
            )
        coalitions = ", ".join(
            f"{_shown(epsilon)} with {count}" for count, epsilon in enumerate(self.coalitions)
        )
        observers = ", ".join(
            f"{OBSERVERS[name]} {_shown(epsilon)}" for name, epsilon in self.observers
        )
        return (
            f"Epsilon is at most {_shown(self.epsilon)} at delta {self.delta:g}, for all "
            f"{self.rounds} rounds together.",
            f"Neighbours: {self.adjacency}.",
            f"Promised against: {self.against}.",
            "It rests on encryption that nobody breaks, and on all other helpers adding their noise; "
            "timing and other side channels are not covered.",
            f"Sampling: {self.sampling}.",
            f"Epsilon by helpers who pool what they know with the leader: {coalitions}.",
            f"Epsilon by observer: {observers}.",
            f"Dropouts: {self.dropouts}.",
            f"One unit's contribution to a sum has norm {self.clip_norm:g} at most, checked in "
            "integers before it is masked.",
            *self._data_lines(),
            f"Computed by {self.accountant} {self.accountant_version}, as an upper bound. That it may "
            "price noise in integers, and capped participation, is the project's own proof "
            "(docs/design/0003-discrete-gaussian.md), checked by brute force and reviewed by nobody "
            "outside.",
        )

    def _data_lines(self) -> tuple[str, ...]:
        names = ", ".join(self.public_data)
        public = f"Declared public, and not protected: {names}." if names else "No public data."
        return TUNING[self.tuning], public


def make_statement(
    plan: Plan, *, tuning: Tuning = "not-declared", public_data: tuple[str, ...] = ()
) -> PrivacyStatement:
    """The statement of a run under ``plan``: of its whole plan, wherever it stopped.

    Args:
        plan: What ran.
        tuning: How the settings were chosen.
        public_data: Names of the data that are declared public.

    Raises:
        ConfigError: There is no sound price.

    Guarantee:
        Every epsilon is ``accounting.price``'s against the observer or the coalition that it is stated
        for; where sampling is visible, none against those who see it is amplified. Checked by
        ``tests/unit/test_privacy_statement.py::test_figures_are_the_accountants`` and
        ``::test_visible_sampling_helps_against_released_models_only``.
    """
    if plan.unit == "none":
        return _without_privacy(plan, tuning, public_data)
    run = _Run(plan, plan.unit)
    return PrivacyStatement(
        unit=run.unit,
        epsilon=run.epsilon(run.weakest, plan.max_colluding),
        delta=plan.delta,
        adjacency=RELATION[ADJACENCY[run.unit]].format(one=ONE[run.unit]),
        against=run.against,
        sampling=run.coins,
        coalitions=tuple(run.epsilon("leader", count) for count in range(plan.helpers + 1)),
        observers=tuple((name, run.epsilon(name, name == "helper")) for name in OBSERVERS),
        dropouts=_dropouts(plan),
        accountant=ACCOUNTANT,
        accountant_version=_version(),
        tuning=tuning,
        public_data=public_data,
        rounds=plan.rounds,
        clip_norm=plan.clip_norm,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """A plan with the facts about its sampling."""

    plan: Plan
    unit: Unit

    @property
    def kind(self) -> SamplingKind:
        if self.plan.sampling_rate == 1.0:
            return "none"
        return "visible" if self.plan.visible_sampling else "secret"

    def epsilon(self, observer: Observer, colluding: int) -> float:
        """Of all rounds, for an observer who knows the noise of ``colluding`` helpers."""
        return self.plan.epsilon(colluding=colluding, observer=observer)

    @property
    def weakest(self) -> Observer:
        """The observer of whom the headline speaks."""
        return "released-models" if self.kind == "visible" else "leader"

    @property
    def against(self) -> str:
        """Whom the headline is promised against."""
        shares = f"up to {self.plan.max_colluding} of {self.plan.helpers} helpers"
        if self.kind == "visible":
            return (
                "whoever holds the released models and does not learn who took part, even if told "
                f"the noise of {shares}; not the leader, the helpers and the other clients"
            )
        return (
            f"the leader, all other clients and {shares}, who may pool all that they see; not the "
            "party that holds the data"
        )

    @property
    def coins(self) -> str:
        """The sampling, with the cap."""
        words = COINS[self.kind].format(
            each=EACH[self.unit], rate=sampling.realised_rate(self.plan.sampling_threshold)
        )
        if not self.plan.max_participations:
            return words
        return f"{words}; from its {self.plan.max_participations + 1}. time on it contributes zero"


def _dropouts(plan: Plan) -> str:
    return (
        "helpers add the noise, so that a client that drops out takes none away; a round needs "
        f"{plan.min_helpers} of {plan.helpers} helpers, and one that one of its helpers leaves yields "
        "no sum; every round is charged at the least noise that the plan allows, and the whole plan "
        "once anything was uploaded"
    )


def _without_privacy(plan: Plan, tuning: Tuning, public_data: tuple[str, ...]) -> PrivacyStatement:
    nothing = "nothing is promised"
    return PrivacyStatement(
        unit=plan.unit,
        epsilon=math.inf,
        delta=plan.delta,
        adjacency=nothing,
        against=nothing,
        sampling=nothing,
        coalitions=(math.inf,) * (plan.helpers + 1),
        observers=tuple((name, math.inf) for name in OBSERVERS),
        dropouts=nothing,
        accountant=ACCOUNTANT,
        accountant_version=_version(),
        tuning=tuning,
        public_data=public_data,
        rounds=plan.rounds,
        clip_norm=plan.clip_norm,
    )


def _shown(epsilon: float) -> str:
    """Four decimals, rounded up."""
    return f"{math.ceil(epsilon * 1e4) / 1e4:.4f}" if math.isfinite(epsilon) else "infinite"


@lru_cache(maxsize=1)
def _version() -> str:
    return metadata.version(ACCOUNTANT)
