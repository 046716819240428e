"""Synthetic runs with real signatures, logs and digests, for tests of the verifier.

No party takes part: one builder holds all keys, so that tests can let parties lie.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.encoding import decode as decode_fixed
from tacit.algebra.ring import Ring
from tacit.errors import DecodeError
from tacit.evidence import layout
from tacit.evidence.archive import pack
from tacit.evidence.bundle import BundleWriter, add_statements, head_of
from tacit.evidence.head import note_of, sign_line, transcript_digest
from tacit.evidence.sbom import sbom
from tacit.evidence.tensors import read_theta, write_model
from tacit.learn.server import ServerState
from tacit.ledger.log import Log, log_origin
from tacit.ledger.note import add_signatures, cosign
from tacit.party.base import log_head
from tacit.party.coordinates import server_rule
from tacit.policy.cedar import UNBOUNDED_EPSILON
from tacit.policy.schema import FeatureColumn, Schema
from tacit.secagg.masked import cohort_digest, round_context
from tacit.testing.bundle_terms import synthetic_job, synthetic_plan
from tacit.testing.disclosures import SiteDisclosure
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster
from tacit.types import Digest, Milliseconds, PartyName, Role
from tacit.wire.codec import encode
from tacit.wire.envelope import (
    Address,
    Channel,
    Received,
    digest,
    open_message,
    sign_message,
    split_chunks,
)
from tacit.wire.messages import Accept, HelperKey, Manifest, MaskSum, Offer, SealedSeed, Upload

__all__ = ["LEADER", "SITES", "SyntheticRun", "reseal", "sealed"]

LEADER = PartyName("lead")
SITES = tuple(PartyName(name) for name in ("east", "north", "south", "west"))
DIMENSION = 3
ROUNDS = 3
RESERVATIONS = 1
RING = Ring(32)
SEALED_BYTES, KEY_PARTS = 1168, 38
"""Sizes with X25519 and ML-KEM-768: of a sealed seed, and of a helper's key in parts of 32."""
SOFTWARE = sbom((("tacit", "0"), ("numpy", "2.0.0"), ("cryptography", "45.0.0")))
"""A short list of software, the same on every machine."""

Edit = Callable[[PartyName, dict[str, Any]], dict[str, Any] | None]


