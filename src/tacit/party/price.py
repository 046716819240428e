"""What a run asks of a site, what it costs there, and what a refusal tells."""

from __future__ import annotations

import dataclasses
import math

from tacit.errors import ConfigError, TacitError
from tacit.party.config import SiteConfig
from tacit.party.job import JobSpec
from tacit.party.terms import Terms
from tacit.policy.contract import Contract
from tacit.policy.request import UNBOUNDED_EPSILON, Request
from tacit.privacy.budget import Account
from tacit.privacy.plan import Plan
from tacit.trust.roster import Roster
from tacit.types import Milliseconds, PartyName

__all__ = [
    "account_of",
    "charged_epsilon",
    "epsilon_milli",
    "policy_request",
    "public_code",
    "run_request",
    "settled_epsilon",
]


def public_code(error: TacitError) -> str:
    """What a peer may know of a refusal.

    One code stands for everything wrong at the site itself: which check a data set failed would
    tell of a single record, free of charge. So would how training failed there.
    """
    own = isinstance(error, ConfigError) or error.code.startswith("training.")
    return "site.not-ready" if own else error.code


def account_of(terms: Terms, contract: Contract) -> Account:
    """Where a site books the cost of a run."""
    return Account(contract.population, terms.job.purpose, terms.plan.unit)


def charged_epsilon(terms: Terms, uploads: int) -> float:
    """An upper bound of what ``uploads`` rounds cost, charged before the last of them leaves.

    It is the exact cost of the next power of two of rounds, so that a run of T rounds needs the
    accountant about log2(T) times.
    """
    steps = [1 << power for power in range((uploads - 1).bit_length() + 1)]
    costs = [terms.plan.charge(min(count, terms.plan.rounds)) for count in steps]
    # Two bounds that cross may err by their last digits: charges neither fall nor exceed the whole.
    return min(max(costs), terms.plan.charge())


def settled_epsilon(terms: Terms, uploads: int) -> float:
    """What a closed run has spent at a site.

    A stop may depend on what the aggregates showed, and a leader may keep an aggregate to itself. So
    once anything was uploaded the whole plan counts: an epsilon of a data-dependent number of rounds
    would be no guarantee.
    """
    return terms.plan.charge() if uploads else 0.0


def epsilon_milli(plan: Plan) -> int:
    """The price of a run as policies see it: thousandths of epsilon, rounded up."""
    price = plan.charge() if plan.private else math.inf
    return math.ceil(price * 1000) if math.isfinite(price) else UNBOUNDED_EPSILON


def run_request(
    job: JobSpec,
    plan: Plan,
    parties: tuple[PartyName, ...],
    roster: Roster,
    *,
    site: SiteConfig,
    contract: Contract,
    now: Milliseconds,
) -> Request:
    """What a site's policy is asked about a job.

    Args:
        job: The job.
        plan: Its privacy plan.
        parties: The leader, then all helpers.
        roster: Who they are.
        site: Configuration of the site.
        contract: The data set that the job asks for.
        now: The time.
    """
    leader, *helpers = parties
    return Request(
        principal=leader,
        dataset=contract.name,
        purpose=job.purpose,
        region=site.region,
        leader_region=roster.member(leader).region,
        helper_regions=frozenset(roster.member(name).region for name in helpers),
        data_region=contract.region or site.region,
        allowed_regions=frozenset(contract.allowed_regions or ()),
        lawful_basis=contract.lawful_basis or "",
        public=contract.public,
        retention=contract.retention,
        now=now,
        aggregation=job.aggregation.protocol,
        epsilon_milli=epsilon_milli(plan),
        unit=plan.unit,
        helpers=len(helpers),
        max_colluding=plan.max_colluding,
        min_cohort=job.aggregation.min_cohort,
        own_helper=site.name in helpers,
        own_noise=job.privacy.noise == "own",
        code="pinned",
    )


def policy_request(
    terms: Terms,
    roster: Roster,
    *,
    site: SiteConfig,
    contract: Contract,
    pinned: bool,
    now: Milliseconds,
) -> Request:
    """What the site's policy is asked about a run."""
    parties = (PartyName(terms.manifest.leader), *terms.helpers)
    asked = run_request(
        terms.job, terms.plan, parties, roster, site=site, contract=contract, now=now
    )
    return dataclasses.replace(
        asked,
        max_colluding=terms.manifest.max_colluding,
        min_cohort=terms.manifest.min_cohort,
        own_noise=terms.manifest.own_noise,
        code="pinned" if pinned else "not pinned",
        code_digest=terms.manifest.code.hex() if pinned else "",
    )
