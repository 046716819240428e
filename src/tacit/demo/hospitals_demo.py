"""The main demonstration: four hospitals, five splits, five ways to train, and what each reveals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tacit.demo import hospitals
from tacit.demo.attack_part import alarms, show_attacks
from tacit.demo.evidence_part import show_tampering, show_verification
from tacit.demo.federated import RUN, Holding, holdings
from tacit.demo.leader_view import LeaderView, leader_view_table
from tacit.demo.results import command, machine, write_plot, write_results
from tacit.demo.scoreboard import Row, coalitions, gap, gap_line, scoreboard
from tacit.demo.screen import Screen, steps
from tacit.demo.splits import CONTRACT, ROWS, SplitResult, SplitTask, run_splits

__all__ = ["SPLITS", "Setting", "run_hospitals"]

SPLITS = (0, 1, 2, 3, 4)
"""The reported splits; every hyper-parameter was chosen on others."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How much to do.

    Args:
        folder: Of the results; exists.
        splits: Seeds of the splits, at least one.
        rounds: Other than the jobs say; None for what they say.
        attacks: Rows of the table of attacks; all of them by default.
    """

    folder: Path
    splits: Sequence[int] = SPLITS
    rounds: int | None = None
    attacks: Sequence[str] = ()

    def tasks(self) -> list[SplitTask]:
        """Two per split, so that two processes end at about the same time; the first is watched."""
        tasks: list[SplitTask] = []
        for seed in self.splits:
            folder, first = str(self.folder / f"split-{seed}"), not tasks
            tasks.append(SplitTask(folder, seed, ("plain", "shared"), self.rounds, watched=first))
            tasks.append(SplitTask(folder, seed, ("own",), self.rounds))
        return tasks


def run_hospitals(setting: Setting, screen: Screen) -> tuple[dict[str, Any], bool]:
    """Runs and shows everything, and writes the results.

    Returns:
        All figures, and whether all held: the bundle verified, every flip was refused, no attack raised an
        alarm.
    """
    tasks = setting.tasks()
    first = tasks[0].federation("shared")
    _introduce(setting, screen)
    hospitals.write_federation(first, hospitals.split(setting.splits[0]))
    held = holdings(first, CONTRACT)
    _show_holdings(held, screen)

    results = _train(tasks, screen)
    rows = {
        key: Row(key, title, tuple(r.scores[key] for r in results if key in r.scores))
        for key, title in ROWS.items()
    }
    found = {key: values for result in results for key, values in result.coalitions.items()}
    by_coalition = [(title, found[key]) for key, title in ROWS.items() if key in found]
    view = results[0].view
    assert view is not None  # the first split is watched
    _show_scores(rows, setting, screen)
    _show_coalitions(by_coalition, screen)
    _show_leader_view(view, screen)
    screen.heading("Evidence: a stranger can check the run offline")
    report = show_verification(first / RUN, screen)
    refused, flips = show_tampering(first / RUN, screen)
    _, attacked = show_attacks(
        first / "job.toml", setting.folder / "attacks", screen, setting.attacks
    )

    record = {
        "data": "hospitals",
        "machine": machine(),
        "splits": list(setting.splits),
        "hospitals": [_holding_record(holding) for holding in held],
        "rows": [row.record() for row in rows.values()],
        "auc_gap_points": gap(rows["shared"], rows["pooled"]),
        "epsilon_by_coalition": {title: list(values) for title, values in by_coalition},
        "leader_view": asdict(view),
        "verification": report.to_record(),
        "tampering": flips,
        "attacks": attacked,
        "bundle": str(first / RUN / "bundle.zip"),
    }
    figures = write_results(setting.folder, record)
    _show_results(
        figures, write_plot(setting.folder, list(rows.values()), by_coalition), first, screen
    )
    return record, report.exit_code == 0 and refused and not alarms(attacked)


def _introduce(setting: Setting, screen: Screen) -> None:
    count = len(setting.splits)
    screen.heading(
        "Tacit: four hospitals train one model, and show no record and no update to anyone"
    )
    screen.facts(
        [
            (
                "real, public",
                "569 breast masses measured under the microscope, with their diagnosis: the Wisconsin "
                "breast cancer data, bundled with scikit-learn",
            ),
            (
                "synthetic",
                "names, national ids, ZIP codes, birth dates, phones and notes: generated, so that the "
                "contracts have something to remove",
            ),
            (
                "scratch",
                f"{count} split{'s' if count > 1 else ''}; every run has a fresh federation under "
                f"{setting.folder}/ with its own keys and budgets. Repeating an experiment is honest "
                "on public data only: epsilon 0.9 is the price of one run",
            ),
        ]
    )


def _show_holdings(held: Sequence[Holding], screen: Screen) -> None:
    screen.heading("What each hospital holds, and what its contract removes before training")
    made = Table(header_style="bold", pad_edge=False)
    made.add_column("")
    made.add_column("the contract says")
    for holding in held:
        made.add_column(holding.site, justify="right")
    made.add_row("records", "", *(str(len(holding.batch)) for holding in held))
    made.add_row("malignant", "", *(f"{_malignant(holding):.0%}" for holding in held))
    made.add_row("policy", "", *(holding.policy[:6] for holding in held), end_section=True)
    removed = [{c.name: c for c in holding.batch.receipt.removed()} for holding in held]
    for name in dict.fromkeys(name for columns in removed for name in columns):
        cells = [columns[name].cells if name in columns else 0 for columns in removed]
        detail = next(columns[name].detail for columns in removed if name in columns)
        made.add_row(name, detail, *(str(count) if count else "not read" for count in cells))
    screen.show(made)


def _malignant(holding: Holding) -> float:
    return float(holding.batch.labels.mean())


def _holding_record(holding: Holding) -> dict[str, Any]:
    receipt = holding.batch.receipt
    return {
        "hospital": holding.site,
        "records": len(holding.batch),
        "malignant": _malignant(holding),
        "policy": holding.policy,
        "contract": receipt.contract.hex(),
        "removed": [
            {"column": column.name, "how": column.detail, "cells": column.cells}
            for column in receipt.removed()
        ],
    }


def _train(tasks: Sequence[SplitTask], screen: Screen) -> list[SplitResult]:
    splits = list(dict.fromkeys(task.seed for task in tasks))
    parts = [f"split {splits.index(task.seed) + 1}/{len(splits)}" for task in tasks]
    with steps("training", len(tasks), quiet=screen.quiet) as progress:
        return run_splits(
            tasks,
            lambda number, share, label: progress.update(
                number, share, f"{parts[number]}  {label}"
            ),
        )


def _show_scores(rows: dict[str, Row], setting: Setting, screen: Screen) -> None:
    count = len(setting.splits)
    screen.heading("How good the model is, and what it cost")
    screen.show(scoreboard(list(rows.values())))
    over = f"mean ± standard deviation over {count} splits, " if count > 1 else ""
    screen.facts(
        [
            ("metrics", f"{over}on 142 public records that no hospital holds"),
            ("pooled", "scikit-learn's logistic regression on everybody's records: no privacy"),
            ("central", "Tacit's integer mechanism at one curator, whom all must trust"),
            (
                "epsilon",
                "what each hospital spends in one run, delta 1e-5, add or remove one record",
            ),
            (
                "MB",
                "what each hospital sends and receives; records: the patients' records themselves",
            ),
            ("time", "wall clock of one run; given two cores, two run side by side"),
        ]
    )
    screen.say(gap_line(rows["shared"], rows["pooled"]))


def _show_coalitions(by_coalition: Sequence[tuple[str, Sequence[float]]], screen: Screen) -> None:
    screen.heading("What epsilon 0.9 means: who would have to collude")
    screen.show(coalitions(by_coalition))
    screen.say(
        "Epsilon 0.9 holds against outsiders, the leader and any one other hospital. Every hospital adds "
        "a share of the noise and can subtract its own, so a larger coalition faces less of it. With "
        "own noise each adds the full noise: 0.9 holds even if the other three collude."
    )


def _show_leader_view(view: LeaderView, screen: Screen) -> None:
    screen.heading(f"What the leader really saw of hospital '{view.site}'")
    screen.show(leader_view_table(view))
    screen.say(
        f"p: chi-square test of uniform bytes, over the uploads of all {view.rounds} rounds "
        f"({view.size:,} bytes). Structure makes p vanish; noise gives any p between 0 and 1. The plain "
        f"update also told the leader that {view.site} trains on {view.plain_records} records."
    )
    screen.say(
        "[bold]This demonstration kept copies of the round keys[/] to open an upload. A helper erases its "
        f"key once it has answered, and without {view.site}'s own nobody can."
    )


def _show_results(figures: Path, plot: Path | None, federation: Path, screen: Screen) -> None:
    screen.heading("Where it is, and what to try next")
    run, tacit = federation / RUN, command()
    screen.line(f"figures   {figures}")
    screen.line(f"picture   {plot or 'none: matplotlib is not installed'}")
    screen.line(f"evidence  {run / 'bundle.zip'}")
    page = figures.parent / "attacks" / "privacy.html"
    screen.line(f"attacks   {page if page.exists() else 'none'}")
    screen.line("")
    screen.line(f"{tacit} verify {run / 'bundle.zip'} --trust {run / 'trust.json'}")
    screen.line(f"{tacit} attack {federation / 'job.toml'}")
    screen.line(f"{tacit} budget show {federation / 'sites'}/*")
    screen.line(f"{tacit} init my-federation")
