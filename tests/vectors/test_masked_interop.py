"""The second implementation as clients and as a helper of a real run, sealed by the real suite."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

import independent_client as second
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.algebra.ring import Ring
from tacit.party.base import Ports
from tacit.testing.federation import (
    LEADER,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.trust.sealing import HpkeSealing
from tacit.types import PartyName
from tacit.wire.envelope import Address, Envelope
from tacit.wire.messages import Accept, MaskRequest, Offer, RoundStart, Upload

STRANGE_HELPER = PartyName("south")


class RealSealing(SmallFederation):
    """The small federation with the suite of production."""

    def ports(self, name: PartyName) -> Ports:
        return dataclasses.replace(super().ports(name), sealing=HpkeSealing())


class Others:
    """All clients, and one helper, by the second implementation."""

    def __init__(self, federation: SmallFederation) -> None:
        self.federation = federation
        members = federation.roster.members
        self.roster = {member.name: member.key for member in members}
        self.manifest: dict[str, Any] = {}
        self.run: dict[str, bytes] = {}
        self.plan: dict[str, Any] = {}
        self.key = second.SealingKey()
        self.sent: dict[str, list[int]] = {}
        self.heads: dict[str, dict[str, second.Heads]] = {name: {} for name in SITES}

    def party(self, name: str, role: str) -> second.Party:
        key: Ed25519PrivateKey = self.federation.identity(PartyName(name))._private
        return second.Party(name, role, key)

    def envelope(self, message: bytes, chunks: list[bytes]) -> Envelope:
        return Envelope(Address(LEADER, "leader"), message, tuple(chunks))

    def offer(self, envelope: Envelope) -> list[Envelope]:
        """A helper's answer to an offer: its first key."""
        offer = second.read(envelope.message, self.roster)
        self.manifest = offer.body["manifest"]
        self.plan = json.loads(self.manifest["plan"])
        self.run = {key: offer.header[key] for key in ("run", "roster", "job")}
        assert second.sha256(second.cbor(self.manifest)) == self.run["run"]
        return [self.new_key(1)]

    def new_key(self, number: int) -> Envelope:
        self.key = second.SealingKey()
        party, body = self.party(STRANGE_HELPER, "helper"), {"key": self.key.public}
        to = f"{LEADER}/leader"
        return self.envelope(second.sign(party, self.run, to, "helper-key", number, body), [])

    def answer(self, envelope: Envelope) -> list[Envelope]:
        request = second.read(envelope.message, self.roster)
        party = self.party(STRANGE_HELPER, "helper")
        noise = [0] * self.manifest["length"]
        message, chunks = second.mask_sum(
            party, self.run, self.manifest, request, self.roster, self.key, noise
        )
        return [self.envelope(message, chunks), self.new_key(request.header["round"] + 1)]

    def upload(self, envelope: Envelope) -> Envelope:
        start = second.read(envelope.message, self.roster)
        name, length = envelope.receiver.party, self.manifest["length"]
        accepts = start.body["accepts"]
        assert second.meet(accepts, self.manifest, self.roster, self.heads[name])
        vector = [secrets.randbelow(21) - 10 for _ in range(length)]
        vector[-1] = 1000  # A weight: without it the step would divide by nothing.
        seeds = second.fresh_seeds(self.manifest, start, name, self.roster, secrets.token_bytes)
        party = self.party(name, "client")
        message, chunks = second.upload(
            party, self.run, self.manifest, start, vector, self.roster, seeds
        )
        self.sent[name] = vector
        sealed = second.encrypt_chunks(message, chunks, start.body["leader_key"])
        return self.envelope(message, sealed)

    def deliver(self, queue: list[Envelope]) -> list[Envelope]:
        """Until the starts of round 2, which come back undelivered."""
        starts: list[Envelope] = []
        while queue:
            envelope = queue.pop(0)
            body, to = self.federation.read(envelope).body, envelope.receiver
            strange = to == Address(STRANGE_HELPER, "helper")
            if isinstance(body, RoundStart) and body.previous is not None:
                starts.append(envelope)
            elif isinstance(body, RoundStart):
                queue.append(self.upload(envelope))
            elif strange and isinstance(body, Offer):
                queue += self.offer(envelope)
            elif strange and isinstance(body, MaskRequest):
                queue += self.answer(envelope)
            else:
                queue += self.federation.party(to).receive(envelope, self.federation.clock())
        return starts


@pytest.mark.parametrize("bits", [24, 32])
def test_a_real_leader_and_real_helpers_sum_what_the_second_clients_send(
    tmp_path: Path, bits: int
) -> None:
    job = {**WITHOUT_NOISE, "aggregation": {"min_cohort": 3, "ring_bits": bits}}
    write_small_federation(tmp_path / "small", job=job)
    federation = RealSealing(tmp_path / "small")
    others = Others(federation)
    starts = others.deliver(federation.start())
    assert {start.receiver.party for start in starts} == set(SITES) == set(others.sent)
    ring = Ring(bits)
    data = b"".join(starts[0].chunks)
    total = ring.centred(ring.from_bytes(data, others.manifest["length"]))
    assert total.tolist() == [sum(x) for x in zip(*others.sent.values(), strict=True)]
    check_model(federation, others, starts[0], total)
    for start in starts:
        follow(federation, start)


