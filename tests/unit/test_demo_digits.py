"""The digits demonstration: real images, each once, eight clients and a small network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tacit import connect
from tacit.demo import digits
from tacit.party.job import JobSpec
from tacit.policy.cedar import Policy, Request
from tacit.policy.contract import Contract
from tacit.testing.entropy import SeededEntropy
from tacit.testing.permissions import permission
from tacit.testing.policies import REQUEST
from tacit.trust.roster import Roster


def request(epsilon_milli: int) -> Request:
    return replace(REQUEST, dataset="digits", epsilon_milli=epsilon_milli, helpers=8, min_cohort=8)


def test_digits_are_held_once_by_eight_clients() -> None:
    made = digits.split(0)
    parts = [made.evaluation, *made.train.values()]
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(1797))
    assert len(made.train) == 8
    assert min(map(len, parts)) > 50


def test_the_digits_federation_is_ready(tmp_path: Path) -> None:
    made = digits.split(0)
    job = JobSpec.load(digits.write_federation(tmp_path / "digits", made, entropy=SeededEntropy(2)))
    assert job.privacy.expected_units == sum(map(len, made.train.values()))
    Roster.load(tmp_path / "digits" / "federation.toml")
    for place in digits.CLIENTS:
        site = tmp_path / "digits" / "sites" / place.name
        contract = Contract.load(site / "contracts" / "digits.toml")
        batch = connect.read(contract, site, permission(contract))
        assert np.array_equal(batch.features, made.train[place.name].features)
        policy = Policy.load(site / "policies")
        assert policy.decide(request(epsilon_milli=3000)).allowed
        assert not policy.decide(request(epsilon_milli=3001)).allowed


def test_the_digits_model_is_small_and_trainable(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tacit.learn.code import load_model

    made = digits.split(0)
    digits.write_federation(tmp_path / "digits", made)
    loaded = load_model("model.py:Net", tmp_path / "digits", features=64, classes=10)
    assert loaded.pinned
    assert loaded.model.dimension == 1946
    theta = loaded.model.initial(bytes(32))
    part = made.evaluation
    gradients = loaded.model.gradients(theta, part.features[:8] / 8 - 1, part.labels[:8])
    assert gradients.shape == (8, 1946)
    assert np.all(np.any(gradients != 0, axis=1))
