"""Small contracts and columns, for tests of what reads contracts."""

from __future__ import annotations

from typing import Any

from tacit.config import parse_table
from tacit.policy.contract import Contract

__all__ = ["FEATURE", "LABEL", "PERSON", "SHIFTED", "ZIP", "column", "contract"]

FEATURE: dict[str, Any] = {
    "name": "radius",
    "logicalType": "number",
    "classification": "feature",
    "transform": {"method": "keep"},
    "logicalTypeOptions": {"minimum": 0.0, "maximum": 30.0},
    "bounds_source": "textbook",
}
LABEL: dict[str, Any] = {
    "name": "diagnosis",
    "logicalType": "string",
    "classification": "label",
    "transform": {"method": "keep"},
    "values": ["benign", "malignant"],
}
PERSON: dict[str, Any] = {
    "name": "person",
    "logicalType": "string",
    "classification": "identifier",
    "transform": {"method": "token"},
}
KEYS: dict[str, dict[str, Any]] = {
    "ff1": {"alphabet": "digits"},
    "prefix": {"length": 3},
    "bins": {"width": 5},
    "clamp": {"lower": 0.0, "upper": 9.0},
    "date-shift": {"days": 100},
    "vocabulary": {"buckets": 4},
}
"""What a method needs."""


def contract(*columns: dict[str, Any], **changes: Any) -> Contract:
    """A valid contract with other columns, and keys changed."""
    content = {
        "apiVersion": "v3.1.0",
        "name": "diagnosis",
        "server": {"type": "local", "path": "records.csv", "format": "csv"},
        "properties": list(columns or (FEATURE, LABEL)),
        **changes,
    }
    return parse_table(content, Contract, "contract.toml")


def column(
    classification: str, kind: str = "string", method: str = "drop", **changes: Any
) -> dict[str, Any]:
    """One column ``x`` with all that its method needs, and keys changed."""
    how: dict[str, Any] = {"method": method, **KEYS.get(method, {})}
    entry: dict[str, Any] = {
        "name": "x",
        "logicalType": kind,
        "classification": classification,
        "transform": how,
    }
    if method == "vocabulary":
        entry["values"] = ["a", "b"]
    return {**entry, **changes}


SHIFTED = column("quasi-identifier", "date", "date-shift")
ZIP = column("quasi-identifier", method="zip3")
