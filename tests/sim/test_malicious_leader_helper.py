"""A malicious leader, and who colludes with it, against a helper: no answer, and the key stays unused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tacit.errors import TacitError
from tacit.testing.federation import (
    LEADER,
    SITES,
    SmallFederation,
)
from tacit.testing.lies import (
    ANY_ACCEPT,
    ANY_VECTOR,
    EAST,
    NORTH,
    SOUTH,
    WEST,
    Lie,
    another_run,
    by_leader,
    by_name,
    client,
    forge,
    helper,
    helper_leaks_nothing,
    key_of,
    plus_group_order,
    raw,
    resigned,
    seeds_of,
    site_leaks_nothing,
    start_of,
    unserved,
    upload_as,
    with_key,
    with_upload,
    without,
)
from tacit.types import Role
from tacit.wire.envelope import (
    Address,
    Envelope,
    digest,
    split_chunks,
)
from tacit.wire.messages import (
    Aggregate,
    CohortMember,
    Kept,
    KeyRequest,
    MaskRequest,
    MaskSum,
    Refusal,
    RoundAbort,
    RoundStart,
    SealedSeed,
    Upload,
)

# --- a leader against a helper --------------------------------------------------------------------


def seeds_swapped(small: SmallFederation, honest: Envelope) -> bytes:
    """The seeds of two helpers in each other's place."""
    first, second, *rest = small.read(honest).body.seeds
    swapped = (SealedSeed(first.helper, second.sealed), SealedSeed(second.helper, first.sealed))
    return small.lie(honest, seeds=(*swapped, *rest)).message


def copied_seeds(small: SmallFederation, request: Envelope) -> Envelope:
    """East, a client, claims the seeds of south as its own."""
    uploads = small.read(request).body.uploads
    copied = small.lie(raw(small, uploads[0]), seeds=seeds_of(small, uploads[2]))
    return small.lie(request, uploads=(copied.message, *uploads[1:]))


def seeds_of_another_run(small: SmallFederation, request: Envelope) -> Envelope:
    other = small.read(another_run(small).until(MaskRequest)[NORTH]).body.uploads[0]
    signed = raw(small, small.read(request).body.uploads[0])
    replayed = small.lie(signed, seeds=seeds_of(small, other)).message
    return with_upload(0, lambda *_: replayed)(small, request)


def carried(body: Any, role: Role) -> Any:
    """Another kind of message in the place of an upload."""

    def make(small: SmallFederation, honest: Envelope) -> bytes:
        return forge(small, Address(EAST, role), small.leader.address, body, 1).message

    return make


