"""The command line: what it prints, what it leaves behind, and how it exits."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tacit import files
from tacit.party.job import JobSpec
from tacit.session import Session
from tacit.testing.commands import as_json, tacit
from tacit.testing.federation import SITES, WITHOUT_NOISE, write_small_federation


@pytest.fixture
def base(tmp_path, monkeypatch):
    folder = tmp_path / "small"
    write_small_federation(folder)
    monkeypatch.chdir(folder)
    return folder


def total(site):
    """What all runs on the only population of a site have spent."""
    (population,) = site["populations"]
    return population["epsilon"]


def spent(capsys):
    _, record = as_json(capsys, "budget")
    return {site["site"]: float(total(site)["spent"]) for site in record["sites"]}


def reserved(capsys):
    _, record = as_json(capsys, "budget")
    return {float(total(site)["reserved"]) for site in record["sites"]}


def test_the_life_of_a_job(base, capsys):
    code, out, _ = tacit(capsys, "check")
    assert code == 0
    assert "would take part" in out
    code, out, err = tacit(capsys, "run", "--out", "result")
    assert code == 0
    assert "round 3/3" in err  # plain lines where there is no terminal
    assert "tacit verify result/bundle.zip --trust result/trust.json" in out.replace("\n", "")
    code, out, _ = tacit(capsys, "verify", "result/bundle.zip", "--trust", "result/trust.json")
    assert code == 0
    assert "verified" in out
    code, out, _ = tacit(capsys, "budget", "show", "sites/north")
    assert code == 0
    assert "north" in out
    assert "settled" in out
    code, _, err = tacit(capsys, "run", "--resume", "result")
    assert code == 1
    assert "closed" in err


def test_json_is_one_object_everywhere(base, capsys):
    code, record = as_json(capsys, "check")
    assert (code, record["passed"], len(record["sites"])) == (0, True, 4)
    code, record = as_json(capsys, "run", "--out", "result")
    assert (code, record["status"], record["failure"]) == (0, "complete", None)
    assert record == json.loads(Path("result/result.json").read_text())
    code, record = as_json(capsys, "verify", "result/bundle.zip", "--trust", "result/trust.json")
    assert (code, record["exit_code"]) == (0, 0)
    code, record = as_json(capsys, "budget")
    assert (code, len(record["sites"])) == (0, 4)
    code, record = as_json(capsys, "run", "nowhere.toml")
    assert (code, record["error"], record["code"]) == (1, "ConfigError", "job.missing")
    assert record["remedy"]


def test_init_makes_an_example_that_passes_its_check(tmp_path, capsys, monkeypatch):
    code, record = as_json(capsys, "init", tmp_path / "example")
    assert code == 0
    assert Path(record["job"]) == tmp_path / "example" / "job.toml"
    code, _, err = tacit(capsys, "init", tmp_path / "example")
    assert code == 1
    assert "exists already" in err
    monkeypatch.chdir(tmp_path / "example")
    job = Path("job.toml")
    job.write_text(job.read_text().replace("rounds = 40", "rounds = 2"))
    assert tacit(capsys, "check")[0] == 0
    # The example's budget of 2.0 covers two runs of 0.9.
    for _ in range(2):
        assert tacit(capsys, "run")[0] == 0
    before = spent(capsys)
    code, _, err = tacit(capsys, "run")
    assert code == 1
    assert "budget.exhausted" in err
    assert "remedy" in err
    assert spent(capsys) == before
    assert reserved(capsys) == {0.0}
    assert len(list(Path("runs").iterdir())) == 2  # the refused run left no folder
    code, record = as_json(capsys, "check")
    assert (code, record["passed"]) == (1, False)
    assert {site["error"]["code"] for site in record["sites"]} == {"budget.exhausted"}


@pytest.mark.parametrize(
    "arguments", [(), ("fly",), ("run", "--fast"), ("verify",), ("run", "a", "b")]
)
def test_usage_errors_exit_with_64(capsys, arguments):
    code, _, err = tacit(capsys, *arguments)
    assert code == 64
    assert "usage" in err


def test_version_and_help_exit_with_0(capsys):
    for option in ("--version", "--help"):
        assert tacit(capsys, option)[0] == 0


def test_a_missing_trust_file_means_not_proven(base, capsys):
    tacit(capsys, "run", "--out", "result")
    code, out, _ = tacit(capsys, "verify", "result/bundle.zip")
    assert code == 0  # nothing is required without a trust file
    assert "NOT PROVEN" in out


def test_a_partial_bundle_lacks_what_trust_requires(base, capsys, monkeypatch):
    import signal

    from tacit.engine import local

    deliver, count = local.LocalEngine._deliver, iter(range(10**6))

    def interrupted(self, envelope):
        if next(count) == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return deliver(self, envelope)

    monkeypatch.setattr(local.LocalEngine, "_deliver", interrupted)
    code, record = as_json(capsys, "run", "--out", "result")
    assert code == 130
    assert (record["status"], record["failure"]["code"]) == ("partial", "run.interrupted")
    code, record = as_json(capsys, "verify", "result/bundle.zip", "--trust", "result/trust.json")
    assert code == 2
    assert not [c for c in record["claims"] if c["status"] == "FAIL"]


def test_an_interrupt_before_the_first_round_exits_with_130(base, capsys, monkeypatch):
    import signal

    from tacit.engine import local

    deliver, count = local.LocalEngine._deliver, iter(range(10**6))

    def interrupted(self, envelope):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return deliver(self, envelope)

    monkeypatch.setattr(local.LocalEngine, "_deliver", interrupted)
    code, _, err = tacit(capsys, "run")
    assert code == 130
    assert "run.interrupted" in err


def test_a_damaged_bundle_exits_with_1(base, capsys):
    tacit(capsys, "run", "--out", "result")
    bundle = Path("result/bundle.zip")
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    code, _, _ = tacit(capsys, "verify", bundle, "--trust", "result/trust.json")
    assert code == 1


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("name", ["bundle.zip", "model.safetensors", "result.json"])
def test_a_full_disk_loses_nothing(base, capsys, monkeypatch, name, call):
    """While a result is written: a typed error, no partial file, and it can be written later."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_to_full_disk(path, data, **options):
        with monkeypatch.context() as disk:
            if path.name == name:
                fail_writes(disk, call, full)
            return files_write(path, data, **options)

    files_write = files.write_atomic
    for module in ("tacit.lead", "tacit.evidence.bundle"):
        monkeypatch.setattr(f"{module}.write_atomic", write_to_full_disk)
    code, _, err = tacit(capsys, "run", "--out", "result")
    monkeypatch.undo()
    monkeypatch.chdir(base)
    assert code == 1
    assert "file.write" in err
    assert "remedy" in err
    assert name not in {path.name for path in Path("result").iterdir()}
    assert not list(Path("result").glob(".*"))
    before = spent(capsys)
    code, _, err = tacit(capsys, "run", "--resume", "result")
    assert code == 0, err
    assert spent(capsys) == before
    assert tacit(capsys, "verify", "result/bundle.zip", "--trust", "result/trust.json")[0] == 0


