"""Bad input from end to end: a typed error with place and remedy, no value, and nothing to train on."""

from __future__ import annotations

import sqlite3
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from tacit.config import parse_table
from tacit.connect import Reading, SanitisedBatch, read
from tacit.connect.sources import csv_files
from tacit.errors import ConfigError, LocalProtocolError, TacitError, TransportError
from tacit.party.data import RECEIPTS
from tacit.policy import Contract
from tacit.testing.federation import SITES, SmallFederation, write_small_federation
from tacit.testing.permissions import FixedKeys, permission

CANARY = "Canary-4711"
KEYS = FixedKeys()
KEEP = {"transform": {"method": "keep"}}
AGE = {"minimum": 0, "maximum": 120}
COLUMNS: dict[str, dict[str, Any]] = {
    "name": {"logicalType": "string", "classification": "identifier"},
    "mrn": {
        "logicalType": "string",
        "classification": "identifier",
        "transform": {"method": "token"},
    },
    "age": {
        "logicalType": "integer",
        "classification": "feature",
        "logicalTypeOptions": AGE,
        "bounds_source": "human life span",
        **KEEP,
    },
    "y": {"logicalType": "integer", "classification": "label", "values": [0, 1], **KEEP},
}
FILES = {"type": "local", "path": "records*.csv", "format": "csv"}


def contract(server: dict[str, Any], *names: str) -> Contract:
    properties = [{"name": name, **COLUMNS[name]} for name in names or COLUMNS]
    head = {"apiVersion": "v3.1.0", "name": "small", "server": server, "properties": properties}
    return parse_table(head, Contract, "contract.toml")


def parquet_contract(*names: str) -> Contract:
    return contract({"type": "local", "path": "records.parquet", "format": "parquet"}, *names)


def table(rows: int) -> pa.Table:
    return pa.table(
        {
            "name": [f"{CANARY} {row}" for row in range(rows)],
            "mrn": [f"{CANARY}-{row}" for row in range(rows)],
            "age": np.arange(rows) % 121,
            "y": np.arange(rows) % 2,
        }
    )


def csv_of(rows: list[tuple[Any, ...]], header: str = "name,mrn,age,y") -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def good(rows: int) -> list[tuple[Any, ...]]:
    return [("Ada", f"m{row}", 40, row % 2) for row in range(rows)]


def refused(
    kind: type[TacitError], code: str, made: Contract, folder: Path
) -> tuple[TacitError, list[SanitisedBatch]]:
    """What goes wrong, and the batches that a stream gave before; ``read`` must give nothing."""
    reading = Reading(made, folder, permission(made), KEYS)
    before: list[SanitisedBatch] = []
    with pytest.raises(kind) as caught:
        before.extend(reading)
    with pytest.raises(kind) as again:
        read(made, folder, permission(made), KEYS)
    for error in (caught.value, again.value):
        assert error.code == code
        assert error.remedy
        assert CANARY not in everything_said(error)
    assert caught.value.details == again.value.details
    return caught.value, before


def everything_said(error: BaseException) -> str:
    """The text of an error and of every other one that it came from."""
    said = "".join(traceback.format_exception(error))
    chained: BaseException | None = error
    while chained is not None:
        said += f"{chained!r}{chained}{chained.args}{getattr(chained, 'details', '')}"
        chained = chained.__cause__ or chained.__context__
    return said


