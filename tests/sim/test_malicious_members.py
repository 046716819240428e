"""Malicious clients, helpers and strangers against the leader: its sum stays as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tacit.errors import DecodeError
from tacit.party.contribute import chunk_info
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
    client,
    forge,
    helper,
    helper_leaks_nothing,
    leader_unmoved,
    plus_group_order,
    raw,
    resigned,
    upload_as,
    with_upload,
)
from tacit.types import PartyName
from tacit.wire.envelope import (
    Address,
    Envelope,
    digest,
    split_chunks,
)
from tacit.wire.messages import (
    CatchUpRequest,
    Finish,
    HelperKey,
    Kept,
    KeptRequest,
    MaskRequest,
    MaskSum,
    Record,
    Refusal,
    RoundAbort,
    RoundStart,
    SealedSeed,
    Upload,
    Vector,
)

# --- clients and helpers against the leader ---------------------------------------------------------


def reseal(
    small: SmallFederation, honest: Envelope, change: Callable[[bytes, int], tuple[Vector, Chunks]]
) -> Envelope:
    """North's upload with another vector, signed by north and encrypted as it should be."""
    work = small.leader._round
    message = small.read(honest)
    plain = [
        work.opener.open(chunk, chunk_info(message.digest, index))
        for index, chunk in enumerate(message.chunks)
    ]
    vector, chunks = change(b"".join(plain), small.terms.manifest.length)
    lie = small.lie(honest, (), vector=vector)
    seal = small.sites[NORTH].ports.sealing.seal
    sealed = tuple(
        seal(chunk, work.opener.public_key, chunk_info(digest(lie.message), index))
        for index, chunk in enumerate(chunks)
    )
    return dataclasses.replace(lie, chunks=sealed)


Chunks = tuple[bytes, ...]


def in_two(data: bytes, length: int) -> tuple[Vector, Chunks]:
    chunks = (data[:8], data[8:])
    return Vector(length, tuple(digest(chunk) for chunk in chunks)), chunks


def unlike_its_digest(data: bytes, length: int) -> tuple[Vector, Chunks]:
    return split_chunks(data, length)[0], (bytes(len(data)),)


BAD_UPLOADS = {
    "cut short": lambda data, n: split_chunks(data[:-4], n - 1),
    "one element too long": lambda data, n: split_chunks(data + bytes(4), n + 1),
    "of 16-bit elements": lambda data, n: split_chunks(data[: 2 * n], n),
    "of 24-bit elements": lambda data, n: split_chunks(data[: 3 * n], n),
    "of twice the length, in the right number of bytes": lambda data, n: split_chunks(data, 2 * n),
    "in two chunks": in_two,
    "with a chunk too many": lambda data, n: (split_chunks(data, n)[0], (data, b"")),
    "without chunks": lambda data, n: (split_chunks(data, n)[0], ()),
    "of nothing": lambda data, n: (Vector(0, ()), ()),
    "unlike its signed digest": unlike_its_digest,
}


@pytest.fixture(scope="module")
def collecting(folder: Path) -> Iterator[tuple[SmallFederation, dict[PartyName, Envelope]]]:
    """The leader before any upload; after all lies its run still ends well, with all four."""
    small = SmallFederation(folder)
    held = small.deliver(small.start(), hold=Upload)
    uploads = {small.read(envelope).sender.party: envelope for envelope in held}
    yield small, uploads
    small.deliver(uploads.values())
    assert small.leader.durable.number("complete") == 1
    assert small.leader.chain.applied == 3


def dropped(small: SmallFederation, envelope: Envelope) -> None:
    """The leader leaves north out of the round, and adds nothing of what it sent."""
    work = small.leader._round
    before = bytes(work._sum.to_bytes())
    assert small.leader.receive(envelope, small.clock()) == []
    assert isinstance(small.leader.failure, DecodeError)
    assert NORTH in work.dropped
    assert NORTH not in work.uploads
    assert bytes(work._sum.to_bytes()) == before


