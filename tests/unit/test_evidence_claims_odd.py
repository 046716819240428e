"""Bundles of a leader and one party with odd content: no claim passes on it, and the verifier stands."""

from __future__ import annotations

from typing import Any

import pytest

from tacit.errors import DecodeError
from tacit.evidence import Status, Trust, claims_rounds, layout, verify_bundle
from tacit.evidence.archive import pack
from tacit.evidence.bundle import BundleWriter
from tacit.evidence.disclosed import check_disclosure
from tacit.evidence.view import View
from tacit.party.base import log_head
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, reseal, sealed
from tacit.testing.disclosures import SiteDisclosure
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster
from tacit.types import PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import Address, Channel, digest, open_message, sign_message
from tacit.wire.messages import Upload, Vector

EAST, NORTH = SITES[0], SITES[1]
GUEST = PartyName("guest")


class Crowded(SyntheticRun):
    """A federation with a member that takes no part in the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.guest = Identity.generate(SeededEntropy("guest"))
        member = Member(GUEST, "guest-operator", "eu", ("client",), self.guest.public_key)
        self.roster = Roster("synthetic", (*self.roster.members, member))
        self.manifest = self._manifest()
        self.run = digest(encode(self.manifest))
        self.writer = BundleWriter(self.roster, self.run)

    def intrude(self, number: int) -> None:
        """The member uploads all the same, and the leader shows it."""
        channel = Channel(
            run=self.run,
            roster=self.roster.digest,
            job=self.job.digest,
            sender=Address(GUEST, "client"),
            signer=self.guest,
            log=log_head(self.logs[LEADER]),
        )
        body = Upload(digest(b"context"), (), Vector(0, ()))
        message = sign_message(channel, Address(LEADER, "leader"), body, round_number=number)
        self.writer.add_message(open_message(message.message, self.roster.authenticate))


@pytest.mark.parametrize("number", [2, 9])
def test_an_upload_of_a_member_who_is_not_in_the_run_fails(number: int) -> None:
    run = Crowded().play()
    assert verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster, quorum=3)).exit_code == 0
    run.intrude(number)
    report = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster, quorum=3))
    assert report.claim("same-job").status is Status.FAIL
    assert report.claim("cohort").status is not Status.PASS
    assert report.exit_code == 1


def test_an_upload_of_a_member_who_is_not_in_the_run_is_in_no_sum() -> None:
    def edit(_party, event):
        counted = event["type"] == "leader.cohort.fixed" and event["round"] == 2
        return {**event, "uploads": [*event["uploads"], shown[-1]]} if counted else event

    shown: list[str] = []
    run = Crowded(edit=edit).begin().round(1)
    run.intrude(2)
    shown.append(digest(run.evidence()[layout.upload(2, GUEST)]).hex())
    run.round(2).round(3).close()
    claim = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster, quorum=3)).claim(
        "cohort"
    )
    assert claim.status is Status.FAIL
    assert "round 2 holds a stranger's upload" in claim.reason


def test_a_sum_without_keys_says_nothing_of_held_out_losses(monkeypatch) -> None:
    """The noise in a loss follows from how many helpers were there."""
    run = SyntheticRun().play()
    gone = (layout.key, layout.upload)
    left_out = {name(2, site) for name in gone for site in SITES}
    members = {name: data for name, data in run.members().items() if name not in left_out}
    patient = View(members).job.evaluation.model_copy(update={"patience": 1})
    monkeypatch.setattr(
        View,
        "job",
        property(lambda view: view.terms.job.model_copy(update={"evaluation": patient})),
    )
    claim = claims_rounds.model_chain(View(members))
    assert claim.status is Status.NOT_PROVEN
    assert "keys of round 2" in claim.reason


@pytest.mark.parametrize("name", [["synthetic"], None, 1, {}])
def test_a_contract_has_a_name(name: Any) -> None:
    disclosed = SiteDisclosure.of(EAST, SeededEntropy("approver"), ("eu",))
    disclosed.record["contract"]["name"] = name
    with pytest.raises(DecodeError):
        check_disclosure(
            disclosed.canonical(), EAST, disclosed.policy_digest, disclosed.contract_digest
        )


@pytest.mark.parametrize("regions", ["eu", {"eu": 1}])
def test_regions_are_a_list(regions: Any) -> None:
    disclosed = SiteDisclosure.of(EAST, SeededEntropy("approver"), ("eu",))
    disclosed.record["contract"]["allowed_regions"] = regions
    parts = disclosed.record["lock"]["parts"]
    parts["contracts"]["synthetic"] = disclosed.contract_digest.hex()
    disclosed.approve()
    with pytest.raises(DecodeError):
        check_disclosure(
            disclosed.canonical(), EAST, disclosed.policy_digest, disclosed.contract_digest
        )


@pytest.mark.parametrize("unit", ["record", "none"])
@pytest.mark.parametrize("silent", [(1, 2, 3), (2,)])
def test_an_upload_that_its_client_did_not_log_has_no_receipt_before_it(unit, silent) -> None:
    def edit(party, event):
        unlogged = event["type"] == "client.upload.sent" and event["round"] in silent
        return None if party == EAST and unlogged else event

    run = SyntheticRun(unit=unit, edit=edit).play()
    report = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster))
    assert report.claim("receipts").status is Status.FAIL, str(report)


def test_approvers_of_the_leaders_making_approve_nothing() -> None:
    """The acceptance binds rules and contract, but only the manifest binds who approved them."""
    run = SyntheticRun().play()
    forged = run.disclosures[EAST].copy()
    forged.approver = Identity.generate(SeededEntropy("leader's own"))
    forged.record["approvers"] = {"officer": forged.approver.public_key.hex()}
    forged.approve()
    members = {**run.evidence(), layout.policy(EAST): forged.canonical()}
    others = tuple(name for name in run.identities if name != EAST)
    for signers in (others, (LEADER,)):
        report = verify_bundle(pack(reseal(run, members, signers=signers)), Trust.of(run.roster))
        assert report.claim("policy").status is Status.NOT_PROVEN, str(report)
        assert f"{EAST} did not sign the manifest" in report.claim("policy").reason
    assert verify_bundle(pack(run.members()), Trust.of(run.roster)).exit_code == 0


def test_residency_counts_what_left_in_a_round_without_a_sum() -> None:
    """The transcript shows nothing of such a round; the site's log does."""
    run = SyntheticRun(min_cohort=3)
    run.disclosures[EAST] = SiteDisclosure.of(EAST, SeededEntropy("approver"), ("elsewhere",))
    run.begin().round(1, members=SITES[1:]).round(2, closed=False).round(3, members=SITES[1:])
    run.close()
    given_up = [layout.upload(2, site) for site in SITES]
    members = {name: data for name, data in run.evidence().items() if name not in given_up}
    report = verify_bundle(sealed(run, members), Trust.of(run.roster))
    assert report.claim("residency").status is Status.FAIL, str(report)
    assert f"{EAST} is in eu" in report.claim("residency").reason


