"""The terms of a run: an offer, decoded and checked against roster, job and plan.

Leader, clients and helpers all apply these checks; a leader that offers anything else is refused
before any data is read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from tacit.algebra.ring import Ring
from tacit.errors import ConfigError, DecodeError, RemoteProtocolError, VerificationError
from tacit.party.coordinates import Coordinates
from tacit.party.job import JobSpec
from tacit.policy.contract import Schema
from tacit.privacy.calibration import make_plan, sample_bound
from tacit.privacy.noise import MAX_DRAWS
from tacit.privacy.plan import Plan
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import CHUNK_ELEMENTS, MAX_MESSAGE, digest
from tacit.wire.messages import MAX_SIGNED, Manifest, Offer

__all__ = [
    "PROTOCOLS",
    "Terms",
    "check_cohort",
    "check_price",
    "check_sizes",
    "choose_helpers",
    "plan_for",
]

PROTOCOLS = {"masked": "masked/1", "plain": "plain/1"}
MAX_DEFAULT_HELPERS = 8
UPLOAD_BYTES, SEED_BYTES, DIGEST_BYTES = 1024, 1280, 40
"""Upper bounds of what a signed upload holds: its frame, one sealed seed, one chunk's digest."""

MAX_BATCH_ELEMENTS = 2**27
"""Elements of one micro-batch of per-record gradients: 1 GiB as float64."""

NEGLIGIBLE = 5e-10
"""Of delta: less than the accountant's own slack."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every party of a run agreed to."""

    manifest: Manifest
    run: Digest
    job: JobSpec
    schema: Schema
    plan: Plan

    @property
    def masked(self) -> bool:
        """Whether contributions are masked."""
        return self.manifest.protocol == PROTOCOLS["masked"]

    @property
    def ring(self) -> Ring:
        """The ring of contributions and sums."""
        return Ring(self.plan.ring_bits)

    @property
    def coordinates(self) -> Coordinates:
        """What lies where in the run's sums."""
        return Coordinates.of(self.job, self.manifest.dimension, len(self.schema.classes))

    @property
    def phase(self) -> Milliseconds:
        """How long a phase of a round may last."""
        return Milliseconds(1000 * self.job.aggregation.phase_seconds)

    @property
    def run_id(self) -> str:
        """The run id as text: 64 hexadecimal digits."""
        return self.run.hex()

    @property
    def helpers(self) -> tuple[PartyName, ...]:
        """The helpers in protocol order."""
        return tuple(PartyName(name) for name in self.manifest.helpers)

    @property
    def clients(self) -> tuple[PartyName, ...]:
        """The clients in protocol order."""
        return tuple(PartyName(name) for name in self.manifest.clients)

    @classmethod
    def of(cls, offer: Offer, roster: Roster, *, priced: bool = True) -> Terms:
        """Decodes and checks an offer.

        Args:
            offer: What the leader offers.
            roster: The federation's roster.
            priced: Whether to check what the plan costs, which takes the accountant.

        Raises:
            RemoteProtocolError: The leader offers something inconsistent or unsafe.
        """
        manifest = offer.manifest
        try:
            job = JobSpec.from_canonical(offer.job)
            schema = Schema.from_canonical(offer.schema)
            plan = Plan.from_record(json.loads(manifest.plan))
            terms = cls(manifest, digest(encode(manifest)), job, schema, plan)
            _check(offer, terms, roster)
            if priced:
                check_price(plan, job)
        except (ValueError, RecursionError, ConfigError, DecodeError, VerificationError) as error:
            raise RemoteProtocolError(
                "offer.inconsistent",
                f"the leader's offer is inconsistent: {error}",
                remedy="correct the job at the leader",
                party=manifest.leader,
            ) from error
        return terms


