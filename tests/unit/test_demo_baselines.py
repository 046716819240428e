"""The baselines: the trusted curator's mechanism is the federated one, the pooled ones learn."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from tacit.demo import baselines, hospitals
from tacit.demo.baselines import (
    central_training,
    pool,
    pooled_network,
    pooled_regression,
)
from tacit.demo.federated import evaluation_batch, holdings
from tacit.demo.layout import template
from tacit.engine.direct import DirectRun
from tacit.learn.code import load_model
from tacit.party.job import JobSpec
from tacit.party.terms import plan_for
from tacit.party.workload import TrainingData, Workload
from tacit.privacy.plan import Plan
from tacit.testing.entropy import SeededEntropy

FEATURES = 30


def workload(**privacy: object) -> tuple[Workload, Plan]:
    content = tomllib.loads(template("hospitals/job.toml"))
    content["rounds"] = 8
    content["privacy"] |= {"epsilon": 8.0, "sampling_rate": 1.0, "expected_units": 200, **privacy}
    job = JobSpec.model_validate(content)
    model = load_model("logistic", Path(), features=FEATURES, classes=2)
    made = Workload.build(job, model, 2)
    return made, plan_for(job, clients=4, helpers=4, length=made.length)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    generator = np.random.default_rng(7)
    features = generator.normal(size=(200, FEATURES)) / np.sqrt(FEATURES)
    return TrainingData(features, (features[:, 0] > 0).astype(np.int64))


def test_the_curator_adds_the_guaranteed_noise(data: TrainingData) -> None:
    """No share is discounted: nobody could know one."""
    made, plan = workload()
    with mock.patch.object(baselines, "DirectRun", wraps=DirectRun) as runs:
        central_training(made, plan, data, data, SeededEntropy(1))
    assert runs.call_args.kwargs["variance"] == plan.guaranteed_variance
    assert len(runs.call_args.args[2]) == 1
    assert plan.guaranteed_variance < plan.total_variance(plan.helpers)


def test_the_curator_trains_at_the_plans_epsilon(data: TrainingData) -> None:
    made, plan = workload()
    score = central_training(made, plan, data, data, SeededEntropy(2))
    assert score.accuracy > 0.75
    assert score.epsilon == plan.epsilon()
    again = central_training(made, plan, data, data, SeededEntropy(2))
    assert (score.accuracy, score.auc) == (again.accuracy, again.auc)
    drowned = replace(plan, noise_multiplier=1000 * plan.noise_multiplier, grid=plan.grid * 1000)
    assert central_training(made, drowned, data, data, SeededEntropy(2)).auc < score.auc


def test_pooling_keeps_every_record_and_its_label(data: TrainingData) -> None:
    parts = [
        TrainingData(data.features[rows], data.labels[rows]) for rows in (slice(50), slice(50, 200))
    ]
    together = pool(parts)
    assert np.array_equal(together.features, data.features)
    assert np.array_equal(together.labels, data.labels)


def test_pooled_regression_is_scikit_learns(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    split = hospitals.split(100)
    federation = tmp_path / "federation"
    hospitals.write_federation(federation, split)
    batches = [holding.batch for holding in holdings(federation, "diagnosis")]
    score = pooled_regression(batches, evaluation_batch(federation))

    pooled, test = split.pooled(), split.evaluation
    scaler = StandardScaler().fit(pooled.features)
    model = LogisticRegression(max_iter=5000).fit(scaler.transform(pooled.features), pooled.labels)
    chances = model.predict_proba(scaler.transform(test.features))[:, 1]
    assert score.auc == pytest.approx(roc_auc_score(test.labels, chances), abs=2e-4)
    assert score.accuracy == pytest.approx(accuracy_score(test.labels, chances > 0.5), abs=0.01)
    assert (score.epsilon, score.traffic) == (None, None)


def test_the_pooled_network_learns_from_its_seed(data: TrainingData) -> None:
    made, _ = workload()
    score = pooled_network(made, data, data, bytes(32))
    assert score.accuracy > 0.9
    assert score.epsilon is None
