"""Rows and batches that are set aside, row rules, and what a reading's receipts say of them."""

from __future__ import annotations

import sqlite3
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from tacit.config import parse_table
from tacit.connect import Plan, Quarantined, Reading, Rows, inspect, read
from tacit.connect.anonymity import Gate
from tacit.connect.receipt import FIRST
from tacit.errors import ConfigError, LocalProtocolError
from tacit.policy import Contract
from tacit.policy.rows import Apply, Cell, Literal, RowFilter
from tacit.testing.permissions import NOON, FixedKeys, permission

KEYS = FixedKeys()
COLUMNS: dict[str, dict[str, Any]] = {
    "name": {"logicalType": "string", "classification": "identifier"},
    "mrn": {
        "logicalType": "string",
        "classification": "identifier",
        "transform": {"method": "mask", "visible": 2},
    },
    "zip": {
        "logicalType": "string",
        "classification": "quasi-identifier",
        "transform": {"method": "zip3"},
    },
    "note": {
        "logicalType": "string",
        "classification": "free-text",
        "transform": {"method": "quarantine"},
        "required": False,
    },
    "consent": {"logicalType": "boolean", "classification": "consent", "required": False},
    "age": {
        "logicalType": "integer",
        "classification": "feature",
        "transform": {"method": "keep"},
        "logicalTypeOptions": {"minimum": 0, "maximum": 120},
        "bounds_source": "human life span",
    },
    "y": {
        "logicalType": "integer",
        "classification": "label",
        "transform": {"method": "keep"},
        "values": [0, 1],
    },
}
ROW = ("Ada", "mrn-00421", "75001", "", "true", "40", "1")


def contract(form: str = "csv", columns: dict[str, Any] | None = None, **head: Any) -> Contract:
    properties = [{"name": name, **entry} for name, entry in (columns or COLUMNS).items()]
    content = {
        "apiVersion": "v3.1.0",
        "name": "small",
        "server": {"type": "local", "path": f"records*.{form}", "format": form},
        "properties": properties,
        **head,
    }
    return parse_table(content, Contract, "contract.toml")


