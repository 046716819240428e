"""Messages that prove no sender or were made for another place, at every party; what is tested elsewhere."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from tacit.errors import DecodeError, RemoteProtocolError, SignatureError
from tacit.testing.federation import (
    LEADER,
    SmallFederation,
)
from tacit.testing.lies import (
    EAST,
    NORTH,
    SOUTH,
    Lie,
    by_leader,
    by_name,
    client,
    helper_leaks_nothing,
    plus_group_order,
    resigned,
    site_leaks_nothing,
)
from tacit.trust.roster import Member, Roster
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import (
    MAX_MESSAGE,
    Envelope,
    Header,
    SignedMessage,
)

# --- messages that prove no sender, or were made for another place --------------------------------


def oversized(small: SmallFederation, honest: Envelope) -> Envelope:
    return dataclasses.replace(honest, message=bytes(MAX_MESSAGE + 1))


def flipped(small: SmallFederation, honest: Envelope) -> Envelope:
    return resigned(honest, lambda s: s[:40] + bytes([s[40] ^ 4]) + s[41:])


def changed_header(small: SmallFederation, honest: Envelope) -> Envelope:
    """Another round under the old signature."""
    signed = decode(SignedMessage, honest.message, MAX_MESSAGE)
    header = decode(Header, signed.header, MAX_MESSAGE)
    other = encode(dataclasses.replace(header, round=header.round + 1))
    return dataclasses.replace(honest, message=encode(SignedMessage(other, signed.signature)))


TRANSPORT = [
    Lie("a flipped bit in the signature", flipped, "trust.signature", SignatureError),
    Lie(
        "a changed header under the old signature",
        changed_header,
        "trust.signature",
        SignatureError,
    ),
    Lie(
        "a signature with the group order added (S + L)",
        lambda small, honest: resigned(honest, plus_group_order),
        "trust.signature",
        SignatureError,
    ),
    Lie(
        "a signature whose point has the other sign",
        lambda small, honest: resigned(honest, lambda s: s[:31] + bytes([s[31] ^ 128]) + s[32:]),
        "trust.signature",
        SignatureError,
    ),
    Lie(
        "a signature of the neutral element",
        lambda small, honest: resigned(honest, lambda s: b"\x01" + bytes(63)),
        "trust.signature",
        SignatureError,
    ),
    Lie(
        "the leader's name under a client's signature",
        lambda small, honest: by_leader(small, honest, signer=EAST),
        "trust.signature",
        SignatureError,
    ),
    Lie(
        "the leader in the role of a client",
        lambda small, honest: by_leader(small, honest, sender=f"{LEADER}/client"),
        "trust.role",
        SignatureError,
    ),
    Lie(
        "a client in the role of the leader",
        lambda small, honest: by_leader(small, honest, sender=f"{EAST}/leader", signer=EAST),
        "trust.role",
        SignatureError,
    ),
    Lie(
        "a party that is not in the roster",
        lambda small, honest: by_leader(small, honest, sender="stranger/leader"),
        "trust.unknown-party",
        SignatureError,
    ),
    Lie(
        "a client that sends it in its own name",
        lambda small, honest: by_leader(small, honest, sender=f"{EAST}/client", signer=EAST),
    ),
    Lie(
        "a message of an unknown run",
        lambda small, honest: by_leader(small, honest, run=bytes(32)),
    ),
    Lie(
        "a message of another roster",
        lambda small, honest: by_leader(small, honest, roster=bytes(32)),
    ),
    Lie(
        "a message of another job",
        lambda small, honest: by_leader(small, honest, job=bytes(32)),
    ),
    Lie(
        "a message for another party",
        lambda small, honest: by_leader(small, honest, receiver=f"{SOUTH}/{honest.receiver.role}"),
        "message.receiver",
        RemoteProtocolError,
    ),
    Lie(
        "a message for the party's other role",
        lambda small, honest: by_leader(small, honest, receiver=f"{NORTH}/leader"),
        "message.receiver",
        RemoteProtocolError,
    ),
    Lie(
        "an unknown message type",
        lambda small, honest: by_leader(small, honest, type="reveal-key"),
        "wire.type",
        DecodeError,
    ),
    Lie(
        "a body of another type than the header says",
        lambda small, honest: by_leader(small, honest, type="finish"),
        "wire.fields",
        DecodeError,
    ),
    Lie("a message beyond the limit", oversized, "wire.too-long", DecodeError),
    Lie(
        "bytes after the message",
        lambda small, honest: dataclasses.replace(honest, message=honest.message + b"\x00"),
        "wire.syntax",
        DecodeError,
    ),
    Lie(
        "half a message",
        lambda small, honest: dataclasses.replace(honest, message=honest.message[:-40]),
        "wire.syntax",
        DecodeError,
    ),
]


@pytest.mark.parametrize(**by_name(TRANSPORT))
def test_a_site_gets(lie, site_one):
    small, start = site_one
    site_leaks_nothing(small, lie.make(small, start), lie)


@pytest.mark.parametrize(**by_name(TRANSPORT))
def test_a_helper_gets(lie, helper_one):
    small, request = helper_one
    helper_leaks_nothing(small, lie.make(small, request), lie)


@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18])
def test_a_key_under_which_anybody_can_sign_authenticates_nobody(folder, y):
    """Keys of small order, also in encodings beyond the field: R = A = neutral, S = 0 would verify."""
    weak = y.to_bytes(32, "little")
    member = Member(EAST, "east-clinic", "eu", ("client", "helper"), weak)
    roster = Roster("small", (member,))
    for point in (b"\x01" + bytes(31), weak):
        with pytest.raises(SignatureError):
            roster.authenticate(client(EAST), b"anything", point + bytes(32))


# --- what other files test --------------------------------------------------------------------------

ELSEWHERE = {
    "two starts of one round": "tests/unit/test_party_site.py::test_one_upload_per_round",
    "an earlier round again": "tests/unit/test_party_site.py::test_an_earlier_round_is_never_repeated",
    "a first model without every accept": "tests/unit/test_party_site.py::test_the_first_model_needs_every_accept",
    "a sum with another upload than was sent": "tests/unit/test_party_site.py::test_a_sum_with_another_upload_than_was_sent_is_refused",
    "two aggregates of one round": "tests/unit/test_party_site.py::test_an_equivocating_aggregate_is_refused",
    "an offer for another run than its manifest": "tests/unit/test_party_site.py::test_an_offer_for_another_run_than_its_manifest_gets_no_answer",
    "a bomb in the plan": "tests/unit/test_party_site.py::test_a_bomb_in_the_plan_gets_no_answer",
    "rounds that never give a result": "tests/unit/test_party_site.py::test_too_many_rounds_without_a_result_are_refused",
    "a run that goes on after its end": "tests/unit/test_party_site.py::test_a_closed_run_stays_closed",
    "another cohort after the answer": "tests/unit/test_party_helper.py::test_answers_one_cohort_only",
    "an upload of another run in the cohort": "tests/unit/test_party_helper.py::test_an_upload_of_another_run_is_refused",
    "another cohort without noise": "tests/unit/test_party_helper.py::test_without_noise_the_cohort_must_not_change",
    "a tampered seed": "tests/unit/test_party_helper.py::test_a_tampered_seed_names_its_client",
    "an answer for another cohort": "tests/unit/test_party_coordinator.py::test_a_helper_that_answers_for_another_cohort_is_named",
    "seeds that do not open": "tests/unit/test_party_coordinator.py::test_a_client_whose_seeds_do_not_open_is_left_out_of_later_rounds",
    "an old aggregate for a late joiner": "tests/unit/test_party_late.py::test_an_old_aggregate_does_not_take_a_site_back",
    "a proof that nobody asked for": "tests/unit/test_party_late.py::test_nobody_catches_up_without_having_asked",
    "an aggregate that is not its sum": "tests/unit/test_party_readd.py::test_a_leader_that_publishes_another_sum_is_convicted",
    "a leader that outwaits a check": "tests/unit/test_party_readd.py::test_a_leader_cannot_outwait_what_is_owed",
    "a leader's store that was changed": "tests/unit/test_party_readd.py::test_an_audit_names_a_leader_whose_store_was_changed",
}  # fmt: skip


@pytest.mark.parametrize("place", ELSEWHERE.values(), ids=ELSEWHERE)
def test_the_behaviour_is_tested_elsewhere(place):
    path, _, name = place.partition("::")
    tree = ast.parse((Path(__file__).parents[2] / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
