"""The audit of epsilon: canaries in real runs under the job's own plan, and what their scores prove."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tacit.attack.audit.bounds import (
    Scores,
    canary_estimate,
    gap,
    multi_run,
    multi_run_curves,
    one_run,
    one_run_fdp,
    threshold_for,
)
from tacit.attack.audit.canaries import (
    QUIET,
    Canaries,
    CanaryFederation,
    FactoredCanaryModel,
    canary_job,
    sites_of,
)
from tacit.attack.audit.curves import Curves, Sampled
from tacit.attack.defences import Defence, adversary_of
from tacit.attack.findings import Findings, OnProgress
from tacit.attack.measure import Estimate
from tacit.attack.transcript import Transcript
from tacit.attack.view import Adversary, look
from tacit.attack.workbench import Workbench
from tacit.privacy.plan import Plan

__all__ = ["audit_epsilon"]

LEVEL = 0.05
ALARM_LEVEL = 1e-7
"""An alarm is raised at this level, so that a sound system never sees one; figures are at ``LEVEL``."""

ROUNDING = 1.001
"""By how much a family's epsilon may differ from the accountant's by interpolation."""

CANARY_ROWS = 20
ONE_RUN = 4000
"""Canaries that the one-run bounds are of, the first ones: with more of them delta costs more than they bring."""

OPEN_ROUNDS, OPEN_CANARIES = 2, 1000
"""Where nothing is promised, one round shows everything."""

OUTSIDER = Adversary("whoever sees the released sums, and not the server")
"""Whom noise that a trusted server adds is for. The server sees what came in, and epsilon is infinite against it."""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Scores of all runs and what they are judged by.

    Args:
        first: Scores of the first run, ``ONE_RUN`` at most.
        pooled: Scores of all runs.
        curves: The family of mechanisms; None where there is no noise, and so no family.
        thresholds: For ``multi_run`` and ``multi_run_curves``.
        guesses: Of the one-run audits.
        delta: Of the claim.
    """

    first: Scores
    pooled: Scores
    curves: Curves | None
    thresholds: tuple[float, float]
    guesses: int
    delta: float

    def bounds(self, level: float) -> dict[str, float]:
        """The bounds that hold without a guess about the shape of scores."""
        extreme, middle = self.thresholds
        found = {
            "one_run": one_run(self.first, self.guesses, delta=self.delta, level=level),
            "multi_run": multi_run(self.pooled, extreme, delta=self.delta, level=level),
        }
        if self.curves is not None:
            found["one_run_fdp"] = one_run_fdp(self.first, self.guesses, self.curves, level=level)
            found["multi_run_gdp"] = multi_run_curves(self.pooled, middle, self.curves, level=level)
        return found


HOW = {
    "one_run": "lower bound at 95%, any mechanism (Steinke et al. 2023)",
    "one_run_fdp": "lower bound at 95%, curves of the plan's mechanism with other noise "
    "(Mahloujifar et al. 2024)",
    "gap": "lower bound at 95% if scores are Gaussian and independent; not free of assumptions",
    "multi_run": "lower bound at 95%, canaries in coordinates of their own count as independent trials "
    "(Clopper-Pearson)",
    "multi_run_gdp": "lower bound at 95%, as multi_run, with curves of the plan's mechanism with other "
    "noise",
}

ESTIMATOR = (
    "an estimator without coverage, no bound: it may lie above the claim (Andrew et al. 2024)"
)