def fail_writes(disk, call, error):
    """Makes the operating system refuse, in ``tacit.files`` only."""
    if call == "fsync":

        def fsync(_handle):
            raise error

        disk.setattr(files.os, "fsync", fsync)
        return
    real = os.fdopen

    class Full:
        def __init__(self, handle, mode):
            self.file = real(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise error

    disk.setattr(files.os, "fdopen", Full)


def test_a_second_run_does_not_touch_the_first_ones_folder(base, capsys):
    assert tacit(capsys, "run", "--out", "result")[0] == 0
    before = {path: path.read_bytes() for path in Path("result").iterdir()}
    budget = spent(capsys)
    code, _, err = tacit(capsys, "run", "--out", "result")
    assert code == 1
    assert "result exists already" in err
    assert "remedy" in err
    assert {path: path.read_bytes() for path in Path("result").iterdir()} == before
    assert spent(capsys) == budget


def test_chosen_sites_only(tmp_path, capsys, monkeypatch):
    write_small_federation(tmp_path / "small", job=WITHOUT_NOISE)
    monkeypatch.chdir(tmp_path / "small")
    chosen = [f"sites/{name}" for name in SITES[:3]]
    code, record = as_json(capsys, "run", "--sites", *chosen, "--out", "result")
    assert code == 0
    assert set(record["spent"]) == set(SITES[:3])
    code, _, err = tacit(capsys, "run", "--sites", chosen[0], chosen[0])
    assert code == 1
    assert "two site folders" in err


class Killed(BaseException):
    """The process is gone."""


def test_a_reservation_whose_run_never_began_can_be_released(base, capsys):
    seen = 0

    def kill(envelope):
        nonlocal seen
        seen += 1
        if seen > 8:  # after the offers, before the first round
            raise Killed
        return envelope

    session = Session.begin(JobSpec.load(Path("job.toml")), Path(), sorted(Path("sites").iterdir()))
    with pytest.raises(Killed):
        session.execute(tap=kill)
    _, record = as_json(capsys, "budget")
    held = [site for site in record["sites"] if float(total(site)["reserved"]) > 0]
    assert held
    name = held[0]["site"]
    run = held[0]["runs"][0]["run"]
    code, out, err = tacit(capsys, "budget", "show", f"sites/{name}", "--release", run[:8])
    assert (code, err) == (0, "")
    assert "nothing left the site" in out
    _, record = as_json(capsys, "budget", "show", f"sites/{name}")
    assert float(total(record["sites"][0])["reserved"]) == 0
    code, _, err = tacit(capsys, "budget", "show", f"sites/{name}", "--release", run[:8])
    assert code == 1
    assert "only a run for which nothing has left" in err


@pytest.mark.parametrize("bad", ["bundle", "trust"])
def test_without_a_readable_file_there_is_no_verdict(tmp_path, capsys, bad):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.json").write_text("{}\n")
    for name in ("pipe", "missing", "", "text.json")[: 3 if bad == "bundle" else 4]:
        good, wrong = str(tmp_path / "text.json"), str(tmp_path / name)
        bundle, trust = (wrong, good) if bad == "bundle" else (good, wrong)
        arguments = (bundle,) if bad == "bundle" else (bundle, "--trust", trust)
        code, record = as_json(capsys, "verify", *arguments)
        assert (code, record["error"]) == (64, "ConfigError")
        assert record["remedy"]
