"""What is proven of a job before any attack: its epsilon, and what that bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tacit.attack.measure import Ceiling, ceiling_of
from tacit.attack.scratch import site_names
from tacit.attack.words import at_most
from tacit.attack.workbench import Workbench
from tacit.party.terms import choose_helpers, plan_for
from tacit.party.workload import Workload
from tacit.privacy.plan import Plan
from tacit.privacy.statement import make_statement

__all__ = ["CANDIDATES", "Proven", "prove"]

FALSE_POSITIVES = (0.01, 0.001)
CANDIDATES = 1000


@dataclass(frozen=True, slots=True)
class Proven:
    """The job's own promise.

    Args:
        epsilon: Of the whole plan, against the leader and the colluding helpers that the job allows for;
            infinite without differential privacy.
        delta: Of the whole plan; 0.0 without differential privacy.
        ceiling: What that leaves to any adversary.
        lines: In plain sentences.
    """

    epsilon: float
    delta: float
    ceiling: Ceiling
    lines: tuple[str, ...]


def prove(bench: Workbench, sites: int) -> Proven:
    """The promise of a job that runs among so many sites.

    Raises:
        ConfigError: The job's model, or its privacy settings, do not hold together.
    """
    plan = own_plan(bench, sites)
    ceiling = ceiling_of(plan)
    statement = make_statement(plan, tuning=bench.job.privacy.tuning)
    if not math.isfinite(ceiling.epsilon):
        lines = ("Nothing is proven about what models and sums reveal.", *statement.lines())
        return Proven(math.inf, 0.0, ceiling, lines)
    shares = " and ".join(
        f"{at_most(ceiling.true_positives(rate))} at a false positive rate of {rate:g}"
        for rate in FALSE_POSITIVES
    )
    bounds = (
        f"Against any attack whatsoever on one unit ({plan.unit}), by the leader with {plan.max_colluding} "
        f"colluding helper{'' if plan.max_colluding == 1 else 's'}: a membership test has an advantage of at "
        f"most {at_most(ceiling.advantage)}, and finds at most a share of {shares}.",
        f"Whoever picks the true record among {CANDIDATES} equally likely ones is right in a share of at most "
        f"{at_most(ceiling.identification(CANDIDATES))}; guessing is right in {1 / CANDIDATES:g}.",
    )
    return Proven(ceiling.epsilon, plan.delta, ceiling, (*bounds, *statement.lines()))


def own_plan(bench: Workbench, sites: int) -> Plan:
    """The job's plan as it would run among so many sites."""
    job = bench.job
    workload = Workload.build(job, bench.model, len(bench.data.batch.schema.classes))
    helpers = choose_helpers(job, site_names(sites))
    return plan_for(job, clients=sites, helpers=len(helpers), length=workload.length)