def test_a_client_that_sent_nothing_need_not_disclose_where_its_data_may_go() -> None:
    run = SyntheticRun(min_cohort=3, secret=(EAST,)).begin()
    for number in (1, 2, 3):
        run.round(number, members=SITES[1:])
    report = verify_bundle(sealed(run, run.close().evidence()), Trust.of(run.roster))
    assert report.claim("residency").status is Status.PASS, str(report)


def test_what_lacks_does_not_hide_what_is_wrong() -> None:
    """The leader logged a false model, and the log of one client is not there."""
    run = SyntheticRun(edit=lambda _, event: _with_a_false_model(event)).play()
    members = run.evidence()
    del members[layout.events(EAST)]
    claim = verify_bundle(sealed(run, members), Trust.of(run.roster)).claim("model-chain")
    assert claim.status is Status.FAIL
    assert "does not follow" in claim.reason


def _with_a_false_model(event: dict[str, Any]) -> dict[str, Any]:
    false = event["type"] == "leader.round.started" and event["round"] == 2
    return {**event, "model": "00" * 32} if false else event


def test_every_receipt_is_under_the_accepted_policy() -> None:
    run = SyntheticRun().begin().round(1)
    other = {"contract": "11" * 32, "policy": "22" * 32, "plan": "33" * 32, "schema": "44" * 32}
    run.log(EAST, "client", "receipt.issued", receipt="55" * 32, **other)
    run.round(2).round(3).close()
    claim = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster)).claim("receipts")
    assert claim.status is Status.FAIL


def test_no_crafted_bundle_keeps_the_verdict_back(monkeypatch) -> None:
    """Whatever slips out of a claim fails that claim, and the others are still decided."""

    def breaks(_view: View) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(claims_rounds, "cohort", breaks)
    run = SyntheticRun().play()
    report = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster))
    assert report.claim("cohort").status is Status.FAIL
    assert report.claim("model-chain").status is Status.PASS
