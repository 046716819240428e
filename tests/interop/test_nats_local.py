"""The local engine and the one over NATS agree bit for bit: same seed, same model, whatever carries it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import struct
import time
import zipfile
from pathlib import Path

import pytest

from tacit import cli
from tacit.engine.folder import World
from tacit.party.job import JobSpec
from tacit.session import Session
from tacit.testing.federation import LEADER, SITES, WITHOUT_NOISE, seeded_world
from tacit.testing.nats import server_binary
from tacit.testing.processes import ProcessFederation

needs_server = pytest.mark.skipif(
    server_binary() is None or not hasattr(os, "memfd_create"),
    reason="nats-server is not installed, or this is not Linux",
)

SEED = "engines"
NAMES = SITES[:3]
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.first = nn.Linear(features, 4)
        self.last = nn.Linear(4, classes)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))
"""
JOBS = {
    "record": ({}, ""),
    "none": (WITHOUT_NOISE, ""),
    "file": ({**WITHOUT_NOISE, "model": "net.py:Net"}, MODEL),
}


def tensors(data: bytes) -> bytes:
    """All of a model file but its metadata, which name the transcript, in which times are."""
    (size,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + size])
    head.pop("__metadata__")
    return json.dumps(head, sort_keys=True).encode() + data[8 + size :]


def computed(folder: Path) -> dict[str, bytes]:
    """Everything in a run's folder that follows from the entropy alone."""
    with zipfile.ZipFile(folder / "bundle.zip") as bundle:
        names = bundle.namelist()
        kept = [name for name in names if name.endswith("/aggregate.bin")]
        found = {name: bundle.read(name) for name in [*kept, "model/initial.bin", "job.json"]}
        found["model"] = tensors(bundle.read("model/final.safetensors"))
    result = json.loads((folder / "result.json").read_bytes())
    # That a site spent nothing its own machine knows; from afar nothing is said of it.
    result["spent"] = {name: epsilon for name, epsilon in result["spent"].items() if float(epsilon)}
    for key in ("privacy", "metrics", "history", "rounds", "run", "spent", "epsilon"):
        found[key] = json.dumps(result[key], sort_keys=True).encode()
    return found


def children(pid: int) -> set[int]:
    """Processes that a process started and that have not ended."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # A thread that has ended.
            found |= {int(one) for one in (task / "children").read_text("ascii").split()}
    return found


class Watch:
    """Notes the training children of every site while a run goes on."""

    def __init__(self, federation: ProcessFederation) -> None:
        self.federation, self.seen = federation, {name: set() for name in federation.names}

    def look(self) -> None:
        for name, seen in self.seen.items():
            seen.update(children(self.federation.processes[name].pid))


def over_nats(folder: Path, kind: str) -> tuple[dict[str, bytes], Path]:
    """Runs a job in processes; what was computed, and an untouched copy of all folders."""
    job, model = JOBS[kind]
    folder.mkdir()
    with ProcessFederation(folder, names=NAMES, job=job, seed=SEED) as federation:
        if model:
            (federation.base / "net.py").write_text(model)
            for name in NAMES:
                code = federation.places[name] / "code"
                code.mkdir()
                (code / "net.py").write_text(model)
        shutil.copytree(federation.base, folder / "copy")
        federation.start_server()
        federation.start()
        pids = {name: process.pid for name, process in federation.processes.items()}
        assert len(set(pids.values()) | {os.getpid()}) == len(NAMES) + 2
        watch, control = Watch(federation), federation.control
        run = federation.submit()
        while control.run(run)["status"] in ("waiting", "running"):
            watch.look()
            time.sleep(0.02)
        state = federation.finish(run)
        assert state["status"] == "complete", state["failure"]
        # Every process really had its part: the coordinator led, and each site ended the run in its own.
        for name in (LEADER, *NAMES):
            federation.wait_for(name, "run.ended")
        assert {event["run"] for event in federation.events(LEADER, "run.ended")} == {run}
        for name in NAMES:
            assert [event["run"] for event in federation.events(name, "run.ended")] == [run]
            assert len(watch.seen[name]) == 1, f"{name} trained in a child of its own"
        everybody = [*pids.values(), *(pid for seen in watch.seen.values() for pid in seen)]
        assert len(set(everybody)) == 2 * len(NAMES) + 1
        return computed(Path(state["folder"])), folder / "copy"


def locally(base: Path) -> dict[str, bytes]:
    """The same run of the same folders, all parties in this process."""
    sites = sorted((base / "sites").iterdir())
    spec = JobSpec.load(base / "job.toml")
    outcome = Session.begin(spec, base, sites, world=seeded_world(SEED)).execute()
    return computed(outcome.folder)


@needs_server
@pytest.mark.parametrize(
    "kind",
    [
        "record",
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("file", marks=pytest.mark.slow),
    ],
)
def test_both_engines_compute_the_same(tmp_path, kind):
    if kind == "file":
        pytest.importorskip("torch")
    found, copy = over_nats(tmp_path / "nats", kind)
    expected = locally(copy)
    assert found.keys() == expected.keys()
    assert sum(name.endswith("aggregate.bin") for name in found) == 3
    assert [name for name in found if found[name] != expected[name]] == []


def test_no_shipped_command_or_variable_injects_entropy(tmp_path, monkeypatch):
    """Two starts with everything the same draw differently: nothing outside a process decides it."""
    seeded = {"--seed", "--entropy", "--random"}

    def options(parser: argparse.ArgumentParser) -> set[str]:
        found = {text for action in parser._actions for text in action.option_strings}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    # The seed of attacks is the attacker's own.
                    found |= options(inner) if name != "attack" else set()
        return found

    assert not options(cli._parser()) & seeded
    source = Path(cli.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text("utf-8")
        if "testing" not in path.relative_to(source).parts:
            assert "SeededEntropy" not in text, path
            assert "tacit.testing" not in text.replace("tacit.testing`", ""), path
    assert _drawn(tmp_path, monkeypatch) != _drawn(tmp_path, monkeypatch)


def _drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What a party of a shipped process draws first, whatever the environment says of seeds."""
    for name in ("SEED", "TACIT_SEED", "TACIT_ENTROPY", "TACIT_TESTING", "PYTHONHASHSEED"):
        monkeypatch.setenv(name, "1")
    world = World.real()
    sealed = world.sealing(LEADER).generate().public_key
    return world.entropy(LEADER).draw(32) + sealed