def _check(offer: Offer, terms: Terms, roster: Roster) -> None:
    manifest, job, plan = terms.manifest, terms.job, terms.plan
    if digest(offer.job) != manifest.job or digest(offer.schema) != manifest.schema:
        raise DecodeError("offer.digest", "job or schema differ from the manifest's digests")
    if roster.digest != manifest.roster:
        raise DecodeError("offer.roster", "the run names another roster")
    if manifest.leader in (*manifest.clients, *manifest.helpers):
        raise DecodeError(
            "offer.leader", "the leader is a client or helper too: two logs, one name"
        )
    if manifest.protocol != PROTOCOLS[job.aggregation.protocol]:
        raise DecodeError("offer.protocol", "the run uses another protocol than the job")
    if manifest.length > MAX_DRAWS:
        raise DecodeError("offer.length", "the vector is too long")
    if (manifest.length, manifest.rounds) != (terms.coordinates.length, job.rounds):
        raise DecodeError("offer.length", "vector length or rounds do not fit the job")
    if (manifest.ring_bits, manifest.min_cohort) != (plan.ring_bits, job.aggregation.min_cohort):
        raise DecodeError("offer.encoding", "encoding or cohort do not fit the job")
    batch = job.training.micro_batch * job.privacy.max_records
    if batch * max(manifest.dimension, len(terms.schema.features)) > MAX_BATCH_ELEMENTS:
        raise DecodeError("offer.micro-batch", "one micro-batch of gradients would be too large")
    check_sizes(len(manifest.clients), len(manifest.helpers), manifest.length)
    _check_plan(plan, job, manifest)
    check_cohort(
        job,
        tuple(map(PartyName, manifest.clients)),
        tuple(map(PartyName, manifest.helpers)),
        roster,
    )


def _check_plan(plan: Plan, job: JobSpec, manifest: Manifest) -> None:
    privacy = job.privacy
    same = (
        plan.unit == privacy.unit
        and plan.rounds == job.rounds
        and plan.clip_norm == privacy.clip_norm
        and plan.sampling_rate == privacy.sampling_rate
        and plan.visible_sampling == (privacy.client_sampling == "visible")
        and plan.max_participations == (privacy.max_participations or 0)
        and plan.expected_units == privacy.expected_units
        and plan.delta == privacy.delta
        and plan.helpers == len(manifest.helpers)
        and plan.min_helpers == _min_helpers(job, len(manifest.helpers))
        and plan.ring_bits == job.aggregation.ring_bits
        and plan.max_colluding == manifest.max_colluding
        and plan.units_bound == _units_bound(job, len(manifest.clients))
        and plan.canonical() == manifest.plan
    )
    colluding = max(plan.helpers - 1, 0) if privacy.noise == "own" else privacy.max_colluding
    own = privacy.noise == "own"
    if not same or manifest.own_noise != own or manifest.max_colluding != colluding:
        raise DecodeError("offer.plan", "the privacy plan does not fit the job")


def check_price(plan: Plan, job: JobSpec) -> None:
    """Whether a plan costs no more than its job says, and a site can pay for it.

    Raises:
        ConfigError: Against the run's own parties its epsilon is infinite.
        DecodeError: It costs more than the job says.
    """
    if plan.private and plan.epsilon() > job.privacy.epsilon * (1 + 1e-9):
        raise DecodeError("offer.epsilon", "the privacy plan spends more epsilon than the job says")
    require_price(plan)


def require_price(plan: Plan) -> None:
    """Whether a site can pay for a plan at all.

    Raises:
        ConfigError: Against the run's own parties its epsilon is infinite.
    """
    if plan.private and not math.isfinite(plan.charge()):
        raise ConfigError(
            "job.price",
            "against leader and helpers, who see who takes part, epsilon is infinite at this delta",
            remedy="set privacy.max_participations, or privacy.client_sampling = 'secret'",
            key="privacy.client_sampling",
        )


