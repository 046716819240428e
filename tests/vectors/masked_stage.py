"""The run behind tests/vectors/masked: real leader and helpers, published keys, published numbers.

Three clients and two helpers, thirteen coordinates of 24 bits. Everything is deterministic except the
sealed bytes: those are made once by the real suite and kept in ``sealed.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from tacit.learn.code import LoadedModel
from tacit.learn.models import LogisticRegression
from tacit.ledger.merkle import EMPTY_ROOT
from tacit.party import helper as helper_module
from tacit.party.base import Party, Ports
from tacit.party.coordinator import Coordinator
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.terms import PROTOCOLS, Terms, plan_for
from tacit.party.workload import Workload
from tacit.policy.schema import FeatureColumn, Schema
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster
from tacit.trust.sealing import HpkeOpener, HpkeSealing
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.envelope import Address, Channel, Envelope, LogHead, digest, sign_message
from tacit.wire.messages import Accept, Manifest, Offer

FOLDER = Path(__file__).parent / "masked"
LEADER = PartyName("leader")
CLIENTS = tuple(PartyName(name) for name in ("alice", "bob", "carol"))
HELPERS = tuple(PartyName(name) for name in ("hanna", "hugo"))
FEATURES = 12
LENGTH = FEATURES + 1
NOW = Milliseconds(1_700_000_000_000)
RESERVATIONS = {"alice": 1, "bob": 3, "carol": 70}
RELEASED: dict[str, tuple[int, ...]] = {"alice": (), "bob": (2,), "carol": (7, 69)}
KEYS = ("leader/1", "leader/2", "hanna/1", "hanna/2", "hugo/1", "hugo/2", "alice/reader")

JOB: dict[str, Any] = {
    "version": 1,
    "name": "vectors",
    "purpose": "research",
    "rounds": 2,
    "model": "logistic",
    "data": {"contract": "vectors"},
    "evaluation": {"contract": "evaluation/contract.toml"},
    "privacy": {"epsilon": 2.0, "delta": 1e-5, "sampling_rate": 0.5, "expected_units": 300},
    "aggregation": {"min_cohort": 3, "helpers": list(HELPERS), "ring_bits": 24},
    "training": {"optimiser": "momentum", "learning_rate": 0.5, "average_from": 0.5},
}


def derived(*names: str, size: int = 32) -> bytes:
    """Published secret bytes: SHAKE256 of a name. Never do this outside a test."""
    return hashlib.shake_256("/".join(("tacit test vector", *names)).encode()).digest(size)


def integers(*names: str, bound: int) -> list[int]:
    """Thirteen published integers in [-bound, bound]."""
    data = derived(*names, size=8 * LENGTH)
    words = [int.from_bytes(data[8 * i : 8 * i + 8], "big") for i in range(LENGTH)]
    return [word % (2 * bound + 1) - bound for word in words]


def contribution(client: str) -> list[int]:
    return integers("contribution", client, bound=1000)


def noise(helper: str) -> list[int]:
    return integers("noise", helper, bound=50)


def seed(client: str, helper: str) -> bytes:
    return derived("seed", client, helper)


def head(client: str, reservation: int) -> bytes:
    """What a client's journal is said to be after so many reservations."""
    return derived("head", client, str(reservation))


def identity_seed(name: str) -> bytes:
    return derived("identity", name)


def identity(name: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(identity_seed(name)))


def private_halves(label: str) -> tuple[bytes, bytes]:
    """ML-KEM-768 seed (64 bytes) and X25519 private key (32 bytes) of a sealing key."""
    return derived("mlkem", label, size=64), derived("x25519", label)


def opener(label: str) -> HpkeOpener:
    """An opener whose private half is published."""
    quantum_seed, classical_secret = private_halves(label)
    quantum = MLKEM768PrivateKey.from_seed_bytes(quantum_seed)
    classical = X25519PrivateKey.from_private_bytes(classical_secret)
    made = HpkeOpener()
    made._private = MLKEM768X25519PrivateKey(quantum, classical)
    made._public = (
        quantum.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()
    )
    return made


class Drawer:
    """The sealed bytes that were made once; missing ones are made by the real suite."""

    def __init__(self, known: dict[str, str] | None = None) -> None:
        self.known = dict(known or {})
        self.used: dict[str, dict[str, str]] = {}
        self.made = 0
        self._labels = {opener(label).public_key: label for label in KEYS}

    @classmethod
    def load(cls) -> Drawer:
        path = FOLDER / "sealed.json"
        entries = json.loads(path.read_text())["sealed"] if path.exists() else []
        return cls({_place(e["to"], e["info"], e["plaintext"]): e["sealed"] for e in entries})

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        label = self._labels[public_key]
        place = _place(label, info.hex(), plaintext.hex())
        if place not in self.known:
            self.known[place] = HpkeSealing().seal(plaintext, public_key, info).hex()
            self.made += 1
        self.used[place] = {
            "to": label,
            "info": info.hex(),
            "plaintext": plaintext.hex(),
            "sealed": self.known[place],
        }
        return bytes.fromhex(self.known[place])


def _place(label: str, info: str, plaintext: str) -> str:
    return f"{label}|{info}|{plaintext}"


class StageSealing:
    """Real sealing with published keys, drawn in order, and kept ciphertexts."""

    def __init__(self, drawer: Drawer, labels: list[str]) -> None:
        self._drawer = drawer
        self._labels = iter(labels)

    def generate(self) -> HpkeOpener:
        label = next(self._labels, None)
        return HpkeOpener() if label is None else opener(label)

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        return self._drawer.seal(plaintext, public_key, info)


