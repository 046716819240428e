"""SQLite by way of ADBC. SQLite types cells, not columns, so the types are looked up first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect.sources.base import BATCH_ROWS
from tacit.connect.sources.checks import (
    BROKEN,
    cell_error,
    missing_error,
    optional,
    source_error,
)
from tacit.connect.sources.databases import (
    connected,
    lost_error,
    missing_table,
    query_error,
    quoted,
    table_of,
)
from tacit.errors import ConfigError, TacitError
from tacit.policy.server import Server

__all__ = ["Sqlite"]

VIEW = "tacit_source"
COLUMNS_AT_ONCE = 100

KINDS: dict[frozenset[str], pa.DataType] = {
    frozenset({"integer"}): pa.int64(),
    frozenset({"real"}): pa.float64(),
    frozenset({"integer", "real"}): pa.float64(),
    frozenset({"text"}): pa.string(),
    frozenset({"blob"}): pa.binary(),
}
FIRST = {pa.int64(): "0", pa.float64(): "0.0", pa.string(): "''", pa.binary(): "x''"}
"""A literal of each type."""


@dataclass(frozen=True, slots=True)
class Sqlite:
    """A table, view or query of a SQLite file.

    Every column must hold values of one type (integers and reals count as one: ``double``). Text in a
    column declared ``DATE`` becomes ``date32``, integers in one declared ``BOOLEAN`` become ``bool``.

    Args:
        server: Of type ``sqlite``.
        path: The file.
    """

    server: Server
    path: Path

    @property
    def place(self) -> str:
        """File, and table."""
        return f"{self.path}, {table_of(self.server)}"

    @contextmanager
    def connect(self) -> Iterator[_Session]:
        """One read-only session, in one transaction."""
        dbapi = optional("adbc_driver_sqlite.dbapi", "tacit[sqlite]")
        if not self.path.is_file():
            raise missing_error(str(self.path), "database file", "path")
        broken = (*BROKEN, dbapi.Error)
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        with connected(
            lambda: dbapi.connect(uri, autocommit=False),
            lambda error: _explain(self.place, error),
            broken,
        ) as connection:
            yield _Session(self.place, self.server, connection, broken)


@dataclass(frozen=True, slots=True)
class _Session:
    place: str
    server: Server
    connection: Any
    broken: tuple[type[Exception], ...]

    def names(self) -> list[str]:
        # A view keeps the declared types of the columns that it passes on; a subquery does not.
        # It is temporary, which means in this process's memory: the file is opened read-only.
        table = f"SELECT * FROM main.{quoted(self.server.table or '')}"  # noqa: S608
        statement = self.server.query.strip().rstrip(";") if self.server.query else table
        self._fetch(f"CREATE TEMP VIEW {VIEW} AS\n{statement}")
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(f"SELECT * FROM {VIEW} LIMIT 0")  # noqa: S608
            with cursor.fetch_record_batch() as reader:
                return list(reader.schema.names)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        # Measured: the driver takes the types from the first rows of the first batch. A column that
        # begins with NULLs becomes int64, and a later value of another type breaks the stream (it is
        # never cast or lost). So the types of all cells are looked up: one pass, 0.17 s for 500,000
        # rows of 8 columns, which take 0.32 s to read.
        declared = dict(self._fetch(f"SELECT name, type FROM pragma_table_xinfo('{VIEW}')"))  # noqa: S608
        fields: list[pa.Field] = []
        for start in range(0, len(names), COLUMNS_AT_ONCE):
            some = names[start : start + COLUMNS_AT_ONCE]
            kinds = (f"group_concat(DISTINCT typeof({quoted(name)}))" for name in some)
            (found,) = self._fetch(f"SELECT {', '.join(kinds)} FROM {VIEW}")  # noqa: S608
            for name, cells in zip(some, found, strict=True):
                held = frozenset((cells or "").split(",")) - {"null", ""}
                fields.append(self._field(name, held, declared.get(name, "").upper()))
        return pa.schema(fields)

    def rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        # A first row of literals tells the driver the types; it is dropped.
        stored = [field.metadata[b"stored"].decode() for field in schema]
        columns = ", ".join(quoted(name) for name in schema.names)
        rows = -1
        with closing(self.connection.cursor()) as cursor:
            options = {"adbc.sqlite.query.batch_rows": str(BATCH_ROWS)}
            cursor.adbc_statement.set_options(**options)
            cursor.execute(f"SELECT {', '.join(stored)} UNION ALL SELECT {columns} FROM {VIEW}")  # noqa: S608
            with cursor.fetch_record_batch() as reader:
                for batch in reader:
                    part = batch.slice(1) if rows < 0 else batch
                    yield self._converted(part, schema, max(rows, 0))
                    rows += batch.num_rows

    def explain(self, error: Exception) -> TacitError:
        return _explain(self.place, error)

    def _field(self, name: str, held: frozenset[str], declared: str) -> pa.Field:
        kind = KINDS.get(held or frozenset({_affinity(declared)}))
        if kind is None:
            raise ConfigError(
                "connect.type",
                f"{self.place}: column '{name}' holds values of several types: "
                f"{', '.join(sorted(held))}",
                remedy="correct the data, or CAST the column in a 'server.query'",
                file=self.place,
                column=name,
            )
        metadata = {"stored": FIRST[kind]}
        if declared == "DATE" and kind == pa.string():
            kind = pa.date32()
        elif declared in ("BOOLEAN", "BOOL") and kind == pa.int64():
            kind = pa.bool_()
        return pa.field(name, kind, metadata=metadata)

    def _converted(
        self, batch: pa.RecordBatch, schema: pa.Schema, first_row: int
    ) -> pa.RecordBatch:
        columns = []
        for cells, field in zip(batch.columns, schema, strict=True):
            converted = _convert(cells, field.type)
            if converted is None:
                row = next(
                    i for i in range(len(cells)) if _convert(cells[i : i + 1], field.type) is None
                )
                what = (
                    "0 or 1" if pa.types.is_boolean(field.type) else "a date written as YYYY-MM-DD"
                )
                raise cell_error(self.place, first_row + row + 1, field.name, f"is not {what}")
            columns.append(converted)
        return pa.RecordBatch.from_arrays(columns, names=schema.names)

    def _fetch(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


def _convert(cells: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The cells in another type, or None where one of them is not of it."""
    if pa.types.is_boolean(kind):
        known = compute.is_in(cells, value_set=pa.array([0, 1, None], pa.int64()))
        return cells.cast(kind) if compute.all(known, min_count=0).as_py() else None
    try:
        return cells.cast(kind)
    except pa.ArrowInvalid:
        return None


def _affinity(declared: str) -> str:
    """What a column without any value would hold (section 3.1 of "Datatypes In SQLite")."""
    if "INT" in declared or declared in ("BOOLEAN", "BOOL"):
        return "integer"
    if any(word in declared for word in ("REAL", "FLOA", "DOUB", "NUM", "DEC")):
        return "real"
    return "text"


def _explain(place: str, error: Exception) -> TacitError:
    message = str(error)
    if "no such table" in message:
        return missing_table(place)
    if "not a database" in message or "disk image is malformed" in message:
        return source_error(place, "this is not a whole SQLite database")
    if "locked" in message or "busy" in message:
        return lost_error(place, "another program locks the database", "try again when it is done")
    return query_error(place, "the database refuses the query, or stops on the way")
