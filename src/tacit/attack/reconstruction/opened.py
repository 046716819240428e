"""Where the adversary sees every update by itself: plain FedAvg, clipping, a server that must be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import Defence
from tacit.attack.findings import Curve, Findings, OnProgress, Picture
from tacit.attack.measure import Estimate, proportion
from tacit.attack.reconstruction.gradients import Updates, updates_of
from tacit.attack.reconstruction.identify import of_single
from tacit.attack.reconstruction.labels import (
    first_linear,
    input_of_linear,
    label_of,
    last_bias,
)
from tacit.attack.reconstruction.matching import Match, Observed, Search, search
from tacit.attack.reconstruction.pool import Pool, psnr
from tacit.attack.reconstruction.runs import SITES, SingleRun, run_singles
from tacit.attack.workbench import Workbench

__all__ = [
    "attack_opened",
    "caption",
    "columns_rate",
    "criterion",
    "pictures_of",
    "record_of_update",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

GAUSS_NEWTON_ELEMENTS = 2**25
"""Most elements of the derivatives of updates by a record: 256 MB."""

_MISSED = 0.01
"""Chance that a record is in none of the rounds that are seen, where rounds sample."""


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of some records.

    Args:
        rows: The records.
        found: Reconstructions in shares of the public ranges, ``float64[n, c]``.
        named: Candidates that the identification chose, ``int64[n]``; -1 where nothing was seen.
    """

    rows: Rows
    found: Floats
    named: Rows

    def reconstructed(self, pool: Pool) -> NDArray[np.bool_]:
        """Which were reconstructed."""
        return pool.reconstructed(self.found, self.rows)

    def identified(self, pool: Pool) -> NDArray[np.bool_]:
        """Which were identified."""
        return (self.named >= 0) & pool.same(np.maximum(self.named, 0), self.rows)


