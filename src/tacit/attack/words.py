"""What the figures say in words. No sentence says more than the interval of its figure does."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from tacit.attack.defences import TITLES, Defence
from tacit.attack.measure import Estimate
from tacit.attack.verdict import COUNTED, CellView, Status, Verdict, bound_of

__all__ = [
    "LIMITS",
    "MEANING",
    "at_least",
    "at_most",
    "headline",
    "interval",
    "nearest",
    "sentence",
    "told",
    "word",
]

WORDS: dict[str, dict[Verdict, str]] = {
    "malicious-server": {"broken": "succeeds", "leaks": "above chance"},
    "poisoning": {"broken": "works", "leaks": "above chance"},
    "metadata": {"broken": "visible", "leaks": "above chance"},
    "formal-epsilon": {"leaks": "within epsilon", "at chance": "nothing shown"},
}
"""What a verdict is called in rows where the common word would not fit."""

MEANING: dict[Verdict, str] = {
    "alarm": "a protection was found not to work as it is specified",
    "broken": "the whole interval lies above what theory allows, or, where theory allows everything, "
    "clearly above chance",
    "not measured": "an attack failed, is missing, or has nothing to compare with; that is no good news",
    "leaks": "the whole interval lies above chance; theory allows as much, or, where nothing bounds it, the "
    "interval is too wide to say how far",
    "at chance": "the interval holds chance, or lies below it: these trials cannot tell the attack from "
    "guessing; the upper end of the interval says what they cannot rule out",
}

LIMITS: tuple[str, ...] = (
    "Other data. The figures are of public records divided among made-up sites, at the sizes that the report "
    "states; larger, rarer or more unusual records can leak more.",
    "Better attackers. The attacks are standard ones without much tuning; the next one may be stronger. What "
    "no attacker exceeds stands under what is proven, and nowhere else.",
    "Chance among many figures. Each interval holds for one attack by itself, 95 times in 100; of many cells "
    "a few miss, and of several attacks in a cell the strongest is shown.",
    "Properties of a whole site. Differential privacy for a record does not hide what all records of a site "
    "have in common; what is measured there is measured only.",
    "Poisoning. Nothing proves that a site's data are honest. Backdoors in rare cases (edge cases) pass every "
    "aggregation rule known to the authors, clipping and noise included.",
    "Metadata and timing. Who takes part, sizes and times of messages are visible to the network, and how "
    "long a site computes tells roughly how many records it has.",
    "More colluding helpers than the job allows for, stolen keys, and a machine that runs other code than it "
    "says: see the threat model.",
    "Anything outside the run: the data before they were read, and the use of the released model.",
)
"""What no cell of the table covers."""


CONFIDENT = "95% confidence"
WITHOUT_INTERVAL = frozenset({COUNTED, "epsilon"})
"""Units of figures that may have no interval; an interval of no width would claim what was not shown."""


def _decimals(value: float) -> int:
    size = abs(value)
    if size >= 1000:
        return 0
    if size >= 10:
        return 1
    return 3 if size >= 0.01 or size == 0 else 4


def _rounded(value: float, rounding: str) -> str:
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    step = Decimal(1).scaleb(-_decimals(value))
    text = str(Decimal(repr(float(value))).quantize(step, rounding=rounding))
    return text.removeprefix("-") if float(text) == 0 else text


def nearest(value: float) -> str:
    """A number, rounded to the nearest."""
    return _rounded(value, ROUND_HALF_EVEN)


def at_most(value: float) -> str:
    """A number that is not below ``value``."""
    return _rounded(value, ROUND_CEILING)


def at_least(value: float) -> str:
    """A number that is not above ``value``."""
    return _rounded(value, ROUND_FLOOR)


def interval(estimate: Estimate, between: str = " to ") -> str:
    """The interval, rounded outwards; of a lower bound that it is one, and of a count that it has none.

    Guarantee: what is shown holds the interval. Checked by
    ``tests/attack/test_report.py::test_rounding_never_narrows_an_interval`` and
    ``::test_a_lower_bound_is_called_one``.
    """
    if estimate.one_sided:
        return f"at least {at_least(estimate.low)} ({CONFIDENT})"
    if _is_exact(estimate):
        return "no interval"
    return f"{at_least(estimate.low)}{between}{at_most(estimate.high)}"


def told(estimate: Estimate) -> str:
    """Value and interval in a few words."""
    if estimate.one_sided:
        return interval(estimate)
    if _is_exact(estimate):
        return f"{_exactly(estimate)} (no interval)"
    return f"{nearest(estimate.value)} [{interval(estimate, ', ')}]"


def _is_exact(estimate: Estimate) -> bool:
    """Whether a figure has no interval at all: a count, or what follows from the plan."""
    return estimate.unit in WITHOUT_INTERVAL and estimate.low == estimate.high


def _exactly(estimate: Estimate) -> str:
    return (
        f"{estimate.value:g} of {estimate.trials}"
        if estimate.unit == COUNTED
        else nearest(estimate.value)
    )


def word(row: str, verdict: Verdict) -> str:
    """What a verdict is called in a row."""
    return WORDS.get(row, {}).get(verdict, verdict)


def sentence(defence: Defence, cell: CellView) -> str:
    """A cell as one sentence, made from its numbers."""
    title = TITLES[defence]
    if cell.verdict == "alarm":
        names = ", ".join(cell.alarms)
        return f"{title}: ALARM, a protection does not work as specified: {names}."
    if cell.verdict == "not measured" or cell.estimate is None:
        also = f" What was measured: {_figure(cell)}." if cell.estimate is not None else ""
        return f"{title}: not measured ({cell.reason}).{also}"
    against = _against(cell.verdict, cell.estimate)
    gap = "" if against.startswith(";") else " "
    return f"{title}: {_figure(cell)}{gap}{against}.{_several(cell)}"


def _figure(cell: CellView) -> str:
    estimate = cell.estimate
    assert estimate is not None
    trials = _counted(estimate.trials, "trial")
    name = f"{cell.metric} of {cell.attack} is"
    if estimate.one_sided:
        return f"{name} at least {at_least(estimate.low)} ({CONFIDENT}, {trials})"
    if _is_exact(estimate):
        return f"{name} {_exactly(estimate)} (no interval, {trials})"
    return f"{name} {nearest(estimate.value)} (95% interval {interval(estimate)}, {trials})"


def _against(verdict: Verdict, estimate: Estimate) -> str:
    bound, null = bound_of(estimate), estimate.null
    allowed = "" if bound is None else f"; theory allows at most {at_most(bound)}"
    chance = "" if null is None else nearest(null)
    if verdict == "broken" and bound is not None:
        return f"and lies above what theory allows, {nearest(bound)}"
    if verdict == "broken":
        return f"and lies clearly above chance, {chance}; no theory bounds it"
    if verdict == "leaks":
        return f"and lies above chance, {chance}{allowed or '; no theory bounds it'}"
    assert null is not None
    if estimate.unit == COUNTED:
        return "; what was not tried is not ruled out"
    if estimate.high < null:
        return f"and lies below chance, {chance}{allowed}"
    beyond = (
        "; a lower bound rules out nothing above it"
        if estimate.one_sided
        else f"; up to {at_most(estimate.high)} is not ruled out"
    )
    return f"and cannot be told from chance, {chance}{beyond}{allowed}"


def _several(cell: CellView) -> str:
    if cell.compared < 2:
        return ""
    return (
        f" The strongest of {cell.compared} attacks; its interval is that of one attack by itself."
    )


def headline(
    status: Status, cells: dict[tuple[str, Defence], CellView], rows: tuple[str, ...], whole: bool
) -> str:
    """The report in one line."""
    part = "" if whole else f" This is a part of the suite: {_counted(len(rows), 'row')}."
    if status == "red":
        return f"Not green: do not rest a decision on this table.{part}"
    own = [cells[row, "tacit"].verdict for row in rows]
    chance, above = own.count("at chance"), own.count("leaks")
    text = f"Of {_counted(len(own), 'row')} under Tacit, {chance} cannot be told from chance in these trials"
    if above:
        text += f", {above} above chance"
    if status == "open":
        return f"Open: nothing that is promised was broken, but something is not settled. {text}.{part}"
    return f"Green. {text}.{part}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
