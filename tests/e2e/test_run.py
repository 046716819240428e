"""Whole runs on disk: repeatable, resumable, interruptible."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

import tacit
from tacit.engine.budgets import read_budget
from tacit.engine.store import STATE, SqliteStore
from tacit.errors import ConfigError, RoundAborted
from tacit.party.job import JobSpec
from tacit.session import Session
from tacit.testing.clock import FixedClock
from tacit.testing.federation import (
    PLAIN,
    SITES,
    WITHOUT_NOISE,
    seeded_world,
    write_small_federation,
)
from tacit.wire.envelope import open_message


class Killed(BaseException):
    """The process dies here."""


def site_folders(base):
    return [base / "sites" / name for name in SITES]


def session(base, *, seed="first", out=None):
    job = JobSpec.load(base / "job.toml")
    return Session.begin(job, base, site_folders(base), out=out, world=seeded_world(seed))


def budgets(base):
    return {site.name: read_budget(site).populations[0].total for site in site_folders(base)}


def at_message(number, act):
    """A tap that acts when the given message is about to be delivered."""
    count = 0

    def tap(envelope):
        nonlocal count
        count += 1
        if count == number:
            act()
        return envelope

    return tap


def kill():
    raise Killed


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def verified(folder):
    report = tacit.verify(folder / "bundle.zip", folder / "trust.json")
    failed = [claim for claim in report.claims if claim.status.value == "FAIL"]
    assert failed == []
    return report


def settled_in_full(base):
    return {float(spent.epsilon) for spent in budgets(base).values() if spent.reserved_epsilon == 0}


# --- a run -----------------------------------------------------------------------------------


def test_train_on_disk(tmp_path):
    job = tacit.Job.load(write_small_federation(tmp_path / "small"))
    run = tacit.train(job, quiet=True)
    assert run.complete
    assert run.epsilon <= 0.5
    assert set(run.metrics) == {"accuracy", "auc", "loss"}
    assert [number for number, _ in run.history] == [0, 1, 2, 3]
    assert run.verify().exit_code == 0
    assert run.folder.parent == tmp_path / "small" / "runs"
    assert {path.name for path in run.folder.iterdir()} == {
        "bundle.zip",
        "model.safetensors",
        "result.json",
        "run.json",
        "trust.json",
    }
    result = json.loads((run.folder / "result.json").read_text())
    assert result["status"] == "complete"
    assert set(result["spent"]) == set(SITES)
    assert settled_in_full(tmp_path / "small") == {run.epsilon}
    released = safetensors.numpy.load_file(run.model)["theta"]
    assert np.isfinite(released).all()


def test_repr_html_is_a_small_safe_table(tmp_path):
    write_small_federation(tmp_path / "<b>", job=WITHOUT_NOISE)
    run = tacit.train(tacit.Job.load(tmp_path / "<b>" / "job.toml"), quiet=True)
    text = run._repr_html_()
    assert text.startswith("<table>")
    assert run.id[:12] in text
    assert "complete" in text
    assert "<b>" not in text  # escaped
    assert run.id[:12] in repr(run)


def test_a_run_inside_a_running_event_loop(tmp_path):
    path = write_small_federation(tmp_path / "small")

    async def notebook():
        return tacit.train(tacit.Job.load(path), quiet=True)

    assert asyncio.run(notebook()).complete


def test_a_plain_run(tmp_path):
    run = tacit.train(tacit.Job.load(write_small_federation(tmp_path / "s", job=PLAIN)), quiet=True)
    assert run.complete
    assert run.epsilon is None
    assert run.verify().exit_code == 0


def test_two_runs_with_the_same_entropy_are_identical(tmp_path):
    outcomes = []
    write_small_federation(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # with the same approvals of its policies
    for name in ("one", "two"):
        base = tmp_path / name
        outcomes.append(session(base, out=tmp_path / f"{name}-out").execute(clock=FixedClock()))
    first, second = outcomes
    assert first.run_id == second.run_id
    with zipfile.ZipFile(first.bundle) as one, zipfile.ZipFile(second.bundle) as two:
        assert one.namelist() == two.namelist()
        for name in one.namelist():  # aggregates, logs, messages, models: the first difference
            assert one.read(name) == two.read(name), name
    assert first.bundle.read_bytes() == second.bundle.read_bytes()
    assert first.model.read_bytes() == second.model.read_bytes()
    assert first.record() == second.record()
    write_small_federation(tmp_path / "three")
    third = session(tmp_path / "three", seed="other").execute(clock=FixedClock())
    assert third.model.read_bytes() != first.model.read_bytes()


# --- kill and resume -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [17, 22, 36, 40, 55, 76, 83])
def test_a_killed_run_is_resumed(tmp_path, number):
    base = tmp_path / "small"
    write_small_federation(base)
    begun = session(base)
    with pytest.raises(Killed):
        begun.execute(tap=at_message(number, kill), clock=FixedClock())
    folder = begun.folder
    del begun
    before = budgets(base)
    assert not (folder / "bundle.zip").exists()
    for spent in before.values():  # charged or reserved: nothing came free
        assert float(spent.epsilon + spent.reserved_epsilon) > 0.49
    outcome = Session.reopen(folder, seeded_world("again")).execute(clock=FixedClock())
    assert outcome.complete
    assert outcome.rounds >= 1
    for name, spent in budgets(base).items():
        assert spent.epsilon >= before[name].epsilon
        assert spent.reserved_epsilon == 0
    report = verified(folder)
    assert report.status == "complete"
    assert report.exit_code == 0


def test_a_run_killed_before_it_began_says_why_not(tmp_path):
    base = tmp_path / "small"
    write_small_federation(base)
    begun = session(base)
    with pytest.raises(Killed):
        begun.execute(tap=at_message(5, kill), clock=FixedClock())
    with pytest.raises(RoundAborted) as error:
        Session.reopen(begun.folder, seeded_world("again")).execute(clock=FixedClock())
    assert error.value.code == "run.not-begun"
    assert error.value.remedy


def test_resuming_a_closed_run_says_why_not(tmp_path):
    base = tmp_path / "small"
    write_small_federation(base)
    outcome = session(base).execute(clock=FixedClock())
    before = budgets(base)
    with pytest.raises(RoundAborted) as error:
        tacit.resume(outcome.folder, quiet=True)
    assert error.value.code == "run.closed"
    assert budgets(base) == before


def test_a_closed_run_whose_bundle_was_lost_gets_it_back(tmp_path):
    base = tmp_path / "small"
    write_small_federation(base)
    outcome = session(base).execute(clock=FixedClock())
    bundle = outcome.bundle.read_bytes()
    outcome.bundle.unlink()
    assert tacit.resume(outcome.folder, quiet=True).complete
    assert outcome.bundle.read_bytes() == bundle


def test_what_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError):
        tacit.resume(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ConfigError) as error:
        tacit.resume(tmp_path)
    assert error.value.code == "run.folder"


# --- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [19, 38, 62])
def test_an_interrupted_run_ends_in_order(tmp_path, number):
    base = tmp_path / "small"
    write_small_federation(base)
    begun = session(base)
    outcome = begun.execute(tap=at_message(number, interrupt), clock=FixedClock())
    assert not outcome.complete
    assert outcome.failure.code == "run.interrupted"
    for spent in budgets(base).values():
        assert spent.reserved_epsilon == 0
    report = verified(begun.folder)
    assert report.status == "partial"
    with pytest.raises(RoundAborted):
        Session.reopen(begun.folder, seeded_world("again")).execute(clock=FixedClock())


def test_an_interrupt_before_round_1_costs_nothing(tmp_path):
    base = tmp_path / "small"
    write_small_federation(base)
    begun = session(base)
    with pytest.raises(RoundAborted) as error:
        begun.execute(tap=at_message(6, interrupt), clock=FixedClock())
    assert error.value.code == "run.interrupted"
    for spent in budgets(base).values():
        assert (spent.epsilon, spent.reserved_epsilon) == (0, 0)
    assert not begun.folder.exists()


def test_an_interrupt_at_the_very_end_loses_nothing(tmp_path):
    base, twin, seen = tmp_path / "small", tmp_path / "twin", []
    for folder in (base, twin):
        write_small_federation(folder)
    session(twin).execute(tap=lambda one: seen.append(one) or one, clock=FixedClock())
    begun = session(base)  # from the same seed: message by message the same run
    outcome = begun.execute(tap=at_message(len(seen) - 3, interrupt), clock=FixedClock())
    assert outcome.complete
    assert verified(begun.folder).exit_code == 0


def test_ctrl_c_at_the_terminal(tmp_path):
    base = tmp_path / "small"
    write_small_federation(base, job={**WITHOUT_NOISE, "rounds": 100})
    command = [sys.executable, "-m", "tacit.cli", "run", str(base / "job.toml")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    line = process.stderr.readline()  # the first progress: the run is under way
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, line + rest
    assert "Traceback" not in rest
    (folder,) = (base / "runs").iterdir()
    report = verified(folder)
    assert report.status == "partial"
    assert json.loads((folder / "result.json").read_text())["failure"]["code"] == "run.interrupted"


# --- the end ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def last_messages(tmp_path_factory):
    """Numbers of the last message of each type in a run from the usual seed."""
    base = tmp_path_factory.mktemp("twin") / "small"
    write_small_federation(base)
    numbers, begun = {}, session(base)

    def tap(envelope):
        message = open_message(
            envelope.message, begun.coordinator.roster.authenticate, chunks=envelope.chunks
        )
        numbers["all"] = numbers.get("all", 0) + 1
        numbers[message.header.type] = numbers["all"]
        return envelope

    begun.execute(tap=tap, clock=FixedClock())
    return numbers


@pytest.mark.parametrize("kind", ["record", "witness-request", "witness-answer", "seal", "sealed"])
def test_a_run_killed_at_its_end_gets_whole_evidence(tmp_path, last_messages, kind):
    base = tmp_path / "small"
    write_small_federation(base)
    begun = session(base)
    with pytest.raises(Killed):
        begun.execute(tap=at_message(last_messages[kind], kill), clock=FixedClock())
    outcome = Session.reopen(begun.folder, seeded_world("again")).execute(clock=FixedClock())
    assert outcome.complete
    assert verified(begun.folder).exit_code == 0


def test_resuming_a_closed_run_leaves_no_trace(tmp_path):
    base = tmp_path / "small"
    write_small_federation(base)
    outcome = session(base).execute(clock=FixedClock())
    stores = [SqliteStore(folder / STATE) for folder in (base / "coordinator", *site_folders(base))]
    before = [store.get("ledger", "head") for store in stores]
    with pytest.raises(RoundAborted):
        tacit.resume(outcome.folder, quiet=True)
    assert [store.get("ledger", "head") for store in stores] == before