def attack_opened(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Reconstructs records from single updates, and picks them out of all public records."""
    count, few = bench.pick(SITES, 2 * SITES, 8 * SITES), bench.pick(4, 4, SITES)
    steps: tuple[int, ...] = {"demo": (), "quick": (4,), "full": (4, 16)}[bench.profile]
    if defence == "noise":
        count = bench.pick(4, SITES, 8 * SITES)
    if defence == "noise" or (defence == "clipping" and bench.profile != "full"):
        steps = ()
    chosen = bench.generator("reconstruction", "records")
    rows = chosen.choice(len(bench.data), min(count, len(bench.data)), replace=False)
    whole = len(rows) + few * len(steps)
    pool, main = _attack(bench, defence, rows, 0, lambda done: on_progress(done * count / whole))
    points: list[tuple[float, Estimate]] = []
    if steps:
        points.append((1.0, _rate(pool, main)))
        for index, number in enumerate(steps):
            _, some = _attack(bench, defence, rows[:few], number, lambda _: None)
            points.append((float(number), _rate(pool, some)))
            on_progress((len(rows) + few * (index + 1)) / whole)
    on_progress(1.0)
    return _findings(defence, pool, main, tuple(points))


def _attack(
    bench: Workbench,
    defence: Defence,
    rows: Rows,
    steps: int,
    on_progress: OnProgress,
) -> tuple[Pool, _Result]:
    rounds, privacy = 1, None
    if defence == "noise":  # who was not sampled sends nothing: wait until everybody was
        rate = bench.job.privacy.sampling_rate
        rounds = 1 if rate >= 1.0 else math.ceil(math.log(_MISSED) / math.log(1.0 - rate))
        rounds = min(rounds, bench.job.rounds)
        privacy = {"expected_units": bench.job.privacy.expected_units}
    generator = bench.generator("reconstruction", "search", steps)
    found, named, pool = [], [], None
    for start in range(0, len(rows), SITES):
        part = rows[start : start + SITES]
        if len(part) < 2:
            part = rows[-2:]  # a cohort has two sites at least
        run = run_singles(bench, defence, part, rounds=rounds, steps=steps, privacy=privacy)
        updates, pool = updates_of(run.workload, run.local), run.pool
        cache: dict[bytes, Floats] = {}
        for site in run.sites:
            record = record_of_update(run, updates, *run.single(site), generator)
            found.append(pool.restored(record[None], rows)[0])
            named.append(-1 if steps else _named(run, updates, *run.single(site), cache))
            on_progress(min(1.0, len(found) / len(rows)))
    assert pool is not None
    return pool, _Result(rows, np.stack(found)[: len(rows)], np.array(named)[: len(rows)])


def record_of_update(
    run: SingleRun,
    updates: Updates,
    theta: Floats,
    seen: Floats,
    generator: np.random.Generator,
    how: Search | None = None,
) -> Floats:
    """The record behind updates of a single one, ``float64[k]``; zeros if there are none.

    A linear layer over the record gives it away at once. Otherwise the last layer tells its label, and
    gradient matching finds the rest.

    Args:
        run: Where they were seen.
        updates: What records send.
        theta: Models, ``float64[R, d]``.
        seen: Updates, ``float64[R, d]``.
        generator: The attacker's.
        how: How much to search.
    """
    if not len(seen):
        return np.zeros(updates.features)
    layout, classes = run.workload.state_layout, len(np.unique(run.pool.labels))
    slope = -seen if run.local.steps else seen
    layer = first_linear(layout, updates.features)
    if layer is not None:
        weight, bias = (slope[:, part] for part in layer)
        stacked = weight.reshape(-1, updates.features)
        return input_of_linear(stacked, bias.ravel())
    bias_of_logits = last_bias(layout, classes)
    labels = range(classes)
    if bias_of_logits is not None:
        label = label_of(slope[:, bias_of_logits].sum(axis=0))
        labels = range(label, label + 1)
    used = 1 if how is None else 3  # one exact update is enough; noise averages out over several
    how = how or Search(restarts=8, iterations=60, good=1e-9)
    best = Match(np.zeros((1, updates.features)), math.inf)
    for label in labels:
        target = Observed(theta[:used], seen[:used], np.array([label], dtype=np.int64), scaled=True)
        tried = _matched(run.pool, updates, target, generator, how)
        best = tried if tried.cost < best.cost else best
    first: Floats = best.records[0]
    return first


def _matched(
    pool: Pool, updates: Updates, target: Observed, generator: np.random.Generator, how: Search
) -> Match:
    """By Gauss-Newton, or where its derivatives would not fit into memory by the slower signed Adam."""
    if target.theta.size * updates.features <= GAUSS_NEWTON_ELEMENTS:
        return search(updates, target, generator, how)
    from tacit.attack.reconstruction.modules import (  # noqa: PLC0415 - torch is optional
        ModuleUpdates,
        cosine_descent,
    )

    if not isinstance(updates, ModuleUpdates):
        return search(updates, target, generator, how)
    start = 0.5 * generator.uniform(-1.0, 1.0, (len(target), updates.features))
    return cosine_descent(updates, target, start, iterations=300, image=pool.image)


def _named(
    run: SingleRun, updates: Updates, theta: Floats, seen: Floats, cache: dict[bytes, Floats]
) -> int:
    """The candidate whose update points the way of the first one seen, of all public records."""
    if not len(seen):
        return -1
    key = theta[0].tobytes()
    if key not in cache:
        cache[key] = updates.rows(theta[:1], run.pool.features, run.pool.labels)
    return int(of_single(seen[:1], cache[key])[0])


def _rate(pool: Pool, result: _Result) -> Estimate:
    hits = result.reconstructed(pool)
    return proportion(int(hits.sum()), len(hits), null=pool.null, how=criterion(pool))


def criterion(pool: Pool) -> str:
    """What counts as reconstructed, in words."""
    if pool.image is not None:
        return f"PSNR above 20 dB and nearest of {len(pool):,} images"
    return f"every column within 1% of its public range and nearest of {len(pool):,} records"


def caption(pool: Pool, found: Floats, row: int) -> str:
    """How good a reconstruction is, in words."""
    nearest = bool(pool.same(pool.nearest(found[None]), np.array([row]))[0])
    told = "nearest to its original" if nearest else "nearest to another record"
    if pool.image is not None:
        return f"PSNR {float(psnr(found, pool.values[row])):.0f} dB, {told}"
    share = float(pool.columns(found[None], np.array([row]))[0])
    return f"{share:.0%} of columns within 1%, {told}"


def pictures_of(pool: Pool, rows: Rows, found: Floats, count: int = 6) -> tuple[Picture, ...]:
    """Originals beside reconstructions, for the page."""
    return tuple(
        pool.picture(int(row), values, caption(pool, values, int(row)))
        for row, values in zip(rows[:count], found[:count], strict=True)
    )


def columns_rate(pool: Pool, rows: Rows, found: Floats, how: str) -> Estimate:
    """Share of a table's values within the tolerance; the interval is over records."""
    shares = pool.columns(found, rows)
    value, spread = float(shares.mean()), float(shares.std(ddof=1)) if len(shares) > 1 else 1.0
    exact = proportion(round(value * len(shares)), len(shares), null=None)
    reach = 2.0 * spread / math.sqrt(len(shares))
    low = max(0.0, min(exact.low if spread == 0.0 else value - reach, value))
    high = min(1.0, max(exact.high if spread == 0.0 else value + reach, value))
    return Estimate(
        value,
        low,
        high,
        pool.null_columns,
        None,
        len(shares),
        "share",
        f"two standard errors; {how}",
    )


def _findings(
    defence: Defence,
    pool: Pool,
    main: _Result,
    points: tuple[tuple[float, Estimate], ...],
) -> Findings:
    rate = _rate(pool, main)
    named = main.identified(pool)
    measured = {
        "reconstruction.rate": rate,
        "reconstruction.identification": proportion(
            int(named.sum()),
            len(named),
            null=1.0 / len(pool),
            how=f"true record first of {len(pool):,} candidates, by direction of its update",
        ),
    }
    if pool.image is None:
        measured["reconstruction.columns"] = columns_rate(
            pool, main.rows, main.found, "single values of records"
        )
    seen = "in all rounds until each was sampled" if defence == "noise" else "in one round"
    notes = [f"Sites with one record each; the adversary sees each update {seen}."]
    if pool.mapped:
        notes.append("The model sees fixed features: reconstructions are of these, not of columns.")
    curves = (Curve("reconstruction.rate", "local steps", points),) if len(points) > 1 else ()
    adversary = "server that holds every helper's key" if defence == "noise" else "leader"
    return Findings(
        adversary=adversary,
        measured=measured,
        notes=tuple(notes),
        pictures=pictures_of(pool, main.rows, main.found),
        curves=curves,
    )
