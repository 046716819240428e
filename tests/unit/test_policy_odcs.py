"""The export against the standard: every key and enumeration of its JSON schema that we use."""

from __future__ import annotations

import sys
from datetime import date
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tacit.errors import ConfigError
from tacit.policy.odcs import to_odcs, to_odcs_yaml
from tacit.testing.contracts import FEATURE, LABEL, PERSON, SHIFTED, ZIP, column, contract

# odcs-json-schema-v3.1.0.json (2026-02-23); objects take no further key.
TOP = {
    *("apiVersion", "kind", "id", "name", "version", "status", "description", "servers", "schema"),
    *("slaProperties", "customProperties"),
}
TOP_REQUIRED = {"version", "apiVersion", "kind", "id", "status"}
SERVERS: dict[str, tuple[set[str], set[str]]] = {
    "local": ({"path", "format"}, set()),
    "s3": ({"location"}, {"endpointUrl", "format", "delimiter"}),
    "azure": ({"location", "format"}, {"delimiter"}),
    "postgres": ({"host", "port", "database", "schema"}, set()),
    "duckdb": ({"database"}, {"schema"}),
    "custom": (
        set(),
        {"path", "location", "format", "delimiter", "database", "host", "port", "schema"},
    ),
}
ELEMENT = {"name", "logicalType", "physicalName", "physicalType", "customProperties", "description"}
PROPERTY = ELEMENT | {"logicalTypeOptions", "required", "classification", "transformLogic"}
LOGICAL_TYPES = {
    *("string", "date", "timestamp", "time", "number", "integer", "object", "array", "boolean"),
}
OPTIONS = {
    "string": {"pattern"},
    "integer": {"minimum", "maximum"},
    "number": {"minimum", "maximum"},
}
SLA = {"property", "value", "driver", "description"}

SERVER_EXAMPLES: list[dict[str, Any]] = [
    {"type": "local", "path": "a.csv", "format": "csv", "delimiter": ";"},
    {"type": "local", "path": "a.parquet", "format": "parquet"},
    {
        "type": "s3",
        "location": "s3://b/a.csv",
        "format": "csv",
        "endpointUrl": "http://localhost:9000",
        "secret": "hush-login",
    },
    {"type": "gcs", "location": "gs://b/a.parquet", "format": "parquet", "secret": "hush-login"},
    {"type": "azure", "location": "abfs://b/a.arrow", "format": "arrow"},
    {
        "type": "postgres",
        "host": "db",
        "database": "ward",
        "table": "visits",
        "secret": "hush-login",
    },
    {"type": "sqlite", "path": "ward.db", "table": "visits"},
    {"type": "duckdb", "path": "ward.duckdb", "query": "SELECT * FROM visits"},
]
EVERY_TYPE = [column("sensitive", kind, name=f"of-type-{kind}") for kind in sorted(LOGICAL_TYPES)]


def full(server: dict[str, Any] = SERVER_EXAMPLES[0]) -> dict[str, Any]:
    return to_odcs(
        contract(
            {**FEATURE, "unit": "mm", "required": False, "impute": 3.0},
            LABEL,
            PERSON,
            SHIFTED,
            {**ZIP, "name": "zip", "filter": True, "hipaa": "geography"},
            column("sensitive", name="code", logicalTypeOptions={"pattern": "[A-Z]+"}),
            *EVERY_TYPE,
            server=server,
            entity="person",
            description="Visits.",
            retention=date(2030, 12, 31),
            lawful_basis="public-task",
            allowed_regions=["eu"],
            anonymity={"k": 5},
            canaries=["hush-canary"],
        )
    )


def custom(element: dict[str, Any]) -> dict[str, Any]:
    entries = element.get("customProperties", [])
    assert all(set(entry) == {"property", "value"} for entry in entries)
    return {entry["property"]: entry["value"] for entry in entries}


