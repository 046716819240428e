from __future__ import annotations

from typing import Any

import pytest

from tacit.config import parse_table
from tacit.errors import ConfigError
from tacit.policy.server import OPTIONAL, REQUIRED, Server

LOCAL = {"type": "local", "path": "data/*.parquet", "format": "parquet"}
S3 = {"type": "s3", "location": "s3://bucket/data/*.csv", "format": "csv"}
POSTGRES = {
    "type": "postgres",
    "host": "db",
    "database": "ward",
    "secret": "ward",
    "table": "visits",
}
SQLITE = {"type": "sqlite", "path": "ward.db", "table": "visits"}
DUCKDB = {"type": "duckdb", "path": "ward.duckdb", "query": "SELECT 1 AS one"}
GCS = {"type": "gcs", "location": "gs://bucket/a.arrow", "format": "arrow"}
AZURE = {"type": "azure", "location": "abfs://box@account.dfs/a.csv", "format": "csv"}
GOOD = [LOCAL, S3, POSTGRES, SQLITE, DUCKDB, GCS, AZURE]


def parsed(content: dict[str, Any]) -> Server:
    return parse_table(content, Server, "contract.toml")


@pytest.mark.parametrize("content", GOOD, ids=lambda content: str(content["type"]))
def test_each_type_takes_its_keys(content: dict[str, Any]) -> None:
    server = parsed(content)
    assert server.model_dump(by_alias=True, exclude_unset=True) == content


def test_keys_are_written_as_in_the_standard() -> None:
    server = parsed({**S3, "endpointUrl": "http://localhost:9000", "delimiter": ";"})
    assert (server.endpoint_url, server.delimiter) == ("http://localhost:9000", ";")
    assert parsed({**POSTGRES, "schema": "public", "port": 5433}).schema_ == "public"
    assert parsed(S3).delimiter == ","


@pytest.mark.parametrize("content", GOOD, ids=lambda content: str(content["type"]))
def test_a_missing_key_is_named(content: dict[str, Any]) -> None:
    for key in REQUIRED[content["type"]]:
        without = {name: value for name, value in content.items() if name != key}
        with pytest.raises(ConfigError, match=f"of type '{content['type']}' needs '{key}'"):
            parsed(without)


OTHERS: dict[str, Any] = {
    "path": "a",
    "location": "s3://bucket/a",
    "format": "csv",
    "endpointUrl": "http://localhost",
    "host": "db",
    "port": 5432,
    "database": "ward",
    "schema": "public",
    "table": "visits",
    "query": "SELECT 1",
    "secret": "ward",
    "delimiter": ",",
}


@pytest.mark.parametrize("content", GOOD, ids=lambda content: str(content["type"]))
def test_a_key_of_another_type_is_named(content: dict[str, Any]) -> None:
    kind = content["type"]
    wrong = OTHERS.keys() - REQUIRED[kind] - OPTIONAL[kind]
    assert wrong
    for key in wrong:
        with pytest.raises(ConfigError, match=f"takes no '{key}'; remove it"):
            parsed({**content, key: OTHERS[key]})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({**LOCAL, "delimiter": ";"}, "format 'parquet' takes no 'delimiter'"),
        ({**SQLITE, "query": "SELECT 1"}, "exactly one of 'table' and 'query'"),
        ({"type": "sqlite", "path": "a"}, "exactly one of 'table' and 'query'"),
        (
            {**{k: v for k, v in POSTGRES.items() if k != "table"}, "query": "q", "schema": "s"},
            "'schema' goes with 'table'",
        ),
        ({**S3, "location": "bucket/a.csv"}, "begins with s3://BUCKET/"),
        ({**S3, "location": "s3:///a.csv"}, "begins with s3://BUCKET/"),
        ({**GCS, "location": "s3://bucket/a"}, "begins with gs://BUCKET/"),
        ({**S3, "location": "s3://me:hush@bucket/a.csv"}, "holds no login"),
        ({**S3, "location": "s3://bucket/a.csv?X-Amz-Signature=hush"}, "holds no login"),
        ({**S3, "endpointUrl": "http://me:hush@localhost"}, "endpointUrl"),
        ({**S3, "delimiter": ";;"}, "delimiter"),
        ({**S3, "delimiter": '"'}, "delimiter"),
        ({**S3, "secret": "../ward"}, "secret"),
        ({**POSTGRES, "port": 0}, "port"),
        ({**LOCAL, "format": "xlsx"}, "format"),
        ({**LOCAL, "type": "oracle"}, "type"),
    ],
)
def test_a_wrong_server_is_refused(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(content)
    assert problem in str(caught.value)
    assert "hush" not in str(caught.value)
