from __future__ import annotations

import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyarrow import compute

from tacit.config import parse_table
from tacit.connect.sources import BATCH_ROWS, Source, checks, open_source, read_secret
from tacit.errors import ConfigError, LocalProtocolError, TacitError, TransportError
from tacit.policy.server import Server
from tacit.testing import sources

SECRET = "CANARY-4711"


def source_of(content: dict[str, Any], base: Path, login: dict[str, str] | None = None) -> Source:
    return open_source(parse_table(content, Server, "contract.toml"), base, login)


def read(source: Source, *wanted: str, where: Any = None) -> pa.Table:
    declared = source.schema().names
    pieces = list(source.batches(declared, wanted or declared, where))
    rows = 0
    for piece in pieces:
        assert piece.first_row == rows
        assert piece.place == source.place
        assert piece.batch.num_rows <= BATCH_ROWS
        rows += piece.batch.num_rows
    return pa.Table.from_batches([piece.batch for piece in pieces])


def refused(kind: type[TacitError], code: str, source: Source, *declared: str) -> TacitError:
    return sources.refused(kind, code, source, *declared, secret=SECRET)


# --- SQLite ----------------------------------------------------------------------------------------


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "ward.db")
    yield connection
    connection.close()


def sqlite(folder: Path, **content: str) -> Source:
    return source_of({"type": "sqlite", "path": "ward.db", **content}, folder)