class Acceptor(Others):
    """One client of the second implementation, which shows a budget of its own."""

    def accept(self, envelope: Envelope, shown: second.Heads) -> Envelope:
        self.offer(envelope)
        body = {
            "nonce": secrets.token_bytes(32),
            "policy": bytes(32),
            "contract": bytes(32),
            "reservations": shown.reservations,
            "heads": shown.digests,
            "released": shown.released,
        }
        party, to = self.party(envelope.receiver.party, "client"), f"{LEADER}/leader"
        return self.envelope(second.sign(party, self.run, to, "accept", 0, body), [])

    def starts(self, shown: second.Heads) -> list[Envelope]:
        """The first round's starts, when the client has accepted beside real ones."""
        queue, held = self.federation.start(), []
        for at, envelope in enumerate(queue):
            if envelope.receiver == Address(STRANGE_HELPER, "client"):
                queue[at] = self.accept(envelope, shown)
        while queue:
            held += self.federation.deliver([queue.pop(0)], hold=RoundStart)
        return held


def test_a_real_federation_remembers_the_budget_of_a_second_client(tmp_path: Path) -> None:
    write_small_federation(tmp_path / "small")
    made = [bytes([number]) * 32 for number in range(5)]
    first = RealSealing(tmp_path / "small")
    acceptor = Acceptor(first)
    starts = acceptor.starts(second.Heads(2, made[:2]))
    assert {start.receiver.party for start in starts} == set(SITES)
    strange = next(start for start in starts if start.receiver.party == STRANGE_HELPER)
    starts.remove(strange)
    first.deliver([*starts, acceptor.upload(strange)], hold=RoundStart)
    assert first.leader.chain.completed == 1
    for shown, code in (
        (second.Heads(4, made[:4], [1]), ""),
        (second.Heads(1, made[4:]), "budget.rolled-back"),
        (second.Heads(5, [made[0], *made[2:], made[1]]), "budget.forked"),
        (second.Heads(3, made[:3], [2]), "budget.refunded"),
    ):
        stores = {name: store.crash() for name, store in first.stores.items()}
        later = SmallFederation(tmp_path / "small", seed="later", stores=stores)
        starts = Acceptor(later).starts(shown)
        assert bool(starts) == (code == "")
        assert (later.leader.failure.code if later.leader.failure else "") == code


def follow(federation: SmallFederation, start: Envelope) -> None:
    """A real site that was away takes the state from the cohort's headers, and trains on the sum."""
    site, queue, kinds = federation.sites[start.receiver.party], [start], []
    while kinds[-1:] != ["Upload"]:
        envelope = queue.pop(0)
        if envelope.receiver == site.address:
            answers = site.receive(envelope, federation.clock())
            kinds += [type(federation.read(answer).body).__name__ for answer in answers]
            queue += answers
        elif envelope.receiver.role == "leader":
            answers = federation.leader.receive(envelope, federation.clock())
            queue += [answer for answer in answers if answer.receiver == site.address]
    assert kinds[0] == "CatchUpRequest"
    assert set(kinds[1:-1]) <= {"KeptRequest"}


def check_model(
    federation: SmallFederation, others: Others, start: Envelope, total: np.ndarray
) -> None:
    """The second implementation derives the model of round 2 itself."""
    offer = federation.offer
    training = json.loads(offer.job)["training"]
    rule = {
        "optimiser": training["optimiser"],
        "rounds": others.manifest["rounds"],
        **{key: float(training[key]) for key in ("learning_rate", "momentum", "average_from")},
    }
    divisor = float(others.plan["sampling_rate"]) * others.plan["expected_units"]
    grid = float(others.plan["grid"])
    gradient = [x * grid / divisor for x in total.tolist()]
    state = second.step(second.State.start([0.0] * others.manifest["dimension"]), gradient, rule)
    body = second.read(start.message, others.roster).body
    assert body["model"] == second.sha256(state.to_bytes())


def test_accepts_and_uploads_of_the_federation_are_read_by_the_second_reader(
    tmp_path: Path,
) -> None:
    write_small_federation(tmp_path / "small")
    federation = SmallFederation(tmp_path / "small")
    roster = {member.name: member.key for member in federation.roster.members}
    made = [
        *federation.deliver(federation.start(), hold=Accept),
        *SmallFederation(tmp_path / "small").until(Upload).values(),
    ]
    for envelope in made:
        message = second.read(envelope.message, roster)
        assert second.cbor(message.body) == message.header["body"]