AT_HELPER = [
    Lie(
        "another model than the cohort's",
        lambda small, request: small.lie(request, model=digest(b"other")),
        "helper.context",
    ),
    Lie(
        "keys without its own",
        lambda small, request: small.lie(
            request,
            keys=tuple(k for i, k in enumerate(small.read(request).body.keys) if SITES[i] != NORTH),
        ),
        "round.helpers",
    ),
    Lie(
        "another key in its own name",
        with_key(1, lambda small, n: key_of(small, NORTH, n, bytes(range(32)))),
        "helper.other-key",
    ),
    Lie(
        "another key of its own under the leader's signature",
        with_key(1, lambda small, n: key_of(small, NORTH, n, bytes(range(32)), signer=LEADER)),
        "trust.signature",
    ),
    Lie(
        "another key of another helper",
        with_key(0, lambda small, n: key_of(small, EAST, n, bytes(range(32)))),
        "helper.context",
    ),
    Lie(
        "keys in another order",
        lambda small, request: small.lie(request, keys=small.read(request).body.keys[::-1]),
        "round.helper-keys",
    ),
    Lie(
        "a key of another round",
        with_key(0, lambda small, n: key_of(small, EAST, n + 1, bytes(range(32)))),
        "round.stale-key",
    ),
    Lie(
        "a cohort below the minimum",
        lambda small, request: small.lie(request, uploads=small.read(request).body.uploads[:2]),
        "helper.cohort-too-small",
    ),
    Lie(
        "one client twice",
        lambda small, request: small.lie(
            request,
            uploads=(small.read(request).body.uploads[0], *small.read(request).body.uploads),
        ),
        "helper.cohort",
    ),
    Lie(
        "two uploads of one client",
        lambda small, request: small.lie(
            request,
            uploads=(
                small.lie(raw(small, small.read(request).body.uploads[1]), seeds=()).message,
                *small.read(request).body.uploads[1:],
            ),
        ),
        "helper.cohort",
    ),
    Lie(
        "an upload that the leader made up",
        with_upload(0, upload_as(client(EAST), signer=LEADER)),
        "trust.signature",
    ),
    Lie(
        "an upload by the leader as a client",
        with_upload(0, upload_as(client(LEADER))),
        "trust.role",
    ),
    Lie("an upload by a helper", with_upload(0, upload_as(helper(EAST))), "message.carried"),
    Lie(
        "an upload signed for another round",
        with_upload(0, upload_as(client(EAST), 2)),
        "helper.context",
    ),
    Lie(
        "an upload with its signature's group order added",
        with_upload(0, lambda small, honest: resigned(honest, plus_group_order).message),
        "trust.signature",
    ),
    Lie(
        "a mask sum as an upload",
        with_upload(0, carried(MaskSum(bytes(32), bytes(32), ANY_VECTOR), "helper")),
        "message.carried",
    ),
    Lie(
        "an accept as an upload",
        with_upload(0, carried(ANY_ACCEPT, "client")),
        "message.carried",
    ),
    Lie("copied seeds of another client", copied_seeds, "secagg.seed"),
    Lie("seeds in another helper's place", with_upload(0, seeds_swapped), "secagg.seed"),
    Lie("seeds of another run", seeds_of_another_run, "secagg.seed"),
    Lie(
        "an upload without a seed for it",
        with_upload(
            0,
            lambda small, honest: (
                small.lie(
                    honest,
                    seeds=tuple(s for s in small.read(honest).body.seeds if s.helper != NORTH),
                ).message
            ),
        ),
        "helper.seed-missing",
    ),
    Lie("round 0", lambda small, request: by_leader(small, request, round=0)),
    Lie(
        "a future round",
        lambda small, request: by_leader(small, request, round=2),
        "helper.no-key",
    ),
    Lie(
        "a round above the plan",
        lambda small, request: by_leader(small, request, round=9),
        "helper.no-key",
    ),
    Lie(
        "a round's start", unserved(RoundStart(bytes(32), bytes(32), (), (), None)), "message.kind"
    ),
    Lie("an upload", unserved(Upload(bytes(32), (), ANY_VECTOR)), "message.kind"),
    Lie("a kept vector", unserved(Kept(0, b"x")), "message.kind"),
]


@pytest.mark.parametrize(**by_name(AT_HELPER))
def test_a_helper_is_sent(lie, helper_one):
    small, request = helper_one
    helper_leaks_nothing(small, lie.make(small, request), lie)


# --- a leader and parties that collude with it ------------------------------------------------------


def test_two_keys_of_one_helper_split_the_cohort_and_nobody_answers(small):
    """East's helper signs two keys for one round; the leader shows south another one than the rest."""
    start = small.until(RoundStart)[SOUTH]
    other = with_key(
        0, lambda s, n: key_of(s, EAST, n, s.leader.address.role.encode().ljust(32, b""))
    )
    made = {
        name: small.sites[name].receive(start_of(small, name), small.clock())[0]
        for name in (EAST, NORTH, WEST)
    }
    (made[SOUTH],) = small.sites[SOUTH].receive(other(small, start), small.clock())
    body = small.read(start).body
    request = MaskRequest(body.model, body.keys, tuple(made[n].message for n in SITES))
    lie = Lie("", other, "helper.context")
    helper_leaks_nothing(small, forge(small, small.leader.address, helper(NORTH), request, 1), lie)
    assert small.leader.receive(made[SOUTH], small.clock()) == []
    assert small.leader._excluded == {SOUTH}  # what an honest leader makes of it


