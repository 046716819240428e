"""From figures to verdicts: a cell of the report, and whether the whole is green."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tacit.attack.cells import CellResult
from tacit.attack.defences import Defence
from tacit.attack.measure import Estimate

__all__ = [
    "COUNTED",
    "PROMISED",
    "CellView",
    "Status",
    "Verdict",
    "bound_of",
    "is_check",
    "judge",
    "overall",
    "stays_away",
    "unsettled",
    "view_cell",
]

Verdict = Literal["alarm", "broken", "not measured", "leaks", "at chance"]
"""What a cell comes to, the worst first."""

Status = Literal["red", "open", "green"]
"""What the report comes to: see ``overall``."""

JUDGED = frozenset(
    {
        "reconstruction.identification",
        "membership.informed.advantage",
        "metadata.sampled_auc",
        "poisoning.backdoor",
    }
)
"""Figures that decide a cell although their attack has another one before them."""

SEVERITY: dict[str, int] = {"at chance": 0, "leaks": 1, "not measured": 2, "broken": 3, "alarm": 4}

PROMISED = frozenset(
    {"reconstruction", "inversion", "membership", "malicious-server", "formal-epsilon"}
)
"""Rows of which Tacit promises something; ``docs/threat-model.md`` promises nothing of the others."""

AUDITED = "formal-epsilon"
"""The row of lower bounds at 95%: on their own they make no table red, their alarm at 1e-7 does."""

TOPS: dict[str, float] = {
    "share": 1.0,
    "advantage": 1.0,
    "auc": 1.0,
    "accuracy": 1.0,
    "rate": 1.0,
}
"""The largest value of a unit, where there is one: a bound that is not below it bounds nothing."""


COUNTED = "attempts"
"""Unit of a count: how many of the trials, which differ and are no matter of chance; it has no interval."""


def bound_of(estimate: Estimate) -> float | None:
    """What theory allows at most, where that says anything at all."""
    ceiling, top = estimate.ceiling, TOPS.get(estimate.unit, math.inf)
    return None if ceiling is None or ceiling >= top else ceiling


def judge(estimate: Estimate) -> Verdict:
    """The verdict on one figure.

    ``broken``: the whole interval lies above what theory allows; or nothing bounds the figure and it is
    clearly above chance, by more than its lower half-width again. ``leaks``: the whole interval lies above
    chance and none of the former holds. ``at chance``: it does not. Without a baseline to compare with
    nothing is measured.

    Guarantee: a figure whose interval holds chance is never called broken or leaking without contradicting
    its bound, and one whose interval lies above its bound is always broken. Checked by
    ``tests/attack/test_report.py::test_verdicts_follow_the_numbers``.
    """
    bound = bound_of(estimate)
    if bound is not None and estimate.low > bound:
        return "broken"
    if estimate.null is None:
        return "not measured"
    if not estimate.low > estimate.null:
        return "at chance"
    clearly = estimate.low - estimate.null > estimate.value - estimate.low
    return "broken" if bound is None and clearly else "leaks"


def strength(estimate: Estimate) -> tuple[int, float, float]:
    """A key that puts the figure on top that is worst for those who are protected.

    Figures of different units are compared by how much of the way from chance to the largest value they
    went.
    """
    null = 0.0 if estimate.null is None else estimate.null
    top = float(estimate.trials) if estimate.unit == COUNTED else TOPS.get(estimate.unit, math.inf)
    way = top - null
    gone = (estimate.value - null) / way if 0 < way < math.inf else 0.0
    return SEVERITY[judge(estimate)], gone, estimate.value


CHECK = "ratio"
"""Unit of a figure that compares what is seen with what is specified; 1 where all is well."""


@dataclass(frozen=True, slots=True)
class CellView:
    """A cell of the report: one row, one column.

    Args:
        verdict: What it comes to.
        attack: The strongest attack; empty if nothing was measured.
        metric: Its figure's name.
        estimate: Its figure; there may be one although the verdict is ``not measured``, for then another
            attack of the row failed, which might have been the stronger.
        reason: Why the verdict is ``not measured``.
        alarms: Protections that were found broken.
        attacks: All attacks that ran.
    """

    verdict: Verdict
    attack: str = ""
    metric: str = ""
    estimate: Estimate | None = None
    reason: str = ""
    alarms: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    """Those of ``alarms`` that another column raised and counts, for this one shares its run."""
    compared: int = 0
    """How many figures the strongest one was chosen from; checks are none of them."""

    @property
    def counted(self) -> tuple[str, ...]:
        """The alarms of the column's own runs: each is counted once."""
        return tuple(alarm for alarm in self.alarms if alarm not in self.copied)


def is_check(result: CellResult) -> bool:
    """Whether an attack only checks that a protection does what it says: its first figure is a ratio.

    It speaks by alarms, and is never the strongest attack of a row.
    """
    measured = result.findings.measured if result.findings else {}
    return bool(measured) and next(iter(measured.values())).unit == CHECK


