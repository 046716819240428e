"""Intervals cover, ceilings are those of theory, and chance is at chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tacit.attack.measure import (
    Ceiling,
    Estimate,
    auc,
    ceiling_of,
    clustered,
    difference,
    proportion,
    true_positives,
)
from tacit.privacy.calibration import make_plan


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_proportion_has_the_exact_interval(case):
    hits, trials = case
    found = proportion(hits, trials, null=None)
    exact = stats.binomtest(hits, trials).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert found.value == hits / trials


def test_a_difference_is_newcombes():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80."""
    found = difference((56, 70), (48, 80))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_intervals_over_runs_cover_as_they_say():
    generator = np.random.default_rng(0)
    runs = [clustered(generator.normal(0.2, 1.0, 8).tolist(), null=0.0) for _ in range(2000)]
    covered = np.mean([one.low <= 0.2 <= one.high for one in runs])
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_an_auc_covers_as_it_says(shift):
    generator = np.random.default_rng(1)
    truth = float(stats.norm.cdf(shift / math.sqrt(2.0)))
    found = [auc(generator.normal(shift, 1, 110), generator.normal(0, 1, 110)) for _ in range(600)]
    assert 0.92 < np.mean([one.low <= truth <= one.high for one in found]) < 0.975
    assert np.mean([one.high - one.low for one in found]) < 0.16


def test_a_separated_auc_is_not_certain():
    found = auc(np.arange(50.0) + 100, np.arange(50.0))
    assert found.value == 1.0
    assert found.low < 0.95


def test_true_positives_at_a_rate():
    negative = np.arange(100.0)
    assert true_positives(np.array([98.5, 97.5]), negative, 0.01) == 0.5
    assert true_positives(np.array([98.5, 97.5]), negative, 0.0) == 0.0
    assert true_positives(negative, negative, 1.0) == 1.0


def gaussian(ratio):
    """One release without sampling: exact trade-off of two Gaussians."""
    return lambda rate: float(stats.norm.cdf(stats.norm.ppf(rate) + 1.0 / ratio))


@pytest.mark.parametrize("epsilon", [0.9, 3.0])
def test_a_ceiling_is_that_of_the_gaussian(epsilon):
    plan = make_plan(
        unit="record",
        epsilon=epsilon,
        delta=1e-5,
        clip_norm=1.0,
        sampling_rate=1.0,
        expected_units=100,
        rounds=1,
        helpers=4,
        max_colluding=1,
        own_noise=False,
        dimension=10,
        units_bound=100,
        min_helpers=4,
        ring_bits=32,
        visible_sampling=False,
        max_participations=0,
    )
    found, exact = ceiling_of(plan), gaussian(plan.noise_ratio())
    assert found.epsilon == pytest.approx(epsilon, rel=1e-3)
    half = float(stats.norm.cdf(0.5 / plan.noise_ratio()))
    assert found.advantage == pytest.approx(2 * half - 1, abs=2e-3)
    for rate in (1e-3, 0.01, 0.1, 0.5):
        assert exact(rate) * 0.999 <= found.true_positives(rate) <= exact(rate) * 1.02 + 1e-3
    assert found.identification(1024) == found.true_positives(1 / 1024)


def test_against_all_helpers_nothing_is_promised():
    plan_less = Ceiling(math.inf, 1.0, ((0.0, 1.0),))
    assert plan_less.identification(1000) == 1.0


def test_an_estimate_survives_json_and_refuses_nonsense():
    found = proportion(3, 10, null=0.1, ceiling=0.5, how="test")
    assert Estimate.from_record(found.record()) == found
    assert not found.above_null
    assert found.within_ceiling
    with pytest.raises(ValueError, match="interval"):
        Estimate(0.5, 0.6, 0.7, None, None, 1, "share", "")
