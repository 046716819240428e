"""What a whole private run costs, and its verification. Masking: ``secagg.py``; noise: ``privacy.py``.

    .venv/bin/python benchmarks/foundation.py --json foundation.json

Wall time; medians of repeated calls in one process.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.machine import (
    Parts,
    Row,
    describe,
    interleaved_s,
    measure,
    options,
    report,
    row,
    say,
    seconds,
    wall,
)

from tacit.api import Job, Run, train, verify
from tacit.demo import hospitals


def whole_run(runs: int) -> Iterator[Row]:
    """The breast-cancer job, four hospitals, 40 rounds, every site a helper."""
    with tempfile.TemporaryDirectory() as folder:
        times: list[float] = []
        finished: list[Run] = []
        for seed in range(runs):
            say(f"run {seed + 1} of {runs}")
            job = Job.load(
                hospitals.write_federation(Path(folder, str(seed)), hospitals.split(seed))
            )
            times.append(seconds(lambda j=job: finished.append(train(j, quiet=True)), wall))
        yield from _run_rows(times, finished[-1])


def _run_rows(times: list[float], run: Run) -> Iterator[Row]:
    trust = run.folder / "trust.json"
    sent = max(n for name, n in run.outcome.traffic.sent.items() if name != "coordinator")
    yield row("first run, accountant cold", times[0], "s", "4 hospitals, 40 rounds, d = 31")
    if times[1:]:
        how = f"median of {len(times) - 1}, accountant warm"
        yield row("further run", statistics.median(times[1:]), "s", how)
    yield row("sent by one hospital", sent / 1e3, "kB", "uploads, mask sums, keys and its log")
    yield row("evidence bundle", run.evidence.stat().st_size / 1e3, "kB", "uncompressed zip")
    (checked,) = interleaved_s([lambda: verify(run.evidence, trust)], repeats=3, clock=wall)
    yield row("verify the bundle", statistics.median(checked), "s", "all claims, offline")


def main() -> None:
    """Measures, prints a table, writes JSON."""
    chosen = options(__doc__).parse_args()
    machine = describe()
    parts: Parts = {
        "run": lambda: whole_run(1 if chosen.quick else 3),
    }
    report(measure(parts, chosen.only, judged=not chosen.quick), machine, chosen.json)


if __name__ == "__main__":
    main()
