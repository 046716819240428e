"""Row filters as expressions of Arrow, where Arrow has traps."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.dataset as ds  # type: ignore[import-untyped]
import pytest

from tacit.connect.rows import expression
from tacit.policy import RowFilter
from tacit.policy.rows import Apply, Cell, Like, Literal


def kept_by_arrow(found: RowFilter, cells: pa.Array) -> list[int]:
    table = pa.table({"cell": cells, "number": list(range(len(cells)))})
    numbers: list[int] = ds.dataset(table).to_table(filter=expression(found))["number"].to_pylist()
    return numbers


@pytest.mark.parametrize("pattern", [("a\\b", None), (None, "a\\b"), (None, "\\", None)])
def test_a_backslash_in_a_pattern_is_one(pattern: tuple[str | None, ...]) -> None:
    """Arrow's own LIKE looks for two of them, so that a forbid would miss the row."""
    found = RowFilter((Literal(True),), (Like(Cell("cell", "String"), pattern),))
    assert kept_by_arrow(found, pa.array(["a\\b", "ab", None])) == [1]


def test_a_text_that_is_no_utf8_does_not_escape_a_pattern() -> None:
    found = RowFilter((Literal(True),), (Like(Cell("cell", "String"), ("a", None)),))
    raw = pa.array([b"a\xff", b"b\xff"]).view(pa.string())
    assert kept_by_arrow(found, raw) == [1]


def test_a_time_beyond_all_times_is_an_error() -> None:
    """A day of the year 412,000, in microseconds, would be one long before 1970."""
    day = Literal(datetime(1980, 1, 1, tzinfo=UTC))
    found = RowFilter((Literal(True),), (Apply(">", (Cell("cell", "datetime"), day)),))
    assert kept_by_arrow(found, pa.array([date(1970, 1, 1), date(1990, 1, 1)])) == [0]
    with pytest.raises(pa.ArrowInvalid, match="out of bounds"):
        kept_by_arrow(found, pa.array([150_000_000], pa.int32()).cast(pa.date32()))
