"""Bounds of epsilon hold on mechanisms whose epsilon is known, and find one with too little noise."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import optimize, stats

from tacit.attack.audit import audit, audit_epsilon, bounds, checks
from tacit.attack.audit.canaries import (
    Canaries,
    CanaryFederation,
    CanaryModel,
    FactoredCanaryModel,
    canary_job,
)
from tacit.attack.audit.curves import Gaussian, Sampled
from tacit.attack.scratch import DataPool
from tacit.attack.workbench import Workbench
from tacit.party.job import JobSpec
from tacit.privacy import accounting
from tacit.testing.federation import write_small_federation

DELTA = 1e-5
LEVEL = 0.05
REPETITIONS = 300
TOO_MANY = int(stats.binom.isf(1e-6, REPETITIONS, LEVEL))
"""More repetitions above the truth than a bound at ``LEVEL`` has, but once in a million."""

MU = {
    epsilon: optimize.brentq(
        lambda mu, epsilon=epsilon: Gaussian(DELTA).epsilon(mu) - epsilon, 0.01, 10.0
    )
    for epsilon in (0.5, 1.0, 3.0, 8.0)
}
"""Strength of a Gaussian mechanism by epsilon, at ``DELTA``."""


def scores(generator, mu, count=1000):
    coins = generator.random(count) < 0.5
    return bounds.Scores(generator.normal(size=count) + mu * coins, coins)


@cache
def threshold(mu, trials):
    return bounds.threshold_for(mu, (1.0, 1.0), trials, DELTA)


def audited(found, mu, family):
    """Every lower bound, with thresholds of the true mechanism."""
    extreme = threshold(mu, len(found.values) // 2)
    return {
        "one_run": bounds.one_run(found, 100, delta=DELTA, level=LEVEL),
        "one_run_fdp": bounds.one_run_fdp(found, 100, family, level=LEVEL),
        "gap": bounds.gap(found, delta=DELTA, level=LEVEL),
        "multi_run": bounds.multi_run(found, extreme, delta=DELTA, level=LEVEL),
        "multi_run_gdp": bounds.multi_run_curves(found, mu / 2.0, family, level=LEVEL),
    }


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_bounds_are_below_the_truth_in_nineteen_of_twenty_runs(epsilon):
    generator, mu = np.random.default_rng(20), MU[epsilon]
    above = dict.fromkeys(("one_run", "one_run_fdp", "gap", "multi_run", "multi_run_gdp"), 0)
    for _ in range(REPETITIONS):
        for name, bound in audited(scores(generator, mu), mu, Gaussian(DELTA)).items():
            above[name] += bound > epsilon * (1 + 1e-3)
    assert max(above.values()) <= TOO_MANY, above


def test_bounds_hold_for_a_mechanism_without_noise_in_its_favour():
    """Randomised response attains Steinke's bound: the tightest case that there is."""
    generator, epsilon, above = np.random.default_rng(21), 1.0, 0
    keep = 1.0 / (1.0 + math.exp(-epsilon))
    for _ in range(REPETITIONS):
        coins = generator.random(400) < 0.5
        answers = np.where(generator.random(400) < keep, coins, ~coins).astype(float)
        found = bounds.Scores(answers, coins)
        above += bounds.one_run(found, 400, delta=0.0, level=LEVEL) > epsilon
    assert above <= TOO_MANY


@pytest.mark.parametrize(("claimed", "least"), [(1.0, 0.9), (3.0, 0.9)])
def test_noise_of_a_third_is_found(claimed, least):
    """Which bounds find it: all but Steinke's at epsilon 1, which has hardly any power there."""
    generator, mu = np.random.default_rng(22), 3 * MU[claimed]
    runs = [audited(scores(generator, mu, 2000), mu, Gaussian(DELTA)) for _ in range(20)]
    for name in ("one_run_fdp", "gap", "multi_run_gdp"):
        assert np.mean([run[name] > claimed for run in runs]) >= least, name


def test_the_recursion_is_the_binomial_tail_where_nothing_leaks():
    """Known answer: under a mechanism that releases nothing, right guesses are fair coins."""

    class Nothing:
        reaches = needs = staticmethod(lambda mu, rate: rate)

    assert bounds._too_many(100, 100, 100, Nothing(), (1.0, 1.001 * 2.0**-100))
    assert not bounds._too_many(100, 100, 100, Nothing(), (1.0, 0.999 * 2.0**-100))
    for right in range(51, 101):
        tail = stats.binom.sf(right - 1, 100, 0.5)
        assert not bounds._too_many(right, 100, 100, Nothing(), (1.0, 0.999 * tail))
        # All of the tail counts as if it were at its lower end, which costs little.
        assert right < 60 or bounds._too_many(right, 100, 100, Nothing(), (1.0, 1.5 * tail))


def test_the_chance_is_the_binomial_tail_of_randomised_response_without_delta():
    for right in (1, 50, 73, 100):
        rate = 1 / (1 + math.exp(-0.7))
        assert bounds._chance(right, 100, 1000, 0.7, 0.0) == pytest.approx(
            stats.binom.sf(right - 1, 100, rate)
        )
    assert bounds._chance(80, 100, 1000, 0.7, 1e-5) > bounds._chance(80, 100, 1000, 0.7, 0.0)


