"""The offer of a fresh run: a job put together with who takes part."""

from __future__ import annotations

from tacit.party.job import JobSpec
from tacit.party.terms import PROTOCOLS, Terms, check_sizes, choose_helpers, plan_for
from tacit.party.workload import Workload
from tacit.policy.schema import Schema
from tacit.trust.roster import Roster
from tacit.types import PartyName
from tacit.wire.messages import Manifest, Offer

__all__ = ["draft"]


def draft(
    job: JobSpec,
    workload: Workload,
    schema: Schema,
    roster: Roster,
    *,
    leader: PartyName,
    clients: tuple[PartyName, ...],
    nonce: bytes,
) -> tuple[Offer, Terms]:
    """A fresh run of a job.

    Args:
        job: The job.
        workload: Its computation.
        schema: The public schema.
        roster: The federation.
        leader: Who leads.
        clients: Who trains, in order.
        nonce: 32 fresh bytes: they make the run's id its own.

    Raises:
        ConfigError: The job does not fit the clients; names key and remedy.
        RemoteProtocolError: The offer would be refused by every site.
    """
    helpers = choose_helpers(job, clients)
    length = workload.length
    check_sizes(len(clients), len(helpers), length)
    plan = plan_for(job, clients=len(clients), helpers=len(helpers), length=length)
    manifest = Manifest(
        protocol=PROTOCOLS[job.aggregation.protocol],
        nonce=nonce,
        job=job.digest,
        schema=schema.digest,
        code=workload.model.code,
        layout=workload.layout,
        roster=roster.digest,
        plan=plan.canonical(),
        ring_bits=plan.ring_bits,
        dimension=workload.dimension,
        length=length,
        rounds=job.rounds,
        leader=leader,
        clients=clients,
        helpers=helpers,
        min_cohort=job.aggregation.min_cohort,
        max_colluding=plan.max_colluding,
        own_noise=job.privacy.noise == "own",
    )
    offer = Offer(manifest=manifest, job=job.canonical(), schema=schema.canonical())
    return offer, Terms.of(offer, roster)
