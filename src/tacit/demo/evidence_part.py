"""The part that every demonstration ends with: the bundle, verified, and tampered with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tacit.api import verify
from tacit.demo.screen import Screen, steps
from tacit.demo.tamper import tamper, trials_table
from tacit.evidence.archive import ARCHIVE_LIMIT
from tacit.evidence.report import Report
from tacit.evidence.trust import Trust
from tacit.files import read_limited
from tacit.show import show_report

__all__ = ["show_tampering", "show_verification"]


def show_verification(run: Path, screen: Screen) -> Report:
    """Verifies the bundle of a run's folder and shows every claim."""
    bundle = run / "bundle.zip"
    report = verify(bundle, run / "trust.json")
    if not screen.quiet:
        show_report(report, bundle)
    return report


def show_tampering(run: Path, screen: Screen) -> tuple[bool, list[dict[str, Any]]]:
    """Flips bytes all over the bundle.

    Returns:
        Whether the verifier refused every one, and the figures.
    """
    bundle = read_limited(run / "bundle.zip", ARCHIVE_LIMIT)
    trust = Trust.load(run / "trust.json")
    with steps("tampering with the bundle", 1, quiet=screen.quiet) as progress:
        trials = tamper(bundle, trust, partial(progress.update, 0))
    screen.show(trials_table(trials))
    accepted = [place for trial in trials for place in trial.accepted]
    if accepted:
        screen.say(f"[bold red]not refused: {', '.join(accepted[:5])}[/]")
    else:
        screen.say("[bold green]every flip refused[/]")
    return not accepted, [trial.record() for trial in trials]
