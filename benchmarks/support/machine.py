"""Timing, rows with targets, and the machine on which they were measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SCHEMA = 1
RELATIONS = {"<=": float.__le__, ">=": float.__ge__}

Row = dict[str, Any]
Call = Callable[[], object]
Clock = Callable[[], float]


cpu = time.process_time
"""The clock for one core: all threads' CPU time, so that waiting for other work does not count."""

wall = time.perf_counter
"""The clock for several cores."""


def seconds(call: Call, clock: Clock = cpu) -> float:
    """Time of one call."""
    start = clock()
    call()
    return clock() - start


def median_s(call: Call, repeats: int = 7) -> float:
    """Median CPU time of ``call`` in seconds, after one call to warm up."""
    call()
    return statistics.median(seconds(call) for _ in range(repeats))


def interleaved_s(calls: Sequence[Call], repeats: int = 7, clock: Clock = cpu) -> list[list[float]]:
    """Times of every call, taken in turns (A B A B ...) after one turn to warm up.

    Other work on the machine then weighs on all of them alike.
    """
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for times, call in zip(taken, calls, strict=True):
            times.append(seconds(call, clock))
    return taken


def ratio(own: Sequence[float], baseline: Sequence[float]) -> float:
    """Median of the ratios of neighbouring measurements."""
    return statistics.median(a / b for a, b in zip(own, baseline, strict=True))


def row(name: str, value: float, unit: str, how: str, target: str | None = None) -> Row:
    """One measured figure.

    Args:
        name: What was measured.
        value: The figure, a median unless ``how`` says otherwise.
        unit: Its unit.
        how: How it was measured, for a reader who wants to repeat it.
        target: A relation and a number, such as ``"<= 1.3"``; None where nothing was promised.
    """
    met: bool | None = None
    if target is not None:
        relation, limit = target.split()
        met = bool(RELATIONS[relation](float(value), float(limit)))
    shown = float(f"{value:.4g}")
    return {"name": name, "value": shown, "unit": unit, "target": target, "met": met, "how": how}


def say(text: str) -> None:
    """A line of progress on stderr, so that stdout holds the table only."""
    print(f"   {text}", file=sys.stderr, flush=True)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """Processes that wanted to run, averaged over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe() -> dict[str, Any]:
    """The machine, its libraries and its load now."""
    return {
        "cores": cores(),
        "processor": _processor(),
        "architecture": platform.machine(),
        "sha_instructions": _has_flag("sha_ni", "sha2"),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in ("numpy", "cryptography", "numba")},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load_at_start": load(),
    }


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="parts whose name holds NAME; repeatable"
    )
    return parser


Parts = dict[str, Callable[[], Iterable[Row]]]


def measure(parts: Parts, only: Sequence[str] | None, *, judged: bool = True) -> list[Row]:
    """The rows of all parts, or of those that were asked for.

    Args:
        parts: Name and measurement of every part.
        only: Parts whose name holds one of these; all of them by default.
        judged: False for sizes to which the targets do not apply.
    """
    chosen = [name for name in parts if not only or any(wanted in name for wanted in only)]
    if not chosen:
        raise SystemExit(f"no part of that name; there are: {', '.join(parts)}")
    rows: list[Row] = []
    for index, name in enumerate(chosen, 1):
        start = time.perf_counter()
        say(f"{index}/{len(chosen)} {name}")
        rows.extend(parts[name]())
        say(f"{index}/{len(chosen)} {name}: {time.perf_counter() - start:.1f} s")
    return rows if judged else [{**entry, "met": None} for entry in rows]


def run(description: str | None, full: Callable[[], Parts], quick: Callable[[], Parts]) -> None:
    """A whole script: reads its options, measures, prints a table, writes JSON.

    Args:
        description: Docstring of the script.
        full: Parts at the sizes for which the targets hold.
        quick: Parts at sizes that show that everything runs.
    """
    chosen = options(description).parse_args()
    machine = describe()
    parts = quick() if chosen.quick else full()
    report(measure(parts, chosen.only, judged=not chosen.quick), machine, chosen.json)


def report(rows: list[Row], machine: dict[str, Any], path: Path | None) -> None:
    """Prints the table; writes JSON of the stable form ``{schema, machine, rows}``."""
    machine = {**machine, "load_at_end": load()}
    marks = {True: "met", False: "MISSED", None: ""}
    width = max((len(entry["name"]) for entry in rows), default=0)
    for entry in rows:
        target = entry["target"] or ""
        print(
            f"{entry['name']:<{width}} {entry['value']:>10,.4g} {entry['unit']:<18}"
            f" {target:>9} {marks[entry['met']]:<6}  {entry['how']}"
        )
    print(
        f"{machine['cores']} cores, {machine['processor']}, load {machine['load_at_start']}"
        f" at the start and {machine['load_at_end']} at the end"
    )
    if path is not None:
        content = {"schema": SCHEMA, "machine": machine, "rows": rows}
        path.write_text(json.dumps(content, indent=1) + "\n")


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _processor() -> str:
    for line in _cpu_lines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _has_flag(*names: str) -> bool | None:
    """Whether the processor lists one of these instruction sets; None where it does not tell."""
    for line in _cpu_lines():
        key, _, flags = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return bool(set(names) & set(flags.split()))
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
