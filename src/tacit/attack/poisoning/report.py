"""How much malicious clients spoil, and which backdoors they plant: rehearsed, then done in the real protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tacit.attack.defences import DEFENCES, Defence
from tacit.attack.findings import Attack, Findings, OnProgress
from tacit.attack.measure import Estimate, clustered, proportion
from tacit.attack.poisoning import strategies
from tacit.attack.poisoning.client import crowd_of
from tacit.attack.poisoning.strategies import Strategy
from tacit.attack.poisoning.trial import Judged, Rule, Trial, arsenal, rehearse
from tacit.attack.scratch import ScratchFederation
from tacit.attack.workbench import Workbench
from tacit.errors import TacitError
from tacit.learn import robust

__all__ = ["ATTACKS", "Effort", "poison"]

MORE = 0.02
"""By how much a client that does not clip must do worse to be carried out as well."""
REFUSED = "chain.norm"
RUIN = 0.2
"""Loss of accuracy beyond which everybody sees that something is wrong."""
BEYOND, BELOW = 1.4, 0.8
"""Times the norm bound: room for the sum of the honest clients, which is in the aggregate too."""
LARGE = 500
"""Length of a contribution from which on a run gets fewer records and rounds."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do.

    Args:
        sites: Of a run, and how many of them are ``malicious``.
        malicious: A quarter of the sites.
        rounds: Of a run.
        records: Of all sites together.
        rehearsals: Splits on which every strategy is tried without messages.
        runs: Splits on which the worst ones are carried out in the real protocol.
        everything: Whether all strategies are carried out in the real protocol, or the worst ones alone.
    """

    sites: int
    malicious: int
    rounds: int
    records: int
    rehearsals: int
    runs: int
    everything: bool

    @classmethod
    def of(cls, bench: Workbench, dimension: int) -> Effort:
        """By profile; models with many parameters get fewer records and rounds."""
        large = dimension > LARGE
        if bench.profile == "full":
            return cls(8, 2, 12, 1200 if large else 430, 4, 5, everything=True)
        if bench.profile == "quick":
            return cls(4, 1, 6 if large else 10, 512 if large else 400, 1 if large else 2, 3, False)
        return cls(4, 1, 4 if large else 6, 200 if large else 300, 1, 2, False)


@dataclass(slots=True)
class _Rehearsed:
    """What was tried before: runs by strategy, the honest ones under None."""

    trials: list[Trial]
    runs: dict[str, list[Judged]]
    honest: list[Judged]
    changes: dict[str, Any]
    arsenal: tuple[Strategy, ...]

    def damage(self, name: str) -> float:
        """Mean loss of accuracy."""
        pairs = zip(self.honest, self.runs[name], strict=True)
        return float(np.mean([h.accuracy - bad.accuracy for h, bad in pairs]))

    def success(self, name: str) -> float:
        """Mean gain of a backdoor."""
        pairs = zip(self.honest, self.runs[name], strict=True)
        return float(np.mean([bad.rates[name] - h.rates[name] for h, bad in pairs]))

    def worst(self, goal: str, *, clipped: bool) -> Strategy:
        """The strategy of a kind that did most; a backdoor that ruins the model comes last."""

        def hidden(name: str) -> tuple[bool, float]:
            return (self.damage(name) <= RUIN, self.success(name))

        def harm(name: str) -> tuple[bool, float]:
            return (True, self.damage(name))

        measure = harm if goal == "damage" else hidden
        found = [one for one in self.arsenal if one.goal == goal and one.clipped == clipped]
        return max(found, key=lambda one: measure(one.name))


def poison(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Malicious clients against one defence; who looks makes no difference to them."""
    defence = "tacit" if defence == "noise" else defence
    effort = Effort.of(bench, _dimension(bench, defence))
    rehearsed = _rehearse(bench, defence, effort, lambda done: on_progress(0.4 * done))
    chosen = _chosen(rehearsed)
    done = _carry_out(bench, defence, effort, rehearsed.changes, chosen, on_progress)
    scratch, beyond = _one_round(bench, defence, effort, BEYOND)
    _, below = _one_round(bench, defence, effort, BELOW)
    measured = _measured(chosen, done, effort)
    details: dict[str, Any] = {
        "sites": effort.sites,
        "malicious": effort.malicious,
        "rounds": effort.rounds,
        "records": effort.records,
        "changes": rehearsed.changes,
        "rehearsed": _table(rehearsed),
        "carried_out": {name: [one.accuracy for one in runs] for name, runs in done.items()},
        "beyond_the_bound": {"failure": beyond.failure, "closed": beyond.closed},
        "below_the_bound": {"failure": below.failure, "closed": below.closed},
        "norm_bound_in_clients": _weight(scratch, effort),
    }
    if defence == "plain":
        details["robust_rules"] = _robust(rehearsed, effort)
    on_progress(1.0)
    broken = REFUSED not in beyond.failure or beyond.closed > 0
    return Findings(
        adversary=f"{effort.malicious} of {effort.sites} clients",
        measured=measured,
        notes=_notes(
            defence, rehearsed, chosen, effort, (beyond, below), details["norm_bound_in_clients"]
        ),
        alarms=("norm check of the aggregate",) if broken else (),
        details=details,
    )


