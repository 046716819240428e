"""Against a real PostgreSQL: tests/conftest.py says which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import compute

from tacit.config import parse_table
from tacit.connect.rows import stored_expression
from tacit.connect.sources import BATCH_ROWS, Source, open_source
from tacit.errors import ConfigError, TacitError, TransportError
from tacit.policy.rows import Apply, Cell, Literal, RowFilter
from tacit.policy.server import Server
from tacit.testing import sources

SECRET = "CANARY-4711"

Open = Callable[..., Source]


@pytest.fixture
def source(postgres: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a table or query, as ``reader`` unless told otherwise; tables live for one test."""

    def open_it(login: dict[str, str] | None = None, **content: Any) -> Source:
        keys = postgres.server() | content
        if "table" in keys:
            keys.setdefault("schema", postgres.schema)
        return open_source(parse_table(keys, Server, "c.toml"), tmp_path, login or postgres.login)

    yield open_it
    tables = postgres.execute(
        f"SELECT tablename FROM pg_tables WHERE schemaname = '{postgres.schema}'"
    )
    for (name,) in tables:
        postgres.execute(f'DROP TABLE {postgres.schema}."{name}" CASCADE')


def make(postgres: Any, name: str, select: str) -> str:
    postgres.execute(f"CREATE TABLE {postgres.schema}.{name} AS {select}")
    return f"{postgres.schema}.{name}"


def rows(source: Source, *wanted: str, where: Any = None) -> pa.Table:
    declared = source.schema().names
    pieces = list(source.batches(declared, wanted or declared, where))
    assert [piece.first_row for piece in pieces[:1]] == [0]
    assert max(piece.batch.num_rows for piece in pieces) <= BATCH_ROWS
    return pa.Table.from_batches([piece.batch for piece in pieces])


def refused(
    kind: type[TacitError], code: str, source: Source, *declared: str, secret: str = SECRET
) -> TacitError:
    return sources.refused(kind, code, source, *declared, secret=secret)


TYPES = """SELECT 7::int AS i, 8::bigint AS "B b", 1.25::numeric(9, 2) AS n, 2.5::float8 AS d, 'x'::text AS t,
    'y'::varchar(3) AS v, true AS f, date '1961-05-06' AS day, timestamptz '2020-01-02 03:04:05+00' AS tz,
    '8a0c5a6e-9d9b-4d4f-8f7e-0d5f0a1b2c3d'::uuid AS u, '{"a": 1}'::jsonb AS j, 12.34::numeric::money AS m,
    '10.0.0.1'::inet AS ip"""


def test_types_come_as_arrow_has_them(postgres: Any, source: Open) -> None:
    make(postgres, "kinds", TYPES)
    opened = source(table="kinds")
    table = rows(opened)
    assert opened.schema() == table.schema
    assert {field.name: field.type for field in table.schema} == {
        "i": pa.int32(),
        "B b": pa.int64(),
        "n": pa.float64(),
        "d": pa.float64(),
        "t": pa.string(),
        "v": pa.string(),
        "f": pa.bool_(),
        "day": pa.date32(),
        "tz": pa.timestamp("us", "UTC"),
        "u": pa.string(),
        "j": pa.string(),
        "m": pa.float64(),
        "ip": pa.string(),
    }
    (row,) = table.to_pylist()
    assert row["n"] == 1.25
    assert row["m"] == 12.34
    assert row["day"] == date(1961, 5, 6)
    assert row["tz"] == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert row["u"] == "8a0c5a6e-9d9b-4d4f-8f7e-0d5f0a1b2c3d"
    assert row["ip"] == "10.0.0.1/32"


def test_an_enumeration_comes_as_text(postgres: Any, source: Open) -> None:
    postgres.execute(f"CREATE TYPE {postgres.schema}.mood AS ENUM ('good', 'bad')")
    make(postgres, "moods", f"SELECT 'bad'::{postgres.schema}.mood AS mood")
    assert rows(source(table="moods")).to_pydict() == {"mood": ["bad"]}


def test_rows_are_streamed_in_the_order_of_the_query(postgres: Any, source: Open) -> None:
    name = make(
        postgres,
        "many",
        "SELECT i, 'n' || i AS t, i % 2 = 1 AS odd FROM generate_series(1, 200000) i",
    )
    table = rows(source(table="many"), "t", "i")
    assert table.column_names == ["t", "i"]
    assert sorted(table.column("i").to_pylist()) == list(range(1, 200_001))
    query = source(query=f"SELECT * FROM {name} ORDER BY i DESC -- backwards")
    assert rows(query, "i").column("i").to_pylist() == list(range(200_000, 0, -1))
    where = compute.field("odd") & (compute.field("i") > 199_996)
    assert sorted(rows(query, "t", where=where).column("t").to_pylist()) == ["n199997", "n199999"]


def test_only_the_wanted_columns_are_selected(postgres: Any, source: Open) -> None:
    name = make(postgres, "part", "SELECT 1 AS a, 2 AS b, 3 AS c")
    postgres.execute(f"REVOKE SELECT ON {name} FROM {postgres.reader}")
    postgres.execute(f"GRANT SELECT (a, b) ON {name} TO {postgres.reader}")
    # The database itself would refuse to read column c.
    (piece,) = source(table="part").batches(["a", "b", "c"], ["b"], compute.field("a") == 1)
    assert piece.batch.to_pydict() == {"b": [2]}
    refused(ConfigError, "connect.login", source(table="part"), "a", "b", "c")


