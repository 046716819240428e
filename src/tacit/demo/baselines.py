"""What federated training without trust is measured against: training that must trust somebody."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from tacit.connect import SanitisedBatch
from tacit.demo.scoreboard import Score
from tacit.engine.direct import DirectRun
from tacit.learn.local import LocalSettings, local_update
from tacit.learn.metrics import accuracy, auc, evaluate
from tacit.party.workload import TrainingData, Workload
from tacit.privacy.plan import Plan
from tacit.types import Entropy

__all__ = ["central_training", "pool", "pooled_network", "pooled_regression"]

NETWORK = LocalSettings(epochs=20, batch=32, learning_rate=0.3)
"""Of the pooled network; chosen on a split that is not reported."""


def pool(parts: Sequence[TrainingData]) -> TrainingData:
    """All sites' records in one place, as somebody trusted would hold them."""
    return TrainingData(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def pooled_regression(parts: Sequence[SanitisedBatch], test: SanitisedBatch) -> Score:
    """scikit-learn's logistic regression on the pooled, standardised records: no privacy at all.

    Args:
        parts: The records of every site, two classes.
        test: The public evaluation set.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped] # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped] # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped] # noqa: PLC0415

    started = time.perf_counter()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    model.fit(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    seconds = time.perf_counter() - started
    scores = model.predict_proba(test.features)
    return Score(
        accuracy=accuracy(scores, test.labels),
        auc=auc(scores[:, 1], test.labels == 1),
        epsilon=None,
        traffic=None,
        seconds=seconds,
    )


def central_training(
    workload: Workload, plan: Plan, data: TrainingData, test: TrainingData, entropy: Entropy
) -> Score:
    """DP-SGD at a trusted curator: the mechanism of the federated run, without the federation.

    The noise is what the plan guarantees: no share is discounted, because nobody could know one.

    Args:
        workload: The job's computation.
        plan: The federated run's plan, for the same epsilon.
        data: The pooled records.
        test: The public evaluation set.
        entropy: Samples records and noise.
    """
    started = time.perf_counter()
    run = DirectRun(workload, plan, [data], entropy, variance=plan.guaranteed_variance)
    released = run.run()
    seconds = time.perf_counter() - started
    metrics = evaluate(workload.model.model, released, test.features, test.labels)
    return Score(
        accuracy=metrics["accuracy"],
        auc=metrics["auc"],
        epsilon=plan.epsilon(),
        traffic=None,
        seconds=seconds,
    )


def pooled_network(
    workload: Workload, data: TrainingData, test: TrainingData, seed: bytes
) -> Score:
    """The job's own network, trained on the pooled records by plain SGD: no privacy at all.

    Args:
        workload: The job's computation.
        data: The pooled records.
        test: The public evaluation set.
        seed: Governs first parameters and order of the records.
    """
    model = workload.model.model
    started = time.perf_counter()
    first = model.initial(seed)
    theta = first + local_update(model, first, data.features, data.labels, NETWORK, seed)
    seconds = time.perf_counter() - started
    metrics = evaluate(model, theta, test.features, test.labels)
    return Score(
        accuracy=metrics["accuracy"],
        auc=metrics["auc"],
        epsilon=None,
        traffic=None,
        seconds=seconds,
    )
