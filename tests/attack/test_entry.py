"""A run's evidence carries what attacks on exactly its job and code found before."""

from __future__ import annotations

import json
import os

import pytest

from tacit.api import Job, default_sites, prepare
from tacit.attack.entry import FOLDER, latest_entry
from tacit.evidence.archive import unpack
from tacit.evidence.dsse import open_envelope
from tacit.evidence.files import verify
from tacit.evidence.layout import statement
from tacit.testing.federation import write_small_federation
from tacit.types import Digest

ESTIMATE = {
    "value": 0.02,
    "low": 0.01,
    "high": 0.03,
    "null": 0.0,
    "ceiling": None,
    "trials": 20,
    "unit": "advantage",
    "how": "",
}


def report(job, code, **changes):
    cell = {
        "verdict": "leaks",
        "metric": "membership.advantage",
        "alarms": [],
        "estimate": ESTIMATE,
    }
    return {
        "kind": "tacit-attack-report",
        "format": 1,
        "version": "0",
        "digest": "ab",
        "job": {"name": "small", "digest": job.hex(), "code": code.hex()},
        "data": {"contract": "public", "records": 24},
        "site": None,
        "seed": 0,
        "profile": "quick",
        "status": "green",
        "whole": True,
        "rows": [{"row": "membership", "cells": {"tacit": cell}}],
        **changes,
    }


def write(base, name, content, at=0):
    path = base / FOLDER / name / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (at, at))
    return path


@pytest.fixture
def begun(tmp_path):
    job = Job.load(write_small_federation(tmp_path / "f"))
    session = prepare(job, default_sites(job.folder))
    manifest = session.coordinator.terms.manifest
    return session, Digest(manifest.job), Digest(manifest.code)


def test_the_statement_is_signed_and_verifies(begun):
    session, job, code = begun
    write(session.lead.base, "one", report(job, code))
    outcome = session.execute()
    members = unpack(outcome.bundle.read_bytes())
    found = open_envelope(members[statement("attack-report")]).statement("attack-report").predicate
    cell = found["cells"]["membership"]["tacit"]
    assert (cell["value"], cell["high"], cell["trials"]) == ("0.02", "0.03", "20")
    assert "ceiling" not in cell
    checked = verify(outcome.bundle, outcome.folder / "trust.json")
    assert checked.exit_code == 0
    (claim,) = [claim for claim in checked.claims if claim.id == "statements"]
    assert "attack-report is the word of" in claim.reason


def test_a_lower_bound_survives_in_the_statement(begun):
    session, job, code = begun
    text = json.dumps(report(job, code)).replace('"high": 0.03', '"high": "inf"')
    write(session.lead.base, "one", text)
    cell = latest_entry(session.lead.base, job, code)["cells"]["membership"]["tacit"]
    assert (cell["low"], cell["high"]) == ("0.01", "inf")


def test_without_a_report_there_is_no_statement(begun):
    outcome = begun[0].execute()
    assert statement("attack-report") not in unpack(outcome.bundle.read_bytes())


def test_the_newest_report_of_this_job_and_code_counts(begun):
    session, job, code = begun
    other = Digest(bytes(32))
    write(session.lead.base, "old", report(job, code, seed=7), at=1)
    write(session.lead.base, "wanted", report(job, code), at=2)
    write(session.lead.base, "another-job", report(other, code), at=3)
    write(session.lead.base, "other-code", report(job, other), at=4)
    write(session.lead.base, "later-format", report(job, code, format=2), at=5)
    write(session.lead.base, "damaged", "{", at=6)
    write(session.lead.base, "of-a-site", report(job, code, site="north"), at=8)
    write(session.lead.base, "a-part", report(job, code, whole=False), at=9)
    write(session.lead.base, "a-glance", report(job, code, profile="demo"), at=10)
    write(session.lead.base, "list", "[]", at=7)
    found = latest_entry(session.lead.base, job, code)
    assert (found["profile"], found["seed"]) == ("quick", "0")
    assert latest_entry(session.lead.base, other, other) is None


def test_a_report_that_comes_later_changes_no_manifest(begun):
    """What parties were asked to sign stays what it was, if the leader is asked again."""
    session, job, code = begun
    session.execute()
    write(session.lead.base, "late", report(job, code))
    assert statement("attack-report") not in session.lead.evidence().members


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"contract": "public", "records": 2**60}},
        {"data": {"contract": "public", "records": float("inf")}},
        {"version": "\ud800"},
        {"rows": [{"row": 7, "cells": {"tacit": 1}}]},
        {
            "rows": [
                {
                    "row": "m",
                    "cells": {
                        "t": {
                            "verdict": "",
                            "metric": "",
                            "estimate": None,
                            "alarms": ["x" * 300_000],
                        }
                    },
                }
            ]
        },
        {"profile": []},
    ],
)
def test_whatever_is_wrong_with_a_report_no_run_fails_because_of_it(begun, changes):
    session, job, code = begun
    write(session.lead.base, "odd", report(job, code, **changes))
    (session.lead.base / FOLDER / "gone").mkdir()
    (session.lead.base / FOLDER / "gone" / "report.json").symlink_to("nowhere")
    (session.lead.base / FOLDER / "folder" / "report.json").mkdir(parents=True)
    outcome = session.execute()
    assert statement("attack-report") not in unpack(outcome.bundle.read_bytes())
