"""``tacit contract``: from a database to a draft, a finished contract, its coverage and its export."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tacit.connect import KeyFolder
from tacit.contracts import server_of
from tacit.testing.commands import edit, tacit

CONTRACT = """\
apiVersion = "v3.1.0"
name = "visits"
entity = "patient_id"
region = "eu"
lawful_basis = "public-task"
retention = 2099-12-31

[server]
type = "local"
path = "visits.csv"
format = "csv"

[[properties]]
name = "patient_id"
logicalType = "string"
classification = "identifier"
hipaa = "other"
transform = { method = "token" }

[[properties]]
name = "city"
logicalType = "string"
classification = "quasi-identifier"
hipaa = "geography"

[[properties]]
name = "age"
logicalType = "integer"
classification = "quasi-identifier"
train = true
transform = { method = "age", width = 5 }

[[properties]]
name = "outcome"
logicalType = "string"
classification = "label"
gdpr = "health"
transform = { method = "keep" }
values = ["no", "yes"]
"""
EXPOSED = (
    'hipaa = "geography"\n',
    'hipaa = "geography"\ntransform = { method = "prefix", length = 2 }\n',
)
SITE = Path("sites/north")


@pytest.fixture
def base(tmp_path, monkeypatch):
    site = tmp_path / SITE
    (site / "contracts").mkdir(parents=True)
    (site / "site.toml").write_text("")
    (site / "contracts" / "visits.toml").write_text(CONTRACT)
    with sqlite3.connect(tmp_path / "ward.db") as database:
        database.execute(
            "CREATE TABLE visits (patient_id TEXT, city TEXT, sbp INTEGER, outcome TEXT)"
        )
        rows = [(f"P{i}", "Gotham", 100 + i % 9, "yes" if i % 3 else "no") for i in range(40)]
        database.executemany("INSERT INTO visits VALUES (?, ?, ?, ?)", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def words(out):
    """The text without the lines of tables."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", out).split())


def test_check_shows_what_every_column_is_and_its_fate(base, capsys):
    for arguments in (("contract",), ("contract", "check"), ("contract", "check", SITE)):
        code, out, _ = tacit(capsys, *arguments)
        assert code == 0
        shown = words(out)
        assert "B geography below the state removed city: dropped" in shown
        assert "C dates, and ages over 89 safe harbor age?: age in groups of 5 years" in shown
        assert "R any other unique code pseudonym patient_id: replaced by a keyed token" in shown
        assert "data concerning health in use outcome: kept as one of no, yes" in shown
        assert "warning: trained on without [anonymity], quasi-identifiers: age" in shown
        assert "no identifier is exposed or suspected; 15 of 18 HIPAA identifiers" in shown
        assert "telephone" not in shown
        table_lines = [line for line in out.splitlines() if line.startswith(("│", "┃"))]
        assert max(map(len, table_lines)) <= 80
    _, out, _ = tacit(capsys, "contract", "check", "--all")
    assert "D telephone numbers absent -" in words(out)
    assert "political opinions absent -" in words(out)


def test_check_fails_if_an_identifier_is_exposed(base, capsys):
    file = SITE / "contracts" / "visits.toml"
    edit(file, *EXPOSED)
    code, out, _ = tacit(capsys, "contract", "check", file)
    assert code == 1
    assert words(out).endswith("exposed or suspected: city")
    code, out, _ = tacit(capsys, "contract", "check", file, "--json")
    record = json.loads(out)
    assert (code, record["passed"]) == (1, False)
    (one,) = record["contracts"]
    assert (one["file"], one["contract"], len(one["lines"])) == (str(file), "visits", 27)
    assert one["warnings"] == ["trained on without [anonymity], quasi-identifiers: age"]
    edit(file, 'name = "visits"\n', 'name = "visits"\npublic = true\n')
    code, out, _ = tacit(capsys, "contract", "check", file)
    assert (code, "public: anyone may see" in words(out)) == (0, True)
    assert "not allowed" not in out


def test_check_fails_if_an_identifier_is_only_suspected(base, capsys):
    file = SITE / "contracts" / "visits.toml"
    edit(file, 'gdpr = "health"\n', "")
    assert tacit(capsys, "contract", "check")[0] == 0  # the name tells nothing
    edit(file, 'name = "outcome"', 'name = "diagnosis"')
    code, out, _ = tacit(capsys, "contract", "check")
    assert code == 1
    assert 'diagnosis: declare gdpr = "health" or "none"' in words(out)
    edit(file, 'name = "diagnosis"', 'name = "diagnosis"\ngdpr = "none"')
    assert tacit(capsys, "contract", "check")[0] == 0


