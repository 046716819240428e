"""Poisoning: what each strategy sends, and what the real protocol does about it."""

from __future__ import annotations

import numpy as np
import pytest

from tacit.attack.poisoning import ATTACKS, strategies
from tacit.attack.poisoning.client import PoisonedWorkload, crowd_of
from tacit.attack.poisoning.report import Effort
from tacit.attack.poisoning.strategies import Crowd, Strategy
from tacit.attack.poisoning.trial import Trial, arsenal, rare, rehearse
from tacit.attack.scratch import DataPool
from tacit.attack.workbench import Workbench
from tacit.engine.direct import DirectRun
from tacit.party.job import JobSpec
from tacit.party.workload import TrainingData
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import write_small_federation

CROWD = Crowd(clients=8, malicious=2, limit=10.0, bound=100.0)
OWN = np.array([3.0, -4.0])
NONE = np.zeros(2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poisoning") / "federation"
    write_small_federation(folder, job={"training": {"micro_batch": 8, "learning_rate": 2.0}})
    data = DataPool.load(folder / "evaluation" / "contract.toml")
    return Workbench(JobSpec.load(folder / "job.toml"), folder, data, 0, "demo")


def trial(bench, defence, rounds=3):
    return Trial.draw(
        bench, defence, "test", sites=4, malicious=1, records=12, changes={"rounds": rounds}
    )


# --- formulas -------------------------------------------------------------------------------------


def test_sign_flip_is_the_opposite_direction_at_full_length():
    assert strategies.sign_flip(OWN, NONE, CROWD) == pytest.approx([-6.0, 8.0])


def test_inner_product_manipulation_reverses_the_sum_of_equal_contributions():
    bad = strategies.inner_product(OWN, NONE, CROWD, epsilon=0.5)
    assert 6 * OWN + 2 * bad == pytest.approx(-0.5 * 6 * OWN)


def test_a_little_is_enough_moves_every_coordinate_by_z_deviations():
    spread = np.array([1.0, 2.0])
    z = strategies.alie_deviation(8, 2)
    assert strategies.a_little_is_enough(OWN, spread, CROWD) == pytest.approx([3 - z, -4 + 2 * z])


def test_the_deviation_is_that_of_the_paper_or_the_least():
    assert strategies.alie_deviation(50, 25) == pytest.approx(1.7507, abs=1e-4)  # ppf(24 / 25)
    assert strategies.alie_deviation(8, 2) == strategies.ALIE_LEAST


def test_model_replacement_stands_for_all_clients():
    assert strategies.boosted(OWN, NONE, CROWD) == pytest.approx(4 * OWN)


def test_unclipped_clients_reach_the_bound_together():
    bad = strategies.unclipped(OWN, NONE, CROWD, 0.9)
    assert np.linalg.norm(2 * bad) == pytest.approx(90.0)
    assert bad @ OWN < 0


def test_a_free_rider_sends_nothing():
    assert not strategies.free_ride(OWN, NONE, CROWD).any()


@pytest.mark.parametrize("norm", [0.1, 9.9, 1e6])
def test_a_clipped_strategy_never_exceeds_its_limit(norm):
    one = Strategy("x", "damage", vector=lambda own, spread, crowd: strategies.aligned(own, norm))
    assert np.linalg.norm(one.crafted(OWN, NONE, CROWD)) == pytest.approx(min(norm, 10.0))


def test_labels_flip_and_records_are_mixed_in():
    data = TrainingData(np.arange(20.0).reshape(10, 2), np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2]))
    assert strategies.flipped_labels(data, 3).labels.tolist() == [1, 2, 0, 1, 2, 0, 1, 2, 0, 0]
    marked = np.full((2, 2), -7.0)
    mixed = strategies.mixed(data, marked, 1, 0.3, np.random.default_rng(0))
    changed = (mixed.features == -7.0).all(axis=1)
    assert changed.sum() == 3
    assert (mixed.labels[changed] == 1).all()
    assert np.array_equal(mixed.labels[~changed], data.labels[~changed])
    assert data.features.min() == 0.0  # The records themselves are as they were.


