"""Membership inference: which public records were in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import Defence
from tacit.attack.findings import Curve, Findings, OnProgress, Roc
from tacit.attack.measure import Ceiling, Estimate, ceiling_of
from tacit.attack.membership import scores
from tacit.attack.membership.clients import client_membership
from tacit.attack.membership.judge import judge, roc
from tacit.attack.membership.targets import (
    SITES,
    Design,
    Target,
    losses_of,
    observed,
    shadows,
    targets,
)
from tacit.attack.membership.updates import informed, joint, matched, over_sources
from tacit.attack.workbench import Workbench
from tacit.connect import take
from tacit.party.workload import TrainingData
from tacit.privacy.plan import Plan

__all__ = ["attack_records", "design_for", "released_scores", "run_membership"]

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

LEAST_POPULATION = 64
MOST_POPULATION = 256
NARROW = 16
"""Width of a ring in which vectors travel rotated and rounded at random: no known updates to compare."""


@dataclass(slots=True)
class _Collected:
    """What was scored so far, run by run."""

    members: list[Marks] = field(default_factory=list)
    judged: list[Marks] = field(default_factory=list)
    losses: list[Floats] = field(default_factory=list)
    by_updates: dict[str, list[Floats]] = field(default_factory=dict)
    over_rounds: dict[int, list[Floats]] = field(default_factory=dict)
    informed: list[Floats] = field(default_factory=list)


def design_for(bench: Workbench, defence: Defence) -> Design:
    """How much is done: most where the figure has to be shown small, few runs where it is large.

    The pool of a job that trains through torch is smaller, because gradients cost more.
    """
    slow = bench.job.model != "logistic"
    order = bench.generator("membership", "pool").permutation(len(bench.data))
    most = bench.pick(96, (512 if defence == "tacit" else 384) if slow else 640, 800)
    pool, rest = order[:most], order[most : most + MOST_POPULATION]
    tacit = bench.pick(4, 9 if slow else 20, 24)
    return Design(
        pool=np.sort(pool),
        population=rest if len(rest) >= LEAST_POPULATION else rest[:0],
        targets=tacit if defence == "tacit" else bench.pick(3, 3 if slow else 4, 6),
        rounds=min(bench.job.rounds, bench.pick(2, 6 if slow else 8, bench.job.rounds)),
        shadows=bench.pick(4, 8 if slow else 32, 32 if slow else 128),
    )


def run_membership(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """All attacks on one column; see ``Attack.run``."""
    design = design_for(bench, defence)
    findings = attack_records(bench, defence, design, lambda done: on_progress(0.85 * done))
    runs = bench.pick(3, 12, 48) if defence == "tacit" else bench.pick(2, 3, 6)
    measured = dict(findings.measured)
    if bench.job.aggregation.ring_bits > NARROW:
        measured |= client_membership(bench, defence, runs, lambda d: on_progress(0.85 + 0.15 * d))
    on_progress(1.0)
    return replace(findings, measured=measured)


def attack_records(
    bench: Workbench, defence: Defence, design: Design, on_progress: OnProgress
) -> Findings:
    """The attacks on records, so much of them as the design says."""
    everybody = np.concatenate([design.pool, design.population])
    collected, prepared, last = _Collected(), None, None
    for number, target in enumerate(targets(bench, defence, design)):
        if prepared is None:
            prepared = target.workload.prepare(take(bench.data.batch, everybody))
        _score(target, prepared, design, collected)
        last = target
        on_progress(0.7 * (number + 1) / design.targets)
    assert prepared is not None and last is not None
    generator = bench.generator("membership", "shadows", defence)
    shadow = shadows(last.workload, last.plan, prepared, design, generator)
    on_progress(0.9)
    released = {
        name: [one[judged] for one, judged in zip(found, collected.judged, strict=True)]
        for name, found in released_scores(
            collected.losses, *shadow, len(design.population)
        ).items()
    }
    findings = _findings(bench, defence, collected, released, (design, last.plan))
    on_progress(1.0)
    return findings


def _score(target: Target, data: TrainingData, design: Design, into: _Collected) -> None:
    """Everything that is kept of one target run."""
    count = len(design.pool)
    judged = target.judged
    into.members.append(target.members[judged])
    into.judged.append(judged)
    assert target.view.released is not None
    into.losses.append(losses_of(target.workload, target.view.released, data))
    if target.workload.job.training.algorithm != "sgd":
        return
    pool = TrainingData(data.features[:count][judged], data.labels[:count][judged])
    rounds = observed(target, pool)
    # Half of all records are in, and of these so many at the sites that the adversary does not know.
    unknown = 1.0 - len(target.view.adversary.clients) / SITES
    prior = unknown / (1.0 + unknown) / len(rounds[0].sums)
    places = _checkpoints(len(rounds))
    for place, ratios in zip(places, joint(rounds, prior, places), strict=True):
        into.over_rounds.setdefault(place, []).append(over_sources(ratios))
    into.by_updates.setdefault("joint", []).append(into.over_rounds[len(rounds)][-1])
    into.by_updates.setdefault("matched", []).append(over_sources(matched(rounds, prior)))
    if not target.view.rounds[0].contributions:
        into.informed.append(informed(rounds, target.members[judged]))


def _checkpoints(rounds: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and the last round."""
    return tuple(sorted({2**k for k in range(rounds.bit_length())} | {rounds}))


