"""The second accountant: above the first one, close to that of the library, and infinite where unsure."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tacit.evidence.renyi import renyi_epsilon
from tacit.privacy.bounds import Rounds, renyi_bound
from tacit.privacy.calibration import make_plan
from tacit.privacy.plan import Plan

SETTINGS = (
    {},
    {"sampling_rate": 1.0},
    {"sampling_rate": 0.01, "rounds": 500},
    {"epsilon": 0.3},
    {"epsilon": 12.0},
    {"delta": 1e-9},
    {"own_noise": True},
    {"rounds": 1},
)
CLIENTS = {"unit": "client", "expected_units": 40, "sampling_rate": 0.2}


def plan(**changes) -> Plan:
    settings = {
        "unit": "record",
        "epsilon": 2.0,
        "delta": 1e-5,
        "clip_norm": 1.0,
        "sampling_rate": 0.1,
        "expected_units": 2000,
        "rounds": 40,
        "helpers": 4,
        "max_colluding": 1,
        "own_noise": False,
        "dimension": 50,
    }
    return make_plan(**{**settings, **changes})


@pytest.mark.parametrize("changes", SETTINGS)
def test_it_is_never_below_the_accountant(changes) -> None:
    made = plan(**changes)
    for rounds in {1, made.rounds // 2 or 1, made.rounds}:
        assert renyi_epsilon(made, rounds) >= made.charge(rounds)
    assert renyi_epsilon(made) < 1.6 * made.charge() + 0.2, "or it would be of no use"


@pytest.mark.parametrize("changes", SETTINGS)
def test_it_agrees_with_the_librarys_own_renyi_accountant(changes) -> None:
    made = plan(**changes)
    releases = made.releases(made.rounds)
    rounds = Rounds(releases.noise_ratio, releases.sampling.rate, made.rounds)
    known = renyi_bound((rounds,), made.delta)
    if math.isfinite(known):
        assert renyi_epsilon(made) == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize("cap", [0, 3])
@pytest.mark.parametrize("visible", [False, True])
def test_who_sees_the_cohort_is_given_no_amplified_figure(cap: int, visible: bool) -> None:
    made = plan(**CLIENTS, max_participations=cap, visible_sampling=visible)
    assert renyi_epsilon(made) >= made.charge()
    if visible:
        secret = dataclasses.replace(made, visible_sampling=False)
        assert renyi_epsilon(made) > renyi_epsilon(secret) or cap


def test_without_a_promise_there_is_no_bound() -> None:
    assert renyi_epsilon(plan(unit="none", sampling_rate=1.0)) == math.inf
    assert renyi_epsilon(plan(), 0) == 0.0
    loud = dataclasses.replace(plan(), noise_multiplier=0.02)
    assert renyi_epsilon(loud) == math.inf
