"""What the attack suite finds on a job, as rows with targets."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.attack_jobs import fashion, write_digits, write_hospitals
from support.machine import Row, row, say

__all__ = ["bundled", "whole_image"]

BASELINES = ("plain", "clipping", "masking")
JOBS: dict[str, Callable[[Path], Path]] = {"hospitals": write_hospitals, "digits": write_digits}


def attacked(job: Path, profile: str, *more: str) -> tuple[dict[str, Any], float]:
    """The report of a job's attacks, and how many seconds the command took."""
    command = [
        sys.executable,
        "-m",
        "tacit.cli",
        "attack",
        str(job),
        "--profile",
        profile,
        "--json",
    ]
    began = time.perf_counter()
    done = subprocess.run([*command, *more], stdout=subprocess.PIPE, text=True, check=False)
    taken = time.perf_counter() - began
    if done.returncode not in (0, 1):
        raise SystemExit(f"tacit attack ended with {done.returncode}")
    return json.loads(done.stdout), taken


def figures(report: dict[str, Any], metric: str, column: str) -> list[dict[str, Any]]:
    """A metric under one defence, by every attack that measured it."""
    return [
        one["measured"][metric]
        for one in report["attacks"]
        if one["column"] == column and metric in one["measured"]
    ]


def strongest(report: dict[str, Any], metric: str, column: str) -> dict[str, Any] | None:
    """The largest of ``figures``."""
    found = figures(report, metric, column)
    return max(found, key=lambda one: float(one["value"])) if found else None


def told(one: dict[str, Any]) -> str:
    """Interval, null, ceiling and trials in one line; a count has no interval, a lower bound no upper end."""
    low, high = float(one["low"]), float(one["high"])
    parts = [f"95% {low:.3g} to {high:.3g}"]
    if high == math.inf:
        parts = [f"at least {low:.3g} (95% confidence)"]
    if one["unit"] == "attempts":
        parts = ["no interval"]
    parts += [
        f"{name} {float(one[name]):.3g}" for name in ("null", "ceiling") if one[name] is not None
    ]
    return ", ".join([*parts, f"{one['trials']} trials; {one['how']}"])


def broken(report: dict[str, Any], name: str) -> Iterator[Row]:
    """What baselines let through: the suite has power where nothing protects."""
    for metric in ("reconstruction.rate", "reconstruction.identification"):
        one = strongest(report, metric, "plain")
        if one is not None:
            yield row(f"{name}, plain: {metric}", one["value"], "share", told(one), ">= 0.9")
    for metric, least in (("membership.advantage", 0.0), ("property.auc", 0.5)):
        one = strongest(report, metric, "plain")
        if one is not None:
            how = f"lower end; {told(one)}"
            yield row(
                f"{name}, plain: {metric}, lower end",
                one["low"],
                one["unit"],
                how,
                f">= {least + 0.01}",
            )
    for metric in ("reconstruction.identification", "malicious_server.rate"):
        one = strongest(report, metric, "masking")
        if one is not None:
            yield row(
                f"{name}, secure aggregation only: {metric}", one["value"], "share", told(one)
            )


def bounded(report: dict[str, Any], name: str, epsilon: float) -> Iterator[Row]:
    """What Tacit is to hold."""
    one = strongest(report, "reconstruction.identification", "tacit")
    if one is not None:
        low, ceiling = float(one["low"]), float(one["ceiling"])
        how = f"lower end over the ReRo bound; {told(one)}"
        yield row(f"{name}, Tacit: identification / bound", low / ceiling, "ratio", how, "<= 1.0")
    one = strongest(report, "membership.advantage", "tacit")
    if one is not None:
        yield row(
            f"{name}, Tacit: membership.advantage", one["value"], "advantage", told(one), "<= 0.10"
        )
        if epsilon <= 1.0:
            how = f"upper end over the ceiling; {told(one)}"
            share = float(one["high"]) / float(one["ceiling"])
            yield row(
                f"{name}, Tacit: advantage / ceiling, upper end", share, "ratio", how, "<= 1.0"
            )
    one = strongest(report, "property.auc", "tacit")
    if one is not None:
        low, high = float(one["low"]), float(one["high"])
        outside = max(0.0, low - 0.5, 0.5 - high)
        yield row(
            f"{name}, Tacit: property.auc, 0.5 outside by", outside, "auc", told(one), "<= 0.0"
        )
        yield row(f"{name}, Tacit: property.auc, width", high - low, "auc", told(one), "<= 0.16")
    one = strongest(report, "malicious_server.accepted", "tacit")
    if one is not None:
        how = f"attempts of a malicious leader that got what they should not; {told(one)}"
        yield row(
            f"{name}, Tacit: malicious leader's successes", one["value"], one["unit"], how, "<= 0.0"
        )
    alarms = [a for one in report["attacks"] if one["column"] == "tacit" for a in one["alarms"]]
    how = "protections that an audit found broken, by name: " + (", ".join(alarms) or "none")
    yield row(f"{name}: alarms", float(len(alarms)), "alarms", how, "<= 0.0")


def bundled(profile: str, limit: float, *more: str) -> list[Row]:
    """Both bundled jobs at one profile; ``limit`` is what both may take together, in seconds."""
    rows: list[Row] = []
    total = 0.0
    for name, write in JOBS.items():
        with tempfile.TemporaryDirectory() as folder:
            job = write(Path(folder) / "federation")
            report, taken = attacked(job, profile, *more)
        total += taken
        say(f"{name}: {report['headline']}")
        epsilon = report["proven"]["epsilon"]
        epsilon = math.inf if epsilon == "inf" else float(epsilon)
        rows += [*broken(report, name), *bounded(report, name, epsilon)]
        rows.append(row(f"{name}, {profile}", taken, "s", "wall time of tacit attack"))
    how = "wall time of tacit attack on both bundled jobs, one after the other"
    rows.append(row(f"both jobs, {profile}", total, "s", how, f"<= {limit:g}"))
    return rows


def whole_image(profile: str) -> list[Row]:
    """Fashion-MNIST, 28 x 28: reconstruction and membership; nothing where the data are not there."""
    with tempfile.TemporaryDirectory() as folder:
        job = fashion(Path(folder) / "federation")
        if job is None:
            say("Fashion-MNIST is not there: set TACIT_DATA to a folder that has fashion_mnist/")
            return []
        report, taken = attacked(job, profile, "--only", "reconstruction", "membership")
    rows = [*broken(report, "Fashion-MNIST"), *bounded(report, "Fashion-MNIST", 3.0)]
    return [
        *rows,
        row(f"Fashion-MNIST, {profile}", taken, "s", "wall time, two rows of the report"),
    ]
