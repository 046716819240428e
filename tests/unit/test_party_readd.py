"""Adding up again: a leader that publishes another sum than it was sent is convicted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tacit.errors import LocalProtocolError
from tacit.party.context import helper_keys, upload_context
from tacit.party.kept import KeptRounds, add_up
from tacit.testing.federation import (
    PLAIN,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName
from tacit.wire.envelope import digest, split_chunks
from tacit.wire.messages import HelperKey, Kept, KeptRequest, Refusal, RoundStart, Upload

NORTH = PartyName("north")


def federation(tmp_path, job=None, resum="always"):
    write_small_federation(tmp_path / "small", job=job or {})
    small = SmallFederation(tmp_path / "small")
    for site in small.sites.values():
        set_resum(site, resum)
    return small


def set_resum(site, wish):
    limits = site._setup.config.limits.model_copy(update={"resum": wish})
    config = site._setup.config.model_copy(update={"limits": limits})
    site._setup = dataclasses.replace(site._setup, config=config)
    site._admission._setup = site._setup


def kinds(small, name):
    log = small.sites[name].ports.log.events(small.terms.run_id)
    return [event for _, event in log]


def verified(small, name, kind=b"aggregate.verified"):
    return sum(kind in event for event in kinds(small, name))


@pytest.mark.parametrize("job", [{}, WITHOUT_NOISE, PLAIN], ids=["noise", "exact", "plain"])
def test_an_honest_leader_passes(tmp_path, job):
    small = federation(tmp_path, job)
    small.run()
    assert small.leader.durable.number("complete") == 1
    assert {verified(small, name) for name in SITES} == {2}  # of three rounds: all but the last


def test_never_asks_for_nothing(tmp_path):
    small = federation(tmp_path, resum="never")
    small.run()
    assert {verified(small, name) for name in SITES} == {0}


def test_a_sampled_site_looks_once_in_a_while(tmp_path):
    """Four sites, coins of 1/4: over twelve runs of two checked rounds 24 checks are expected."""
    write_small_federation(tmp_path / "small")
    checks = 0
    for seed in range(12):
        small = SmallFederation(tmp_path / "small", seed=seed)
        small.run()
        checks += sum(verified(small, name) for name in SITES)
    assert 6 <= checks <= 45  # five standard deviations


def lying_start(small, change):
    """The start of round 2 with another sum of round 1, consistent in all that is signed."""
    start = small.until(RoundStart, 2)[NORTH]
    body = small.read(start).body
    ring, length = small.terms.ring, small.terms.manifest.length
    total = ring.from_bytes(b"".join(start.chunks), length).copy()
    change(total)
    vector, chunks = split_chunks(ring.to_bytes(total), length)
    previous = dataclasses.replace(body.previous, vector=vector)
    chain = small.leader.chain
    before = type(chain.current).from_bytes(small.leader.durable.get("model-before"))
    after = small.workload.step(before, ring.centred(total), small.terms.plan)
    return small.lie(start, chunks, previous=previous, model=after.digest)


def add_one(total):
    total[0] += 1


def play(small, envelopes):
    """Delivers, and returns everything that north says."""
    said, queue = [], list(envelopes)
    while queue:
        envelope = queue.pop(0)
        made = small.party(envelope.receiver).receive(envelope, small.clock())
        if envelope.receiver == small.sites[NORTH].address:
            said += [small.read(one) for one in made]
        queue += [one for one in made if not isinstance(small.read(one).body, Refusal | Upload)]
    return said


def test_a_leader_that_publishes_another_sum_is_convicted(tmp_path):
    small = federation(tmp_path)
    lie = lying_start(small, add_one)
    said = play(small, [lie])
    assert {type(one.body) for one in said} == {KeptRequest, Refusal}
    assert said[-1].body.code == "round.refuted"
    assert len(said) == 4 + 4 + 1  # every upload and every answer was fetched
    assert verified(small, NORTH, b"aggregate.refuted") == 1
    later = small.lie(lie, lie.chunks, leader_key=small.leader.ports.sealing.generate().public_key)
    assert [one.body.code for one in play(small, [later])] == ["round.refuted"]


def test_the_same_lie_passes_where_nobody_looks(tmp_path):
    """What the check is for: without it the site would train on the leader's own model."""
    small = federation(tmp_path, resum="never")
    said = play(small, [lying_start(small, add_one)])
    assert [type(one.body) for one in said] == [Upload]


