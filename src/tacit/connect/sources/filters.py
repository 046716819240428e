"""Row filters on sources that cannot filter by themselves: which columns they need, and the filter."""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect.sources.base import Request
from tacit.connect.sources.checks import attempt, source_error
from tacit.errors import ConfigError

__all__ = ["needed_columns", "select_rows"]


def needed_columns(place: str, request: Request, schema: pa.Schema) -> tuple[str, ...]:
    """The wanted columns, and after them those that only the filter reads.

    Args:
        place: For the error.
        request: What is asked for.
        schema: Stored types of the declared columns.

    Raises:
        ConfigError: The filter cannot be applied to columns of these types.
    """
    where = request.where
    if where is None:
        return request.wanted
    if not _binds(where, schema):
        raise ConfigError(
            "connect.filter",
            f"{place}: the row filter cannot be applied to the columns as they are stored",
            remedy="compare each column with a value of its own type, or correct the data",
            file=place,
        )
    # Arrow does not tell which columns an expression reads; it fails without one that it reads.
    read = [name for name in schema.names if name not in request.wanted]
    named = [name for name in read if name in str(where)]
    read = named if _binds(where, _only(schema, [*request.wanted, *named])) else read
    kept = [
        name
        for name in read
        if not _binds(where, _only(schema, [other for other in schema.names if other != name]))
    ]
    return (*request.wanted, *kept)


def select_rows(place: str, batch: pa.RecordBatch, request: Request) -> pa.RecordBatch:
    """The rows that pass, and of them the wanted columns.

    Raises:
        ConfigError: A cell that the filter reads cannot be compared; Arrow's own error would quote it.
    """
    if request.where is not None:
        batch = attempt(
            lambda: batch.filter(request.where),
            lambda _error: source_error(
                place,
                "a cell that the row rules speak of is beyond what can be compared",
                "correct the data, such as dates that are infinite",
            ),
        )
    return batch.select(list(request.wanted))


def _only(schema: pa.Schema, names: list[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in dict.fromkeys(names)])


def _binds(where: compute.Expression, schema: pa.Schema) -> bool:
    try:
        schema.empty_table().filter(where)
    except (pa.ArrowException, ValueError):
        return False
    return True
