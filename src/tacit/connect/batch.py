"""The only thing that training code may receive: a batch that a contract has sanitised, with a receipt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import rfc8785

from tacit.errors import LocalProtocolError
from tacit.policy.schema import Schema
from tacit.types import Digest

__all__ = ["ColumnReceipt", "Receipt", "SanitisedBatch"]

_COMMITMENT_PREFIX = b"tacit receipt v1\0"
_SALT_SIZE = 16


@dataclass(frozen=True, slots=True)
class ColumnReceipt:
    """What became of one column.

    Args:
        name: Column name.
        class_: Its class in the contract.
        action: keep, drop, token or generalise.
        detail: The same in words, for people.
        cells: How many cells the action was applied to.
        synthetic: Whether the contract says that the content is generated.
    """

    name: str
    class_: str
    action: str
    detail: str
    cells: int
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was read under which contract and what was removed. Stays at the site.

    Args:
        name: The contract's name.
        contract: Digest of the contract.
        plan: Digest of the compiled plan: every column's action and parameters.
        schema: Digest of the public schema.
        rows: Number of records.
        columns: One entry per declared column.
        data: Digest of the sanitised features and labels; unsalted, hence never printed or sent.
    """

    name: str
    contract: Digest
    plan: Digest
    schema: Digest
    rows: int
    columns: tuple[ColumnReceipt, ...]
    data: Digest = field(repr=False)

    def removed(self) -> tuple[ColumnReceipt, ...]:
        """The columns that do not reach training code as they were."""
        return tuple(column for column in self.columns if column.action != "keep")

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
        salted = _COMMITMENT_PREFIX + len(salt).to_bytes(8, "big") + salt
        return Digest(hashlib.sha256(salted + rfc8785.dumps(self._record())).digest())

    def _record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "contract": self.contract.hex(),
            "plan": self.plan.hex(),
            "schema": self.schema.hex(),
            "rows": self.rows,
            "columns": [
                [item.name, item.class_, item.action, item.detail, item.cells, item.synthetic]
                for item in self.columns
            ],
            "data": self.data.hex(),
        }


class SanitisedBatch:
    """All records of one data set after its contract was applied. Immutable; made by ``connect.read``.

    Guarantee:
        Training code that accepts only this type sees only columns that a contract keeps: against code
        that uses the public interface, no other way leads to an instance.
        Checked by tests/unit/test_connect_batch.py::test_only_connect_builds_a_batch and
        tests/property/test_connect_canary.py::test_no_canary_survives.

    Attributes:
        features: float64[n, k], read-only, columns in the schema's order, each within its bounds.
        labels: int64[n], read-only, class indices.
        schema: The public schema.
        receipt: What was read and removed.
        extra: Tokenised and generalised columns, row by row; never part of ``features``.
        entities: Whose record each is, uint64[n], read-only: keyed pseudonyms that differ from the
            tokens in ``extra``; None if the contract names no entity key.
    """

    __slots__ = ("entities", "extra", "features", "labels", "receipt", "schema")

    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    schema: Schema
    receipt: Receipt
    extra: pa.Table
    entities: npt.NDArray[np.uint64] | None

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        raise LocalProtocolError(
            "connect.batch",
            "a SanitisedBatch cannot be built by hand",
            remedy="read the data through its contract: tacit.connect.read",
        )

    def __init_subclass__(cls, **_kwargs: object) -> None:
        raise LocalProtocolError("connect.batch", "SanitisedBatch has no subclasses")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise LocalProtocolError("connect.batch", "a SanitisedBatch cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise LocalProtocolError("connect.batch", "a SanitisedBatch cannot be changed")

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("connect.batch", "a SanitisedBatch is never pickled or copied")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        rows, columns = self.features.shape
        return f"SanitisedBatch({self.receipt.name!r}, {rows} records, {columns} features)"


def build_batch(
    features: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    schema: Schema,
    receipt: Receipt,
    extra: pa.Table,
    entities: npt.NDArray[np.uint64] | None = None,
) -> SanitisedBatch:
    """Seals what the connector has read; for ``tacit.connect`` only, hence not exported."""
    for array in (features, labels, entities):
        if array is not None:
            array.setflags(write=False)
    batch = object.__new__(SanitisedBatch)
    for name, value in (
        ("features", features),
        ("labels", labels),
        ("schema", schema),
        ("receipt", receipt),
        ("extra", extra),
        ("entities", entities),
    ):
        object.__setattr__(batch, name, value)
    return batch
