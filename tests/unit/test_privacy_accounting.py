"""Accounting: agreement with published figures and with dp_accounting, certified calibration."""

from __future__ import annotations

import dataclasses
import math

import mpmath
import pytest
from dp_accounting import dp_event, rdp
from dp_accounting.pld import pld_privacy_accountant, privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
from scipy.stats import norm

from tacit.privacy.accounting import calibrate, deltas, epsilon
from tacit.privacy.calibration import make_plan
from tacit.privacy.plan import Plan

DELTA = 1e-5


@pytest.mark.parametrize(
    ("rate", "ratio", "rounds", "published"),
    [
        (0.1, 2.0, 100, 2.337),
        (0.1365, 4.0, 300, 2.503),
        (0.01, 0.8, 3000, 5.242),
        (1.0, 10.0, 50, 2.943),
    ],
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


@pytest.mark.parametrize(
    ("rate", "ratio", "rounds"), [(0.1, 2.0, 100), (0.1365, 4.0, 300), (0.5, 13.13, 40)]
)
def test_agrees_with_another_accountant(rate, ratio, rounds):
    """The PRV accountant (Gopi, Lee and Wutschitz 2021), by other discretisation and other authors."""
    mechanism = PoissonSubsampledGaussianMechanism(
        sampling_probability=rate, noise_multiplier=ratio
    )
    accountant = PRVAccountant(
        prvs=[mechanism], max_self_compositions=[rounds], eps_error=0.01, delta_error=1e-10
    )
    least, estimate, most = accountant.compute_epsilon(DELTA, [rounds])
    found = epsilon(noise_ratio=ratio, sampling_rate=rate, rounds=rounds, delta=DELTA)
    assert least <= found <= most
    assert found == pytest.approx(estimate, rel=1e-4)


@pytest.mark.parametrize(
    ("rate", "ratio", "rounds", "delta"),
    [
        (0.1, 2.0, 100, 1e-5),
        (0.1365, 4.0, 300, 1e-6),
        (0.01, 1.2, 300, 1e-5),
        (0.001, 1.2, 60_000, 1e-7),
        (0.0003, 12.0, 100_000, 1e-8),
        (0.3, 5.0, 1, 1e-10),
    ],
)
def test_neither_under_reported_nor_loose(rate, ratio, rounds, delta):
    """Against a grid so much finer than our own that what is left of its pessimism does not matter."""
    one = privacy_loss_distribution.from_gaussian_mechanism(
        ratio, value_discretization_interval=min(4e-5, rate / (16 * ratio)), sampling_prob=rate
    )
    finer = one.self_compose(rounds).get_epsilon_for_delta(delta)
    found = epsilon(noise_ratio=ratio, sampling_rate=rate, rounds=rounds, delta=delta)
    assert finer <= found <= 1.01 * finer


def exact_delta(eps: float, ratio: float, rate: float) -> mpmath.mpf:
    """Of one sampled release, the larger of both directions: likelihood ratios are monotone."""
    with mpmath.workdps(50):
        r, q, e = (mpmath.mpf(x) for x in (ratio, rate, eps))

        def laws(x: mpmath.mpf, sign: int) -> tuple[mpmath.mpf, mpmath.mpf]:
            """With and without the unit, of outputs above x (sign 1) or below it (sign -1)."""
            without, shifted = (mpmath.ncdf(-sign * (x - mean) / r) for mean in (0, 1))
            return (1 - q) * without + q * shifted, without

        def where(ratio_of_laws: mpmath.mpf) -> mpmath.mpf:
            return r**2 * mpmath.log((ratio_of_laws - 1 + q) / q) + mpmath.mpf(1) / 2

        present, absent = laws(where(mpmath.exp(e)), 1)
        found = present - mpmath.exp(e) * absent
        if mpmath.exp(-e) > 1 - q:
            present, absent = laws(where(mpmath.exp(-e)), -1)
            found = max(found, absent - mpmath.exp(e) * present)
        return found


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.1, 0.01])
@pytest.mark.parametrize(("ratio", "delta"), [(1.0, 1e-5), (4.0, 1e-10)])
def test_one_release_against_the_closed_form(rate, ratio, delta):
    found = epsilon(noise_ratio=ratio, sampling_rate=rate, rounds=1, delta=delta)
    assert exact_delta(found, ratio, rate) <= delta
    loose = (
        0.01 if delta < 1e-9 else 0.002
    )  # where the rounding's reserve is four per cent of delta
    assert exact_delta(found * (1 - loose), ratio, rate) > delta


