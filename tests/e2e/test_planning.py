"""``tacit prior`` and the plan of a budget, as a user meets them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tacit import Job, planning, train, verify
from tacit.cli import main
from tacit.demo import digits
from tacit.errors import ConfigError
from tacit.party.job import JobSpec
from tacit.planning import draw_plan, plan_budget
from tacit.priors import fit_prior
from tacit.testing.federation import WITHOUT_NOISE, write_small_federation


def sites(job: Path) -> list[Path]:
    return sorted(path.parent for path in (job.parent / "sites").glob("*/site.toml"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_federation(tmp_path_factory.mktemp("plan") / "small", job={"rounds": 8})


def test_more_epsilon_needs_less_noise_and_more_rounds_need_more(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "ROUND_FACTORS", (0.25, 1.0))
    monkeypatch.setattr(planning, "EPSILON_FACTORS", (0.5, 1.0))
    found = plan_budget(JobSpec.load(small), small.parent, sites(small), 0.5)
    noise = {(c.epsilon, c.rounds): c.noise_multiplier for c in found.choices}
    assert set(noise) == {(0.25, 2), (0.25, 8), (0.5, 2), (0.5, 8)}
    assert noise[0.25, 8] > noise[0.5, 8] > noise[0.5, 2]
    assert all(c.charged <= c.epsilon for c in found.choices)
    assert found.records == 12  # half of the evaluation set: too few to estimate anything
    assert found.best is None
    assert not (small.parent / "runs").exists()


def test_accuracy_is_estimated_under_noise_of_the_same_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many public records as the sites hold, and one run at the sites: they agree."""
    job = {"rounds": 10, "privacy": {"epsilon": 8.0, "expected_units": 48}}
    path = write_small_federation(
        tmp_path / "small", job=job, policy="permit(principal, action, resource);"
    )
    (path.parent / "evaluation").rename(path.parent / "old")
    other = write_small_federation(tmp_path / "other", records=48, names=["north"])
    folder = path.parent / "evaluation"
    folder.mkdir()
    text = (other.parent / "evaluation" / "contract.toml").read_text()
    (folder / "contract.toml").write_text(text)
    rows = (other.parent / "sites" / "north" / "data" / "records.csv").read_text()
    (folder / "records.csv").write_text(rows)
    monkeypatch.setattr(planning, "ROUND_FACTORS", (1.0,))
    monkeypatch.setattr(planning, "EPSILON_FACTORS", (1.0,))
    found = plan_budget(JobSpec.load(path), path.parent, sites(path))
    best = found.best
    assert best is not None
    assert best.accuracy > 0.8
    drowned = plan_budget(JobSpec.load(path), path.parent, sites(path), 0.04)
    assert min(c.accuracy for c in drowned.choices) < best.accuracy
    assert draw_plan(found, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    record = found.record()
    assert json.loads(json.dumps(record))["best_rounds"] == best.rounds


def test_without_privacy_there_is_nothing_to_plan(tmp_path: Path) -> None:
    path = write_small_federation(tmp_path / "small", job=WITHOUT_NOISE)
    with pytest.raises(ConfigError) as caught:
        plan_budget(JobSpec.load(path), path.parent, sites(path))
    assert caught.value.code == "plan.unit"


def test_a_prior_is_made_named_and_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Digits by fixed features, preconditioned on images of nothing."""
    path = digits.write_federation(tmp_path / "digits", digits.split(0))
    text = path.read_text().replace('model = "model.py:Net"', 'model = "logistic"')
    text = text.replace("rounds = 60", "rounds = 3").replace("norm = 8.0", "norm = 1.0")
    text += 'map = "scattering"\nheight = 8\nwidth = 8\n'
    path.write_text(text)
    out = path.parent / "prior.safetensors"
    arguments = ["--generated", "300", "--rank", "50", "--out", str(out), "--json"]
    assert main(["prior", str(path), *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["features"] == 50
    assert "no data of anybody" in made["public_data"]
    path.write_text(text + 'prior = "prior.safetensors"\n')
    run = train(Job.load(path), quiet=True)
    assert run.complete
    assert run.metrics["accuracy"] > 0.3
    assert verify(run.evidence, run.folder / "trust.json").exit_code == 0


def test_a_prior_needs_public_records(tmp_path: Path) -> None:
    path = write_small_federation(tmp_path / "small")
    job, out = JobSpec.load(path), tmp_path / "prior.safetensors"
    private = path.parent / "sites" / "north" / "contracts" / "small.toml"
    with pytest.raises(ConfigError) as caught:
        fit_prior(job, private, out, rank=1, power=1.0)
    assert caught.value.code == "prior.not-public"
    with pytest.raises(ConfigError) as caught:
        fit_prior(job, 100, out, rank=1, power=1.0)
    assert caught.value.code == "prior.generated"
    public = path.parent / "evaluation" / "contract.toml"
    with pytest.raises(ConfigError) as caught:
        fit_prior(job, public, out, rank=9, power=1.0)
    assert caught.value.code == "prior.fit"
    assert not out.exists()
    made = fit_prior(job, public, out, rank=2, power=0.5)
    assert "public records" in made.name
    assert not math.isnan(made.dimension)
