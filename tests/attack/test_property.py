"""Property inference tells sites apart by their updates, and cannot where there is noise alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tacit.attack.property import ATTACKS, Linear, Reference
from tacit.attack.scratch import DataPool
from tacit.attack.workbench import Workbench
from tacit.demo import hospitals
from tacit.party.job import JobSpec
from tacit.party.workload import TrainingData


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("property") / "hospitals"
    hospitals.write_federation(folder, hospitals.split(0))
    job = JobSpec.load(folder / "job.toml").model_copy(update={"rounds": 3})
    data = DataPool.load(folder / "attack" / "contract.toml")
    return Workbench(job, folder, data, seed=1, profile="demo")


def area(scores, truth):
    statistic = stats.mannwhitneyu(scores[truth], scores[~truth]).statistic
    return statistic / (truth.sum() * (~truth).sum())


def updates(generator, count, shift, noise):
    answers = generator.random((count, 2)) < 0.5
    clean = np.zeros((count, 20))
    clean[:, 0], clean[:, 1] = shift * answers[:, 0], shift * answers[:, 1]
    return clean + 0.1 * generator.normal(size=clean.shape), noise, answers


def test_a_classifier_has_the_power_of_the_shift_it_learnt():
    generator = np.random.default_rng(1)
    clean, noise, answers = updates(generator, 400, 3.0, 2.0)
    classifier = Linear.fit(clean, answers, noise)
    clean, _, answers = updates(generator, 3000, 3.0, 2.0)
    found = np.stack([classifier.scores(one + 2.0 * generator.normal(size=20)) for one in clean])
    for column in range(2):
        expected = stats.norm.cdf(3.0 / np.hypot(2.0, 0.1) / np.sqrt(2.0))
        assert area(found[:, column], answers[:, column]) == pytest.approx(expected, abs=0.03)


def test_pure_noise_tells_nothing():
    generator = np.random.default_rng(2)
    clean, _, answers = updates(generator, 300, 0.0, 1.0)
    classifier = Linear.fit(clean, answers, 1.0)
    clean, _, answers = updates(generator, 600, 0.0, 1.0)
    found = np.stack([classifier.scores(one) for one in clean])
    assert abs(area(found[:, 0], answers[:, 0]) - 0.5) < 0.15


def test_sites_have_the_properties_that_they_are_drawn_with():
    generator = np.random.default_rng(3)
    data = TrainingData(generator.normal(size=(200, 4)), np.arange(200) % 2)
    own, others = Reference.halves(data, generator)
    assert not set(own.rows) & set(others.rows)
    for share, upper in ((0.1, False), (0.5, True)):
        rows = own.site(np.array([share > 0.2, upper]), 20, generator)
        assert own.in_class[rows].mean() == share
        assert (own.upper[rows] == upper).all()
        assert len(set(rows)) == 20


@pytest.mark.parametrize("defence", ["plain", "clipping", "masking"])
def test_exact_updates_tell_both_properties(bench, defence):
    (attack,) = ATTACKS
    findings = attack.run(bench, defence, lambda _: None)
    assert next(iter(findings.measured)) == "property.auc"
    assert findings.measured["property.auc"].value > 0.8
    assert findings.measured["property.auc"].ceiling is None
    if defence == "masking":
        # All other sites together are left with the target's update: masks alone hide nothing from them.
        assert findings.measured["property.pooled.auc"].value > 0.8
        assert "all other sites" in findings.adversary


def test_noisy_sums_are_reported_for_a_run_and_for_one_release(bench):
    (attack,) = ATTACKS
    shares = []
    findings = attack.run(bench, "tacit", shares.append)
    assert shares[-1] == 1.0 and shares == sorted(shares)
    assert {"property.auc", "property.release.auc"} <= set(findings.measured)
    assert next(iter(findings.measured)) == "property.pooled.auc"
    assert "property.release.pooled.auc" in findings.measured
    assert "leader + 1 helper + all other sites" in findings.adversary
    assert any("No ceiling" in note for note in findings.notes)
    assert {curve.metric for curve in findings.curves} == {
        "property.label.auc",
        "property.input.auc",
    }
