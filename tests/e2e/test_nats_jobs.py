"""Several jobs at once over real processes: each ends, each pays for itself, and none for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tacit.testing.federation import SITES
from tacit.testing.nats import server_binary
from tacit.testing.processes import ProcessFederation

needs_server = pytest.mark.skipif(
    server_binary() is None or not hasattr(os, "memfd_create"),
    reason="nats-server is not installed, or this is not Linux",
)
NAMES = SITES[:3]


def tacit(federation, *arguments):
    """What a command prints with ``--json``, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "tacit.cli", *arguments, "--json"],
        cwd=federation.base,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout), done.returncode


@needs_server
def test_jobs_at_once_have_budgets_of_their_own(tmp_path):
    with ProcessFederation(tmp_path, names=NAMES, seed="jobs") as federation:
        federation.start_server()
        federation.start()
        runs = [tacit(federation, "submit")[0]["run"] for _ in range(3)]
        assert len(set(runs)) == 3
        states = [federation.finish(run) for run in runs]
        # Sites have 1.2 to spend, and a run costs 0.5: the third is refused, and takes nothing along.
        ended = sorted(state["status"] for state in states)
        assert ended == ["complete", "complete", "failed"]
        refused = next(state for state in states if state["status"] == "failed")
        assert "budget" in refused["failure"]["code"]
        spans = [span(federation, run) for run in runs if run != refused["run"]]
        assert max(start for start, _ in spans) < min(end for _, end in spans), "not at once"
        federation.stop()
        budgets, code = tacit(federation, "budget", "show")
    assert code == 0
    assert [one["site"] for one in budgets["sites"]] == list(NAMES)
    for site in budgets["sites"]:
        charged = {one["run"]: (float(one["epsilon"]), one["open"]) for one in site["runs"]}
        assert charged.pop(refused["run"], (0.0, False)) == (0.0, False)
        assert set(charged) == set(runs) - {refused["run"]}
        assert all(0.0 < epsilon <= 0.5 and not still for epsilon, still in charged.values())
        (population,) = site["populations"]
        spent = float(population["epsilon"]["spent"])
        assert spent == pytest.approx(sum(epsilon for epsilon, _ in charged.values()))
        assert float(population["epsilon"]["reserved"]) == 0.0


def span(federation, run):
    """When the coordinator first and last told of a run."""
    times = [one["time"] for one in federation.events("coordinator") if one.get("run") == run]
    return min(times), max(times)