def test_epsilon_of_a_gaussian_mechanism_is_the_accountants():
    for mu in MU.values():
        exact = accounting.epsilon(noise_ratio=1 / mu, sampling_rate=1.0, rounds=1, delta=DELTA)
        assert Gaussian(DELTA).epsilon(mu) == pytest.approx(exact, rel=2e-3)


def test_a_sampled_family_agrees_with_the_accountant_and_bounds_the_gaussian_curve():
    family = Sampled(0.5, 40, DELTA)
    for mu in (1 / 13.13, 3 / 13.13):
        exact = accounting.epsilon(noise_ratio=1 / mu, sampling_rate=0.5, rounds=40, delta=DELTA)
        assert family.epsilon(mu) == pytest.approx(exact, rel=1e-3)
    whole, curve = Sampled(1.0, 1, DELTA), Gaussian(DELTA)
    for rate in (0.001, 0.01, 0.1, 0.5, 0.9):
        assert whole.reaches(0.7, rate) >= curve.reaches(0.7, rate) - 1e-9
        assert whole.reaches(0.7, rate) == pytest.approx(curve.reaches(0.7, rate), abs=5e-3)
        assert whole.needs(0.7, whole.reaches(0.7, rate)) == pytest.approx(rate, rel=1e-6)


def test_the_estimate_is_near_the_truth():
    generator = np.random.default_rng(23)
    found = [
        bounds.canary_estimate(scores(generator, MU[3.0], 4000), delta=DELTA) for _ in range(20)
    ]
    assert np.mean(found) == pytest.approx(3.0, abs=0.2)


def test_sound_noise_passes_and_unsound_noise_does_not():
    generator = np.random.default_rng(24)
    sound = {(run,): generator.normal(size=1024) for run in range(24)}
    assert checks.variance_is_wrong(sound.values()) == 0
    assert not checks.shape_is_wrong(sound.values())
    assert not checks.correlated(sound)
    assert checks.variance_is_wrong([vector / 1.5 for vector in sound.values()]) == -1
    assert checks.variance_is_wrong([vector * 1.5 for vector in sound.values()]) == 1
    assert checks.shape_is_wrong([generator.laplace(size=1024) for _ in range(24)])
    assert checks.shape_is_wrong([vector + 0.1 for vector in sound.values()])
    one = sound[0,]
    assert checks.correlated({**sound, (99,): one})
    assert checks.correlated({**sound, (99,): -one})
    assert checks.correlated({**sound, (99,): np.tile(one[:512], 2)})
    assert checks.correlated({**sound, (99,): np.repeat(one[:512], 2)})


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "federation"
    write_small_federation(folder, records=8)
    data = DataPool.load(folder / "evaluation" / "contract.toml")
    return Workbench(JobSpec.load(folder / "job.toml"), folder, data, 0, "demo")


@pytest.mark.parametrize("factored", [False, True])
def test_canaries_are_in_the_sum_as_what_they_are(bench, factored):
    canaries = Canaries(32, 4, bench.job.privacy.clip_norm)
    model = FactoredCanaryModel(canaries, 4) if factored else CanaryModel(canaries)
    job = canary_job(bench.job, "clipping", canaries, sites=4)
    chosen = np.array([0, 3, 9, 20, 31])
    holdings = list(np.array_split(chosen, 4))
    transcript = CanaryFederation(job, model, canaries.data(loud=True), holdings).run(rounds=1)
    seen = canaries.scores(transcript.closed[0].total.astype(float)) / transcript.plan.sensitivity
    expected = np.zeros(32)
    expected[chosen] = 1.0
    assert np.allclose(seen, expected, atol=1e-3)


@pytest.mark.parametrize("defence", ["plain", "clipping", "masking"])
def test_nothing_is_promised_and_much_is_found_without_noise(bench, defence):
    found = audit_epsilon(bench, defence, lambda _: None)
    assert "epsilon.claimed" not in found.measured
    assert found.measured["epsilon.audited"].low > 4.0
    assert found.measured["epsilon.audited"].ceiling is None
    assert any("nothing is promised" in note for note in found.notes)


def test_a_lower_bound_has_no_upper_end(bench):
    found = audit_epsilon(bench, "tacit", lambda _: None).measured
    names = ("audited", "one_run", "one_run_fdp", "gap", "multi_run", "multi_run_gdp")
    for name in names:
        one = found[f"epsilon.{name}"]
        assert (one.low, one.high) == (one.value, math.inf)
    assert (found["epsilon.canary_estimate"].low, found["epsilon.canary_estimate"].high) == (
        0.0,
        math.inf,
    )
    assert found["epsilon.claimed"].high == found["epsilon.claimed"].value


def test_the_claim_stands_beside_what_was_found(bench):
    shares = []
    found = audit(bench, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    claimed = found.measured["epsilon.claimed"]
    assert claimed.value == found.measured["epsilon.audited"].ceiling
    assert claimed.value <= bench.job.privacy.epsilon
    outside = audit_epsilon(bench, "noise", lambda _: None)
    assert outside.measured["epsilon.claimed"].value < claimed.value
    assert "not the server" in outside.adversary
    assert any("epsilon is infinite" in note for note in outside.notes)
    assert not found.alarms
    assert found.measured["noise.ratio"].value == pytest.approx(1.0, abs=0.1)
    assert found.measured["clip.norm"].value == pytest.approx(1.0, abs=1e-3)
    assert found.measured["cohort.answered"].value == 0.0