def released_scores(
    losses: Sequence[Floats], shadow: Floats, inside: Marks, population: int
) -> dict[str, list[Floats]]:
    """Scores of the attacks that need nothing but the released model.

    Args:
        losses: Of every target model, ``float64[n + population]``.
        shadow: Losses of the adversary's own models, ``float64[s, n + population]``.
        inside: ``bool[s, n]``.
        population: How many records at the end are in no run; with none of them the pool is its own.
    """
    target, count = np.stack(losses), inside.shape[1]
    sure, sure_shadow = scores.logit_confidence(target), scores.logit_confidence(shadow)
    others = np.zeros(target.shape[1], dtype=bool)
    others[count:] = True
    if not population:
        others[:] = True
    everywhere = np.zeros(shadow.shape, dtype=bool)
    everywhere[:, :count] = inside
    found = {
        "loss": -target[:, :count],
        "lira": scores.lira_online(sure[:, :count], sure_shadow[:, :count], inside),
        "lira_offline": scores.lira_offline(sure[:, :count], sure_shadow[:, :count], inside),
        "rmia": scores.rmia(np.exp(-target), np.exp(-shadow), everywhere, others)[:, :count],
    }
    return {name: list(values) for name, values in found.items()}


def _ceilings(
    defence: Defence, plan: Plan, rounds: int | None = None
) -> tuple[Ceiling | None, Ceiling | None]:
    """What theory allows of a record's membership: against the column's adversary, and the released model.

    Args:
        defence: The column.
        plan: Of the target runs.
        rounds: Of which sums are seen; all of them by default.
    """
    if plan.unit == "client":
        return None, None
    released = ceiling_of(plan, rounds, colluding=0)
    if defence == "noise":
        return ceiling_of(plan, rounds, colluding=plan.helpers), released
    return ceiling_of(plan, rounds), released


def _findings(
    bench: Workbench,
    defence: Defence,
    collected: _Collected,
    released: Mapping[str, list[Floats]],
    setting: tuple[Design, Plan],
) -> Findings:
    design, plan = setting
    members = collected.members
    against, outside = _ceilings(defence, plan)
    families: dict[str, tuple[Mapping[str, list[Floats]], Ceiling | None]] = {
        "": ({**collected.by_updates, **released}, against),
        "released.": (released, outside),
    }
    if collected.informed:
        families["informed."] = ({"informed": collected.informed}, against)
    for name, values in collected.by_updates.items():
        families[f"{name}."] = ({name: values}, against)
    for name, values in released.items():
        families[f"{name}."] = ({name: values}, outside)
    measured: dict[str, Estimate] = {}
    chosen = ""
    for prefix, (family, ceiling) in families.items():
        judged = judge(family, members, ceiling)
        chosen = chosen or judged.chosen
        measured |= {f"membership.{prefix}{name}": one for name, one in judged.measured.items()}
    points = {**collected.by_updates, **released}
    if collected.informed:
        points["informed"] = collected.informed
    rocs: tuple[Roc, ...] = tuple(roc(name, found, members) for name, found in points.items())
    return Findings(
        adversary=_adversary(defence, plan),
        measured=measured,
        notes=_notes(bench, defence, design, chosen, bool(collected.by_updates)),
        curves=_curves(collected, defence, plan),
        rocs=rocs,
        details={
            "rounds": design.rounds,
            "records": len(design.pool),
            "targets": design.targets,
            "shadows": design.shadows,
            "chosen": chosen,
            "epsilon": plan.epsilon() if plan.private else None,
        },
    )


def _adversary(defence: Defence, plan: Plan) -> str:
    """Who looked, in words."""
    if defence in ("plain", "clipping"):
        return "leader, sees every site's update"
    if defence == "noise":
        return "trusted server, sees every site's update without noise"
    helpers = plan.max_colluding
    what = "noisy sums" if defence == "tacit" else "exact sums"
    if not helpers:
        return f"leader, sees {what}"
    many = "s" if helpers > 1 else ""
    return f"leader + {helpers} helper{many} (sites of its own), sees {what} less what these contributed"


def _curves(collected: _Collected, defence: Defence, plan: Plan) -> tuple[Curve, ...]:
    """The advantage after so many rounds, beside what so many rounds allow."""
    points = []
    for place, found in sorted(collected.over_rounds.items()):
        ceiling, _ = _ceilings(defence, plan, place)
        judged = judge({"joint": found}, collected.members, ceiling)
        points.append((float(place), judged.measured["advantage"]))
    return (Curve("membership.advantage", "rounds seen", tuple(points)),) if points else ()


def _notes(
    bench: Workbench, defence: Defence, design: Design, chosen: str, on_updates: bool
) -> tuple[str, ...]:
    notes = [
        f"{design.targets} runs of {design.rounds} rounds among {SITES} sites; each of {len(design.pool)} "
        f"public records was in with probability one half. Attack chosen most often: {chosen}.",
    ]
    if design.rounds != bench.job.rounds:
        notes.append(
            f"The job has {bench.job.rounds} rounds; these runs have fewer, with noise calibrated to the "
            "same epsilon, which makes another ceiling of the advantage."
        )
    if not on_updates:
        notes.append(
            "The job trains by fedavg: a record has no gradient of its own in a round's sum, so the attacks on "
            "updates were not run; figures are those of the attacks on the released model."
        )
    if defence == "noise":
        notes.append(
            "The server is trusted here: it sees every contribution before the noise. What holders of the "
            "released model find is membership.released."
        )
    if defence in ("masking", "tacit") and on_updates:
        notes.append(
            "membership.informed is an adversary that knows every other member, as one does that pools what all "
            "other sites know, and as the definition of differential privacy supposes; it is not part of "
            "membership.advantage."
        )
    return tuple(notes)
