"""A malicious leader against a site: nothing is uploaded, charged or taken over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tacit.testing.federation import (
    LEADER,
    SITES,
    SmallFederation,
    write_small_federation,
)
from tacit.testing.lies import (
    ANY_ACCEPT,
    ANY_RECORD,
    ANY_VECTOR,
    EAST,
    JUNK_KEY,
    NORTH,
    SOUTH,
    WEST,
    Lie,
    about_sum,
    another_run,
    by_leader,
    by_name,
    client,
    forge,
    helper,
    helper_leaks_nothing,
    key_of,
    offer_to,
    raw,
    set_limits,
    site_leaks_nothing,
    start_of,
    sum_of_bytes,
    unserved,
    with_key,
    without,
)
from tacit.types import Digest
from tacit.wire.envelope import (
    Envelope,
    digest,
)
from tacit.wire.messages import (
    Aggregate,
    CohortMember,
    HelperKey,
    Kept,
    KeyRequest,
    MaskRequest,
    RoundStart,
    Upload,
)

# --- a leader against a site ----------------------------------------------------------------------


AT_SITE_ONE = [
    Lie(
        "round 0",
        lambda small, start: by_leader(small, start, round=0),
    ),
    Lie(
        "a future round with the keys of this one",
        lambda small, start: by_leader(small, start, round=2),
        "round.stale-key",
    ),
    Lie(
        "a helper key signed by another helper",
        with_key(0, lambda small, n: key_of(small, EAST, n, bytes(range(32)), signer=SOUTH)),
        "trust.signature",
    ),
    Lie(
        "a helper key signed by the leader",
        with_key(0, lambda small, n: key_of(small, EAST, n, bytes(range(32)), signer=LEADER)),
        "trust.signature",
    ),
    Lie(
        "the leader's own key as a helper's",
        with_key(0, lambda small, n: key_of(small, LEADER, n, bytes(range(32)))),
        "trust.role",
    ),
    Lie(
        "a helper key that its party signed as a client",
        with_key(0, lambda small, n: key_of(small, EAST, n, bytes(range(32)), role="client")),
        "message.carried",
    ),
    Lie(
        "a helper key of a later round",
        with_key(0, lambda small, n: key_of(small, EAST, n + 1, bytes(range(32)))),
        "round.stale-key",
    ),
    Lie(
        "a first model by the leader's own accept",
        lambda small, start: small.lie(
            start,
            accepts=(
                forge(
                    small,
                    client(EAST),
                    small.leader.address,
                    ANY_ACCEPT,
                    signer=LEADER,
                ).message,
                *small.read(start).body.accepts[1:],
            ),
        ),
        "trust.signature",
    ),
    Lie(
        "an aggregate before the first model",
        lambda small, start: small.lie(
            start,
            previous=Aggregate(
                round=1,
                keys=small.read(start).body.keys,
                cohort=(CohortMember(EAST, bytes(32)),),
                answers=(),
                vector=ANY_VECTOR,
            ),
        ),
        "round.aggregate",
    ),
    Lie("a kept vector that it did not ask for", unserved(Kept(0, b"x"))),
    Lie("a helper's key", unserved(HelperKey(bytes(32))), "message.kind"),
    Lie(
        "another client's upload",
        unserved(Upload(bytes(32), (), ANY_VECTOR)),
        "message.kind",
    ),
    Lie("a request for its log", unserved(ANY_RECORD), "message.kind"),
    Lie("a request for a helper's key", unserved(KeyRequest("please")), "message.kind"),
    Lie("the offer again", lambda small, start: offer_to(small, start.receiver)),
]


UNSEALABLE = [
    Lie(
        "a helper key that is no key",
        with_key(0, lambda small, n: key_of(small, EAST, n, JUNK_KEY)),
        "round.key",
    ),
    Lie(
        "a helper key of small order",
        with_key(0, lambda small, n: key_of(small, EAST, n, bytes(32))),
        "round.key",
    ),
    Lie(
        "a leader's key that is no key",
        lambda small, start: small.lie(start, leader_key=JUNK_KEY),
        "round.key",
    ),
]
"""Found out before anything is computed: the model has been taken over by then, nothing else."""


@pytest.mark.parametrize(**by_name(UNSEALABLE))
def test_a_site_seals_nothing_to(lie, small):
    start = small.until(RoundStart)[NORTH]
    with small.stores[NORTH].transaction():
        chain = small.sites[NORTH]._live(small.terms).chain
        chain.begin(chain.open_accepts(small.read(start).body.accepts))
    site_leaks_nothing(small, lie.make(small, start), lie)


@pytest.mark.parametrize(**by_name(AT_SITE_ONE))
def test_before_the_first_round_a_site_is_sent(lie, site_one):
    small, start = site_one
    site_leaks_nothing(small, lie.make(small, start), lie)


def first_model(small: SmallFederation) -> Digest:
    """The digest of the state before round 1."""
    theta = np.frombuffer(small.leader.transcript.items()["model-initial"], dtype="<f8")
    return small.workload.rule.start(theta).digest


def stale_answers(small: SmallFederation, aggregate: Aggregate) -> tuple[bytes, ...]:
    """What the helpers signed for the round before."""
    return tuple(
        small.leader.transcript.get_round(aggregate.round - 1, f"mask-sum-{name}.msg")
        for name in SITES
    )


def stale_aggregate(small: SmallFederation, start: Envelope) -> Envelope:
    """The sum of round 1, which the site has applied already, under the number of round 2."""
    old = small.old_aggregate
    return small.lie(start, old.chunks, previous=dataclasses.replace(old.body, round=2))


def signed_by_clients(small: SmallFederation, aggregate: Aggregate) -> tuple[bytes, ...]:
    bodies = [small.read(raw(small, answer)).body for answer in aggregate.answers]
    return tuple(
        forge(small, client(name), small.leader.address, body, aggregate.round).message
        for name, body in zip(SITES, bodies, strict=True)
    )


def extra_element(data: bytes, length: int) -> tuple[bytes, int]:
    return data + bytes(4), length + 1


AT_SITE_THREE = [
    Lie(
        "a round above the plan",
        lambda small, start: by_leader(small, start, round=small.terms.manifest.rounds + 1),
        "round.not-new",
    ),
    Lie(
        "the stale model of the first round",
        lambda small, start: small.lie(start, model=first_model(small)),
        "round.model",
    ),
    Lie(
        "a crafted model",
        lambda small, start: small.lie(start, model=digest(b"crafted")),
        "round.model",
    ),
    Lie(
        "no aggregate, to train on an old model again",
        lambda small, start: small.lie(start, (), previous=None),
        "round.aggregate",
    ),
    Lie("an old aggregate under a new number", stale_aggregate, "round.stale-key"),
    Lie(
        "answers of another round",
        about_sum(answers=stale_answers),
        "chain.answer",
    ),
    Lie(
        "an answer that its helper signed for another round",
        about_sum(
            answers=lambda small, a: (
                forge(
                    small,
                    helper(EAST),
                    small.leader.address,
                    small.read(raw(small, a.answers[0])).body,
                    a.round + 1,
                ).message,
                *a.answers[1:],
            )
        ),
        "chain.answer",
    ),
    Lie(
        "answers signed as clients",
        about_sum(answers=signed_by_clients),
        "message.carried",
    ),
    Lie(
        "answers in another order",
        about_sum(answers=lambda small, aggregate: aggregate.answers[::-1]),
        "chain.helpers",
    ),
    Lie(
        "one answer twice and one missing",
        about_sum(answers=lambda small, a: (a.answers[0], *a.answers[:3])),
        "chain.helpers",
    ),
    Lie(
        "an answer whose helper signed for another context",
        about_sum(
            answers=lambda small, a: (
                small.lie(raw(small, a.answers[0]), context=bytes(32)).message,
                *a.answers[1:],
            )
        ),
        "chain.context",
    ),
    Lie(
        "an answer whose helper signed for another cohort (equivocated U)",
        about_sum(
            answers=lambda small, a: (
                small.lie(raw(small, a.answers[0]), cohort=bytes(32)).message,
                *a.answers[1:],
            )
        ),
        "chain.answer",
    ),
    Lie(
        "keys of the next round",
        lambda small, start: about_sum(keys=small.read(start).body.keys)(small, start),
        "round.stale-key",
    ),
    Lie(
        "another key that a helper signed for the same round",
        about_sum(
            keys=lambda small, a: (key_of(small, EAST, a.round, bytes(range(32))), *a.keys[1:])
        ),
        "chain.behind",
    ),
    Lie(
        "fewer helpers than the plan needs",
        about_sum(keys=lambda small, a: a.keys[1:], answers=lambda small, a: a.answers[1:]),
        "round.helpers",
    ),
    Lie("a vector that is cut short", sum_of_bytes(lambda d, n: (d[:-4], n - 1)), "wire.chunks"),
    Lie("a vector that is too long", sum_of_bytes(extra_element), "wire.chunks"),
    Lie("a vector of 16-bit elements", sum_of_bytes(lambda d, n: (d[: 2 * n], n)), "wire.chunks"),
    Lie("a vector of 24-bit elements", sum_of_bytes(lambda d, n: (d[: 3 * n], n)), "wire.chunks"),
    Lie(
        "a vector that is too large to be honest",
        sum_of_bytes(lambda d, n: ((2**31 - 1).to_bytes(4, "little") * n, n)),
        "chain.norm",
    ),
    Lie(
        "a vector without its chunks",
        lambda small, start: dataclasses.replace(start, chunks=()),
        "wire.chunks",
    ),
    Lie(
        "a vector with a chunk too many",
        lambda small, start: dataclasses.replace(start, chunks=(*start.chunks, b"")),
        "wire.chunks",
    ),
    Lie(
        "a vector that does not match its digest",
        lambda small, start: dataclasses.replace(
            start, chunks=(bytes(len(start.chunks[0])), *start.chunks[1:])
        ),
        "wire.chunk-digest",
    ),
    Lie(
        "the vector of the round before",
        lambda small, start: dataclasses.replace(start, chunks=small.old_aggregate.chunks),
        "wire.chunk-digest",
    ),
    Lie(
        "a key of the same helper and round from another run",
        lambda small, start: small.lie(
            start,
            keys=(
                small.read(another_run(small).until(RoundStart, 3)[NORTH]).body.keys[0],
                *small.read(start).body.keys[1:],
            ),
        ),
        "message.carried",
    ),
]


@pytest.fixture(scope="module")
def late_site(folder: Path) -> Iterator[tuple[SmallFederation, Envelope]]:
    """North's site before round 3, and what the leader sent before round 2."""
    small = SmallFederation(folder)
    set_limits(small, resum="never")
    second = small.until(RoundStart, 2)
    message = small.read(second[NORTH])
    small.old_aggregate = dataclasses.replace(message, body=message.body.previous)
    third = small.deliver(second.values(), hold=RoundStart)
    start = next(e for e in third if e.receiver.party == NORTH)
    yield small, start
    (made,) = small.sites[NORTH].receive(start, small.clock())
    assert isinstance(small.read(made).body, Upload)


