"""Runs whose logs an independent witness cosigns: a real process, asked over HTTP."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.api import Job, Run, resume, train
from tacit.errors import ConfigError, LedgerError
from tacit.evidence.archive import unpack
from tacit.evidence.report import Status
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle
from tacit.session import Session
from tacit.testing.federation import SITES, write_small_federation
from tacit.testing.witness import Running

FILE = """\
version = 1

[[witness]]
name = "{name}"
url = "{url}"
key = "{key}"
"""


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    write_small_federation(tmp_path / "fed")
    return tmp_path / "fed"


@pytest.fixture
def witness(tmp_path: Path, federation: Path) -> Iterator[Running]:
    running = Running(tmp_path / "archive", federation / "federation.toml")
    (federation / "witnesses.toml").write_text(FILE.format(**running.who))
    yield running
    if running.process.poll() is None:
        running.end()


def run(federation: Path) -> Run:
    return train(Job.load(federation / "job.toml"), quiet=True)


def test_a_run_is_cosigned_and_its_trust_file_asks_for_it(
    federation: Path, witness: Running
) -> None:
    made = run(federation)
    trust = Trust.load(made.outcome.folder / "trust.json")
    assert trust.witnesses == {"archive": bytes.fromhex(witness.who["key"])}
    report = verify_bundle(made.evidence, trust)
    assert report.exit_code == 0
    assert "1 independent witness" in report.claim("witness").reason
    lines = unpack(made.evidence.read_bytes())["logs/north.checkpoint"].decode().splitlines()
    assert any(line.startswith("— archive ") for line in lines)
    assert made.outcome.unwitnessed == {}


def test_a_witness_that_is_away_costs_its_cosignature_only(
    federation: Path, witness: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    witness.end()
    made = run(federation)
    assert made.complete
    assert list(made.outcome.unwitnessed) == ["archive"]
    report = made.verify()
    assert (report.claim("witness").status, report.exit_code) == (Status.NOT_PROVEN, 2)


def test_a_run_says_which_party_did_not_cosign_what(federation: Path) -> None:
    run(federation)
    shutil.rmtree(federation / "coordinator" / "state")
    again = run(federation)
    assert again.complete
    assert set(again.outcome.unwitnessed) == {f"{name}/coordinator" for name in SITES}
    reason = again.outcome.unwitnessed["north/coordinator"]
    assert reason.startswith("north does not cosign the log of coordinator: witness.")
    assert again.verify().claim("witness").status is Status.FAIL


@pytest.mark.parametrize("party", ["coordinator", "sites/north"])
def test_a_restored_backup_is_refused_before_anything_is_sent(
    federation: Path, witness: Running, party: str
) -> None:
    run(federation)
    shutil.copytree(federation / party / "state", federation / "backup")
    run(federation)
    shutil.rmtree(federation / party / "state")
    shutil.copytree(federation / "backup", federation / party / "state")
    runs = sorted((federation / "runs").iterdir())
    with pytest.raises(LedgerError) as refused:
        run(federation)
    assert refused.value.code == "witness.rolled-back"
    assert refused.value.details["party"] == Path(party).name
    assert sorted((federation / "runs").iterdir()) == runs


def test_a_run_killed_while_it_is_sealed_is_sealed_all_the_same(
    federation: Path, witness: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What parties have signed is not witnessed anew: they would not sign another manifest."""
    sign = Session._seal

    def killed(*arguments: object, **options: object) -> None:
        sign(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Session, "_seal", killed)
        with pytest.raises(KeyboardInterrupt):
            run(federation)
    (folder,) = (federation / "runs").iterdir()
    time.sleep(1.1)  # A cosignature holds seconds.
    made = resume(folder, quiet=True)
    report = verify_bundle(made.evidence, Trust.load(folder / "trust.json"))
    assert report.exit_code == 0, [claim.reason for claim in report.claims]


def test_a_witness_may_not_be_called_like_a_log(federation: Path, witness: Running) -> None:
    text = FILE.format(**{**witness.who, "name": "small/north"})
    (federation / "witnesses.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        run(federation)
    assert refused.value.code == "witness.name"
