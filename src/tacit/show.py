"""What people see in a terminal: progress, tables, errors. Plain lines where there is no terminal."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from tacit.errors import TacitError
from tacit.evidence.report import Report, Status
from tacit.lead import Progress
from tacit.outcome import Outcome

__all__ = [
    "coalition_table",
    "console",
    "plain",
    "progress",
    "show_error",
    "show_report",
    "show_run",
    "table",
]

PLAIN_LINES = 10
PLAIN_WIDTH = 120
NARROWEST = 40


def console(*, error: bool = False) -> Console:
    """A console on standard output or standard error; never narrower than a table needs."""
    made = Console(stderr=error, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        width = os.environ.get("COLUMNS", "")
        columns = int(width) if width.isdecimal() and int(width) >= NARROWEST else PLAIN_WIDTH
        made = Console(stderr=error, highlight=False, soft_wrap=True, width=columns)
    return made


def plain(text: str, style: str = "") -> Text:
    """Text as it is: no markup, and nothing in it can steer a terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text), style)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """A table; columns after the first are right-aligned when all their cells are numbers.

    A cell that is a ``Text`` keeps its styles; whoever makes it sees to what is in it.
    """
    made = Table(title=plain(title), title_justify="left", header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        numeric = index > 0 and all(_is_number(str(row[index])) for row in rows)
        made.add_column(plain(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in row))
    return made


def show_error(error: TacitError) -> None:
    """Message, remedy and code on standard error."""
    out = console(error=True)
    site = f"{error.details['site']}: " if "site" in error.details else ""
    out.print(Text.assemble(("error: ", "bold red"), plain(f"{site}{error.message}")))
    if error.remedy:
        out.print(Text.assemble(("remedy: ", "bold"), plain(error.remedy)))
    out.print(plain(f"code: {error.code}", "dim"))


@contextmanager
def progress(
    *, quiet: bool = False, label: str = "training"
) -> Iterator[Callable[[Progress], None]]:
    """Shows rounds as a bar, or about ten plain lines where standard error is no terminal."""
    if quiet:
        yield lambda _: None
        return
    out = console(error=True)
    if not out.is_terminal:
        yield lambda at: _plain_line(at, label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("round {task.completed}/{task.total}"),
        TextColumn("{task.fields[metrics]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=out) as bar:
        task = bar.add_task(label, total=None, metrics="")
        yield lambda at: bar.update(task, completed=at.round, total=at.rounds, metrics=_metrics(at))


def _plain_line(at: Progress, label: str) -> None:
    step = max(1, at.rounds // PLAIN_LINES)
    if at.round and (at.round % step == 0 or at.round == at.rounds):
        print(f"{label}: round {at.round}/{at.rounds} {_metrics(at)}".rstrip(), file=sys.stderr)


def _metrics(at: Progress) -> str:
    shown = _with_deviations(at.metrics)
    return "  ".join(f"{name} {text}" for name, text in shown if name != "loss")


def _with_deviations(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Metrics as text; one with noise in it together with the standard deviation of that noise."""
    shown = []
    for name, value in metrics.items():
        deviation = metrics.get(f"{name}_std", 0.0)
        if not name.endswith("_std"):
            shown.append((name, f"{value:.4f}" + (f" ± {deviation:.4f}" if deviation else "")))
    return shown


def _is_number(text: str) -> bool:
    return text == "inf" or (
        bool(text) and text[0] in "0123456789.-+" and text[-1] in "0123456789.%"
    )


def show_run(outcome: Outcome) -> None:
    """The result of a run for people."""
    out = console()
    status = "complete" if outcome.complete else "PARTIAL"
    metrics = _with_deviations(outcome.metrics)
    rows = [("status", status), ("rounds with a result", str(outcome.rounds)), *metrics]
    if outcome.epsilon is not None:
        rows.append(("epsilon", f"{math.ceil(outcome.epsilon * 1e4) / 1e4:.4f}"))
        rows.append(("against", outcome.privacy.against))
        rows.append(("delta", f"{outcome.delta:g}"))
        rows.append(("unit of privacy", outcome.privacy.unit))
    rows += [("model", str(outcome.model)), ("evidence", str(outcome.bundle))]
    out.print(table(f"Run {outcome.run_id[:12]}", ("what", "value"), rows))
    if outcome.coalitions:
        out.print(coalition_table(outcome))
        if math.inf in outcome.coalitions:
            out.print("inf: with aggregation.min_helpers so many may be all the helpers of a round")
    for line in outcome.privacy.lines():
        out.print(plain(f"- {line}"))
    if outcome.own_models:
        places = ", ".join(str(path) for path in outcome.own_models.values())
        out.print(plain(f"with its own local layers, every site has its own model: {places}"))
        out.print(plain("the metrics above are of the shared layers with untrained local ones"))
    for reason in outcome.unwitnessed.values():
        out.print(plain(f"not cosigned: {reason}", "yellow"))
    trust = outcome.folder / "trust.json"
    out.print(plain(f"verify it: tacit verify {outcome.bundle} --trust {trust}"))


def coalition_table(outcome: Outcome) -> Table:
    """Epsilon by how many helpers pool what they know."""
    columns = ("colluding helpers", *(str(count) for count in range(len(outcome.coalitions))))
    return table(
        "What epsilon is against coalitions",
        columns,
        [("epsilon", *(f"{value:.3f}" for value in outcome.coalitions))],
    )


def show_report(report: Report, bundle: Path) -> None:
    """One line a claim, then the verdict."""
    out = console()
    styles = {"PASS": "green", "FAIL": "bold red", "NOT PROVEN": "yellow"}
    known = f"run {report.run[:12]} of '{report.federation}', {report.status}"
    made = Table(
        title=plain(f"{bundle}\n{known if report.run else 'not a readable evidence bundle'}"),
        title_justify="left",
        header_style="bold",
        pad_edge=False,
    )
    for column in ("claim", "status", "required", "reason"):
        made.add_column(column, overflow="fold")
    for claim in report.claims:
        status = Text(claim.status.value, style=styles[claim.status.value])
        required = "yes" if claim.id in report.required else "-"
        made.add_row(claim.id, status, required, plain(claim.reason))
    out.print(made)
    if report.simulated:
        out.print(plain(f"simulated in this run: {', '.join(report.simulated)}", "yellow"))
    out.print(_verdict(report))


def _named(report: Report, status: Status) -> str:
    """The claims that decide the verdict."""
    decisive = (
        claim.id
        for claim in report.claims
        if claim.status is status and (status is Status.FAIL or claim.id in report.required)
    )
    return ", ".join(decisive)


def _verdict(report: Report) -> Text:
    if report.exit_code == 1:
        failed = _named(report, Status.FAIL)
        remedy = "" if report.run else "; get the bundle again, from another party"
        return Text(f"REFUSED: a claim failed: {failed}{remedy}", style="bold red")
    if report.exit_code == 2:
        missing = _named(report, Status.NOT_PROVEN)
        return Text(f"a required claim is NOT PROVEN: {missing}", style="bold yellow")
    if not report.required:
        text = "consistent, but by whom is NOT PROVEN: pass --trust with the keys that you trust"
        return Text(text, style="bold yellow")
    text = f"verified: all {len(report.required)} claims that the trust file requires, of {len(report.claims)}"
    if report.status != "complete":
        return Text(f"{text}; the run is PARTIAL", style="bold yellow")
    return Text(text, style="bold green")
