"""Where the adversary sees sums without noise: secure aggregation by itself."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import Defence
from tacit.attack.findings import Curve, Findings, OnProgress
from tacit.attack.measure import Estimate
from tacit.attack.reconstruction.gradients import Updates, updates_of
from tacit.attack.reconstruction.identify import members_of_sum
from tacit.attack.reconstruction.labels import first_linear, labels_of_sum, last_bias
from tacit.attack.reconstruction.matching import Match, Observed, Prior, Search, search
from tacit.attack.reconstruction.opened import columns_rate, criterion, pictures_of
from tacit.attack.reconstruction.pool import Pool
from tacit.attack.reconstruction.runs import SITES, SingleRun, over_runs, run_singles
from tacit.attack.reconstruction.span import span_of, unknowns_of
from tacit.attack.workbench import Workbench

__all__ = ["attack_summed", "records_of_sum"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

LINEAR_ROUNDS = 8
"""A linear model's sum has too few coordinates for many records: that many rounds make up for it."""

CANDIDATES = 1024
"""Records that the adversary chooses among, members and others: all of a small pool."""

MOST_UNKNOWNS = 2048
"""Unknown values that one search solves for at once: a step costs the cube of their number."""

PRIOR_WEIGHT = 1e-7
"""Squared rounding errors of a linear model's sums, relative to the sums."""


@dataclass(frozen=True, slots=True)
class _Tally:
    """What came of one sum."""

    rows: Rows
    found: Floats
    recovered: int
    members: int
    strangers: int


