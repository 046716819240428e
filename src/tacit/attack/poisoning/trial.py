"""One split of the public records, trained with and without malicious clients, and judged on the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring
from tacit.attack.defences import Defence
from tacit.attack.poisoning import strategies
from tacit.attack.poisoning.client import PoisonedWorkload, corrupt
from tacit.attack.poisoning.strategies import Floats, Strategy
from tacit.attack.scratch import ScratchFederation
from tacit.attack.workbench import Rows, Workbench
from tacit.connect import take
from tacit.learn.server import ServerState
from tacit.party.workload import Carried, TrainingData, Workload
from tacit.privacy.noise import discrete_gaussian
from tacit.trust.identity import OsEntropy
from tacit.types import Entropy, PartyName

__all__ = ["Judged", "Probe", "Rule", "Trial", "arsenal", "rehearse"]

EDGE_SHARE = 0.1
"""How much of its class counts as rare."""

Rule = Callable[[Floats], Floats]
"""What a leader that sees single updates does with them: ``float64[n, d]`` to one ``float64[d]``."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Inputs that a backdoor is to turn into ``target``: ``float64[m, k]``, of another class."""

    inputs: Floats
    target: int

    def rate(self, workload: Workload, state: ServerState) -> float:
        """The share that the model takes for the target."""
        parameters = workload.complete(workload.released(state))
        scores = workload.model.model.scores(parameters, self.inputs)
        return float(np.mean(scores.argmax(axis=1) == self.target))


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a run.

    Args:
        accuracy: On held-out records, less than chance if it diverged.
        rates: Success of each backdoor, by name.
        closed: How many rounds gave a sum.
        failure: The leader's code, if the run did not end well.
    """

    accuracy: float
    rates: dict[str, float]
    closed: int
    failure: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A split: who holds what, and what the outcome is judged on.

    Args:
        bench: Job and data.
        defence: The column.
        holdings: Rows by site; the last sites are the malicious ones.
        malicious: How many.
        test: Held-out rows.
        changes: To the job: rounds, training.
        name: For the attacker's own stream.
    """

    bench: Workbench
    defence: Defence
    holdings: tuple[Rows, ...]
    malicious: int
    test: Rows
    changes: dict[str, Any]
    name: str

    @classmethod
    def draw(
        cls,
        bench: Workbench,
        defence: Defence,
        name: str,
        *,
        sites: int,
        malicious: int,
        records: int,
        changes: dict[str, Any],
    ) -> Trial:
        """Divides the public records: so many among the sites, the others to judge by."""
        order = bench.generator("poisoning", name).permutation(len(bench.data)).astype(np.int64)
        count = min(records, 3 * len(order) // 4)
        held = tuple(np.array_split(order[:count], sites))
        return cls(bench, defence, held, malicious, order[count:], changes, name)

    def scratch(self, strategy: Strategy | None) -> ScratchFederation:
        """The federation of this split, with or without malicious sites."""
        made = self.bench.scratch(self.defence, self.holdings, **self.changes)
        return made if strategy is None else corrupt(made, self.bad(made), strategy)

    def bad(self, scratch: ScratchFederation) -> tuple[PartyName, ...]:
        """The malicious sites."""
        return tuple(scratch.sites)[-self.malicious :]

    def run(self, strategy: Strategy | None) -> Judged:
        """The real protocol, to its end."""
        scratch = self.scratch(strategy)
        transcript = scratch.run()
        state = transcript.final
        failure = scratch.leader.failure.code if scratch.leader.failure is not None else ""
        if state is None:
            return Judged(float("nan"), {}, 0, failure)
        return self.judge(scratch.workload, state, scratch.leader.chain.completed, failure)

    def judge(
        self, workload: Workload, state: ServerState, closed: int, failure: str = ""
    ) -> Judged:
        """Accuracy on held-out records and the success of every backdoor there."""
        test = workload.prepare(take(self.bench.data.batch, self.test))
        probes = self.probes(workload, test)
        return Judged(
            accuracy=workload.evaluate(state, test)["accuracy"],
            rates={name: probe.rate(workload, state) for name, probe in probes.items()},
            closed=closed,
            failure=failure,
        )

    def probes(self, workload: Workload, test: TrainingData) -> dict[str, Probe]:
        """What each backdoor is judged on."""
        x, y = np.asarray(test.features, dtype=np.float64), test.labels
        others, target = x[y != 0], 0
        trigger = Trigger.of(workload, x)
        return {
            "backdoor": Probe(trigger.stamp(others, 4), target),
            "stealth-backdoor": Probe(trigger.stamp(others, 1), target),
            "edge-case": Probe(rare(x, y, source=int(y.max())), target),
        }


@dataclass(frozen=True, slots=True)
class Trigger:
    """Columns that hardly vary among records, set to the largest value that occurs.

    Args:
        columns: In rising order of variance.
        value: What they are set to.
        norm: What the job shortens every record to.

    Reference:
        Gu et al. 2017 (BadNets): a patch in a corner.
    """

    columns: NDArray[np.int64]
    value: float
    norm: float

    @classmethod
    def of(cls, workload: Workload, x: Floats) -> Trigger:
        """From public records."""
        order = np.argsort(x.std(axis=0), kind="stable").astype(np.int64)
        return cls(order, float(np.abs(x).max()), float(workload.job.features.norm))

    def stamp(self, x: Floats, width: int) -> Floats:
        """``x`` with the trigger on its first ``width`` columns."""
        marked = x.copy()
        marked[:, self.columns[:width]] = self.value
        norms = np.linalg.norm(marked, axis=1, keepdims=True)
        short: Floats = marked * np.minimum(1.0, self.norm / np.maximum(norms, 1e-12))
        return short


def rare(x: Floats, y: NDArray[np.int64], source: int) -> Floats:
    """The real inputs of a class that are farthest from its mean.

    Reference:
        Wang et al. 2020, "Attack of the tails" (edge-case backdoors).
    """
    own = x[y == source]
    distance = np.linalg.norm(own - own.mean(axis=0), axis=1)
    count = max(1, round(EDGE_SHARE * len(own)))
    found: Floats = own[np.argsort(-distance, kind="stable")[:count]]
    return found


def arsenal(trial: Trial, workload: Workload) -> tuple[Strategy, ...]:
    """Every strategy, for a split."""
    pool = workload.prepare(take(trial.bench.data.batch, np.concatenate(trial.holdings)))
    x, y = np.asarray(pool.features, dtype=np.float64), pool.labels
    trigger, classes = Trigger.of(workload, x), workload.coordinates.classes
    others = x[y != 0]
    generator = trial.bench.generator("poisoning", trial.name, "records")
    wide, narrow = trigger.stamp(others, 4), trigger.stamp(others, 1)
    edge = rare(x, y, source=int(y.max()))

    def mix(rows: Floats, share: float) -> Callable[[TrainingData], TrainingData]:
        return partial(strategies.mixed, rows=rows, target=0, share=share, generator=generator)

    return (
        Strategy("sign-flip", "damage", vector=strategies.sign_flip),
        Strategy("ipm", "damage", vector=strategies.inner_product),
        Strategy("alie", "damage", vector=strategies.a_little_is_enough, spread=True),
        Strategy("label-flip", "damage", data=partial(strategies.flipped_labels, classes=classes)),
        Strategy("free-riding", "damage", vector=strategies.free_ride),
        Strategy(
            "unclipped",
            "damage",
            vector=partial(strategies.unclipped, reach=0.9),
            clipped=False,
        ),
        Strategy("backdoor", "backdoor", data=mix(rows=wide, share=0.5), vector=strategies.boosted),
        Strategy("stealth-backdoor", "backdoor", data=mix(rows=narrow, share=0.1)),
        Strategy(
            "edge-case", "backdoor", data=mix(rows=edge, share=0.5), vector=strategies.boosted
        ),
    )


def rehearse(
    scratch: ScratchFederation,
    trial: Trial,
    strategy: Strategy | None,
    rule: Rule | None = None,
    entropy: Entropy | None = None,
) -> Judged:
    """The same run without messages, as an adversary would try it out beforehand.

    Args:
        scratch: Of the trial; nothing of it is run.
        trial: The split.
        strategy: What malicious clients do; None for an honest run.
        rule: What the leader does with single contributions; their sum by default. It takes and gives
            means, so that its result is scaled by the number of clients.
        entropy: Samples and noise.

    Guarantee:
        An honest rehearsal is a ``DirectRun``, which without noise is the masked run bit for bit. Checked
        by ``tests/attack/test_poisoning.py::test_an_honest_rehearsal_is_a_direct_run``.
    """
    entropy = OsEntropy() if entropy is None else entropy
    plan, workload = scratch.terms.plan, scratch.workload
    workloads: list[Workload] = [workload] * len(trial.holdings)
    if strategy is not None:
        bad = PoisonedWorkload.of(workload, strategy, len(workloads), trial.malicious)
        workloads[-trial.malicious :] = [bad] * trial.malicious
    data = [scratch.training_data(name) for name in scratch.sites]
    carried = [Carried() for _ in data]
    state, ring = workload.first(entropy.draw(32)), Ring(plan.ring_bits)
    for _ in range(plan.rounds):
        vectors = []
        for index, (own, records) in enumerate(zip(workloads, data, strict=True)):
            made = own.contribution(state, records, plan, entropy, carried[index], idle=False)
            carried[index] = made.carried
            vectors.append(ring.centred(made.vector))
        total = _combined(vectors, rule)
        variance = plan.total_variance(plan.helpers)
        if variance:
            total = total + discrete_gaussian(variance, len(total), entropy)
        state = workload.step(state, total, plan)
    return trial.judge(workload, state, plan.rounds)


def _combined(vectors: Sequence[NDArray[np.int64]], rule: Rule | None) -> NDArray[np.int64]:
    if rule is None:
        total: NDArray[np.int64] = np.sum(vectors, axis=0, dtype=np.int64)
        return total
    made = rule(np.asarray(vectors, dtype=np.float64)) * len(vectors)
    return np.rint(made).astype(np.int64)