def test_nothing_can_be_written(postgres: Any, source: Open) -> None:
    name = make(postgres, "fixed", "SELECT 1 AS a")
    postgres.execute(f"GRANT INSERT ON {name} TO {postgres.reader}")
    postgres.execute(
        f"CREATE FUNCTION {postgres.schema}.sneak() RETURNS int LANGUAGE sql AS "
        f"$$ INSERT INTO {name} VALUES (2) RETURNING a $$"
    )
    query = f"SELECT {postgres.schema}.sneak() AS a"
    error = refused(ConfigError, "connect.query", source(query=query), "a")
    refused(ConfigError, "connect.query", source(query=f"INSERT INTO {name} VALUES (3)"), "a")
    assert postgres.execute(f"SELECT a FROM {name}") == [(1,)]
    assert error.details["file"].startswith("postgres://")


def test_a_dropped_connection_is_never_the_end(postgres: Any, source: Open) -> None:
    make(postgres, "long", "SELECT i, repeat('x', 200) AS t FROM generate_series(1, 400000) i")
    batches = source(table="long").batches(["i", "t"], ["i", "t"])
    got = next(batches).batch.num_rows
    ended = postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name = 'tacit' AND usename = '{postgres.reader}'"
    )
    assert ended == [(True,)]
    with pytest.raises(TransportError, match="the connection to the database is lost") as caught:
        for piece in batches:
            got += piece.batch.num_rows
    assert caught.value.code == "connect.lost"
    assert "try again" in caught.value.remedy
    assert got < 400_000
    assert caught.value.__context__ is None


def test_a_connection_is_closed_when_reading_stops(postgres: Any, source: Open) -> None:
    make(postgres, "stop", "SELECT i, repeat('x', 200) AS t FROM generate_series(1, 200000) i")
    batches = source(table="stop").batches(["i", "t"], ["i"])
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    open_now = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{postgres.reader}'"
    for _ in range(100):
        if postgres.execute(open_now) == [(0,)]:
            break
        postgres.execute("SELECT pg_sleep(0.02)")
    assert postgres.execute(open_now) == [(0,)]


def test_a_row_that_cannot_be_computed(postgres: Any, source: Open) -> None:
    name = make(
        postgres,
        "cast_me",
        f"SELECT CASE i WHEN 150000 THEN '{SECRET}' ELSE '1' END AS t FROM generate_series(1, 200000) i",
    )
    error = refused(ConfigError, "connect.query", source(query=f"SELECT t::int AS t FROM {name}"))
    assert "cannot compute a row" in error.message


def test_a_refused_login(postgres: Any, source: Open) -> None:
    login = {**postgres.login, "password": SECRET}
    error = refused(ConfigError, "connect.login", source(login, table="t"))
    assert "keys/reader.toml" in error.remedy
    refused(ConfigError, "connect.login", source({"user": "nobody-here"}, table="t"))
    assert SECRET not in repr(source(login, table="t"))


def test_a_server_that_cannot_be_reached(source: Open, tmp_path: Path) -> None:
    for host in (str(tmp_path), "127.0.0.1", "no-such-host.invalid"):
        error = refused(
            TransportError, "connect.lost", source(host=host, port=1, table="t"), secret="p@ss"
        )
        assert "check 'server.host'" in error.remedy


def test_errors_name_what_is_wrong(postgres: Any, source: Open) -> None:
    name = make(postgres, "small", f"SELECT '{SECRET}' AS a")
    refused(ConfigError, "connect.missing-table", source(table="nope"))
    refused(ConfigError, "connect.missing-table", source(table="small", schema="nope"))
    refused(ConfigError, "connect.missing-database", source(table="small", database="nope"))
    error = refused(ConfigError, "connect.query", source(query=f"SELEC '{SECRET}'"))
    assert error.details["sqlstate"] == "42601"
    error = refused(ConfigError, "connect.column", source(query=f"SELECT a, a FROM {name}"))
    assert "column 'a' is in the data twice" in error.message
    error = refused(ConfigError, "connect.column", source(table="small"), "a", "b")
    assert "column 'b' is in the contract but not in the data" in error.message


@pytest.mark.parametrize("operator", ["<", ">"])
def test_an_infinite_time_passes_no_row_rule(postgres: Any, source: Open, operator: str) -> None:
    times = "('infinity'::timestamp, 1), ('-infinity', 2), ('2020-01-01', 3), ('2030-01-01', 4)"
    make(postgres, "infinite", f"SELECT t, n, t::date AS d FROM (VALUES {times}) AS v(t, n)")

    def rule(column: str) -> Any:
        middle = Literal(datetime(2026, 1, 1, tzinfo=UTC))
        condition = Apply(operator, (Cell(column, "datetime"), middle))
        return stored_expression(RowFilter((condition,), ()))

    found = rows(source(table="infinite"), "n", where=rule("t")).column("n").to_pylist()
    assert found == [3 if operator == "<" else 4]
    # As microseconds, an infinite date is no time at all.
    with pytest.raises(ConfigError, match="beyond what can be compared"):
        rows(source(table="infinite"), "n", where=rule("d"))
