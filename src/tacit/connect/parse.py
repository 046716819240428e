"""Cells as read -> cells of the declared type, within the declared limits; strictly, or ``BadCell``."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect.cells import BadCell, refuse
from tacit.policy.column import Column

__all__ = ["parse", "stored_type_fits"]

ARROW_TYPES = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}
IS_STORED_AS: dict[str, Callable[[pa.DataType], bool]] = {
    "string": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "integer": pa.types.is_integer,
    "number": lambda kind: (
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    ),
    "boolean": pa.types.is_boolean,
    "date": pa.types.is_date,
    "timestamp": pa.types.is_timestamp,
}
MICROSECONDS = compute.CastOptions(ARROW_TYPES["timestamp"], allow_time_truncate=True)
"""Drops nanoseconds; a time that does not fit is refused and does not wrap around."""
CALENDAR: dict[str, tuple[date, date]] = {
    "date": (date.min, date.max),
    "timestamp": (datetime.min, datetime.max),
}
"""What a stored date may be: Arrow takes years modulo 2**16, and databases store infinities."""
ARTICLE = {
    "string": "text in UTF-8",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date written as YYYY-MM-DD",
    "timestamp": "a time written as YYYY-MM-DD hh:mm:ss",
}


def stored_type_fits(kind: pa.DataType, column: Column) -> bool:
    """Whether a stored column of type ``kind`` can be what the contract declares."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    check = IS_STORED_AS.get(column.logical_type)
    return check is not None and check(kind)


def parse(cells: pa.Array, column: Column, *, text: bool) -> pa.Array:
    """Cells as read, in the Arrow type of the declared logical type, and within the column's limits.

    Args:
        cells: One column of one batch.
        column: What it must be.
        text: Whether cells are text as bytes (CSV) rather than of a stored type.

    Returns:
        The cells; empty ones are null where the column is optional, or the declared constant.

    Raises:
        BadCell: A cell is empty, not of the declared type, or beyond the declared limits.
    """
    present = _present(cells, column, text=text)
    converted = _converted(present, column, text=text)
    if column.required and converted.null_count:
        refuse(converted.is_null(), "is empty")  # A dictionary may hold a null that no index shows.
    if column.logical_type == "string":
        converted = _without_empty_text(converted, column)
    if column.logical_type in CALENDAR:
        _check_calendar(converted, column.logical_type)
    _check_limits(converted, column)
    if column.impute is not None and converted.null_count:
        fill = pa.scalar(column.impute, type=ARROW_TYPES[column.logical_type])
        converted = compute.fill_null(converted, fill)
    return converted


def _present(cells: pa.Array, column: Column, *, text: bool) -> pa.Array:
    """The cells with every empty one null; none may be, where a value is required."""
    if text:
        empty = compute.equal(compute.binary_length(cells), 0)
        if compute.any(empty).as_py():
            if column.required:
                refuse(empty, "is empty")
            cells = compute.if_else(empty, pa.scalar(None, cells.type), cells)
    if column.required and cells.null_count:
        refuse(cells.is_null(), "is empty")
    return cells


def _converted(cells: pa.Array, column: Column, *, text: bool) -> pa.Array:
    target = ARROW_TYPES[column.logical_type]

    def convert(part: pa.Array) -> pa.Array:
        if text or column.logical_type == "string":
            # By way of bytes, because only that cast checks that text is UTF-8.
            part = part.cast(pa.binary()).cast(pa.string())
        if text and column.logical_type == "integer":
            _require(compute.match_substring_regex(part, "^-?[0-9]+$"))
        if column.logical_type == "timestamp" and not text:
            return part.cast(options=MICROSECONDS)
        # A stored integer in a number column may be rounded; nothing else may change.
        return part.cast(target, safe=text or column.logical_type != "number")

    if not text and cells.type == target and column.logical_type != "string":
        return cells
    try:
        return convert(cells)
    except pa.ArrowInvalid:
        pass
    raise BadCell(_first_failure(cells, convert), f"is not {ARTICLE[column.logical_type]}")


def _without_empty_text(cells: pa.Array, column: Column) -> pa.Array:
    empty = compute.equal(cells, "")
    if not compute.any(empty).as_py():
        return cells
    if column.required:
        refuse(empty, "is empty")
    return compute.if_else(empty, pa.scalar(None, cells.type), cells)


def _check_limits(cells: pa.Array, column: Column) -> None:
    """Ranges, patterns and allowed values; the label and a vocabulary look their values up later."""
    options = column.options
    if options.pattern is not None:
        refuse(
            compute.invert(compute.match_substring_regex(cells, f"^(?:{options.pattern})$")),
            "does not match the declared pattern",
        )
    if column.values is not None and not column.is_label and column.method != "vocabulary":
        known = pa.array(column.values, type=cells.type)
        unknown = compute.invert(compute.is_in(cells, value_set=known))
        refuse(compute.and_(unknown, cells.is_valid()), "is not one of the declared values")
    minimum, maximum = _limits(column)
    if (minimum is None and maximum is None) or _within(cells, minimum, maximum):
        return
    if column.logical_type == "number":
        # NaN is beyond every limit, but compares false with each.
        refuse(compute.invert(compute.is_finite(cells)), "is not finite")
    problem = f"is outside the declared range {_range(column)}"
    if minimum is not None:
        refuse(compute.less(cells, minimum), problem)
    if maximum is not None:
        refuse(compute.greater(cells, maximum), problem)


def _check_calendar(cells: pa.Array, logical_type: str) -> None:
    first, last = (pa.scalar(day, cells.type) for day in CALENDAR[logical_type])
    outside = compute.or_(compute.less(cells, first), compute.greater(cells, last))
    refuse(outside, "is outside the years 1 to 9999")


def _limits(column: Column) -> tuple[float | None, float | None]:
    """The range in the type of the cells."""
    # To compare integers with a float, Arrow makes floats of them; where that is not exact it fails,
    # with a message that quotes one.
    lower, upper = column.options.minimum, column.options.maximum
    if column.logical_type != "integer":
        return lower, upper
    return (
        None if lower is None else min(max(math.ceil(lower), -(2**63)), 2**63 - 1),
        None if upper is None else min(max(math.floor(upper), -(2**63)), 2**63 - 1),
    )


def _within(cells: pa.Array, minimum: float | None, maximum: float | None) -> bool:
    """Whether surely all cells are within the range: two passes instead of six, where all is well."""
    if cells.null_count or not len(cells):
        return False
    numbers = cells.to_numpy()
    lowest, highest = numbers.min(), numbers.max()  # NaN, if there is any: then neither compares.
    return bool(
        (minimum is None or lowest >= minimum) and (maximum is None or highest <= maximum)
    ) and bool(np.isfinite(lowest) and np.isfinite(highest))


def _range(column: Column) -> str:
    lower, upper = column.options.minimum, column.options.maximum
    if lower is None:
        return f"up to {upper!r}"
    return f"from {lower!r} on" if upper is None else f"{lower!r} to {upper!r}"


def _require(good: pa.Array) -> None:
    if not compute.all(good).as_py():
        raise pa.ArrowInvalid("not of the declared type")


def _first_failure(cells: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> int:
    """Index of the first cell that ``convert`` refuses, by bisection; one is known to exist."""
    low, high = 0, len(cells)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(cells[low:middle])
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
