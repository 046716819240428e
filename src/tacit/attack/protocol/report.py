"""Malicious leaders: which lies honest sites and helpers fall for."""

from __future__ import annotations

import math
from typing import Any

from scipy import stats  # type: ignore[import-untyped]

from tacit.attack.defences import DEFENCES, Defence
from tacit.attack.findings import Attack, Findings, OnProgress
from tacit.attack.measure import Estimate, proportion
from tacit.attack.protocol.collusion import opened_by, residual_noise
from tacit.attack.protocol.leader import Outcome
from tacit.attack.protocol.required import missing, required
from tacit.attack.protocol.scenarios import SITES, Stage, told_lies
from tacit.attack.workbench import Workbench
from tacit.errors import TacitError

__all__ = ["ATTACKS", "lie", "too_little"]

UNLIKELY = 1e-9


def lie(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Every lie against one defence.

    Guarantee: a lie of the column's list that was not told is named, and then there is no figure. Checked by
    ``tests/attack/test_protocol.py::test_a_lie_that_was_not_told_is_missed``.

    Raises:
        TacitError: Lies were not told, and none of the others was accepted.
    """
    stage = Stage(bench, defence, {})
    trusted = defence == "noise"  # A leader with every helper's key need not ask: it reads.
    outcomes, details = told_lies(stage, helpers=not trusted)
    on_progress(0.5)
    untold = _untold(stage, outcomes)
    if untold:
        return _incomplete(outcomes, untold, defence)
    measured = {"malicious_server.accepted": _accepted(outcomes)}
    runs = bench.pick(1, 2, 16)
    trained, told, codes = stage.forged_sums(runs)
    on_progress(0.75)
    measured["malicious_server.forged_sum"] = _forged(trained, told, defence)
    details |= {"attempts": [one.record() for one in outcomes], "forged_sum_codes": codes}
    alarms = _accepted_names(outcomes) if defence == "tacit" else []
    notes = list(_notes(outcomes, trained, told, defence))
    if defence in ("masking", "tacit"):
        opened = _coalitions(stage, bench, details, measured)
        alarms += opened if defence == "tacit" else []
        notes += [f"Broken: {name}." for name in opened]
    on_progress(1.0)
    return Findings(
        adversary=_adversary(defence),
        measured=measured,
        notes=tuple(notes),
        alarms=tuple(alarms),
        details=details,
    )


def _adversary(defence: Defence) -> str:
    return "malicious leader" + (" with every helper" if defence == "noise" else " and one site")


def _accepted_names(outcomes: tuple[Outcome, ...]) -> list[str]:
    return [one.name for one in outcomes if one.accepted]


def _untold(stage: Stage, outcomes: tuple[Outcome, ...]) -> tuple[str, ...]:
    expected = required(stage.defence, masked=stage.masked, seeded=stage.seeded)
    return missing({one.name for one in outcomes}, expected)


def _incomplete(
    outcomes: tuple[Outcome, ...], untold: tuple[str, ...], defence: Defence
) -> Findings:
    """Without figures; what was accepted raises its alarm all the same."""
    text = f"{len(untold)} of the column's lies were not told: {', '.join(untold)}"
    alarms = _accepted_names(outcomes) if defence == "tacit" else []
    if not alarms:
        raise TacitError("attack.not-tried", text)
    return Findings(
        adversary=_adversary(defence),
        measured={},
        notes=(f"{text}.",),
        alarms=tuple(alarms),
        details={"attempts": [one.record() for one in outcomes]},
    )


def _accepted(outcomes: tuple[Outcome, ...]) -> Estimate:
    """A count: the lies differ, and what becomes of one is no matter of chance, so that no interval applies."""
    hits = float(len(_accepted_names(outcomes)))
    return Estimate(
        value=hits,
        low=hits,
        high=hits,
        null=0.0,
        ceiling=None,
        trials=len(outcomes),
        unit="attempts",
        how=f"how many of {len(outcomes)} different lies were accepted, each told once: a count without an "
        "interval, for which one is accepted follows from the protocol; it says nothing of other lies",
    )


def _forged(trained: int, told: int, defence: Defence) -> Estimate:
    return proportion(
        trained,
        told,
        null=0.0,
        ceiling=1.0 - 1.0 / SITES,
        how="sites that trained on a made-up sum within the norm bound; each adds sums up again with "
        f"probability 1 / {SITES}",
    )


def _coalitions(
    stage: Stage, bench: Workbench, details: dict[str, Any], measured: dict[str, Estimate]
) -> list[str]:
    """What leader and helpers open, and what is left against everybody else; names what is broken."""
    rounds, broken = bench.pick(2, 4, 20), []
    transcript = stage.federation(rounds=rounds).run()
    names = [name for name in transcript.terms.helpers if name != stage.victim]
    found = [opened_by(transcript, stage.victim, names[:held]) for held in range(len(names) + 1)]
    found.append(opened_by(transcript, stage.victim, transcript.terms.helpers))
    details["coalitions"] = [one.record() for one in found]
    if any(one.exact or one.p_value < UNLIKELY for one in found[:-1]):
        broken.append("uniform masks")
    if not transcript.plan.private:
        return broken
    own = Stage(bench, stage.defence, {"noise": "own"}).federation(rounds=rounds).run()
    for name, run in (("shared", transcript), ("own", own)):
        left = residual_noise(run, stage.victim)
        measured[f"malicious_server.residual_noise_{name}"] = left
        if too_little(left):
            broken.append(f"residual noise ({name})")
    details["epsilon"] = {
        "stated": transcript.plan.epsilon(),
        "shared, all others collude": _finite(transcript.plan.epsilon(colluding=len(names))),
        "own, all others collude": _finite(own.plan.epsilon(colluding=len(names))),
    }
    return broken


def _finite(value: float) -> float | str:
    return "infinite" if math.isinf(value) else value


def too_little(left: Estimate) -> bool:
    """Whether so little noise is too unlikely for a sound system: probability below 1e-9."""
    return float(stats.chi2.cdf(left.value * left.trials, left.trials)) < UNLIKELY


def _notes(
    outcomes: tuple[Outcome, ...], trained: int, told: int, defence: Defence
) -> tuple[str, ...]:
    refused = [one for one in outcomes if not one.accepted]
    early = sum(not one.trained for one in refused)
    gave = _accepted_names(outcomes)
    notes = [
        f"{len(refused)} of {len(outcomes)} attempts failed, {early} of them before the victim had computed on "
        "its data; who refused, and with which code, is in the details.",
        f"A made-up sum within the norm bound: {trained} of {told} sites trained on one. It can shift the "
        "model, not show a contribution; a site finds out when it adds up again.",
    ]
    if gave:
        notes.append(f"Succeeded: {', '.join(gave)}.")
    if defence in ("plain", "clipping"):
        notes.append(
            "The leader sees every update by design; lies to helpers do not apply without any."
        )
    if defence == "noise":
        notes.append(
            "A leader with every helper's key reads contributions; lies to helpers are left out."
        )
    return tuple(notes)


ATTACKS: tuple[Attack, ...] = (Attack("malicious-server", "malicious-leader", lie, DEFENCES),)
