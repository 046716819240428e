"""One run over four kinds of sources, with consent, row rules and tokens, through the command line."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tacit.cli import main
from tacit.demo.layout import lock_site
from tacit.testing.federation import write_small_federation

CONSENT = """
[[properties]]
name = "consent"
logicalType = "boolean"
classification = "consent"
required = false
"""
ROWS = """
@id("consented")
permit (principal, action == Action::"read", resource) when { resource.consent };
"""


def records(site: Path) -> list[dict[str, str]]:
    with (site / "data" / "records.csv").open() as file:
        return list(csv.DictReader(file))


def change(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    path.write_text(text)


def typed(row: dict[str, str]) -> tuple[str, float, float, str]:
    return row["name"], float(row["size"]), float(row["weight"]), row["answer"]


def into_sqlite(site: Path) -> None:
    with sqlite3.connect(site / "hospital.db") as db:
        db.execute("CREATE TABLE visits (name TEXT, size REAL, weight REAL, answer TEXT)")
        db.executemany("INSERT INTO visits VALUES (?, ?, ?, ?)", map(typed, records(site)))
    db.close()
    server = 'type = "sqlite"\npath = "hospital.db"\ntable = "visits"'
    replace_server(site, server)


def into_parquet_parts(site: Path) -> None:
    rows = [
        dict(zip(("name", "size", "weight", "answer"), typed(r), strict=True))
        for r in records(site)
    ]
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        parquet.write_table(pa.Table.from_pylist(part), site / "data" / f"part{number}.parquet")
    replace_server(site, 'type = "local"\npath = "data/part*.parquet"\nformat = "parquet"')


def into_duckdb(site: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(site / "hospital.duckdb")) as db:
        db.execute("CREATE TABLE visits (name VARCHAR, size DOUBLE, weight DOUBLE, answer VARCHAR)")
        db.executemany("INSERT INTO visits VALUES (?, ?, ?, ?)", list(map(typed, records(site))))
    replace_server(site, 'type = "duckdb"\npath = "hospital.duckdb"\ntable = "visits"')


def with_consent(site: Path) -> int:
    """Every third person has said yes; the next no; the next nothing."""
    rows = records(site)
    words = ("true", "false", "")
    lines = [",".join([*rows[0], "consent"])]
    lines += [",".join([*row.values(), words[i % 3]]) for i, row in enumerate(rows)]
    (site / "data" / "records.csv").write_text("\n".join(lines) + "\n")
    contract = site / "contracts" / "small.toml"
    contract.write_text(contract.read_text() + CONSENT)
    rules = site / "policies" / "rows.cedar"
    rules.write_text(ROWS)
    return len(range(0, len(rows), 3))


def replace_server(site: Path, server: str) -> None:
    path = site / "contracts" / "small.toml"
    text = path.read_text()
    begin = text.index("[server]\n") + len("[server]\n")
    end = text.index("[[properties]]")
    path.write_text(f"{text[:begin]}{server}\n\n{text[end:]}")


@pytest.fixture
def base(tmp_path, monkeypatch):
    folder = tmp_path / "small"
    write_small_federation(folder)
    monkeypatch.chdir(folder)
    return folder


def test_four_kinds_of_sources_train_together(base, capsys):
    sites = {path.name: path for path in sorted((base / "sites").iterdir())}
    before = {name: len(records(site)) for name, site in sites.items()}
    into_sqlite(sites["north"])
    into_parquet_parts(sites["south"])
    into_duckdb(sites["east"])
    consented = with_consent(sites["west"])
    for site in sites.values():
        lock_site(site)
    assert main(["check", "--json"]) == 0
    rows = {item["site"]: item["rows"] for item in json.loads(capsys.readouterr().out)["sites"]}
    assert rows == {**before, "west": consented}
    assert main(["run", "--out", "runs/a", "--json"]) == 0
    capsys.readouterr()
    assert main(["verify", "runs/a/bundle.zip", "--trust", "runs/a/trust.json", "--json"]) == 0
    capsys.readouterr()
    assert main(["contract", "receipts", "sites/west", "--json"]) == 0
    receipt = json.loads(capsys.readouterr().out)["receipts"][0]["receipt"]
    assert receipt["rows"]["out"] == consented
    details = {name: detail for name, _, _, detail, _, _ in receipt["columns"]}
    assert details["consent"] == "dropped; decoded for row rules only"


def test_without_a_rule_for_rows_consent_is_not_given(base, capsys):
    site = base / "sites" / "west"
    with_consent(site)
    (site / "policies" / "rows.cedar").unlink()
    lock_site(site)
    assert main(["check", "--json"]) == 1
    error = next(
        item["error"]
        for item in json.loads(capsys.readouterr().out)["sites"]
        if item["site"] == "west"
    )
    assert error["error"] == "PolicyDenied"
    assert 'Action::"read"' in error["message"]


def test_data_may_not_be_used_outside_the_allowed_regions(base, capsys):
    site = base / "sites" / "west"
    change(
        site / "contracts" / "small.toml",
        ('apiVersion = "v3.1.0"\n', 'apiVersion = "v3.1.0"\nallowed_regions = ["us"]\n'),
    )
    lock_site(site)
    (site / "data" / "records.csv").unlink()  # What is denied is not even looked for.
    assert main(["run", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)
    assert (error["error"], error["site"]) == ("PolicyDenied", "west")
    assert "tacit:regions" in error["rules"]