def fill(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    connection.execute(f"CREATE TABLE {table}")
    name = table.split("(", maxsplit=1)[0]
    marks = ", ".join("?" * len(rows[0]))
    connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
    connection.commit()


def test_sqlite_streams_its_types(tmp_path: Path, ward: sqlite3.Connection) -> None:
    rows = [(i, i / 2, f"n{i}", "1961-05-06", i % 2) for i in range(70_000)]
    fill(ward, '"of ""us"""(a INTEGER, b REAL, "c c" TEXT, d DATE, e BOOLEAN)', rows)
    source = sqlite(tmp_path, table='of "us"')
    types = [pa.int64(), pa.float64(), pa.string(), pa.date32(), pa.bool_()]
    assert source.schema() == pa.schema(zip(["a", "b", "c c", "d", "e"], types, strict=True))
    table = read(source, "e", "c c", "d")
    assert table.column_names == ["e", "c c", "d"]
    assert table.num_rows == len(rows)
    assert table.column("c c")[69_999].as_py() == "n69999"
    assert table.column("d")[0].as_py() == date(1961, 5, 6)
    assert table.column("e").to_pylist()[:3] == [False, True, False]
    where = (compute.field("a") >= 69_998) & compute.field("e")
    assert read(source, "b", where=where).to_pydict() == {"b": [69_999 / 2]}


def test_sqlite_types_do_not_depend_on_the_first_rows(
    tmp_path: Path, ward: sqlite3.Connection
) -> None:
    rows: list[tuple[Any, ...]] = [(None, 1, None)] * 70_000
    fill(ward, "late(a, b NUMERIC, c REAL)", [*rows, ("x", 1.5, None)])
    table = read(sqlite(tmp_path, table="late"))
    assert table.schema.types == [pa.string(), pa.float64(), pa.float64()]
    assert table.slice(70_000).to_pylist() == [{"a": "x", "b": 1.5, "c": None}]
    assert table.column("a").null_count == 70_000


def test_sqlite_refuses_cells_of_several_types(tmp_path: Path, ward: sqlite3.Connection) -> None:
    fill(ward, "mixed(a, b)", [(1, 1)] * 3000 + [(SECRET, 1)])
    error = refused(ConfigError, "connect.type", sqlite(tmp_path, table="mixed"), "a", "b")
    assert "column 'a' holds values of several types: integer, text" in error.message
    # The other column does not mind.
    source = sqlite(tmp_path, table="mixed")
    assert sum(piece.batch.num_rows for piece in source.batches(["a", "b"], ["b"])) == 3001
    query = sqlite(tmp_path, query="SELECT CAST(a AS TEXT) AS a FROM mixed; ")
    assert read(query).column("a").to_pylist()[-2:] == ["1", SECRET]


@pytest.mark.parametrize(
    ("declared", "cell", "problem"),
    [("DATE", SECRET, "a date written as YYYY-MM-DD"), ("BOOLEAN", 2, "0 or 1")],
)
def test_sqlite_names_a_cell_that_is_not_what_its_column_declares(
    tmp_path: Path, ward: sqlite3.Connection, declared: str, cell: Any, problem: str
) -> None:
    good = "2020-02-29" if declared == "DATE" else 1
    fill(ward, f"bad(a {declared})", [(None,), *[(good,)] * 70_000, (cell,), (good,)])
    error = refused(ConfigError, "connect.cell", sqlite(tmp_path, table="bad"))
    assert f"data row 70002, column 'a': the cell is not {problem}" in error.message


def test_sqlite_reads_a_view_and_a_query(tmp_path: Path, ward: sqlite3.Connection) -> None:
    fill(ward, "visits(id INTEGER, day DATE)", [(2, "2020-01-02"), (1, "2020-01-01")])
    ward.execute("CREATE VIEW sorted AS SELECT * FROM visits ORDER BY id")
    ward.commit()
    expected = {"id": [1, 2], "day": [date(2020, 1, 1), date(2020, 1, 2)]}
    assert read(sqlite(tmp_path, table="sorted")).to_pydict() == expected
    query = "SELECT id, day FROM visits ORDER BY id -- a comment"
    assert read(sqlite(tmp_path, query=query)).to_pydict() == expected


def test_sqlite_is_never_written(tmp_path: Path, ward: sqlite3.Connection) -> None:
    fill(ward, "visits(id)", [(1,)])
    before = (tmp_path / "ward.db").read_bytes()
    read(sqlite(tmp_path, query="SELECT id AS x FROM visits"))
    refused(ConfigError, "connect.query", sqlite(tmp_path, query="DELETE FROM visits"))
    assert (tmp_path / "ward.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["ward.db"]


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Another program at work: locks of one's own process do not count."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE')"
    command = [sys.executable, "-c", f"{script}; print(flush=True); input()", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate(b"\n")


def test_sqlite_errors(tmp_path: Path, ward: sqlite3.Connection) -> None:
    fill(ward, "visits(id)", [(1,)])
    refused(ConfigError, "connect.missing-table", sqlite(tmp_path, table="nope"))
    refused(ConfigError, "connect.query", sqlite(tmp_path, query=f"SELEC '{SECRET}'"))
    query = f"SELECT json('{SECRET}' || id) AS a FROM visits"
    refused(ConfigError, "connect.query", sqlite(tmp_path, query=query), "a")
    error = refused(ConfigError, "connect.column", sqlite(tmp_path, table="visits"), "id", "age")
    assert "column 'age' is in the contract but not in the data" in error.message
    with lock(tmp_path / "ward.db"):
        refused(TransportError, "connect.lost", sqlite(tmp_path, table="visits"), "id")
    (tmp_path / "ward.db").write_bytes(b"none of that " * 1000)
    refused(ConfigError, "connect.source", sqlite(tmp_path, table="visits"))
    (tmp_path / "ward.db").unlink()
    refused(ConfigError, "connect.missing-file", sqlite(tmp_path, table="visits"))
    assert not (tmp_path / "ward.db").exists()


def test_a_damaged_sqlite_file_never_ends_early(tmp_path: Path, ward: sqlite3.Connection) -> None:
    fill(ward, "visits(id, note)", [(i, "x" * 100) for i in range(5000)])
    ward.close()
    data = (tmp_path / "ward.db").read_bytes()
    for part in (0.2, 0.5, 0.9):
        (tmp_path / "ward.db").write_bytes(data[: int(len(data) * part)])
        refused(ConfigError, "connect.source", sqlite(tmp_path, table="visits"), "id", "note")


# --- DuckDB ----------------------------------------------------------------------------------------


def ducks(folder: Path, **content: str) -> Source:
    return source_of({"type": "duckdb", "path": "ward.duckdb", **content}, folder)


def hatch(folder: Path, *statements: str) -> None:
    with duckdb.connect(str(folder / "ward.duckdb")) as connection:
        for statement in statements:
            connection.execute(statement)


def test_duckdb_streams_its_types(tmp_path: Path) -> None:
    hatch(
        tmp_path,
        """CREATE TABLE "of ""us" AS SELECT i AS a, i / 2 AS b, 'n' || i AS "c c", DATE '1961-05-06' AS d,
        i % 2 = 1 AS e, (i / 4)::DECIMAL(9, 2) AS f FROM range(140000) AS t(i)""",
    )
    source = ducks(tmp_path, table='of "us')
    assert source.schema().types == [
        *(pa.int64(), pa.float64(), pa.string(), pa.date32(), pa.bool_(), pa.decimal128(9, 2))
    ]
    table = read(source, "e", "c c", "a")
    assert table.column_names == ["e", "c c", "a"]
    assert table.column("a").to_pylist() == list(range(140_000))
    where = (compute.field("a") > 139_996) & compute.field("e")
    assert read(source, "c c", where=where).to_pydict() == {"c c": ["n139997", "n139999"]}
    query = 'SELECT a, b FROM "of ""us" ORDER BY a DESC; '
    assert read(ducks(tmp_path, query=query)).column("a")[0].as_py() == 139_999


def test_duckdb_reaches_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text(f"a\n{SECRET}\n")
    other = str(tmp_path / "other.csv")
    hatch(tmp_path, "CREATE TABLE t AS SELECT 1 AS a", f"CREATE VIEW v AS SELECT * FROM '{other}'")
    for content in (
        {"query": f"SELECT * FROM read_csv('{other}')"},
        {"query": f"SELECT * FROM '{other}'"},
        {"table": "v"},
    ):
        refused(ConfigError, "connect.query", ducks(tmp_path, **content), "a")
    for statement in (f"ATTACH '{tmp_path / 'new.duckdb'}'", "INSERT INTO t VALUES (2)"):
        refused(ConfigError, "connect.query", ducks(tmp_path, query=statement), "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "ward.duckdb"]


def test_duckdb_does_not_read_python_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hatch(tmp_path, "CREATE TABLE t AS SELECT 1 AS a")
    monkeypatch.setattr(checks, "canary", pa.table({"a": [1]}), raising=False)
    canary = pa.table({"a": [1]})
    refused(ConfigError, "connect.missing-table", ducks(tmp_path, table="canary"))
    assert canary.num_rows == 1


def test_duckdb_errors(tmp_path: Path) -> None:
    refused(ConfigError, "connect.missing-file", ducks(tmp_path, table="t"))
    hatch(
        tmp_path,
        f"CREATE TABLE t AS SELECT i, CASE i WHEN 150000 THEN '{SECRET}' ELSE '1' END AS s, random() AS r "
        "FROM range(200000) AS t(i)",
    )
    refused(ConfigError, "connect.missing-table", ducks(tmp_path, table="nope"))
    refused(ConfigError, "connect.query", ducks(tmp_path, query=f"SELEC '{SECRET}'"))
    refused(ConfigError, "connect.query", ducks(tmp_path, query="SELECT s::INT AS s FROM t"))
    error = refused(ConfigError, "connect.column", ducks(tmp_path, query="SELECT 1 AS a, 2 AS a"))
    assert "column 'a' is in the data twice" in error.message
    data = (tmp_path / "ward.duckdb").read_bytes()
    (tmp_path / "ward.duckdb").write_bytes(data[: len(data) // 2])
    refused(ConfigError, "connect.source", ducks(tmp_path, table="t"), "i", "s", "r")
    middle = len(data) // 2
    (tmp_path / "ward.duckdb").write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    refused(ConfigError, "connect.source", ducks(tmp_path, table="t"), "i", "s", "r")


# --- extras, secrets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "extra"),
    [
        ({"type": "sqlite", "path": "a.db", "table": "t"}, "tacit[sqlite]"),
        ({"type": "duckdb", "path": "a.db", "table": "t"}, "tacit[duckdb]"),
        (
            {"type": "postgres", "host": "h", "database": "d", "secret": "s", "table": "t"},
            "tacit[postgres]",
        ),
        ({"type": "s3", "location": "s3://b/a.csv", "format": "csv"}, "tacit[s3]"),
        ({"type": "gcs", "location": "gs://b/a.csv", "format": "csv"}, "gcsfs"),
        ({"type": "azure", "location": "abfs://b/a.csv", "format": "csv"}, "adlfs"),
    ],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], extra: str
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(checks.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match="is not installed") as caught:
        source_of(content, tmp_path, {"user": "ann"}).schema()
    assert caught.value.remedy == f"run: pip install '{extra}'"


def test_a_secret_is_read(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "ward.toml"
    path.write_text('user = "ann"\npassword = "hush"\n')
    path.chmod(0o600)
    assert read_secret(tmp_path, "ward") == {"user": "ann", "password": "hush"}
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read or changed by others"):
        read_secret(tmp_path, "ward")
    with pytest.raises(ConfigError, match="cannot read"):
        read_secret(tmp_path, "nope")


@pytest.mark.parametrize(
    "content",
    [
        "",
        f'pasword = "{SECRET}"',
        f'password = ["{SECRET}"]',
        f"password = {SECRET}",
        f'password = "{SECRET}"\n"{SECRET}" = 1',
        f"{SECRET}",
        f"password = '{SECRET}\n",
    ],
)
def test_a_secret_file_is_never_quoted(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "ward.toml"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        read_secret(tmp_path, "ward")
    assert caught.value.code == "connect.secret"
    assert caught.value.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("content", "login", "missing"),
    [
        ({"type": "postgres", "host": "h", "database": "d", "table": "t"}, {"key": "k"}, "user"),
        ({"type": "s3", "location": "s3://b/a.csv", "format": "csv"}, {"key": "k"}, "secret"),
        ({"type": "gcs", "location": "gs://b/a.csv", "format": "csv"}, {"key": "k"}, "token"),
        ({"type": "azure", "location": "abfs://b/a", "format": "csv"}, {"user": "k"}, "key"),
    ],
)
def test_half_a_login_is_refused(
    tmp_path: Path, content: dict[str, Any], login: dict[str, str], missing: str
) -> None:
    named = {**content, "secret": "ward"}
    with pytest.raises(ConfigError, match=f"keys/ward.toml has no '{missing}'"):
        source_of(named, tmp_path, login)
    with pytest.raises(LocalProtocolError):
        source_of(named, tmp_path)