def test_check_names_what_is_missing(base, capsys):
    (SITE / "contracts" / "visits.toml").unlink()
    code, _, err = tacit(capsys, "contract", "check", SITE)
    assert (code, "contract.none" in err, "tacit contract infer" in err) == (1, True, True)
    code, _, err = tacit(capsys, "contract", "check", "nothing.toml")
    assert (code, "cannot read 'nothing.toml'" in err) == (1, True)


def test_from_a_database_to_a_checked_contract(base, capsys):
    code, out, _ = tacit(
        *(capsys, "contract", "infer", "sqlite:ward.db", "--table", "visits"),
        *("--site", SITE, "--out", "draft.toml"),
    )
    assert code == 0
    assert "tacit contract check draft.toml" in out
    text = Path("draft.toml").read_text()
    assert 'name = "visits"\n' in text
    assert 'path = "../../ward.db"' in text
    assert "Gotham" not in text
    code, _, err = tacit(capsys, "contract", "check", "draft.toml")
    assert (code, "exactly one column has class 'label'" in err) == (1, True)
    properties = text.split("[[properties]]")
    drop, keep = 'transform = { method = "drop" }', 'transform = { method = "keep" }'
    properties[3] = properties[3].replace(drop, keep) + (
        'logicalTypeOptions = { minimum = 0, maximum = 300 }\nbounds_source = "device"\n'
    )
    properties[4] = properties[4].replace('"quasi-identifier"', '"label"').replace(drop, keep)
    properties[4] += 'values = ["no", "yes"]\n'
    Path("draft.toml").write_text("[[properties]]".join(properties))
    code, out, _ = tacit(capsys, "contract", "check", "draft.toml")
    assert (code, "status is 'draft'" in words(out)) == (0, True)


def test_infer_prints_the_draft_and_never_overwrites(base, capsys):
    (base / "a.csv").write_text("x,y\n1,2\n")
    code, out, _ = tacit(capsys, "contract", "infer", "a.csv")
    assert (code, out.startswith("# A draft"), 'name = "a"\n' in out) == (0, True, True)
    _, out, _ = tacit(capsys, "contract", "infer", "a.csv", "--name", "b", "--json")
    assert json.loads(out)["name"] == "b"
    assert 'name = "b"\n' in json.loads(out)["contract"]
    (base / "there.toml").write_text("mine")
    code, _, err = tacit(capsys, "contract", "infer", "a.csv", "--out", "there.toml")
    assert (code, "exists already" in err) == (1, True)
    assert (base / "there.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "more", "content", "name"),
    [
        ("data/Ward 1.csv.gz", {}, {"type": "local", "path": "../data/Ward 1.csv.gz", "format": "csv"}, "ward-1"),
        ("data/*.parquet", {}, {"type": "local", "path": "../data/*.parquet", "format": "parquet"}, "data"),
        ("data.txt", {"form": "csv"}, {"type": "local", "path": "../data.txt", "format": "csv"}, "data"),
        ("s3://b/a.arrow", {}, {"type": "s3", "location": "s3://b/a.arrow", "format": "arrow"}, "a"),
        ("gs://b/a.pq", {}, {"type": "gcs", "location": "gs://b/a.pq", "format": "parquet"}, "a"),
        ("abfs://b/a.csv", {}, {"type": "azure", "location": "abfs://b/a.csv", "format": "csv"}, "a"),
        ("duckdb:w.db", {"table": "Visits"}, {"type": "duckdb", "path": "../w.db", "table": "Visits"}, "visits"),
        (
            "postgresql://db:5433/ward",
            {"table": "visits", "schema": "icu", "secret": "ward"},
            {
                "type": "postgres",
                "host": "db",
                "port": 5433,
                "database": "ward",
                "table": "visits",
                "schema": "icu",
                "secret": "ward",
            },
            "visits",
        ),
    ],
)  # fmt: skip
def test_what_a_source_on_the_command_line_means(base, source, more, content, name):
    server, found = server_of(source, Path("north"), **more)
    assert server.model_dump(by_alias=True, exclude_unset=True) == content
    assert found == name


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["data.xyz"], "add --format csv, parquet or arrow"),
        (["sqlite:ward.db"], "add --table TABLE"),
        (["sqlite:nothing.db", "--table", "visits"], "nothing.db"),
        (["postgres://db/ward", "--table", "visits"], "add --secret NAME"),
        (["postgres://db:hush/ward", "--table", "visits"], "SOURCE is no file"),
        (["postgres://me:hush@db/ward", "--table", "visits"], "a login goes into --secret"),
        (["https://me:hush@db/data.csv"], "use s3://"),
        (["s3://bucket/a.csv?key=hush"], "add --format"),
        (["s3://bucket/a.csv?key=hush", "--format", "csv"], "put the login into 'secret'"),
        (["postgres://db/ward", "--table", "visits", "--secret", "ward"], "keys/ward.toml"),
    ],
)
def test_infer_says_what_it_needs(base, capsys, arguments, text):
    code, out, err = tacit(capsys, "contract", "infer", *arguments)
    assert (code, out) == (1, "")
    assert text in err
    assert "hush" not in err