def attack_summed(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Separates sums of single-record updates, with and without a list of candidates."""
    sizes = {"demo": (4,), "quick": (2, SITES), "full": (2, 4, SITES, 16)}[bench.profile]
    amounts = {size: bench.pick(2, 3 if size == SITES else 2, 10) for size in sizes}
    chosen = bench.generator("reconstruction", "sums")
    tallies: dict[int, list[_Tally]] = defaultdict(list)
    pool, rounds, done, who = None, 1, 0, ""
    updates: Updates | None = None
    whole = sum(size * amounts[size] for size in sizes)
    own = bench.job.privacy.max_colluding  # sites whose contributions are known and subtracted
    for size in sizes:
        if updates is not None and unknowns_of(updates, rounds, size) > MOST_UNKNOWNS:
            continue
        for number in range(amounts[size]):
            rows = chosen.choice(len(bench.data), size + own, replace=False)
            generator = bench.generator("reconstruction", "sum search", size, number)
            run = _run(bench, defence, rows)
            pool, rounds, who = run.pool, len(run.view.rounds), run.view.adversary.name
            updates = updates_of(run.workload, run.local)
            tallies[size].append(_attack(run, updates, generator))
            done += size
            on_progress(done / whole)
    on_progress(1.0)
    assert pool is not None
    left = [size for size in sizes if size not in tallies]
    return _findings(pool, tallies, (rounds, left), who)


def _run(bench: Workbench, defence: Defence, rows: Rows) -> SingleRun:
    """One round, or several where the model is linear."""
    linear = bench.job.model == "logistic"
    rounds = min(bench.job.rounds, bench.pick(4, LINEAR_ROUNDS, LINEAR_ROUNDS)) if linear else 1
    return run_singles(bench, defence, rows, rounds=rounds)


def _attack(run: SingleRun, updates: Updates, generator: np.random.Generator) -> _Tally:
    theta, totals = run.sums()
    found = records_of_sum(run, updates, theta, totals, generator)
    values = run.pool.restored(found.records, run.rows)
    others = np.setdiff1d(np.arange(len(run.pool)), run.rows)
    amount = min(CANDIDATES, len(run.pool)) - len(run.rows)
    listed = np.sort(np.concatenate([run.rows, generator.choice(others, amount, replace=False)]))
    candidates = updates.rows(theta, run.pool.features[listed], run.pool.labels[listed])
    shares = candidates.transpose(1, 0, 2).reshape(len(listed), -1)
    members = listed[members_of_sum(totals.ravel(), shares)[0]]
    right = run.pool.same(members[:, None], run.rows[None, :])
    return _Tally(
        rows=run.rows,
        found=_assigned(run.pool, values, run.rows),
        recovered=int(run.pool.recovered(values, run.rows).sum()),
        members=int(right.any(axis=0).sum()),
        strangers=int((~right.any(axis=1)).sum()),
    )


def records_of_sum(
    run: SingleRun,
    updates: Updates,
    theta: Floats,
    totals: Floats,
    generator: np.random.Generator,
    how: Search | None = None,
) -> Match:
    """The records behind sums of their updates: labels by counting, the rest by matching all at once.

    Args:
        run: Where the sums were seen.
        updates: What records send.
        theta: Models, ``float64[R, d]``.
        totals: Sums, ``float64[R, d]``.
        generator: The attacker's.
        how: How much to search.
    """
    pool, count = run.pool, len(run.rows)
    classes = len(np.unique(pool.labels))
    slope = -totals / max(1, run.local.steps) if run.local.steps else totals
    bias = last_bias(run.workload.state_layout, classes)
    if bias is None:
        return Match(np.zeros((count, updates.features)), 1.0)
    predictions = run.workload.model.model.scores(run.workload.complete(theta[0]), pool.features)
    labels = labels_of_sum(slope[0, bias], predictions, count)
    prior = None
    if first_linear(run.workload.state_layout, updates.features) is not None:
        known = np.setdiff1d(np.arange(len(pool)), run.rows)
        prior = Prior.of(pool.features[known], pool.labels[known], labels, PRIOR_WEIGHT)
    how = how or Search(restarts=3, iterations=100, good=1e-9)
    span = span_of(updates, Observed(theta, totals, labels))
    if span is not None:
        # A record within the features' bounds is no longer than this, in whatever coordinates.
        within = dataclasses.replace(how, bound=how.bound * math.sqrt(updates.features))
        match = search(span.updates, span.seen, generator, within)
        return Match(match.records @ span.basis, match.cost)
    return search(updates, Observed(theta, totals, labels, prior=prior), generator, how)


def _assigned(pool: Pool, found: Floats, rows: Rows) -> Floats:
    """For each record the closest of what was found: for pictures alone."""
    distances = ((pool.values[rows][:, None] - found[None]) ** 2).sum(axis=2)
    closest: Floats = found[np.argmin(distances, axis=1)]
    return closest


def _findings(
    pool: Pool, tallies: dict[int, list[_Tally]], scope: tuple[int, list[int]], adversary: str
) -> Findings:
    """What came of the sums; the scope is how many rounds were seen, and sizes that were left out."""
    rounds, left = scope

    def rate(size: int) -> Estimate:
        some = tallies[size]
        return over_runs(
            [tally.recovered for tally in some],
            [size] * len(some),
            null=max(pool.null, size / len(pool)),
            how=told(size),
        )

    def recall(size: int) -> Estimate:
        some = tallies[size]
        listed = min(CANDIDATES, len(pool))
        how = f"members of a sum of {size} among {listed:,} candidates, by least squares"
        return over_runs(
            [tally.members for tally in some],
            [size] * len(some),
            null=max(size, sum(t.members + t.strangers for t in some) / len(some)) / listed,
            how=how,
        )

    def told(size: int) -> str:
        return f"from {rounds} sum{'s' if rounds > 1 else ''} over {size} unknown sites; {criterion(pool)}"

    largest = max(size for size in tallies if size <= SITES)
    last = tallies[largest]
    rows = np.concatenate([tally.rows for tally in last])
    found = np.concatenate([tally.found for tally in last])
    measured = {
        "reconstruction.rate": rate(largest),
        "reconstruction.identification": recall(largest),
    }
    if pool.image is None:
        measured["reconstruction.columns"] = columns_rate(
            pool, rows, found, "each record beside the closest of what was found, which flatters"
        )
    strangers = sum(tally.strangers for tally in last)
    named = strangers + sum(tally.members for tally in last)
    notes: tuple[str, ...] = (
        f"Sites with one record each; the adversary sees {rounds} sum(s) and no single update. Sums are counted "
        "by the sites that are not its own. All other sites together would be left with a single update: see "
        "clipping only.",
        f"Of {named} candidates named as members of sums of {largest}, {strangers} were not.",
    )
    if left:
        notes += (
            f"Sums of {', '.join(map(str, left))} sites were not tried: more than {MOST_UNKNOWNS:,} "
            "unknown values at once. That is a limit of this attack, not a protection.",
        )
    curves: tuple[Curve, ...] = ()
    if len(tallies) > 1:
        curves = tuple(
            Curve(
                metric,
                "unknown sites in a sum",
                tuple((float(size), one(size)) for size in tallies),
            )
            for metric, one in (
                ("reconstruction.rate", rate),
                ("reconstruction.identification", recall),
            )
        )
    pictures = pictures_of(pool, rows, found)
    return Findings(adversary, measured, notes, pictures=pictures, curves=curves)