def test_rare_inputs_are_the_farthest_of_their_class():
    x = np.concatenate([np.zeros((19, 2)), [[5.0, 5.0]], np.full((5, 2), 9.0)])
    y = np.array([1] * 20 + [0] * 5)
    assert rare(x, y, source=1)[0].tolist() == [5.0, 5.0]


# --- rehearsals and real runs ---------------------------------------------------------------------


@pytest.mark.parametrize("defence", ["plain", "tacit"])
def test_an_honest_rehearsal_is_a_direct_run(bench, defence):
    one = trial(bench, defence)
    scratch = one.scratch(None)
    holders = [scratch.training_data(name) for name in scratch.sites]
    direct = DirectRun(scratch.workload, scratch.terms.plan, holders, SeededEntropy(3))
    direct.run()
    expected = one.judge(scratch.workload, direct.state, 3)
    assert rehearse(scratch, one, None, entropy=SeededEntropy(3)) == expected


@pytest.mark.parametrize("name", ["sign-flip", "label-flip", "unclipped"])
def test_without_noise_a_rehearsal_is_the_real_run(bench, name):
    one = trial(bench, "plain")
    scratch = one.scratch(None)
    (strategy,) = [s for s in arsenal(one, scratch.workload) if s.name == name]
    assert rehearse(scratch, one, strategy) == one.run(strategy)


def test_flipped_signs_ruin_a_model_without_defence(bench):
    one = trial(bench, "plain", rounds=12)
    (flip,) = [s for s in arsenal(one, one.scratch(None).workload) if s.name == "sign-flip"]
    honest, bad = one.run(None), one.run(flip)
    assert honest.accuracy > 0.85
    assert bad.accuracy < 0.6
    assert bad.closed == honest.closed == 12


def beyond(reach):
    return Strategy(
        "beyond",
        "damage",
        vector=lambda own, spread, crowd: strategies.too_large(own, spread, crowd, reach),
        clipped=False,
    )


@pytest.mark.parametrize("defence", ["masking", "tacit"])
def test_the_norm_check_refuses_beyond_its_bound_and_nothing_below(bench, defence):
    far = trial(bench, defence, rounds=1).run(beyond(1.4))
    assert (far.failure, far.closed) == ("chain.norm", 0)
    near = trial(bench, defence, rounds=1).run(beyond(0.5))
    assert (near.failure, near.closed) == ("", 1)


def test_what_a_malicious_site_uploads_is_its_vector_under_honest_masks(bench):
    scratch = trial(bench, "masking", rounds=1).scratch(beyond(0.5))
    transcript = scratch.run()
    (one,) = transcript.closed
    bad = tuple(scratch.sites)[-1]
    bound = transcript.plan.aggregate_norm_bound(scratch.workload.length)
    norm = np.linalg.norm(transcript.contribution(one, bad).astype(float))
    assert norm == pytest.approx(0.5 * bound, rel=1e-6)
    whole = sum(transcript.contribution(one, site) for site in one.cohort)
    assert np.array_equal(whole, one.total)


def test_clipped_strategies_stay_within_what_their_code_could_send(bench):
    one = trial(bench, "clipping")
    scratch = one.scratch(None)
    plan, data = scratch.terms.plan, scratch.training_data(tuple(scratch.sites)[-1])
    state = scratch.workload.first(bytes(32))
    crowd = crowd_of(scratch.workload, plan, 4, 1, len(data.labels))
    for strategy in arsenal(one, scratch.workload):
        workload = PoisonedWorkload.of(scratch.workload, strategy, 4, 1)
        made = workload.contribution(state, data, plan, SeededEntropy(1))
        norm = np.linalg.norm(scratch.terms.ring.centred(made.vector).astype(float))
        assert (norm <= crowd.limit + 2.0) == strategy.clipped


def test_the_attack_reports_damage_beside_honest_runs(bench):
    (attack,) = ATTACKS
    done = []
    found = attack.run(bench, "plain", done.append)
    first = next(iter(found.measured))
    assert first == "poisoning.damage"
    assert found.measured[first].value > 0.1  # Without noise the seed fixes it.
    assert found.measured["poisoning.honest_rejected"].value == 0.0
    assert not found.alarms
    assert done[-1] == 1.0
    assert set(found.details["rehearsed"]) >= {"edge-case", "alie", "ipm", "stealth-backdoor"}
    assert Effort.of(bench, 3).malicious == 1
