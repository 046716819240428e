"""The part that every demonstration ends with: what attacks on the job achieve, under each defence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from tacit.attack.defences import TITLES, Defence
from tacit.attack.findings import Picture
from tacit.attack.registry import ROWS
from tacit.attack.report import Report
from tacit.attack.verdict import CellView
from tacit.attack.words import told, word
from tacit.attacks import STATUS_STYLES, STYLES, Request, attack_job
from tacit.demo.screen import Screen
from tacit.errors import ConfigError
from tacit.show import plain

__all__ = ["alarms", "show_attacks", "small_table", "write_pictures"]

SHOWN: tuple[Defence, ...] = ("plain", "masking", "noise", "tacit")
"""Columns of the small table; ``tacit attack`` has clipping only as well, which hides nothing."""

PICTURES = 6


def show_attacks(
    job: Path, folder: Path, screen: Screen, rows: Sequence[str] = ()
) -> tuple[Report | None, dict[str, Any]]:
    """Attacks a job with its public data, at the smallest size, and shows the small table.

    Args:
        job: The job file.
        folder: Where report and page go.
        screen: Where to show it.
        rows: Rows of the table; all of them by default.

    Returns:
        The report, and its record: empty if a package is missing that attacks need.
    """
    screen.heading("Attacked: what an adversary gets, by what protects the records")
    try:
        request = Request(job=job, profile="demo", out=folder, columns=SHOWN, only=rows)
        report, _ = attack_job(request, quiet=screen.quiet)
    except ConfigError as error:
        if error.code not in ("attack.extra", "attack.page"):
            raise
        screen.say(f"[yellow]left out: {error.message}; {error.remedy}[/]")
        return None, {}
    screen.show(small_table(report))
    status, reasons = report.verdict
    screen.show(plain(report.headline, STATUS_STYLES[status]))
    if status == "red":
        for reason in reasons:
            screen.show(plain(f"- {reason}", STATUS_STYLES[status]))
    screen.say(
        "Figures of a few seconds, so their intervals are wide. DP only is Tacit's own run, seen by a server that "
        "holds the keys of all helpers; Tacit is seen by the leader with one of them. What no attack "
        f"exceeds, whatever it does: an advantage of {report.proven.ceiling.advantage:.3f} in telling who was in."
    )
    return report, report.record()


def alarms(record: dict[str, Any]) -> list[str]:
    """Protections that an attack on the job as it is found broken. A wide interval is none."""
    attacks = record.get("attacks", [])
    return [alarm for one in attacks if one["column"] == "tacit" for alarm in one["alarms"]]


def small_table(report: Report) -> Table:
    """Verdict, value and interval of every cell."""
    made = Table(header_style="bold", pad_edge=False)
    made.add_column("attack on")
    for column in report.columns:
        made.add_column(plain(TITLES[column]), overflow="fold")
    for row in report.rows:
        made.add_row(plain(ROWS[row]), *(_cell(row, report.cells[row, c]) for c in report.columns))
    return made


def _cell(row: str, cell: CellView) -> Text:
    name = word(row, cell.verdict)
    style = STYLES[cell.verdict]
    if cell.estimate is None:
        return plain(name, style)
    figure = f" {told(cell.estimate)}"
    return Text.assemble(plain(name, style), plain(figure, "dim"))


def write_pictures(report: Report, path: Path) -> Path | None:
    """Originals above, and below them what each column's adversary made of them; None without any.

    Args:
        report: Of a job about images.
        path: Where the picture goes, as PNG.
    """
    found = {
        result.defence: [p for p in result.findings.pictures if p.shape[0] > 1][:PICTURES]
        for result in report.results
        if result.row == "reconstruction" and result.findings is not None
    }
    found = {column: pictures for column, pictures in found.items() if pictures}
    if not found:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(1.1 * PICTURES + 2.2, 1.25 * 2 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(found), PICTURES, squeeze=False)
    for block, (column, pictures) in enumerate(found.items()):
        for place in range(PICTURES):
            pair = axes[2 * block][place], axes[2 * block + 1][place]
            for one in pair:
                one.set_axis_off()
            if place < len(pictures):
                _draw(pair, pictures[place])
        for row, text in enumerate(("original", TITLES[column])):
            axes[2 * block + row][0].set_title(text, loc="left", fontsize=9)
    figure.savefig(path, dpi=110)
    return path


def _draw(pair: tuple[Any, Any], picture: Picture) -> None:
    for axes, levels in zip(pair, (picture.original, picture.found), strict=True):
        rows, columns = picture.shape
        image = [list(levels[at * columns : (at + 1) * columns]) for at in range(rows)]
        axes.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
