"""Target runs: real scratch federations in which a random half of the public records is in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import Defence
from tacit.attack.membership.updates import Observed
from tacit.attack.scratch import ScratchFederation
from tacit.attack.transcript import Transcript
from tacit.attack.view import View
from tacit.attack.workbench import Workbench
from tacit.engine.direct import DirectRun
from tacit.learn.linear import Factors, LinearHead
from tacit.learn.row_code import RowCode
from tacit.learn.server import ServerState
from tacit.party.job import JobSpec
from tacit.party.workload import TrainingData, Workload
from tacit.privacy.integers import encode_records
from tacit.privacy.outer import encode_outer
from tacit.privacy.plan import Plan

__all__ = [
    "SITES",
    "Design",
    "Drawn",
    "Target",
    "losses_of",
    "observed",
    "rows_at",
    "shadows",
    "targets",
]

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

SITES = 4
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Drawn:
    """Entropy from the attacker's own stream, for what it simulates itself; never for a party."""

    generator: np.random.Generator

    def draw(self, size: int) -> bytes:
        """``size`` bytes."""
        return self.generator.bytes(size)


@dataclass(frozen=True, slots=True)
class Design:
    """How much is done.

    Args:
        pool: Candidate records, rows of the public data.
        population: Further public records that are in no run.
        targets: Target runs, at least 2.
        rounds: Of every run; noise is calibrated anew for the job's epsilon.
        shadows: The adversary's own models, an even number.
    """

    pool: NDArray[np.int64]
    population: NDArray[np.int64]
    targets: int
    rounds: int
    shadows: int

    def privacy(self, job: JobSpec, defence: Defence) -> dict[str, int]:
        """Changes to ``[privacy]``: the public size does not tell how many records are in."""
        if job.training.algorithm == "sgd":
            return {"expected_units": len(self.pool) // 2}
        return {"expected_units": SITES if defence in ("noise", "tacit") else len(self.pool)}


@dataclass(frozen=True, slots=True)
class Target:
    """One target run.

    Args:
        scratch: The federation.
        transcript: What was recorded.
        view: What the column's adversary sees of it.
        members: Which of the pool were in, ``bool[n]``.
        judged: Which are candidates, ``bool[n]``: all but the records of the adversary's own sites.
    """

    scratch: ScratchFederation
    transcript: Transcript
    view: View
    members: Marks
    judged: Marks

    @property
    def workload(self) -> Workload:
        """The job's computation."""
        return self.transcript.workload

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return self.transcript.plan


def targets(bench: Workbench, defence: Defence, design: Design) -> Iterator[Target]:
    """Runs the target runs one after the other.

    Every record is in with probability one half, by itself: so the guarantee of differential privacy is that
    of each record given all the others. Who is in is divided among the sites at random.
    """
    for number in range(design.targets):
        generator = bench.generator("membership", "target", defence, number)
        members = coins(generator, len(design.pool))
        rows = generator.permutation(design.pool[members])
        scratch = bench.scratch(
            defence,
            np.array_split(rows, SITES),
            rounds=design.rounds,
            privacy=design.privacy(bench.job, defence),
        )
        transcript = scratch.run()
        view = bench.view(defence, transcript)
        own = [scratch.holdings[site] for site in sorted(view.adversary.clients)]
        judged = ~np.isin(design.pool, np.concatenate(own)) if own else np.ones_like(members)
        yield Target(scratch, transcript, view, members, judged)


def coins(generator: np.random.Generator, count: int) -> Marks:
    """A fair coin for each record; thrown anew in the odd case that a site would be empty."""
    while True:
        members: Marks = generator.random(count) < 0.5
        if SITES <= members.sum() <= count - 1:
            return members


def rows_at(workload: Workload, plan: Plan, state: ServerState, data: TrainingData) -> Floats:
    """What each record adds to a sum if it is sampled, ``float64[n, length]``."""
    model, theta = workload.model.model, workload.complete(state.theta)
    found = []
    for start in range(0, len(data.labels), BLOCK):
        x, y = data.features[start : start + BLOCK], data.labels[start : start + BLOCK]
        code = workload.coordinates.row
        if isinstance(model, LinearHead) and code.clipping.mode != "per-layer":
            units = _outer_rows(model, model.factors(theta, x, y), code, plan, state.clip_scale)
        else:
            assessed = model.assess(theta, x, y) if code.metrics is not None else None
            rows = code.rows(model.gradients(theta, x, y), assessed, state.clip_scale)
            units = encode_records(rows, plan.clip_norm, plan.grid).astype(np.float64)
        found.append(units * plan.grid)
    return np.concatenate(found)


def _outer_rows(
    model: LinearHead, factors: Factors, code: RowCode, plan: Plan, scale: float
) -> Floats:
    """Rows of a linear head, encoded by their factors as its sums are, ``float64[n, length]``."""
    norms = factors.norms()
    errors = factors.errors * code.clipping.factors(norms, scale)[:, None]
    beside = code.beside(norms, factors.assessed, scale)
    encoded = encode_outer(errors, factors.inputs, plan.clip_norm, plan.grid, beside)
    pairs = zip(encoded.left.astype(np.int64), encoded.right.astype(np.int64), strict=True)
    rows = np.stack([model.arranged(np.outer(left, right)) for left, right in pairs])
    return np.concatenate([rows, encoded.extra], axis=1).astype(np.float64)


def observed(target: Target, data: TrainingData) -> list[Observed]:
    """The rounds of a run as its adversary sees them: single sites where it can, else the sum.

    Args:
        target: The run.
        data: Its candidates: what the adversary knows of its own sites is out of the sum.
    """
    found = []
    for seen, one in zip(target.view.rounds, target.transcript.closed, strict=True):
        rows = rows_at(target.workload, target.plan, one.state, data)
        single = [seen.contributions[site] for site in seen.cohort if seen.contributions]
        sums = np.stack(single) if single else seen.total[None, :]
        rate, noise = target.plan.sampling_rate, 0.0 if single else seen.noise_std
        found.append(Observed.of(rows, sums, rate, noise))
    return found


def losses_of(workload: Workload, released: Floats, data: TrainingData) -> Floats:
    """Every record's cross-entropy under a released model, ``float64[n]``."""
    model, theta = workload.model.model, workload.complete(released)
    blocks = range(0, len(data.labels), BLOCK)
    losses: Floats = np.concatenate(
        [
            model.assess(theta, data.features[i : i + BLOCK], data.labels[i : i + BLOCK])[:, 0]
            for i in blocks
        ]
    )
    return losses


def shadows(
    workload: Workload,
    plan: Plan,
    data: TrainingData,
    design: Design,
    generator: np.random.Generator,
) -> tuple[Floats, Marks]:
    """The adversary's own models of the same job: losses of all records, and which of the pool each saw.

    They come in pairs, one on a random half of the pool, the other on the rest, so that every record was seen
    by half of them.

    Args:
        workload: The job's computation.
        plan: The target runs' plan.
        data: The pool, then the population.
        design: How many.
        generator: The attacker's own.

    Returns:
        ``float64[count, n + p]`` and ``bool[count, n]``.
    """
    holders = 1 if workload.job.training.algorithm == "sgd" else SITES
    losses: list[Floats] = []
    inside: list[Marks] = []
    for number in range(design.shadows):
        members = ~inside[-1] if number % 2 else coins(generator, len(design.pool))
        rows = generator.permutation(np.flatnonzero(members))
        held = [
            TrainingData(data.features[part], data.labels[part])
            for part in np.array_split(rows, holders)
        ]
        run = DirectRun(workload, plan, held, Drawn(generator))
        losses.append(losses_of(workload, run.run(), data))
        inside.append(members)
    return np.stack(losses), np.stack(inside)
