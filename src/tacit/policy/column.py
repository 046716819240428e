"""One column of a data set: type, class, ranges, and what becomes of it before training."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tacit.config import Table
from tacit.policy.hipaa import HipaaIdentifier
from tacit.policy.schema import FeatureColumn
from tacit.policy.transform import FEATURE_METHODS, METHODS, Method, Transform

__all__ = [
    "ALLOWED_METHODS",
    "NUMERIC",
    "OLDEST",
    "Category",
    "Classification",
    "Column",
    "LogicalType",
    "Name",
    "Options",
]

LogicalType = Literal[
    "string", "integer", "number", "boolean", "date", "timestamp", "time", "object", "array"
]
Classification = Literal[
    "identifier", "quasi-identifier", "sensitive", "feature", "label", "consent", "free-text"
]
Category = Literal[
    "racial-or-ethnic-origin",
    "political-opinions",
    "religious-or-philosophical-beliefs",
    "trade-union-membership",
    "genetic",
    "biometric",
    "health",
    "sex-life-or-sexual-orientation",
    "criminal-convictions",
]

_COARSER = tuple(method for method in METHODS if method not in ("keep", "quarantine"))
ALLOWED_METHODS: dict[str, tuple[Method, ...]] = {
    "identifier": ("drop", "token", "ff1", "mask"),
    "quasi-identifier": _COARSER,
    "sensitive": _COARSER,
    "feature": ("keep", "drop", "age", "bins", "clamp", "vocabulary"),
    "label": ("keep", "drop"),
    "consent": ("drop",),
    "free-text": ("drop", "quarantine"),
}
"""What may become of a column of each class."""

NUMERIC = ("integer", "number")
FILTER_TYPES = ("string", "integer", "boolean", "date", "timestamp")
"""Types that a policy's rule can compare; Cedar has no floating-point numbers."""

VALUE_TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool}
OLDEST = 90
"""Ages from here on are one group: 45 CFR 164.514(b)(2)(i)(C)."""

MAX_PATTERN = 256

Name = Annotated[str, Field(min_length=1, max_length=200)]
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Bound = Annotated[float, Field(ge=-1e300, le=1e300)]
"""So that no bin of it is beyond what a float can be."""
Value = bool | Integer | Annotated[str, Field(min_length=1, max_length=200)]


def _check_pattern(pattern: str) -> None:
    """Whether RE2 takes it: Python's own expressions have more, which would fail on the data only."""
    import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import
    from pyarrow import compute  # noqa: PLC0415

    try:
        for expression in (pattern, f"^(?:{pattern})$"):
            compute.match_substring_regex(pa.array([""]), expression)
    except pa.ArrowInvalid as error:
        raise ValueError("pattern is no RE2 expression (no look-around, no \\1)") from error


class Options(Table):
    """Further limits of the cells; a cell beyond them is invalid."""

    minimum: Bound | None = Field(default=None, description="Smallest possible value of a number.")
    maximum: Bound | None = Field(default=None, description="Largest possible value of a number.")
    pattern: str | None = Field(
        default=None,
        max_length=MAX_PATTERN,
        description="RE2 expression that the whole of a text must match.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if (
            self.minimum is not None
            and self.maximum is not None
            and not self.minimum < self.maximum
        ):
            raise ValueError("minimum must be below maximum")
        if self.pattern is not None:
            _check_pattern(self.pattern)
        return self