def audit_epsilon(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Lower bounds of epsilon from white-box canaries, one in a coordinate of its own each.

    The auditor tosses a coin for every canary, and scores it by the sums of all rounds, less the noise that
    the column's adversary knows. Row ``formal-epsilon``.

    Returns:
        ``epsilon.audited`` first: as every bound here it is the lower end of an interval that has no upper
        end. Alarm ``epsilon-exceeded`` if a bound at level 1e-7 is above the claim.
    """
    count = bench.pick(4000, 8000, 40_000)
    canaries = Canaries(count, 1, bench.job.privacy.clip_norm)
    job = canary_job(bench.job, defence, canaries, sites=sites_of(bench.job))
    private = job.privacy.unit != "none"
    if not private:
        canaries = Canaries(OPEN_CANARIES, 1, bench.job.privacy.clip_norm)
        job = canary_job(bench.job, defence, canaries, sites=sites_of(bench.job))
    runs = bench.pick(1, 1, 3) if private else 1
    rounds = min(job.rounds, bench.pick(4, 10**6, 10**6) if private else OPEN_ROUNDS)
    data, found = canaries.data(), []
    model = FactoredCanaryModel(canaries, CANARY_ROWS)
    for number in range(runs):
        coins = bench.generator("audit-epsilon", defence, number).random(canaries.count) < 0.5
        holdings = np.array_split(np.flatnonzero(coins), sites_of(bench.job))
        federation = CanaryFederation(job, model, data, list(holdings))
        transcript = federation.run(rounds=rounds)
        found.append((_scores(transcript, defence, canaries, coins), transcript))
        on_progress(0.8 * (number + 1) / runs)
    scores, transcript = found[0]
    first = Scores(scores.values[:ONE_RUN], scores.coins[:ONE_RUN])
    pooled = Scores(
        np.concatenate([each.values for each, _ in found]),
        np.concatenate([each.coins for each, _ in found]),
    )
    evidence = _judged((first, pooled), transcript, defence, bench)
    findings = _findings(evidence, transcript, defence, bench)
    on_progress(1.0)
    return findings


def _adversary(transcript: Transcript, defence: Defence) -> Adversary:
    if defence == "noise":
        return OUTSIDER
    # Every site holds canaries, so all are targets. What others contribute lies in coordinates of its own, and
    # an adversary that knew it would score a canary no better.
    terms = transcript.terms
    return adversary_of(defence, terms.helpers, transcript.plan.max_colluding, terms.clients)


def _colluding(plan: Plan, defence: Defence) -> int:
    return 0 if defence == "noise" else plan.max_colluding


def _scores(
    transcript: Transcript,
    defence: Defence,
    canaries: Canaries,
    coins: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> Scores:
    """Scores in units of one canary's contribution to one round."""
    view = look(transcript, _adversary(transcript, defence))
    unit = transcript.plan.sensitivity * transcript.plan.grid
    total = sum((seen.total for seen in view.rounds), np.zeros(canaries.dimension))
    return Scores(canaries.scores(total[: canaries.dimension]) / unit, coins)


def _judged(
    scores: tuple[Scores, Scores], transcript: Transcript, defence: Defence, bench: Workbench
) -> _Evidence:
    first, pooled = scores
    plan, rounds = transcript.plan, len(transcript.closed)
    rate, ratio = plan.sampling_rate, plan.noise_ratio(_colluding(plan, defence))
    delta, trials = plan.delta, len(pooled.values) // 2
    curves = Sampled(rate, rounds, delta) if plan.private else None
    clipped = min(1.0, QUIET * bench.job.privacy.clip_norm / plan.clip_norm)
    signal, noise = rounds * rate * clipped, rounds * ratio**2
    spreads = math.sqrt(noise + rounds * rate * (1.0 - rate)), math.sqrt(noise)
    extreme = middle = signal / 2.0
    if plan.private:
        extreme = threshold_for(signal, spreads, trials, delta)
    guesses = len(first.values) // 10
    return _Evidence(first, pooled, curves, (extreme, middle), guesses, delta)


def _findings(
    evidence: _Evidence, transcript: Transcript, defence: Defence, bench: Workbench
) -> Findings:
    plan, rounds = transcript.plan, len(transcript.closed)
    colluding, trials = _colluding(plan, defence), len(evidence.pooled.values)
    claimed = plan.epsilon(rounds, colluding)
    ceiling = claimed if math.isfinite(claimed) else None

    def bound(value: float, how: str) -> Estimate:
        """From below alone: nothing that was seen says how large epsilon is at most."""
        return Estimate(value, value, math.inf, 0.0, ceiling, trials, "epsilon", how)

    bounds = evidence.bounds(LEVEL)
    joint = evidence.bounds(LEVEL / len(bounds))
    best = max(joint, key=lambda name: joint[name])
    how = f"largest of {len(joint)} lower bounds, which hold together at 95%; here {best}: {HOW[best]}"
    measured = {"epsilon.audited": bound(joint[best], how)}
    if ceiling is not None:
        text = f"by the accountant, {rounds} rounds, {colluding} helpers colluding, delta {plan.delta:g}"
        measured["epsilon.claimed"] = Estimate(
            ceiling, ceiling, ceiling, None, None, 1, "epsilon", text
        )
    if evidence.curves is not None:
        bounds["gap"] = gap(evidence.pooled, delta=evidence.delta, level=LEVEL)
    measured |= {f"epsilon.{n}": bound(bounds[n], HOW[n]) for n in HOW if n in bounds}
    if evidence.curves is not None:
        estimate = canary_estimate(evidence.pooled, delta=evidence.delta)
        measured["epsilon.canary_estimate"] = Estimate(
            estimate, min(0.0, estimate), math.inf, 0.0, None, trials, "epsilon", ESTIMATOR
        )
    alarms: tuple[str, ...] = ()
    if ceiling is not None:
        sure = evidence.bounds(ALARM_LEVEL)
        # In a sound system scores are Gaussian: sums of discrete Gaussians, of which gap assumes no more.
        sure["gap"] = gap(evidence.pooled, delta=evidence.delta, level=ALARM_LEVEL)
        alarms = ("epsilon-exceeded",) if max(sure.values()) > ceiling * ROUNDING else ()
    return Findings(
        adversary=_adversary(transcript, defence).name,
        measured=measured,
        notes=_notes(plan, rounds, bench, defence),
        alarms=alarms,
        details={"canaries": trials, "rounds": rounds, "guesses": evidence.guesses},
    )


def _notes(plan: Plan, rounds: int, bench: Workbench, defence: Defence) -> tuple[str, ...]:
    if not plan.private:
        return ("Epsilon is infinite: nothing is promised. The bounds only show what was tried.",)
    notes = [
        "A lower bound below the claim is no proof of the claim: it is what these canaries could show."
    ]
    if defence == "noise":
        notes.append(
            "In this row the column is about whoever sees the sums that the trusted server releases, and so is "
            "the claim. Against the server itself, which holds the keys of all helpers, nothing is promised: "
            "epsilon is infinite."
        )
    if rounds < plan.rounds:
        notes.append(
            f"{rounds} of {plan.rounds} rounds were run, and the claim is the one for so many rounds."
        )
    if bench.job.privacy.unit in ("entity", "client"):
        notes.append(f"A canary is a record; the job's unit is the {bench.job.privacy.unit}.")
    return tuple(notes)