def _units_bound(job: JobSpec, clients: int) -> int:
    """How many units a sum may hold; a larger bound would void the norm check of aggregates."""
    privacy = job.privacy
    if job.training.algorithm == "fedavg":
        return clients
    return sample_bound(privacy.sampling_rate * privacy.expected_units)


def _min_helpers(job: JobSpec, helpers: int) -> int:
    """Fewest helpers of a round: what the job says, otherwise all."""
    chosen = job.aggregation.min_helpers
    return helpers if chosen is None or not helpers else chosen


def check_sizes(clients: int, helpers: int, length: int) -> None:
    """Whether a round's largest messages stay within the wire's limits.

    Raises:
        ConfigError: The headers of a full cohort would not fit into one message.
    """
    upload = UPLOAD_BYTES + SEED_BYTES * helpers + DIGEST_BYTES * -(-length // CHUNK_ELEMENTS)
    if upload > MAX_SIGNED or clients * upload > MAX_MESSAGE // 8 * 7:
        raise ConfigError(
            "job.size",
            f"{clients} sites with {helpers} helpers and {length} parameters make messages that are "
            "too long for the wire",
            remedy="name fewer helpers in aggregation.helpers (three are plenty), split the "
            "federation, or use a smaller model",
            key="aggregation.helpers",
        )


def choose_helpers(job: JobSpec, clients: tuple[PartyName, ...]) -> tuple[PartyName, ...]:
    """The helpers of a run: those the job names, otherwise every client, up to eight.

    Raises:
        ConfigError: More than eight clients and no helpers named.
    """
    if job.aggregation.protocol == "plain":
        return ()
    if job.aggregation.helpers is not None:
        return tuple(PartyName(name) for name in job.aggregation.helpers)
    if len(clients) > MAX_DEFAULT_HELPERS:
        raise ConfigError(
            "job.helpers",
            f"{len(clients)} sites take part and the job names no helpers",
            remedy="name at least two helpers of distinct operators in aggregation.helpers",
            key="aggregation.helpers",
        )
    return clients


def check_cohort(
    job: JobSpec,
    clients: tuple[PartyName, ...],
    helpers: tuple[PartyName, ...],
    roster: Roster,
) -> None:
    """Counts of distinct operators that make a sum safe.

    Raises:
        ConfigError: Names the job's key and the remedy.
    """
    for names, role in ((clients, "client"), (helpers, "helper")):
        members = {member.name for member in roster.with_role(role)}  # type: ignore[arg-type]
        missing = [name for name in names if name not in members]
        if missing:
            raise ConfigError(
                "job.roster",
                f"'{missing[0]}' is not a {role} of the roster",
                remedy="correct 'name' in its site.toml, add it to federation.toml, or leave it out",
            )
    if len(set(clients)) != len(clients) or len(roster.operators(helpers)) != len(helpers):
        raise ConfigError(
            "job.operators",
            "two helpers have the same operator, or a site is named twice",
            remedy="helpers must be of distinct operators: one of them must leave",
        )
    minimum, operators = job.aggregation.min_cohort, len(roster.operators(clients))
    if minimum > operators:
        raise ConfigError(
            "job.min-cohort",
            f"min_cohort is {minimum}, but only {operators} sites of distinct operators take part",
            remedy="lower aggregation.min_cohort or add sites",
            key="aggregation.min_cohort",
        )
    if job.privacy.client_sampling == "visible":
        _check_visible(job, operators)
    if job.aggregation.protocol == "masked":
        _check_helpers(job, clients, helpers)


def _check_visible(job: JobSpec, operators: int) -> None:
    """Rounds that too few sample themselves for must be so rare that leaving them out tells nothing.

    Sampling amplifies only if every round is released whoever is in it. With n operators, of whom each
    takes part with probability q at least, fewer than k do with probability at most
    ``exp(-n KL((k - 1) / n, q))`` (Chernoff); over all rounds, and in both worlds, that must vanish
    beside delta. Under a cap q is multiplied by the probability that a client has not reached it.
    """
    privacy, fewest = job.privacy, job.aggregation.min_cohort - 1
    share, rate = fewest / operators, privacy.sampling_rate * _below_cap(job)
    exponent = 0.0
    if share < rate:
        parts = ((share, rate), (1.0 - share, 1.0 - rate))
        exponent = sum(a * math.log(a / b) for a, b in parts if a > 0.0 and b > 0.0)
        exponent = math.inf if rate == 1.0 else operators * exponent
    rare = math.log(job.rounds) + math.log1p(math.exp(privacy.epsilon)) - exponent
    if rare > math.log(NEGLIGIBLE * privacy.delta):
        raise ConfigError(
            "job.visible-sampling",
            f"of {operators} clients, sampled at {rate:g}, fewer than min_cohort may take part in some "
            "round; leaving such a round out would show who was sampled, beyond what epsilon says",
            remedy="set privacy.client_sampling = 'secret', or have more clients, a higher "
            "sampling_rate or a lower min_cohort",
            key="privacy.client_sampling",
        )


def _below_cap(job: JobSpec) -> float:
    """Probability that a client may still take part in the last round."""
    before, cap, rate = job.rounds - 1, job.privacy.max_participations, job.privacy.sampling_rate
    if cap is None or cap > before:
        return 1.0
    if rate == 1.0:
        return 0.0
    logs = (
        math.lgamma(before + 1)
        - math.lgamma(count + 1)
        - math.lgamma(before - count + 1)
        + count * math.log(rate)
        + (before - count) * math.log1p(-rate)
        for count in range(cap)
    )
    return min(1.0, sum(map(math.exp, logs)))


def _check_helpers(
    job: JobSpec, clients: tuple[PartyName, ...], helpers: tuple[PartyName, ...]
) -> None:
    if len(helpers) < 2:
        raise ConfigError(
            "job.helpers",
            "masked aggregation needs at least two helpers of distinct operators",
            remedy="add sites or name helpers in aggregation.helpers",
            key="aggregation.helpers",
        )
    if _min_helpers(job, len(helpers)) > len(helpers):
        raise ConfigError(
            "job.min-helpers",
            f"min_helpers is {job.aggregation.min_helpers}, but there are {len(helpers)} helpers",
            remedy="lower aggregation.min_helpers or name more helpers",
            key="aggregation.min_helpers",
        )
    own = job.privacy.noise == "own"
    colluding = len(helpers) - 1 if own else job.privacy.max_colluding
    # Only real noise, of every client's own, makes a sum of one harmless.
    everyone_helps = own and job.privacy.unit != "none" and set(clients) <= set(helpers)
    if job.aggregation.min_cohort - colluding < 2 and not everyone_helps:
        raise ConfigError(
            "job.cohort-too-small",
            f"min_cohort {job.aggregation.min_cohort} minus {colluding} colluding "
            "leaves fewer than two honest sites in a sum",
            remedy="raise aggregation.min_cohort, or let every site help with privacy.noise = 'own'",
            key="aggregation.min_cohort",
        )


def plan_for(job: JobSpec, *, clients: int, helpers: int, length: int) -> Plan:
    """The privacy plan of a job.

    Raises:
        ConfigError: The job's privacy settings cannot hold together.
    """
    privacy = job.privacy
    plan = make_plan(
        unit=privacy.unit,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip_norm=privacy.clip_norm,
        sampling_rate=privacy.sampling_rate,
        expected_units=privacy.expected_units,
        rounds=job.rounds,
        helpers=helpers,
        max_colluding=privacy.max_colluding,
        own_noise=privacy.noise == "own",
        dimension=length,
        units_bound=_units_bound(job, clients),
        min_helpers=_min_helpers(job, helpers),
        ring_bits=job.aggregation.ring_bits,
        visible_sampling=privacy.client_sampling == "visible",
        max_participations=privacy.max_participations or 0,
    )
    require_price(plan)
    return plan
