"""A helper against a leader that controls everything around it."""

from __future__ import annotations

import numpy as np
import pytest

from tacit.secagg.masked import cohort_digest, mask_sum, open_seeds
from tacit.testing.federation import (
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName
from tacit.wire.envelope import Envelope, join_chunks
from tacit.wire.messages import (
    Finish,
    HelperKey,
    MaskRequest,
    MaskSum,
    Refusal,
    RoundStart,
    SealedSeed,
)

NORTH = PartyName("north")


def federation(tmp_path, **options):
    write_small_federation(tmp_path / "small", **options)
    return SmallFederation(tmp_path / "small")


def answers(small, envelope):
    """What north's helper answers, opened."""
    made = small.helpers[NORTH].receive(envelope, small.clock())
    return [small.read(one) for one in made]


def refused(small, envelope, code, culprit=""):
    """Checks that the helper refuses, keeps its key, and has stored no answer."""
    (only,) = answers(small, envelope)
    assert only.body == Refusal(code=code, culprit=culprit)
    state = small.helpers[NORTH].state(small.terms.run_id)
    assert state.number("answered") < only.round
    assert state.get(f"answer/{only.round}") is None


def uploads(small, request):
    return small.read(request).body.uploads


def test_answers_one_cohort_only(tmp_path):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    first = small.helpers[NORTH].receive(request, small.clock())
    fewer = small.lie(request, uploads=uploads(small, request)[1:])
    for _ in range(2):
        again = small.helpers[NORTH].receive(fewer, small.clock())
        assert again[0] == first[0]  # the stored bytes, whatever was asked
        assert small.helpers[NORTH].receive(request, small.clock())[0] == first[0]
        small.restart(NORTH)
    answer = small.read(first[0]).body
    assert isinstance(answer, MaskSum)
    assert answer.cohort == cohort_digest(
        [small.read(Envelope(small.leader.address, raw)).digest for raw in uploads(small, request)]
    )
    log = small.helpers[NORTH].ports.log.events(small.terms.run_id)
    assert sum(b'"mask-sum.answered"' in event for _, event in log) == 1


def test_the_key_is_erased_once_answered(tmp_path):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    helper = small.helpers[NORTH]
    opener = helper._keys[small.terms.run].opener
    answer, key = answers(small, request)
    assert isinstance(answer.body, MaskSum)
    assert (type(key.body), key.round) == (HelperKey, 2)
    sealed = small.read(Envelope(small.leader.address, uploads(small, request)[0])).body.seeds
    mine = next(seed.sealed for seed in sealed if seed.helper == NORTH)
    with pytest.raises(Exception, match="erased"):
        opener.open(mine, b"")


@pytest.mark.parametrize(
    ("keep", "code"),
    [
        (lambda all_: all_[:2], "helper.cohort-too-small"),
        (lambda all_: (all_[0], *all_[:3]), "helper.cohort"),
        (lambda all_: (all_[0], all_[0], all_[0]), "helper.cohort"),
    ],
    ids=["too small", "one twice", "one thrice"],
)
def test_a_bad_cohort_gets_no_answer(tmp_path, keep, code):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    lie = small.lie(request, uploads=keep(uploads(small, request)))
    made = answers(small, lie)
    assert [one.body.code for one in made] == [code]
    assert isinstance(answers(small, request)[0].body, MaskSum)  # a refusal is no answer


def test_an_upload_of_another_run_is_refused(tmp_path):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    other = SmallFederation(small.folder, seed="another run")
    foreign = uploads(other, other.until(MaskRequest)[NORTH])
    lie = small.lie(request, uploads=(foreign[0], *uploads(small, request)[1:]))
    refused(small, lie, "message.carried", culprit=SITES[0])


def test_an_upload_of_an_earlier_round_is_refused(tmp_path):
    small = federation(tmp_path)
    old = uploads(small, small.until(MaskRequest)[NORTH])
    small = SmallFederation(small.folder)
    request = small.until(MaskRequest, 2)[NORTH]
    fresh = uploads(small, request)
    lie = small.lie(request, uploads=(old[0], *fresh[1:]))
    refused(small, lie, "helper.context", culprit=SITES[0])


def test_a_stranger_in_the_cohort_is_refused(tmp_path):
    """A client of the roster that is none of this run, and a helper that poses as a client."""
    write_small_federation(tmp_path / "small", job={"aggregation": {"helpers": list(SITES)}})
    small = SmallFederation(tmp_path / "small", clients=SITES[:3])
    request = small.until(MaskRequest)[NORTH]
    body = small.read(Envelope(small.leader.address, uploads(small, request)[0])).body
    for party, code in (
        (small.sites[SITES[3]], "helper.cohort"),
        (small.helpers[SITES[3]], "message.carried"),
    ):
        posing = party.send(small.terms, small.leader.address, body, round_number=1)
        lie = small.lie(request, uploads=(posing.message, *uploads(small, request)[1:]))
        (refusal,) = answers(small, lie)
        assert refusal.body.code == code


@pytest.mark.parametrize("how", ["flipped", "missing", "swapped"])
def test_a_tampered_seed_names_its_client(tmp_path, how):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    all_ = uploads(small, request)
    bad, good = (Envelope(small.leader.address, raw) for raw in all_[:2])
    seeds = {seed.helper: seed.sealed for seed in small.read(bad).body.seeds}
    if how == "flipped":
        seeds[NORTH] = seeds[NORTH][:-1] + bytes([seeds[NORTH][-1] ^ 1])
    elif how == "missing":
        del seeds[NORTH]
    else:
        seeds[NORTH] = next(s.sealed for s in small.read(good).body.seeds if s.helper == NORTH)
    tampered = small.lie(bad, seeds=tuple(SealedSeed(*item) for item in seeds.items()))
    code = "helper.seed-missing" if how == "missing" else "secagg.seed"
    lie = small.lie(request, uploads=(tampered.message, *all_[1:]))
    refused(small, lie, code, culprit=SITES[0])
    assert isinstance(answers(small, request)[0].body, MaskSum)


def test_without_noise_the_cohort_must_not_change(tmp_path):
    small = federation(tmp_path, job=WITHOUT_NOISE)
    request = small.until(MaskRequest, 2)[NORTH]
    lie = small.lie(request, uploads=uploads(small, request)[1:])
    refused(small, lie, "helper.cohort-changed")
    assert isinstance(answers(small, request)[0].body, MaskSum)


def test_with_noise_the_cohort_may_change(tmp_path):
    small = federation(tmp_path)
    request = small.until(MaskRequest, 2)[NORTH]
    lie = small.lie(request, uploads=uploads(small, request)[1:])
    assert isinstance(answers(small, lie)[0].body, MaskSum)


def test_after_a_restart_the_old_key_is_gone(tmp_path):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    small.restart(NORTH)
    refused(small, request, "helper.no-key")


def test_no_private_half_is_ever_stored(tmp_path):
    small = federation(tmp_path)
    small.until(MaskRequest)
    private = small.helpers[NORTH]._keys[small.terms.run].opener._private.private_bytes_raw()
    values = [v for space in small.stores[NORTH]._committed.values() for v in space.values()]
    assert values
    assert not any(private in value for value in values)


def test_a_late_abort_does_not_burn_the_key(tmp_path):
    small = federation(tmp_path)
    small.until(RoundStart)
    old = next(
        e for e in small.leader._abort_round("test", 1, small.clock()) if e.receiver.party == NORTH
    )
    small = SmallFederation(small.folder)
    request = small.until(MaskRequest, 3)[NORTH]
    (key,) = answers(small, old)
    assert (type(key.body), key.round) == (HelperKey, 3)
    assert isinstance(answers(small, request)[0].body, MaskSum)


def test_only_the_leader_of_the_run_is_heard(tmp_path):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    client = small.sites[SITES[0]]
    address = small.helpers[NORTH].address
    forged = client.send(small.terms, address, small.read(request).body, round_number=1)
    before = len(small.helpers[NORTH].ports.log)
    assert small.helpers[NORTH].receive(forged, small.clock()) == []
    assert len(small.helpers[NORTH].ports.log) == before


def test_offers_by_anybody_but_their_leader_leave_no_trace(tmp_path):
    small = federation(tmp_path)
    client = small.sites[SITES[0]]
    before = len(small.helpers[NORTH].ports.log)
    forged = client.send(small.terms, small.helpers[NORTH].address, small.offer)
    assert small.helpers[NORTH].receive(forged, small.clock()) == []
    assert len(small.helpers[NORTH].ports.log) == before


def test_a_closed_run_gets_no_key_and_no_answer(tmp_path):
    small = federation(tmp_path)
    request = small.until(MaskRequest)[NORTH]
    offer = next(e for e in small.start() if e.receiver == small.helpers[NORTH].address)
    finish = next(
        e
        for e in small.leader.interrupt(small.clock())
        if e.receiver == small.helpers[NORTH].address
    )
    assert isinstance(small.read(finish).body, Finish)
    assert answers(small, finish) == []  # the same party answers in its role of client
    for late in (request, offer, finish):
        assert answers(small, late) == []


def test_a_helper_that_is_no_client_sends_its_own_record(tmp_path):
    write_small_federation(tmp_path / "small", job={"aggregation": {"helpers": list(SITES)}})
    small = SmallFederation(tmp_path / "small", clients=SITES[:3])
    small.run()
    assert small.leader.durable.number("complete") == 1
    logs = {name for name in small.leader.transcript.items() if name.startswith("log-")}
    assert logs == {f"log-{name}" for name in (*SITES, small.leader.address.party)}


@pytest.mark.parametrize("noise", ["shared", "own"])
def test_noise_share_is_inside_every_answer(tmp_path, noise):
    """Every answer differs from the exact mask sum by a fresh sample of the planned variance."""
    small = federation(tmp_path, job={"privacy": {"noise": noise}})
    request, before = small.until(MaskRequest)[NORTH], small.stores[NORTH]
    ring = small.terms.ring
    exact, held = exact_mask_sum(small, request), small.helpers[NORTH]._keys[small.terms.run]
    private, noises = held.opener._private, []
    for _ in range(100):
        # Undo the answer, its storage and the erasure of the key: only the entropy is another one.
        small.stores[NORTH] = before.crash()
        small._open(NORTH)
        held.opener._private = private
        small.helpers[NORTH]._keys[small.terms.run] = held
        answer = answers(small, request)[0]
        noise_share = exact.copy()
        ring.subtract_into(noise_share, vector_of(answer, ring))
        noises.append(ring.centred(noise_share))
    flat = np.concatenate(noises).astype(np.float64)
    planned = float(small.terms.plan.share_variance(len(SITES)))
    assert planned > 1e6
    assert len(set(flat)) == len(flat)
    # Four standard deviations of the estimates.
    assert abs(flat.var() / planned - 1.0) < 4.0 * np.sqrt(2.0 / len(flat))
    assert abs(flat.mean()) < 4.0 * np.sqrt(planned / len(flat))


def exact_mask_sum(small, request):
    opened = [small.read(Envelope(small.leader.address, raw)) for raw in uploads(small, request)]
    seeds = [
        (one.sender.party, next(s.sealed for s in one.body.seeds if s.helper == NORTH))
        for one in opened
    ]
    streams = open_seeds(
        seeds,
        context=opened[0].body.context,
        helper=NORTH,
        opener=small.helpers[NORTH]._keys[small.terms.run].opener,
    )
    return mask_sum(streams, small.terms.ring, small.terms.manifest.length)


def vector_of(message, ring):
    length = message.body.vector.length
    return ring.from_bytes(
        join_chunks(message.body.vector, message.chunks, length, ring.item_bytes), length
    )


def test_without_privacy_the_answer_is_the_exact_mask_sum(tmp_path):
    small = federation(tmp_path, job=WITHOUT_NOISE)
    request = small.until(MaskRequest)[NORTH]
    exact = exact_mask_sum(small, request)
    answer = answers(small, request)[0]
    assert (vector_of(answer, small.terms.ring) == exact).all()
