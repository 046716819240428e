"""Every benchmark runs, and writes figures that a program can read."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tacit.privacy import accounting
from tacit.testing.nats import server_binary

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
FIELDS = {"name", "value", "unit", "target", "met", "how"}
SMALL_PARTS = ("masks", "encoding", "noise", "combine", "digests", "bytes", "seeds", "scaling")


def benchmark(script: str, folder: Path, parts: tuple[str, ...], *more: str) -> dict:
    """The JSON that a script writes, at its small sizes."""
    path = folder / "rows.json"
    only = [text for part in parts for text in ("--only", part)]
    command = [sys.executable, str(BENCHMARKS / script), "--quick", "--json", str(path)]
    environment = {**os.environ, "MPLCONFIGDIR": str(folder)}
    done = subprocess.run(
        [*command, *only, *more], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    for entry in found["rows"]:
        assert entry["name"] in done.stdout
    return found


def check_schema(found: dict) -> None:
    assert found.keys() == {"schema", "machine", "rows"}
    assert found["schema"] == 1
    assert found["machine"]["cores"] >= 1
    assert {"processor", "python", "load_at_start", "load_at_end"} <= found["machine"].keys()
    assert found["rows"]
    names = [entry["name"] for entry in found["rows"]]
    assert len(set(names)) == len(names)
    for entry in found["rows"]:
        assert entry.keys() == FIELDS
        assert isinstance(entry["value"], float)
        assert entry["how"]
        assert entry["met"] is None, "targets hold for the full sizes only"
        assert entry["target"] is None or entry["target"].split()[0] in ("<=", ">=")


def test_secure_aggregation(tmp_path):
    figure = tmp_path / "scaling.png"
    found = benchmark("secagg.py", tmp_path, SMALL_PARTS, "--figure", str(figure))
    check_schema(found)
    assert any(entry["target"] == "<= 1.3" for entry in found["rows"])
    assert figure.read_bytes().startswith(b"\x89PNG")
    series = json.loads(figure.with_suffix(".json").read_text())["series"]
    assert {(one["role"], one["over"]) for one in series} == {
        (role, over) for role in ("client", "helper", "leader") for over in "dn"
    }
    assert all(len(one["x"]) == len(one["seconds"]) for one in series)


def test_memory_of_a_role():
    command = [sys.executable, "-m", "support.memory", "helper", "2", "100000", "16"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == {"before", "needed"}
    assert found["needed"] >= 0
    assert found["before"] > 10**7


def test_a_step_against_opacus(tmp_path):
    """Our side of the comparison, which needs no other environment."""
    pytest.importorskip("torch")
    np.save(tmp_path / "theta.npy", 0.01 * np.random.default_rng(0).standard_normal(26_010))
    side = ["-m", "support.own_step", "narrow", str(tmp_path / "theta.npy"), "6", "4"]
    done = subprocess.run(
        [sys.executable, *side],
        cwd=BENCHMARKS,
        input=f"first\nstep\nsum {tmp_path}/sum.npy\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, step, _ = (json.loads(line) for line in done.stdout.splitlines())
    assert first["bytes"] >= 0
    assert step["seconds"] > 0
    assert 0 < np.linalg.norm(np.load(tmp_path / "sum.npy")) <= 6.0


def test_foundation(tmp_path):
    check_schema(benchmark("foundation.py", tmp_path, ()))


def test_ledger(tmp_path):
    found = benchmark("ledger.py", tmp_path, ())
    check_schema(found)
    targets = {entry["name"]: entry["target"] for entry in found["rows"] if entry["target"]}
    assert {"<= 60", "<= 1", "<= 90", "<= 1.2"} <= set(targets.values())


def test_privacy(tmp_path):
    found = benchmark("privacy.py", tmp_path, ("noise", "accounting"))
    check_schema(found)
    targets = [entry["target"] for entry in found["rows"] if entry["target"]]
    assert {"<= 20", "<= 1.005"} <= set(targets)


@pytest.mark.skipif(
    server_binary() is None or not hasattr(os, "memfd_create"),
    reason="nats-server is not installed, or this is not Linux",
)
def test_engine(tmp_path):
    found = benchmark("engine.py", tmp_path, ("tasks", "bulk"))
    check_schema(found)
    assert {entry["target"] for entry in found["rows"]} - {None} == {"<= 20", ">= 250"}
    assert all(entry["value"] > 0 for entry in found["rows"])


CONNECTOR_PARTS = (
    *("structured", "whole-path", "tokens", "ff1-rate", "scan", "canaries"),
    *("decisions-reading",),
)


def test_connectors(tmp_path):
    found = benchmark("connectors.py", tmp_path, CONNECTOR_PARTS)
    check_schema(found)
    targets = {entry["target"] for entry in found["rows"]} - {None}
    assert targets == {">= 2", "<= 1.2", ">= 10", ">= 700", ">= 100", "<= 0", "<= 1"}
    by_name = {entry["name"]: entry["value"] for entry in found["rows"]}
    assert by_name["cells of non-kept columns found"] == 0
    assert by_name["policy decisions for one data set"] == 1


def test_both_ways_of_the_path_give_the_same_gradient(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    paths = importlib.import_module("support.connector_paths")
    with paths.written(500, coarse=False) as setting:
        batch = setting.whole()
        ours = paths.gradient(batch.features, batch.labels)
        plain = paths.plain_gradient(setting.path)
    assert batch.extra.column_names == []
    # Ages are the one feature that the contract makes coarser.
    assert np.allclose(ours[1:], plain[1:], rtol=1e-12)
    assert ours[0] == pytest.approx(plain[0], abs=5)


def machine_module():
    path = BENCHMARKS / "support" / "machine.py"
    spec = importlib.util.spec_from_file_location("benchmark_machine", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (1.3, "<= 1.3", True),
        (1.31, "<= 1.3", False),
        (100.0, ">= 100", True),
        (99.9, ">= 100", False),
        (5.0, None, None),
    ],
)
def test_a_target_is_judged(value, target, met):
    assert machine_module().row("name", value, "x", "how", target)["met"] is met


def test_ratios_are_of_neighbours():
    assert machine_module().ratio([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]) == 2.0


def test_an_unknown_part_is_refused():
    with pytest.raises(SystemExit, match="noise"):
        machine_module().measure({"noise": list}, ["nonsense"])


UTILITY_TARGETS = {
    *(f">= {percent}" for percent in (89, 87.6, 89.2, 87.9, 87.2, 85.3)),
    *("<= 1", "<= 300"),
}


@pytest.mark.slow
def test_privacy_utility(tmp_path):
    figure = tmp_path / "utility.png"
    found = benchmark("privacy_utility.py", tmp_path, (), "--figure", str(figure))
    check_schema(found)
    assert {entry["target"] for entry in found["rows"]} - {None} == UTILITY_TARGETS
    names = " ".join(entry["name"] for entry in found["rows"])
    for method in ("Tacit", "central DP-SGD", "Flower's accounting", "local DP", "no privacy"):
        assert f": {method}, accuracy" in names
    for entry in found["rows"]:
        if "record" in entry["name"] and ": Tacit" in entry["name"]:
            assert "simulated" in entry["how"]
            assert "sd" in entry["how"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    series = json.loads(figure.with_suffix(".json").read_text())["series"]
    assert {one["method"] for one in series} >= {"Tacit", "local DP"}
    assert all(len(one["values"]) in (1, 2, 3) for one in series)


@pytest.mark.parametrize("part", ["record-prior", "client-no-prior", "heart"])
@pytest.mark.slow
def test_privacy_utility_names_the_file_that_is_missing(tmp_path, part):
    command = [sys.executable, str(BENCHMARKS / "privacy_utility.py"), "--only", part]
    done = subprocess.run(
        [*command, "--data", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr
    assert "--data" in done.stderr


@pytest.fixture
def utility(monkeypatch):
    """The modules of the benchmark, by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"support.utility.{name}")


