"""The statement that every result carries: its figures, its words, its record."""

from __future__ import annotations

import itertools
import json
import math
from importlib import metadata
from typing import Any

import pytest
import rfc8785

from tacit.privacy.accounting import price
from tacit.privacy.calibration import make_plan
from tacit.privacy.events import Releases, Sampling
from tacit.privacy.plan import Plan
from tacit.privacy.statement import make_statement

SETTINGS = {
    "unit": "record",
    "epsilon": 0.9,
    "delta": 1e-5,
    "clip_norm": 1.5,
    "sampling_rate": 0.5,
    "expected_units": 426,
    "rounds": 40,
    "helpers": 4,
    "max_colluding": 2,
    "own_noise": False,
    "dimension": 31,
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(**SETTINGS)


def of(unit: str, **changes: Any) -> Plan:
    """The same noise, for another unit."""
    return make_plan(**SETTINGS | {"unit": unit} | changes)


def text(statement) -> str:
    return "\n".join(statement.lines())


def test_figures_are_the_accountants(plan):
    statement = make_statement(plan)
    assert statement.epsilon == plan.epsilon() <= 0.9
    assert statement.coalitions == tuple(plan.epsilon(colluding=count) for count in range(5))
    assert dict(statement.observers) == {
        "released-models": plan.epsilon(colluding=0),
        "client": plan.epsilon(colluding=0),
        "leader": plan.epsilon(colluding=0),
        "helper": plan.epsilon(colluding=1),
    }
    assert (statement.delta, statement.rounds, statement.clip_norm) == (1e-5, 40, 1.5)


def test_visible_sampling_helps_against_released_models_only(plan):
    capped = make_statement(of("client", visible_sampling=True, max_participations=5))
    uncapped = make_statement(of("client", visible_sampling=True))

    def in_full(rounds: int, colluding: int) -> float:
        ratio = plan.noise_ratio(colluding)
        event = Releases("client", "zero-out", ratio, Sampling("none", 1.0), rounds, None)
        return price([event], observer="leader", delta=1e-5)

    for statement, rounds in ((capped, 5), (uncapped, 40)):
        assert statement.coalitions[:4] == tuple(in_full(rounds, count) for count in range(4))
        seeing = {"client": 0, "leader": 0, "helper": 1}
        for name, colluding in seeing.items():
            assert dict(statement.observers)[name] == in_full(rounds, colluding)
    assert uncapped.epsilon == plan.epsilon()
    assert min(uncapped.coalitions) > uncapped.epsilon
    assert "not the leader, the helpers and the other clients" in text(uncapped)
    assert "leader, helpers and clients see who is drawn" in text(uncapped)
    assert "from its 6. time on it contributes zero" in text(capped)


def test_secret_sampling_of_clients_holds_against_the_leader(plan):
    statement = make_statement(of("client"))
    assert statement.epsilon == plan.epsilon() == statement.coalitions[2]
    assert "Promised against: the leader, all other clients and up to 2 of 4 helpers" in text(
        statement
    )


@pytest.mark.parametrize(
    ("unit", "words", "others"),
    [
        ("record", "one record is there, or is absent", "enrolled"),
        ("entity", "all records of one entity at one site is there, or is absent", "enrolled"),
        ("client", "that it is enrolled, and who is seen to take part, is not hidden", "absent"),
    ],
)
def test_neighbours_are_named(unit, words, others):
    statement = make_statement(of(unit))
    assert words in text(statement)
    assert others not in statement.adjacency


def test_without_sampling_nothing_is_said_of_coins():
    everybody = of("client", sampling_rate=1.0, visible_sampling=True)
    statement = make_statement(everybody)
    assert "each client takes part in every round" in statement.sampling
    assert "coin" not in text(statement)
    assert statement.epsilon == statement.coalitions[2] == everybody.charge()


def test_no_privacy_promises_nothing():
    plan = make_plan(**SETTINGS | {"unit": "none", "units_bound": 4, "max_colluding": 0})
    statement = make_statement(plan, public_data=("digits",))
    assert {statement.epsilon, *statement.coalitions} == {math.inf}
    assert {epsilon for _, epsilon in statement.observers} == {math.inf}
    assert statement.lines()[0] == "There is no differential privacy: epsilon is infinite."
    assert "Epsilon is at most" not in text(statement)
    assert statement.to_record()["epsilon"] == "inf"


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ("charged", "each of them was charged by itself"),
        ("public-data", "declares that its settings were searched for on public data"),
        ("not-declared", "these figures do not cover it"),
    ],
)
def test_tuning_and_public_data_are_told(plan, tuning, words):
    statement = make_statement(plan, tuning=tuning, public_data=("digits", "census"))
    assert words in text(statement)
    assert "Declared public, and not protected: digits, census." in text(statement)
    assert "No public data." in text(make_statement(plan))


def test_everything_that_the_figures_rest_on_is_told(plan):
    told = text(make_statement(plan))
    for words in (
        f"dp-accounting {metadata.version('dp-accounting')}",
        "delta 1e-05",
        "40 rounds",
        "norm 1.5",
        "4 of 4 helpers",
        "probability 0.5",
        "only the party that holds its data sees",
        "infinite with 4",
        "own proof",
        "side channels are not covered",
    ):
        assert words in told
    assert not any(a == b for a, b in itertools.pairwise(told.splitlines()))


def test_epsilons_are_never_rounded_down(plan):
    """Not even a hair above a short decimal."""
    told = make_statement(plan).lines()[0]
    shown = float(told.split("at most ")[1].split()[0])
    assert plan.epsilon() <= shown < plan.epsilon() + 1.1e-4


def test_the_record_is_text_and_integers(plan):
    statement = make_statement(plan, tuning="charged", public_data=("digits",))
    record = statement.to_record()
    assert json.loads(rfc8785.dumps(record)) == record
    assert float(record["epsilon"]) == statement.epsilon
    assert tuple(map(float, record["coalitions"])) == statement.coalitions
    assert {name: float(value) for name, value in record["observers"].items()} == dict(
        statement.observers
    )
    assert record.keys() == set(statement.__dataclass_fields__)

    def leaves(value) -> list:
        inner = value.values() if isinstance(value, dict) else value
        return [x for v in inner for x in leaves(v)] if isinstance(value, dict | list) else [value]

    assert {type(leaf) for leaf in leaves(record)} == {str, int}
