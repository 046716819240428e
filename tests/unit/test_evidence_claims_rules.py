"""Each single rule behind a claim, broken alone: the reason names it."""

from __future__ import annotations

from typing import Any

import pytest

from tacit.evidence import Report, Status, Trust, claims_rounds, layout, verify_bundle
from tacit.evidence.view import View
from tacit.ledger.note import add_signatures, sign_checkpoint
from tacit.testing.bundles import SITES, SyntheticRun, sealed
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Received, digest

EAST, NORTH = SITES[0], SITES[1]
OTHER = "00" * 32


def report(run: SyntheticRun, members: dict[str, bytes] | None = None) -> Report:
    data = sealed(run, run.evidence() if members is None else members)
    return verify_bundle(data, Trust.of(run.roster))


def fails(found: Report, claim: str, reason: str) -> None:
    assert found.claim(claim).status is Status.FAIL, str(found)
    assert reason in found.claim(claim).reason


def finish(run: SyntheticRun, first: int = 1) -> SyntheticRun:
    for number in range(first, run.rounds + 1):
        run.round(number)
    return run.close()


def test_the_leader_logs_its_offer() -> None:
    run = SyntheticRun(edit=lambda _, e: None if e["type"] == "leader.run.offered" else e)
    fails(report(run.play()), "same-job", "the leader logged no offer")


def test_a_policy_decides_before_its_site_takes_part() -> None:
    late: list[dict[str, Any]] = []

    def edit(party, event):
        if party == EAST and event["type"] == "client.policy.decided":
            late.append(event)
            return None
        return event

    run = SyntheticRun(edit=edit).begin()
    run.append(EAST, late[0])
    fails(report(finish(run)), "policy", f"{EAST} took part before its policy decided")


def test_one_upload_a_round() -> None:
    run = SyntheticRun().begin().round(1)
    policy = run.disclosures[EAST].policy_digest.hex()
    run.log(EAST, "client", "upload.sent", round=1, context=OTHER, upload=OTHER, policy=policy)
    fails(report(finish(run, 2)), "budget", f"{EAST} uploaded twice in round 1")


def test_a_settlement_covers_what_charges_say() -> None:
    def edit(party, event):
        charged = party == EAST and event["type"] == "client.budget.charged"
        return {**event, "epsilon": "9.5"} if charged else event

    fails(report(SyntheticRun(edit=edit).play()), "budget", "settled less than it had charged")


@pytest.mark.parametrize("number", [0, 4])
def test_a_charge_is_for_a_round_of_the_plan(number: int) -> None:
    run = SyntheticRun().begin()
    run.log(EAST, "client", "budget.charged", round=number)
    fails(report(finish(run)), "epsilon", "a round that the plan does not have")


def test_a_sum_is_no_larger_than_an_honest_one() -> None:
    run = SyntheticRun().play()
    members = run.evidence()
    members[layout.aggregate(2)] = b"\xff\xff\xff\x7f" * 3
    fails(report(run, members), "model-chain", "the sum of round 2 is too large to be honest")


class Apart(SyntheticRun):
    """Every upload names a context of its own."""

    def _upload(self, site: PartyName, number: int, context: Digest, model: Digest) -> Received:
        return super()._upload(site, number, digest(f"{site} {number}".encode()), model)


def test_plain_uploads_of_a_round_are_in_one_context() -> None:
    run = Apart(protocol="plain", unit="none").play()
    fails(report(run), "cohort", "the uploads of round 1 differ in context")


class Unmasked(SyntheticRun):
    """A site leaves one helper's mask out of its uploads."""

    def _upload(self, site: PartyName, number: int, context: Digest, model: Digest) -> Received:
        helpers = self.helpers
        self.helpers = helpers[:-1] if site == EAST else helpers
        try:
            return super()._upload(site, number, context, model)
        finally:
            self.helpers = helpers


def test_an_upload_is_masked_for_every_helper_present() -> None:
    fails(report(Unmasked().play()), "cohort", "is not masked for every helper present")


def patient(monkeypatch, losses: list[float]) -> None:
    """Runs that stop after one round without a better loss, and these losses in their sums."""
    left = iter(losses)
    monkeypatch.setattr(claims_rounds, "_held_out_loss", lambda *_: next(left))
    job = View.job.fget

    def patience(view: View):
        own = job(view)
        evaluation = own.evaluation.model_copy(update={"patience": 1})
        return own.model_copy(update={"evaluation": evaluation})

    monkeypatch.setattr(View, "job", property(patience))


def test_a_run_stops_when_its_losses_say_so(monkeypatch) -> None:
    run = SyntheticRun(rounds=4).play()
    patient(monkeypatch, [0.1, 0.2, 0.3, 0.4])
    fails(report(run), "model-chain", "the run went on although its held-out losses said to stop")


def test_a_run_does_not_stop_before_its_losses_say_so(monkeypatch) -> None:
    run = SyntheticRun().begin().round(1).round(2).close()
    patient(monkeypatch, [0.3, 0.2])
    fails(report(run), "model-chain", "the run stopped early although")


def foreign_note(run: SyntheticRun, party: PartyName) -> bytes:
    """A checkpoint of a log with another name, under a party's own key and key name."""
    head, origin = run.logs[party].head(), run.origin(party)
    return sign_checkpoint(
        f"{origin}-other", head.size, head.root, run.identities[party], name=origin
    )


def test_a_checkpoint_is_of_its_partys_log() -> None:
    run = SyntheticRun().play()
    note = foreign_note(run, EAST)
    lines = [run.cosignature(note, other) for other in run.logs if other != EAST]
    members = {**run.evidence(), layout.checkpoint(EAST): add_signatures(note, lines)}
    found = report(run, members)
    fails(found, "witness", f"the checkpoint of {EAST} is of another log")
    fails(found, "log-inclusion", "the checkpoint is of another log")


def test_what_a_witness_remembers_is_of_the_log_that_it_says() -> None:
    run = SyntheticRun().begin().round(1)
    note = foreign_note(run, NORTH).decode()
    run.log(EAST, "client", "log.witnessed", log=NORTH, note=note)
    fails(report(finish(run, 2)), "witness", "holds a checkpoint of another log than that of")