@pytest.mark.parametrize("server", SERVER_EXAMPLES, ids=lambda server: str(server["type"]))
def test_the_document_has_the_form_of_the_standard(server: dict[str, Any]) -> None:
    document = full(server)
    assert TOP_REQUIRED <= set(document) <= TOP
    assert (document["apiVersion"], document["kind"]) == ("v3.1.0", "DataContract")
    (made,) = document["servers"]
    required, optional = SERVERS[made["type"]]
    keys = set(made) - {"server", "type", "customProperties"}
    assert made["server"] == "diagnosis"
    assert required <= keys <= required | optional
    (table,) = document["schema"]
    assert set(table) - {"properties"} <= ELEMENT
    assert table["logicalType"] == "object"
    for entry in table["properties"]:
        assert set(entry) <= PROPERTY
        assert entry["logicalType"] in LOGICAL_TYPES
        assert set(entry.get("logicalTypeOptions", {})) <= OPTIONS.get(entry["logicalType"], set())
        custom(entry)
    assert all(set(entry) <= SLA for entry in document["slaProperties"])
    custom(document)


@pytest.mark.parametrize(
    ("server", "expected", "ours"),
    [
        (
            SERVER_EXAMPLES[0],
            {"type": "local", "path": "a.csv", "format": "csv"},
            {"delimiter": ";"},
        ),
        (
            SERVER_EXAMPLES[5],
            {
                "type": "postgres",
                "host": "db",
                "port": 5432,
                "database": "ward",
                "schema": "public",
            },
            {"table": "visits"},
        ),
        (
            SERVER_EXAMPLES[6],
            {"type": "custom", "path": "ward.db"},
            {"serverType": "sqlite", "table": "visits"},
        ),
        (
            SERVER_EXAMPLES[7],
            {"type": "duckdb", "database": "ward.duckdb"},
            {"query": "SELECT * FROM visits"},
        ),
    ],
)
def test_a_server_keeps_everything_but_the_login(
    server: dict[str, Any], expected: dict[str, Any], ours: dict[str, Any]
) -> None:
    (made,) = full(server)["servers"]
    assert custom(made) == ours
    assert {k: v for k, v in made.items() if k not in ("customProperties", "server")} == expected


def test_a_property_says_what_becomes_of_it() -> None:
    document = full()
    properties = {entry["name"]: entry for entry in document["schema"][0]["properties"]}
    radius = properties["radius"]
    assert (radius["classification"], radius["required"]) == ("feature", False)
    assert radius["logicalTypeOptions"] == {"minimum": 0.0, "maximum": 30.0}
    assert radius["transformLogic"] == "kept within 0.0 to 30.0; empty cells as 3.0"
    assert custom(radius) == {
        "transform": {"method": "keep"},
        "impute": 3.0,
        "unit": "mm",
        "boundsSource": "textbook",
    }
    assert custom(properties["diagnosis"])["values"] == ["benign", "malignant"]
    assert custom(properties["person"])["entity"] is True
    assert properties["person"]["transformLogic"] == "replaced by a keyed token; the entity key"
    assert custom(properties["zip"]) == {
        "transform": {"method": "zip3"},
        "filter": True,
        "hipaa": "geography",
    }


def test_the_contract_s_own_keys_are_custom_properties() -> None:
    document = full()
    assert document["description"] == {"purpose": "Visits."}
    assert document["slaProperties"][0]["property"] == "endOfLife"
    assert document["slaProperties"][0]["value"] == "2030-12-31"
    ours = custom(document)
    assert ours == {
        "public": False,
        "entity": "person",
        "population": "everyone",
        "allowedRegions": ["eu"],
        "lawfulBasis": "public-task",
        "invalidRows": "refuse",
        "anonymity": {"k": 5, "l": 1, "violation": "refuse"},
    }


@pytest.mark.parametrize("server", SERVER_EXAMPLES, ids=lambda server: str(server["type"]))
def test_no_secret_and_no_canary_is_exported(server: dict[str, Any]) -> None:
    assert "hush" not in repr(full(server))


def test_the_digest_is_that_of_the_contract_unless_it_would_tell_of_canaries() -> None:
    made = contract(FEATURE, LABEL)
    assert custom(to_odcs(made))["contractDigest"] == made.digest.hex()
    assert "contractDigest" not in custom(full())


def test_yaml_says_the_same_every_time() -> None:
    made = contract(FEATURE, LABEL, retention=date(2030, 12, 31), description="Größe: «r»")
    text = to_odcs_yaml(made)
    assert text == to_odcs_yaml(made)
    assert yaml.safe_load(text) == to_odcs(made)
    assert text.startswith("apiVersion: v3.1.0\nkind: DataContract\nid: diagnosis\n")


def test_without_pyyaml_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match="pip install pyyaml"):
        to_odcs_yaml(contract(FEATURE, LABEL))
