"""Where the records of a data set lie: files, objects or a table of a database.

Reference: Open Data Contract Standard v3.1, "Infrastructure & Servers", for the names of the keys.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tacit.config import Table

__all__ = ["DATABASES", "FILES", "OBJECTS", "Server", "ServerType"]

ServerType = Literal["local", "s3", "gcs", "azure", "postgres", "sqlite", "duckdb"]
OBJECTS: tuple[ServerType, ...] = ("s3", "gcs", "azure")
"""The object stores."""
FILES: tuple[ServerType, ...] = ("local", *OBJECTS)
"""Where records lie in files."""
DATABASES: tuple[ServerType, ...] = ("postgres", "sqlite", "duckdb")

TABLE_KEYS = frozenset({"table", "query"})
REQUIRED: dict[ServerType, frozenset[str]] = {
    "local": frozenset({"path", "format"}),
    "s3": frozenset({"location", "format"}),
    "gcs": frozenset({"location", "format"}),
    "azure": frozenset({"location", "format"}),
    "postgres": frozenset({"host", "database", "secret"}),
    "sqlite": frozenset({"path"}),
    "duckdb": frozenset({"path"}),
}
OPTIONAL: dict[ServerType, frozenset[str]] = {
    "local": frozenset({"delimiter"}),
    "s3": frozenset({"delimiter", "endpointUrl", "secret"}),
    "gcs": frozenset({"delimiter", "secret"}),
    "azure": frozenset({"delimiter", "secret"}),
    "postgres": frozenset({"port", "schema"}) | TABLE_KEYS,
    "sqlite": TABLE_KEYS,
    "duckdb": TABLE_KEYS,
}
SCHEMES: dict[ServerType, str] = {"s3": "s3://", "gcs": "gs://", "azure": "abfs://"}

_NAMES = {"endpoint_url": "endpointUrl", "schema_": "schema"}
_URL_SECRET = re.compile(r"^[a-z0-9]+://[^/]*@|[?#]")

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Server(Table):
    """Where the records lie."""

    type: ServerType = Field(description="Kind of storage.")
    path: Text | None = Field(
        None,
        description="`local`, `sqlite`, `duckdb`: file, relative to the site's folder (evaluation set: "
        "to the contract's); `local`: may be a pattern such as `data/*.parquet`.",
    )
    location: Text | None = Field(
        None,
        description="`s3`, `gcs`, `azure`: URL of the objects, `s3://`, `gs://` or `abfs://` with bucket "
        "and path; may be a pattern such as `s3://bucket/data/*.parquet`.",
    )
    endpoint_url: Annotated[str, Field(pattern=r"^https?://[^/@?#]+/?$")] | None = Field(
        None,
        alias="endpointUrl",
        description="`s3`: address of the object store, when it is not Amazon's.",
    )
    format: Literal["csv", "parquet", "arrow"] | None = Field(
        None,
        description="`local`, `s3`, `gcs`, `azure`: how the files are written; `arrow` is the Arrow IPC "
        "file format.",
    )
    delimiter: Annotated[str, Field(pattern=r"^[\t !#-~]$")] = Field(
        ",", description="Format `csv`: the character between two cells."
    )
    host: Text | None = Field(
        None, description="`postgres`: name or address of the server, or folder of its socket."
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="`postgres`: port of the server; 5432 if absent."
    )
    database: Text | None = Field(None, description="`postgres`: name of the database.")
    schema_: Text | None = Field(
        None,
        alias="schema",
        description="`postgres`: schema of `table`; the user's search path decides if absent.",
    )
    table: Text | None = Field(
        None, description="`postgres`, `sqlite`, `duckdb`: table or view to read, or else `query`."
    )
    query: Annotated[str, Field(min_length=1, max_length=20_000)] | None = Field(
        None,
        description="`postgres`, `sqlite`, `duckdb`: one `SELECT` statement to read, or else `table`.",
    )
    secret: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)] | None = Field(
        None,
        description="`postgres`, `s3`, `gcs`, `azure`: name of the login; the file `keys/NAME.toml` in "
        "the site's folder (mode 0600) holds it, never the contract: `user` and `password`; `key`, "
        "`secret` and perhaps `token` for `s3`; `token` for `gcs`; the account as `key`, and `secret` or "
        "`token`, for `azure`. Without one an object store is read anonymously.",
    )

    @model_validator(mode="after")
    def _keys_fit_type(self) -> Self:
        given = {_NAMES.get(name, name) for name in self.model_fields_set} - {"type"}
        for key in sorted(REQUIRED[self.type] - given):
            raise ValueError(f"a server of type '{self.type}' needs '{key}'")
        for key in sorted(given - REQUIRED[self.type] - OPTIONAL[self.type]):
            raise ValueError(f"a server of type '{self.type}' takes no '{key}'; remove it")
        if "delimiter" in given and self.format != "csv":
            raise ValueError(f"format '{self.format}' takes no 'delimiter'; remove it")
        if self.type in DATABASES:
            self._one_table(given)
        return self

    def _one_table(self, given: set[str]) -> None:
        if len(given & TABLE_KEYS) != 1:
            raise ValueError(
                f"a server of type '{self.type}' needs exactly one of 'table' and 'query'"
            )
        if "schema" in given and "query" in given:
            raise ValueError("'schema' goes with 'table'; name it within 'query' instead")

    @model_validator(mode="after")
    def _location_is_a_url(self) -> Self:
        if self.location is None:
            return self
        scheme = SCHEMES[self.type]
        bucket = self.location.removeprefix(scheme).partition("/")[0]
        if not self.location.startswith(scheme) or not bucket:
            raise ValueError(
                f"'location' of a server of type '{self.type}' begins with {scheme}BUCKET/"
            )
        if self.type != "azure" and _URL_SECRET.search(self.location):
            raise ValueError("'location' holds no login and no '?': put the login into 'secret'")
        return self
