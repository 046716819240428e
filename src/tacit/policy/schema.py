"""The public shape of a data set: what every site must share before its records can be added."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import rfc8785

from tacit.errors import DecodeError
from tacit.types import Digest

__all__ = ["FeatureColumn", "Schema", "schema_difference"]

_KEYS = {"version", "features", "label", "classes"}
_SIZE_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One feature and its public range.

    Args:
        name: Column name.
        lower: Smallest possible value, finite, in the column's own unit.
        upper: Largest possible value, finite, above ``lower``.
        unit: Unit of the values; empty if the contract names none.
    """

    name: str
    lower: float
    upper: float
    unit: str = ""

    def record(self) -> dict[str, str]:
        """For canonical JSON: bounds as their shortest decimal text, no unit where there is none."""
        bounds = {"name": self.name, "lower": repr(self.lower), "upper": repr(self.upper)}
        return {**bounds, "unit": self.unit} if self.unit else bounds


@dataclass(frozen=True, slots=True)
class Schema:
    """Feature columns in order, the label column and its classes in order.

    Args:
        features: At least one column; position is the feature's index.
        label: Name of the label column.
        classes: At least two class names; position is the class index.
    """

    features: tuple[FeatureColumn, ...]
    label: str
    classes: tuple[str, ...]

    def canonical(self) -> bytes:
        """RFC 8785 JSON; bounds travel as their shortest decimal text."""
        return rfc8785.dumps(
            {
                "version": 1,
                "features": [column.record() for column in self.features],
                "label": self.label,
                "classes": list(self.classes),
            }
        )

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical bytes."""
        return Digest(hashlib.sha256(self.canonical()).digest())

    @classmethod
    def from_canonical(cls, data: bytes) -> Schema:
        """The schema whose canonical bytes are exactly ``data``.

        Raises:
            DecodeError: ``data`` is anything else.
        """
        try:
            if len(data) > _SIZE_LIMIT:
                raise ValueError("too large")
            schema = _from_record(json.loads(data))
            identical = schema.canonical() == data
        except (ValueError, KeyError, TypeError, RecursionError, rfc8785.CanonicalizationError):
            identical = False
        if not identical:
            raise DecodeError("policy.schema", "the bytes are not a canonical data schema")
        return schema


def _from_record(record: Any) -> Schema:
    if not isinstance(record, dict) or set(record) != _KEYS or record["version"] != 1:
        raise ValueError("not a schema record")
    features = tuple(
        FeatureColumn(
            _text(item["name"]),
            _bound(item["lower"]),
            _bound(item["upper"]),
            _text(item["unit"]) if "unit" in item else "",
        )
        for item in record["features"]
    )
    schema = Schema(features, _text(record["label"]), tuple(map(_text, record["classes"])))
    names = [*(column.name for column in features), schema.label]
    ordered = all(
        math.isfinite(column.lower) and math.isfinite(column.upper) and column.lower < column.upper
        for column in features
    )
    distinct = len(set(names)) == len(names) and len(set(schema.classes)) == len(schema.classes)
    if not (features and len(schema.classes) >= 2 and ordered and distinct):
        raise ValueError("not a usable schema")
    return schema


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("not a text")
    return value


def _bound(value: Any) -> float:
    # A JSON integer may be too large for a float, which is no ValueError.
    return float(_text(value))


def schema_difference(ours: Schema, theirs: Schema) -> str:
    """What a person needs to know to make two schemas equal: the first difference, or ''."""
    for index, (mine, other) in enumerate(zip(ours.features, theirs.features, strict=False)):
        if mine != other:
            return _feature_difference(index, mine, other)
    if len(ours.features) != len(theirs.features):
        here, there = len(ours.features), len(theirs.features)
        longer = ours if here > there else theirs
        return f"{here} features here and {there} there; only one side has '{longer.features[min(here, there)].name}'"
    if ours.label != theirs.label:
        return f"the label is '{ours.label}' here and '{theirs.label}' there"
    if ours.classes != theirs.classes:
        return (
            f"label '{ours.label}' has the classes {', '.join(ours.classes)} here "
            f"and {', '.join(theirs.classes)} there"
        )
    return ""


def _feature_difference(index: int, mine: FeatureColumn, other: FeatureColumn) -> str:
    if mine.name != other.name:
        return f"feature {index + 1} is '{mine.name}' here and '{other.name}' there"
    if mine.unit != other.unit:
        return (
            f"feature '{mine.name}' is in {mine.unit or 'no unit'} here and in "
            f"{other.unit or 'no unit'} there"
        )
    return (
        f"feature '{mine.name}' has the range {mine.lower!r} to {mine.upper!r} here "
        f"and {other.lower!r} to {other.upper!r} there"
    )
