"""The contract of one data set: where it lies, what each column is and what becomes of it.

The names are those of the Open Data Contract Standard v3.1 where it has one (in camelCase), so that a
contract can be written as its YAML (``tacit contract export``).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import Field, model_validator

from tacit.config import Table, load_toml
from tacit.policy.column import Column, Name
from tacit.policy.schema import FeatureColumn, Schema, schema_difference
from tacit.policy.server import Server
from tacit.types import Digest

__all__ = [
    "EVERYONE",
    "Anonymity",
    "Column",
    "Contract",
    "FeatureColumn",
    "PopulationName",
    "Schema",
    "Server",
    "schema_difference",
]

ContractName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
PopulationName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Region = Annotated[str, Field(min_length=1, max_length=64)]
Canary = Annotated[str, Field(min_length=6, max_length=200)]
LawfulBasis = Literal[
    "consent",
    "contract",
    "legal-obligation",
    "vital-interests",
    "public-task",
    "legitimate-interests",
]
EVERYONE = "everyone"
"""The population of a data set that names none: all of these share one budget."""


class Anonymity(Table):
    """What the coarser quasi-identifiers of the whole data set must satisfy, or nothing of it is used."""

    k: int = Field(
        ge=2,
        le=1000,
        description="Fewest rows, or with `entity` people, that share one combination of them.",
    )
    l: int = Field(  # noqa: E741 - the field's standard name
        1,
        ge=1,
        le=100,
        description="Fewest different values of each sensitive column among those rows; empty cells do "
        "not count.",
    )
    violation: Literal["refuse", "suppress"] = Field(
        "refuse",
        description="`refuse`: the data set is not used. `suppress`: the rows of too small groups are left "
        "out; as one person can decide on the rows of others, runs with differential privacy refuse it.",
    )


class Contract(Table):
    """One data set of one site: its source and every one of its columns."""

    api_version: Literal["v3.1.0"] = Field(
        alias="apiVersion", description="Version of the standard whose names the file uses."
    )
    kind: Literal["DataContract"] = Field("DataContract", description="What the file is.")
    name: ContractName = Field(description="Name under which jobs ask for the data set.")
    version: str = Field(
        "1.0.0", pattern=r"^[0-9A-Za-z.+-]{1,32}$", description="Version of this contract."
    )
    status: Literal["proposed", "draft", "active", "deprecated", "retired"] = Field(
        "active",
        description="State of this contract; only an `active` or `deprecated` one is used.",
    )
    description: str = Field("", description="What the data set is, for people.")
    public: bool = Field(False, description="Whether anyone may see every record.")
    entity: Name | None = Field(
        None,
        description="Column that tells people (or other entities) apart, for privacy unit `entity` and "
        "`date-shift`; its method is `token`, and it never reaches training code but as whose record "
        "each is.",
    )
    population: PopulationName = Field(
        EVERYONE,
        description="Name of the people whom the records are about: data sets about the same people "
        "share one privacy budget, and must name the same.",
    )
    region: Region | None = Field(
        None, description="Where the data lie; by default the region of the site."
    )
    allowed_regions: Annotated[tuple[Region, ...], Field(min_length=1)] | None = Field(
        None,
        description="Regions that the site, the leader and every helper must be in; by default the "
        "policy alone decides.",
    )
    lawful_basis: LawfulBasis | None = Field(
        None, description="Why the data may be processed (GDPR Art. 6(1)); policies may ask for it."
    )
    retention: date | None = Field(
        None, description="Last day (UTC) on which the data may be used; by default without end."
    )
    invalid_rows: Literal["refuse", "quarantine"] = Field(
        "refuse",
        description="What a cell of the wrong type, out of range or empty means: `refuse`: nothing is "
        "used; `quarantine`: the row is set aside and listed, without its values.",
    )
    canaries: tuple[Canary, ...] = Field(
        (),
        description="Values of made-up people who were planted in the source: if one appears in the "
        "result, the batch is quarantined.",
    )
    anonymity: Anonymity | None = None
    server: Server
    columns: Annotated[tuple[Column, ...], Field(min_length=2)] = Field(
        alias="properties", description="Every column of the source; an undeclared one is refused."
    )

    @model_validator(mode="after")
    def _columns_make_a_schema(self) -> Self:
        for name, count in Counter(column.name for column in self.columns).items():
            if count > 1:
                raise ValueError(f"column '{name}' is declared twice")
        labels = [column.name for column in self.columns if column.is_label]
        if len(labels) != 1:
            raise ValueError("exactly one column has class 'label' and method 'keep'")
        if not any(column.is_feature for column in self.columns):
            raise ValueError("at least one column is a feature that is not dropped")
        names = Counter(item.name for column in self.columns for item in _public(column))
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"two features would be named '{name}'")
        return self

    @model_validator(mode="after")
    def _entity_is_a_token(self) -> Self:
        columns = {column.name: column for column in self.columns}
        if self.entity is None:
            shifted = [c.name for c in self.columns if c.method == "date-shift"]
            if shifted:
                raise ValueError(f"column '{shifted[0]}': method 'date-shift' needs 'entity'")
            return self
        if self.entity not in columns:
            raise ValueError(f"entity: there is no column '{self.entity}'")
        if columns[self.entity].method != "token":
            raise ValueError(f"entity: column '{self.entity}' needs the method 'token'")
        if not columns[self.entity].required:
            raise ValueError(f"entity: column '{self.entity}' needs required = true")
        return self

    @model_validator(mode="after")
    def _anonymity_has_columns(self) -> Self:
        if self.anonymity is None:
            return self
        if not self.quasi_identifiers:
            raise ValueError("anonymity: no quasi-identifier is left that could single anyone out")
        sensitive = any(
            c.classification == "sensitive" and c.method != "drop" for c in self.columns
        )
        if self.anonymity.l > 1 and not sensitive:
            raise ValueError("anonymity: l needs a sensitive column that is not dropped")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads and validates a contract file.

        Raises:
            ConfigError: Names the file, the key and the remedy.
        """
        return load_toml(path, cls)

    @property
    def quasi_identifiers(self) -> tuple[str, ...]:
        """The quasi-identifiers whose coarser values are in the result."""
        return tuple(
            column.name
            for column in self.columns
            if column.classification == "quasi-identifier" and column.method != "drop"
        )

    def schema(self) -> Schema:  # type: ignore[override]
        """The public part, which all sites of a job share: features in order, label, classes."""
        label = next(column for column in self.columns if column.is_label)
        features = tuple(item for column in self.columns for item in _features(column))
        return Schema(features, label.name, label.classes)

    @property
    def content(self) -> dict[str, Any]:
        """The validated content for canonical JSON, whatever the file's layout."""
        content: dict[str, Any] = _decimals_as_text(self.model_dump(mode="json", by_alias=True))
        return content

    @cached_property
    def digest(self) -> Digest:
        """SHA-256 of the content."""
        return Digest(hashlib.sha256(rfc8785.dumps(self.content)).digest())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, but a copy has a digest of its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("digest", None)
        return copied


def _features(column: Column) -> tuple[FeatureColumn, ...]:
    return column.features() if column.is_feature else ()


def _public(column: Column) -> tuple[FeatureColumn, ...]:
    """Names that the public schema takes: of features, and of the label."""
    return (FeatureColumn(column.name, 0.0, 1.0),) if column.is_label else _features(column)


_LARGEST = 2**53 - 1
"""Of the integers that canonical JSON has."""


def _decimals_as_text(value: Any) -> Any:
    if isinstance(value, float) or (type(value) is int and abs(value) > _LARGEST):
        return repr(value)
    if isinstance(value, dict):
        return {key: _decimals_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decimals_as_text(item) for item in value]
    return value