@pytest.mark.parametrize("change", BAD_UPLOADS.values(), ids=BAD_UPLOADS)
def test_the_leader_adds_no_upload(change, collecting):
    small, uploads = collecting
    dropped(small, reseal(small, uploads[NORTH], change))


def test_the_leader_adds_no_upload_that_another_client_copied(collecting):
    """North signs south's vector as its own: the chunks were sealed for south's message only."""
    small, uploads = collecting
    body = small.read(uploads[SOUTH]).body
    copy = forge(small, client(NORTH), small.leader.address, body, 1, chunks=uploads[SOUTH].chunks)
    dropped(small, copy)


def test_the_leader_adds_no_upload_that_was_not_encrypted_to_it(collecting):
    small, uploads = collecting
    data = bytes(4 * small.terms.manifest.length)
    vector, chunks = split_chunks(data, small.terms.manifest.length)
    dropped(small, small.lie(uploads[NORTH], chunks, vector=vector))


Parts = dict[PartyName, Envelope]


def from_client(body: Any, number: int = 1, **header: Any) -> Any:
    return lambda small, uploads: forge(
        small, client(NORTH), small.leader.address, body, number, **header
    )


def from_helper(body: Any, number: int = 1) -> Any:
    return lambda small, uploads: forge(small, helper(NORTH), small.leader.address, body, number)


def upload_under(**header: Any) -> Any:
    """North's honest upload under another header."""

    def lie(small: SmallFederation, uploads: Parts) -> Envelope:
        body = small.read(uploads[NORTH]).body
        return forge(
            small,
            client(NORTH),
            small.leader.address,
            body,
            1,
            chunks=uploads[NORTH].chunks,
            **header,
        )

    return lie


IGNORED = {
    "an upload in north's name, signed by east": (upload_under(signer=EAST), "trust.signature"),
    "an upload in north's name, signed by a stranger's role": (
        upload_under(sender=f"{NORTH}/leader"),
        "trust.role",
    ),
    "an upload with the group order added to its signature": (
        lambda small, uploads: resigned(uploads[NORTH], plus_group_order),
        "trust.signature",
    ),
    "an upload by a helper": (upload_under(sender=f"{NORTH}/helper"), ""),
    "an upload of round 0": (upload_under(round=0), ""),
    "an upload of a future round": (upload_under(round=2), ""),
    "an upload of another run": (upload_under(run=bytes(32)), ""),
    "an upload of another job": (upload_under(job=bytes(32)), ""),
    "an upload of another roster": (upload_under(roster=bytes(32)), ""),
    "an upload for another leader": (upload_under(receiver=f"{EAST}/leader"), "message.receiver"),
    "an answer before the cohort is fixed": (
        from_helper(MaskSum(bytes(32), bytes(32), ANY_VECTOR)),
        "",
    ),
    "a log before the end": (from_client(ANY_RECORD), ""),
    "a second accept": (from_client(ANY_ACCEPT, 0), ""),
    "a client that ends the run": (from_client(Finish(True, bytes(32), None), 0), ""),
    "a client that aborts the round": (from_client(RoundAbort("x")), ""),
    "a client that starts a round": (
        from_client(RoundStart(bytes(32), bytes(32), (), (), None)),
        "",
    ),
    "a client that asks for unmasking": (from_client(MaskRequest(bytes(32), (b"x",), (b"x",))), ""),
    "a client's helper key": (from_client(HelperKey(bytes(32))), ""),
    "a helper's second key of this round": (from_helper(HelperKey(bytes(32))), ""),
    "a helper's key beyond the plan": (from_helper(HelperKey(bytes(32)), 9), ""),
    "a request for a vector of the open round": (from_client(KeptRequest(0, bytes(range(32)))), ""),
    "a request for a vector by a helper": (from_helper(KeptRequest(0, bytes(range(32)))), ""),
    "a request for a state before there is one": (from_client(CatchUpRequest(0)), ""),
    "a refusal of an earlier round": (from_client(Refusal("no", EAST), 0), ""),
    "a refusal of a later round by a helper": (from_helper(Refusal("no", EAST), 2), ""),
}


