"""The coordinator against parties that drop out, lie, or speak too late."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tacit.errors import RoundAborted
from tacit.party.contribute import chunk_info
from tacit.testing.federation import (
    PLAIN,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName
from tacit.wire.envelope import Envelope, digest
from tacit.wire.messages import (
    Accept,
    Finish,
    HelperKey,
    KeyRequest,
    MaskRequest,
    MaskSum,
    Record,
    Refusal,
    RoundStart,
    Upload,
)

NORTH = PartyName("north")
OTHERS = tuple(name for name in SITES if name != NORTH)


@pytest.fixture
def small(tmp_path):
    write_small_federation(tmp_path / "small")
    return SmallFederation(tmp_path / "small")


def timeout(small, hold=None):
    return small.deliver(small.leader.tick(small.leader.deadline), hold=hold)


def sent_by(small, held):
    return {small.read(envelope).sender.party: envelope for envelope in held}


def events(small, kind):
    found = [e for _, e in small.leader.ports.log.events(small.terms.run_id)]
    return [event for event in found if f'"{kind}"'.encode() in event]


def settled(small):
    return all(site.budget.spent("everyone").reserved_epsilon == 0 for site in small.sites.values())


def test_a_round_closes_without_a_client_that_drops(small):
    uploads = sent_by(small, small.deliver(small.start(), hold=Upload))
    small.deliver([uploads[name] for name in OTHERS])
    assert small.leader.phase == "collecting"
    second = timeout(small, hold=RoundStart)
    assert small.leader.chain.completed == 1
    cohort = small.read(second[0]).body.previous.cohort
    assert {member.client for member in cohort} == set(OTHERS)
    small.deliver(second)
    assert small.leader.durable.number("complete") == 1


def test_too_small_a_cohort_fails_the_round(small):
    uploads = sent_by(small, small.deliver(small.start(), hold=Upload))
    small.deliver([uploads[name] for name in OTHERS[:2]])
    second = timeout(small, hold=RoundStart)
    assert {small.read(e).round for e in second} == {2}
    assert small.leader.chain.completed == 0
    assert len(events(small, "round.aborted")) == 1


def damage(envelope):
    first = envelope.chunks[0]
    chunks = (first[:-1] + bytes([first[-1] ^ 1]), *envelope.chunks[1:])
    return Envelope(envelope.receiver, envelope.message, chunks)


@pytest.mark.parametrize("chunks", [damage, lambda e: Envelope(e.receiver, e.message)])
def test_a_corrupt_upload_costs_its_client_the_round(small, chunks):
    uploads = sent_by(small, small.deliver(small.start(), hold=Upload))
    small.deliver([chunks(uploads[NORTH])])
    small.deliver([uploads[name] for name in OTHERS])
    assert small.leader.durable.number("complete") == 1
    assert len(events(small, "round.aborted")) == 0
    sizes = [len(json.loads(event)["uploads"]) for event in events(small, "cohort.fixed")]
    assert sizes == [3, 4, 4]
    assert small.leader.failure is None  # a recovered fault is no reason of failure


def test_a_helper_that_never_answers_costs_the_round_only(small):
    requests = small.until(MaskRequest)
    small.deliver([requests[name] for name in OTHERS])
    second = timeout(small, hold=RoundStart)
    assert {small.read(e).round for e in second} == {2}
    keys = small.read(second[0]).body.keys
    assert {small.read(Envelope(small.leader.address, raw)).round for raw in keys} == {2}
    small.deliver(second)
    assert small.leader.durable.number("complete") == 1
    assert small.leader.chain.completed == 2
    assert settled(small)


def test_three_failed_rounds_end_the_run(small):
    held = small.deliver(small.start(), hold=MaskSum)
    for number in (1, 2, 3):
        assert {small.read(e).round for e in held} == {number}
        held = timeout(small, hold=MaskSum)
    assert held == []
    assert small.leader.phase == "closed"
    assert isinstance(small.leader.failure, RoundAborted)
    assert small.leader.failure.code == "round.helper-timeout"
    assert small.leader.failure.remedy
    assert small.leader.durable.number("complete") == 0
    assert settled(small)


def test_a_run_whose_every_round_failed_says_so(tmp_path):
    write_small_federation(tmp_path / "small", job={**WITHOUT_NOISE, "rounds": 1})
    small = SmallFederation(tmp_path / "small")
    small.deliver(small.start(), hold=MaskSum)
    timeout(small)
    assert small.leader.phase == "closed"
    assert small.leader.durable.number("complete") == 0
    assert small.leader.failure.code == "run.no-result"


def test_a_helper_that_answers_for_another_cohort_is_named(small):
    answers = sent_by(small, small.deliver(small.start(), hold=MaskSum))
    lie = small.lie(answers[NORTH], cohort=bytes(32))
    second = small.deliver([lie], hold=RoundStart)
    assert small.leader.failure.code == "leader.cohort"
    assert small.leader.failure.details["party"] == NORTH
    assert {small.read(e).round for e in second} == {2}
    assert small.leader.chain.completed == 0


def test_a_damaged_mask_sum_costs_the_round(small):
    answers = sent_by(small, small.deliver(small.start(), hold=MaskSum))
    second = small.deliver([damage(answers[NORTH])], hold=RoundStart)
    assert {small.read(e).round for e in second} == {2}
    assert small.leader.failure.code == "wire.chunk-digest"


def test_late_messages_change_nothing(small):
    uploads = sent_by(small, small.deliver(small.start(), hold=Upload))
    early = small.deliver([uploads[name] for name in OTHERS])
    assert early == []
    answers = sent_by(small, timeout(small, hold=MaskSum))
    assert small.leader.phase == "unmasking"
    refusal = Refusal(code="late", culprit="")
    late = [
        uploads[NORTH],
        small.sites[NORTH].send(small.terms, small.leader.address, refusal, round_number=1),
        small.lie(uploads[OTHERS[0]], context=bytes(32)),
    ]
    assert small.deliver(late) == []
    assert small.leader.phase == "unmasking"
    small.deliver(answers.values())
    assert small.leader.durable.number("complete") == 1
    assert small.leader.chain.completed == 3
    digest_before = small.leader.model.digest
    late += [*answers.values(), *uploads.values()]
    late.append(
        small.helpers[NORTH].send(small.terms, small.leader.address, refusal, round_number=3)
    )
    assert small.deliver(late) == []
    assert (small.leader.phase, small.leader.model.digest) == ("closed", digest_before)


def test_a_refusal_while_the_logs_come_in_does_not_undo_the_end(small):
    records = small.deliver(small.start(), hold=Record)
    assert small.leader.phase == "recording"
    number = small.leader.durable.number("round")
    for refusing in (small.sites[NORTH], small.helpers[NORTH]):
        for round_number in (0, number):
            refusal = refusing.send(
                small.terms,
                small.leader.address,
                Refusal(code="no", culprit=""),
                round_number=round_number,
            )
            assert small.leader.receive(refusal, small.clock()) == []
    bad = damage(next(e for e in records if small.read(e).sender.party == NORTH))
    assert small.leader.receive(bad, small.clock()) == []
    small.deliver(records)
    assert small.leader.phase == "closed"
    assert small.leader.durable.number("complete") == 1


def test_the_run_ends_without_a_log_that_never_comes(small):
    records = sent_by(small, small.deliver(small.start(), hold=Record))
    small.deliver([records[name] for name in OTHERS])
    assert small.leader.phase == "recording"
    timeout(small)
    assert small.leader.phase == "closed"
    assert f"log-{NORTH}" not in small.leader.transcript.items()


def test_a_refusal_between_rounds_of_an_earlier_round_is_ignored(small):
    small.until(MaskRequest)
    late = small.sites[NORTH].send(
        small.terms, small.leader.address, Refusal(code="late", culprit=""), round_number=1
    )
    aborts = small.leader._fail_round("test", small.clock())
    assert small.leader.phase == "offered"
    assert small.leader.receive(late, small.clock()) == []
    small.deliver(aborts)
    assert small.leader.durable.number("complete") == 1


def test_a_refusing_client_drops_out_of_the_round(small):
    starts = small.until(RoundStart)
    refusal = small.sites[NORTH].send(
        small.terms, small.leader.address, Refusal(code="no", culprit=""), round_number=1
    )
    small.deliver([refusal, *(starts[name] for name in OTHERS)], hold=RoundStart)
    assert small.leader.chain.completed == 1


def test_a_key_far_beyond_the_run_is_ignored(small):
    small.until(MaskRequest)
    small.deliver(small.leader._fail_round("test", small.clock()), hold=HelperKey)
    key = HelperKey(b"k" * 32)
    far = small.helpers[NORTH].send(small.terms, small.leader.address, key, round_number=10**6)
    assert small.leader.receive(far, small.clock()) == []
    assert small.leader.durable.number("round") == 1


def test_no_answer_to_the_offer_ends_the_run(small):
    offers = [e for e in small.start() if e.receiver.party != NORTH]  # As client and helper.
    small.deliver(offers)
    assert small.leader.phase == "offered"
    timeout(small)
    assert small.leader.phase == "recording"  # of a party that knows nothing there is no log
    timeout(small)
    assert small.leader.phase == "closed"
    assert small.leader.failure.code == "run.no-answer"
    assert small.leader.failure.message.count(NORTH) == 1
    assert settled(small)


def test_a_changed_cohort_of_a_plain_run_fails_rounds_but_not_the_leader(tmp_path):
    write_small_federation(tmp_path / "small", job=PLAIN)
    small = SmallFederation(tmp_path / "small")
    second = small.until(RoundStart, 2)
    small.deliver([second[name] for name in OTHERS])
    timeout(small)
    assert small.leader.durable.number("complete") == 1
    assert small.leader.chain.completed == 2
    (lost,) = events(small, "round.aborted")
    assert (json.loads(lost)["round"], json.loads(lost)["code"]) == (2, "chain.cohort-changed")


# --- restarts --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("kind", [RoundStart, Upload, MaskRequest, MaskSum])
def test_everybody_restarts_in_the_middle(small, kind, number):
    held = small.deliver(small.start(), hold=kind)
    while small.read(held[0]).round < number:
        held = small.deliver(held, hold=kind)
    charged = {name: small.sites[name].budget.spent("everyone").epsilon for name in SITES}
    for name in (small.leader.address.party, *SITES):
        small.restart(name)
    small.deliver(small.leader.resume(small.clock()))
    while small.leader.phase != "closed":
        timeout(small)
    assert settled(small)
    for name in SITES:
        assert small.sites[name].budget.spent("everyone").epsilon >= charged[name]
    # A helper that had answered lost its next key too: that costs one round more.
    lost = 2 if kind is MaskSum and number < 3 else 1
    assert small.leader.chain.completed == 3 - lost
    assert small.leader.durable.number("complete") == 1


def test_resuming_a_closed_run_says_why_not(small):
    small.run()
    small.restart(small.leader.address.party)
    with pytest.raises(RoundAborted) as error:
        small.leader.resume(small.clock())
    assert (error.value.code, error.value.retryable) == ("run.closed", False)
    assert error.value.remedy


def test_resuming_a_run_that_never_began_says_why_not(small):
    small.start()
    small.restart(small.leader.address.party)
    small.deliver(small.leader.resume(small.clock()))
    assert small.leader.failure.code == "run.not-begun"
    small.leader.tick(small.leader.deadline)  # nobody had heard of the run
    assert small.leader.phase == "closed"


def test_a_run_that_never_began_releases_what_sites_reserved(small):
    small.deliver(small.start(), hold=Accept)
    assert small.sites[NORTH].budget.spent("everyone").reserved_epsilon > 0
    small.restart(small.leader.address.party)
    small.deliver(small.leader.resume(small.clock()))
    spent = small.sites[NORTH].budget.spent("everyone")
    assert (spent.epsilon, spent.reserved_epsilon) == (0, 0)


def test_a_client_whose_seeds_do_not_open_is_left_out_of_later_rounds(small):
    uploads = sent_by(small, small.deliver(small.start(), hold=Upload))
    upload = small.read(uploads[NORTH]).body
    seeds = tuple(
        dataclasses.replace(seed, sealed=seed.sealed[:-1] + bytes([seed.sealed[-1] ^ 1]))
        for seed in upload.seeds
    )
    old = uploads[NORTH]
    lie = small.lie(old, seeds=seeds)
    opener = small.leader._work.opener
    plain = [opener.open(c, chunk_info(digest(old.message), i)) for i, c in enumerate(old.chunks)]
    chunks = tuple(
        small.leader.ports.sealing.seal(c, opener.public_key, chunk_info(digest(lie.message), i))
        for i, c in enumerate(plain)
    )
    small.deliver([Envelope(lie.receiver, lie.message, chunks)])
    small.deliver([uploads[name] for name in OTHERS])
    assert small.leader.durable.number("complete") == 1
    sizes = [len(json.loads(event)["uploads"]) for event in events(small, "cohort.fixed")]
    assert sizes == [4, 3, 3]


def test_an_upload_for_another_context_excludes_its_client(small):
    uploads = sent_by(small, small.deliver(small.start(), hold=Upload))
    small.deliver([small.lie(uploads[NORTH], context=bytes(32))])
    assert small.leader.failure.details["party"] == NORTH
    small.deliver([uploads[name] for name in OTHERS])
    sizes = [len(json.loads(event)["uploads"]) for event in events(small, "cohort.fixed")]
    assert sizes == [3, 3, 3]


def test_an_answer_for_another_context_blames_its_helper(small):
    answers = sent_by(small, small.deliver(small.until(MaskRequest).values(), hold=MaskSum))
    small.leader.receive(small.lie(answers[NORTH], context=bytes(32)), small.clock())
    assert small.leader.failure.details["party"] == NORTH
    assert small.leader.chain.completed == 0


def test_a_restart_while_the_logs_come_in_ends_as_it_would_have(small):
    small.deliver(small.start(), hold=Record)
    small.restart(small.leader.address.party)
    finish = small.leader.resume(small.clock())
    assert {type(small.read(e).body) for e in finish} == {Finish}
    small.deliver(finish)
    assert small.leader.phase == "closed"
    assert small.leader.durable.number("complete") == 1


def test_a_restart_between_rounds_does_not_call_a_closed_round_aborted(small):
    small.until(RoundStart, 2)
    # Back to the moment after round 1's result was stored: round 2 had not been begun.
    small.restart(small.leader.address.party)
    store = small.stores[small.leader.address.party]
    with store.transaction():
        small.leader.durable.put_number("round", 1)
    sent = small.leader.resume(small.clock())
    assert {e.receiver.role for e in sent} == {"helper"}
    assert all(isinstance(small.read(e).body, KeyRequest) for e in sent)
    assert events(small, "round.aborted") == []
