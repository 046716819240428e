"""What was read under which contract and policy, and what became of it: counts and digests, no values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from tacit.errors import LocalProtocolError
from tacit.types import Digest

__all__ = ["FIRST", "ColumnReceipt", "Quarantined", "Receipt", "Rows", "commitment_of"]

FIRST = Digest(bytes(32))
"""Stands for the receipt before the first of a reading."""

_COMMITMENT_PREFIX = b"tacit receipt v2\0"
_SALT_SIZE = 16


def commitment_of(canonical: bytes, salt: bytes) -> Digest:
    """The commitment to a receipt's canonical record; see ``Receipt.commitment``."""
    salted = _COMMITMENT_PREFIX + len(salt).to_bytes(8, "big") + salt
    return Digest(hashlib.sha256(salted + canonical).digest())


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that was set aside: where it is and why, never what it holds.

    Args:
        place: File or table.
        row: 1-based data row there; with row rules, counted among the rows that the policy permits.
        column: The column that caused it.
        problem: Completes "the cell ...".
    """

    place: str
    row: int
    column: str
    problem: str


@dataclass(frozen=True, slots=True)
class ColumnReceipt:
    """What became of one column.

    Args:
        name: Column name.
        class_: Its class in the contract.
        method: Its method in the contract.
        detail: The same in words, for people.
        cells: How many cells the method was applied to; 0 for a column that was never decoded.
        synthetic: Whether the contract says that the content is generated.
    """

    name: str
    class_: str
    method: str
    detail: str
    cells: int
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Row counts of one batch or of a whole data set.

    Args:
        in_: Rows that the policy permitted to be read.
        out: Rows in the result.
        quarantined: Rows set aside; ``in_ - out``.
    """

    in_: int
    out: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one batch, or of the whole data set. Stays at the site.

    Args:
        name: The contract's name.
        contract: Digest of the contract.
        policy: Digest of the policy lock that the reading was permitted under.
        plan: Digest of the compiled plan: every column's method and parameters, and the row rules.
        schema: Digest of the public schema.
        source: Digest of the names and stored types of the source's columns.
        number: 1-based number of the batch; 0 for the whole data set.
        previous: Digest of the receipt before it; of the whole data set: of its last batch. As secret
            as the data's digest.
        rows: Row counts.
        columns: One entry per declared column.
        residual: Hits of the residual scan by detector; those of a released batch are all absent.
        data: Digest of the result's features, labels and entities; unsalted, hence never printed or
            sent. Of the whole data set: that of its batches' receipts.
    """

    name: str
    contract: Digest
    policy: Digest
    plan: Digest
    schema: Digest
    source: Digest
    number: int
    previous: Digest = field(repr=False)
    rows: Rows
    columns: tuple[ColumnReceipt, ...]
    residual: tuple[tuple[str, int], ...]
    data: Digest = field(repr=False)

    def removed(self) -> tuple[ColumnReceipt, ...]:
        """The columns that do not reach training code as they were."""
        return tuple(column for column in self.columns if column.method != "keep")

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical record; tells of the data to whoever can guess them."""
        return Digest(hashlib.sha256(self.canonical()).digest())

    def commitment(self, salt: bytes) -> Digest:
        """A digest that may leave the site: it binds to the receipt and tells nothing about it.

        Guarantee:
            Whoever does not know ``salt`` cannot test a guess of the receipt's content; two different
            receipts never share a commitment (SHA-256 as a random oracle).
            Checked by tests/unit/test_connect_batch.py::test_commitment_binds_every_field_and_the_salt.

        Args:
            salt: At least 16 fresh random bytes, kept with the receipt.

        Raises:
            LocalProtocolError: The salt is too short.
        """
        if len(salt) < _SALT_SIZE:
            raise LocalProtocolError("connect.salt", f"a salt has at least {_SALT_SIZE} bytes")
        return commitment_of(self.canonical(), salt)

    def canonical(self) -> bytes:
        """RFC 8785 JSON of every field."""
        return rfc8785.dumps(self.record())

    def record(self) -> dict[str, Any]:
        """Every field, for canonical JSON."""
        return {
            "version": 2,
            "name": self.name,
            "contract": self.contract.hex(),
            "policy": self.policy.hex(),
            "plan": self.plan.hex(),
            "schema": self.schema.hex(),
            "source": self.source.hex(),
            "number": self.number,
            "previous": self.previous.hex(),
            "rows": {
                "in": self.rows.in_,
                "out": self.rows.out,
                "quarantined": self.rows.quarantined,
            },
            "columns": [
                [item.name, item.class_, item.method, item.detail, item.cells, item.synthetic]
                for item in self.columns
            ],
            "residual": [[detector, count] for detector, count in self.residual],
            "data": self.data.hex(),
        }