def write(folder: Path, rows: list[tuple[str, ...]], name: str = "records.csv") -> None:
    lines = [",".join(COLUMNS), *(",".join(row) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")


def changed(**cells: str) -> tuple[str, ...]:
    return tuple(cells.get(name, cell) for name, cell in zip(COLUMNS, ROW, strict=True))


CONSENTED = RowFilter((Apply("==", (Cell("consent", "Bool"), Literal(True))),), ())


def test_invalid_rows_refuse_the_data_set_unless_the_contract_sets_them_aside(
    tmp_path: Path,
) -> None:
    bad = [changed(age="old"), changed(age="121"), changed(age=""), changed(y="2")]
    write(tmp_path, [ROW, *bad, ROW])
    strict = contract()
    with pytest.raises(ConfigError, match=r"data row \d, column 'age'"):
        read(strict, tmp_path, permission(strict), KEYS)
    lenient = contract(invalid_rows="quarantine")
    batch = read(lenient, tmp_path, permission(lenient), KEYS)
    assert batch.receipt.rows == Rows(6, 2, 4)
    assert batch.features.tolist() == [[40.0], [40.0]]
    found = inspect(lenient, tmp_path, NOON)
    place = str(tmp_path / "records.csv")
    assert sorted(found.quarantined, key=lambda item: item.row) == [
        Quarantined(place, 2, "age", "is not an integer"),
        Quarantined(place, 3, "age", "is outside the declared range 0.0 to 120.0"),
        Quarantined(place, 4, "age", "is empty"),
        Quarantined(place, 5, "y", "is not one of the declared values"),
    ]


def test_rows_with_free_text_are_set_aside_and_not_shown(tmp_path: Path) -> None:
    write(tmp_path, [ROW, changed(note="rang from CANARY-77"), ROW])
    made = contract()
    batch = read(made, tmp_path, permission(made), KEYS)
    assert batch.receipt.rows == Rows(3, 2, 1)
    found = inspect(made, tmp_path, NOON)
    assert [(item.row, item.column, item.problem) for item in found.quarantined] == [
        (2, "note", "holds free text")
    ]
    assert "CANARY" not in repr(found)


def test_only_rows_that_the_policy_permits_are_used(tmp_path: Path) -> None:
    rows = [ROW, changed(consent="false", age="41"), changed(consent="", age="42"), ROW]
    write(tmp_path, rows)
    made = contract()
    batch = read(made, tmp_path, permission(made, CONSENTED), KEYS)
    assert batch.features.tolist() == [[40.0], [40.0]]
    assert batch.receipt.plan != read(made, tmp_path, permission(made), KEYS).receipt.plan


def test_row_rules_are_pushed_down_into_a_parquet_scan(tmp_path: Path) -> None:
    table = pa.table(
        {
            "name": ["Ada"] * 4,
            "mrn": ["mrn-00421"] * 4,
            "zip": ["75001"] * 4,
            "note": pa.array([None] * 4, pa.string()),
            "consent": [True, False, None, True],
            "age": [40, 41, 42, 43],
            "y": [0, 1, 0, 1],
        }
    )
    parquet.write_table(table, tmp_path / "records.parquet")
    made = contract("parquet")
    plan = Plan.compile(made, CONSENTED)
    assert plan.never_decoded == ("name",)
    assert "consent" not in plan.projection
    batch = read(made, tmp_path, permission(made, CONSENTED), KEYS)
    assert batch.features.tolist() == [[40.0], [43.0]]


def test_a_residual_hit_sets_the_batch_aside_and_stops_the_reading(tmp_path: Path) -> None:
    leaky = {
        **COLUMNS,
        "zip": {
            "logicalType": "string",
            "classification": "quasi-identifier",
            "transform": {"method": "prefix", "length": 20},
        },
    }
    made = contract(columns=leaky)
    write(tmp_path, [changed(zip="x" * 30)] * 3)
    assert len(read(made, tmp_path, permission(made), KEYS)) == 3
    write(tmp_path, [changed(zip="x" * 30), changed(zip="ada@example.org and more"), ROW])
    write(tmp_path, [changed(zip="x" * 30)], "records2.csv")
    with pytest.raises(ConfigError, match="no more than 20 characters"):
        read(made, tmp_path, permission(made), KEYS)
    write(tmp_path, [changed(zip="x" * 30), changed(zip="ada@example.org and more")])
    reading = Reading(made, tmp_path, permission(made), KEYS)
    (kept,) = list(reading)
    assert len(kept) == 1
    assert reading.residual
    assert reading.rows() == Rows(3, 1, 2)
    with pytest.raises(ConfigError, match=r"data row 2, column 'zip'.*still looks like") as caught:
        read(made, tmp_path, permission(made), KEYS)
    assert "ada@" not in str(caught.value)
    assert caught.value.code == "connect.residual"


def test_a_planted_canary_is_found_in_the_result(tmp_path: Path) -> None:
    columns = {
        **COLUMNS,
        "zip": {
            "logicalType": "string",
            "classification": "quasi-identifier",
            "transform": {"method": "prefix", "length": 12},
        },
    }
    made = contract(columns=columns, canaries=["Zyxw-Canary"])
    write(tmp_path, [changed(zip="an ordinary place"), changed(zip="Zyxw-Canary Street")])
    with pytest.raises(ConfigError, match="data row 2, column 'zip'"):
        read(made, tmp_path, permission(made), KEYS)


def test_receipts_form_a_chain(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path, [ROW] * (index + 1), f"records{index}.csv")
    made = contract()
    batch = read(made, tmp_path, permission(made), KEYS)
    assert [receipt.number for receipt in batch.receipts] == [1, 2, 3]
    assert [receipt.rows.out for receipt in batch.receipts] == [1, 2, 3]
    links = [receipt.previous for receipt in batch.receipts]
    assert links == [FIRST, *(receipt.digest for receipt in batch.receipts[:-1])]
    assert batch.receipt.number == 0
    assert batch.receipt.previous == batch.receipts[-1].digest
    assert batch.receipt.rows == Rows(6, 6, 0)
    cells = {column.name: column.cells for column in batch.receipt.columns}
    assert cells["name"] == 0
    assert cells["age"] == 6
    assert batch.receipt.source == batch.receipts[0].source


def test_an_anonymous_data_set_or_none(tmp_path: Path) -> None:
    rows = [ROW, ROW, changed(zip="10001"), ROW]
    write(tmp_path, rows)
    refusing = contract(anonymity={"k": 2})
    with pytest.raises(ConfigError, match="1 combinations of zip violate k = 2"):
        read(refusing, tmp_path, permission(refusing), KEYS)
    suppressing = contract(anonymity={"k": 2, "violation": "suppress"})
    batch = read(suppressing, tmp_path, permission(suppressing), KEYS)
    assert batch.receipt.rows == Rows(4, 3, 1)
    assert batch.extra.column("zip").to_pylist() == ["750"] * 3
    assert np.all(batch.labels == 1)


def test_a_permission_is_for_one_contract_as_it_stands(tmp_path: Path) -> None:
    write(tmp_path, [ROW])
    made, other = contract(), contract(invalid_rows="quarantine")
    with pytest.raises(LocalProtocolError, match="not for contract 'small'"):
        read(other, tmp_path, permission(made), KEYS)


def test_a_draft_is_not_used(tmp_path: Path) -> None:
    write(tmp_path, [ROW])
    made = contract(status="draft")
    with pytest.raises(ConfigError, match="has the status 'draft'"):
        read(made, tmp_path, permission(made), KEYS)


def test_keys_depend_on_purpose_and_period(tmp_path: Path) -> None:
    columns = {
        **COLUMNS,
        "mrn": {
            "logicalType": "string",
            "classification": "identifier",
            "transform": {"method": "token", "period": "year"},
        },
    }
    made = contract(columns=columns)
    write(tmp_path, [ROW])
    year = 366 * 24 * 3600 * 1000
    granted = permission(made)
    readings = [
        read(made, tmp_path, granted, KEYS),
        read(made, tmp_path, permission(made, purpose="billing"), KEYS),
        read(made, tmp_path, granted, KEYS, granted.now + year),  # type: ignore[arg-type]
        read(made, tmp_path, granted, KEYS, granted.now + 1000),  # type: ignore[arg-type]
    ]
    tokens = [batch.extra.column("mrn").to_pylist()[0] for batch in readings]
    assert len(set(tokens)) == 3
    assert tokens[0] == tokens[3]
    with pytest.raises(ConfigError, match="column 'mrn' needs a key"):
        read(made, tmp_path, granted)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows_that_the_policy_leaves_out_are_not_counted(tmp_path: Path, form: str) -> None:
    rows = [ROW, changed(consent="false"), changed(age="-1"), changed(consent="")]
    write(tmp_path, rows)
    if form == "parquet":
        kinds = {"consent": pa.bool_(), "age": pa.int64(), "y": pa.int64()}
        options = csv.ConvertOptions(
            column_types={name: kinds.get(name, pa.string()) for name in COLUMNS}
        )
        content = csv.read_csv(tmp_path / "records.csv", convert_options=options)
        parquet.write_table(content, tmp_path / "records.parquet")
    made = contract(form, invalid_rows="quarantine")
    reading = Reading(made, tmp_path, permission(made, CONSENTED), KEYS)
    batch = reading.collect()
    assert batch.receipt.rows == Rows(2, 1, 1)
    assert len(reading.quarantined) == 1


def test_a_reading_is_one_pass_and_whole_only_at_its_end(tmp_path: Path) -> None:
    for name in ("records1.csv", "records2.csv"):
        write(tmp_path, [ROW], name)
    made = contract()
    reading = Reading(made, tmp_path, permission(made), KEYS)
    batches = iter(reading)
    next(batches)
    with pytest.raises(LocalProtocolError, match="not read to its end"):
        reading.whole()
    assert len(list(batches)) == 1
    assert reading.whole().rows == Rows(2, 2, 0)
    with pytest.raises(LocalProtocolError, match="a reading is one pass"):
        list(reading)
    assert reading.rows() == Rows(2, 2, 0)


@pytest.mark.parametrize("change", ["another", "fewer", "more"])
def test_data_that_change_between_the_passes_are_not_anonymous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    write(tmp_path, [ROW] * 3)
    write(tmp_path, [ROW] * 2, "records2.csv")
    made = contract(anonymity={"k": 2})
    counted = Gate.require

    def require(gate: Gate, place: str) -> pa.Array:
        found = counted(gate, place)
        match change:
            case "another":
                write(tmp_path, [changed(zip="10001"), ROW, ROW])
            case "fewer":
                (tmp_path / "records2.csv").unlink()
            case _:
                write(tmp_path, [changed(zip="10001")], "records3.csv")
        return found

    monkeypatch.setattr(Gate, "require", require)
    with pytest.raises(ConfigError, match="changed while they were read") as caught:
        read(made, tmp_path, permission(made), KEYS)
    assert caught.value.code == "connect.changed"


def test_a_hit_is_reported_when_the_list_of_rows_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Reading._list.__globals__, "MAX_LISTED", 1)
    columns = {**COLUMNS, "zip": {**COLUMNS["zip"], "transform": {"method": "prefix", "length": 9}}}
    made = contract(columns=columns, invalid_rows="quarantine", canaries=["abcdef-21"])
    write(tmp_path, [changed(zip="x" * 10, age="-1"), changed(zip="abcdef-21-x")])
    with pytest.raises(ConfigError, match="a batch still looks like what it must not hold") as hit:
        read(made, tmp_path, permission(made), KEYS)
    assert hit.value.code == "connect.residual"


def test_a_date_that_cannot_be_compared_stops_the_reading(tmp_path: Path) -> None:
    columns = {**COLUMNS, "consent": {**COLUMNS["consent"], "logicalType": "date"}}
    made = contract("parquet", columns)
    days = pa.array([0, -(2**31)], pa.int32()).cast(pa.date32())
    content = pa.table(
        {
            "name": ["Ada"] * 2,
            "mrn": ["mrn-00421"] * 2,
            "zip": ["75001"] * 2,
            "note": pa.array([None] * 2, pa.string()),
            "consent": days,
            "age": [40, 41],
            "y": [0, 1],
        }
    )
    parquet.write_table(content, tmp_path / "records.parquet")
    until = Literal(datetime(2026, 1, 1, tzinfo=UTC))
    rule = RowFilter((Apply(">", (Cell("consent", "datetime"), until)),), ())
    # Its microseconds would wrap around to a day far in the future or past.
    with pytest.raises(ConfigError, match="beyond what can be compared") as caught:
        read(made, tmp_path, permission(made, rule), KEYS)
    assert "2147483648" not in everything_said(caught.value)


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_a_consent_of_no_characters_is_none(tmp_path: Path) -> None:
    columns = {**COLUMNS, "consent": {**COLUMNS["consent"], "logicalType": "string"}}
    consents = ["yes", "", "no", None]
    given = Cell("consent", "String")
    refused = Apply("!=", (given, Literal("no")))
    either = Apply("||", (Apply("<", (Cell("age", "Long"), Literal(42))), refused))
    for rule, ages in ((refused, [40.0]), (either, [40.0, 41.0])):
        for form in ("csv", "parquet"):
            made = contract(form, columns)
            content = pa.table(
                {
                    "name": ["Ada"] * 4,
                    "mrn": ["mrn-00421"] * 4,
                    "zip": ["75001"] * 4,
                    "note": pa.array([None] * 4, pa.string()),
                    "consent": consents,
                    "age": [40, 41, 42, 43],
                    "y": [0, 1, 0, 1],
                }
            )
            parquet.write_table(content, tmp_path / "records.parquet")
            csv.write_csv(content, tmp_path / "records.csv")
            batch = read(made, tmp_path, permission(made, RowFilter((rule,), ())), KEYS)
            assert batch.features[:, 0].tolist() == ages


def test_a_data_set_without_records_says_why(tmp_path: Path) -> None:
    made = contract(invalid_rows="quarantine")
    for row, rule, remedy in (
        (changed(age="-1"), None, "tacit contract quarantine"),
        (
            changed(consent="false"),
            CONSENTED,
            "'server' in the contract, or the policy's row rules",
        ),
    ):
        write(tmp_path, [row] * 2)
        with pytest.raises(ConfigError, match="no records that may be used") as caught:
            read(made, tmp_path, permission(made, rule), KEYS)
        assert caught.value.code == "connect.empty"
        assert remedy in caught.value.remedy


def test_a_dropped_column_of_a_database_is_not_looked_at(tmp_path: Path) -> None:
    """SQLite has no types: only looking at its cells would tell that this one's are mixed."""
    with sqlite3.connect(tmp_path / "ward.db") as db:
        db.execute("CREATE TABLE t (name, age INTEGER, y INTEGER)")
        db.executemany(
            "INSERT INTO t VALUES (?, ?, ?)", [("Ada", 40, 1), (7, 41, 0), (b"x", 42, 1)]
        )
    db.close()
    columns = {key: COLUMNS[key] for key in ("name", "age", "y")}
    server = {"type": "sqlite", "path": "ward.db", "table": "t"}
    made = contract(columns=columns, server=server)
    batch = read(made, tmp_path, permission(made), KEYS)
    assert batch.features.tolist() == [[40.0], [41.0], [42.0]]