def _dimension(bench: Workbench, defence: Defence) -> int:
    return bench.scratch(defence, [np.arange(2, dtype=np.int64)] * 4, rounds=1).workload.length


def _rehearse(
    bench: Workbench, defence: Defence, effort: Effort, on_progress: Callable[[float], None]
) -> _Rehearsed:
    """Tries every strategy on splits of its own; first, short runs get the learning rate that suits them."""
    changes = _tuned(bench, defence, effort)
    trials, honest, runs = [], [], dict[str, list[Judged]]()
    known: tuple[Strategy, ...] = ()
    everything = effort.everything or _dimension(bench, defence) < LARGE
    for index in range(effort.rehearsals):
        trial = _trial(bench, defence, effort, f"rehearsal {index}", changes)
        scratch = trial.scratch(None)
        known = tuple(
            one for one in arsenal(trial, scratch.workload) if everything or one.name in MAIN
        )
        honest.append(rehearse(scratch, trial, None))
        for at, strategy in enumerate(known):
            runs.setdefault(strategy.name, []).append(rehearse(scratch, trial, strategy))
            on_progress((index + (at + 1) / len(known)) / effort.rehearsals)
        trials.append(trial)
    return _Rehearsed(trials, runs, honest, changes, known)


def _tuned(bench: Workbench, defence: Defence, effort: Effort) -> dict[str, Any]:
    """Rounds, and the learning rate with which so few rounds learn most without an adversary."""
    rate, found = bench.job.training.learning_rate, []
    for factor in (1.0, 2.5):
        changes = {"rounds": effort.rounds, "training": {"learning_rate": factor * rate}}
        trial = _trial(bench, defence, effort, "tuning", changes)
        scratch = trial.scratch(None)
        runs = [rehearse(scratch, trial, None).accuracy for _ in range(effort.rehearsals)]
        found.append((float(np.mean(runs)), factor, changes))
    return max(found, key=lambda one: one[:2])[2]


def _trial(
    bench: Workbench, defence: Defence, effort: Effort, name: str, changes: dict[str, Any]
) -> Trial:
    return Trial.draw(
        bench,
        defence,
        name,
        sites=effort.sites,
        malicious=effort.malicious,
        records=effort.records,
        changes=changes,
    )


def _chosen(rehearsed: _Rehearsed) -> dict[str, str]:
    """What is reported of: which strategy stands for which figure."""
    clipped = rehearsed.worst("damage", clipped=True).name
    unclipped = rehearsed.worst("damage", clipped=False).name
    more = rehearsed.damage(unclipped) > rehearsed.damage(clipped) + MORE
    return {
        "worst": unclipped if more else clipped,
        "clipped": clipped,
        "backdoor": rehearsed.worst("backdoor", clipped=True).name,
    }


