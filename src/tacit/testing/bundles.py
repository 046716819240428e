"""Synthetic runs with real signatures, logs and digests, for tests of the verifier.

No party takes part: one builder holds all keys, so that tests can let parties lie.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tacit.algebra.encoding import decode as decode_fixed
from tacit.algebra.ring import Ring
from tacit.evidence import layout
from tacit.evidence.archive import pack
from tacit.evidence.bundle import BundleWriter
from tacit.evidence.head import Head, sign
from tacit.learn.server import ServerState
from tacit.ledger.log import Log, log_origin
from tacit.party.coordinates import server_rule
from tacit.party.job import JobSpec
from tacit.policy.cedar import UNBOUNDED_EPSILON
from tacit.policy.schema import FeatureColumn, Schema
from tacit.privacy.calibration import sample_bound
from tacit.privacy.plan import Plan
from tacit.secagg.masked import cohort_digest, round_context
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

Edit = Callable[[PartyName, dict[str, Any]], dict[str, Any] | None]


def _job(protocol: str, unit: str, min_cohort: int) -> JobSpec:
    return JobSpec.model_validate(
        {
            "version": 1,
            "name": "synthetic",
            "purpose": "test",
            "rounds": ROUNDS,
            "model": "logistic",
            "data": {"contract": "synthetic"},
            "evaluation": {"contract": "evaluation.toml"},
            "privacy": {
                "unit": unit,
                "epsilon": 8.0,
                "sampling_rate": 0.5,
                "expected_units": 400,
            },
            "aggregation": {"protocol": protocol, "min_cohort": min_cohort},
            "training": {"learning_rate": 0.5, "average_from": 0.5},
        }
    )


def _plan(job: JobSpec, helpers: int) -> Plan:
    private = job.privacy.unit != "none"
    return Plan(
        unit=job.privacy.unit,
        rounds=job.rounds,
        delta=job.privacy.delta,
        clip_norm=job.privacy.clip_norm,
        sampling_rate=job.privacy.sampling_rate,
        visible_sampling=False,
        max_participations=0,
        expected_units=job.privacy.expected_units,
        noise_multiplier=2.0 if private else 0.0,
        helpers=helpers,
        min_helpers=helpers,
        max_colluding=job.privacy.max_colluding,
        ring_bits=32,
        grid=2.0**-16,
        units_bound=sample_bound(job.privacy.sampling_rate * job.privacy.expected_units),
    )


@dataclass
class SyntheticRun:
    """Plays a run of four sites, each also a helper, and keeps what a bundle needs.

    Args:
        protocol: ``masked`` or ``plain``.
        unit: ``record`` or ``none``.
        min_cohort: As the job says.
        edit: Sees every event before its party logs it; may change or drop (None) it: a lie.
    """

    protocol: str = "masked"
    unit: str = "record"
    min_cohort: int = 4
    edit: Edit = field(default=lambda party, event: event)

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
        self.job = _job(self.protocol, self.unit, self.min_cohort)
        self.plan = _plan(self.job, len(self.helpers))
        self.schema = Schema(
            tuple(FeatureColumn(f"x{i}", 0.0, 1.0) for i in range(2)), "label", ("no", "yes")
        )
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
            rounds=ROUNDS,
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
        self.now += 1
        event = self.edit(party, {"type": f"{role}.{kind}", "run": self.run.hex(), **fields})
        if event is not None:
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
        )
        envelope = sign_message(channel, receiver, body, round_number=round_number)
        return open_message(envelope.message, self.roster.authenticate)

    # --- the run -----------------------------------------------------------------------------

    def begin(self) -> SyntheticRun:
        """Offer and acceptances."""
        offer = Offer(self.manifest, self.job.canonical(), self.schema.canonical())
        self.writer.add_message(self.sign(LEADER, "leader", offer))
        self.writer.add_initial(self.initial)
        self.log(
            LEADER,
            "leader",
            "run.offered",
            job=self.job.digest.hex(),
            plan=digest(self.manifest.plan).hex(),
        )
        for site in SITES:
            self._accept(site)
        for site in SITES:
            for other in SITES:
                if other != site:
                    self._see(site, "client", other)
        return self

    def _accept(self, site: PartyName) -> None:
        schema, contract = self.schema.digest.hex(), _hash("contract")
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
            policy=_hash(f"policy {site}").hex(),
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
            policy=_hash(f"policy {site}").hex(),
            plan=_hash("redaction").hex(),
            schema=schema,
        )
        body = Accept(
            nonce=_hash(site),
            policy=_hash(f"policy {site}"),
            contract=contract,
            reservations=RESERVATIONS,
            heads=(head,),
            released=(),
        )
        message = self.sign(site, "client", body)
        self.writer.add_message(message)
        self.log(site, "client", "offer.accepted", accept=message.digest.hex())
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
            key = _hash(f"key {helper} {number}")
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
        seeds = tuple(SealedSeed(helper, bytes(80)) for helper in self.helpers)
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
            policy=_hash(f"policy {site}").hex(),
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
        rounds: int = ROUNDS,
        released: NDArray[np.float64] | None = None,
        complete: bool = True,
    ) -> SyntheticRun:
        """Settlement, release and the parties' records.

        Args:
            rounds: How many rounds each site settles.
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
                    rounds=rounds,
                    epsilon=repr(self.plan.epsilon()),
                )
            ended = digest(np.ascontiguousarray(own, dtype="<f8").tobytes())
            self.log(site, "client", "run.closed", complete=complete, model=ended.hex())
        model = digest(np.ascontiguousarray(theta, dtype="<f8").tobytes())
        self.log(LEADER, "leader", "model.released", model=model.hex())
        self.log(LEADER, "leader", "run.closed", complete=complete)
        metadata = {"run": self.run.hex()}
        self.writer.add_final(save({"theta": np.ascontiguousarray(theta)}, metadata=metadata))
        self.record()
        return self

    def record(self, *parties: PartyName) -> SyntheticRun:
        """Puts the logs of ``parties``, by default of all, into the bundle."""
        for party in parties or tuple(self.logs):
            checkpoint = self.logs[party].checkpoint()
            self.writer.add_log(party, self.logs[party].record(self.run.hex()), checkpoint)
        return self

    def play(self) -> SyntheticRun:
        """A whole honest run."""
        self.begin()
        for number in range(1, ROUNDS + 1):
            self.round(number)
        return self.close()

    def write(self, path: Path, *, complete: bool = True) -> Path:
        """Writes the bundle."""
        self.writer.write(path, leader=LEADER, signer=self.identities[LEADER], complete=complete)
        return path

    def members(self, *, complete: bool = True) -> dict[str, bytes]:
        """The bundle's members, manifest and signature included."""
        return reseal(self, self.writer.members, complete=complete)


def reseal(
    run: SyntheticRun, members: Mapping[str, bytes], *, complete: bool = True
) -> dict[str, bytes]:
    """``members`` under a fresh manifest signed by the leader: what a dishonest leader can do."""
    files = {
        name: data
        for name, data in members.items()
        if name not in (layout.MANIFEST, layout.SIGNATURE)
    }
    final = files.get(layout.FINAL)
    head = Head(
        federation=run.roster.federation,
        run=run.run.hex(),
        status="complete" if complete else "partial",
        model=hashlib.sha256(final).hexdigest() if final is not None else "",
        simulated=(),
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    manifest = head.canonical()
    signature = sign(manifest, head.federation, LEADER, run.identities[LEADER])
    return {**files, layout.MANIFEST: manifest, layout.SIGNATURE: signature}


def sealed(run: SyntheticRun, members: Mapping[str, bytes], *, complete: bool = True) -> bytes:
    """The archive of ``reseal``."""
    return pack(reseal(run, members, complete=complete))


def _roles(name: PartyName) -> tuple[Role, ...]:
    return ("leader",) if name == LEADER else ("client", "helper")


def _hash(text: str) -> Digest:
    return digest(text.encode())
