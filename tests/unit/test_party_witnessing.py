"""The parties cosign each other's logs, and name whoever shows another history."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tacit.ledger.log import Log, log_origin
from tacit.ledger.note import open_cosigned
from tacit.party import circulation
from tacit.party.heads import PeerHeads
from tacit.party.witnessing import Duties
from tacit.testing.federation import LEADER, SITES, SmallFederation, write_small_federation
from tacit.types import Milliseconds, PartyName
from tacit.wire.envelope import Envelope
from tacit.wire.messages import Cosigned, Record, RoundStart, WitnessAnswer, WitnessRequest

EAST, NORTH, SOUTH, WEST = SITES


@pytest.fixture
def small(tmp_path):
    write_small_federation(tmp_path / "small")
    return SmallFederation(tmp_path / "small")


def cosigners(small, name: PartyName) -> set[str]:
    """Who cosigned the final head of a party's log."""
    federation = small.roster.federation
    keys = {log_origin(federation, m.name): m.key for m in small.roster.members}
    origin = log_origin(federation, name)
    owner = (origin, keys.pop(origin))
    note = small.leader.transcript.get(f"checkpoint-{name}")
    _, times, unknown = open_cosigned(note, owner, keys)
    assert not unknown
    return {found.rpartition("/")[2] for found in times}


def refusals(small, name: PartyName) -> list[dict]:
    log = small.leader.ports.log if name == LEADER else small.sites[name].ports.log
    events = [json.loads(data) for _, data in log.events()]
    return [event for event in events if event["type"] == "witness.refused"]


def requests(small, number: int) -> dict[PartyName, Envelope]:
    """The leader's requests of a round, undelivered; everything before was delivered."""
    seen: dict[PartyName, Envelope] = {}

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        if isinstance(message.body, WitnessRequest) and message.round == number:
            seen[envelope.receiver.party] = envelope
        return envelope

    small.run(tap=tap)
    return seen


def test_everybody_cosigns_the_final_log_of_everybody(small):
    small.run()
    for name in (LEADER, *SITES):
        assert cosigners(small, name) == {str(one) for one in (LEADER, *SITES)} - {str(name)}
        assert refusals(small, name) == []
    assert small.leader.phase == "closed"


def test_a_second_run_goes_on_from_the_heads_of_the_first(tmp_path, small):
    small.run()
    again = SmallFederation(tmp_path / "small", seed=1, files=small.files, stores=small.stores)
    again.run()
    for name in (LEADER, *SITES):
        assert len(cosigners(again, name)) == len(SITES)
        assert refusals(again, name) == []


def test_lost_and_repeated_requests_cost_cosignatures_only(small):
    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        asked = isinstance(message.body, WitnessRequest | WitnessAnswer)
        return (
            None if asked and NORTH in (envelope.receiver.party, message.sender.party) else envelope
        )

    small.run(tap=tap)
    assert small.leader.durable.number("complete") == 1
    assert cosigners(small, EAST) == {LEADER, SOUTH, WEST}
    assert cosigners(small, NORTH) == {LEADER, EAST, SOUTH, WEST}  # its record came all the same


def test_an_old_request_is_not_answered(small):
    old = requests(small, 1)
    for name in SITES:
        assert small.sites[name].receive(old[name], small.clock()) == []
        assert refusals(small, name) == []


def test_a_request_to_the_other_address_of_a_party_is_not_answered(small):
    small.until(RoundStart)
    body = WitnessRequest(logs=(), cosigned=())
    helper = small.helpers[NORTH]
    lie = small.leader.send(small.terms, helper.address, body, round_number=3)
    assert helper.receive(lie, small.clock()) == []
    assert (
        len(
            small.sites[NORTH].receive(
                small.leader.send(small.terms, small.sites[NORTH].address, body, round_number=3),
                small.clock(),
            )
        )
        == 1
    )


def other_log(small, size: int) -> Log:
    """Another history of the leader's log, signed with its key."""
    other = Log(type(small.stores[LEADER])(), log_origin(small.roster.federation, LEADER),
                small.identity(LEADER))  # fmt: skip
    with other._store.transaction():
        for number in range(size):
            other.append({"type": "other.history", "number": number}, Milliseconds(0))
    return other


