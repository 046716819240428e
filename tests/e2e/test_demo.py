"""The demonstrations end to end: one short split of the hospitals always, all of it when there is time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.api import verify
from tacit.demo import digits_demo, hospitals
from tacit.demo.digits_demo import run_digits
from tacit.demo.hospitals_demo import SPLITS, Setting, run_hospitals
from tacit.demo.screen import Screen
from tacit.demo.show import run_demo
from tacit.errors import ConfigError
from tacit.evidence.archive import unpack

TUNING_SPLIT = 100  # none that is reported
ROUNDS = 12  # the fewest whose bytes a chi-square test can judge
NO_TORCH = "raise ModuleNotFoundError('No module named torch', name='torch')\n"


def tacit(*arguments: str, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tacit.cli", *arguments],
        cwd=cwd,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which PyTorch cannot be imported, in worker processes neither."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "torch.py").write_text(NO_TORCH)
    return {"PYTHONPATH": str(tmp_path / "shadow")}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, bool, str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    screen = Screen(quiet=False)
    with screen.out.capture() as captured, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tacit.show.console", lambda *, error=False: screen.out)
        record, held = run_hospitals(
            Setting(folder, (TUNING_SPLIT,), ROUNDS, attacks=("metadata",)), screen
        )
    return record, held, captured.get(), folder


def test_everything_is_shown_in_order(short) -> None:
    record, _, text, folder = short
    parts = [
        "four hospitals train one model",
        "fresh federation under",
        "What each hospital holds",
        "replaced by a keyed token",
        "central DP-SGD",
        "target: at most 1 point below",
        "What epsilon 0.9 means",
        "any one other hospital",
        "What the leader really saw of hospital 'north'",
        "kept copies of the round keys",
        "authenticity",
        "verified",
        "every flip refused",
        "what an adversary gets",
        "metadata on",
        f"figures   {folder}/results.json",
        f"verify {record['bundle']} --trust",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)


def test_the_evidence_holds(short) -> None:
    record, held, _, folder = short
    assert held
    bundle = Path(record["bundle"])
    assert verify(bundle, bundle.with_name("trust.json")).exit_code == 0
    assert {claim["status"] for claim in record["verification"]["claims"]} == {"PASS"}
    flips = {trial["part"]: trial for trial in record["tampering"]}
    assert flips["each member"]["flips"] == len(unpack(bundle.read_bytes()))
    assert all(trial["flips"] == trial["refused"] for trial in flips.values())
    assert json.loads((folder / "results.json").read_text()) == record
    assert (folder / "demo.png").exists()
    assert (folder / "attacks" / "privacy.html").exists()
    (row,) = record["attacks"]["rows"]
    assert set(row["cells"]) == {"plain", "masking", "noise", "tacit"}


def test_every_way_to_train_is_measured(short) -> None:
    record, *_ = short
    rows = {row["row"]: row["splits"][0] for row in record["rows"]}
    assert list(rows) == ["pooled", "plain", "central", "shared", "own"]
    assert all(row["auc"] > 0.85 for row in rows.values())
    assert [rows[key]["epsilon"] for key in ("pooled", "plain")] == [None, None]
    for key in ("central", "shared", "own"):
        assert 0.8 < rows[key]["epsilon"] <= 0.9
    assert rows["pooled"]["traffic"] is None
    assert rows["shared"]["traffic"] > rows["plain"]["traffic"] > 10_000


def test_epsilon_grows_with_the_coalition(short) -> None:
    record, *_ = short
    shared, own = record["epsilon_by_coalition"].values()
    assert len(shared) == len(own) == 4
    assert shared[1] == pytest.approx(0.9, abs=0.01)
    assert own[3] == pytest.approx(0.9, abs=0.01)
    assert shared == sorted(shared)
    assert all(ours < theirs for ours, theirs in zip(own, shared, strict=True))


def test_what_was_removed_is_what_the_contract_names(short) -> None:
    record, *_ = short
    assert [h["hospital"] for h in record["hospitals"]] == ["east", "north", "south", "west"]
    assert sum(h["records"] for h in record["hospitals"]) == 427
    for hospital in record["hospitals"]:
        assert {c["column"] for c in hospital["removed"]} == set(hospitals.IDENTITY)
        cells = {c["column"]: c["cells"] for c in hospital["removed"]}
        dropped = {name for name in cells if hospitals.IDENTITY[name]["transform"] == "drop"}
        assert {cells[name] for name in dropped} == {0}, "what is dropped is not even decoded"
        assert {cells[name] for name in cells.keys() - dropped} == {hospital["records"]}


def test_the_leader_saw_noise_unless_every_helper_helps(short) -> None:
    record, *_ = short
    view = record["leader_view"]
    p = {key: glimpse["p"] for key, glimpse in view["glimpses"].items()}
    assert p.pop("plain") < 1e-50
    assert p.pop("opened") < 1e-50
    assert set(p) == {"masked", *(f"without {h['hospital']}" for h in record["hospitals"])}
    assert all(value > 1e-6 for value in p.values())
    north = next(h for h in record["hospitals"] if h["hospital"] == "north")
    assert view["plain_records"] == north["records"]
    assert 0 < view["opened_norm"] <= 0.5 * north["records"]  # clip_norm each


def test_digits_without_torch_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(digits_demo, "import_module", refuse)
    with pytest.raises(ConfigError) as caught:
        run_demo("digits", tmp_path / "out", as_json=True)
    assert caught.value.code == "demo.torch"
    assert "pip install" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        run_demo("hospitals", tmp_path / "mine", as_json=True)
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.slow
def test_the_full_demonstration_needs_no_torch_and_reaches_its_target(
    tmp_path: Path, without_torch: dict[str, str]
) -> None:
    refused = tacit("demo", "--data", "digits", "--json", cwd=tmp_path, **without_torch)
    assert (refused.returncode, json.loads(refused.stdout)["code"]) == (1, "demo.torch")
    run = tacit("demo", "--json", cwd=tmp_path, **without_torch)
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert record["splits"] == list(SPLITS)
    assert record["auc_gap_points"] < 2.0  # the target is 1.0; five noisy runs have a spread
    assert len(list((tmp_path / "runs").glob("demo-*/split-*/*/run/bundle.zip"))) == 15


@pytest.mark.slow
def test_digits_end_to_end(tmp_path: Path) -> None:
    record, held = run_digits(tmp_path, Screen(quiet=True), rounds=3, attacks=("reconstruction",))
    assert (tmp_path / "reconstruction.png").stat().st_size > 5_000
    assert held
    pooled, private = (row["splits"][0] for row in record["rows"])
    assert pooled["accuracy"] > 0.9
    assert private["epsilon"] <= 3.0
    assert len(record["epsilon_by_coalition"]["Tacit"]) == 8


@pytest.mark.slow
def test_an_interrupted_demonstration_leaves_no_worker(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tacit.cli", "demo"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Tacit" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