def records(batches: list[SanitisedBatch]) -> int:
    return sum(map(len, batches))


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.1, 0.6, 0.999])
def test_a_truncated_parquet_file(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "records.parquet"
    parquet.write_table(table(200_000), path, row_group_size=65_536)
    data = path.read_bytes()
    assert len(read(parquet_contract(), tmp_path, permission(parquet_contract()), KEYS)) == 200_000
    path.write_bytes(data[: int(kept * len(data))])
    error, before = refused(ConfigError, "connect.source", parquet_contract(), tmp_path)
    assert "this is not a whole Parquet file" in error.message
    assert error.details["file"] == str(path)
    assert before == []


def test_a_parquet_page_that_is_damaged_far_behind(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    parquet.write_table(table(262_144), path, row_group_size=65_536)
    page = parquet.ParquetFile(path).metadata.row_group(3).column(1)
    assert page.path_in_schema == "mrn"
    data = bytearray(path.read_bytes())
    start = page.dictionary_page_offset or page.data_page_offset
    data[start : start + page.total_compressed_size] = b"\xa5" * page.total_compressed_size
    path.write_bytes(data)
    error, before = refused(ConfigError, "connect.source", parquet_contract(), tmp_path)
    assert error.details["file"] == str(path)
    assert records(before) < 262_144 - 65_536


def test_a_truncated_arrow_file(tmp_path: Path) -> None:
    path = tmp_path / "records.arrow"
    made = contract({"type": "local", "path": path.name, "format": "arrow"})
    feather.write_feather(table(1000), path)
    path.write_bytes(path.read_bytes()[:-100])
    error, before = refused(ConfigError, "connect.source", made, tmp_path)
    assert "this is not a whole Arrow IPC file" in error.message
    assert before == []


@pytest.mark.parametrize("row", [0, 1233, 4999])
def test_a_latin_1_byte_in_a_utf_8_file(tmp_path: Path, row: int) -> None:
    rows = good(5000)
    rows[row] = ("Ada", f"{CANARY} M\xfcller", 40, 1)
    (tmp_path / "records.csv").write_bytes(csv_of(rows).encode("latin-1"))
    error, _ = refused(ConfigError, "connect.cell", contract(FILES), tmp_path)
    assert f"data row {row + 1}, column 'mrn': the cell is not text in UTF-8" in error.message
    assert error.details["row"] == row + 1


def test_a_latin_1_byte_in_a_dropped_column_does_not_matter(tmp_path: Path) -> None:
    rows = [*good(3), ("M\xfcller", "m9", 40, 1)]
    (tmp_path / "records.csv").write_bytes(csv_of(rows).encode("latin-1"))
    assert len(read(contract(FILES), tmp_path, permission(contract(FILES)), KEYS)) == 4


def test_a_wrong_type_in_the_millionth_row(tmp_path: Path) -> None:
    lines = b"40,0\n" * 999_999 + f"{CANARY},1\n".encode() + b"41,1\n" * 10
    (tmp_path / "records.csv").write_bytes(b"age,y\n" + lines)
    made = contract(FILES, "age", "y")
    error, before = refused(ConfigError, "connect.cell", made, tmp_path)
    assert "data row 1000000, column 'age': the cell is not an integer" in error.message
    assert error.details["row"] == 1_000_000
    assert 0 < records(before) < 1_000_000


def test_a_column_that_is_renamed_from_one_file_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "records1.csv").write_text(csv_of(good(3)))
    (tmp_path / "records2.csv").write_text(csv_of([(CANARY, CANARY, 1, 1)], "name,mrn,years,y"))
    error, before = refused(ConfigError, "connect.column", contract(FILES), tmp_path)
    assert "column 'age' is in the contract but not in the data" in error.message
    assert error.details["file"] == str(tmp_path / "records2.csv")
    assert records(before) <= 3


def test_a_column_whose_type_changes_from_one_file_to_the_next(tmp_path: Path) -> None:
    made = contract({"type": "local", "path": "records*.parquet", "format": "parquet"})
    parquet.write_table(table(3), tmp_path / "records1.parquet")
    text = table(3).set_column(2, "age", pa.array([CANARY] * 3))
    parquet.write_table(text, tmp_path / "records2.parquet")
    error, _ = refused(ConfigError, "connect.type", made, tmp_path)
    assert "column 'age' is stored as string here, and as int64" in error.message
    assert error.details["file"] == str(tmp_path / "records2.parquet")


def test_a_second_file_of_another_type_behind_an_empty_one(tmp_path: Path) -> None:
    parquet.write_table(table(2).slice(0, 0), tmp_path / "records-1.parquet")
    other = table(2).set_column(3, "y", pa.array(["0", "1"]))
    parquet.write_table(other, tmp_path / "records-2.parquet")
    made = contract({"type": "local", "path": "records*.parquet", "format": "parquet"})
    error, before = refused(ConfigError, "connect.type", made, tmp_path)
    assert "records-2.parquet: column 'y' is stored as string" in str(error)
    assert not before


def test_what_arrow_says_of_a_batch_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object) -> None:
        raise pa.ArrowInvalid(f"cannot compute with {CANARY}")

    monkeypatch.setattr("tacit.connect.sanitise.tokens.tokens", fails)
    (tmp_path / "records.csv").write_text(csv_of(good(3)))
    error, _ = refused(ConfigError, "connect.rows", contract(FILES), tmp_path)
    assert "records.csv: a cell of data rows 1 to 3" in str(error)


def test_nothing_after_a_bad_row_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 4096)
    rows = good(5000)
    rows[2500] = ("Ada", "m", CANARY, 1)
    (tmp_path / "records.csv").write_text(csv_of(rows))
    error, before = refused(ConfigError, "connect.cell", contract(FILES), tmp_path)
    assert error.details["row"] == 2501
    assert 0 < records(before) <= 2500
    made = contract(FILES)
    reading = Reading(made, tmp_path, permission(made), KEYS)
    with pytest.raises(ConfigError):
        reading.collect()
    assert reading.rows().out <= 2500


