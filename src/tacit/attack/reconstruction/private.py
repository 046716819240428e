"""Where noise is in every sum: what remains to whoever knows everything else in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import Defence, pooled_against
from tacit.attack.findings import Curve, Findings, OnProgress
from tacit.attack.measure import ceiling_of
from tacit.attack.reconstruction.encoded import encoded_rows
from tacit.attack.reconstruction.gradients import LocalSteps, updates_of
from tacit.attack.reconstruction.identify import if_sampled, sampled
from tacit.attack.reconstruction.matching import Search
from tacit.attack.reconstruction.opened import (
    columns_rate,
    criterion,
    pictures_of,
    record_of_update,
)
from tacit.attack.reconstruction.pool import Pool
from tacit.attack.reconstruction.runs import SingleRun, shared_draws, targets_of
from tacit.attack.transcript import Round, Transcript
from tacit.attack.view import View
from tacit.attack.workbench import Workbench
from tacit.privacy.plan import Plan
from tacit.types import PartyName

__all__ = ["Residuals", "attack_private", "residuals_of", "scores_of"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

SITES = 4
CANDIDATES = 1024
MOST_RECORDS = 32


@dataclass(frozen=True, slots=True)
class Residuals:
    """One round to an adversary that knows every contribution but one record's.

    Args:
        number: The round.
        theta: Its model, ``float64[d]``.
        noise: The sum less all contributions: noise that the adversary does not know, ``float64[length]``.
        rows: What each target added, if it was sampled, else zeros: ``float64[T, length]``. The sum less all
            contributions but its own is ``noise + rows[t]``.
        noise_std: Standard deviation of the unknown noise.
    """

    number: int
    theta: Floats
    noise: Floats
    rows: Floats
    noise_std: float


def residuals_of(
    transcript: Transcript,
    view: View,
    pool: Pool,
    holdings: dict[PartyName, Rows],
) -> Iterator[Residuals]:
    """What is left of each round's sum when all but one record's contributions are subtracted.

    Args:
        transcript: A run; sites' exact contributions tell who was sampled, which differential privacy's
            adversary knows of everybody else.
        view: What the leader and its helpers see of it.
        pool: All records.
        holdings: Rows of the pool by site; targets are numbered in this order. Those of the adversary's own
            sites are no targets.

    Yields:
        A round each, without those of which a site's samples do not follow from its contribution.
    """
    plan, workload = transcript.plan, transcript.workload
    sites = [site for site in sorted(holdings) if site not in view.adversary.clients]
    for one, seen in zip(transcript.closed, view.rounds, strict=True):
        parts, known = [], np.zeros(len(seen.total))
        for site in sites:
            mine = holdings[site]
            features, labels = pool.features[mine], pool.labels[mine]
            rows = encoded_rows(workload, plan, one.state, features, labels)
            total = transcript.contribution(one, site)
            chosen = sampled(total, rows)
            if chosen is None:
                break
            known += transcript.values(total)
            parts.append(transcript.values(rows) * chosen[:, None])
        if len(parts) < len(sites):
            continue
        made = np.concatenate(parts)
        yield Residuals(one.number, seen.theta, seen.total - known, made, seen.noise_std)


@dataclass(slots=True)
class _Run:
    """One run's outcome."""

    plan: Plan
    pool: Pool
    targets: Rows
    found: Floats
    shown: Rows
    firsts: dict[int, int]
    rounds: int
    candidates: int