@contextmanager
def published_noise() -> Iterator[None]:
    """Replaces the helpers' noise by published integers: which helper draws stands in its entropy."""
    real = helper_module.noise_blocks

    def blocks(variance: int, size: int, entropy: NamedEntropy) -> Iterator[Any]:
        assert variance > 0
        yield np.array(noise(entropy.name), dtype=np.int64)[:size]

    helper_module.noise_blocks = blocks
    try:
        yield
    finally:
        helper_module.noise_blocks = real


class NamedEntropy(SeededEntropy):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Run:
    """What the parties of the vectors agreed to."""

    roster: Roster
    offer: Offer
    terms: Terms
    workload: Workload


def agree() -> Run:
    job = JobSpec.model_validate(JOB)
    columns = tuple(FeatureColumn(f"x{i:02d}", 0.0, 1.0) for i in range(FEATURES))
    schema = Schema(columns, "label", ("no", "yes"))
    code = Digest(derived("code"))
    model = LoadedModel(model=LogisticRegression(FEATURES, 2), code=code, pinned=True)
    workload = Workload.build(job, model, len(schema.classes))
    roster = make_roster()
    plan = plan_for(job, clients=len(CLIENTS), helpers=len(HELPERS), length=workload.length)
    manifest = Manifest(
        protocol=PROTOCOLS["masked"],
        nonce=derived("run nonce"),
        job=job.digest,
        schema=schema.digest,
        code=code,
        layout=workload.layout,
        roster=roster.digest,
        plan=plan.canonical(),
        ring_bits=plan.ring_bits,
        dimension=workload.dimension,
        length=workload.length,
        rounds=job.rounds,
        leader=LEADER,
        clients=CLIENTS,
        helpers=HELPERS,
        min_cohort=3,
        max_colluding=plan.max_colluding,
        own_noise=False,
    )
    offer = Offer(manifest=manifest, job=job.canonical(), schema=schema.canonical())
    return Run(roster, offer, Terms.of(offer, roster), workload)


def make_roster() -> Roster:
    roles: dict[PartyName, Any] = {LEADER: ("leader",)}
    roles |= dict.fromkeys(CLIENTS, ("client",)) | dict.fromkeys(HELPERS, ("helper",))
    return Roster(
        "vectors",
        tuple(
            Member(name, f"{name}-operator", "eu", role, identity(name).public_key)
            for name, role in roles.items()
        ),
    )


class Stage:
    """Leader, helpers and the signing hands of the clients."""

    def __init__(self, drawer: Drawer) -> None:
        self.drawer = drawer
        self.run = agree()
        run = self.run
        self.leader = Coordinator(
            LEADER, run.roster, self.ports(LEADER, 2), run.terms, run.workload
        )
        self.helpers = {name: Helper(name, run.roster, self.ports(name, 2)) for name in HELPERS}

    def ports(self, name: PartyName, keys: int = 0, labels: list[str] | None = None) -> Ports:
        named = labels or [f"{name}/{number + 1}" for number in range(keys)]
        return Ports.of(
            name,
            self.run.roster,
            entropy=NamedEntropy(name),
            signer=identity(name),
            sealing=StageSealing(self.drawer, named),
            store=MemoryStore(),
        )

    def party(self, name: PartyName, role: Any, labels: list[str] | None = None) -> Party:
        return Party(Address(name, role), self.run.roster, self.ports(name, labels=labels))

    def sign(self, name: PartyName, body: Any, number: int = 0, chunks: Any = ()) -> Envelope:
        manifest = self.run.offer.manifest
        channel = Channel(
            run=self.run.terms.run,
            roster=Digest(manifest.roster),
            job=Digest(manifest.job),
            sender=Address(name, "client"),
            signer=identity(name),
            log=LogHead(0, EMPTY_ROOT),
        )
        to = Address(LEADER, "leader")
        return sign_message(channel, to, body, round_number=number, chunks=chunks)

    def accept(self, name: PartyName) -> Envelope:
        count = RESERVATIONS[name]
        body = Accept(
            nonce=derived("nonce", name),
            policy=digest(b"policy of " + name.encode()),
            contract=digest(b"contract of " + name.encode()),
            reservations=count,
            heads=tuple(Digest(head(name, n)) for n in range(max(count - 64, 0) + 1, count + 1)),
            released=RELEASED[name],
        )
        return self.sign(name, body)

    def give(self, envelope: Envelope) -> list[Envelope]:
        """Delivers to leader or helper."""
        party: Any = self.leader
        if envelope.receiver.role == "helper":
            party = self.helpers[envelope.receiver.party]
        return list(party.receive(envelope, NOW))

    def begin(self) -> dict[str, list[Envelope]]:
        """Offers, accepts, helper keys and the first round's start, by receiver."""
        sent: dict[str, list[Envelope]] = defaultdict(list)
        queue = self.leader.start(self.run.offer, NOW)
        answers = [
            answer
            for envelope in queue
            if envelope.receiver.role == "helper"
            for answer in self.give(envelope)
        ]
        answers += [self.accept(name) for name in CLIENTS]
        sent["offers"] = queue
        sent["answers"] = answers
        for answer in answers:
            sent["starts"] += self.give(answer)
        return sent
