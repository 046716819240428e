"""PostgreSQL by way of ADBC, whose driver streams ``COPY ... TO STDOUT (FORMAT binary)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.sources.checks import BROKEN, optional
from tacit.connect.sources.databases import (
    connected,
    lost_error,
    missing_table,
    query_error,
    quoted,
    relation,
    table_of,
)
from tacit.errors import ConfigError, TacitError
from tacit.policy.server import Server

__all__ = ["Postgres"]

BATCH_BYTES = 8 * 1024 * 1024
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 30

SETTINGS = {
    "default_transaction_read_only": "on",
    # One snapshot for the check of the columns and for the rows.
    "default_transaction_isolation": "repeatable read",
    # Both would let the order of the rows change from one reading to the next.
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    # No statement_timeout: it would count the time that training takes between two batches.
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
}

LOGIN_REFUSED = ("password", "pg_hba.conf", "role ", "authentication")
"""libpq gives no SQLSTATE for a refused login; these words are in its English messages."""

MISSING = {"42P01", "3F000"}
RETRY = ("08", "40", "53", "55", "57", "58")
"""SQLSTATE classes that may pass: connection, conflict, resources, locks, intervention, system."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A table, view or query of a PostgreSQL database.

    ``numeric`` and ``money``, which Arrow lacks, become ``double``, in the database and rounded to
    the nearest; other types that Arrow lacks (``uuid``, ``json``, ``inet``, enumerations) become
    ``string``. A ``numeric`` that is an integer or a key has to be cast in a ``query``.

    Args:
        server: Of type ``postgres``.
        login: ``user`` and, where the server asks for it, ``password``.
    """

    server: Server
    login: Mapping[str, str] = field(repr=False)

    @property
    def place(self) -> str:
        """``postgres://host:port/database``, and the table."""
        server = self.server
        where = f"{server.host}:{server.port or 5432}/{server.database}"
        return f"postgres://{where}, {table_of(server)}"

    @contextmanager
    def connect(self) -> Iterator[_Session]:
        """One session, in one read-only transaction."""
        dbapi = optional("adbc_driver_postgresql.dbapi", "tacit[postgres]")
        broken = (*BROKEN, dbapi.Error)
        with connected(
            lambda: dbapi.connect(_uri(self.server, self.login), autocommit=False),
            lambda error: _refused(self, str(error)),
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
        return list(self._stored().names)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        stored = self._stored()
        return pa.schema([_delivered(stored.field(name)) for name in names])

    def rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        columns = ", ".join(map(_column, schema))
        with closing(self.connection.cursor()) as cursor:
            options = {"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)}
            cursor.adbc_statement.set_options(**options)
            cursor.execute(f'SELECT {columns} FROM {self.source} AS "source"')  # noqa: S608
            with cursor.fetch_record_batch() as reader:
                for batch in reader:
                    yield batch.replace_schema_metadata().cast(schema.remove_metadata())

    def explain(self, error: Exception) -> TacitError:
        state = getattr(error, "sqlstate", None)
        if state is None:
            return self._broke_off()
        if state in MISSING:
            return missing_table(self.place)
        if state.startswith(RETRY):
            return lost_error(self.place, f"the database gives up (SQLSTATE {state})")
        if state == "42501":
            return ConfigError(
                "connect.login",
                f"{self.place}: the user may not read it",
                remedy="GRANT SELECT to the user, or name another in 'server.secret'",
                file=self.place,
            )
        problem = f"the database refuses the query (SQLSTATE {state})"
        return query_error(self.place, problem, sqlstate=state)

    def _broke_off(self) -> TacitError:
        """An error of the stream itself has no SQLSTATE; whether the connection lives tells."""
        try:
            self.connection.rollback()
            with closing(self.connection.cursor()) as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()
        except self.broken:
            return lost_error(self.place, "the connection to the database is lost")
        problem = "the database stops on the way: it cannot compute a row, or was told to stop"
        return query_error(self.place, problem)

    def _stored(self) -> pa.Schema:
        with closing(self.connection.cursor()) as cursor:
            return cursor.adbc_execute_schema(f'SELECT * FROM {self.source} AS "source"')  # noqa: S608


def _uri(server: Server, login: Mapping[str, str]) -> str:
    settings = [
        f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in SETTINGS.items()
    ]
    parameters = {
        "host": server.host or "",
        "port": str(server.port or 5432),
        "user": login.get("user", ""),
        "password": login.get("password", ""),
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "application_name": "tacit",
        "options": " ".join(settings),
    }
    given = {name: value for name, value in parameters.items() if value}
    return f"postgresql:///{quote(server.database or '', safe='')}?" + urlencode(
        given, quote_via=quote
    )


def _refused(database: Postgres, message: str) -> TacitError:
    place = database.place
    if any(words in message for words in LOGIN_REFUSED):
        return ConfigError(
            "connect.login",
            f"{place}: the database refuses the login",
            remedy=f"correct keys/{database.server.secret}.toml, or the user's rights",
            file=place,
        )
    if "does not exist" in message:
        return ConfigError(
            "connect.missing-database",
            f"{place}: the server has no such database",
            remedy="correct 'server.database' in the contract",
            file=place,
        )
    return lost_error(
        place,
        "the database server cannot be reached",
        "check 'server.host' and 'server.port' in the contract, then try again",
    )


def _delivered(stored: pa.Field) -> pa.Field:
    name = (stored.metadata or {}).get(b"POSTGRESQL:type")
    kind = stored.type
    if name in (b"numeric", b"money"):
        kind = pa.float64()
    elif isinstance(kind, pa.BaseExtensionType):
        kind = pa.string()
    how = {"cast": _CASTS[name]} if name in _CASTS else {}
    if not how and isinstance(stored.type, pa.BaseExtensionType):
        how = {"cast": "text"}
    return pa.field(stored.name, kind, metadata=how)


_CASTS = {b"numeric": "double precision", b"money": "numeric::double precision"}


def _column(column: pa.Field) -> str:
    name = quoted(column.name)
    how = (column.metadata or {}).get(b"cast")
    return f"{name}::{how.decode()} AS {name}" if how else name
