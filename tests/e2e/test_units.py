"""Runs of every unit of privacy, with evaluation inside the vector, and their evidence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from unittest import mock

import pytest

from tacit import Job, train, verify
from tacit.errors import ConfigError
from tacit.party.chain import ModelChain
from tacit.testing.federation import POLICY, write_small_federation
from tacit.types import PartyName

ENTITY = {"privacy": {"unit": "entity", "max_records": 2, "expected_units": 16}}
CLIENT = {
    "privacy": {"unit": "client", "expected_units": 4, "clip_norm": 0.5},
    "training": {"algorithm": "fedavg", "local_epochs": 2, "local_batch": 4},
}
VISIBLE = {**CLIENT, "privacy": {**CLIENT["privacy"], "client_sampling": "visible"}}
LARGE = POLICY.replace("600", "100000")


def ran(folder: Path, job: dict, limits: str = "", **changes):
    path = write_small_federation(folder / "small", job=job, **changes)
    for site in (path.parent / "sites").glob("*/site.toml"):
        text = site.read_text().replace("epsilon = 1.2", "epsilon = 500.0")
        site.write_text(f"{text}\n[limits]\n{limits}\n" if limits else text)
    return train(Job.load(path), quiet=True)


@pytest.mark.parametrize(
    ("job", "entity"), [(ENTITY, True), (CLIENT, False)], ids=["entity", "client"]
)
def test_every_unit_runs_and_leaves_evidence(tmp_path: Path, job: dict, entity: bool) -> None:
    run = ran(tmp_path, job, entity=entity)
    assert run.complete
    report = verify(run.evidence, run.folder / "trust.json")
    assert report.exit_code == 0, report
    assert 0 < run.epsilon <= 0.5
    assert set(run.outcome.spent.values()) == {run.epsilon}


def test_entities_need_a_contract_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ran(tmp_path, ENTITY)
    assert caught.value.code == "site.entity"
    assert "'entity'" in caught.value.remedy


def test_clients_that_sample_themselves_in_sight_pay_without_amplification(tmp_path: Path) -> None:
    """Whoever is not sampled says so, is not charged, and takes part again later."""
    names = tuple(PartyName(f"clinic-{number:02d}") for number in range(28))
    job = {**VISIBLE, "aggregation": {"min_cohort": 3, "helpers": names[:3]}}
    job["privacy"] = {**job["privacy"], "sampling_rate": 0.8, "expected_units": len(names)}
    run = ran(tmp_path, job, policy=LARGE, names=names, limits="require_own_helper = false")
    assert run.complete
    assert run.outcome.rounds == 3
    assert verify(run.evidence, run.folder / "trust.json").exit_code == 0
    assert run.epsilon <= 0.5
    assert all(spent > run.epsilon for spent in run.outcome.spent.values() if spent)


def test_few_clients_cannot_be_sampled_in_sight(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ran(tmp_path, VISIBLE)
    assert caught.value.code == "job.visible-sampling"
    assert "'secret'" in caught.value.remedy


HELD_OUT = {
    "rounds": 30,
    "privacy": {"epsilon": 20.0, "expected_units": 400, "sampling_rate": 1.0},
    "evaluation": {"contract": "evaluation/contract.toml", "holdout": 0.4, "bins": 8},
}


def test_private_evaluation_comes_with_error_bars(tmp_path: Path) -> None:
    run = ran(tmp_path, HELD_OUT, policy=LARGE, records=100)
    assert run.complete
    for name in ("held_out_accuracy", "held_out_loss", "held_out_auc"):
        assert 0 < run.metrics[f"{name}_std"] < 0.5
    gap = abs(run.metrics["held_out_accuracy"] - run.metrics["accuracy"])
    assert gap < 5 * run.metrics["held_out_accuracy_std"] + 0.15
    assert verify(run.evidence, run.folder / "trust.json").exit_code == 0


def test_a_run_may_stop_early_and_pays_all_the_same(tmp_path: Path) -> None:
    """A step so large that the loss only grows: nothing improves after the first rounds."""
    evaluation = {**HELD_OUT["evaluation"], "patience": 3}
    job = {**HELD_OUT, "evaluation": evaluation}
    job["training"] = {"learning_rate": 300.0, "optimiser": "sgd"}
    run = ran(tmp_path, job, policy=LARGE, records=100)
    assert run.complete
    assert 4 <= run.outcome.rounds < 30
    report = verify(run.evidence, run.folder / "trust.json")
    assert report.exit_code == 0, report
    assert set(run.outcome.spent.values()) == {run.epsilon}
    assert math.isclose(run.epsilon, 20.0, rel_tol=0.01)
    result = json.loads((run.folder / "result.json").read_text())
    assert result["status"] == "complete"


@pytest.mark.parametrize(("stops", "patience"), [(True, 25), (False, 1)])
def test_a_leader_that_stops_when_it_should_not_is_found_out(
    tmp_path: Path, stops: bool, patience: int
) -> None:
    job = {**HELD_OUT, "rounds": 16, "evaluation": {**HELD_OUT["evaluation"], "patience": patience}}
    job["training"] = {"learning_rate": 300.0, "optimiser": "sgd"}
    with mock.patch.object(
        ModelChain, "stopped", property(lambda chain: stops and chain.applied > 2)
    ):
        run = ran(tmp_path, job, policy=LARGE, records=100)
    assert run.complete
    report = verify(run.evidence, run.folder / "trust.json")
    failed = {claim.id: claim.reason for claim in report.claims if claim.status.value == "FAIL"}
    assert list(failed) == ["model-chain"]
    assert "held-out losses" in failed["model-chain"]