@dataclass
class SyntheticRun:
    """Plays a run of four sites, each also a helper, and keeps what a bundle needs.

    Args:
        protocol: ``masked`` or ``plain``.
        unit: ``record`` or ``none``.
        min_cohort: As the job says.
        edit: Sees every event before its party logs it; may change or drop (None) it: a lie.
        rounds: As the job says.
        allowed_regions: Of every site's contract.
        secret: Sites that disclose nothing of their policy.
        real_sizes: Whether keys and sealed seeds are as long as with the real sealing.
        neighbours: Whether every log also holds events of another run, and of none.
    """

    protocol: str = "masked"
    unit: str = "record"
    min_cohort: int = 4
    edit: Edit = field(default=lambda party, event: event)
    rounds: int = ROUNDS
    allowed_regions: tuple[str, ...] | None = ("eu",)
    secret: tuple[PartyName, ...] = ()
    real_sizes: bool = False
    neighbours: bool = False

    def __post_init__(self) -> None:
        entropy = SeededEntropy("synthetic run")
        names = (LEADER, *SITES)
        self.identities = {name: Identity.generate(entropy.fork(name)) for name in names}
        self.roster = Roster(
            "synthetic",
            tuple(
                Member(
                    name, f"{name}-operator", "eu", _roles(name), self.identities[name].public_key
                )
                for name in names
            ),
        )
        self.helpers = SITES if self.protocol == "masked" else ()
        self.job = synthetic_job(self.protocol, self.unit, self.min_cohort, self.rounds)
        self.plan = synthetic_plan(self.job, len(self.helpers))
        self.schema = Schema(
            tuple(FeatureColumn(f"x{i}", 0.0, 1.0) for i in range(2)), "label", ("no", "yes")
        )
        self.disclosures = {
            site: SiteDisclosure.of(site, entropy.fork(f"approver {site}"), self.allowed_regions)
            for site in SITES
        }
        self.manifest = self._manifest()
        self.run = digest(encode(self.manifest))
        self.stores = {name: MemoryStore() for name in names}
        self.logs = {
            name: Log(
                self.stores[name], log_origin(self.roster.federation, name), self.identities[name]
            )
            for name in names
        }
        self.rule = server_rule(self.job)
        self.initial = np.linspace(-1.0, 1.0, DIMENSION)
        self.state: ServerState = self.rule.start(self.initial)
        self.writer = BundleWriter(self.roster, self.run)
        self.now = 0
        self.closed = 0

    def _manifest(self) -> Manifest:
        return Manifest(
            protocol=f"{self.protocol}/1",
            nonce=bytes(32),
            job=self.job.digest,
            schema=self.schema.digest,
            code=_hash("code"),
            layout=_hash("layout"),
            roster=self.roster.digest,
            plan=self.plan.canonical(),
            ring_bits=32,
            dimension=DIMENSION,
            length=DIMENSION,
            rounds=self.rounds,
            leader=LEADER,
            clients=SITES,
            helpers=self.helpers,
            min_cohort=self.min_cohort,
            max_colluding=self.plan.max_colluding,
            own_noise=False,
        )

    # --- building blocks ---------------------------------------------------------------------

    def log(self, party: PartyName, role: Role, kind: str, **fields: Any) -> None:
        """One event of a party, as ``edit`` leaves it."""
        event = self.edit(party, {"type": f"{role}.{kind}", "run": self.run.hex(), **fields})
        if self.neighbours:
            self.append(party, {"type": "client.other.event", "run": _hash("other run").hex()})
        if event is not None:
            self.append(party, event)

    def append(self, party: PartyName, event: Mapping[str, Any]) -> None:
        """One event, of whatever run or of none."""
        self.now += 1
        with self.stores[party].transaction():
            self.logs[party].append(event, Milliseconds(self.now))

    def sign(self, party: PartyName, role: Role, body: Any, round_number: int = 0) -> Received:
        """A signed message of a party to the leader (the offer: to the first client)."""
        receiver = Address(SITES[0], "client") if role == "leader" else Address(LEADER, "leader")
        channel = Channel(
            run=self.run,
            roster=self.roster.digest,
            job=self.job.digest,
            sender=Address(party, role),
            signer=self.identities[party],
            log=log_head(self.logs[party]),
        )
        envelope = sign_message(channel, receiver, body, round_number=round_number)
        return open_message(envelope.message, self.roster.authenticate)

    # --- the run -----------------------------------------------------------------------------

    def begin(self) -> SyntheticRun:
        """Offer and acceptances."""
        offer = Offer(self.manifest, self.job.canonical(), self.schema.canonical())
        self.log(
            LEADER,
            "leader",
            "run.offered",
            job=self.job.digest.hex(),
            plan=digest(self.manifest.plan).hex(),
        )
        self.writer.add_message(self.sign(LEADER, "leader", offer))
        self.writer.add_initial(self.initial)
        for site in SITES:
            self._accept(site)
        for site in SITES:
            for other in SITES:
                if other != site:
                    self._see(site, "client", other)
        return self

    def _accept(self, site: PartyName) -> None:
        schema, disclosed = self.schema.digest.hex(), self.disclosures[site]
        contract, policy = disclosed.contract_digest, disclosed.policy_digest
        self.log(
            site,
            "client",
            "offer.received",
            job=self.job.digest.hex(),
            schema=schema,
            code=_hash("code").hex(),
            roster=self.roster.digest.hex(),
            leader=LEADER,
        )
        self.log(
            site,
            "client",
            "policy.decided",
            policy=policy.hex(),
            contract=contract.hex(),
            allowed=True,
            rules=["allow"],
            rows="",
            epsilon_milli=str(
                math.ceil(self.plan.epsilon() * 1000)
                if self.unit == "record"
                else UNBOUNDED_EPSILON
            ),
        )
        head = _hash(f"journal {site}")
        if self.unit == "record":
            self.log(
                site,
                "client",
                "budget.reserved",
                epsilon=repr(self.plan.epsilon()),
                delta="1e-05",
                count=RESERVATIONS,
                head=head.hex(),
            )
        self.log(
            site,
            "client",
            "receipt.issued",
            receipt=_hash(f"receipt {site}").hex(),
            contract=contract.hex(),
            policy=policy.hex(),
            plan=_hash("redaction").hex(),
            schema=schema,
        )
        body = Accept(
            nonce=_hash(site),
            policy=policy,
            contract=contract,
            reservations=RESERVATIONS,
            heads=(head,),
            released=(),
        )
        message = self.sign(site, "client", body)
        self.writer.add_message(message)
        self.log(
            site,
            "client",
            "offer.accepted",
            accept=message.digest.hex(),
            required_helpers=[site] if self.helpers else [],
            max_colluding_helpers=1,
        )
        if self.neighbours:
            self.append(site, {"type": "party.restarted"})
        self._see(LEADER, "leader", site)

    def _see(self, party: PartyName, role: Role, site: PartyName) -> None:
        """A party countersigns the head of a site's budget."""
        head = _hash(f"journal {site}").hex()
        fields = {"site": site, "count": RESERVATIONS, "head": head, "standing": "first"}
        self.log(party, role, "budget.head", **fields)

    def round(
        self,
        number: int,
        *,
        members: Sequence[PartyName] = SITES,
        answers: Mapping[PartyName, Sequence[PartyName]] | None = None,
        model: Digest | None = None,
        closed: bool = True,
    ) -> SyntheticRun:
        """One round.

        Args:
            number: Its number.
            members: Who uploads.
            answers: For which members a helper answers instead of all (a lie).
            model: The model that the uploads name instead of the true one (a lie).
            closed: Whether the leader gets as far as the sum.
        """
        trained = self.state.digest
        self.log(LEADER, "leader", "round.started", round=number, model=trained.hex())
        keys = self._keys(number)
        context = self._context(number, model or trained, keys)
        uploads = {site: self._upload(site, number, context, trained) for site in members}
        self.log(
            LEADER,
            "leader",
            "cohort.fixed",
            round=number,
            uploads=[upload.digest.hex() for upload in uploads.values()],
        )
        for helper in self.helpers:
            chosen = (answers or {}).get(helper, members)
            self.answer(helper, number, context, [uploads[name] for name in chosen])
        if closed:
            self._close_round(number, [upload.digest for upload in uploads.values()])
        else:
            self.log(LEADER, "leader", "round.aborted", round=number, code="helper-timeout")
        return self

    def _keys(self, number: int) -> list[tuple[PartyName, bytes]]:
        keys = []
        for helper in self.helpers:
            key = _hash(f"key {helper} {number}") * (KEY_PARTS if self.real_sizes else 1)
            self.writer.add_message(self.sign(helper, "helper", HelperKey(key), number))
            self.log(helper, "helper", "helper-key.issued", round=number, key=digest(key).hex())
            keys.append((helper, bytes(key)))
        return keys

    def _context(
        self, number: int, model: Digest, keys: Sequence[tuple[PartyName, bytes]]
    ) -> Digest:
        if not keys:
            return _hash(f"plain {number}")
        return round_context(
            run=self.run,
            round_number=number,
            roster=self.roster.digest,
            job=self.job.digest,
            model=model,
            plan=self.manifest.plan,
            bits=self.plan.ring_bits,
            keys=keys,
        )

    def _upload(self, site: PartyName, number: int, context: Digest, model: Digest) -> Received:
        vector, _ = split_chunks(_hash(f"{site} {number}")[: 4 * DIMENSION], DIMENSION)
        seeds = tuple(
            SealedSeed(helper, bytes(SEALED_BYTES if self.real_sizes else 80))
            for helper in self.helpers
        )
        message = self.sign(site, "client", Upload(context, seeds, vector), number)
        self.log(
            site,
            "client",
            "model.checked",
            round=number,
            model=model.hex(),
            aggregate_round=self.closed,
        )
        if self.unit == "record":
            self.log(site, "client", "budget.charged", round=number, rounds=number)
        self.log(
            site,
            "client",
            "upload.sent",
            round=number,
            context=context.hex(),
            upload=message.digest.hex(),
            policy=self.disclosures[site].policy_digest.hex(),
        )
        self.writer.add_message(message)
        return message

    def answer(
        self,
        helper: PartyName,
        number: int,
        context: Digest,
        uploads: Sequence[Received],
        *,
        shown: bool = True,
    ) -> None:
        """One answer of a helper; ``shown``: the leader puts it into the bundle."""
        vector, _ = split_chunks(_hash(f"{helper} {number}")[: 4 * DIMENSION], DIMENSION)
        cohort = cohort_digest([upload.digest for upload in uploads])
        message = self.sign(helper, "helper", MaskSum(context, cohort, vector), number)
        self.log(
            helper,
            "helper",
            "mask-sum.answered",
            round=number,
            context=context.hex(),
            cohort=cohort.hex(),
            answer=message.digest.hex(),
        )
        if shown:
            self.writer.add_message(message)

    def _close_round(self, number: int, uploads: Sequence[Digest]) -> None:
        total = np.arange(DIMENSION, dtype=np.int64) * 1000 * number - 1000
        data = bytes(RING.to_bytes(RING.from_integers(total)))
        self.log(
            LEADER,
            "leader",
            "aggregate.computed",
            round=number,
            cohort=cohort_digest(uploads).hex(),
            sum=digest(data).hex(),
        )
        self.writer.add_aggregate(number, data)
        values = decode_fixed(total, self.plan.grid)
        self.state = self.rule.step(self.state, values / self.plan.divisor)
        self.closed = number

    def close(
        self,
        *,
        rounds: int | None = None,
        released: NDArray[np.float64] | None = None,
        complete: bool = True,
    ) -> SyntheticRun:
        """Settlement, release and the parties' records.

        Args:
            rounds: How many rounds each site settles, by default all.
            released: The model that the leader releases instead of the true one (a lie).
            complete: Whether the leader tells the sites that the run ended as planned.
        """
        own = self.rule.released(self.state)
        theta = own if released is None else released
        for site in SITES:
            if self.unit == "record":
                self.log(
                    site,
                    "client",
                    "run.settled",
                    rounds=self.rounds if rounds is None else rounds,
                    epsilon=repr(self.plan.epsilon()),
                )
            ended = digest(np.ascontiguousarray(own, dtype="<f8").tobytes())
            self.witness(site, "client")
            self.log(site, "client", "run.closed", complete=complete, model=ended.hex())
        model = digest(np.ascontiguousarray(theta, dtype="<f8").tobytes())
        self.log(LEADER, "leader", "model.released", model=model.hex())
        self.witness(LEADER, "leader")
        self.log(LEADER, "leader", "run.closed", complete=complete)
        self.writer.add_final(theta)
        return self.record()

    def witness(self, party: PartyName, role: Role) -> None:
        """A party tells what it cosigned last of the others' logs: here, what they are now."""
        for other, log in self.logs.items():
            if other != party:
                note = log.checkpoint().decode()
                self.log(party, role, "log.witnessed", log=other, note=note)

    def record(self, *parties: PartyName) -> SyntheticRun:
        """Puts the logs of ``parties``, by default of all, into the bundle, cosigned by all others."""
        for party in parties or tuple(self.logs):
            log = self.logs[party]
            note = log.checkpoint()
            lines = [self.cosignature(note, other) for other in self.logs if other != party]
            record = log.record(self.run.hex())
            self.writer.add_log(party, record, add_signatures(note, lines))
            if party in self.disclosures and party not in self.secret:
                self.writer.add_policy(party, self.disclosures[party].canonical())
        return self

    def origin(self, party: PartyName) -> str:
        """Name of a party's log and key."""
        return log_origin(self.roster.federation, party)

    def cosignature(self, note: bytes, witness: PartyName) -> str:
        """One party's cosignature of a log of another."""
        return cosign(note, self.identities[witness], self.origin(witness), 1000 + self.now)

    def play(self) -> SyntheticRun:
        """A whole honest run."""
        self.begin()
        for number in range(1, self.rounds + 1):
            self.round(number)
        return self.close()

    def play_long(self) -> SyntheticRun:
        """As ``play``; in every round one site also adds up the sum again."""
        self.begin()
        for number in range(1, self.rounds + 1):
            self.round(number)
            site = SITES[number % len(SITES)]
            for kind in ("owed", "verified"):
                self.log(site, "client", f"aggregate.{kind}", round=number)
        return self.close()

    def write(self, path: Path, *, complete: bool = True, simulated: tuple[str, ...] = ()) -> Path:
        """Writes the bundle, its manifest signed by every party."""
        manifest = self.manifest_bytes(complete=complete, simulated=simulated)
        self.writer.write(path, self.lines(manifest, tuple(self.identities)))
        return path

    def manifest_bytes(self, *, complete: bool = True, simulated: tuple[str, ...] = ()) -> bytes:
        """What the writer gives the parties to sign."""
        self.writer.add(layout.SBOM, SOFTWARE)
        return self.writer.manifest(
            leader=LEADER,
            signer=self.identities[LEADER],
            complete=complete,
            simulated=simulated,
        )

    def lines(self, manifest: bytes, parties: Sequence[PartyName]) -> list[str]:
        """The signature lines of some parties over a manifest."""
        federation = self.roster.federation
        return [sign_line(manifest, federation, name, self.identities[name]) for name in parties]

    def evidence(self, *, complete: bool = True) -> dict[str, bytes]:
        """The bundle's members without the manifest and its signatures."""
        self.manifest_bytes(complete=complete)
        return self.writer.members

    def members(self, *, complete: bool = True) -> dict[str, bytes]:
        """The bundle's members, manifest and signatures included."""
        return reseal(self, self.evidence(complete=complete), complete=complete)