def view_cell(results: Sequence[CellResult]) -> CellView:
    """The cell of a row and a column from the results of all its attacks.

    Guarantee: an attack that failed leaves a cell ``not measured`` or worse, and in Tacit's own column so
    does one that measured nothing; an alarm of any attack is the cell's. Checked by
    ``tests/attack/test_report.py::test_what_is_not_measured_is_never_green`` and
    ``::test_an_alarm_anywhere_is_never_green``.
    """
    if not results:
        return CellView("not measured", reason="no attack of this row applies to this column")
    names = tuple(result.attack for result in results)
    alarms = tuple(
        alarm for result in results if result.findings for alarm in result.findings.alarms
    )
    copied = tuple(
        alarm
        for result in results
        if result.findings and result.mirrored
        for alarm in result.findings.alarms
    )
    heads = [head for result in results if not is_check(result) for head in _heads(result)]
    failed = [
        f"{result.attack}: {result.reason}"
        for result in results
        if result.reason and (not heads or not stays_away(result))
    ]
    if not heads:
        failed = failed or ["checks only, and no attack"]
        verdict: Verdict = "alarm" if alarms else "not measured"
        return CellView(
            verdict, reason="; ".join(failed), alarms=alarms, attacks=names, copied=copied
        )
    attack, metric, estimate = max(heads, key=lambda head: strength(head[2]))
    verdict = judge(estimate)
    if verdict == "not measured":
        failed.append(f"{attack}: no baseline to compare {metric} with")
    elif failed and SEVERITY[verdict] < SEVERITY["not measured"]:
        verdict = "not measured"
    if alarms:
        verdict = "alarm"
    reason = "; ".join(failed)
    return CellView(verdict, attack, metric, estimate, reason, alarms, names, copied, len(heads))


def _heads(result: CellResult) -> list[tuple[str, str, Estimate]]:
    """The figures of an attack that can decide a cell: the first one, and those in ``JUDGED``."""
    measured = result.findings.measured if result.findings else {}
    return [
        (result.attack, name, estimate)
        for place, (name, estimate) in enumerate(measured.items())
        if not place or name in JUDGED
    ]


def stays_away(result: CellResult) -> bool:
    """Whether an attack chose to measure nothing, which it may outside Tacit's own column; none may fail."""
    found = result.findings
    return found is not None and not found.measured and result.defence != "tacit"


def unsettled(estimate: Estimate) -> bool:
    """Whether a figure at chance leaves more than half of the way to the largest value open.

    So wide an interval is no finding, whatever theory says: the bound is what is being tried.
    """
    top = TOPS.get(estimate.unit)
    if top is None or estimate.null is None or judge(estimate) != "at chance":
        return False
    return estimate.high - estimate.null > (top - estimate.null) / 2


def overall(
    cells: dict[tuple[str, Defence], CellView], rows: Sequence[str]
) -> tuple[Status, tuple[str, ...]]:
    """What the report comes to, and why it is not green.

    ``red``: an alarm in any cell; or in Tacit's own column a cell that is not measured, or a broken one in a
    row of which something is promised; or that column was not run at all. ``open``: nothing of that, but in
    Tacit's column an attack works of which nothing is promised, or does better than chance without a bound,
    or has too few trials to say anything, or finds nothing without any protection either. ``green``: neither.
    """
    red = [
        f"alarm in {row} under {defence}: {', '.join(cell.counted)}"
        for (row, defence), cell in cells.items()
        if cell.verdict == "alarm" and cell.counted
    ]
    opened: list[str] = []
    for row in rows:
        bad, unclear = _own(row, cells.get((row, "tacit")))
        if not bad and not unclear and _powerless(row, cells):
            unclear = "the attack finds nothing without protection either"
        red += [f"{row}: {bad}"] if bad else []
        opened += [f"{row}: {unclear}"] if unclear else []
    if not rows:
        red.append("no row was run")
    if red:
        return "red", tuple(red)
    return ("open", tuple(opened)) if opened else ("green", ())


def _powerless(row: str, cells: dict[tuple[str, Defence], CellView]) -> bool:
    """Whether chance in Tacit's column proves nothing: the same was found where nothing protects."""
    own, plain = cells.get((row, "tacit")), cells.get((row, "plain"))
    chance = own is not None and own.verdict == "at chance"
    return chance and plain is not None and plain.verdict == "at chance"


def _own(row: str, cell: CellView | None) -> tuple[str, str]:
    """Of a cell in Tacit's own column: why it makes the table red, and why open; empty if it does not."""
    if cell is None:
        return "not run under Tacit", ""
    if cell.verdict == "not measured":
        return f"not measured under Tacit: {cell.reason}", ""
    if cell.verdict == "broken":
        if row == AUDITED:
            return (
                "",
                "a lower bound lies above the claim, as 5 in 100 do by chance; no alarm was raised",
            )
        works = f"{cell.attack} works against Tacit"
        return (works, "") if row in PROMISED else ("", f"{works}, which promises nothing of it")
    unclear = ""
    if cell.estimate is not None and cell.verdict == "leaks" and bound_of(cell.estimate) is None:
        unclear = f"{cell.attack} does better than chance, and nothing bounds it"
    elif cell.estimate is not None and unsettled(cell.estimate):
        unclear = f"too few trials; {cell.attack} may do far better than chance"
    return "", unclear
