"""The only thing that training code may receive: a batch that a contract has sanitised, with a receipt."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.receipt import Receipt
from tacit.errors import LocalProtocolError
from tacit.policy.schema import Schema

__all__ = ["SanitisedBatch"]


class SanitisedBatch:
    """Records of one data set after its contract was applied. Immutable; made by ``tacit.connect`` only.

    Guarantee:
        Training code that accepts only this type sees only columns that a contract keeps: against code
        that uses the public interface, no other way leads to an instance.
        Checked by tests/unit/test_connect_batch.py::test_only_connect_builds_a_batch and
        tests/property/test_connect_canary.py::test_no_canary_survives.

    Attributes:
        features: float64[n, k], read-only, columns in the schema's order, each contiguous and within its
            bounds.
        labels: int64[n], read-only, class indices.
        schema: The public schema.
        receipt: What was read and removed.
        receipts: The receipts of the batches that it was made from, in order.
        extra: Tokenised and generalised columns, row by row; never part of ``features``.
        entities: Whose record each is, uint64[n], read-only: keyed pseudonyms that differ from the
            tokens in ``extra``; None if the contract names no entity key.
    """

    __slots__ = ("entities", "extra", "features", "labels", "receipt", "receipts", "schema")

    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    schema: Schema
    receipt: Receipt
    receipts: tuple[Receipt, ...]
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
    content: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.uint64] | None],
    schema: Schema,
    extra: pa.Table,
    receipt: Receipt,
    receipts: tuple[Receipt, ...] = (),
) -> SanitisedBatch:
    """Seals what the connector has read; for ``tacit.connect`` only, hence not exported."""
    features, labels, entities = content
    for array in content:
        if array is not None:
            array.setflags(write=False)
    batch = object.__new__(SanitisedBatch)
    for name, value in (
        ("features", features),
        ("labels", labels),
        ("schema", schema),
        ("receipt", receipt),
        ("receipts", receipts),
        ("extra", extra),
        ("entities", entities),
    ):
        object.__setattr__(batch, name, value)
    return batch
