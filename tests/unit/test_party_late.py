"""Late joiners: a site that missed an aggregate follows again, and only on the cohort's word."""

from __future__ import annotations

import dataclasses

import pytest

from tacit.learn.server import ServerState
from tacit.testing.federation import (
    PLAIN,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName
from tacit.wire.envelope import split_chunks
from tacit.wire.messages import CatchUp, CatchUpRequest, RoundStart, Upload

NORTH = PartyName("north")
DP = {"privacy": {"sampling_rate": 1.0}}


@pytest.fixture(params=["masked", "plain"])
def small(tmp_path, request):
    job = PLAIN if request.param == "plain" else DP
    write_small_federation(tmp_path / "small", job={**job, "rounds": 4})
    return SmallFederation(tmp_path / "small")


def starts(small, envelopes):
    """Delivers everything but the starts of rounds, which come back."""
    held = [e for e in envelopes if isinstance(small.read(e).body, RoundStart)]
    return held + small.deliver([e for e in envelopes if e not in held], hold=RoundStart)


def behind(small, name=NORTH):
    """Runs two rounds of which ``name`` hears nothing; the third one's starts, by receiver."""
    held = small.deliver(small.start(), hold=RoundStart)
    for _ in range(2):
        others = [e for e in held if e.receiver.party != name]
        small.deliver(others)
        held = starts(small, small.leader.tick(small.leader.deadline))
        assert small.leader.phase == "collecting"
    return {e.receiver.party: e for e in held}


def ask(small, start):
    (request,) = small.sites[NORTH].receive(start, small.clock())
    assert small.read(request).body == CatchUpRequest(applied=0)
    return request


def caught_up(small):
    """What north asks for and gets: the proof, and the start of the round again."""
    start = behind(small)[NORTH]
    proof, again = small.leader.receive(ask(small, start), small.clock())
    assert again.message == start.message  # byte for byte: no second start of one round
    return proof, again


def refused(small, envelope, code):
    made = small.sites[NORTH].receive(envelope, small.clock())
    assert [small.read(one).body.code for one in made] == [code]
    assert small.sites[NORTH].state(small.terms.run_id).get("model") is None


def test_a_late_joiner_follows_again(small):
    proof, again = caught_up(small)
    assert small.sites[NORTH].receive(proof, small.clock()) == []
    held = small.deliver([again], hold=Upload)
    assert [small.read(e).round for e in held] == [3]
    chain = small.sites[NORTH]._runs[small.terms.run_id].chain
    assert chain.current.digest == small.leader.model.digest
    assert chain.completed == 2


@pytest.mark.parametrize("small", ["masked"], indirect=True)
def test_a_late_joiner_is_in_the_sum_in_the_end(small):
    small.deliver(behind(small).values())
    while small.leader.phase != "closed":
        small.deliver(small.leader.tick(small.leader.deadline))
    assert small.leader.durable.number("complete") == 1
    aggregate, _ = small.leader.transcript.last_aggregate()
    assert [member.client for member in aggregate.cohort] == list(SITES)
    models = {site._live(small.terms).chain.current.digest for site in small.sites.values()}
    assert models == {small.leader.model.digest}


def test_a_state_that_the_cohort_did_not_train_on_is_refused(small):
    proof, again = caught_up(small)
    body = small.read(proof).body
    parts = len(body.state.digests)
    state = ServerState.from_bytes(b"".join(proof.chunks[:parts]))
    crafted = dataclasses.replace(state, theta=state.theta + 1.0).to_bytes()
    vector, chunks = split_chunks(crafted, len(crafted))
    lie = small.lie(proof, (*chunks, *proof.chunks[parts:]), state=vector)
    refused(small, lie, "chain.proof")
    refused(small, again, "chain.behind")


def test_a_proof_needs_every_upload_of_the_cohort(small):
    proof, _ = caught_up(small)
    body: CatchUp = small.read(proof).body
    refused(small, small.lie(proof, uploads=body.uploads[1:]), "chain.proof")
    refused(small, small.lie(proof, uploads=(body.uploads[1], *body.uploads[1:])), "chain.proof")
    fewer = dataclasses.replace(body.aggregate, cohort=body.aggregate.cohort[1:])
    code = "chain.cohort-too-small"
    refused(small, small.lie(proof, uploads=body.uploads[1:], aggregate=fewer), code)


def test_a_proof_of_another_round_is_refused(small):
    proof, _ = caught_up(small)
    other = dataclasses.replace(small.read(proof).body.aggregate, round=1)
    made = small.sites[NORTH].receive(small.lie(proof, aggregate=other), small.clock())
    assert small.read(made[0]).body.code == "chain.state"
    assert small.sites[NORTH].state(small.terms.run_id).get("model") is None


def test_an_old_aggregate_does_not_take_a_site_back(small):
    proof, again = caught_up(small)
    north = small.sites[NORTH]
    north.receive(proof, small.clock())
    small.deliver(north.receive(again, small.clock()), hold=RoundStart)
    before = north._live(small.terms).chain.current.digest
    assert north.receive(proof, small.clock()) == []  # a repeat: nothing to say, nothing to refuse
    north._live(small.terms).caught_up = False
    refusal = small.read(north.receive(proof, small.clock())[0])
    assert refusal.body.code == "chain.order"
    assert north._live(small.terms).chain.current.digest == before


def test_nobody_catches_up_without_having_asked(small):
    proof, _ = caught_up(small)
    small.restart(NORTH)
    assert small.sites[NORTH].receive(proof, small.clock()) == []
    assert small.sites[NORTH].state(small.terms.run_id).get("model") is None


def test_the_leader_proves_nothing_to_a_site_that_is_not_behind(small):
    behind(small)
    east = small.sites[PartyName("east")]
    request = east.send(
        small.terms, small.leader.address, CatchUpRequest(applied=2), round_number=3
    )
    assert small.leader.receive(request, small.clock()) == []


def test_without_noise_a_site_that_missed_the_first_cohort_stays_out(tmp_path):
    """Every sum of a run without noise has one cohort: a site that joins later is in none."""
    write_small_federation(tmp_path / "small", job={**WITHOUT_NOISE, "rounds": 3})
    small = SmallFederation(tmp_path / "small")
    held = behind(small)
    small.deliver(held.values())
    while small.leader.phase != "closed":
        small.deliver(small.leader.tick(small.leader.deadline))
    aggregate, _ = small.leader.transcript.last_aggregate()
    assert NORTH not in [member.client for member in aggregate.cohort]