def _carry_out(
    bench: Workbench,
    defence: Defence,
    effort: Effort,
    changes: dict[str, Any],
    chosen: dict[str, str],
    on_progress: OnProgress,
) -> dict[str, list[Judged]]:
    """The real protocol on splits that no rehearsal saw; ``honest``, ``control``, and every strategy."""
    done: dict[str, list[Judged]] = {}
    for index in range(effort.runs):
        trial = _trial(bench, defence, effort, f"run {index}", changes)
        scratch = trial.scratch(None)
        wanted = [
            one
            for one in arsenal(trial, scratch.workload)
            if effort.everything or one.name in chosen.values()
        ]
        done.setdefault("control", []).append(rehearse(scratch, trial, None))
        done.setdefault("honest", []).append(trial.run(None))
        for at, strategy in enumerate(wanted):
            done.setdefault(strategy.name, []).append(trial.run(strategy))
            on_progress(0.4 + 0.55 * (index + (at + 1) / len(wanted)) / effort.runs)
    return done


def _one_round(
    bench: Workbench, defence: Defence, effort: Effort, reach: float
) -> tuple[ScratchFederation, Judged]:
    """A vector of so many times the bound, masked and signed as it should be."""
    far = Strategy(
        "beyond",
        "damage",
        vector=lambda own, spread, crowd: strategies.too_large(own, spread, crowd, reach),
        clipped=False,
    )
    trial = _trial(bench, defence, effort, "beyond", {"rounds": 1})
    scratch = trial.scratch(far)
    try:
        scratch.run()
        closed = scratch.leader.chain.completed
    except TacitError as error:
        return scratch, Judged(float("nan"), {}, 0, error.code)
    failure = scratch.leader.failure
    return scratch, Judged(float("nan"), {}, closed, failure.code if failure is not None else "")


def _weight(scratch: ScratchFederation, effort: Effort) -> float:
    """How many times what its own code could send a single client may send within the bound."""
    records = effort.records // effort.sites
    crowd = crowd_of(scratch.workload, scratch.terms.plan, effort.sites, 1, records)
    return crowd.bound / crowd.limit


def _measured(
    chosen: dict[str, str],
    done: dict[str, list[Judged]],
    effort: Effort,
) -> dict[str, Estimate]:
    honest, control = done["honest"], done["control"]
    chance = float(
        np.mean([abs(h.accuracy - c.accuracy) for h, c in zip(honest, control, strict=True)])
    )
    found = {
        "poisoning.damage": _damage(done, chosen["worst"], chance),
        "poisoning.damage_clipped": _damage(done, chosen["clipped"], chance),
    }
    name = chosen["backdoor"]
    gains = [bad.rates[name] - h.rates[name] for h, bad in zip(honest, done[name], strict=True)]
    null = float(
        np.mean([abs(h.rates[name] - c.rates[name]) for h, c in zip(honest, control, strict=True)])
    )
    clean = float(np.mean([bad.accuracy for bad in done[name]]))
    base = float(np.mean([h.accuracy for h in honest]))
    found["poisoning.backdoor"] = clustered(
        gains,
        null=null,
        unit="share",
        how=f"{name}: success less that of the honest model; accuracy {clean:.3f}, honest {base:.3f}",
        bounds=(-1.0, 1.0),
    )
    rounds = sum(effort.rounds for _ in honest) * effort.sites
    lost = sum(effort.rounds - one.closed for one in honest) * effort.sites
    found["poisoning.honest_rejected"] = proportion(
        lost, rounds, null=0.0, how="uploads of honest runs whose round the norm check refused"
    )
    return found


def _damage(done: dict[str, list[Judged]], name: str, chance: float) -> Estimate:
    pairs = zip(done["honest"], done[name], strict=True)
    return clustered(
        [honest.accuracy - bad.accuracy for honest, bad in pairs],
        null=chance,
        unit="accuracy",
        how=f"{name}, chosen on other splits; loss against the honest run of the same split; null: mean "
        "absolute difference of two honest runs",
        bounds=(-1.0, 1.0),
    )


