"""Reconstruction over the real protocol: power where nothing protects, and bounds where noise does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tacit.attack.defences import DEFENCES
from tacit.attack.reconstruction import attacks, summed
from tacit.attack.reconstruction.encoded import encoded_rows
from tacit.attack.reconstruction.imprint import planted_model, separated
from tacit.attack.reconstruction.pool import Pool
from tacit.attack.reconstruction.private import residuals_of, scores_of
from tacit.attack.reconstruction.refusal import another_model, forged_sum, tell
from tacit.attack.reconstruction.runs import targets_of
from tacit.attack.scratch import DataPool
from tacit.attack.view import Adversary, look
from tacit.attack.workbench import Workbench
from tacit.demo import hospitals
from tacit.learn.feature_map import FeatureMap
from tacit.party.job import JobSpec


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients") / "job"
    hospitals.write_federation(folder, hospitals.split(0))
    data = DataPool.load(folder / "attack" / "contract.toml")
    return Workbench(JobSpec.load(folder / "job.toml"), folder, data, 0, "demo")


def names(attack):
    return {one.name: one for one in attacks.ATTACKS}[attack]


def test_the_attacks_apply_to_every_column():
    assert [(one.row, one.name) for one in attacks.ATTACKS] == [
        ("reconstruction", "records"),
        ("malicious-server", "planted-layer"),
    ]
    assert all(one.defences == DEFENCES for one in attacks.ATTACKS)


@pytest.mark.parametrize("defence", ["clipping", "noise"])
def test_whoever_sees_single_updates_has_the_records(bench, defence):
    found = names("records").run(bench, defence, lambda _: None)
    rate, named = (found.measured[f"reconstruction.{key}"] for key in ("rate", "identification"))
    # Under sampling each record is missed with a probability below 0.01, all four with one below 1e-8.
    least = 0.25 if defence == "noise" else 0.75
    assert rate.value >= least
    assert rate.above_null
    assert named.value >= least
    assert found.measured["reconstruction.columns"].above_null or defence == "noise"
    assert 4 <= len(found.pictures) <= 6
    assert found.pictures[0].shape == (1, 30)


def test_sums_without_noise_name_their_members(bench):
    found = names("records").run(bench, "masking", lambda _: None)
    named = found.measured["reconstruction.identification"]
    assert named.value > 0.9
    assert named.null < 0.02


def test_sums_with_too_many_unknowns_are_left_out_and_named(bench, monkeypatch):
    monkeypatch.setattr(summed, "MOST_UNKNOWNS", 2 * 30)  # two records of 30 columns
    progress = []
    found = summed.attack_summed(
        dataclasses.replace(bench, profile="quick"), "masking", progress.append
    )
    assert progress[-1] == 1.0
    assert "sums of 2" in found.notes[1]
    assert "Sums of 8 sites were not tried" in found.notes[2]


def test_noise_keeps_identification_within_its_bound(bench):
    progress = []
    found = names("records").run(bench, "tacit", progress.append)
    named = found.measured["reconstruction.identification"]
    hits = round(named.value * named.trials)
    # Independent trials exceed the first with a probability of 1e-7; five more, because they share their noise.
    assert hits <= stats.binom.isf(1e-7, named.trials, named.ceiling) + 5
    assert named.ceiling < 0.01
    rate = found.measured["reconstruction.rate"]
    assert rate.value <= 0.25
    assert rate.ceiling < 0.01
    assert progress == sorted(progress)


def private_run(bench, each=5):
    generator = np.random.default_rng(1)
    rows = generator.choice(len(bench.data), 4 * each, replace=False).reshape(4, each)
    scratch = bench.scratch("tacit", list(rows), rounds=2, privacy={"expected_units": 400})
    return scratch, scratch.run(), rows


def test_a_candidates_row_is_its_contribution(bench):
    _, transcript, rows = private_run(bench, each=1)
    pool = Pool.of(transcript.workload, bench.data)
    seen = 0
    for one in transcript.closed:
        made = encoded_rows(
            transcript.workload,
            transcript.plan,
            one.state,
            pool.features[rows[:, 0]],
            pool.labels[rows[:, 0]],
        )
        for site, row in zip(sorted(transcript.terms.clients), made, strict=True):
            sent = transcript.contribution(one, site)
            seen += bool(sent.any())
            assert not sent.any() or np.array_equal(sent, row)
    assert seen  # all eight unsampled has a probability of 2**-8; the run is not seeded


def test_the_residual_is_what_a_leader_with_all_other_records_computes(bench):
    scratch, transcript, _ = private_run(bench, each=1)
    pool = Pool.of(scratch.workload, bench.data)
    helpers = sorted(scratch.helpers)[:1]
    view = look(transcript, Adversary.leads(helpers))
    clients = sorted(transcript.terms.clients)
    rounds = list(residuals_of(transcript, view, pool, scratch.holdings))
    assert [one.number for one in rounds] == [1, 2]
    for target, site in enumerate(clients):
        known = frozenset(clients) - {site}
        strong = Adversary("strong", leader=True, helpers=frozenset(helpers), clients=known)
        for mine, seen in zip(rounds, look(transcript, strong).rounds, strict=True):
            assert np.allclose(seen.total, mine.noise + mine.rows[target], atol=1e-9)
            assert seen.noise_std == mine.noise_std > 0.0


def test_without_most_of_the_noise_every_sampled_record_is_named(bench):
    scratch, transcript, rows = private_run(bench)
    pool = Pool.of(scratch.workload, bench.data)
    rivals = np.setdiff1d(np.arange(len(pool)), rows)[:300]
    view = bench.view("tacit", transcript)
    targets = targets_of(scratch.holdings, view)
    assert len(targets) == 15  # the colluding helper's own five are none
    rounds = list(residuals_of(transcript, view, pool, scratch.holdings))
    assert len(rounds) == 2
    for one, seen in zip(transcript.closed, rounds, strict=True):
        quiet = dataclasses.replace(seen, noise=1e-4 * seen.noise, noise_std=1e-4 * seen.noise_std)
        scores = scores_of(transcript, pool, one, quiet, rivals, targets)
        there = quiet.rows.any(axis=1)
        assert (scores[there, 0] > scores[there, 1:].max(axis=1)).all()
        loud = scores_of(transcript, pool, one, seen, rivals, targets)
        assert np.isfinite(loud).all()
        assert (loud[:, 0] > loud[:, 1:].max(axis=1)).mean() < 0.5


def test_a_planted_layer_separates_a_sum():
    generator = np.random.default_rng(3)
    known, hidden = generator.normal(size=(400, 12)), generator.normal(size=(8, 12))
    model = planted_model(known, 3, 2048, generator, FeatureMap()).model
    rows = model.gradients(model.initial(b""), hidden, np.arange(8) % 3)
    found = separated(rows.sum(axis=0), 12)
    distances = np.abs(found[:, None] - hidden[None]).max(axis=2).min(axis=0)
    assert (distances < 1e-6).all()


@pytest.mark.parametrize("defence", ["clipping", "masking"])
def test_peers_that_train_a_planted_layer_lose_their_records(bench, defence):
    found = names("planted-layer").run(bench, defence, lambda _: None)
    rate = found.measured["malicious_server.rate"]
    assert rate.value > 0.7
    assert "without Tacit's model check" in found.notes[0]


@pytest.mark.parametrize(
    ("lie", "number", "code"),
    [
        (another_model, 1, "round.model"),
        (lambda crafted: forged_sum(crafted, within_bound=False), 2, "chain.norm"),
    ],
)
def test_sites_refuse_a_crafted_model_before_they_train(bench, lie, number, code):
    rows = np.arange(16).reshape(4, 4)
    scratch = bench.scratch("tacit", list(rows), rounds=3, privacy={"expected_units": 400})
    outcome = tell(scratch, lie(np.full(scratch.workload.dimension, 10.0)), number)
    assert len(outcome.told) == 4
    assert not outcome.trained
    assert set(outcome.codes.values()) == {code}


def test_an_honest_leader_is_believed(bench):
    rows = np.arange(16).reshape(4, 4)
    scratch = bench.scratch("tacit", list(rows), rounds=3, privacy={"expected_units": 400})

    def truth(_scratch, _message, envelope):
        return envelope

    outcome = tell(scratch, truth, 2)
    assert outcome.told == outcome.trained == set(scratch.sites)
    assert not outcome.codes


def test_noise_hides_what_a_planted_layer_would_separate(bench):
    found = names("planted-layer").run(bench, "tacit", lambda _: None)
    assert found.measured["malicious_server.rate"].value <= 0.1
    assert found.measured["malicious_server.trained"].value == 0.0
    assert not found.alarms
