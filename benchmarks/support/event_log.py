"""A party's event log on a real disk: what an event costs, and what a large log costs as a whole.

    python -m support.event_log FILE     (in the folder benchmarks)

opens the log in FILE in a fresh process and prints one JSON object: seconds, and bytes at the peak.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.footprint import forget_peak, in_use, peak
from support.machine import Row, median_s, row, say, seconds, wall
from tacit.engine.store import SqliteStore
from tacit.ledger.log import Log
from tacit.ledger.merkle import leaf_hash, verify_inclusion
from tacit.ledger.note import open_checkpoint
from tacit.ledger.record import open_record
from tacit.testing.appender import ORIGIN, SIGNER, open_log
from tacit.types import Milliseconds

BATCH = 10_000
"""Events in one transaction, where they are not each their own."""
DURABLE = 500
"""Commits of one event each."""
RUNS = 50
"""Runs whose events interleave in a large log."""


def event(number: int) -> dict[str, object]:
    """What a site logs when it sends an upload, about 400 bytes; no two are alike."""
    text = f"{number:064x}"
    return {
        "type": "client.upload.sent",
        "role": "client",
        "run": f"{number % RUNS:064x}",
        "round": number // RUNS,
        "upload": text,
        "model": text[::-1],
        "epsilon": "0.25",
    }


def grow(store: SqliteStore, log: Log, size: int) -> list[float]:
    """Appends up to ``size`` events; CPU seconds of every batch, per event."""
    times = []
    for start in range(len(log), size, BATCH):
        stop = min(start + BATCH, size)
        taken = seconds(lambda a=start, b=stop: _append(store, log, a, b))
        times.append(taken / (stop - start))
    return times


def _append(store: SqliteStore, log: Log, start: int, stop: int) -> None:
    with store.transaction():
        for number in range(start, stop):
            log.append(event(number), Milliseconds(number))


def appending(commits: int = DURABLE) -> Iterator[Row]:
    """Events that are each durable before the next one begins."""
    with tempfile.TemporaryDirectory() as folder:
        store, log = open_log(Path(folder, "tacit.db"))
        times = [
            seconds(lambda a=number: _append(store, log, a, a + 1), wall)
            for number in range(commits)
        ]
        flush = _flush_s(Path(folder, "flushed"), commits)
        how = f"median of {commits} commits of one event, flushed to the disk; 95 % within "
        how += f"{1e3 * sorted(times)[commits * 95 // 100]:.2f} ms"
        yield row("append, each durable", 1e3 * statistics.median(times), "ms", how, "<= 1")
        how = "median; what the disk alone takes to make 8 KiB durable"
        yield row("flush of the disk", 1e3 * flush, "ms", how)
        store.close()


def _flush_s(path: Path, times: int) -> float:
    """Median seconds of one ``fdatasync`` after writing two pages."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    found = []
    for _ in range(times):
        os.write(handle, bytes(8192))
        found.append(seconds(lambda: os.fdatasync(handle), wall))
    os.close(handle)
    return statistics.median(found)


def large(size: int) -> Iterator[Row]:
    """A log of ``size`` events: appended in batches, proven, verified, opened and recorded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tacit.db")
        store, log = open_log(path)
        quarter = size // 4
        times = grow(store, log, quarter)
        log.checkpoint()
        say(f"verify {quarter:,} events")
        small = seconds(log.verify)
        say(f"append up to {size:,} events")
        times += grow(store, log, size)
        log.checkpoint()
        how = f"CPU time; median over commits of {min(BATCH, quarter):,} events, up to {size:,}"
        yield row("append, batched", 1e6 * statistics.median(times), "us/event", how, "<= 60")
        yield from _proofs(log, size)
        say(f"verify {size:,} events")
        start = wall()
        whole = seconds(log.verify)
        how = "CPU time; every event read from the store again, parsed, chained and hashed; "
        how += f"{wall() - start:.1f} s by the clock"
        yield row(f"verify {size:,} events", whole, "s", how, "<= 90")
        how = f"CPU time over 4 times that for {quarter:,} events"
        yield row("verify: growth", whole / (4 * small), "of linear", how, "<= 1.2")
        yield from _records(log, size)
        store.close()
        del store, log
        yield from _opening(path, size)


def _proofs(log: Log, size: int) -> Iterator[Row]:
    indices = [number * 7919 % size for number in range(100)]
    made = median_s(lambda: [log.inclusion_proof(index) for index in indices]) / len(indices)
    head, index = log.head(), indices[-1]
    proof, leaf = log.inclusion_proof(index), leaf_hash(log.events()[index][1])
    checked = median_s(lambda: verify_inclusion(leaf, index, head.size, proof, head.root))
    how = f"CPU time; {len(proof)} hashes; checked in {1e6 * checked:.0f} us"
    yield row(f"inclusion proof among {size:,}", 1e3 * made, "ms", how, "<= 1")


def _records(log: Log, size: int) -> Iterator[Row]:
    """A run whose events lie all over the log: the most that a record can have to show."""
    run = f"{0:064x}"
    record, note = log.record(run), log.checkpoint()
    made = seconds(lambda: log.record(run))
    checkpoint = open_checkpoint(note, {ORIGIN: SIGNER.public_key})
    read = seconds(lambda: open_record(record, checkpoint))
    how = f"{size // RUNS:,} events among {size:,}; made in {made:.2f} s; "
    how += f"{(len(record.events) + len(record.proof)) / 1e6:.1f} MB"
    yield row("open the record of a run", read, "s", how)


def _opening(path: Path, size: int) -> Iterator[Row]:
    say(f"open {size:,} events in a fresh process")
    command = [sys.executable, "-m", "support.event_log", str(path)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    file = path.stat().st_size
    how = "CPU time of a fresh process; every event read and hashed, compared with the signed "
    how += f"checkpoint; {found['wall']:.1f} s by the clock"
    yield row(f"open {size:,} events", found["seconds"], "s", how, "<= 15")
    how = f"peak beyond the interpreter's, per event; the file has {file / size:.0f}"
    yield row("memory of an open log", found["needed"] / size, "bytes/event", how)


def _measure(path: Path) -> dict[str, float]:
    """Seconds and peak bytes of opening the log in a file."""
    gc.collect()
    forget_peak()
    before, start = in_use(), wall()
    taken = seconds(lambda: open_log(path))
    return {"seconds": taken, "wall": wall() - start, "needed": peak() - before}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))
