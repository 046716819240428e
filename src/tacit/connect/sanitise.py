"""A plan applied to one record batch: parse, limit, transform, all columns or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect import ff1, tokens
from tacit.connect.anonymity import PERSON
from tacit.connect.cells import BadCell, refuse
from tacit.connect.dates import shift_dates
from tacit.connect.keys import DataKeys, period_label
from tacit.connect.parse import parse
from tacit.connect.plan import Plan
from tacit.connect.rows import expression
from tacit.connect.transforms import coarser, feature_values, label_indices, places
from tacit.errors import ConfigError
from tacit.policy.column import Column
from tacit.policy.contract import Contract
from tacit.policy.transform import KEYED_METHODS
from tacit.types import Milliseconds

__all__ = ["Parts", "Sanitised", "Sanitiser", "column_keys", "matrix"]

_INDEX = "tacit row"

Parts = tuple[npt.NDArray[np.float64], ...]
"""The features of one batch in the schema's order, ``float64[n, k]`` of each column that makes some."""


@dataclass(frozen=True, slots=True)
class Sanitised:
    """One batch, sanitised.

    Args:
        features: Column by column; ``matrix`` puts them beside each other.
        labels: ``int64[n]``, class indices.
        entities: ``uint64[n]``, whose record each is; None without an entity key.
        extra: Results that are neither features nor the label.
        gated: Quasi-identifiers and sensitive results, for the anonymity gate; empty without one.
    """

    features: Parts
    labels: npt.NDArray[np.int64]
    entities: npt.NDArray[np.uint64] | None
    extra: pa.RecordBatch
    gated: pa.RecordBatch

    def take(self, rows: npt.NDArray[np.bool_]) -> Sanitised:
        """The rows where ``rows`` is true."""
        chosen = pa.array(rows)
        return Sanitised(
            tuple(part[rows] for part in self.features),
            self.labels[rows],
            None if self.entities is None else self.entities[rows],
            self.extra.filter(chosen),
            self.gated.filter(chosen),
        )


@dataclass(slots=True)
class _Results:
    features: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    entities: npt.NDArray[np.uint64] | None = None
    extra: dict[str, pa.Array] = field(default_factory=dict)
    gated: dict[str, pa.Array] = field(default_factory=dict)


def column_keys(
    contract: Contract, keys: DataKeys | None, purpose: str, at: Milliseconds
) -> dict[str, bytes]:
    """The root key of every column with a keyed method.

    Args:
        contract: The contract.
        keys: Where keys come from.
        purpose: What the data are read for: another purpose, another key.
        at: Decides on the period.

    Raises:
        ConfigError: There is no place for keys, or one was destroyed.
    """
    keyed = [column for column in contract.columns if column.method in KEYED_METHODS]
    if keyed and keys is None:
        raise ConfigError(
            "connect.keys",
            f"contract '{contract.name}': column '{keyed[0].name}' needs a key of the site",
            remedy="read it at its site, or drop the column",
            column=keyed[0].name,
        )
    return {
        column.name: keys.key(purpose, period_label(column.transform.period or "none", at))
        for column in keyed
        if keys is not None
    }