class Column(Table):
    """One column of the data set."""

    name: Name = Field(description="Name of the column, as in the source.")
    logical_type: LogicalType = Field(
        alias="logicalType",
        description="What every cell must be; `time`, `object` and `array` can only be dropped.",
    )
    classification: Classification = Field(description="How sensitive the column is.")
    transform: Transform = Field(
        Transform(method="drop"),
        description="What becomes of it before training; by default dropped.",
    )
    train: bool = Field(
        False,
        description="`quasi-identifier`, `sensitive`: whether the coarser value is a feature. A "
        "`feature` that is not dropped always is.",
    )
    filter: bool = Field(
        False,
        description="Whether the policy's row rules may speak of the column as `resource.NAME`; a "
        "`consent` column always can be spoken of. It is then decoded, but for that alone.",
    )
    required: bool = Field(True, description="Whether a cell must have a value.")
    impute: bool | Integer | float | str | None = Field(
        default=None,
        description="Declared constant that stands for an empty cell (`required = false`).",
    )
    unit: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Unit of the values, as all sites must have it.",
    )
    options: Options = Field(
        Options(), alias="logicalTypeOptions", description="Further limits of the cells."
    )
    values: Annotated[tuple[Value, ...], Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="Allowed values. Of the label: its classes, in the order of their index; of "
        "`vocabulary`: the values that keep a place of their own.",
    )
    bounds_source: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="`feature`: where minimum and maximum come from; never this data set.",
    )
    hipaa: HipaaIdentifier | Literal["none"] | None = Field(
        default=None,
        description="Which of the 18 identifiers of 45 CFR 164.514(b)(2)(i) it holds; `none`: none of "
        "them, although its name may look like it.",
    )
    gdpr: Category | Literal["none"] | None = Field(
        default=None,
        description="Which special category of GDPR Art. 9(1) or 10 it belongs to; `none`: to none, "
        "although its name may look like it.",
    )
    synthetic: bool = Field(False, description="Whether the content is generated, not real.")

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        method, allowed = self.transform.method, ALLOWED_METHODS[self.classification]
        if method not in allowed:
            raise self._wrong(
                f"a column of class '{self.classification}' may be {' or '.join(allowed)}, not {method}"
            )
        if self.logical_type not in METHODS[method].types:
            raise self._wrong(
                f"method '{method}' is for {' and '.join(METHODS[method].types)} columns"
            )
        if method == "bins" and self.logical_type == "integer" and self.transform.width == 1:
            raise self._wrong("integers in bins of width 1 stay as they are")
        if method == "age" and (self.logical_type == "date") != (self.transform.on is not None):
            raise self._wrong("method 'age' needs 'on' for a date of birth, and only there")
        if self.filters and self.logical_type not in FILTER_TYPES:
            raise self._wrong(f"row rules cannot speak of a column of type {self.logical_type}")
        if method == "vocabulary" and not self.values:
            raise self._wrong("method 'vocabulary' needs 'values'")
        return self

    @model_validator(mode="after")
    def _feature_is_bounded(self) -> Self:
        if self.train and self.classification not in ("quasi-identifier", "sensitive"):
            raise self._wrong("'train' is for quasi-identifier and sensitive columns")
        if self.train and self.transform.method not in FEATURE_METHODS:
            raise self._wrong(f"the result of method '{self.transform.method}' is no feature")
        if self.is_feature and self.transform.method == "keep" and self.logical_type == "string":
            raise self._wrong("a text becomes a feature by method 'vocabulary'")
        if not self._needs_bounds:
            if self.bounds_source is not None:
                raise self._wrong("bounds_source is for kept or binned integer and number features")
            return self
        for key, value in (
            ("logicalTypeOptions.minimum", self.options.minimum),
            ("logicalTypeOptions.maximum", self.options.maximum),
            ("bounds_source", self.bounds_source),
        ):
            if value is None:
                raise self._wrong(f"a feature needs '{key}'")
        if len(self._edges()) < 2:
            raise self._wrong("one bin holds everything from minimum to maximum")
        return self

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        ranged = self.options.minimum is not None or self.options.maximum is not None
        if ranged and self.logical_type not in NUMERIC:
            raise self._wrong("minimum and maximum are for integer and number columns")
        if self.options.pattern is not None and self.logical_type != "string":
            raise self._wrong("pattern is for string columns")
        if self.is_label and len(self.values or ()) < 2:
            raise self._wrong("a label needs at least two 'values'")
        if self.values is None:
            return self
        expected = VALUE_TYPES.get(self.logical_type)
        if expected is None:
            raise self._wrong("'values' are for string, integer and boolean columns")
        if any(type(value) is not expected for value in self.values):
            raise self._wrong(f"every value must be of type {self.logical_type}")
        if len(set(self.values)) != len(self.values):
            raise self._wrong("a value is listed twice")
        return self

    @model_validator(mode="after")
    def _empty_cells_have_a_meaning(self) -> Self:
        if self.impute is None:
            if not self.required and self.reaches_training:
                raise self._wrong("an optional column that is trained on needs 'impute'")
            return self
        if self.required:
            raise self._wrong("'impute' is for columns with required = false")
        if self.classification == "label":
            raise self._wrong("a label is never imputed")
        allowed: dict[str, tuple[type, ...]] = {
            "string": (str,),
            "integer": (int,),
            "number": (int, float),
            "boolean": (bool,),
        }
        if type(self.impute) not in allowed.get(self.logical_type, ()):
            raise self._wrong(f"'impute' must be of type {self.logical_type}")
        lower, upper = self.options.minimum, self.options.maximum
        if isinstance(self.impute, int | float) and (
            (lower is not None and self.impute < lower)
            or (upper is not None and self.impute > upper)
        ):
            raise self._wrong("'impute' is outside minimum and maximum")
        listed = self.values is None or self.method == "vocabulary" or self.impute in self.values
        if not listed:
            raise self._wrong("'impute' is none of the values")
        return self

    def _wrong(self, problem: str) -> ValueError:
        return ValueError(f"column '{self.name}': {problem}")

    @property
    def method(self) -> Method:
        """What becomes of the column."""
        return self.transform.method

    @property
    def is_feature(self) -> bool:
        """Whether its result is one or more of the features."""
        return self.train or (self.classification == "feature" and self.method != "drop")

    @property
    def is_label(self) -> bool:
        """Whether it is the label that training uses."""
        return self.classification == "label" and self.method == "keep"

    @property
    def reaches_training(self) -> bool:
        """Whether training code sees its result, as a feature or as the label."""
        return self.is_feature or self.is_label

    @property
    def filters(self) -> bool:
        """Whether the policy's row rules may speak of it."""
        return self.filter or self.classification == "consent"

    @property
    def _needs_bounds(self) -> bool:
        return self.is_feature and self.logical_type in NUMERIC and self.method in ("keep", "bins")

    def _edges(self) -> tuple[float, ...]:
        """Smallest and largest result, without repetition."""
        lower, upper = self.options.minimum or 0.0, self.options.maximum or 0.0
        if self.method == "bins":
            width = self.transform.width or 1
            lower, upper = (float(math.floor(edge / width) * width) for edge in (lower, upper))
        return (lower,) if lower == upper else (lower, upper)

    @property
    def classes(self) -> tuple[str, ...]:
        """The allowed values as text: a label's class names."""
        return tuple(
            str(value).lower() if isinstance(value, bool) else str(value)
            for value in self.values or ()
        )

    def features(self) -> tuple[FeatureColumn, ...]:
        """The public part of a feature: its names, bounds and unit.

        A boolean counts as 0 or 1. A vocabulary makes one feature of 0 or 1 for each value,
        ``NAME=VALUE``, and for each bucket, ``NAME#INDEX``.
        """
        unit = self.unit or ""
        if self.method == "vocabulary":
            buckets = range(self.transform.buckets or 0)
            names = [
                *(f"{self.name}={value}" for value in self.classes),
                *(f"{self.name}#{index}" for index in buckets),
            ]
            return tuple(FeatureColumn(name, 0.0, 1.0, unit) for name in names)
        if self.method == "clamp":
            edges = (self.transform.lower or 0.0, self.transform.upper or 0.0)
        elif self.method == "age":
            edges = (0.0, float(OLDEST))
        elif self.logical_type == "boolean":
            edges = (0.0, 1.0)
        else:
            lower, upper = self._edges()
            edges = (float(lower), float(upper))
        return (FeatureColumn(self.name, *edges, unit),)