def test_a_conviction_survives_a_restart(tmp_path):
    small = federation(tmp_path)
    lie = lying_start(small, add_one)
    play(small, [lie])
    small.restart(NORTH)
    set_resum(small.sites[NORTH], "never")
    assert [one.body.code for one in play(small, [lie])] == ["round.refuted"]


def kept_answer(small):
    """North waits for its first vector; what the leader answers."""
    start = small.until(RoundStart, 2)[NORTH]
    (request,) = small.sites[NORTH].receive(start, small.clock())
    (kept,) = small.leader.receive(request, small.clock())
    assert isinstance(small.read(kept).body, Kept)
    return kept


def test_a_kept_vector_that_was_not_signed_is_refused(tmp_path):
    small = federation(tmp_path)
    kept = kept_answer(small)
    flipped = bytes([kept.chunks[0][0] ^ 1]) + kept.chunks[0][1:]
    north, damaged = small.sites[NORTH], small.lie(kept, (flipped,))
    for _ in range(5):  # It asks again, from the beginning and under a fresh key,
        (request,) = north.receive(damaged, small.clock())
        assert small.read(request).body.index == 0
    (refusal,) = north.receive(damaged, small.clock())  # but not for ever.
    assert isinstance(small.read(refusal).body, Refusal)
    assert north.state(small.terms.run_id).number("round") == 1


@pytest.mark.parametrize("extra", [b"", b"junk"])
def test_a_chunk_that_the_network_appends_convicts_nobody(tmp_path, extra):
    """Chunks lie outside the signature: whoever carries them may add one."""
    small = federation(tmp_path)
    kept = kept_answer(small)
    north = small.sites[NORTH]
    longer = dataclasses.replace(kept, chunks=(*kept.chunks, extra))
    again = north.receive(longer, small.clock())
    said = play(small, again)
    assert isinstance(said[-1].body, Upload)
    assert verified(small, NORTH) == 1
    assert north.state(small.terms.run_id).number("convicted") == 0


def test_one_lost_vector_costs_one_round(tmp_path):
    small = federation(tmp_path, {"rounds": 6})
    lost = []

    def tap(envelope):
        body = small.read(envelope).body
        if isinstance(body, Kept) and envelope.receiver.party == NORTH and not lost:
            lost.append(envelope)
            return None
        return envelope

    small.run(tap=tap)
    assert small.leader.durable.number("complete") == 1
    assert sum(b"upload.sent" in event for event in kinds(small, NORTH)) == 5
    assert verified(small, NORTH) == 5


def test_another_message_than_the_aggregate_names_is_refused(tmp_path):
    small = federation(tmp_path)
    kept = kept_answer(small)
    other = small.leader.transcript.get_round(1, f"upload-{SITES[1]}.msg")
    (refusal,) = small.sites[NORTH].receive(small.lie(kept, message=other), small.clock())
    assert small.read(refusal).body.code == "readd.message"


def test_vectors_out_of_order_change_nothing(tmp_path):
    small = federation(tmp_path)
    kept = kept_answer(small)
    north = small.sites[NORTH]
    assert north.receive(small.lie(kept, index=3), small.clock()) == []
    (second,) = north.receive(kept, small.clock())
    assert small.read(second).body.index == 1
    assert north.receive(kept, small.clock()) == []  # a repeat is not added twice
    said = play(small, [second])
    assert isinstance(said[-1].body, Upload)
    assert verified(small, NORTH) == 1


def test_a_repeated_start_asks_again_for_the_same(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart, 2)[NORTH]
    first = small.sites[NORTH].receive(start, small.clock())
    assert small.sites[NORTH].receive(start, small.clock()) == first


def test_a_round_that_was_aborted_is_not_trained_on_when_the_last_vector_comes(tmp_path):
    small = federation(tmp_path)
    kept = kept_answer(small)
    for abort in small.leader._abort_round("test", 2, small.clock()):
        if abort.receiver == small.sites[NORTH].address:
            small.sites[NORTH].receive(abort, small.clock())
    assert small.sites[NORTH].receive(kept, small.clock()) == []
    assert small.sites[NORTH].state(small.terms.run_id).number("uploads") == 1


def test_a_site_that_adds_up_again_needs_a_leader_that_keeps(tmp_path):
    small = federation(tmp_path, {"aggregation": {"audit_rounds": 0}}, resum="sampled")
    small.run()
    assert {site.last_error.code for site in small.sites.values()} == {"limits.resum"}
    write_small_federation(tmp_path / "other", job={"aggregation": {"audit_rounds": 0}})
    careless = SmallFederation(tmp_path / "other")
    for site in careless.sites.values():
        set_resum(site, "never")
    careless.run()
    assert careless.leader.durable.number("complete") == 1
    assert KeptRounds(careless.leader, careless.terms).rounds == []