@pytest.mark.parametrize(("make", "code"), IGNORED.values(), ids=IGNORED)
def test_the_leader_is_not_moved_by(make, code, collecting):
    small, uploads = collecting
    keys = [key.raw for key in small.leader._helpers.ready(1)]
    leader_unmoved(small, make(small, uploads), code)
    assert [key.raw for key in small.leader._helpers.ready(1)] == keys


@pytest.fixture(scope="module")
def unmasking(folder: Path) -> Iterator[tuple[SmallFederation, Parts]]:
    """The leader before any answer; after all lies it takes the honest ones."""
    small = SmallFederation(folder)
    held = small.deliver(small.start(), hold=MaskSum)
    answers = {small.read(envelope).sender.party: envelope for envelope in held}
    yield small, answers
    small.deliver(answers.values())
    assert small.leader.durable.number("complete") == 1


def answer_under(**header: Any) -> Any:
    """North's honest answer under another header."""

    def lie(small: SmallFederation, answers: Parts) -> Envelope:
        body = small.read(answers[NORTH]).body
        return forge(
            small,
            helper(NORTH),
            small.leader.address,
            body,
            1,
            chunks=answers[NORTH].chunks,
            **header,
        )

    return lie


IGNORED_ANSWERS = {
    "an answer in another helper's name": (answer_under(signer=EAST), "trust.signature"),
    "an answer signed by a client": (answer_under(sender=f"{NORTH}/client"), ""),
    "an answer of the leader": (
        answer_under(sender=f"{LEADER}/helper", signer=LEADER),
        "trust.role",
    ),
    "an answer of a future round": (answer_under(round=2), ""),
    "an answer of another run": (answer_under(run=bytes(32)), ""),
    "an upload after the cohort was fixed": (
        from_client(Upload(bytes(32), (), ANY_VECTOR)),
        "",
    ),
    "a client's refusal after the cohort was fixed": (from_client(Refusal("no", EAST)), ""),
    "a request for a masked vector of the open round": (
        from_client(KeptRequest(0, bytes(range(32)))),
        "",
    ),
}


@pytest.mark.parametrize(("make", "code"), IGNORED_ANSWERS.values(), ids=IGNORED_ANSWERS)
def test_while_it_unmasks_the_leader_is_not_moved_by(make, code, unmasking):
    small, answers = unmasking
    leader_unmoved(small, make(small, answers), code)


BAD_ANSWERS = {
    "cut short": lambda data, n: split_chunks(data[:-4], n - 1),
    "of 16-bit elements": lambda data, n: split_chunks(data[: 2 * n], n),
    "in two chunks": in_two,
    "without chunks": lambda data, n: (split_chunks(data, n)[0], ()),
    "unlike its signed digest": unlike_its_digest,
}


