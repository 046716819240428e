"""Accounting: agreement with published figures and with dp_accounting, certified calibration."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event, rdp
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation
from scipy.stats import norm

from tacit.privacy.accounting import calibrate, epsilon

DELTA = 1e-5


@pytest.mark.parametrize(
    ("rate", "ratio", "rounds", "published"),
    [(0.1, 2.0, 100, 2.337), (0.1365, 4.0, 300, 2.503), (1.0, 10.0, 50, 2.943)],
)
def test_published_values(rate, ratio, rounds, published):
    result = epsilon(noise_ratio=ratio, sampling_rate=rate, rounds=rounds, delta=DELTA)
    assert result == pytest.approx(published, abs=1.1e-3)


def test_agrees_with_the_accountant_and_stays_below_renyi():
    event = dp_event.SelfComposedDpEvent(
        dp_event.PoissonSampledDpEvent(0.5, dp_event.GaussianDpEvent(13.13)), 40
    )
    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    reference = pld_privacy_accountant.PLDAccountant(relation).compose(event).get_epsilon(DELTA)
    renyi = rdp.RdpAccountant(neighboring_relation=relation).compose(event).get_epsilon(DELTA)
    result = epsilon(noise_ratio=13.13, sampling_rate=0.5, rounds=40, delta=DELTA)
    assert result == pytest.approx(reference, rel=1e-6)
    assert result >= reference
    assert result < renyi


def test_no_release_costs_nothing():
    assert epsilon(noise_ratio=1.0, sampling_rate=0.5, rounds=0, delta=DELTA) == 0.0


def test_monotone():
    def cost(ratio=2.0, rate=0.2, rounds=10, delta=DELTA):
        return epsilon(noise_ratio=ratio, sampling_rate=rate, rounds=rounds, delta=delta)

    assert cost(rounds=9) < cost() < cost(rounds=11)
    assert cost(delta=2e-5) < cost() < cost(delta=5e-6)
    assert cost(ratio=2.1) < cost()
    assert cost(rate=0.19) < cost()


def test_hardly_any_noise_is_called_infinite():
    assert epsilon(noise_ratio=0.01, sampling_rate=0.5, rounds=1000, delta=DELTA) == math.inf


@pytest.mark.parametrize(("target", "rate", "rounds"), [(0.9, 0.5, 40), (1.0, 1.0, 1)])
def test_calibration_is_certified_and_tight(target, rate, rounds):
    z = calibrate(target_epsilon=target, delta=DELTA, sampling_rate=rate, rounds=rounds)

    def cost(ratio):
        return epsilon(noise_ratio=ratio, sampling_rate=rate, rounds=rounds, delta=DELTA)

    assert cost(z) <= target
    assert cost(z * (1 - 1e-4)) > target


def test_calibration_matches_the_analytic_gaussian():
    """One release without sampling: Balle and Wang 2018 give 3.7306 for epsilon 1, delta 1e-5."""
    z = calibrate(target_epsilon=1.0, delta=DELTA, sampling_rate=1.0, rounds=1)
    assert z == pytest.approx(3.7306, abs=2e-3)


def test_calibration_refuses_the_unreachable():
    with pytest.raises(ValueError, match="no noise multiplier"):
        calibrate(target_epsilon=1e-12, delta=1e-10, sampling_rate=1.0, rounds=1)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_ratio": 0.0},
        {"noise_ratio": math.nan},
        {"noise_ratio": math.inf},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"rounds": -1},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
    ],
)
def test_refuses_arguments_out_of_range(change):
    arguments = {"noise_ratio": 1.0, "sampling_rate": 0.5, "rounds": 1, "delta": DELTA} | change
    with pytest.raises(ValueError, match="must"):
        epsilon(**arguments)


@pytest.mark.parametrize(
    "change", [{"target_epsilon": 0.0}, {"target_epsilon": math.nan}, {"rounds": 0}]
)
def test_calibration_refuses_arguments_out_of_range(change):
    arguments = {"target_epsilon": 1.0, "sampling_rate": 0.5, "rounds": 1, "delta": DELTA} | change
    with pytest.raises(ValueError, match="must"):
        calibrate(**arguments)


@pytest.mark.parametrize(("delta", "rounds", "z"), [(1e-10, 10_000, 100.0), (1e-9, 100_000, 200.0)])
def test_small_deltas_are_not_under_reported(delta, rounds, z):
    """T releases without sampling are one Gaussian of ratio z / sqrt(T), whose delta is exact."""
    claimed = epsilon(noise_ratio=z, sampling_rate=1.0, rounds=rounds, delta=delta)
    ratio = z / math.sqrt(rounds)
    above = norm.sf(claimed * ratio - 0.5 / ratio)
    below = math.exp(claimed + norm.logsf(claimed * ratio + 0.5 / ratio))
    assert above - below <= delta


@pytest.mark.parametrize(("target", "rounds"), [(0.01, 40), (20.0, 40), (1.0, 5_000)])
def test_calibration_is_tight_at_the_extremes(target, rounds):
    z = calibrate(target_epsilon=target, delta=DELTA, sampling_rate=0.5, rounds=rounds)
    assert epsilon(noise_ratio=z, sampling_rate=0.5, rounds=rounds, delta=DELTA) <= target
    less = z * (1 - 2e-4)
    assert epsilon(noise_ratio=less, sampling_rate=0.5, rounds=rounds, delta=DELTA) > target
