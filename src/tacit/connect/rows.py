"""A policy's row filter as an expression of Arrow, for whatever reads the rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute as pc

from tacit.policy.rows import Apply, Cell, Expression, Like, Literal, RowFilter

__all__ = ["expression", "stored_expression"]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
INSTANT = pa.timestamp("us", "UTC")
CAST = pc.CastOptions(INSTANT, allow_time_truncate=True)
"""Fails for a date beyond the year 294,247, such as a database's infinity; it would wrap around else."""
_FILLED, _DATED = "filled", "dated"
"""Stand for ``String`` where an empty text is no value, for ``datetime`` where none but these years is."""
_FIRST, _LAST = (pa.scalar(time, INSTANT) for time in (datetime.min, datetime.max))


def expression(rows: RowFilter) -> Any:
    """The filter as a ``pyarrow.compute.Expression``: true for the rows that it keeps, else false.

    Args:
        rows: What ``Policy.rows`` returned. The columns that it names must be there under their names,
            as string, integer, boolean, date or timestamp; one without a zone is in UTC.

    Guarantee:
        The expression is true for exactly the rows that ``RowFilter.keeps`` keeps, and never null: an
        empty cell that a rule compares leaves the row out.
        Checked by tests/property/test_policy_rows.py::test_arrow_keeps_the_same_rows.
    """
    permitted = _any([_arrow(item) for item in rows.permits])
    forbidden = _any([_arrow(item) for item in rows.forbids])
    kept = pc.if_else(pc.equal(permitted, forbidden), pc.scalar(False), permitted)
    return pc.coalesce(kept, pc.scalar(False))


def stored_expression(rows: RowFilter) -> Any:
    """The filter for cells of stored types, where a text may be empty without being null.

    Args:
        rows: As for ``expression``.

    Guarantee:
        A row is left out unless the rules permit it with each empty text as an empty cell, as in CSV,
        and as a text: a consent of no characters is none. So it is with times outside the years 1 to
        9999: PostgreSQL's driver makes a time long past of ``infinity``.
        Checked by tests/unit/test_connect_quarantine.py::test_a_consent_of_no_characters_is_none and
        tests/unit/test_connect_sources_postgres.py::test_an_infinite_time_passes_no_row_rule.
    """
    absent = replace(
        rows,
        permits=tuple(map(_without_empty, rows.permits)),
        forbids=tuple(map(_without_empty, rows.forbids)),
    )
    # The first one alone would do for most rules, but statistics of Parquet cannot be held to it.
    return expression(rows) if absent == rows else expression(rows) & expression(absent)


def _without_empty(item: Expression) -> Expression:
    """The same, with cells that are null where a text is empty or a time out of the calendar."""
    if isinstance(item, Cell):
        return replace(item, kind={"String": _FILLED, "datetime": _DATED}.get(item.kind, item.kind))
    if isinstance(item, Like):
        return replace(item, text=_without_empty(item.text))
    if isinstance(item, Apply):
        return replace(item, arguments=tuple(map(_without_empty, item.arguments)))
    return item


def _any(conditions: Sequence[Any]) -> Any:
    """Whether one is true, and null where one is null: expressions only have Kleene's `or`."""
    return functools.reduce(
        lambda left, right: pc.if_else(pc.equal(left, right), right, pc.scalar(True)),
        conditions or [pc.scalar(False)],
    )


def _arrow(item: Expression) -> Any:
    if isinstance(item, Literal):
        return pc.scalar(_scalar(item.value))
    if isinstance(item, Cell):
        return _cell(item)
    if isinstance(item, Like):
        return pc.match_substring_regex(_arrow(item.text), _regex(item))
    return _applied(item)


def _cell(item: Cell) -> Any:
    cell = pc.field(item.column)
    if item.kind == _FILLED:
        return pc.if_else(pc.equal(cell, ""), pc.scalar(pa.scalar(None, pa.string())), cell)
    if item.kind not in ("datetime", _DATED):
        return cell
    # Dates, and timestamps with or without a zone, could not be compared with each other.
    time = cell.cast(options=CAST)
    if item.kind == "datetime":
        return time
    inside = (time >= pc.scalar(_FIRST)) & (time <= pc.scalar(_LAST))
    return pc.if_else(inside, time, pc.scalar(pa.scalar(None, INSTANT)))


def _regex(item: Like) -> str:
    """The pattern for RE2: Arrow's own LIKE takes an escaped backslash for two where it can avoid RE2."""
    # A wildcard is bytes, not characters: a text that is no UTF-8 would escape a forbid.
    parts = (r"\C*" if part is None else _literal(part) for part in item.pattern)
    return rf"\A{''.join(parts)}\z"


def _literal(text: str) -> str:
    return "".join(c if c.isalnum() else rf"\x{{{ord(c):x}}}" for c in text)


def _applied(item: Apply) -> Any:
    operator, arguments = item.operator, item.arguments
    if operator == "in":
        return _contained(arguments[0], arguments[1:])
    first, *others = map(_arrow, arguments)
    if operator == "has":
        return pc.is_valid(first)
    if operator == "!":
        return pc.invert(first)
    # if_else is null where its condition is: as in Cedar, the left side is evaluated before all else.
    branches = {
        "&&": (*others, pc.scalar(False)),
        "||": (pc.scalar(True), *others),
        "if": tuple(others),
    }
    if operator in branches:
        return pc.if_else(first, *branches[operator])
    return _COMPARE[operator](first, others[0])


def _contained(item: Expression, options: Sequence[Expression]) -> Any:
    known = [_scalar(option.value) for option in options if isinstance(option, Literal)]
    cell = _arrow(item)
    # Arrow's own test would call an empty cell false.
    found = pc.if_else(pc.equal(cell, cell), cell.isin(known), pc.scalar(False))
    others = [_arrow(option) for option in options if not isinstance(option, Literal)]
    return _any([found, *(pc.equal(cell, other) for other in others)])


def _scalar(value: bool | int | str | datetime) -> Any:
    if isinstance(value, datetime):
        return pa.scalar(value, INSTANT)
    return value
