"""Gates for continuous integration: conditions on the figures under which a command fails."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tacit.attack.cells import CellResult
from tacit.attack.defences import DEFENCES, TITLES, Defence
from tacit.attack.measure import Estimate
from tacit.errors import ConfigError

__all__ = ["Gate", "GateResult", "Part", "check"]

Part = Literal["value", "lower", "upper", "null", "ceiling", "trials"]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
GRAMMAR = re.compile(
    r"\s*(?:(?P<column>[a-z]+)\s*:\s*)?(?P<metric>[A-Za-z0-9][A-Za-z0-9_.@%-]*)\s*(?P<sign>>=|<=|>|<)\s*"
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*"
)
READ: dict[str, Callable[[Estimate], float | None]] = {
    "value": lambda one: one.value,
    "lower": lambda one: one.low,
    "upper": lambda one: None if one.one_sided else one.high,
    "null": lambda one: one.null,
    "ceiling": lambda one: one.ceiling,
    "trials": lambda one: float(one.trials),
}


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: ``[COLUMN:]METRIC[.PART] SIGN NUMBER``.

    Args:
        column: Whose figures.
        metric: A name in ``Findings.measured``.
        part: Which number of the figure.
        sign: ``>``, ``>=``, ``<`` or ``<=``.
        number: What it is compared with; finite.
    """

    column: Defence
    metric: str
    part: Part
    sign: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Reads an expression.

        Raises:
            ConfigError: It is none.
        """
        match = GRAMMAR.fullmatch(text)
        if match is None:
            raise _bad(text, "is not COLUMN:METRIC.PART > NUMBER")
        column = match["column"] or "tacit"
        if column not in DEFENCES:
            raise _bad(text, f"names no column; columns are {', '.join(DEFENCES)}")
        metric, _, part = match["metric"].rpartition(".")
        if not metric or part not in get_args(Part):
            metric, part = match["metric"], "value"
        number = float(match["number"])
        if not math.isfinite(number):
            raise _bad(text, "compares with no finite number")
        return cls(
            next(one for one in DEFENCES if one == column),
            metric,
            next(one for one in get_args(Part) if one == part),
            match["sign"],
            number,
        )

    def __str__(self) -> str:
        return f"{self.column}:{self.metric}.{self.part} {self.sign} {self.number!r}"


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(
        "attack.gate",
        f"{text!r} {why}",
        remedy="write for example 'membership.advantage.upper > 0.10' or 'plain:membership.auc >= 0.9'; parts "
        f"are {', '.join(get_args(Part))}",
    )


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate came to.

    Args:
        gate: The condition.
        status: ``bites`` if it is met, ``passes`` if not, ``not measured`` if nobody knows.
        message: For people.
        observed: The number that decided; None if there is none.
    """

    gate: Gate
    status: Literal["passes", "bites", "not measured"]
    message: str
    observed: float | None

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        observed = self.observed
        finite = observed is None or math.isfinite(observed)
        return {
            "expression": str(self.gate),
            "status": self.status,
            "message": self.message,
            "observed": observed if finite else ("inf" if observed == math.inf else "-inf"),
        }


def check(gate: Gate, results: Sequence[CellResult]) -> GateResult:
    """Holds a condition against the figures: the largest of all attacks for > and >=, else the smallest.

    Guarantee: a gate passes only if every attack that has the metric under any column measured it under the
    gate's own: an unknown metric, a failed attack, a missing bound and the upper end of a lower bound are
    ``not measured``, never ``passes``. Checked by ``tests/attack/test_gate.py::test_a_gate_fails_closed`` and
    ``::test_a_lower_bound_has_no_upper_end``.
    """
    carriers = {
        result.attack
        for result in results
        if result.findings and gate.metric in result.findings.measured
    }
    own = [result for result in results if result.defence == gate.column]
    found: list[float] = []
    missing: list[str] = []
    for result in own:
        if result.attack not in carriers:
            continue
        estimate = result.findings.measured.get(gate.metric) if result.findings else None
        number = READ[gate.part](estimate) if estimate is not None else None
        if number is None:
            missing.append(result.attack)
        else:
            found.append(number)
    observed = (max if gate.sign.startswith(">") else min)(found, default=None)
    if observed is not None and OPERATORS[gate.sign](observed, gate.number):
        return GateResult(gate, "bites", f"{gate}: it is {observed:.6g}", observed)
    if observed is None:
        return GateResult(gate, "not measured", _unknown(gate, own) + _why(gate, own), None)
    failed = sorted(missing + _failed(results, own, carriers))
    if failed:
        message = f"{gate}: not measured by {', '.join(failed)}{_why(gate, own)}"
        return GateResult(gate, "not measured", message, observed)
    return GateResult(gate, "passes", f"{gate}: no, it is {observed:.6g}", observed)


def _failed(
    results: Sequence[CellResult], own: Sequence[CellResult], carriers: set[str]
) -> list[str]:
    """Attacks that failed under the column and belong to a row in which the metric is measured."""
    rows = {result.row for result in results if result.attack in carriers}
    return [
        result.attack
        for result in own
        if result.row in rows
        and result.attack not in carriers
        and (result.findings is None or not result.findings.measured)
    ]


def _why(gate: Gate, own: Sequence[CellResult]) -> str:
    """What a person who asks for the upper end of a lower bound must know; empty for everybody else."""
    bounds = (
        one.findings.measured[gate.metric].one_sided
        for one in own
        if one.findings and gate.metric in one.findings.measured
    )
    if gate.part != "upper" or not any(bounds):
        return ""
    return "; it is a lower bound (95% confidence) and has no upper end: gate on its value or lower"


def _unknown(gate: Gate, own: Sequence[CellResult]) -> str:
    title = TITLES[gate.column]
    known = sorted({name for one in own if one.findings for name in one.findings.measured})
    if gate.metric in known:
        return f"{gate}: {gate.metric} has no {gate.part} under {title}"
    shown = ", ".join(known) if known else "nothing at all"
    return f"{gate}: {gate.metric} is not measured under {title}; measured are: {shown}"
