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
from tacit.privacy import accounting
from tacit.privacy.calibration import make_plan
from tacit.privacy.noise import discrete_gaussian
from tacit.privacy.plan import Plan
from tacit.testing.entropy import SeededEntropy

SETTINGS = {
    "unit": "record",
    "epsilon": 0.9,
    "delta": 1e-5,
    "clip_norm": 1.0,
    "sampling_rate": 0.5,
    "expected_units": 426,
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


@pytest.fixture(scope="module")
def leaving() -> Plan:
    """Six helpers, of whom as few as three may be present and two may collude."""
    return make_plan(**SETTINGS | {"helpers": 6, "max_colluding": 2, "min_helpers": 3})


def test_plan_keeps_the_promise(plan, own):
    for p in (plan, own):
        assert 0.99 * 0.9 < p.epsilon() <= 0.9
    assert own.max_colluding == 3


def test_noise_is_what_the_multiplier_says(plan):
    target = (Fraction(plan.noise_multiplier) * plan.sensitivity) ** 2
    assert target <= plan.guaranteed_variance < target + 3
    assert plan.guaranteed_variance == 3 * plan.share_variance(4)
    assert plan.total_variance(4) == 4 * plan.share_variance(4)


def test_own_noise_is_the_full_noise_from_every_helper(own):
    assert own.share_variance(4) >= (own.noise_multiplier * own.sensitivity) ** 2 * (1 - 1e-12)
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


def test_every_round_keeps_the_promise_whoever_is_present(leaving):
    target = (Fraction(leaving.noise_multiplier) * leaving.sensitivity) ** 2
    for present in range(3, 7):
        share = leaving.share_variance(present)
        assert target <= (present - 2) * share < target + present - 2
        assert leaving.total_variance(present) == present * share
        assert (present - 2) * share >= leaving.guaranteed_variance
    assert 0.99 * 0.9 < leaving.epsilon() <= 0.9


def test_epsilon_is_the_worst_over_who_is_present(leaving):
    def at(present: int, colluding: int) -> float:
        """Epsilon of the plan's noise if that many helpers answered every round."""
        variance = (present - colluding) * leaving.share_variance(present)
        return accounting.epsilon(
            noise_ratio=math.sqrt((variance - 4) / leaving.sensitivity**2),
            sampling_rate=0.5,
            rounds=40,
            delta=1e-5,
        )

    for colluding in (0, 1, 2):
        worst = max(at(present, colluding) for present in range(3, 7))
        assert leaving.epsilon(colluding=colluding) == pytest.approx(worst, abs=1e-6)
    # nobody colludes: three shares of a round of three hold more noise than six of a round of six
    assert at(6, 0) > at(3, 0) + 0.1
    assert leaving.epsilon(colluding=3) == math.inf  # these may be all helpers of a round
    assert leaving.epsilon(colluding=2) < math.inf


def test_the_bounds_are_of_the_noisiest_round(leaving):
    most = max(leaving.total_variance(present) for present in range(3, 7))
    assert most == leaving.total_variance(3) > 1.9 * leaving.total_variance(6)
    assert 9 * math.sqrt(most) <= leaving.coordinate_noise_tail < 9 * math.sqrt(most) + 2
    signal = leaving.units_bound * leaving.sensitivity
    tail = leaving.aggregate_norm_bound(100) - signal
    assert tail == pytest.approx(math.sqrt(most) * 19)
    assert signal + leaving.coordinate_noise_tail < 2**31


@pytest.mark.parametrize("present", [0, 2, 7, -1])
def test_no_share_for_a_round_that_the_plan_does_not_admit(leaving, present):
    with pytest.raises(ValueError, match="present"):
        leaving.share_variance(present)
    with pytest.raises(ValueError, match="present"):
        leaving.total_variance(present)


def test_everybody_must_be_present_by_default(plan, own):
    assert (plan.min_helpers, own.min_helpers, plan.ring_bits) == (4, 4, 32)
    with pytest.raises(ConfigError, match="min_helpers"):
        make_plan(**SETTINGS | {"own_noise": True, "min_helpers": 3})


@pytest.mark.parametrize("bits", [24, 32])
def test_every_width_has_room_at_a_useful_precision(bits):
    small = {"epsilon": 8.0, "rounds": 3, "ring_bits": bits}
    for p in (make_plan(**SETTINGS | small), make_plan(**UNNOISED | small)):
        assert p.ring_bits == bits
        room = p.units_bound * p.sensitivity + p.coordinate_noise_tail
        assert 2 ** (bits - 3) < room < 2 ** (bits - 1)
        assert p.coordinate_bound == p.sensitivity
        assert not p.rotated


@pytest.mark.parametrize(
    ("dimension", "clients", "block"), [(31, 4, 64), (10**6, 100, 2**13), (10**8, 10, 2**16)]
)
def test_sixteen_bits_without_noise_are_rotated_and_saturated(dimension, clients, block):
    p = make_plan(**UNNOISED | {"ring_bits": 16, "dimension": dimension, "units_bound": clients})
    assert p.rotated
    assert (
        2**14 - clients < clients * p.coordinate_bound < 2**15
        or p.coordinate_bound == p.sensitivity
    )
    assert p.coordinate_bound * p.grid >= min(1.0, 6.0 / math.sqrt(block))
    assert p.grid < 1.0 / 32  # of the clip
    assert p.aggregate_norm_bound(dimension) >= clients * p.sensitivity


def test_too_much_for_sixteen_bits_is_refused_with_a_remedy(plan):
    with pytest.raises(ConfigError) as caught:
        make_plan(**SETTINGS | {"ring_bits": 16})
    assert caught.value.details["key"] == "ring_bits"
    assert "32" in caught.value.remedy
    with pytest.raises(ConfigError) as caught:
        make_plan(**UNNOISED | {"ring_bits": 16, "units_bound": 2**15})
    assert caught.value.details["key"] == "ring_bits"
    assert make_plan(**UNNOISED | {"ring_bits": 16, "units_bound": 2**15 - 1}).coordinate_bound == 1


def test_the_ring_has_room_and_the_grid_is_fine(plan):
    for p in (plan, make_plan(**UNNOISED)):
        room = p.units_bound * p.sensitivity + p.coordinate_noise_tail
        assert 2**29 < room < 2**31
        assert p.grid <= 0.05 * p.clip_norm / math.sqrt(31)
        assert math.frexp(p.grid)[0] == 0.5


def test_aggregate_norm_bound_holds_and_is_not_idle(plan):
    dimension = 2000
    noise = sum(
        discrete_gaussian(plan.share_variance(4), dimension, SeededEntropy(helper))
        for helper in range(plan.helpers)
    )
    norm = float(np.linalg.norm(noise))
    tail = plan.aggregate_norm_bound(dimension) - plan.units_bound * plan.sensitivity
    assert norm < tail < 1.3 * norm
    assert np.abs(noise).max() < plan.coordinate_noise_tail


def test_without_privacy_there_is_no_noise_and_no_finite_epsilon():
    p = make_plan(**UNNOISED)
    assert (p.share_variance(4), p.total_variance(4), p.coordinate_noise_tail) == (0, 0, 0)
    assert p.guaranteed_variance == 0
    assert p.epsilon() == math.inf
    assert p.epsilon(rounds=0) == 0.0
    assert p.aggregate_norm_bound(31) == 4 * p.sensitivity
    assert make_plan(**UNNOISED | {"helpers": 0}).share_variance(0) == 0


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
        ({"expected_units": 0}, "expected_units"),
        ({"rounds": 0}, "rounds"),
        ({"max_colluding": 0}, "max_colluding"),
        ({"max_colluding": 4}, "max_colluding"),
        ({"helpers": 1, "own_noise": True}, "max_colluding"),
        ({"dimension": 0}, "model"),
        ({"expected_units": 2**31}, "expected_units"),
        ({"unit": "patient"}, "unit"),
        ({"ring_bits": 8}, "ring_bits"),
        ({"ring_bits": 20}, "ring_bits"),
        ({"ring_bits": 64}, "ring_bits"),
        ({"min_helpers": 5}, "min_helpers"),
        ({"min_helpers": 1}, "min_helpers"),
        ({"min_helpers": 0}, "min_helpers"),
        ({"min_helpers": 2, "max_colluding": 2}, "min_helpers"),
        ({"units_bound": 2**31}, "expected_units"),
        ({"unit": "none", "min_helpers": 1}, "min_helpers"),
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


def test_record_round_trip(plan, own, leaving):
    for p in (plan, own, leaving, make_plan(**UNNOISED | {"ring_bits": 16})):
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
        {"unit": "person"},
        {"visible_sampling": True},
        {"visible_sampling": 1},
        {"max_participations": 3},
        {"ring_bits": 16},
        {"ring_bits": 31},
        {"ring_bits": 64},
        {"ring_bits": "32"},
        {"min_helpers": 1},
        {"min_helpers": 5},
        {"min_helpers": "4"},
        {"units_bound": 2**20},
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


CLIENTS = SETTINGS | {
    "unit": "client",
    "sampling_rate": 0.1,
    "expected_units": 3000,
    "units_bound": 3000,
    "rounds": 150,
    "epsilon": 3.0,
}


def test_who_sees_the_cohort_gets_no_amplification():
    """Visible sampling is priced as plain Gaussian releases against who sees it, secret never."""
    secret = make_plan(**CLIENTS)
    assert secret.epsilon() == secret.epsilon(observer="leader") == secret.charge() <= 3.0
    visible = make_plan(**CLIENTS, visible_sampling=True)
    assert visible.epsilon() == secret.epsilon()
    unamplified = accounting.epsilon(
        noise_ratio=visible.noise_multiplier, sampling_rate=1.0, rounds=150, delta=1e-5
    )
    assert visible.charge() == pytest.approx(unamplified, rel=1e-4)
    assert visible.charge() > 10 * visible.epsilon()
    capped = make_plan(**CLIENTS, visible_sampling=True, max_participations=15)
    assert capped.charge() == pytest.approx(9.9, abs=0.3)
    assert capped.charge(15) == capped.charge(100) == capped.charge()
    assert capped.charge(3) < capped.charge()


@pytest.mark.parametrize("unit", ["record", "entity"])
def test_only_clients_are_sampled_in_sight_or_capped(unit):
    for change in ({"visible_sampling": True}, {"max_participations": 2}):
        with pytest.raises(ConfigError) as caught:
            make_plan(**SETTINGS | {"unit": unit} | change)
        assert caught.value.details["key"] == "client_sampling"


@pytest.mark.parametrize("unit", ["entity", "client"])
def test_every_unit_keeps_the_promise(unit):
    plan = make_plan(**SETTINGS | {"unit": unit})
    assert 0.99 * 0.9 < plan.epsilon() <= 0.9
    assert Plan.from_record(plan.to_record()) == plan
