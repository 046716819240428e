"""The columns of the report: one job under five defences, from none to all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from tacit.attack.view import Adversary
from tacit.party.job import JobSpec
from tacit.types import PartyName

__all__ = ["DEFENCES", "TITLES", "Defence", "adversary_of", "job_for", "pooled_against"]

Defence = Literal["plain", "clipping", "masking", "noise", "tacit"]

DEFENCES: tuple[Defence, ...] = get_args(Defence)

TITLES: dict[Defence, str] = {
    "plain": "plain FedAvg",
    "clipping": "clipping only",
    "masking": "secure aggregation only",
    "noise": "DP only",
    "tacit": "Tacit",
}

NOT_CLIPPED = 50.0
"""A clip norm that no honest gradient of these jobs reaches, and that still leaves a fine grid."""


def job_for(
    job: JobSpec,
    defence: Defence,
    *,
    sites: int,
    units: int,
    rounds: int | None = None,
    training: dict[str, Any] | None = None,
    privacy: dict[str, Any] | None = None,
) -> JobSpec:
    """The job as it would run under one defence alone.

    ``noise`` and ``tacit`` are one job, the job as it is: they differ in who looks. ``noise`` is differential
    privacy with a server that must be trusted: the leader holds the keys of all helpers.

    Args:
        job: As it was written.
        defence: Which one.
        sites: How many sites take part: they are the smallest cohort too.
        units: Public number of units of all sites together.
        rounds: Other than the job's.
        training: Changes to ``[training]``, after those of the defence.
        privacy: Changes to ``[privacy]``, after those of the defence.

    Raises:
        ValidationError: The changes do not make a job.
    """
    content = job.model_dump()
    content["aggregation"] |= {"min_cohort": sites, "helpers": None, "min_helpers": None}
    content["evaluation"] |= {"holdout": 0.0, "patience": 0}
    content["training"] |= {"metrics_share": 0.0}
    content["rounds"] = job.rounds if rounds is None else rounds
    if defence in ("plain", "clipping", "masking"):
        content["privacy"] |= {
            "unit": "none",
            "noise": "shared",
            "sampling_rate": 1.0,
            "max_records": 1,
            "client_sampling": "secret",
            "max_participations": None,
        }
        content["training"] |= {"clipping": "flat"}
    if defence in ("plain", "clipping"):
        content["aggregation"] |= {"protocol": "plain", "ring_bits": 32}
        content["privacy"] |= {"max_colluding": 0}
    if defence in ("plain", "masking"):
        content["privacy"] |= {"clip_norm": max(NOT_CLIPPED, job.privacy.clip_norm)}
    if defence == "masking":
        content["aggregation"] |= {"protocol": "masked"}
        content["privacy"] |= {"max_colluding": min(job.privacy.max_colluding, max(0, sites - 2))}
    content["privacy"] |= {"expected_units": units, **(privacy or {})}
    content["training"] |= training or {}
    return JobSpec.model_validate(content)


def adversary_of(
    defence: Defence,
    helpers: Iterable[PartyName],
    colluding: int,
    targets: Iterable[PartyName] = (),
) -> Adversary:
    """Whom a column's figures are about.

    Helpers are sites: who colludes gives its own contribution away beside its noise and masks. No target is
    the adversary's own site: others collude as long as there are others. Only a helper that is itself a target,
    because every site is one, keeps its contribution to itself.

    Args:
        defence: The column.
        helpers: The run's helpers.
        colluding: How many of them collude with the leader where the defence allows for it.
        targets: Sites that are attacked.
    """
    names, aims = sorted(helpers), frozenset(targets)
    if defence in ("plain", "clipping"):
        return Adversary.leads()
    if defence == "noise":
        return Adversary("trusted server", leader=True, helpers=frozenset(names))
    held = sorted(names, key=lambda name: name in aims)[:colluding]
    return Adversary.leads(held, own=[name for name in held if name not in aims])


def pooled_against(
    target: PartyName, sites: Iterable[PartyName], helpers: Iterable[PartyName], colluding: int
) -> Adversary:
    """Whom Tacit's promise is about: leader, colluding helpers and all other sites pool what they know.

    Args:
        target: The site that is attacked.
        sites: All sites.
        helpers: The run's helpers.
        colluding: How many of them collude; the target does only if there are no others.
    """
    held = sorted(sorted(helpers), key=lambda name: name == target)[:colluding]
    return Adversary.leads(held, own=[name for name in sites if name != target], pooled=True)
