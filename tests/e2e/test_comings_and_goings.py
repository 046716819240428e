"""Whole runs in which helpers and sites come and go; the evidence holds all the same."""

from __future__ import annotations

import json

import pytest

from tacit.evidence.verify import verify_bundle
from tacit.party.job import JobSpec
from tacit.session import Session
from tacit.testing.clock import FixedClock
from tacit.testing.federation import seeded_world, write_small_federation
from tacit.wire.envelope import open_message
from tacit.wire.messages import RoundStart

JOB = {"rounds": 5, "aggregation": {"min_cohort": 3, "min_helpers": 3}}
LIMITS = '\n[limits]\nrequire_own_helper = false\nresum = "always"\n'


@pytest.fixture
def begun(tmp_path):
    base = tmp_path / "small"
    write_small_federation(base, job=JOB)
    for site in sorted((base / "sites").iterdir()):
        path = site / "site.toml"
        path.write_text(path.read_text() + LIMITS)
    job = JobSpec.load(base / "job.toml")
    return Session.begin(
        job, base, sorted((base / "sites").iterdir()), world=seeded_world("comings")
    )


def losing(begun, lost):
    """A tap that loses what ``lost(receiver, round, body)`` says."""
    roster = begun.coordinator.roster

    def tap(envelope):
        message = open_message(envelope.message, roster.authenticate)
        return None if lost(envelope.receiver, message.round, message.body) else envelope

    return tap


def finished(begun, lost):
    outcome = begun.execute(tap=losing(begun, lost), clock=FixedClock())
    assert outcome.complete, outcome.failure
    return outcome, verify_bundle(outcome.bundle.read_bytes())


def test_a_helper_that_never_came(begun):
    outcome, report = finished(
        begun, lambda to, number, body: (to.party, to.role) == ("west", "helper")
    )
    assert outcome.rounds == 5
    assert "FAIL" not in {claim.status.value for claim in report.claims}, str(report)
    assert {c.id: c.status.value for c in report.claims}["cohort"] == "PASS", str(report)


def test_a_site_that_misses_rounds_and_follows_again(begun):
    def lost(to, number, body):
        return isinstance(body, RoundStart) and to.party == "north" and number in (2, 3)

    outcome, report = finished(begun, lost)
    assert outcome.rounds == 5
    statuses = {claim.id: claim.status.value for claim in report.claims}
    assert set(statuses.values()) <= {"PASS", "NOT PROVEN"}, str(report)
    for name in ("cohort", "one-sum-per-upload", "model-chain"):
        assert statuses[name] == "PASS", str(report)
    kinds = [event["type"] for event in events(begun, "north")]
    assert kinds.count("model.caught-up") == 1
    assert kinds.count("upload.sent") == 3


def events(begun, name):
    log = begun.sites[name].ports.log.events(begun.coordinator.terms.run_id)
    return [json.loads(event) for _, event in log]
