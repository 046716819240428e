"""Every benchmark runs, and writes figures that a program can read."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


def test_privacy(tmp_path):
    found = benchmark("privacy.py", tmp_path, ("noise", "accounting"))
    check_schema(found)
    targets = [entry["target"] for entry in found["rows"] if entry["target"]]
    assert {"<= 20", "<= 1.005"} <= set(targets)


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