# --- the leader's store ---------------------------------------------------------------------


def test_the_window_holds_the_last_rounds_only(tmp_path):
    small = federation(tmp_path, {"rounds": 5, "aggregation": {"audit_rounds": 2}})
    small.run()
    assert KeptRounds(small.leader, small.terms).rounds == [4, 5]
    space = f"leader/{small.terms.run_id}/kept"
    kept = [key for key, _ in small.stores[small.leader.address.party].items(space)]
    assert {key.split("/")[0] for key in kept} == {"4", "5", "index"}


def audited(small):
    leader, terms = small.leader, small.terms
    aggregate, _ = leader.transcript.last_aggregate()
    keys = helper_keys(leader, terms, aggregate.round, aggregate.keys)
    before = type(leader.model).from_bytes(leader.durable.get("model-before"))
    context = upload_context(terms, aggregate.round, before.digest, keys)
    return aggregate, context, KeptRounds(leader, terms)


@pytest.mark.parametrize("job", [{}, PLAIN], ids=["masked", "plain"])
def test_an_audit_of_an_honest_round_names_nobody(tmp_path, job):
    small = federation(tmp_path, job)
    small.run()
    aggregate, context, kept = audited(small)
    verdict = add_up(kept, aggregate, context)
    assert (verdict.exact, verdict.culprits) == (True, ())
    assert (verdict.round, verdict.uploads) == (3, 4)


def test_an_audit_names_a_leader_that_published_another_sum(tmp_path):
    small = federation(tmp_path)
    small.run()
    aggregate, context, kept = audited(small)
    data = np.zeros(small.terms.manifest.length, dtype="<u4").tobytes()
    vector, _ = split_chunks(data, small.terms.manifest.length)
    verdict = add_up(kept, dataclasses.replace(aggregate, vector=vector), context)
    assert not verdict.exact
    assert [name for name, _ in verdict.culprits] == [small.leader.address.party]


def test_an_audit_names_a_leader_whose_store_was_changed(tmp_path):
    small = federation(tmp_path)
    small.run()
    aggregate, context, kept = audited(small)
    store = small.stores[small.leader.address.party]
    space = f"leader/{small.terms.run_id}/kept"
    with store.transaction():
        store.put(space, "3/client-north/0", bytes(len(store.get(space, "3/client-north/0"))))
    verdict = add_up(kept, aggregate, context)
    assert [name for name, _ in verdict.culprits] == [small.leader.address.party]
    assert "north" in str(verdict.culprits) or "chunk" in str(verdict.culprits)


@pytest.mark.parametrize("field", ["cohort", "context"])
def test_an_audit_frames_no_helper_for_what_the_leader_took(tmp_path, field):
    """Only the leader says for what a helper signs: an answer that does not fit is its own doing."""
    small = federation(tmp_path)
    small.run()
    aggregate, context, kept = audited(small)
    helper = small.helpers[NORTH]
    at = [small.leader.open_copy(raw).sender.party for raw in aggregate.answers].index(NORTH)
    honest = small.leader.open_copy(aggregate.answers[at])
    body = dataclasses.replace(honest.body, **{field: digest(b"another")})
    forged = helper.send(small.terms, small.leader.address, body, round_number=3)
    answers = list(aggregate.answers)
    answers[at] = forged.message
    store = small.stores[small.leader.address.party]
    with store.transaction():
        store.put(f"leader/{small.terms.run_id}/kept", "3/helper-north", forged.message)
    verdict = add_up(kept, dataclasses.replace(aggregate, answers=tuple(answers)), context)
    assert [name for name, _ in verdict.culprits] == [small.leader.address.party]


def test_an_audit_frames_nobody_when_the_leader_drops_a_member(tmp_path):
    small = federation(tmp_path)
    small.run()
    aggregate, context, kept = audited(small)
    fewer = dataclasses.replace(aggregate, cohort=aggregate.cohort[1:])
    verdict = add_up(kept, fewer, context)
    assert {name for name, _ in verdict.culprits} == {small.leader.address.party}


def test_a_round_outside_the_window_cannot_be_audited(tmp_path):
    small = federation(tmp_path)
    small.run()
    aggregate, context, kept = audited(small)
    with small.stores[small.leader.address.party].transaction():
        kept.drop(3)
    with pytest.raises(LocalProtocolError):
        add_up(kept, aggregate, context)


