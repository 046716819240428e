"""What all databases share: quoted SQL, one connection for each pass, batches filtered on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect.sources.base import Piece, Request
from tacit.connect.sources.checks import (
    attempt,
    check_columns,
    check_wanted,
    guarded,
    steady,
)
from tacit.connect.sources.filters import needed_columns, select_rows
from tacit.errors import ConfigError, TacitError, TransportError
from tacit.policy.server import Server

__all__ = [
    "Database",
    "DatabaseSource",
    "Session",
    "connected",
    "lost_error",
    "missing_table",
    "query_error",
    "quoted",
    "relation",
    "table_of",
]


class Session(Protocol):
    """One open, read-only connection. Its methods raise what the driver raises."""

    @property
    def broken(self) -> tuple[type[Exception], ...]:
        """What the driver and its Arrow stream may raise."""

    def names(self) -> list[str]:
        """Names of all columns, with duplicates."""

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """Names and types of columns, as ``rows`` delivers them."""

    def rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Streams the columns of a part of what ``schema`` gave, in that order."""

    def explain(self, error: Exception) -> TacitError:
        """The typed error for what the driver raised."""


class Database(Protocol):
    """Where a table lies, and how to connect."""

    @property
    def place(self) -> str:
        """Database and table, for errors; never a login."""

    def connect(self) -> AbstractContextManager[Session]:
        """Opens a connection, and closes it at the end.

        Raises:
            ConfigError: No such database, or it refuses the login.
            TransportError: It cannot be reached.
        """


@dataclass(frozen=True, slots=True)
class DatabaseSource:
    """A table, a view or a query as a data set.

    Rows come in the order in which the database gives them: where their order matters, read a
    ``query`` with ``ORDER BY`` over a unique column.

    Args:
        database: Where the table lies.
    """

    database: Database
    text: bool = False

    @property
    def place(self) -> str:
        """Database and table."""
        return self.database.place

    def schema(self, unseen: Collection[str] = ()) -> pa.Schema:
        """Names and types, as ``batches`` delivers them; of columns to leave alone the names only."""
        with self.database.connect() as session:
            names = attempt(session.names, session.explain, session.broken)
            check_columns(self.place, names, list(dict.fromkeys(names)))
            seen = [name for name in names if name not in unseen]
            found = attempt(lambda: session.schema(seen), session.explain, session.broken)
        types = {field.name: field.type for field in found}
        return pa.schema([(name, types.get(name, pa.null())) for name in names])

    def batches(
        self,
        declared: Sequence[str],
        wanted: Sequence[str],
        where: compute.Expression | None = None,
    ) -> Iterator[Piece]:
        """Streams the columns; of the others, only those that the filter reads leave the database."""
        check_wanted(declared, wanted)
        return steady(self._pieces(Request(tuple(declared), tuple(wanted), where)))

    def _pieces(self, request: Request) -> Generator[Piece]:
        rows = 0
        with self.database.connect() as session:
            schema = self._schema(session, request)
            for batch in guarded(lambda: session.rows(schema), session.explain, session.broken):
                piece = Piece(self.place, rows, select_rows(self.place, batch, request))
                rows += piece.batch.num_rows
                yield piece

    def _schema(self, session: Session, request: Request) -> pa.Schema:
        """What must be selected, after the check of the names."""
        found = attempt(session.names, session.explain, session.broken)
        check_columns(self.place, found, request.declared)
        # At least what the filter reads: its text holds the names of its columns.
        text = "" if request.where is None else str(request.where)
        others = (name for name in request.declared if name in text)
        names = list(dict.fromkeys((*request.wanted, *others)))
        schema = attempt(lambda: session.schema(names), session.explain, session.broken)
        needed = needed_columns(self.place, request, schema)
        return pa.schema([schema.field(name) for name in needed])


@contextmanager
def connected(
    connect: Callable[[], Any],
    explain: Callable[[Exception], TacitError],
    broken: tuple[type[Exception], ...],
) -> Iterator[Any]:
    """An open connection, closed at the end; the driver's own errors, which quote logins, stay inside."""
    with closing(attempt(connect, explain, broken)) as connection:
        yield connection


def table_of(server: Server) -> str:
    """The table, or that it is a query, for errors."""
    return "query" if server.query else f"table {server.table}"


def quoted(name: str) -> str:
    """An identifier of standard SQL, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def relation(server: Server) -> str:
    """What to select from: the quoted table, or the query in brackets."""
    if server.query is None:
        parts = [server.schema_, server.table]
        return ".".join(quoted(part) for part in parts if part is not None)
    # On lines of its own, so that a comment at its end does not hide the bracket.
    return f"(\n{server.query.strip().rstrip(';')}\n)"


def query_error(place: str, problem: str, **details: str) -> ConfigError:
    """The error for SQL that the database refuses: its code, never its message, which quotes data."""
    return ConfigError(
        "connect.query",
        f"{place}: {problem}",
        remedy="run the query in the database's own client and correct it; nothing was used",
        file=place,
        **details,
    )


def missing_table(place: str) -> ConfigError:
    """The error for a table or view that is not there."""
    return ConfigError(
        "connect.missing-table",
        f"{place}: the database has no such table or view",
        remedy="correct 'server.table', 'server.schema' or 'server.query' in the contract",
        file=place,
    )


def lost_error(place: str, problem: str, remedy: str = "try again") -> TransportError:
    """The error for a connection that ends, or is not there."""
    return TransportError(
        "connect.lost", f"{place}: {problem}", remedy=f"{remedy}; nothing was used", file=place
    )
