"""Local layers and training metrics in a whole run, through files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tacit.api import Job, train
from tacit.testing.federation import SITES, WITHOUT_NOISE, write_small_federation

FEDAVG = {"algorithm": "fedavg", "optimiser": "sgd", "learning_rate": 1.0, "average_from": 1.0}


@pytest.mark.parametrize("bits", [16, 32])
def test_every_site_keeps_its_own_bias(tmp_path, bits):
    job = {
        "privacy": {**WITHOUT_NOISE["privacy"], "clip_norm": 2.0, "expected_units": 12},
        "aggregation": {"min_cohort": 4, "ring_bits": bits},
        "training": {**FEDAVG, "local_layers": ["bias"], "metrics_share": 0.1},
    }
    run = train(Job.load(write_small_federation(tmp_path / "small", job=job)), quiet=True)
    assert run.complete
    assert run.verify().exit_code == 0
    shared = load_file(run.model)["theta"]
    own = []
    for name in SITES:
        path = (
            tmp_path
            / "small"
            / "sites"
            / name
            / "models"
            / f"{run.outcome.run_id[:12]}.safetensors"
        )
        own.append(load_file(path)["theta"])
    assert len(shared) == 2
    assert {len(theta) for theta in own} == {3}
    assert all(np.array_equal(theta[:2], shared) for theta in own)
    assert len({theta[2] for theta in own}) == len(SITES)
    record = json.loads((run.folder / "result.json").read_text())
    assert 0.0 <= float(record["metrics"]["train_accuracy"]) <= 1.05
    assert float(record["metrics"]["train_loss"]) > 0.0


def test_training_metrics_under_noise_say_how_noisy_they_are(tmp_path):
    job = {"training": {"metrics_share": 0.2}}
    run = train(Job.load(write_small_federation(tmp_path / "small", job=job)), quiet=True)
    assert run.verify().exit_code == 0
    assert run.metrics["train_loss_std"] > 0.0
    assert {"train_loss", "train_accuracy", "train_accuracy_std"} <= run.metrics.keys()