def hide(small, envelopes):
    """Plays on while the leader serves nothing of round 1's vectors; what north says."""
    said, queue = [], list(envelopes)
    while small.leader.phase != "closed":
        if not queue:
            queue = list(small.leader.tick(small.leader.deadline))
            continue
        envelope = queue.pop(0)
        if envelope.receiver.role == "leader":
            message = small.read(envelope)
            if isinstance(message.body, KeptRequest) and message.round == 1:
                continue
        made = small.party(envelope.receiver).receive(envelope, small.clock())
        if envelope.receiver == small.sites[NORTH].address:
            said += [small.read(one) for one in made]
        queue += made
    return said


@pytest.mark.parametrize("restarted", [False, True])
def test_a_leader_cannot_outwait_what_is_owed(tmp_path, restarted):
    """It keeps silent about round 1 and goes on: the site trains on nothing that rests on it."""
    small = federation(tmp_path, resum="never")
    set_resum(small.sites[NORTH], "always")
    starts = small.until(RoundStart, 2)
    if restarted:
        small.sites[NORTH].receive(starts[NORTH], small.clock())
        small.restart(NORTH)
        set_resum(small.sites[NORTH], "never")  # what is owed is owed
    said = hide(small, starts.values())
    assert small.leader.chain.completed == 3 - restarted  # a restarted helper costs a round
    assert not [one for one in said if isinstance(one.body, Upload) and one.round > 1]
    assert {one.round for one in said if isinstance(one.body, KeptRequest)} == {1}
    assert verified(small, NORTH, b"aggregate.owed") == 1
    assert verified(small, NORTH) == 0


def test_what_is_owed_can_be_done_later_while_the_leader_keeps_it(tmp_path):
    job = {"rounds": 4, "aggregation": {"min_cohort": 3, "audit_rounds": 4}}
    small = federation(tmp_path, job, resum="never")
    set_resum(small.sites[NORTH], "always")
    starts = small.until(RoundStart, 2)
    north = starts.pop(NORTH)
    small.sites[NORTH].receive(north, small.clock())  # owes round 1; nobody hears its request
    held = small.deliver(starts.values(), hold=RoundStart)
    held += small.deliver(small.leader.tick(small.leader.deadline), hold=RoundStart)
    small.deliver(held)
    while small.leader.phase != "closed":
        small.deliver(small.leader.tick(small.leader.deadline))
    assert small.leader.durable.number("complete") == 1
    assert verified(small, NORTH) == 3  # rounds 1, 2 and 3
    aggregate, _ = small.leader.transcript.last_aggregate()
    assert NORTH in [member.client for member in aggregate.cohort]


def test_a_damaged_upload_leaves_the_running_sum_as_it_was(tmp_path):
    small = federation(tmp_path, WITHOUT_NOISE)
    uploads = small.deliver(small.start(), hold=Upload)
    broken = uploads[0]
    flipped = (bytes([broken.chunks[0][0] ^ 1]) + broken.chunks[0][1:], *broken.chunks[1:])
    small.leader.receive(dataclasses.replace(broken, chunks=flipped), small.clock())
    work = small.leader._work
    assert not np.any(work._sum.vector())
    extra = dataclasses.replace(broken, chunks=(*broken.chunks, broken.chunks[0]))
    small.leader.receive(extra, small.clock())
    assert not np.any(work._sum.vector())  # one right chunk, then one too many
    assert work.uploads == {}
    assert KeptRounds(small.leader, small.terms).rounds == []
    small.deliver(uploads)
    assert small.leader.chain.completed == 3


def test_a_helper_with_a_malformed_key_is_left_out(tmp_path):
    job = {"aggregation": {"min_cohort": 3, "min_helpers": 3}}
    small = federation(tmp_path, job, resum="never")
    for site in small.sites.values():
        limits = site._setup.config.limits.model_copy(update={"require_own_helper": False})
        site._setup.config.__dict__["limits"] = limits
    keys = small.deliver(small.start(), hold=HelperKey)
    bad = [
        small.lie(e, key=bytes(1216)) if small.read(e).sender.party == NORTH else e for e in keys
    ]
    small.deliver(bad)
    while small.leader.phase != "closed":
        small.deliver(small.leader.tick(small.leader.deadline))
    assert small.leader.durable.number("complete") == 1
    assert f"r000001/key-{NORTH}.msg" not in small.leader.transcript.items()
