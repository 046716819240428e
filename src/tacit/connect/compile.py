"""A contract compiled to a plan, and the plan applied to a source: the only way to a batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import rfc8785

from tacit.connect.batch import ColumnReceipt, Receipt, SanitisedBatch, build_batch
from tacit.connect.source import cell_error, record_batches
from tacit.connect.transforms import (
    BadCell,
    feature_values,
    generalise,
    label_indices,
    parse,
    pseudonyms,
    stored_type_fits,
    token_key,
    tokens,
)
from tacit.errors import ConfigError
from tacit.policy.contract import Column, Contract, Generalise
from tacit.policy.schema import Schema
from tacit.types import Digest

__all__ = ["Plan", "read"]

TOKEN_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, column by column; made from the contract alone, before any data are read.

    Args:
        contract: The validated contract.
        projection: Names of the columns that are read at all: every one that is not dropped.
    """

    contract: Contract
    projection: tuple[str, ...]

    @classmethod
    def compile(cls, contract: Contract) -> Plan:
        """The plan of a contract."""
        return cls(contract, tuple(c.name for c in contract.columns if c.action != "drop"))

    @property
    def digest(self) -> Digest:
        """SHA-256 over every column's name, type, class and treatment."""
        steps = [[c.name, c.type, c.class_, c.action, _detail(c)] for c in self.contract.columns]
        record: dict[str, Any] = {
            "version": 1,
            "columns": steps,
            "projection": list(self.projection),
        }
        return Digest(hashlib.sha256(rfc8785.dumps(record)).digest())


@dataclass(frozen=True, slots=True)
class _Part:
    """One batch, sanitised."""

    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    extra: pa.RecordBatch


def read(contract: Contract, base: Path, token_key: bytes | None = None) -> SanitisedBatch:
    """Reads the whole data set of a contract; the first thing that breaks the contract stops it.

    Guarantee:
        Of a column that the contract does not keep, no cell reaches the batch, the receipt or an error:
        dropped columns are not read, the others come out as tokens or coarser values only.
        Checked by tests/property/test_connect_canary.py::test_no_canary_survives.

    Args:
        contract: What every column is.
        base: Folder that ``source.path`` is relative to.
        token_key: The site's token key, 32 bytes; needed when a column's action is ``token``.

    Raises:
        ConfigError: Names file, data row (from 1) and column: undeclared or missing column, wrong type,
            unparsable row, empty cell, NaN or infinity, value or label out of range, no records.
    """
    plan = Plan.compile(contract)
    keys = _column_keys(contract, token_key)
    path = base / contract.source.path
    declared = [column.name for column in contract.columns]
    parts: list[_Part] = []
    rows = 0
    for batch in record_batches(path, contract.source.format, declared, plan.projection):
        parts.append(_apply(batch, contract, path, rows, keys))
        rows += batch.num_rows
    if not rows:
        raise ConfigError(
            "connect.empty",
            f"{path}: there are no records",
            remedy="correct 'source.path' in the contract, or leave the site out of the run",
            file=str(path),
        )
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    schema = contract.schema()
    extra = pa.Table.from_batches([part.extra for part in parts])
    entities = None
    if contract.entity is not None:
        entities = pseudonyms(extra.column(contract.entity).combine_chunks())
    receipt = _receipt(plan, schema, (features, labels, entities))
    return build_batch(features, labels, schema, receipt, extra, entities)


def _apply(
    batch: pa.RecordBatch, contract: Contract, path: Path, first_row: int, keys: dict[str, bytes]
) -> _Part:
    features: list[npt.NDArray[np.float64]] = []
    labels = np.empty(0, dtype=np.int64)
    extra: dict[str, pa.Array] = {}
    text = contract.source.format == "csv"
    for column in contract.columns:
        if column.action == "drop":
            continue
        try:
            cells = batch.column(column.name)
            if not text:
                _check_stored_type(cells.type, column, path)
            cells = parse(cells, column, text=text)
            if column.class_ == "feature":
                features.append(feature_values(cells, column))
            elif column.class_ == "label":
                labels = label_indices(cells, column)
            elif column.generalise is not None:
                extra[column.name] = generalise(cells, column.generalise)
            else:
                extra[column.name] = tokens(cells, keys[column.name])
        except BadCell as bad:
            error = cell_error(path, first_row + bad.index + 1, column.name, bad.problem)
            raise error from None
    matrix = np.ascontiguousarray(np.stack(features, axis=1))
    return _Part(matrix, labels, pa.RecordBatch.from_pydict(extra))


def _check_stored_type(kind: pa.DataType, column: Column, path: Path) -> None:
    if not stored_type_fits(kind, column):
        raise ConfigError(
            "connect.type",
            f"{path}: column '{column.name}' is stored as {kind}, not as {column.type}",
            remedy="correct the type in the contract, or the file",
            file=str(path),
            column=column.name,
        )


def _column_keys(contract: Contract, site_key: bytes | None) -> dict[str, bytes]:
    names = [column.name for column in contract.columns if column.action == "token"]
    if names and (site_key is None or len(site_key) != TOKEN_KEY_BYTES):
        raise ConfigError(
            "connect.token-key",
            f"contract '{contract.name}': column '{names[0]}' becomes a token, which needs the "
            f"site's token key of {TOKEN_KEY_BYTES} bytes",
            remedy="create keys/token.key, or drop the column",
            column=names[0],
        )
    return {name: token_key(site_key or b"", contract.name, name) for name in names}


def _receipt(
    plan: Plan,
    schema: Schema,
    content: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.uint64] | None],
) -> Receipt:
    contract, (features, labels, entities) = plan.contract, content
    data = hashlib.sha256(repr(features.shape).encode())
    data.update(np.ascontiguousarray(features, dtype="<f8").data)
    data.update(np.ascontiguousarray(labels, dtype="<i8").data)
    if entities is not None:
        data.update(np.ascontiguousarray(entities, dtype="<u8").data)
    rows = len(labels)
    columns = tuple(
        ColumnReceipt(c.name, c.class_, c.action, _detail(c), rows, c.synthetic)
        for c in contract.columns
    )
    return Receipt(
        name=contract.name,
        contract=contract.digest,
        plan=plan.digest,
        schema=schema.digest,
        rows=rows,
        columns=columns,
        data=Digest(data.digest()),
    )


def _detail(column: Column) -> str:
    if column.generalise is not None:
        return _generalised(column.generalise)
    if column.action == "token":
        return "replaced by a keyed token"
    if column.action == "drop":
        return "dropped"
    if column.class_ == "label":
        return f"kept as one of {', '.join(column.classes)}"
    bounds = column.feature()
    return f"kept within {bounds.lower!r} to {bounds.upper!r}"


def _generalised(how: Generalise) -> str:
    match how.method:
        case "prefix":
            return f"first {how.length} characters only"
        case "age":
            day = how.on.isoformat() if how.on else ""
            return f"age on {day} in groups of {how.width} years, 90 and above as one"
        case "bins":
            return f"lower edge of its bin of width {how.width}"
        case _:
            return f"{how.method} only"