@pytest.mark.parametrize("task", ["RECORD", "CLIENT"])
def test_library_and_peer_train_alike_without_noise_and_sampling(utility, tmp_path, task):
    settings, trials = utility("settings"), utility("trials")
    images = utility("images").digits(tmp_path).images(None, validation=False)
    setting = dataclasses.replace(
        getattr(settings, task), holders=20, size=20, rounds=6, cap=6, sampling_rate=1.0
    )
    setting = dataclasses.replace(setting, noise_scale=0.0, average_from={3.0: 0.5})
    features, labels = images.train.features()[:400], images.train.labels[:400]
    plan = setting.plan(setting.workload(3.0, features.shape[1]))
    ours, theirs = (
        train(trials.Trial(setting, images, plan, method, 3.0, 0), features, labels)
        for train, method in ((trials.library, "Tacit"), (trials.peer, "central DP-SGD"))
    )
    assert np.linalg.norm(ours) > 0
    assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)


def test_peers_have_the_noise_that_their_rules_ask_for(utility, tmp_path):
    settings, trials = utility("settings"), utility("trials")
    setting = dataclasses.replace(settings.CLIENT, rounds=4, cap=4)
    plan = setting.plan(setting.workload(1.0, 10))
    made = {
        method: trials.noise(trials.Trial(setting, None, plan, method, 1.0, 0))
        for method in utility("study").WAYS
    }
    assert made["Tacit"] == pytest.approx(made["central DP-SGD"] * (10 / 9) ** 0.5, rel=1e-6)
    for full in (made["Flower's accounting"], made["local DP"] / 300**0.5):
        found = accounting.epsilon(noise_ratio=full, sampling_rate=1.0, rounds=4, delta=1e-5)
        assert found == pytest.approx(1.0, rel=1e-3)
    assert made["no privacy"] == 0.0
    sites = dataclasses.replace(settings.RECORD, rounds=4)
    plan = sites.plan(sites.workload(1.0, 10))
    local = trials.noise(trials.Trial(sites, None, plan, "local DP", 1.0, 0))
    assert local == pytest.approx(plan.noise_multiplier * 10**0.5)


