"""The contract of one data set: what each column is and what becomes of it before training."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import Field, model_validator

from tacit.config import Table, load_toml
from tacit.policy.schema import FeatureColumn, Schema, schema_difference
from tacit.types import Digest

__all__ = [
    "EVERYONE",
    "Column",
    "Contract",
    "FeatureColumn",
    "Generalise",
    "PopulationName",
    "Schema",
    "Source",
    "schema_difference",
]

ColumnType = Literal["string", "integer", "number", "boolean", "date"]
ColumnClass = Literal[
    "identifier", "quasi-identifier", "sensitive", "feature", "label", "free-text"
]
Action = Literal["keep", "drop", "token", "generalise"]
Method = Literal["prefix", "year", "decade", "age", "bins"]

ALLOWED_ACTIONS: dict[str, tuple[Action, ...]] = {
    "identifier": ("drop", "token"),
    "quasi-identifier": ("drop", "generalise", "token"),
    "sensitive": ("drop", "generalise", "token"),
    "feature": ("keep", "drop"),
    "label": ("keep", "drop"),
    "free-text": ("drop",),
}
"""What may become of a column of each class. Only features and the label reach training code."""

METHOD_TYPES: dict[str, tuple[ColumnType, ...]] = {
    "prefix": ("string",),
    "year": ("date",),
    "decade": ("date",),
    "age": ("date",),
    "bins": ("integer", "number"),
}
METHOD_KEYS: dict[str, set[str]] = {
    "prefix": {"length"},
    "year": set(),
    "decade": set(),
    "age": {"on", "width"},
    "bins": {"width"},
}
TOKEN_TYPES: tuple[ColumnType, ...] = ("string", "integer", "date")
NUMERIC: tuple[ColumnType, ...] = ("integer", "number")

Name = Annotated[str, Field(min_length=1, max_length=200)]
ContractName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
PopulationName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
EVERYONE = "everyone"
"""The population of a data set that names none: all of these share one budget."""
ClassValue = bool | int | Annotated[str, Field(min_length=1, max_length=200)]


class Source(Table):
    """Where the records lie."""

    path: Annotated[
        str,
        Field(
            min_length=1,
            description="Data file, relative to the site's folder (evaluation set: to the contract's).",
        ),
    ]
    format: Literal["csv", "parquet"] = Field(description="How the data file is written.")


class Generalise(Table):
    """How a value is made coarser."""

    method: Method = Field(
        description="`prefix` for `string`; `year`, `decade`, `age` for `date`; `bins` for `integer` "
        "and `number`."
    )
    length: int | None = Field(None, ge=1, le=64, description="`prefix`: characters that are left.")
    width: int | None = Field(None, ge=1, description="`age`, `bins`: width of one bin.")
    on: date | None = Field(None, description="`age`: the day on which it is taken.")

    @model_validator(mode="after")
    def _keys_fit_method(self) -> Self:
        given = {key for key in ("length", "width", "on") if getattr(self, key) is not None}
        wanted = METHOD_KEYS[self.method]
        if given != wanted:
            keys = " and ".join(f"'{key}'" for key in sorted(wanted)) or "no further key"
            raise ValueError(f"method '{self.method}' takes {keys}")
        return self


class Column(Table):
    """One column of the data file."""

    name: Name = Field(description="Name of the column, as in the data file.")
    type: ColumnType = Field(description="What every cell must be.")
    class_: ColumnClass = Field(alias="class", description="How sensitive the column is.")
    action: Action = Field(description="What becomes of it before training.")
    lower: float | None = Field(None, description="`feature`: smallest possible value.")
    upper: float | None = Field(None, description="`feature`: largest possible value.")
    bounds_source: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="`feature`: where the bounds come from; never this data set."
    )
    values: tuple[ClassValue, ...] | None = Field(
        None, description="`label`: its classes, in the order of their index."
    )
    generalise: Generalise | None = Field(None, description="How, when `action` is `generalise`.")
    synthetic: bool = Field(False, description="Whether the content is generated, not real.")

    @model_validator(mode="after")
    def _action_fits_class(self) -> Self:
        allowed = ALLOWED_ACTIONS[self.class_]
        if self.action not in allowed:
            raise ValueError(
                f"column '{self.name}': a column of class '{self.class_}' may be "
                f"{' or '.join(allowed)}, not {self.action}"
            )
        if (self.action == "generalise") != (self.generalise is not None):
            raise ValueError(
                f"column '{self.name}': action 'generalise' and the table 'generalise' need each other"
            )
        if self.generalise and self.type not in METHOD_TYPES[self.generalise.method]:
            raise ValueError(
                f"column '{self.name}': method '{self.generalise.method}' is for "
                f"{' and '.join(METHOD_TYPES[self.generalise.method])} columns"
            )
        if self.generalise and self.type == "integer" and self.generalise.width == 1:
            raise ValueError(f"column '{self.name}': integers in bins of width 1 stay as they are")
        if self.action == "token" and self.type not in TOKEN_TYPES:
            raise ValueError(f"column '{self.name}': a {self.type} cannot become a token")
        return self

    @model_validator(mode="after")
    def _feature_has_bounds(self) -> Self:
        bounds = (self.lower, self.upper, self.bounds_source)
        if self.class_ != "feature" or self.type not in NUMERIC:
            if any(item is not None for item in bounds):
                raise ValueError(
                    f"column '{self.name}': lower, upper and bounds_source are for "
                    "integer and number features"
                )
            if self.kept and self.class_ == "feature" and self.type != "boolean":
                raise ValueError(
                    f"column '{self.name}': a feature is an integer, a number or a boolean, "
                    f"not a {self.type}"
                )
        elif self.kept:
            missing = [
                key for key in ("lower", "upper", "bounds_source") if getattr(self, key) is None
            ]
            if missing:
                raise ValueError(f"column '{self.name}': a feature needs '{missing[0]}'")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"column '{self.name}': lower must be below upper")
        return self

    @model_validator(mode="after")
    def _label_has_values(self) -> Self:
        if self.class_ != "label":
            if self.values is not None:
                raise ValueError(f"column '{self.name}': values are for the label")
            return self
        if self.values is None and not self.kept:
            return self
        expected = {"string": str, "integer": int, "boolean": bool}.get(self.type)
        if expected is None:
            raise ValueError(f"column '{self.name}': a label is a string, an integer or a boolean")
        if self.values is None or len(self.values) < 2:
            raise ValueError(f"column '{self.name}': a label needs at least two 'values'")
        if any(type(value) is not expected for value in self.values):
            raise ValueError(f"column '{self.name}': every value must be of type {self.type}")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"column '{self.name}': a value is listed twice")
        return self

    @property
    def kept(self) -> bool:
        """Whether the column reaches training code."""
        return self.action == "keep"

    @property
    def classes(self) -> tuple[str, ...]:
        """A label's class names: its values as text."""
        return tuple(
            str(value).lower() if isinstance(value, bool) else str(value)
            for value in self.values or ()
        )

    def feature(self) -> FeatureColumn:
        """The public part of a kept feature; a boolean counts as 0 or 1."""
        if self.lower is None or self.upper is None:
            return FeatureColumn(self.name, 0.0, 1.0)
        return FeatureColumn(self.name, self.lower, self.upper)