def test_an_equivocated_cohort_gives_answers_that_no_site_accepts(small):
    """Two helpers are asked for all four, two for three: each answers once, and no sum comes of it."""
    requests = small.until(MaskRequest)
    uploads = small.read(requests[NORTH]).body.uploads
    answers = []
    for name in SITES:
        asked = (
            requests[name]
            if name in (EAST, WEST)
            else small.lie(requests[name], uploads=uploads[1:])
        )
        answer, _ = small.helpers[name].receive(asked, small.clock())
        answers.append(answer)
        for again in (requests[name], small.lie(requests[name], uploads=uploads[1:])):
            assert small.helpers[name].receive(again, small.clock())[0] == answer
    start = small.leader._desk.start
    members = tuple(
        CohortMember(small.read(raw(small, u)).sender.party, digest(u)) for u in uploads
    )
    vector, chunks = split_chunks(
        bytes(4 * small.terms.manifest.length), small.terms.manifest.length
    )
    for cohort in (members, members[1:]):
        lie = Aggregate(1, start.keys, cohort, tuple(a.message for a in answers), vector)
        second = forge(
            small,
            small.leader.address,
            client(NORTH),
            dataclasses.replace(start, previous=lie),
            2,
            chunks=chunks,
        )
        site_leaks_nothing(small, second, Lie("", without(), "round.stale-key"))
    # The honest leader drops the round at the first answer that is not for its cohort.
    sent = small.leader.receive(answers[1], small.clock())
    assert {type(small.read(one).body) for one in sent} == {RoundAbort, KeyRequest}
    assert small.leader.chain.applied == 0


def test_seeds_of_the_round_before_open_in_no_other_round(small):
    first = small.until(MaskRequest)
    old = small.read(first[NORTH]).body.uploads[0]
    second = small.deliver(first.values(), hold=MaskRequest)
    request = next(e for e in second if e.receiver.party == NORTH)
    assert small.read(request).round == 2
    replayed = with_upload(0, lambda s, honest: s.lie(honest, seeds=seeds_of(s, old)).message)
    whole = with_upload(0, lambda s, honest: old)
    again = with_upload(
        0,
        lambda s, honest: (
            forge(s, client(EAST), s.leader.address, s.read(raw(s, old)).body, 2).message
        ),
    )
    for make, code in (
        (replayed, "secagg.seed"),
        (whole, "helper.context"),
        (again, "helper.context"),
    ):
        helper_leaks_nothing(small, make(small, request), Lie("", make, code))
    # The request of round 1 gets the stored answer, never another one.
    fewer = small.lie(first[NORTH], uploads=small.read(first[NORTH]).body.uploads[1:])
    once = small.helpers[NORTH].receive(first[NORTH], small.clock())
    assert small.helpers[NORTH].receive(fewer, small.clock()) == once


def test_a_round_that_went_by_gets_no_answer(small):
    """The key of round 1 was replaced before anybody asked."""
    request = small.until(MaskRequest)[NORTH]
    ask = forge(small, small.leader.address, helper(NORTH), KeyRequest("lost"), 2)
    (key,) = small.helpers[NORTH].receive(ask, small.clock())
    assert small.read(key).round == 2
    helper_leaks_nothing(small, request, Lie("", without()))


def test_a_key_that_has_expired_opens_nothing(small):
    request = small.until(MaskRequest)[NORTH]
    opener = small.helpers[NORTH]._keys[small.terms.run].opener
    later = small.clock() + 3 * small.terms.phase
    (made,) = small.helpers[NORTH].receive(request, later)
    assert small.read(made).body == Refusal("helper.no-key", "")
    with pytest.raises(TacitError, match="erased"):
        opener.open(b"", b"")


def test_no_request_makes_a_helper_sign_two_keys_for_one_round(small):
    small.until(RoundStart)
    party = small.helpers[NORTH]
    kept = party.state(small.terms.run_id).get("key-message")
    for number in (0, 1):
        ask = forge(small, small.leader.address, helper(NORTH), KeyRequest("again"), number)
        (made,) = party.receive(ask, small.clock())
        assert made.message == kept
    beyond = forge(small, small.leader.address, helper(NORTH), KeyRequest("more"), 9)
    stranger = forge(small, client(EAST), helper(NORTH), KeyRequest("mine"), 2)
    for ask in (beyond, stranger):
        helper_leaks_nothing(small, ask, Lie("", without()))
    small.restart(NORTH)
    ask = forge(small, small.leader.address, helper(NORTH), KeyRequest("again"), 1)
    (made,) = small.helpers[NORTH].receive(ask, small.clock())
    assert small.read(made).round == 2  # the private half of round 1 is gone: never a second one
