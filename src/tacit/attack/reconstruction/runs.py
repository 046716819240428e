"""Scratch runs of sites with few records each, and what their column's adversary sees of every record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from tacit.attack.defences import Defence
from tacit.attack.measure import CONFIDENCE, Estimate, proportion
from tacit.attack.reconstruction.gradients import LocalSteps
from tacit.attack.reconstruction.pool import Pool
from tacit.attack.transcript import Transcript
from tacit.attack.view import View
from tacit.attack.workbench import Workbench
from tacit.party.workload import Workload
from tacit.types import PartyName

__all__ = [
    "SITES",
    "SingleRun",
    "local_training",
    "over_runs",
    "run_singles",
    "shared_draws",
    "targets_of",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

SITES = 8
"""Sites of a run, each with one record."""

LOCAL_RATE = 0.1


@dataclass(frozen=True, slots=True)
class SingleRun:
    """A run of sites with one record each.

    Args:
        rows: The records, by site: rows of the pool. Those of the adversary's own sites are not among them.
        pool: All records.
        transcript: What was recorded.
        view: What the column's adversary sees.
        local: The clients' own training.
    """

    rows: Rows
    pool: Pool
    transcript: Transcript
    view: View
    local: LocalSteps

    @property
    def workload(self) -> Workload:
        """The run's computation."""
        return self.transcript.workload

    @property
    def sites(self) -> tuple[PartyName, ...]:
        """Who holds which of ``rows``."""
        clients = self.transcript.terms.clients
        return tuple(sorted(site for site in clients if site not in self.view.adversary.clients))

    def single(self, site: PartyName) -> tuple[Floats, Floats]:
        """Models ``float64[R, d]`` and updates ``float64[R, d]`` of one site, where it sent something."""
        size, theta, updates = self.workload.dimension, [], []
        for seen in self.view.rounds:
            vector = seen.contributions.get(site)
            if vector is not None and vector[:size].any():
                theta.append(seen.theta)
                updates.append(vector[:size])
        shape = (0, size)
        return (
            np.array(theta).reshape(-1, size) if theta else np.zeros(shape),
            np.array(updates).reshape(-1, size) if updates else np.zeros(shape),
        )

    def sums(self) -> tuple[Floats, Floats]:
        """Models and sums of all sites, ``float64[R, d]`` each; updates count by record."""
        size, rounds = self.workload.dimension, self.view.rounds
        theta = np.stack([seen.theta for seen in rounds])
        totals = np.stack([seen.total[:size] for seen in rounds])
        if self.local.steps:  # an update is weighted by the site's share of the expected records
            totals = totals * self.transcript.plan.expected_units
        return theta, totals


def local_training(steps: int) -> tuple[dict[str, Any], LocalSteps]:
    """Changes to ``[training]`` for clients that train on their one record, and what they amount to."""
    if not steps:
        return {"algorithm": "sgd"}, LocalSteps()
    changes = {
        "algorithm": "fedavg",
        "local_epochs": steps,
        "local_batch": 1,
        "local_learning_rate": LOCAL_RATE,
    }
    return changes, LocalSteps(steps, LOCAL_RATE)


def run_singles(
    bench: Workbench,
    defence: Defence,
    rows: Rows,
    *,
    rounds: int,
    steps: int = 0,
    privacy: dict[str, Any] | None = None,
) -> SingleRun:
    """Runs the protocol among sites with one record each.

    Args:
        bench: The job.
        defence: The column.
        rows: Each site's record, ``int64[n]``.
        rounds: To run.
        steps: Of local training; 0 for sums of gradients.
        privacy: Changes to ``[privacy]``.
    """
    changes, local = local_training(steps)
    training = changes if steps or bench.job.training.algorithm != "sgd" else None
    if defence in ("noise", "tacit"):
        training = None
    scratch = bench.scratch(
        defence,
        [rows[index : index + 1] for index in range(len(rows))],
        rounds=rounds,
        training=training,
        privacy=privacy,
    )
    transcript = scratch.run()
    if defence in ("noise", "tacit") and bench.job.training.algorithm == "fedavg":
        own = bench.job.training
        local = LocalSteps(own.local_epochs, own.local_learning_rate)
    pool = Pool.of(scratch.workload, bench.data)
    view = bench.view(defence, transcript)
    return SingleRun(targets_of(scratch.holdings, view), pool, transcript, view, local)


def targets_of(holdings: Mapping[PartyName, Rows], view: View) -> Rows:
    """What can be attacked: records of all sites that are not the adversary's own, in the order of names."""
    own = view.adversary.clients
    return np.concatenate([holdings[site] for site in sorted(holdings) if site not in own])


def over_runs(
    hits: Sequence[int],
    trials: Sequence[int],
    *,
    null: float | None,
    ceiling: float | None = None,
    how: str = "",
) -> Estimate:
    """A share whose trials within a run are not independent.

    The interval covers both Student's t over the runs and that of Clopper and Pearson, which counts a run as
    one trial where runs do not differ at all: equal runs do not make certainty.

    Args:
        hits: By run.
        trials: By run.
        null: Chance.
        ceiling: Theory.
        how: More for the reader.
    """
    shares = [h / t for h, t in zip(hits, trials, strict=True)]
    value, runs = sum(hits) / sum(trials), len(shares)
    if runs < 2 or len(set(shares)) == 1:
        exact = proportion(round(value * runs), runs, null=null)
        low, high = exact.low, exact.high
    else:
        error = float(np.std(shares, ddof=1)) / math.sqrt(runs)
        reach = float(stats.t.ppf((1.0 + CONFIDENCE) / 2.0, runs - 1)) * error
        exact = proportion(sum(hits), sum(trials), null=null)
        low, high = min(exact.low, value - reach), max(exact.high, value + reach)
    low, high = max(0.0, min(low, value)), min(1.0, max(high, value))
    method = f"Student t over {runs} runs" if runs > 1 else "one run counts as one trial"
    method += f"; {how}" if how else ""
    return Estimate(value, low, high, null, ceiling, runs, "share", method)


def shared_draws(
    hits: Sequence[int],
    trials: Sequence[int],
    *,
    null: float | None,
    ceiling: float | None,
    how: str = "",
) -> Estimate:
    """A rate whose trials in a run share little, noise or bins: the wider of two intervals at either end.

    Args:
        hits: By run.
        trials: By run.
        null: Chance.
        ceiling: Theory.
        how: More for the reader.
    """
    exact = proportion(sum(hits), sum(trials), null=null, ceiling=ceiling)
    low, high = exact.low, exact.high
    if len(hits) > 1 and len({h / t for h, t in zip(hits, trials, strict=True)}) > 1:
        between = over_runs(hits, trials, null=null)
        low, high = min(low, between.low), max(high, between.high)
    method = f"Clopper-Pearson over all trials, widened by Student t over {len(hits)} run(s)"
    method += ", whose trials share noise or bins: where all runs agree it may be too narrow"
    method += f"; {how}" if how else ""
    return Estimate(exact.value, low, high, null, ceiling, exact.trials, "share", method)