def test_export_is_the_standard_s_yaml(base, capsys):
    file = SITE / "contracts" / "visits.toml"
    code, out, _ = tacit(capsys, "contract", "export", "--odcs", file)
    document = yaml.safe_load(out)
    assert (code, document["kind"], document["id"]) == (0, "DataContract", "visits")
    _, out, _ = tacit(capsys, "contract", "export", "--odcs", file, "--json")
    assert json.loads(out) == document
    code, out, _ = tacit(capsys, "contract", "export", "--odcs", file, "--out", "visits.yaml")
    assert (code, out) == (0, "wrote visits.yaml\n")
    assert yaml.safe_load(Path("visits.yaml").read_text()) == document
    code, _, err = tacit(capsys, "contract", "export", "--odcs", file, "--out", "visits.yaml")
    assert (code, "exists already" in err) == (1, True)
    assert tacit(capsys, "contract", "export", file)[0] == 64


def test_keys_are_listed_by_name_and_erased_on_demand(base, capsys):
    code, out, _ = tacit(capsys, "contract", "keys", SITE)
    assert (code, "has no token keys" in out) == (0, True)
    folder = KeyFolder(SITE / "keys" / "data")
    secret = folder.key("cancer research", "2026-Q4")
    folder.key("cancer research", "always")
    _, out, _ = tacit(capsys, "contract", "keys", SITE)
    assert "cancer-research 2026-Q4" in words(out)
    _, out, _ = tacit(capsys, "contract", "keys", SITE, "--json")
    assert json.loads(out)["keys"] == list(folder.names())
    assert secret.hex() not in out
    erase = ("contract", "erase", SITE, "--purpose", "cancer research")
    code, _, err = tacit(capsys, *erase, "--period", "2026-Q4")
    assert (code, "nothing was erased" in err, "add --yes" in err) == (1, True, True)
    assert len(folder.names()) == 2
    code, out, _ = tacit(capsys, *erase, "--period", "2026-Q4", "--yes")
    assert (code, "erased the key" in out) == (0, True)
    (left,) = folder.names()
    assert left.endswith("@always.key")
    code, _, err = tacit(capsys, *erase, "--period", "2026-Q4", "--yes")
    assert (code, "there is no key" in err) == (1, True)
    code, out, _ = tacit(capsys, *erase, "--yes", "--json")
    assert (code, json.loads(out)["period"], folder.names()) == (0, "always", ())
    code, _, err = tacit(capsys, "contract", "keys", base)
    assert (code, "is not a site folder" in err) == (1, True)


def test_quarantine_lists_rows_without_their_values(base, capsys):
    site = base / SITE
    edit(
        site / "contracts" / "visits.toml",
        'name = "visits"\n',
        'name = "visits"\ninvalid_rows = "quarantine"\n',
    )
    rows = ["P1,Gotham,40,no", "P2,Gotham,-7,yes", "P3,Gotham,50,hush", "P4,Gotham,60,yes"]
    (site / "visits.csv").write_text("patient_id,city,age,outcome\n" + "\n".join(rows) + "\n")
    code, out, _ = tacit(capsys, "contract", "quarantine", SITE, "visits")
    assert code == 0
    shown = words(out)
    assert "2 of 4 rows of 'visits' would be used, 2 set aside" in shown
    assert "3 outcome the cell is not one of the declared values" in shown
    assert "hush" not in out
    assert "-7" not in out
    _, out, _ = tacit(capsys, "contract", "quarantine", SITE, "visits", "--json")
    record = json.loads(out)
    assert record["rows"] == {"in": 4, "out": 2, "quarantined": 2}
    assert [(item["row"], item["column"]) for item in record["quarantined"]] == [
        (2, "age"),
        (3, "outcome"),
    ]
    code, _, err = tacit(capsys, "contract", "quarantine", SITE, "nothing")
    assert (code, "its contract files are: visits.toml" in err) == (1, True)
