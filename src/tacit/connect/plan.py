"""A contract and the policy's row rules compiled to a plan, before any data are read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import rfc8785

from tacit.config import Table
from tacit.policy.column import Column
from tacit.policy.contract import Contract
from tacit.policy.rows import RowFilter
from tacit.policy.wording import treatment
from tacit.types import Digest

__all__ = ["Plan"]

TREATMENT = {
    *("name", "logical_type", "classification", "transform", "train", "filter", "required"),
    *("impute", "options", "values"),
}
"""Keys of a column that decide on what becomes of its cells."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, column by column; made from contract and row rules alone.

    Args:
        contract: The validated contract.
        rows: The policy's row rules; None for all rows.
        projection: Columns whose cells a transform sees.
        never_decoded: Columns that the source is not asked for: dropped, and not spoken of by a row
            rule. In Parquet and Arrow files their pages are not touched, in SQL they are not selected;
            a CSV file is parsed past them.

    Guarantee:
        A column in ``never_decoded`` cannot reach a result: a source is asked for the others only.
        Checked by tests/unit/test_connect_plan.py::test_pages_of_dropped_columns_are_never_decoded.
    """

    contract: Contract
    rows: RowFilter | None
    projection: tuple[str, ...]
    never_decoded: tuple[str, ...]

    @classmethod
    def compile(cls, contract: Contract, rows: RowFilter | None = None) -> Plan:
        """The plan of a contract under row rules."""
        projection = tuple(c.name for c in contract.columns if c.method != "drop")
        seen = {*projection, *(rows.columns if rows is not None else ())}
        never = tuple(c.name for c in contract.columns if c.name not in seen)
        return cls(contract, rows, projection, never)

    @property
    def declared(self) -> tuple[str, ...]:
        """Every column that the source must have."""
        return tuple(column.name for column in self.contract.columns)

    @property
    def filter_columns(self) -> tuple[str, ...]:
        """Columns that the row rules speak of."""
        return self.rows.columns if self.rows is not None else ()

    @property
    def digest(self) -> Digest:
        """SHA-256 over all that decides on a result: columns with their limits and treatment, row rules.

        Texts for people, such as ``bounds_source``, are no part of it.
        """
        anonymity = self.contract.anonymity
        record: dict[str, Any] = {
            "version": 3,
            "columns": [_canonical(column, TREATMENT) for column in self.contract.columns],
            "entity": self.contract.entity,
            "invalid_rows": self.contract.invalid_rows,
            "anonymity": _canonical(anonymity) if anonymity is not None else None,
            "projection": list(self.projection),
            "never_decoded": list(self.never_decoded),
            "rows": self.rows.digest.hex() if self.rows is not None else None,
        }
        return Digest(hashlib.sha256(rfc8785.dumps(record)).digest())

    def _entity(self, column: Column) -> bool:
        return column.name == self.contract.entity

    def detail(self, column: Column) -> str:
        """What becomes of one column, in words."""
        text = treatment(column, entity=self._entity(column))
        if column.method == "drop":
            return (
                f"{text}; decoded for row rules only"
                if column.name in self.filter_columns
                else text
            )
        return text


def _canonical(table: Table, keys: set[str] | None = None) -> str:
    """The keys of a table as text: RFC 8785 has no integers beyond 2**53, but a column's values may."""
    content = table.model_dump(mode="json", include=keys, exclude_none=True)
    return json.dumps(content, sort_keys=True)
