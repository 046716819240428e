"""Looking at the coordinator's runs from another process: progress, tables, logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tacit.lead import Progress
from tacit.service.control import Control
from tacit.service.state import ENDED
from tacit.show import console, plain, progress, table

__all__ = ["follow", "log_line", "show_state", "show_states", "wait"]

POLL_S = 0.2
DIGITS = 12
KNOWN = ("time", "level", "event", "party", "run")


def wait(
    control: Control,
    run: str,
    *,
    quiet: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """What is told of a run once it has ended; shows its progress until then.

    Args:
        control: The coordinator.
        run: The run.
        quiet: No progress.
        sleep: Waits between two looks.

    Raises:
        TacitError: There is no such run, or the coordinator went away.
    """
    with progress(quiet=quiet) as tell:
        shown = -1
        while True:
            told = control.run(run)
            over = told["round"] if told["status"] in ENDED else max(told["round"] - 1, 0)
            if over != shown:
                tell(Progress(round=over, rounds=told["rounds"], metrics=told["metrics"]))
                shown = over
            if told["status"] in ENDED:
                return told
            sleep(POLL_S)


def follow(
    control: Control,
    run: str,
    *,
    forever: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """The events of a run's log, and with ``forever`` those to come until it has ended.

    Raises:
        TacitError: There is no such run, or the coordinator went away.
    """
    at = 0
    while True:
        over = not forever or control.run(run)["status"] in ENDED
        lines, after = control.log(run, at)
        yield from lines
        if after == at and over:
            return
        if after == at:
            sleep(POLL_S)
        at = after


def log_line(record: dict[str, Any]) -> str:
    """An event for people, on one line; nothing in it can steer a terminal."""
    fields = " ".join(f"{key}={value}" for key, value in record.items() if key not in KNOWN)
    text = f"{record['time']} {record['level']:7} {record['event']} {fields}".rstrip()
    return plain(text.replace("\n", " ")).plain


def show_states(runs: Sequence[dict[str, Any]]) -> None:
    """All runs, one a line."""
    if not runs:
        console().print("no run was submitted yet: tacit submit job.toml")
        return
    rows = [
        (
            told["run"][:DIGITS],
            told["job"],
            told["status"],
            f"{told['round']}/{told['rounds']}",
            _metrics(told["metrics"]),
            ", ".join(told["awaited"]) or "-",
        )
        for told in runs
    ]
    columns = ("run", "job", "status", "round", "metrics", "waits for")
    console().print(table("Runs", columns, rows))


def show_state(told: dict[str, Any]) -> None:
    """One run."""
    seconds = told["seconds"]
    mean = f"{sum(seconds) / len(seconds):.2f}" if seconds else "-"
    rows = [
        ("job", f"{told['job']} ({told['source']})"),
        ("status", told["status"] + (f", {told['phase']}" if told["phase"] else "")),
        ("round", f"{told['round']} of {told['rounds']}"),
        ("metrics", _metrics(told["metrics"])),
        ("epsilon of the plan", told["epsilon"] or "none"),
        ("sites", ", ".join(told["clients"])),
        ("waits for", ", ".join(told["awaited"]) or "nobody"),
        ("seconds per round", mean),
        ("submitted", _time(told["submitted"])),
        ("ended", _time(told["ended"])),
        ("folder", told["folder"]),
    ]
    if told["recovered"] is not None:
        rows.insert(-1, ("recovered in", f"{told['recovered']:.2f} s"))
    if told["failure"] is not None:
        rows.append(("failure", f"{told['failure']['message']} ({told['failure']['code']})"))
        rows.append(("remedy", str(told["failure"].get("remedy", ""))))
    console().print(table(f"Run {told['run'][:DIGITS]}", ("what", "value"), rows))


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "-"


def _time(milliseconds: int) -> str:
    if not milliseconds:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