def test_two_histories_of_one_log_are_never_both_cosigned(small):
    """A leader shows north another log than everybody else."""
    asked: list[int] = []

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        if not isinstance(message.body, WitnessRequest) or envelope.receiver.party != NORTH:
            return envelope
        if message.round == 1:
            size = len(small.leader.ports.log)
            note = other_log(small, size).checkpoint()
            asked.append(size)
            first = dataclasses.replace(message.body.logs[0], note=note)
            return small.lie(envelope, logs=(first,))
        return envelope

    small.run(tap=tap)
    assert asked
    assert small.leader.durable.number("complete") == 1
    (found,) = refusals(small, NORTH)
    assert (found["log"], found["code"]) == (LEADER, "witness.forked")
    assert cosigners(small, LEADER) == {EAST, SOUTH, WEST}
    refused = [k for k in small.leader.transcript.items() if k.startswith("refused/")]
    assert refused == [f"refused/{LEADER}/{NORTH}"]


def test_what_one_witness_saw_is_in_the_evidence(small):
    """The head that the leader showed to north alone is in north's record, signed by the leader."""
    shown: list[bytes] = []

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        asked = isinstance(message.body, WitnessRequest) and envelope.receiver.party == NORTH
        if not asked or message.round != 1:
            return envelope
        shown.append(other_log(small, len(small.leader.ports.log)).checkpoint())
        return small.lie(envelope, logs=(dataclasses.replace(message.body.logs[0], note=shown[0]),))

    small.run(tap=tap)

    def remembered(name: PartyName) -> dict[str, str]:
        lines = small.leader.transcript.get(f"log-{name}").splitlines()
        events = [e for e in map(json.loads, lines) if e["type"] == "log.witnessed"]
        return {event["log"]: event["note"] for event in events}

    assert remembered(NORTH)[LEADER].encode() == shown[0]
    assert remembered(EAST).keys() == {LEADER, NORTH, SOUTH, WEST}
    assert remembered(EAST)[LEADER] != remembered(NORTH)[LEADER]
    assert remembered(LEADER).keys() == set(SITES)


def test_an_operator_can_take_a_lost_log_as_new(tmp_path, small):
    backup = small.stores[LEADER].crash()
    small.run()
    again = restored(small, tmp_path, backup)
    for name in SITES:
        assert PeerHeads(again.sites[name]).accept(LEADER, Milliseconds(0))
    again.run()
    assert cosigners(again, LEADER) == set(SITES)
    assert not PeerHeads(again.sites[NORTH]).accept(PartyName("nobody"), Milliseconds(0))


def restored(small, tmp_path, backup) -> SmallFederation:
    stores = {**small.stores, LEADER: backup}
    return SmallFederation(tmp_path / "small", seed=2, files=small.files, stores=stores)


def test_a_leader_restored_between_runs_is_named(tmp_path, small):
    backup = small.stores[LEADER].crash()
    small.run()
    again = restored(small, tmp_path, backup)
    again.run()
    assert again.leader.durable.number("complete") == 1
    for name in SITES:
        found = refusals(again, name)
        assert {event["log"] for event in found} == {LEADER}
        assert {event["code"] for event in found} <= {"witness.rolled-back", "witness.forked"}
    assert f"checkpoint-{LEADER}" in again.leader.transcript.items()
    assert cosigners(again, LEADER) == set()


def test_a_site_restored_between_runs_is_named_by_the_leader(tmp_path, small):
    backup = small.stores[NORTH].crash()
    small.run()
    with backup.transaction():  # Its budget is as it was: only the log betrays it.
        for space, values in small.stores[NORTH]._committed.items():
            for key, value in values.items():
                if not space.startswith("ledger"):
                    backup.put(space, key, value)
    stores = {**small.stores, NORTH: backup}
    again = SmallFederation(tmp_path / "small", seed=2, files=small.files, stores=stores)
    again.run()
    assert again.leader.durable.number("complete") == 1
    found = refusals(again, LEADER)
    assert {event["log"] for event in found} == {NORTH}
    assert {event["code"] for event in found} <= {"witness.rolled-back", "witness.forked"}
    assert cosigners(again, NORTH) == set()


