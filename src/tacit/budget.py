"""``tacit budget``: what the budgets of sites have spent, how that came about, and who remembers it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.text import Text

from tacit.engine.budgets import (
    PopulationBudget,
    SiteBudget,
    SiteHistory,
    accept_head,
    read_budget,
    read_heads,
    read_history,
    release_reservation,
)
from tacit.errors import ConfigError
from tacit.privacy.budget import Entry, Record, Spent
from tacit.show import console, table

__all__ = ["heads", "history", "show"]

SHORT = 12
BAR = 10
LOW = 25
"""Per cent of a limit below which what is left is coloured."""


def show(sites: Sequence[Path], *, release: str | None = None, as_json: bool = False) -> None:
    """Prints what is spent, reserved and left, by site, population and purpose.

    Args:
        sites: Site folders.
        release: The run, or first digits of it, whose reservation is freed before.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: Not a site folder, or no such run.
        LocalProtocolError: Something has left the site for the run.
        VerificationError: A journal is damaged.
    """
    if release is not None:
        for path in sites:
            release_reservation(path, release)
    budgets = [read_budget(path) for path in sites]
    if as_json:
        _print_json({"sites": [budget.record() for budget in budgets]})
        return
    out = console()
    out.print(table("Privacy budgets", COLUMNS, [row for one in budgets for row in _rows(one)]))
    runs = [
        (
            budget.site,
            entry.run[:SHORT],
            entry.account.population,
            entry.account.purpose,
            f"{entry.charged:.4f}",
            _state(entry),
        )
        for budget in budgets
        for entry in budget.entries
    ]
    if runs:
        columns = ("site", "run", "population", "purpose", "epsilon", "state")
        out.print(table("Runs", columns, runs))


COLUMNS = (
    *("site", "population", "purpose", "unit", "epsilon spent", "reserved", "limit", "left"),
    "delta",
)


def _rows(budget: SiteBudget) -> Iterator[tuple[str | Text, ...]]:
    """One row for each population, and one for each of its purposes."""
    for population in budget.populations:
        total = population.total
        delta = f"{float(total.delta + total.reserved_delta):g} of {float(total.delta_limit):g}"
        place = (budget.site, total.population, "all", population.unit or "-")
        yield (*place, *_amounts(population, total), delta)
        for spent in population.purposes:
            yield ("", "", spent.purpose, "", *_amounts(population, spent), "")


def _amounts(population: PopulationBudget, spent: Spent) -> tuple[str | Text, ...]:
    amounts = (f"{spent.epsilon:.4f}", f"{spent.reserved_epsilon:.4f}")
    if spent.purpose and spent.purpose not in population.own_limits:
        return (*amounts, "-", "-")  # Within the total only.
    return (*amounts, str(spent.epsilon_limit), _left(population, spent))


def _left(population: PopulationBudget, spent: Spent) -> Text:
    """What is left, as a number and as a bar."""
    left = population.left(spent)
    percent = float(100 * left / spent.epsilon_limit)
    full = round(percent * BAR / 100)
    style = "red" if not left else "yellow" if percent < LOW else "green"
    bar = "\u2588" * full + "\u2591" * (BAR - full)
    return Text.assemble(f"{left:.4f} ", (bar, style), f" {percent:.0f}%")


def _state(entry: Entry) -> str:
    if entry.open:
        return "open: counts in full"
    return "settled" if entry.counts else "nothing left the site"


def history(sites: Sequence[Path], *, as_json: bool = False) -> None:
    """Prints the journals of sites; for people, the charges of a run that follow each other are one line.

    Raises:
        ConfigError: Not a site folder.
        VerificationError: A journal is damaged.
    """
    read = [read_history(path) for path in sites]
    if as_json:
        _print_json({"sites": [one.record() for one in read]})
        return
    columns = (
        *("time (UTC)", "kind", "run", "population", "purpose", "unit", "round", "epsilon"),
        "left",
    )
    out = console()
    for one in read:
        out.print(table(f"Budget history of {one.site}", columns, list(_lines(one))))


def _lines(one: SiteHistory) -> Iterator[tuple[str, ...]]:
    def together(item: tuple[int, tuple[Record, Decimal]]) -> tuple[object, ...]:
        index, (record, _) = item
        return (record.run,) if record.kind == "charge" else (record.run, index)

    for _, group in groupby(enumerate(one.records), together):
        same = [item for _, item in group]
        (first, _), (record, left) = same[0], same[-1]
        account = record.account
        rounds = "-"
        if record.kind == "charge":
            numbers = dict.fromkeys((first.round_number, record.round_number))
            rounds = "-".join(map(str, numbers))
        yield (
            _time(record.time),
            record.kind,
            record.run[:SHORT],
            *(account.population, account.purpose, account.unit, rounds),
            f"{record.epsilon:.4f}",
            f"{left:.4f}",
        )


def _time(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"  # The site's clock was far off; nothing depends on it.


def heads(folders: Sequence[Path], *, accept: str | None = None, as_json: bool = False) -> None:
    """Prints what parties remember of the budgets of others.

    Args:
        folders: Of sites or the coordinator.
        accept: The site of which they forget it: the next head that it shows is taken as the first.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: Not the folder of a site or of the coordinator, or none remembers the site.
        VerificationError: What a party remembers is damaged.
    """
    if accept is not None and not sum([accept_head(path, accept) for path in folders]):
        raise ConfigError(
            "budget.no-head",
            f"none of these parties remembers a budget of '{accept}'",
            remedy="'tacit budget heads' lists what they remember",
        )
    known = [read_heads(path) for path in folders]
    if as_json:
        _print_json({"parties": [one.record() for one in known]})
        return
    rows = [
        (one["party"], head["site"], str(head["reservations"]), head["head"][:SHORT])
        for one in (party.record() for party in known)
        for head in one["heads"]
    ]
    columns = ("party", "remembers of", "reservations", "head")
    console().print(table("Budgets of others", columns, rows))


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, indent=2))