def attack_private(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Identifies records among candidates over all rounds, and tries to reconstruct them."""
    number = bench.pick(1, 2, 12)
    runs = []
    for index in range(number):

        def progress(done: float, start: float = index / number) -> None:
            on_progress(start + done / number)

        runs.append(_run(bench, defence, index, progress))
    return _findings(defence, runs)


def _holdings(bench: Workbench, index: int) -> list[Rows]:
    """Rows by site: few enough that a site's contribution tells which of them it sampled."""
    each = 1
    if bench.job.privacy.unit == "record" and bench.job.training.algorithm == "sgd":
        linear = bench.job.model == "logistic"
        columns = len(bench.data.batch.schema.features)
        each = min(2 * columns // 3, MOST_RECORDS) if linear else MOST_RECORDS
        each = max(1, min(each, len(bench.data) // (2 * SITES)))
    generator = bench.generator("reconstruction", "private", index)
    rows = generator.choice(len(bench.data), SITES * each, replace=False)
    return list(rows.reshape(SITES, each))


def _run(bench: Workbench, defence: Defence, index: int, on_progress: OnProgress) -> _Run:
    parts = _holdings(bench, index)
    # Fewer rounds than the job's spend the same epsilon: the bound stays, each round tells more.
    rounds = min(bench.job.rounds, bench.pick(8, 12, bench.job.rounds))
    units = {"expected_units": bench.job.privacy.expected_units}
    scratch = bench.scratch(defence, parts, rounds=rounds, privacy=units)
    transcript = scratch.run()
    pool = Pool.of(scratch.workload, bench.data)
    view = bench.view(defence, transcript)
    on_progress(0.3)
    targets = targets_of(scratch.holdings, view)
    others = np.setdiff1d(np.arange(len(pool)), np.concatenate(parts))
    generator = bench.generator("reconstruction", "candidates", index)
    amount = min(CANDIDATES - 1, len(others))
    rivals = generator.choice(others, amount, replace=False)
    scores, kept = np.zeros((len(targets), amount + 1)), []
    marks = {max(1, rounds // 8), max(1, rounds // 3), rounds}
    firsts: dict[int, int] = {}
    states = {one.number: one for one in transcript.closed}
    for seen in residuals_of(transcript, view, pool, scratch.holdings):
        scores += scores_of(transcript, pool, states[seen.number], seen, rivals, targets)
        kept.append(seen)
        if seen.number in marks:
            firsts[seen.number] = int((scores[:, 0] > scores[:, 1:].max(axis=1)).sum())
        on_progress(0.3 + 0.6 * seen.number / rounds)
    firsts[rounds] = int((scores[:, 0] > scores[:, 1:].max(axis=1)).sum())
    shown = np.arange(min(len(targets), bench.pick(4, 8, 16)))
    found = _reconstructed(bench, transcript, view, pool, kept, targets, shown)
    return _Run(transcript.plan, pool, targets, found, shown, firsts, len(kept), amount + 1)


def scores_of(
    transcript: Transcript,
    pool: Pool,
    one: Round,
    seen: Residuals,
    rivals: Rows,
    targets: Rows,
) -> Floats:
    """Each target's own log likelihood ratio in one round, then its rivals': ``float64[T, M]``.

    Args:
        transcript: The run.
        pool: All records.
        one: The round.
        seen: What is left of its sum.
        rivals: Rows of the pool that are in no site, ``int64[M - 1]``.
        targets: Rows in the order of ``seen.rows``, ``int64[T]``.
    """
    plan, workload = transcript.plan, transcript.workload
    rate = plan.sampling_rate

    def rows_of(records: Rows) -> Floats:
        features, labels = pool.features[records], pool.labels[records]
        made = encoded_rows(workload, plan, one.state, features, labels)
        return transcript.values(made)

    mine, theirs = rows_of(targets), rows_of(rivals)
    variance = seen.noise_std**2
    own = mine @ seen.noise + (mine * seen.rows).sum(axis=1) - 0.5 * (mine * mine).sum(axis=1)
    rest = (theirs @ seen.noise - 0.5 * (theirs * theirs).sum(axis=1))[None] + seen.rows @ theirs.T
    fit = np.concatenate([own[:, None], rest], axis=1) / variance
    return if_sampled(fit, rate)


def _reconstructed(
    bench: Workbench,
    transcript: Transcript,
    view: View,
    pool: Pool,
    kept: list[Residuals],
    targets: Rows,
    shown: Rows,
) -> Floats:
    """Attempts at some targets, in shares of the public ranges: ``float64[n, c]``."""
    own = transcript.workload.job.training
    local = LocalSteps()
    if own.algorithm == "fedavg":
        local = LocalSteps(own.local_epochs, own.local_learning_rate)
    updates = updates_of(transcript.workload, local)
    run = SingleRun(targets, pool, transcript, view, local)
    size = transcript.workload.dimension
    theta = np.stack([seen.theta for seen in kept])
    how = Search(restarts=1, iterations=8)
    found = []
    for target in shown:
        seen = np.stack([one.noise[:size] + one.rows[target, :size] for one in kept])
        generator = bench.generator("reconstruction", "private search", int(targets[target]))
        found.append(record_of_update(run, updates, theta, seen, generator, how))
    return pool.restored(np.stack(found), targets)


def _findings(defence: Defence, runs: list[_Run]) -> Findings:
    plan, pool, candidates = runs[0].plan, runs[0].pool, runs[0].candidates
    ceiling = ceiling_of(plan)
    last = max(runs[0].firsts)
    tried = [int(pool.reconstructed(run.found, run.targets[run.shown]).sum()) for run in runs]
    trials = [len(run.targets) for run in runs]
    measured = {
        "reconstruction.rate": shared_draws(
            tried,
            [len(run.shown) for run in runs],
            null=pool.null,
            ceiling=ceiling.identification(len(pool)),
            how=criterion(pool),
        ),
        "reconstruction.identification": shared_draws(
            [run.firsts[last] for run in runs],
            trials,
            null=1.0 / candidates,
            ceiling=ceiling.identification(candidates),
            how=f"true record likeliest of {candidates:,} over {last} rounds, all else known",
        ),
    }
    rows = np.concatenate([run.targets[run.shown] for run in runs])
    found = np.concatenate([run.found for run in runs])
    if pool.image is None:
        measured["reconstruction.columns"] = columns_rate(pool, rows, found, "single values")
    points = [
        (
            float(mark),
            shared_draws(
                [run.firsts.get(mark, 0) for run in runs],
                trials,
                null=1.0 / candidates,
                ceiling=ceiling_of(plan, mark).identification(candidates),
                how=f"of {candidates:,} candidates",
            ),
        )
        for mark in sorted(set(runs[0].firsts).intersection(*(run.firsts for run in runs)))
    ]
    notes = [
        "The adversary is differential privacy's own: beside what leader and colluding helpers see, it "
        "knows every other record, who else was sampled, and the noise of its helpers.",
        f"Epsilon {ceiling.epsilon:.2f} against it at delta {plan.delta:g}.",
    ]
    lost = sum(last - run.rounds for run in runs)
    if lost:
        notes.append(f"{lost} rounds were left out: who was sampled did not follow from them.")
    helpers = [PartyName(f"helper-{i}") for i in range(plan.helpers)]
    known = pooled_against(PartyName("target"), (), helpers, plan.max_colluding)
    return Findings(
        adversary=f"{known.name} + the target's other records",
        measured=measured,
        notes=tuple(notes),
        pictures=pictures_of(pool, rows, found),
        curves=(Curve("reconstruction.identification", "rounds", tuple(points)),),
        details={"candidates": candidates, "pool": len(pool), "runs": len(runs)},
    )