def test_a_leader_cannot_convict_another_partys_log(small):
    """It keeps back proofs, changes them, and shows old heads of others: nothing is logged."""
    old: dict[PartyName, tuple] = {}

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        if not isinstance(message.body, WitnessRequest):
            return envelope
        mine = log_origin(small.roster.federation, LEADER).encode()
        theirs = tuple(one for one in message.body.logs if not one.note.startswith(mine))
        if message.round == 3:
            broken = tuple(
                dataclasses.replace(
                    one, proofs=tuple(dataclasses.replace(p, path=(bytes(32),)) for p in one.proofs)
                )
                for one in theirs
            )
            return small.lie(envelope, logs=broken)
        if message.round == 2:
            return small.lie(envelope, logs=old[envelope.receiver.party])
        old.setdefault(envelope.receiver.party, theirs)
        return envelope

    small.run(tap=tap)
    assert small.leader.durable.number("complete") == 1
    for name in (LEADER, *SITES):
        assert refusals(small, name) == []


def test_a_forged_cosignature_is_not_kept(small):
    """West answers for others, with lines of nobody, of another text, and in another's name."""

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        if not isinstance(message.body, WitnessAnswer) or message.sender.party != WEST:
            return envelope
        if message.round:
            return envelope
        lines = {one.log: one for one in message.body.cosigned}
        return small.lie(envelope, cosigned=(
            dataclasses.replace(lines[EAST], line=lines[NORTH].line),
            dataclasses.replace(lines[NORTH], witness=SOUTH),
            dataclasses.replace(lines[SOUTH], line="\u2014 nobody AAAA\n"),
            Cosigned(log=WEST, witness=WEST, size=1, line=lines[EAST].line, code=""),
        ))  # fmt: skip

    small.run(tap=tap)
    assert small.leader.phase == "closed"
    for name in (EAST, NORTH, SOUTH):
        assert WEST not in cosigners(small, name)
    assert cosigners(small, WEST) == {LEADER, EAST, NORTH, SOUTH}


def test_a_repeated_finish_gets_the_same_record(small):
    records = small.deliver(small.start(), hold=Record)
    first = next(e for e in records if small.read(e).sender.party == NORTH)
    with small.sites[NORTH].ports.store.transaction():
        small.sites[NORTH].act(small.clock(), "party.restarted")
    assert small.sites[NORTH]._record(small.terms) == first


def test_a_request_is_read_up_to_one_head_of_each_log(small):
    """A leader cannot make a site check thousands of signatures."""
    seen = requests(small, 0)[NORTH]
    request = small.read(seen).body
    many = small.lie(seen, logs=request.logs * 50)
    (answer,) = small.sites[NORTH].receive(many, small.clock())
    assert len(small.read(answer).body.cosigned) == len(request.logs)


def test_an_answer_is_read_up_to_one_word_on_each_log(small, monkeypatch):
    """A party cannot make the leader check thousands of signatures."""
    checked: list[str] = []
    check = circulation.check_cosignature

    def counted(line: str, text: str, name: str, key: bytes) -> int:
        checked.append(name)
        return check(line, text, name, key)

    monkeypatch.setattr(circulation, "check_cosignature", counted)

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        if not isinstance(message.body, WitnessAnswer) or message.round:
            return envelope
        return small.lie(envelope, cosigned=message.body.cosigned * 50)

    small.run(tap=tap)
    assert cosigners(small, EAST) == {LEADER, NORTH, SOUTH, WEST}
    assert len(checked) <= (len(SITES) + 1) * len(SITES)


def test_in_a_large_run_everybody_witnesses_a_few(small):
    names = [f"client-{number:04d}" for number in range(2000)]
    manifest = dataclasses.replace(small.terms.manifest, clients=tuple(names), helpers=("archive",))
    duties = Duties(dataclasses.replace(small.terms, manifest=manifest))
    assert duties.of("client-0007") == {
        LEADER,
        "archive",
        *(f"client-{number:04d}" for number in range(8, 16)),
    }
    assert duties.of("client-1999") == {LEADER, "archive", *names[:8]}
    assert duties.of("archive") == {LEADER, *names[:8]}
    assert duties.of(LEADER) >= {"archive"}
    assert all(name not in duties.of(name) for name in names)
