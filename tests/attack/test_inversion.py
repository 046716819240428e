"""Model inversion climbs to its class, and its comparison of members with others is fair."""

from __future__ import annotations

import numpy as np
import pytest

from tacit.attack.inversion import ATTACKS, _share, inverted
from tacit.attack.reconstruction.matching import Prior
from tacit.attack.reconstruction.pool import Pool
from tacit.attack.scratch import DataPool
from tacit.attack.workbench import Workbench
from tacit.demo import hospitals
from tacit.learn.code import load_model
from tacit.party.job import JobSpec
from tacit.party.workload import Workload


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inversion") / "job"
    hospitals.write_federation(folder, hospitals.split(0))
    data = DataPool.load(folder / "attack" / "contract.toml")
    return Workbench(JobSpec.load(folder / "job.toml"), folder, data, 0, "demo")


def test_ascent_reaches_its_class_and_stays_near_records(bench):
    job = bench.job.model_copy(
        update={
            "evaluation": bench.job.evaluation.model_copy(update={"holdout": 0.0, "patience": 0})
        }
    )
    model = load_model("logistic", bench.base, features=30, classes=2)
    workload = Workload.build(job, model, 2)
    pool = Pool.of(workload, bench.data)
    difference = pool.features[pool.labels == 1].mean(axis=0)
    difference -= pool.features[pool.labels == 0].mean(axis=0)
    released = np.concatenate([3.0 * difference, [0.0]])
    classes = np.array([0, 0, 1, 1])
    prior = Prior.of(pool.features, pool.labels, classes, 0.02)
    generator = np.random.default_rng(0)
    found, likelihood = inverted(workload, released, classes, prior, generator)
    by_chance = workload.model.model.scores(released, prior.means)[np.arange(4), classes]
    assert found.shape == (4, 30)
    assert np.abs(found).max() <= 1.0
    assert (likelihood > by_chance).all()


def test_the_share_counts_classes_of_runs_not_inputs():
    fair = _share([(6, 6), (0, 6), (6, 6), (0, 6)])
    assert fair.value == 0.5
    assert fair.low < 0.1
    assert fair.high > 0.9
    all_members = _share([(6, 6)] * 20)
    assert all_members.above_null


def test_inversion_of_a_real_run_is_reported_with_its_null(bench):
    (attack,) = ATTACKS
    found = attack.run(bench, "plain", lambda _: None)
    near = found.measured["inversion.identification"]
    assert near.null == 0.5
    assert near.trials == 2
    assert near.low < 0.5 < near.high  # two trials prove nothing, and say so
    assert found.details["to_class_mean"] > 0.0
    assert found.adversary == "released model"