class Sanitiser:
    """Applies one plan.

    Args:
        plan: The plan.
        keys: Root key of each column with a keyed method, 32 bytes; see ``column_keys``.
        text: Whether cells come as text (CSV); then row rules are applied here.
    """

    def __init__(self, plan: Plan, keys: Mapping[str, bytes], *, text: bool) -> None:
        self._plan = plan
        self._contract = plan.contract
        self._keys = keys
        self._text = text
        self._columns = [c for c in plan.contract.columns if c.method != "drop"]
        self._gated = {
            c.name
            for c in self._columns
            if plan.contract.anonymity is not None
            and c.classification in ("quasi-identifier", "sensitive")
        }

    def permitted(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_] | None:
        """``bool[rows]``: which rows of a text source the row rules permit; None for all.

        Raises:
            BadCell: A cell that they speak of cannot be parsed.
        """
        rows = self._plan.rows
        if rows is None or not self._text:
            return None
        declared = {column.name: column for column in self._contract.columns}
        parsed: dict[str, pa.Array] = {_INDEX: pa.array(np.arange(batch.num_rows))}
        for name in rows.columns:
            with _naming(name):
                # Consent that is not there is no consent: an empty cell drops the row.
                column = declared[name].model_copy(update={"required": False, "impute": None})
                parsed[name] = parse(batch.column(name), column, text=True)
        kept = pa.table(parsed).filter(expression(rows)).column(_INDEX).to_numpy()
        permitted = np.zeros(batch.num_rows, dtype=np.bool_)
        permitted[kept] = True
        return permitted

    def apply(self, batch: pa.RecordBatch) -> Sanitised:
        """Sanitises a batch.

        Args:
            batch: The plan's projection, with at least one row.

        Raises:
            BadCell: A cell breaks the contract.
        """
        results = _Results()
        owners = self._owners(batch)
        for column in self._columns:
            with _naming(column.name):
                cells = batch.column(column.name)
                if column.method == "quarantine":
                    self._refuse_text(cells)
                    continue
                cells = parse(cells, column, text=self._text)
                self._transform(column, cells, owners, results)
        return Sanitised(
            tuple(results.features.values()),
            results.labels,
            results.entities,
            _record_batch(results.extra, batch.num_rows),
            _record_batch(results.gated, batch.num_rows),
        )

    def _owners(self, batch: pa.RecordBatch) -> pa.Array | None:
        """Whose record each row is, as it stands in the source."""
        shifts = any(column.method == "date-shift" for column in self._columns)
        if self._contract.entity is None or not shifts:
            return None
        entity = next(c for c in self._columns if c.name == self._contract.entity)
        with _naming(entity.name):
            return parse(batch.column(entity.name), entity, text=self._text)

    def _transform(
        self, column: Column, cells: pa.Array, owners: pa.Array | None, results: _Results
    ) -> None:
        if column.is_label:
            results.labels = label_indices(cells, column)
            return
        if column.is_feature:
            values = feature_values(cells, column)
            results.features[column.name] = values
            if column.name in self._gated:
                results.gated[column.name] = _combined(values)
            return
        result = self._keyed(column, cells, owners)
        results.extra[column.name] = result
        if column.name in self._gated:
            results.gated[column.name] = result
        if column.name == self._contract.entity:
            results.entities = tokens.pseudonyms(cells, self._key(column, "entity"))
            if self._gated:
                results.gated[PERSON] = pa.array(results.entities)

    def _keyed(self, column: Column, cells: pa.Array, owners: pa.Array | None) -> pa.Array:
        how = column.transform
        match how.method:
            case "token":
                return tokens.tokens(cells, self._key(column, "token"))
            case "ff1":
                alphabet = ff1.ALPHABETS[how.alphabet or "digits"]
                return ff1.encrypt(cells, self._key(column, "ff1"), alphabet)
            case "date-shift":
                days = cells.cast(pa.date32(), safe=False)
                return shift_dates(days, owners, self._shift_key(column), how.days or 1)
            case "vocabulary":
                return places(cells, column)
            case _:
                return coarser(cells, how)

    def _key(self, column: Column, use: str) -> bytes:
        root = self._keys[column.name]
        return tokens.column_key(root, self._contract.name, column.name, use)

    def _shift_key(self, column: Column) -> bytes:
        """One for all columns with the same range and period, or the time between two of them is lost."""
        root, entity = self._keys[column.name], self._contract.entity or ""
        use = f"date-shift {column.transform.days}"
        return tokens.column_key(root, self._contract.name, entity, use)

    def _refuse_text(self, cells: pa.Array) -> None:
        kind = cells.type
        if pa.types.is_dictionary(kind):
            cells = cells.cast(kind.value_type)
        refuse(compute.greater(compute.binary_length(cells), 0), "holds free text")


@contextmanager
def _naming(column: str) -> Iterator[None]:
    """Tells a bad cell which column it is of."""
    try:
        yield
    except BadCell as bad:
        bad.column = column
        raise


def _combined(values: npt.NDArray[np.float64]) -> pa.Array:
    """One value a row: the number itself, or the position of the one among a vocabulary's."""
    return pa.array(values[:, 0] if values.shape[1] == 1 else values.argmax(axis=1))


def matrix(batches: Sequence[Sanitised]) -> npt.NDArray[np.float64]:
    """The features of one or more batches, ``float64[n, k]`` with columns contiguous, as they come."""
    rows = sum(len(batch.labels) for batch in batches)
    columns = np.empty((sum(part.shape[1] for part in batches[0].features), rows))
    first = 0
    for batch in batches:
        last, position = first + len(batch.labels), 0
        for part in batch.features:
            columns[position : position + part.shape[1], first:last] = part.T
            position += part.shape[1]
        first = last
    return columns.T


def _record_batch(columns: Mapping[str, pa.Array], rows: int) -> pa.RecordBatch:
    if columns:
        return pa.RecordBatch.from_pydict(dict(columns))
    # By way of a column, because a batch that never had one forgets how many rows it has.
    return pa.RecordBatch.from_pydict({"": pa.nulls(rows)}).select([])
