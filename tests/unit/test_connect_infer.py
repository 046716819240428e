from __future__ import annotations

import csv
import sqlite3
import tomllib
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tacit.config import parse_table
from tacit.connect.infer import infer
from tacit.errors import ConfigError
from tacit.policy import Contract
from tacit.policy.server import Server

ROWS = 40


def server(**keys: Any) -> Server:
    return parse_table(keys, Server, "SOURCE")


CSV = server(type="local", path="data.csv", format="csv")
PARQUET = server(type="local", path="data.parquet", format="parquet")


def from_csv(folder: Path, columns: dict[str, Sequence[object]], rows: int = 10_000) -> str:
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return infer(CSV, folder, name="visits", rows=rows)


def column_of(text: str, name: str) -> dict[str, Any]:
    (found,) = [entry for entry in tomllib.loads(text)["properties"] if entry["name"] == name]
    return dict(found)


def drafted(folder: Path, name: str, cells: Sequence[object]) -> dict[str, Any]:
    return column_of(from_csv(folder, {name: cells, "other": [1] * len(cells)}), name)


NOTE = "The patient came in walking and said that it had started on the evening before {}."


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("lactate", [f"{i / 7:.3f}" for i in range(ROWS)], ("number", "feature")),
        ("beds", [i % 3 for i in range(ROWS)], ("integer", "feature")),
        ("row", list(range(ROWS)), ("integer", "identifier")),
        ("urgent", ["true", "false"] * 20, ("boolean", "feature")),
        ("seen", ["2026-11-26"] * ROWS, ("date", "quasi-identifier", "date")),
        ("seen", ["2026-11-26 10:00:00"] * ROWS, ("timestamp", "quasi-identifier", "date")),
        ("colour", ["red", "green"] * 20, ("string", "quasi-identifier")),
        ("key", [f"k{i}x" for i in range(ROWS)], ("string", "identifier")),
        ("said", [NOTE.format(i) for i in range(ROWS)], ("string", "free-text")),
        ("note", ["ok"] * ROWS, ("string", "free-text")),
        ("patient_name", ["A"] * ROWS, ("string", "identifier", "name")),
        ("zip", ["01234"] * ROWS, ("string", "quasi-identifier", "geography")),
        ("ssn", ["123456789"] * ROWS, ("string", "identifier", "social-security-number")),
        ("age", [40 + i % 3 for i in range(ROWS)], ("integer", "quasi-identifier", "date")),
        ("contact", [f"a{i}@example.org" for i in range(ROWS)], ("string", "identifier", "email")),
        ("start", ["26.11.2026"] * ROWS, ("string", "quasi-identifier", "date")),
        ("hba1c", [6 + i % 3 for i in range(ROWS)], ("integer", "feature", None, "health")),
        ("religion", ["x", "y"] * 20, ("string", "sensitive", None, "religious-or-philosophical-beliefs")),
        ("mixed", ["1", "x"] * 20, ("string", "quasi-identifier")),
        ("void", [""] * ROWS, ("string", "quasi-identifier")),
    ],
)  # fmt: skip
def test_what_names_and_cells_suggest(
    name: str, cells: Sequence[object], expected: tuple[str | None, ...], tmp_path: Path
) -> None:
    found = drafted(tmp_path, name, cells)
    shown = (
        *(found["logicalType"], found["classification"]),
        *(found.get("hipaa"), found.get("gdpr")),
    )
    assert shown == (*expected, *[None] * (4 - len(expected)))
    assert found["transform"] == {"method": "drop"}


STORED: dict[str, tuple[pa.Array, str]] = {
    "a": (pa.array(["x", "y"]), "string"),
    "b": (pa.array([1, 2], pa.int16()), "integer"),
    "c": (pa.array([1.5, 2.5]), "number"),
    "d": (pa.array([Decimal("1.5"), None]), "number"),
    "e": (pa.array([True, False]), "boolean"),
    "f": (pa.array([date(2026, 1, 1)] * 2), "date"),
    "g": (pa.array([datetime(2026, 1, 1)] * 2), "timestamp"),
    "h": (pa.array([time(10)] * 2), "time"),
    "i": (pa.array([[1], [2]]), "array"),
    "j": (pa.array([{"x": 1}] * 2), "object"),
    "k": (pa.array([b"x", b"y"]), "object"),
    "l": (pa.array(["x", "y"]).dictionary_encode(), "string"),
}


def test_stored_types_count_as_they_are(tmp_path: Path) -> None:
    table = pa.table({name: cells for name, (cells, _) in STORED.items()})
    parquet.write_table(table, tmp_path / "data.parquet")
    text = infer(PARQUET, tmp_path, name="visits")
    types = {entry["name"]: entry["logicalType"] for entry in tomllib.loads(text)["properties"]}
    assert types == {name: kind for name, (_, kind) in STORED.items()}
    optional = {e["name"] for e in tomllib.loads(text)["properties"] if not e.get("required", True)}
    assert optional == {"d"}


def test_a_table_of_a_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ward.db") as database:
        database.execute("CREATE TABLE visits (patient_id TEXT, sbp INTEGER, outcome TEXT)")
        rows = [(f"P{i}", 100 + i % 9, "yes" if i % 3 else "no") for i in range(ROWS)]
        database.executemany("INSERT INTO visits VALUES (?, ?, ?)", rows)
    text = infer(server(type="sqlite", path="ward.db", table="visits"), tmp_path, name="visits")
    content = tomllib.loads(text)
    assert content["server"] == {"type": "sqlite", "path": "ward.db", "table": "visits"}
    assert [entry["logicalType"] for entry in content["properties"]] == [
        "string",
        "integer",
        "string",
    ]
    assert column_of(text, "patient_id")["hipaa"] == "other"


