"""What the page's figures show: recorded charges, and who took part in which round."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tacit.errors import TacitError
from tacit.evidence.page_words import clean
from tacit.evidence.records import Event
from tacit.evidence.view import Missing, RoundView, View
from tacit.types import PartyName

__all__ = ["Charges", "Participation", "charges", "participation"]

MAX_ROUNDS = 2000
MAX_SITES = 60
MAX_EPSILON = 1e6
"""A drawing with more on its axis shows nothing; a charge beyond is left out, and counted."""

Line = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Charges:
    """Recorded epsilon over rounds; sites with the same record share one line.

    Args:
        lines: Names of sites, and (round, epsilon after its charge) in order.
        plan: Epsilon of the whole plan.
        reserved: What every site's budget set aside for the run, at least; None if none did.
        unreadable: Charges that name no epsilon that can be drawn.
        left_out: Sites that are not shown, for there are too many.
    """

    lines: tuple[tuple[tuple[str, ...], Line], ...]
    plan: float
    reserved: float | None
    unreadable: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Participation:
    """Who uploaded in which round.

    Args:
        sites: Rows.
        rounds: Columns.
        cells: By site: ``in`` (in the sum), ``out`` (uploaded, not in a sum), ``open`` (uploaded; what
            became of it is not known) or ``absent``, one per round.
        aborted: Rounds that ended without a sum, as the leader logged it.
        left_out: Sites and rounds that are not shown, for there are too many.
    """

    sites: tuple[str, ...]
    rounds: tuple[int, ...]
    cells: tuple[tuple[str, ...], ...]
    aborted: frozenset[int]
    left_out: tuple[int, int]

    def count(self, row: int, kind: str) -> int:
        """How many rounds of a site are of this kind."""
        return self.cells[row].count(kind)


def charges(view: View) -> Charges:
    """What the sites' logs say that the run cost.

    Raises:
        Missing: The run has no privacy plan, or no log shows a charge.
    """
    if not view.plan.private:
        raise Missing("the run has no differential privacy, so nothing was charged")
    grouped: dict[Line, list[str]] = {}
    reserved: list[float] = []
    unreadable = 0
    for client in view.clients[:MAX_SITES]:
        try:
            log = view.log(client)
        except Missing:
            continue
        line, failed = _line(log.of("budget.charged"))
        unreadable += failed
        if line:
            grouped.setdefault(line, []).append(clean(client))
        reserved += filter(None, map(_epsilon, log.of("budget.reserved")))
    if not grouped:
        raise Missing("no log shows a charge with its epsilon")
    return Charges(
        lines=tuple((tuple(sites), line) for line, sites in grouped.items()),
        plan=view.plan.charge(),
        reserved=min(reserved, default=None),
        unreadable=unreadable,
        left_out=max(0, len(view.clients) - MAX_SITES),
    )


def _line(events: Sequence[Event]) -> tuple[Line, int]:
    points: list[tuple[int, float]] = []
    for event in events[:MAX_ROUNDS]:
        number, epsilon = event.fields.get("round"), _epsilon(event)
        if type(number) is int and 0 <= number <= MAX_EPSILON and epsilon is not None:
            points.append((number, epsilon))
    return tuple(points), len(events) - len(points)


def _epsilon(event: Event) -> float | None:
    try:
        value = float(event.decimal("epsilon"))
    except TacitError:
        return None
    return value if math.isfinite(value) and value <= MAX_EPSILON else None


def participation(view: View) -> Participation:
    """Which site's upload is in which sum.

    Raises:
        Missing: The bundle shows no round.
    """
    shown = {round_view.number: round_view for round_view in view.rounds}
    aborted: set[int] = set()
    # Which rounds were aborted is not known without the log; the page says that it is missing.
    with contextlib.suppress(Missing):
        for event in view.log(view.leader).of("round.aborted"):
            number = event.fields.get("round")
            if type(number) is int and 0 < number <= MAX_EPSILON:
                aborted.add(number)
    rounds = sorted({*shown, *aborted})
    if not rounds:
        raise Missing("the bundle shows no round")
    kept, sites = rounds[:MAX_ROUNDS], view.clients[:MAX_SITES]
    columns = [_column(view, shown.get(number), sites) for number in kept]
    return Participation(
        sites=tuple(clean(site) for site in sites),
        rounds=tuple(kept),
        cells=tuple(tuple(column[row] for column in columns) for row in range(len(sites))),
        aborted=frozenset(aborted),
        left_out=(len(view.clients) - len(sites), len(rounds) - len(kept)),
    )


def _column(view: View, round_view: RoundView | None, sites: Sequence[PartyName]) -> list[str]:
    """What became of each site's upload in one round."""
    if round_view is None:
        return ["absent"] * len(sites)
    summed: tuple[bytes, ...] | None = ()
    if round_view.aggregate is not None:
        try:
            summed = view.logged_cohort(round_view.number)
        except (Missing, TacitError):
            summed = None
    return [_cell(round_view, site, summed) for site in sites]


def _cell(round_view: RoundView, site: PartyName, summed: tuple[bytes, ...] | None) -> str:
    upload = round_view.uploads.get(site)
    if upload is None:
        return "absent"
    if summed is None:
        return "open"
    return "in" if upload.digest in summed else "out"
