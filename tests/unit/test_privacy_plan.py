"""Plans: what is promised, what is refused, what travels."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest

from tacit.errors import ConfigError, DecodeError
from tacit.privacy.noise import discrete_gaussian
from tacit.privacy.plan import Plan, make_plan
from tacit.testing.entropy import SeededEntropy

SETTINGS = {
    "unit": "record",
    "epsilon": 0.9,
    "delta": 1e-5,
    "clip_norm": 1.0,
    "sampling_rate": 0.5,
    "expected_records": 426,
    "rounds": 40,
    "helpers": 4,
    "max_colluding": 1,
    "own_noise": False,
    "dimension": 31,
}
UNNOISED = SETTINGS | {"unit": "none", "units_bound": 4, "max_colluding": 0}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(**SETTINGS)


@pytest.fixture(scope="module")
def own() -> Plan:
    return make_plan(**SETTINGS | {"own_noise": True})


def test_plan_keeps_the_promise(plan, own):
    for p in (plan, own):
        assert 0.99 * 0.9 < p.epsilon() <= 0.9
    assert own.max_colluding == 3


def test_noise_is_what_the_multiplier_says(plan):
    target = (Fraction(plan.noise_multiplier) * plan.sensitivity) ** 2
    assert target <= plan.guaranteed_variance < target + 3
    assert plan.guaranteed_variance == 3 * plan.share_variance
    assert plan.total_variance == 4 * plan.share_variance


def test_own_noise_is_the_full_noise_from_every_helper(own):
    assert own.share_variance >= (own.noise_multiplier * own.sensitivity) ** 2 * (1 - 1e-12)
    assert own.epsilon(colluding=3) <= 0.9


def test_epsilon_grows_with_the_coalition(plan):
    against = [plan.epsilon(colluding=count) for count in range(5)]
    assert all(a < b for a, b in itertools.pairwise(against))
    assert against[1] == plan.epsilon()
    assert math.isfinite(against[3])
    assert against[4] == math.inf


def test_epsilon_grows_with_the_rounds(plan):
    so_far = [plan.epsilon(rounds=rounds) for rounds in (0, 1, 2, 20, 40)]
    assert so_far[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(so_far))
    assert so_far[-1] == plan.epsilon()


def test_the_ring_has_room_and_the_grid_is_fine(plan):
    for p in (plan, make_plan(**UNNOISED)):
        room = p.units_bound * p.sensitivity + p.coordinate_noise_tail
        assert 2**29 < room < 2**31
        assert p.grid <= 0.05 * p.clip_norm / math.sqrt(31)
        assert math.frexp(p.grid)[0] == 0.5


def test_aggregate_norm_bound_holds_and_is_not_idle(plan):
    dimension = 2000
    noise = sum(
        discrete_gaussian(plan.share_variance, dimension, SeededEntropy(helper))
        for helper in range(plan.helpers)
    )
    norm = float(np.linalg.norm(noise))
    tail = plan.aggregate_norm_bound(dimension) - plan.units_bound * plan.sensitivity
    assert norm < tail < 1.3 * norm
    assert np.abs(noise).max() < plan.coordinate_noise_tail


def test_without_privacy_there_is_no_noise_and_no_finite_epsilon():
    p = make_plan(**UNNOISED)
    assert (p.share_variance, p.total_variance, p.coordinate_noise_tail) == (0, 0, 0)
    assert p.epsilon() == math.inf
    assert p.epsilon(rounds=0) == 0.0
    assert p.aggregate_norm_bound(31) == 4 * p.sensitivity
    assert make_plan(**UNNOISED | {"helpers": 0}).helpers == 0


def test_the_divisor_is_constant(plan):
    assert plan.divisor == 213.0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": 1e-13}, "delta"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.inf}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.5}, "sampling_rate"),
        ({"sampling_rate": math.nan}, "sampling_rate"),
        ({"expected_records": 0}, "expected_records"),
        ({"rounds": 0}, "rounds"),
        ({"max_colluding": 0}, "max_colluding"),
        ({"max_colluding": 4}, "max_colluding"),
        ({"helpers": 1, "own_noise": True}, "max_colluding"),
        ({"dimension": 0}, "model"),
        ({"expected_records": 2**31}, "expected_records"),
        ({"unit": "patient"}, "unit"),
    ],
)
def test_refuses_and_names_the_key(change, key):
    with pytest.raises(ConfigError) as caught:
        make_plan(**SETTINGS | change)
    assert caught.value.details["key"] == key
    assert caught.value.remedy


def test_refuses_noise_without_a_unit():
    with pytest.raises(ConfigError, match="noise_multiplier"):
        dataclasses.replace(make_plan(**UNNOISED), noise_multiplier=1.0)


def test_refuses_shares_too_small_for_the_lemmas(plan):
    with pytest.raises(ConfigError, match="share"):
        dataclasses.replace(plan, grid=0.25, noise_multiplier=1.0)


def test_record_round_trip(plan, own):
    for p in (plan, own, make_plan(**UNNOISED)):
        record = json.loads(p.canonical())
        assert all(isinstance(value, str | int) for value in record.values())
        assert Plan.from_record(record) == p
        assert Plan.from_record(p.to_record()).canonical() == p.canonical()


@pytest.mark.parametrize(
    "change",
    [
        {"delta": "1E-5"},
        {"delta": 1e-5},
        {"delta": "nan"},
        {"delta": "0.0"},
        {"clip_norm": "1"},
        {"clip_norm": "inf"},
        {"clip_norm": "x"},
        {"rounds": "40"},
        {"rounds": True},
        {"rounds": 0},
        {"unit": 1},
        {"unit": "client"},
        {"ring_bits": 16},
        {"grid": "1e-300"},
        {"noise_multiplier": "0.0"},
        {"noise_multiplier": "-1.0"},
        {"more": 1},
    ],
)
def test_a_bad_record_is_not_decoded(plan, change):
    with pytest.raises(DecodeError):
        Plan.from_record(plan.to_record() | change)


@pytest.mark.parametrize("record", [None, [], {}, "plan", {"unit": "record"}])
def test_something_else_is_not_decoded(record):
    with pytest.raises(DecodeError):
        Plan.from_record(record)
