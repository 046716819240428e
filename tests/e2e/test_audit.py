"""``tacit audit`` on a real run's folder and the coordinator's real state file."""

from __future__ import annotations

import dataclasses
import json
import sqlite3

import pytest

from tacit.api import Job, train
from tacit.cli import main
from tacit.testing.federation import LEADER, write_small_federation
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import Address, Channel, open_message, sign_message, split_chunks
from tacit.wire.messages import Aggregate


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


def test_a_helper_that_signed_two_answers_is_named(run, capsys, tmp_path):
    """Helper and leader agree on another answer; the helper's own log tells of the first."""
    base = tmp_path / "small"
    roster = Roster.load(base / "federation.toml")
    identity = Identity.load(base / "sites" / "north" / "keys" / "identity.key")
    with sqlite3.connect(base / LEADER / "state" / "tacit.db") as db:

        def read(key):
            ((space, value),) = db.execute(
                "SELECT space, value FROM state WHERE key = ? AND space LIKE 'leader/%'", (key,)
            ).fetchall()
            return space, value

        def write(key, value):
            space, _ = read(key)
            db.execute(
                "UPDATE state SET value = ? WHERE space = ? AND key = ?", (value, space, key)
            )

        _, raw = read("4/helper-north")
        honest = open_message(raw, roster.authenticate)
        _, stored = read("aggregate/4")
        aggregate = decode(Aggregate, stored, len(stored))
        vector, chunks = split_chunks(bytes(len(read("4/helper-north/0")[1])), 3)
        header = honest.header
        channel = Channel(
            run=header.run,
            roster=header.roster,
            job=header.job,
            sender=honest.sender,
            signer=identity,
            log=header.log,
        )
        body = dataclasses.replace(honest.body, vector=vector)
        leader = Address(LEADER, "leader")
        forged = sign_message(channel, leader, body, round_number=4)
        answers = tuple(forged.message if one == raw else one for one in aggregate.answers)
        write("4/helper-north", forged.message)
        write("4/helper-north/0", chunks[0])
        write("aggregate/4", encode(dataclasses.replace(aggregate, answers=answers)))
    code, record = audited(capsys, run)
    assert code == 1
    assert "north" in [one["party"] for one in record["rounds"][1]["culprits"]]
    assert record["rounds"][0]["culprits"] == []