def test_clients_hold_every_record_once_and_few_classes(utility):
    labels = np.arange(1000) % 10
    parts = utility("images").clients(labels, 50, 20, seed=0)
    assert sorted(parts.ravel()) == list(range(1000))
    counts = np.stack([np.bincount(labels[part], minlength=10) for part in parts])
    assert counts.max(axis=1).mean() > 7, "a class has a tenth of 20 records where all are alike"


def test_missing_values_of_patients_are_told_apart(utility, tmp_path):
    hospitals = utility("hospitals")
    folder = tmp_path / "heart_disease_4site"
    folder.mkdir()
    known = "50,1,4,140,250,0,0,150,0,1,2,0,3,0"
    unknown = "50,1,4,140,0,NaN,0,150,0,1,2,0,3,2"
    for name in hospitals.HOSPITALS:
        (folder / f"processed.{name}.data").write_text(f"{known}\n{unknown}\n{unknown}\n")
    patients = hospitals.heart(tmp_path)
    assert patients.labels.tolist() == [0, 1, 1] * 4
    assert patients.count == 4
    assert np.linalg.norm(patients.features, axis=1) == pytest.approx(hospitals.NORM)
    chol, fbs = (hospitals.COLUMNS.index(name) for name in ("chol", "fbs"))
    assert patients.features[1, [chol, fbs]].tolist() == [0.0, 0.0]
    assert (patients.features[1, -2:] > 0).all()
    assert (patients.features[0, -2:] == 0).all()
    trained, tested = patients.split(3)
    assert sorted([*trained, *tested]) == list(range(12))
    assert np.bincount(patients.hospitals[tested]).tolist() == [1, 1, 1, 1]


def test_real_data_have_the_published_counts(utility):
    data = Path(os.environ.get("TACIT_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "heart_disease_4site").is_dir():
        pytest.skip(f"no data sets in {data}")
    patients = utility("hospitals").heart(data)
    assert np.bincount(patients.hospitals).tolist() == [303, 294, 123, 200]
    assert np.bincount(patients.labels).tolist() == [411, 509]
    source = utility("images").fashion(data, data)
    assert source.pixels.shape == (70_000, 28, 28)
    assert np.bincount(source.labels[: source.trained]).tolist() == [6000] * 10