class Contract(Table):
    """One data set of one site: its source and every one of its columns."""

    version: Literal[1] = Field(description="Version of the file format.")
    name: ContractName = Field(description="Name under which jobs ask for the data set.")
    description: str = Field("", description="What the data set is, for people.")
    public: bool = Field(False, description="Whether anyone may see every record.")
    entity: Name | None = Field(
        None,
        description="Column that tells people (or other entities) apart, for privacy unit `entity`; its "
        "action is `token`, and it never reaches training code but as whose record each is.",
    )
    population: PopulationName = Field(
        EVERYONE,
        description="Name of the people whom the records are about: data sets about the same people "
        "share one privacy budget, and must name the same.",
    )
    source: Source = Field(description="Where the records lie.")
    columns: Annotated[tuple[Column, ...], Field(min_length=2)] = Field(
        description="Every column of the data file; an undeclared one is refused."
    )

    @model_validator(mode="after")
    def _columns_make_a_schema(self) -> Self:
        for name, count in Counter(column.name for column in self.columns).items():
            if count > 1:
                raise ValueError(f"column '{name}' is declared twice")
        labels = [
            column.name for column in self.columns if column.kept and column.class_ == "label"
        ]
        if len(labels) != 1:
            raise ValueError("exactly one column has class 'label' and action 'keep'")
        if not any(column.kept and column.class_ == "feature" for column in self.columns):
            raise ValueError("at least one column has class 'feature' and action 'keep'")
        return self

    @model_validator(mode="after")
    def _entity_is_a_token(self) -> Self:
        columns = {column.name: column for column in self.columns}
        if self.entity is None:
            return self
        if self.entity not in columns:
            raise ValueError(f"entity: there is no column '{self.entity}'")
        if columns[self.entity].action != "token":
            raise ValueError(f"entity: column '{self.entity}' needs the action 'token'")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads and validates a contract file.

        Raises:
            ConfigError: Names the file, the key and the remedy.
        """
        return load_toml(path, cls)

    def schema(self) -> Schema:  # type: ignore[override]
        """The public part, which all sites of a job share: features in order, label, classes."""
        label = next(column for column in self.columns if column.kept and column.class_ == "label")
        features = tuple(
            column.feature()
            for column in self.columns
            if column.kept and column.class_ == "feature"
        )
        return Schema(features, label.name, label.classes)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the validated content, whatever the file's layout."""
        content = self.model_dump(mode="json", by_alias=True)
        return Digest(hashlib.sha256(rfc8785.dumps(_decimals_as_text(content))).digest())


def _decimals_as_text(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: _decimals_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decimals_as_text(item) for item in value]
    return value
