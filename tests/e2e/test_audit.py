"""``tacit audit`` on a real run's folder and the coordinator's real state file."""

from __future__ import annotations

import json
import sqlite3

import pytest

from tacit.api import Job, train
from tacit.cli import main
from tacit.testing.federation import LEADER, write_small_federation


@pytest.fixture
def run(tmp_path):
    job = {"rounds": 4, "aggregation": {"min_cohort": 3, "audit_rounds": 2}}
    return train(Job.load(write_small_federation(tmp_path / "small", job=job)), quiet=True)


def audited(capsys, run, *options):
    code = main(["audit", str(run.folder), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def test_an_honest_run_adds_up(run, capsys):
    code, record = audited(capsys, run)
    assert code == 0
    assert record["passed"]
    assert [one["round"] for one in record["rounds"]] == [3, 4]
    assert main(["audit", str(run.folder)]) == 0
    assert "exact" in capsys.readouterr().out


def test_a_changed_store_is_found(run, capsys, tmp_path):
    path = tmp_path / "small" / LEADER / "state" / "tacit.db"
    with sqlite3.connect(path) as db:
        where = "space LIKE '%/kept' AND key = '4/client-north/0'"
        ((value,),) = db.execute(f"SELECT value FROM state WHERE {where}").fetchall()
        changed = bytes([value[0] ^ 1]) + value[1:]
        assert db.execute(f"UPDATE state SET value = ? WHERE {where}", (changed,)).rowcount == 1
    code, record = audited(capsys, run)
    assert code == 1
    assert [one["exact"] for one in record["rounds"]] == [True, False]
    assert record["rounds"][1]["culprits"][0]["party"] == LEADER


def test_what_is_forgotten_cannot_be_audited(run, capsys):
    code, record = audited(capsys, run, "--forget")
    assert (code, len(record["rounds"])) == (0, 2)
    code, record = audited(capsys, run)
    assert (code, record["code"]) == (1, "audit.nothing-kept")
    assert "audit_rounds" in record["remedy"]


def test_another_folder_is_refused(tmp_path, capsys):
    assert main(["audit", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == "run.folder"