def test_the_server_is_written_as_it_was_given_but_for_no_secret(tmp_path: Path) -> None:
    given = server(type="local", path="data.csv", format="csv", delimiter=";")
    (tmp_path / "data.csv").write_text("a;b\n1;2\n")
    content = tomllib.loads(infer(given, tmp_path, name="visits"))
    assert content["server"] == given.model_dump(by_alias=True, exclude_unset=True)


# --- what the draft never holds ---------------------------------------------------------------------

SECRET = "Zz9Quux{}Xyzzy"


@pytest.mark.parametrize("name", ["name", "zip", "colour", "note", "diagnosis", "visit_date"])
@pytest.mark.parametrize("kind", ["text", "short", "number", "date"])
def test_no_cell_is_quoted(name: str, kind: str, tmp_path: Path) -> None:
    values: dict[str, list[str]] = {
        "text": [SECRET.format(i) for i in range(ROWS)],
        "short": ["Zz9Quux", "Xyzzy"] * 20,
        "number": [f"73{i}.9173" for i in range(ROWS)],
        "date": [f"1873-05-{1 + i % 28:02}" for i in range(ROWS)],
    }
    text = from_csv(tmp_path, {name: values[kind], "other": values[kind]})
    assert not [cell for cell in values[kind] if cell in text]
    assert "Quux" not in text
    assert "1873" not in text


CELLS = st.text(
    alphabet="abcdefghijklmnopqrstuvwxyz0123456789@.- äß", min_size=6, max_size=20
).filter(lambda text: text.strip() == text)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cells=st.lists(CELLS, min_size=1, max_size=30))
def test_no_cell_is_quoted_whatever_it_holds(cells: list[str], tmp_path: Path) -> None:
    marked = [f"qx{cell}xq" for cell in cells]
    text = from_csv(tmp_path, {"colour": marked, "contact": marked, "other": marked})
    assert "qx" not in text
    tomllib.loads(text)


def test_counts_are_rounded_up(tmp_path: Path) -> None:
    cells = [f"kind {i % 37}" for i in range(200)]
    text = from_csv(tmp_path, {"colour": cells, "other": cells})
    assert text.count("at most 100 different values") == 2
    assert "37" not in text


def test_only_a_sample_is_looked_at(tmp_path: Path) -> None:
    cells = ["1"] * 10 + ["not a number"]
    columns = {"x": cells, "y": cells}
    assert column_of(from_csv(tmp_path, columns, rows=10), "x")["logicalType"] == "integer"
    assert column_of(from_csv(tmp_path, columns, rows=11), "x")["logicalType"] == "string"


# --- what a person does with it ---------------------------------------------------------------------


def test_the_draft_asks_for_a_label_and_is_valid_once_it_has_one(tmp_path: Path) -> None:
    text = from_csv(
        tmp_path, {"urgent": ["true", "false"] * 20, "outcome": ["yes", "no"] * 20, "x": [1] * 40}
    )
    path = tmp_path / "contract.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="exactly one column has class 'label'"):
        Contract.load(path)
    feature, label, rest = text.split("[[properties]]")[1:]
    drop = 'transform = { method = "drop" }'
    keep = 'transform = { method = "keep" }'
    assert "if it is the label" in label
    assert "if it is the label" not in rest  # it has one value
    label = label.replace('"quasi-identifier"', '"label"').replace(
        drop, f'{keep}\nvalues = ["no", "yes"]'
    )
    parts = [text.split("[[properties]]")[0], feature.replace(drop, keep), label, rest]
    path.write_text("[[properties]]".join(parts))
    made = Contract.load(path)
    assert (made.status, made.schema().label) == ("draft", "outcome")


ODD = [
    'quo"te',
    "back\\slash",
    "tab\there",
    "üñí\U0001f600",
    "del\x7f",
    "line\nbreak",
    "# no comment",
]


def test_odd_names_stay_names(tmp_path: Path) -> None:
    text = from_csv(tmp_path, {name: ["x", "y"] for name in ODD})
    assert [entry["name"] for entry in tomllib.loads(text)["properties"]] == ODD


@pytest.mark.parametrize("cell", ["17", "-3.5", "2026-11-26", "26.11.2026", "ada@example.org", ""])
def test_a_first_line_of_cells_is_no_header(cell: str, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(f"Smith,{cell}\nJones,1\n")
    with pytest.raises(ConfigError, match="look like cells") as caught:
        infer(CSV, tmp_path, name="visits")
    assert "Smith" not in str(caught.value)


def test_one_column_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a;b\n1;2\n")
    with pytest.raises(ConfigError, match=r"fewer than two columns.*delimiter"):
        infer(CSV, tmp_path, name="visits")


def test_an_empty_source_has_a_draft(tmp_path: Path) -> None:
    text = from_csv(tmp_path, {"a": [], "b": []})
    assert [entry["classification"] for entry in tomllib.loads(text)["properties"]] == [
        "quasi-identifier"
    ] * 2


def test_what_is_not_utf_8_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"a,b\nx,\xff\xfe\nx,y\n")
    assert column_of(infer(CSV, tmp_path, name="visits"), "b")["logicalType"] == "string"
