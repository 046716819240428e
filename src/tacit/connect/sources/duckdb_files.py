"""DuckDB database files, opened read-only and cut off from everything else on the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.sources.base import BATCH_ROWS
from tacit.connect.sources.checks import BROKEN, missing_error, optional, source_error
from tacit.connect.sources.databases import (
    connected,
    lost_error,
    missing_table,
    query_error,
    quoted,
    relation,
    table_of,
)
from tacit.errors import TacitError
from tacit.policy.server import Server

__all__ = ["Duckdb"]

MEMORY_LIMIT = "1GB"

CONFIG = {
    # No other file and no network, whatever a query or a view says; nothing is downloaded.
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Nor is a table of an unknown name looked for among the variables of this program.
    "python_enable_replacements": "false",
    # No copy of records is spilled beside the database.
    "temp_directory": "",
    "memory_limit": MEMORY_LIMIT,
    "lock_configuration": "true",
}


@dataclass(frozen=True, slots=True)
class Duckdb:
    """A table, view or query of a DuckDB file.

    ``decimal`` and ``hugeint`` come as Arrow decimals, ``enum`` as dictionary, ``uuid`` as string.

    Args:
        server: Of type ``duckdb``.
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
        """One read-only session."""
        duckdb = optional("duckdb", "tacit[duckdb]")
        if not self.path.is_file():
            raise missing_error(str(self.path), "database file", "path")
        broken = (*BROKEN, duckdb.Error)
        with connected(
            lambda: duckdb.connect(str(self.path), read_only=True, config=CONFIG),
            lambda error: _explain(self.place, error),
            broken,
        ) as connection:
            yield _Session(self.place, relation(self.server), connection, broken)


@dataclass(frozen=True, slots=True)
class _Session:
    place: str
    source: str
    connection: Any
    broken: tuple[type[Exception], ...]

    def names(self) -> list[str]:
        query = self.source.removeprefix("(").removesuffix(")")
        # Not by way of a subquery, which would rename the second of two columns of one name.
        statement = query if query != self.source else f"SELECT * FROM {self.source}"  # noqa: S608
        return list(self.connection.sql(statement).columns)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        with self._reader(names, "LIMIT 0") as reader:
            return reader.schema.remove_metadata()

    def rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with self._reader(schema.names, "") as reader:
            yield from reader

    def explain(self, error: Exception) -> TacitError:
        return _explain(self.place, error)

    def _reader(self, names: Sequence[str], end: str) -> pa.RecordBatchReader:
        columns = ", ".join(map(quoted, names))
        # Measured: 2 M rows pass without any growth of the peak memory. execute() would copy.
        query = self.connection.sql(f'SELECT {columns} FROM {self.source} AS "source" {end}')  # noqa: S608
        return query.to_arrow_reader(BATCH_ROWS)


def _explain(place: str, error: Exception) -> TacitError:
    kind, message = type(error).__name__, str(error)
    if kind == "CatalogException" and "does not exist" in message:
        return missing_table(place)
    if "lock" in message and kind == "IOException":
        return lost_error(
            place, "another program has the database open", "try again when it is closed"
        )
    if "Corrupt" in message or kind in ("IOException", "SerializationException"):
        return source_error(place, "this is not a whole DuckDB database")
    if kind == "OutOfMemoryException":
        return query_error(place, f"the query needs more than {MEMORY_LIMIT} of memory")
    if kind == "PermissionException":
        return query_error(place, "the query reads other files, which it may not")
    return query_error(place, "the database refuses the query, or stops on the way")
