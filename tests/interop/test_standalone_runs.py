"""Both verifiers on the evidence of real runs: every party, every kind of server step, real logs."""

from __future__ import annotations

from pathlib import Path

import pytest
from standalone import command, disagreements, verifier

from tacit import Job, train
from tacit.evidence import Trust
from tacit.testing.federation import (
    LEADER,
    PLAIN,
    POLICY,
    WITHOUT_NOISE,
    write_small_federation,
)

FEDAVG = {"algorithm": "fedavg", "local_epochs": 2, "local_batch": 4, "average_from": 0.5}
RUNS = {
    "own noise, no sampling": {"privacy": {"noise": "own", "sampling_rate": 1.0}, "rounds": 2},
    "adaptive": {"training": {"clipping": "adaptive", "metrics_share": 0.1}},
    "adam": {
        "training": {"optimiser": "adam", "schedule": "cosine", "average_from": 0.3},
        "evaluation": {"holdout": 0.25},
    },
    "exact, stops early": {
        **WITHOUT_NOISE,
        "rounds": 8,
        "evaluation": {"holdout": 0.25, "patience": 1},
        "training": {"optimiser": "sgd", "learning_rate": 1e-12},
    },
    "weighted": {**WITHOUT_NOISE, "training": FEDAVG},
    "rotated": {
        **WITHOUT_NOISE,
        "aggregation": {"min_cohort": 3, "ring_bits": 16},
        "training": {**FEDAVG, "optimiser": "adam"},
    },
    "plain": PLAIN,
    "entities": {"privacy": {"unit": "entity", "max_records": 2, "expected_units": 16}},
    "clients": {
        "privacy": {"unit": "client", "expected_units": 4, "clip_norm": 0.5},
        "training": FEDAVG,
    },
    "24 bits": {"aggregation": {"min_cohort": 3, "ring_bits": 24}, "privacy": {"noise": "own"}},
    "resum": {**WITHOUT_NOISE, "aggregation": {"min_cohort": 3, "audit_rounds": 3}},
}
FAST = ("exact, stops early", "rotated")


def ran(folder: Path, job: dict, limits: str = ""):
    path = write_small_federation(
        folder / "small",
        job=job,
        entity=job.get("privacy", {}).get("unit") == "entity",
        policy=POLICY,
    )
    for site in (path.parent / "sites").glob("*/site.toml"):
        text = site.read_text().replace("epsilon = 1.2", "epsilon = 500.0")
        site.write_text(f"{text}\n[limits]\n{limits}\n" if limits else text)
    return train(Job.load(path), quiet=True)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_both_verifiers_agree_on_a_real_run(tmp_path, name):
    exact = RUNS[name].get("privacy", {}).get("unit") == "none"
    limits = "max_colluding_helpers = 0" if exact else ""
    if name == "resum":
        limits += '\nresum = "always"'
    run = ran(tmp_path, RUNS[name], limits)
    assert run.complete
    data, trust = run.evidence.read_bytes(), run.folder / "trust.json"
    assert disagreements(data, Trust.load(trust)) == []
    report = verifier.verify(data, verifier.read_trust(trust.read_bytes()))
    undecided = {claim.id for claim in report.claims if claim.status != verifier.PASS}
    assert undecided <= _open(name, exact), str(report)
    if name == "exact, stops early":
        bundle = verifier.Bundle(verifier.read_archive(data))
        assert 1 < len(bundle.closed_rounds) < bundle.manifest["rounds"]


def _open(name: str, exact: bool) -> set[str]:
    """What such a run leaves open; without sampling, epsilon is decided exactly."""
    if exact:
        return {"epsilon", "budget", *(["one-sum-per-upload"] if name == "plain" else [])}
    return set() if "no sampling" in name else {"epsilon"}


def test_the_command_on_a_real_run(tmp_path):
    run = ran(tmp_path, {})
    trust = run.folder / "trust.json"
    assert disagreements(run.evidence.read_bytes(), Trust.load(trust)) == []
    done = command(run.evidence, "--trust", trust)
    assert done.returncode == 2, done.stdout
    assert "epsilon             NOT PROVEN" in done.stdout
    assert done.stdout.count(" PASS ") == 13
    assert f"signed by {LEADER}" in " ".join(done.stdout.split())
