"""On a site's real data attacks run only inside that site, and only if its policy names them."""

from __future__ import annotations

import json
import shutil
import stat
from functools import partial

import pytest

from tacit.attack.entry import latest_entry
from tacit.attack.scratch import model_for
from tacit.cli import main
from tacit.demo.layout import lock_site
from tacit.engine.inside import read_for_attack
from tacit.engine.operators import open_party
from tacit.errors import ConfigError, PolicyDenied
from tacit.party.job import JobSpec
from tacit.testing.federation import POLICY, write_small_federation
from tacit.types import Digest


def job_of(folder, name="small"):
    job = JobSpec.load(folder.parents[1] / "job.toml")
    return job.model_copy(update={"data": job.data.model_copy(update={"contract": name})})


def read(folder, name="small"):
    job = job_of(folder, name)
    return read_for_attack(folder, job, partial(model_for, job, folder.parents[1]))


PERMIT = """
@id("inside")
permit (principal == Party::"north", action == Action::"attack", resource == Dataset::"small")
when { context.purpose == "attack" };
"""


def site(tmp_path, policy=POLICY):
    write_small_federation(tmp_path / "federation", policy=policy, records=90)
    return tmp_path / "federation" / "sites" / "north"


def test_nothing_is_read_without_a_permit_that_names_the_action(tmp_path, monkeypatch):
    monkeypatch.setattr("tacit.engine.folder.read", lambda *_: pytest.fail("data were read"))
    for number, policy in enumerate((POLICY, POLICY + "permit(principal, action, resource);")):
        with pytest.raises(PolicyDenied) as caught:
            read(site(tmp_path / str(number), policy))
        assert caught.value.code == "policy.denied"


def test_the_log_says_so_before_the_data_are_read(tmp_path):
    folder = site(tmp_path, POLICY + PERMIT)
    contract, batch = read(folder)
    assert (contract.name, len(batch)) == ("small", 90)
    (event,) = (json.loads(data) for _, data in open_party(folder).ports.log.events())
    assert event["type"] == "operator.attack-begun"
    assert event["contract"] == contract.digest.hex()
    assert event["job"] == job_of(folder).digest.hex()
    assert len(event["code"]) == 64


def test_an_unapproved_policy_and_an_unknown_data_set_are_refused(tmp_path):
    folder = site(tmp_path, POLICY + PERMIT)
    with pytest.raises(ConfigError, match="no contract named 'other'"):
        read(folder, "other")
    (folder / "policies" / "more.cedar").write_text("permit(principal, action, resource);")
    with pytest.raises(ConfigError):
        read(folder)
    lock_site(folder)
    assert len(read(folder)[1]) == 90


def attack(folder, *more):
    return main(["attack", "job.toml", "--site", str(folder), "--only", "metadata", *more])


@pytest.fixture
def permitted(tmp_path, monkeypatch):
    folder = site(tmp_path, POLICY + PERMIT)
    monkeypatch.chdir(folder.parents[1])
    return folder


def test_results_stay_in_the_site_and_out_of_evidence(permitted, capsys):
    assert attack(permitted, "--profile", "demo", "--column", "tacit", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    (report,) = permitted.glob("attacks/*/report.json")
    found = json.loads(report.read_text())
    assert not {"rows", "attacks"} & shown.keys()
    assert found["site"] == shown["site"] == "north"
    files = [path for path in report.parent.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert found["data"] == {"contract": "small", "records": 90}
    assert stat.S_IMODE(report.parent.stat().st_mode) == 0o700
    assert "records of site 'north', inside it" in report.with_name(
        "privacy.html"
    ).read_text().replace("&#39;", "'")
    federation = permitted.parents[1]
    assert not (federation / "attacks").exists()
    shutil.copytree(report.parents[1], federation / "attacks")
    job, code = (bytes.fromhex(found["job"][key]) for key in ("digest", "code"))
    assert latest_entry(federation, Digest(job), Digest(code)) is None


def test_results_cannot_be_sent_elsewhere(permitted, tmp_path, capsys):
    assert attack(permitted, "--out", str(tmp_path / "elsewhere")) == 1
    assert "attack.outside" in capsys.readouterr().err
    assert attack(permitted, "--out", str(permitted)) == 1
    (permitted / "attacks").symlink_to(tmp_path)
    assert attack(permitted) == 1
    assert "attack.outside" in capsys.readouterr().err
    (permitted / "attacks").unlink()
    assert attack(permitted, "--data", "evaluation/contract.toml") == 1
    assert not (tmp_path / "elsewhere").exists()


def test_the_command_is_refused_without_a_permit(tmp_path, monkeypatch, capsys):
    folder = site(tmp_path)
    monkeypatch.chdir(folder.parents[1])
    assert attack(folder) == 1
    assert "policy.denied" in capsys.readouterr().err
    assert list((folder / "attacks").iterdir()) == []