# --- databases ---------------------------------------------------------------------------------


def test_a_sqlite_view_that_changes_its_types(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ward.db")) as connection:
        connection.execute("CREATE TABLE old(name, mrn, age INTEGER, y INTEGER)")
        connection.executemany("INSERT INTO old VALUES (?, ?, ?, ?)", good(70_000))
        connection.execute("CREATE TABLE new(name, mrn, age TEXT, y INTEGER)")
        connection.execute("INSERT INTO new VALUES ('Ada', 'm', ?, 1)", (CANARY,))
        connection.execute("CREATE VIEW both AS SELECT * FROM old UNION ALL SELECT * FROM new")
        connection.commit()
    made = contract({"type": "sqlite", "path": "ward.db", "table": "both"})
    error, before = refused(ConfigError, "connect.type", made, tmp_path)
    assert "column 'age' holds values of several types: integer, text" in error.message
    assert before == []


def test_a_duckdb_view_that_cannot_be_computed_to_its_end(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "ward.duckdb")) as connection:
        connection.execute(
            "CREATE TABLE visits AS SELECT 'Ada' AS name, 'm' || i AS mrn, "
            f"CASE WHEN i = 250000 THEN '{CANARY}' ELSE '40' END AS age, i % 2 AS y "
            "FROM range(300000) t(i)"
        )
        connection.execute("CREATE VIEW typed AS SELECT name, mrn, age::INT AS age, y FROM visits")
    made = contract({"type": "duckdb", "path": "ward.duckdb", "table": "typed"})
    error, before = refused(ConfigError, "connect.query", made, tmp_path)
    assert str(tmp_path / "ward.duckdb") in error.message
    assert records(before) < 250_000


def test_a_database_that_drops_the_connection(postgres: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    login = tmp_path / "keys" / "reader.toml"
    # A password with quotes: a literal string of TOML would end at them.
    lines = [f"{key} = {_toml(value)}" for key, value in postgres.login.items()]
    login.write_text("\n".join(lines) + "\n")
    login.chmod(0o600)
    query = (
        "SELECT 'Ada' AS name, 'm' || i AS mrn, 40 AS age, "
        "CASE WHEN i = {last} AND pg_terminate_backend(pg_backend_pid()) THEN 1 ELSE i % 2 END AS y "
        "FROM generate_series(1, 300000) i"
    )
    whole = contract({**postgres.server(), "query": query.format(last=0)})
    assert len(read(whole, tmp_path, permission(whole), KEYS)) == 300_000
    made = contract({**postgres.server(), "query": query.format(last=290_000)})
    error, before = refused(TransportError, "connect.lost", made, tmp_path)
    assert "the connection to the database is lost" in error.message
    assert records(before) < 290_000


def _toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- nothing is used ---------------------------------------------------------------------------


def test_a_permission_for_another_contract_opens_nothing(tmp_path: Path) -> None:
    made, other = contract(FILES), contract(FILES, "age", "y")
    # There is no file: whoever looked for it would say so.
    for attempt in (list, Reading.collect, iter):
        reading = Reading(made, tmp_path, permission(other), KEYS)
        with pytest.raises(LocalProtocolError, match="not for contract 'small'") as caught:
            for _ in attempt(reading):  # type: ignore[operator]
                raise AssertionError("a batch was made")
        assert caught.value.remedy
        assert reading.receipts == []


def test_a_site_keeps_no_receipt_of_bad_data(tmp_path: Path) -> None:
    write_small_federation(tmp_path / "small")
    data = tmp_path / "small" / "sites" / SITES[0] / "data" / "records.csv"
    lines = data.read_text().splitlines()
    cells = lines[-1].split(",")
    lines[-1] = ",".join([*cells[:-1], CANARY])
    data.write_text("\n".join(lines) + "\n")
    small = SmallFederation(tmp_path / "small")
    for offer in small.start():
        name = offer.receiver.party
        if str(offer.receiver) == f"{name}/client":
            small.sites[name].receive(offer, small.clock())
    stored = {
        name: [*small.stores[name].items(f"{RECEIPTS}/{small.terms.run_id}")] for name in SITES
    }
    assert [name for name, kept in stored.items() if not kept] == [SITES[0]]
    error = small.sites[SITES[0]].last_error
    assert error is not None
    assert error.code == "connect.cell"
    assert f"data row {len(lines) - 1}, column" in error.message
    assert not any(CANARY.encode() in value for value in small.stores[SITES[0]].dump())