def _table(rehearsed: _Rehearsed) -> dict[str, dict[str, float]]:
    found = {
        one.name: {"damage": rehearsed.damage(one.name)}
        | ({"success": rehearsed.success(one.name)} if one.goal == "backdoor" else {})
        for one in rehearsed.arsenal
    }
    found["honest"] = {"accuracy": float(np.mean([one.accuracy for one in rehearsed.honest]))}
    return found


RULES: dict[str, Callable[[int], Rule]] = {
    "mean": lambda f: robust.mean,
    "median": lambda f: robust.coordinate_median,
    "trimmed-mean": lambda f: lambda rows: robust.trimmed_mean(rows, f),
    "multi-krum": lambda f: lambda rows: robust.multi_krum(rows, f),
    "geometric-median": lambda f: robust.geometric_median,
    "centered-clipping": lambda f: robust.centered_clipping,
    "nnm + trimmed-mean": lambda f: (
        lambda rows: robust.trimmed_mean(robust.nearest_mixing(rows, f), f)
    ),
}

ALL = 9
MAIN = ("sign-flip", "label-flip", "unclipped", "backdoor", "edge-case")
"""Strategies that are tried where a run is expensive."""
FEW = ("mean", "median", "multi-krum")
"""Rules that are tried where a run is expensive."""


def _robust(rehearsed: _Rehearsed, effort: Effort) -> dict[str, dict[str, float]]:
    """What a leader that sees single updates could do about it: loss of accuracy by rule and strategy."""
    trial = rehearsed.trials[0]
    scratch = trial.scratch(None)
    honest, worst = rehearsed.honest[0], rehearsed.worst("damage", clipped=True)
    backdoor = rehearsed.worst("backdoor", clipped=True)
    found: dict[str, dict[str, float]] = {}
    for name, rule in RULES.items():
        if not (effort.everything or name in FEW or scratch.workload.length < LARGE):
            continue
        apply = rule(trial.malicious)
        none, bad, door = (rehearse(scratch, trial, s, apply) for s in (None, worst, backdoor))
        found[name] = {
            "none": honest.accuracy - none.accuracy,
            worst.name: honest.accuracy - bad.accuracy,
            f"{backdoor.name} success": door.rates[backdoor.name] - honest.rates[backdoor.name],
        }
    return found


def _notes(
    defence: Defence,
    rehearsed: _Rehearsed,
    chosen: dict[str, str],
    effort: Effort,
    outcomes: tuple[Judged, Judged],
    weight: float,
) -> tuple[str, ...]:
    beyond, below = outcomes
    every: Sequence[str] = [one.name for one in rehearsed.arsenal]
    how = "all of them were" if effort.everything else "the worst of each kind were"
    weighs = (
        "Nothing is clipped here, and below the bound nothing is refused."
        if defence == "plain"
        else f"Below the bound nothing is refused: one client may weigh {weight:.1f} times what its own "
        "clipped records could. That a client clips is not proved in this protocol."
    )
    notes = [
        f"{effort.malicious} of {effort.sites} clients are malicious, for {effort.rounds} rounds on "
        f"{effort.records} records; {len(every)} strategies were rehearsed ({', '.join(every)}"
        f"{'; the profile leaves out others' if len(every) < ALL else ''}), {how} carried out in the real protocol.",
        f"A vector of {BEYOND} times the bound on aggregates: {beyond.failure or 'nobody refused'}, "
        f"{beyond.closed} rounds closed. Whose it was nobody can tell where sums are masked.",
        f"One of {BELOW} times the bound: {below.failure or 'nobody refused'}. {weighs}",
        "Not stopped: what a client can do within the clipping of its own records "
        f"({chosen['clipped']}, {chosen['backdoor']}); rare real inputs with a wrong label are data like "
        "any other.",
    ]
    if defence in ("noise", "tacit"):
        notes.append("Noise bounds what one record does, not what a client's whole data set does.")
    return tuple(notes)


ATTACKS: tuple[Attack, ...] = (Attack("poisoning", "poisoning", poison, DEFENCES, alike=True),)