@pytest.mark.parametrize(**by_name(AT_SITE_THREE))
def test_before_a_later_round_a_site_is_sent(lie, late_site):
    small, start = late_site
    site_leaks_nothing(small, lie.make(small, start), lie)


# --- helpers that are missing from a round ----------------------------------------------------------


@pytest.fixture(scope="module")
def leaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SmallFederation, Envelope]]:
    """Three of four helpers suffice; north, whose helper is one of them, insists on south's too."""
    path = tmp_path_factory.mktemp("leaving") / "small"
    write_small_federation(path, job={"aggregation": {"min_helpers": 3}})
    small = SmallFederation(path)
    start = small.until(RoundStart)[NORTH]
    set_limits(small, required_helpers=(SOUTH,), resum="never")
    yield small, start
    keys = small.read(start).body.keys
    (made,) = small.sites[NORTH].receive(small.lie(start, keys=keys[:3]), small.clock())
    assert isinstance(small.read(made).body, Upload)  # without west it does take part


DOWNGRADES = [
    Lie("its own helper", without(NORTH), "limits.own-helper"),
    Lie("a helper that it requires", without(SOUTH), "limits.required-helpers"),
    Lie("more helpers than the plan allows", without(EAST, WEST), "round.helpers"),
    Lie("all other helpers", without(EAST, SOUTH, WEST), "round.helpers"),
    Lie("every helper", without(*SITES), "round.helpers"),
]


@pytest.mark.parametrize(**by_name(DOWNGRADES))
def test_a_round_is_started_without(lie, leaving):
    small, start = leaving
    site_leaks_nothing(small, lie.make(small, start), lie)


def test_helpers_that_the_site_expects_to_collude_are_not_enough(leaving):
    small, start = leaving
    set_limits(small, max_colluding_helpers=3)
    try:
        lie = Lie("", without(WEST), "limits.colluding-helpers")
        site_leaks_nothing(small, lie.make(small, start), lie)
    finally:
        set_limits(small, max_colluding_helpers=1)


def test_a_mask_request_with_fewer_keys_than_the_uploads_were_sealed_to(leaving):
    small, start = leaving
    uploads = [
        small.sites[name].receive(start_of(small, name), small.clock())[0]
        for name in (EAST, SOUTH, WEST)
    ]
    body = small.read(start).body
    request = MaskRequest(body.model, body.keys[:3], tuple(e.message for e in uploads))
    lie = Lie("", without(WEST), "helper.context")
    helper_leaks_nothing(small, forge(small, small.leader.address, helper(NORTH), request, 1), lie)