@pytest.mark.parametrize("change", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_the_round_ends_without_a_sum_after_an_answer(change, small):
    held = small.deliver(small.start(), hold=MaskSum)
    answers = {small.read(envelope).sender.party: envelope for envelope in held}
    vector, chunks = change(b"".join(answers[NORTH].chunks), small.terms.manifest.length)
    sent = small.leader.receive(small.lie(answers[NORTH], chunks, vector=vector), small.clock())
    assert isinstance(small.leader.failure, DecodeError)
    bodies = [small.read(one).body for one in sent]
    assert sum(isinstance(body, RoundAbort) for body in bodies) == len(SITES)
    assert all(body.previous is None for body in bodies if isinstance(body, RoundStart))
    assert small.leader.chain.applied == 0


def excluded(small: SmallFederation, envelope: Envelope) -> None:
    """The leader leaves north out of this and all later rounds."""
    before = bytes(small.leader._round._sum.to_bytes())
    assert small.leader.receive(envelope, small.clock()) == []
    assert small.leader.failure.details["party"] == NORTH
    assert small.leader._excluded == {NORTH}
    assert bytes(small.leader._round._sum.to_bytes()) == before


EXCLUDING = {
    "for another context": lambda body: {"context": bytes(32)},
    "with a seed missing": lambda body: {"seeds": body.seeds[1:]},
    "with a seed twice": lambda body: {"seeds": (*body.seeds, body.seeds[0])},
    "with seeds in another order": lambda body: {"seeds": body.seeds[::-1]},
    "with a seed for a stranger": lambda body: {
        "seeds": (SealedSeed("stranger", b"x"), *body.seeds[1:])
    },
    "with no seeds": lambda body: {"seeds": ()},
}


@pytest.mark.parametrize("change", EXCLUDING.values(), ids=EXCLUDING)
def test_the_leader_excludes_a_client_that_uploads(change, small):
    held = small.deliver(small.start(), hold=Upload)
    honest = next(e for e in held if small.read(e).sender.party == NORTH)
    excluded(small, small.lie(honest, **change(small.read(honest).body)))


def test_an_upload_of_the_round_before_is_not_added_again(small):
    first = small.deliver(small.start(), hold=Upload)
    second = small.deliver(first, hold=Upload)
    assert {small.read(e).round for e in second} == {2}
    old = next(e for e in first if small.read(e).sender.party == NORTH)
    leader_unmoved(small, old)
    replayed = forge(
        small, client(NORTH), small.leader.address, small.read(old).body, 2, chunks=old.chunks
    )
    excluded(small, replayed)


def test_a_second_upload_of_a_client_replaces_nothing(small):
    held = small.deliver(small.start(), hold=Upload)
    honest = next(e for e in held if small.read(e).sender.party == NORTH)
    other = reseal(small, honest, lambda data, n: split_chunks(bytes(len(data)), n))
    assert small.leader.receive(honest, small.clock()) == []
    leader_unmoved(small, other)
    leader_unmoved(small, honest)


@pytest.fixture(scope="module")
def three_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """West is in the roster, and neither client nor helper of the run."""
    path = tmp_path_factory.mktemp("three") / "small"
    write_small_federation(path, job={"aggregation": {"helpers": [EAST, NORTH, SOUTH]}})
    return path


@pytest.mark.parametrize("number", [1, 2])
def test_strangers_to_the_run_are_not_heard(number, three_folder):
    small = SmallFederation(three_folder, clients=(EAST, NORTH, SOUTH))
    held = small.deliver(small.start(), hold=Upload)
    while small.read(held[0]).round < number:
        held = small.deliver(held, hold=Upload)
    upload = small.read(held[0])
    leader = small.leader.address
    for sender in (client(WEST), helper(WEST)):
        for body, about in (
            (upload.body, number),
            (ANY_ACCEPT, 0),
            (HelperKey(bytes(32)), number + 1),
            (Refusal("no", EAST), number),
            (KeptRequest(0, bytes(range(32))), 1),
            (CatchUpRequest(0), number),
            (ANY_RECORD, 0),
            (MaskSum(upload.body.context, bytes(32), ANY_VECTOR), number),
        ):
            leader_unmoved(small, forge(small, sender, leader, body, about, chunks=upload.chunks))
    request = next(e for e in small.deliver(held, hold=MaskRequest) if e.receiver.party == NORTH)
    stranger = with_upload(0, upload_as(client(WEST), number))
    helper_leaks_nothing(small, stranger(small, request), Lie("", stranger, "helper.cohort"))


def test_kept_vectors_go_to_clients_of_the_run_who_ask_for_what_there_is(small):
    small.deliver(small.deliver(small.start(), hold=Upload), hold=Upload)
    leader, key = small.leader.address, small.leader.ports.sealing.generate().public_key
    for sender, body, number in (
        (helper(NORTH), KeptRequest(0, key), 1),
        (client(NORTH), KeptRequest(8, key), 1),  # four uploads, four answers
        (client(NORTH), KeptRequest(0, key), 2),  # the open round
        (client(NORTH), KeptRequest(0, key), 0),
        (client(NORTH), KeptRequest(0, JUNK_KEY), 1),
        (client(NORTH), CatchUpRequest(1), 2),  # it is not behind
    ):
        leader_unmoved(small, forge(small, sender, leader, body, number))
    honest = forge(small, client(NORTH), leader, KeptRequest(7, key), 1)
    (kept,) = small.leader.receive(honest, small.clock())
    assert isinstance(small.read(kept).body, Kept)


def test_an_old_key_of_a_helper_is_not_used_again(small):
    """A replayed key of round 1 takes nobody's place in round 2."""
    first = small.until(RoundStart)
    old = small.read(first[NORTH]).body.keys
    second = small.deliver(first.values(), hold=RoundStart)
    fresh = small.read(second[0]).body.keys
    assert {small.read(raw(small, key)).round for key in fresh} == {2}
    for key in old:
        leader_unmoved(small, raw(small, key))
    assert tuple(key.raw for key in small.leader._helpers.ready(2)) == fresh


# --- framing ----------------------------------------------------------------------------------------


def test_a_client_cannot_frame_another_one(small):
    small.until(RoundStart)
    framing = forge(small, client(EAST), small.leader.address, Refusal("no", NORTH), 1)
    assert small.leader.receive(framing, small.clock()) == []
    assert small.leader._round.dropped == {EAST}  # it costs whoever refuses the round
    assert small.leader._excluded == set()


def test_a_helper_that_names_nobody_of_the_run_excludes_nobody(small):
    small.until(MaskRequest)
    for culprit in ("", "stranger", LEADER):
        framing = forge(small, helper(EAST), small.leader.address, Refusal("no", culprit), 1)
        sent = small.leader.receive(framing, small.clock())
        assert small.leader._excluded == set()
        small.leader.phase, small.leader._failed_rounds = "unmasking", 0
        assert not any(isinstance(small.read(one).body, RoundStart) for one in sent)


def test_a_helper_that_frames_clients_never_gets_a_smaller_sum(small):
    """It can keep them out of sums, but the fewest that a sum may hold stay as agreed."""
    small.until(MaskRequest)
    held: list[Envelope] = []
    for number, culprit in ((1, NORTH), (2, SOUTH)):
        framing = forge(small, helper(EAST), small.leader.address, Refusal("no", culprit), number)
        held = small.deliver(small.leader.receive(framing, small.clock()), hold=MaskRequest)
    assert held == []  # two are left of three that a sum needs
    assert small.leader._excluded == {NORTH, SOUTH}
    assert small.leader.chain.applied == 0


# --- the end ----------------------------------------------------------------------------------------


def test_nobody_but_the_leader_ends_a_run(small):
    start = small.until(RoundStart)[NORTH]
    finish = Finish(True, bytes(32), None)
    for sender in (client(EAST), helper(EAST), client(NORTH)):
        for role in ("client", "helper"):
            party = small.party(Address(NORTH, role))
            before = len(party.ports.log)
            lie = forge(small, sender, party.address, finish)
            assert party.receive(lie, small.clock()) == []
            assert len(party.ports.log) == before
            assert party.state(small.terms.run_id).number("closed") == 0
    assert small.sites[NORTH].budget.spent("everyone").reserved_epsilon > 0
    (made,) = small.sites[NORTH].receive(start, small.clock())
    assert isinstance(small.read(made).body, Upload)


def test_a_released_model_that_does_not_follow_is_recorded_and_the_whole_plan_charged(small):
    held = small.deliver(small.start(), hold=Finish)
    finish = next(e for e in held if e.receiver == client(NORTH))
    site = small.sites[NORTH]
    (record,) = site.receive(small.lie(finish, model=bytes(32)), small.clock())
    assert site.last_error.code == "finish.model"
    assert isinstance(small.read(record).body, Record)
    assert b"finish.model" in b"".join(record.chunks)
    assert float(site.budget.spent("everyone").epsilon) == small.terms.plan.epsilon()


def test_a_log_in_another_partys_name_is_not_taken(small):
    records = small.deliver(small.start(), hold=Record)
    honest = next(e for e in records if small.read(e).sender.party == NORTH)
    body = small.read(honest).body
    lie = forge(
        small, client(SOUTH), small.leader.address, body, signer=NORTH, chunks=honest.chunks
    )
    leader_unmoved(small, lie, "trust.signature")
    assert f"log-{SOUTH}" not in small.leader.transcript.items()
    small.deliver(records)
    assert small.leader.phase == "closed"