@pytest.mark.parametrize("rounds", [2, 150, 20_000])
def test_many_releases_without_sampling_against_the_closed_form(rounds):
    """They are one release of less noise."""
    for z in (1.5, 8.0):
        ratio = z * math.sqrt(rounds)
        found = epsilon(noise_ratio=ratio, sampling_rate=1.0, rounds=rounds, delta=1e-8)
        assert exact_delta(found, z, 1.0) <= 1e-8
        assert exact_delta(found * (1 - 0.002), z, 1.0) > 1e-8


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(
        unit="record",
        epsilon=3.0,
        delta=DELTA,
        clip_norm=1.0,
        sampling_rate=0.1,
        expected_units=60_000,
        rounds=20,
        helpers=6,
        max_colluding=2,
        own_noise=False,
        dimension=31,
    )


@pytest.mark.parametrize(("min_helpers", "grid"), [(6, 2.0**-6), (3, 2.0**-16)])
@pytest.mark.parametrize(
    ("rate", "multiplier", "rounds"),
    [(0.1, 4.7428, 150), (0.1, 1.0398, 150), (1.0, 10.0, 50), (0.5, 13.13, 40), (0.001, 1.0, 3000)],
)
def test_integers_from_helpers_cost_what_central_noise_costs(
    plan, rate, multiplier, rounds, min_helpers, grid
):
    """A plan's epsilon against a trusted server's Gaussian of the same guaranteed variance."""
    plan = dataclasses.replace(
        plan,
        sampling_rate=rate,
        noise_multiplier=multiplier,
        rounds=rounds,
        min_helpers=min_helpers,
        grid=grid,
        units_bound=1000,
    )
    ratio = math.sqrt(plan.guaranteed_variance) / plan.sensitivity
    event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(ratio))
    accountant = pld_privacy_accountant.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    central = accountant.compose(dp_event.SelfComposedDpEvent(event, rounds)).get_epsilon(DELTA)
    assert central <= plan.epsilon() <= 1.005 * central


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


@pytest.mark.parametrize(
    ("delta", "rounds", "z"),
    [(1e-10, 10_000, 100.0), (1e-9, 100_000, 200.0), (1e-10, 131_072, 3_000.0)],
)
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


@pytest.mark.parametrize(
    ("rate", "ratio", "rounds"), [(1.0, 3.73, 1), (0.5, 13.0, 40), (0.25, 2.0, 60)]
)
def test_the_profile_agrees_with_epsilon(rate, ratio, rounds):
    """At an epsilon that was certified for a delta the profile is that delta, and it falls."""
    mechanism = {"noise_ratio": ratio, "sampling_rate": rate, "rounds": rounds}
    for delta in (1e-3, 1e-5):
        (found,) = deltas(**mechanism, epsilons=[epsilon(**mechanism, delta=delta)])
        assert 0.9 * delta < found <= delta * 1.01
    profile = deltas(**mechanism, epsilons=[0.0, 0.1, 1.0, 5.0])
    assert profile == sorted(profile, reverse=True)


def test_the_profile_at_zero_is_the_total_variation_of_a_gaussian():
    """One release without sampling: 2 Phi(mu / 2) - 1."""
    for ratio in (0.5, 1.0, 4.0):
        (found,) = deltas(noise_ratio=ratio, sampling_rate=1.0, rounds=1, epsilons=[0.0])
        exact = math.erf(1.0 / ratio / 2.0 / math.sqrt(2.0))
        assert exact <= found <= exact + 1e-3