def reseal(
    run: SyntheticRun,
    members: Mapping[str, bytes],
    *,
    complete: bool = True,
    signers: Sequence[PartyName] | None = None,
    restate: bool = True,
) -> dict[str, bytes]:
    """``members`` under a fresh manifest: what dishonest parties can do.

    Args:
        run: Who holds the keys.
        members: What to seal.
        complete: What the manifest says of the run.
        signers: Who signs the manifest, by default every party.
        restate: Whether the leader also makes the statements anew, and lets the model name the
            transcript as it is now.
    """
    sealing = {layout.MANIFEST, layout.SIGNATURE}
    files = {name: data for name, data in members.items() if name not in sealing}
    if restate:
        derived = {layout.statement(name) for name in layout.DERIVED}
        files = {name: data for name, data in files.items() if name not in derived}
        with contextlib.suppress(DecodeError):
            theta = np.frombuffer(read_theta(files.get(layout.FINAL, b"")), dtype="<f8")
            digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            transcript = transcript_digest(digests)
            files[layout.FINAL] = write_model(theta, run.run.hex(), transcript)
    head = head_of(files, federation=run.roster.federation, run=run.run.hex(), complete=complete)
    manifest = head.canonical()
    with contextlib.suppress(DecodeError):  # A roster that cannot be read supports no statement.
        if restate:
            files, manifest = add_statements(files, head, LEADER, run.identities[LEADER])
    lines = run.lines(manifest, tuple(run.identities) if signers is None else signers)
    return {**files, layout.MANIFEST: manifest, layout.SIGNATURE: note_of(manifest, lines)}


def sealed(
    run: SyntheticRun,
    members: Mapping[str, bytes],
    *,
    complete: bool = True,
    restate: bool = True,
) -> bytes:
    """The archive of ``reseal``, signed by every party."""
    return pack(reseal(run, members, complete=complete, restate=restate))


def _roles(name: PartyName) -> tuple[Role, ...]:
    return ("leader",) if name == LEADER else ("client", "helper")


def _hash(text: str) -> Digest:
    return digest(text.encode())
