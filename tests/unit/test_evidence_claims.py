"""Parties that lie with their own keys: each lie fails the claim that it breaks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tacit.evidence import Report, Status, Trust, layout, verify_bundle
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, sealed
from tacit.wire.envelope import digest

EAST, NORTH = SITES[0], SITES[1]


def verify(run: SyntheticRun, members: dict[str, bytes] | None = None) -> Report:
    """As the leader would present it: manifest signed anew."""
    data = sealed(run, run.evidence() if members is None else members)
    return verify_bundle(data, Trust.of(run.roster))


def failed(report: Report) -> set[str]:
    return {claim.id for claim in report.claims if claim.status is Status.FAIL}


def dropping(kind: str, party: str = EAST) -> Callable:
    """A party that never logs events of this kind."""
    return lambda who, event: None if who == party and event["type"].endswith(kind) else event


def changing(kind: str, party: str = EAST, **fields) -> Callable:
    """A party that logs something else."""
    return lambda who, event: (
        {**event, **fields} if who == party and event["type"].endswith(kind) else event
    )


@pytest.fixture(scope="module")
def honest() -> SyntheticRun:
    return SyntheticRun().play()


OTHER = "00" * 32


@pytest.mark.parametrize(
    ("edit", "claim"),
    [
        (dropping("client.policy.decided"), "policy"),
        (changing("client.policy.decided", allowed=False), "policy"),
        (changing("client.policy.decided", policy=OTHER), "policy"),
        (changing("client.policy.decided", contract=OTHER), "policy"),
        (changing("client.upload.sent", policy=OTHER), "policy"),
        (changing("client.receipt.issued", policy=OTHER), "receipts"),
        (changing("client.policy.decided", epsilon_milli="1"), "policy"),
        (changing("client.policy.decided", epsilon_milli=str(2**63 - 1)), "policy"),
        (changing("client.offer.accepted", accept=OTHER), "policy"),
        (dropping("client.offer.accepted"), "policy"),
        (changing("client.budget.reserved", epsilon="0.1"), "budget"),
        (changing("client.budget.reserved", epsilon="Infinity"), "budget"),
        (changing("client.run.settled", epsilon="Infinity"), "epsilon"),
        (changing("client.model.checked", aggregate_round=7), "model-chain"),
        (changing("client.run.closed", model=OTHER), "model-chain"),
        (dropping("client.receipt.issued"), "receipts"),
        (changing("client.receipt.issued", contract=OTHER), "receipts"),
        (changing("client.receipt.issued", schema=OTHER), "receipts"),
        (changing("client.budget.reserved", head=OTHER), "budget"),
        (changing("client.budget.reserved", count=2), "budget"),
        (changing("client.budget.head", head=OTHER), "budget"),
        (changing("client.budget.head", count=2), "budget"),
        (changing("client.budget.head", count="1"), "budget"),
        (changing("leader.budget.head", LEADER, head=OTHER), "budget"),
        (changing("leader.budget.head", LEADER, head=""), "budget"),
        (dropping("client.budget.charged"), "budget"),
        (dropping("client.budget.reserved"), "budget"),
        (dropping("client.run.settled"), "budget"),
        (changing("client.run.settled", rounds=2), "budget"),
        (dropping("client.upload.sent"), "budget"),
        (changing("client.upload.sent", upload=OTHER), "budget"),
        (changing("client.run.settled", epsilon="0.1"), "epsilon"),
        (changing("client.budget.charged", epsilon="0.1"), "epsilon"),
        (dropping("helper.mask-sum.answered"), "one-sum-per-upload"),
        (changing("helper.mask-sum.answered", answer=OTHER), "one-sum-per-upload"),
        (changing("client.model.checked", model=OTHER), "model-chain"),
        (changing("leader.round.started", LEADER, model=OTHER), "model-chain"),
        (changing("leader.model.released", LEADER, model=OTHER), "model-chain"),
        (changing("leader.aggregate.computed", LEADER, sum=OTHER), "model-chain"),
        (changing("leader.aggregate.computed", LEADER, cohort=OTHER), "cohort"),
        (changing("client.offer.received", job=OTHER), "same-job"),
        (changing("client.offer.received", code=OTHER), "same-job"),
        (changing("client.offer.received", leader=NORTH), "same-job"),
        (dropping("client.offer.received"), "same-job"),
        (changing("leader.run.offered", LEADER, plan=OTHER), "same-job"),
        (dropping("client.run.closed"), "log-inclusion"),
    ],
)
def test_a_lie_in_a_log_fails_its_claim(edit, claim: str) -> None:
    report = verify(SyntheticRun(edit=edit).play())
    assert claim in failed(report), str(report)
    assert report.exit_code == 1


def test_an_honest_run_fails_nothing(honest) -> None:
    assert failed(verify(honest)) == set()


def test_every_budget_is_countersigned(honest) -> None:
    reason = verify(honest).claim("budget").reason
    assert "head of every budget is countersigned by at least 4 others" in reason


@pytest.mark.parametrize(
    ("kind", "party", "reason"),
    [
        (
            "client.budget.head",
            EAST,
            f"{EAST} uploaded and logged no head of the budget of {NORTH}",
        ),
        ("leader.budget.head", LEADER, ""),
    ],
)
def test_a_head_that_an_uploader_did_not_log_is_not_proven(kind, party, reason) -> None:
    claim = verify(SyntheticRun(edit=dropping(kind, party)).play()).claim("budget")
    assert claim.status is (Status.NOT_PROVEN if reason else Status.PASS)
    assert (reason or "countersigned by at least 3 others") in claim.reason


def test_a_head_that_nobody_logged_is_not_proven() -> None:
    def edit(who, event):
        of_east = event["type"].endswith("budget.head") and event["site"] == EAST
        return None if of_east else event

    run = SyntheticRun(edit=edit).begin().close(complete=False)
    report = verify_bundle(sealed(run, run.evidence(), complete=False), Trust.of(run.roster))
    assert report.claim("budget").status is Status.NOT_PROVEN
    assert f"nobody logged a head of the budget of {EAST}" in report.claim("budget").reason


def test_without_privacy_a_disagreement_about_a_budget_fails_too() -> None:
    edit = changing("leader.budget.head", LEADER, head=OTHER)
    assert failed(verify(SyntheticRun(unit="none", edit=edit).play())) == {"budget"}


def test_a_stopped_run_settles_the_whole_plan() -> None:
    """The leader chose when to stop, after it had seen sums."""
    plan = SyntheticRun().plan
    for epsilon, fails in ((plan.epsilon(1), {"epsilon"}), (plan.epsilon(), set())):
        run = SyntheticRun(edit=changing("client.run.settled", epsilon=repr(epsilon)))
        run.begin().round(1).close(rounds=1, complete=False)
        data = sealed(run, run.evidence(), complete=False)
        assert failed(verify_bundle(data, Trust.of(run.roster))) == fails


@pytest.mark.parametrize(
    ("kind", "claim"), [("client.run.settled", "epsilon"), ("client.budget.reserved", "budget")]
)
@pytest.mark.parametrize(
    ("short", "status"),
    [(1e-12, Status.PASS), (1e-7, Status.NOT_PROVEN), (1e-5, Status.FAIL)],
)
def test_accountant_versions_differ_in_the_last_digits_only(kind, claim, short, status) -> None:
    epsilon = repr(SyntheticRun().plan.epsilon() * (1 - short))
    report = verify(SyntheticRun(edit=changing(kind, epsilon=epsilon)).play())
    assert report.claim(claim).status is status, str(report)
    assert ("accountant versions differ" in report.claim(claim).reason) == (short == 1e-7)


def test_a_dropped_event_fails_log_inclusion(honest) -> None:
    name = layout.events(EAST)
    lines = honest.evidence()[name].splitlines(keepends=True)
    for dropped in range(len(lines)):
        forged = b"".join(lines[:dropped] + lines[dropped + 1 :])
        report = verify(honest, {**honest.evidence(), name: forged})
        assert failed(report) == {"log-inclusion"}, str(report)


def test_swapped_logs_fail(honest) -> None:
    members = honest.evidence()
    for name in (layout.events, layout.proof, layout.checkpoint):
        members[name(EAST)], members[name(NORTH)] = members[name(NORTH)], members[name(EAST)]
    assert failed(verify(honest, members)) == {"authenticity", "log-inclusion", "witness"}


def test_events_of_one_party_under_the_checkpoint_of_another_fail(honest) -> None:
    members = honest.evidence()
    members[layout.events(EAST)] = members[layout.events(NORTH)]
    assert failed(verify(honest, members)) == {"log-inclusion"}


def test_a_log_of_a_stranger_fails(honest) -> None:
    members = {**honest.evidence(), "logs/stranger.jsonl": b""}
    assert failed(verify(honest, members)) == {"log-inclusion"}


def test_a_cohort_below_the_minimum_fails() -> None:
    run = SyntheticRun().begin().round(1).round(2, members=SITES[:3]).round(3).close()
    assert failed(verify(run)) == {"cohort"}


def test_a_helper_that_answered_for_another_cohort_fails() -> None:
    run = SyntheticRun(min_cohort=3).begin().round(1, answers={EAST: SITES[:3]})
    assert failed(verify(run.round(2).round(3).close())) == {"cohort"}


def test_a_second_answer_fails() -> None:
    run = SyntheticRun().begin().round(1).round(2)
    view = run.evidence()
    assert layout.mask_sum(2, EAST) in view
    upload = run.sign(EAST, "client", _upload_body(run), 2)
    run.answer(EAST, 2, digest(b"context"), [upload], shown=False)
    assert failed(verify(run.round(3).close())) == {"one-sum-per-upload"}


def _upload_body(run: SyntheticRun):
    from tacit.wire.messages import Upload, Vector

    return Upload(digest(b"context"), (), Vector(0, ()))


def test_an_upload_in_two_sums_fails() -> None:
    cohorts: list[list[str]] = []

    def edit(party, event):
        if event["type"] == "leader.cohort.fixed":
            cohorts.append(event["uploads"])
            if len(cohorts) == 2:
                return {**event, "uploads": [cohorts[0][0], *event["uploads"][1:]]}
        return event

    assert "one-sum-per-upload" in failed(verify(SyntheticRun(edit=edit).play()))


def test_an_upload_for_another_model_fails() -> None:
    run = SyntheticRun().begin().round(1).round(2, model=digest(b"crafted")).round(3).close()
    assert failed(verify(run)) == {"cohort", "model-chain"}


def test_another_released_model_fails() -> None:
    run = SyntheticRun().begin().round(1).round(2).round(3)
    run.close(released=np.array([0.0, 0.0, 1.0]))
    assert failed(verify(run)) == {"model-chain"}


@pytest.mark.parametrize("name", [layout.INITIAL, layout.aggregate(2), layout.FINAL])
def test_a_changed_model_file_fails_the_chain_even_if_signed(honest, name: str) -> None:
    content = bytearray(honest.evidence()[name])
    content[-8] ^= 1
    report = verify(honest, {**honest.evidence(), name: bytes(content)})
    assert failed(report) == {"model-chain"}, str(report)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64])
def test_a_malformed_model_file_fails_the_chain(honest, content: bytes) -> None:
    for name in (layout.INITIAL, layout.aggregate(1), layout.FINAL):
        report = verify(honest, {**honest.evidence(), name: content})
        assert "model-chain" in failed(report), name


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        (layout.key(2, EAST), "cohort"),
        (layout.mask_sum(2, EAST), "cohort"),
        (layout.upload(2, EAST), "cohort"),
        (layout.accept(EAST), "policy"),
        (layout.OFFER, "same-job"),
        (layout.INITIAL, "model-chain"),
        (layout.FINAL, "model-chain"),
    ],
)
def test_what_is_left_out_is_not_proven(honest, name: str, claim: str) -> None:
    members = {other: data for other, data in honest.evidence().items() if other != name}
    report = verify(honest, members)
    assert report.claim(claim).status is Status.NOT_PROVEN, str(report)
    assert report.exit_code == 2


def test_a_message_in_another_place_fails(honest) -> None:
    members = honest.evidence()
    members[layout.upload(3, EAST)] = members[layout.upload(2, EAST)]
    assert "same-job" in failed(verify(honest, members))


def test_a_message_of_another_run_fails(honest) -> None:
    other = SyntheticRun(min_cohort=3).begin().round(1)
    members = honest.evidence()
    members[layout.upload(1, EAST)] = other.evidence()[layout.upload(1, EAST)]
    assert "same-job" in failed(verify(honest, members))


def test_another_job_file_fails(honest) -> None:
    members = {**honest.evidence(), layout.JOB: b"{}"}
    assert failed(verify(honest, members)) == {"same-job"}
