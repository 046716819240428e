"""The k-anonymity and l-diversity gate on a whole data set's coarser quasi-identifiers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.errors import ConfigError
from tacit.policy.contract import Anonymity

__all__ = ["PERSON", "Gate"]

PERSON = ""
"""Column of the gated results that says whose row each is; no column of a contract has this name."""

_NOTHING = pa.scalar(b"\xff", pa.binary())
"""Stands for an empty cell: no text in UTF-8."""


@dataclass(slots=True)
class Gate:
    """Counts groups batch by batch; memory grows with the number of groups (and people), not of rows.

    Args:
        anonymity: What must hold.
        quasi: Names of the quasi-identifiers.
        sensitive: Names of the sensitive columns.

    Reference:
        k-anonymity: Sweeney, IJUFKS 10(5), 2002, definition 3. Distinct l-diversity: Machanavajjhala
        et al., TKDD 1(1), 2007, section 4.
    """

    anonymity: Anonymity
    quasi: tuple[str, ...]
    sensitive: tuple[str, ...]
    _groups: pa.Table | None = None
    _people: pa.Table | None = None
    _values: dict[str, pa.Table] = field(default_factory=dict)
    _seen: list[bytes] = field(default_factory=list)
    _again: int = 0

    def add(self, results: pa.RecordBatch) -> None:
        """Counts the rows of one batch.

        Args:
            results: The coarser values, with every column that the gate was told of.
        """
        keys = self.keys(results)
        if PERSON in results.schema.names:
            self._add_people(keys, results.column(PERSON))
        else:
            self._add_rows(keys)
        if self.anonymity.l > 1:
            for name in self.sensitive:
                self._add_values(name, keys, results.column(name))

    def _add_rows(self, keys: pa.Array) -> None:
        counted = pa.table({"key": keys}).group_by("key").aggregate([([], "count_all")])
        counted = counted.rename_columns(["key", "size"])
        if self._groups is not None:
            both = pa.concat_tables([self._groups, counted])
            counted = both.group_by("key").aggregate([("size", "sum")])
            counted = counted.rename_columns(["key", "size"])
        self._groups = counted

    def _add_people(self, keys: pa.Array, people: pa.Array) -> None:
        """Whoever has many rows hides nobody: people are counted, not rows."""
        pairs = pa.table({"key": keys, "person": people})
        if self._people is not None:
            pairs = pa.concat_tables([self._people, pairs])
        self._people = pairs.group_by(["key", "person"]).aggregate([])
        counted = self._people.group_by("key").aggregate([("person", "count")])
        self._groups = counted.rename_columns(["key", "size"])

    def _add_values(self, name: str, keys: pa.Array, cells: pa.Array) -> None:
        pairs = pa.table({"key": keys, "value": _as_bytes(cells)})
        known = self._values.get(name)
        both = pairs if known is None else pa.concat_tables([known, pairs])
        self._values[name] = both.group_by(["key", "value"]).aggregate([])

    def see(self, results: pa.RecordBatch | None) -> None:
        """Counts one batch of the first pass, None if nothing is left of it, and remembers its digest."""
        self._seen.append(self._digest(results))
        if results is not None and results.num_rows:
            self.add(results)

    def see_again(self, place: str, results: pa.RecordBatch | None) -> None:
        """Holds one batch of the second pass to what was counted.

        Raises:
            ConfigError: It is another one: the groups may be too small by now.
        """
        self._again += 1
        if self._seen[self._again - 1 : self._again] != [self._digest(results)]:
            raise _changed(place)

    def require_all_again(self, place: str) -> None:
        """The end of the second pass.

        Raises:
            ConfigError: There was more in the first one.
        """
        if self._again != len(self._seen):
            raise _changed(place)

    def _digest(self, results: pa.RecordBatch | None) -> bytes:
        if results is None or not results.num_rows:
            return b""
        names = [*self.sensitive, *(name for name in results.schema.names if name == PERSON)]
        cells = [self.keys(results), *(_as_bytes(results.column(name)) for name in names)]
        names = [str(index) for index in range(len(cells))]
        batch = pa.RecordBatch.from_arrays(cells, names=names)
        return hashlib.sha256(batch.serialize()).digest()

    def keys(self, results: pa.RecordBatch) -> pa.Array:
        """One binary key a row, equal exactly where all quasi-identifiers are."""
        parts: list[pa.Array] = []
        for name in self.quasi:
            cells = _as_bytes(results.column(name))
            length = compute.binary_length(cells).cast(pa.string()).cast(pa.binary())
            parts += [length, cells]  # The length makes the joined text unambiguous.
        return compute.binary_join_element_wise(*parts, pa.scalar(b":", pa.binary()))

    def too_small(self) -> pa.Array:
        """Keys of the groups that violate k or l."""
        if self._groups is None:
            return pa.array([], pa.binary())
        every = _flat(self._groups.column("key"))
        small = compute.less(self._groups.column("size"), self.anonymity.k)
        bad = [_flat(self._groups.filter(small).column("key"))]
        for pairs in self._values.values():
            told = pairs.filter(compute.not_equal(pairs.column("value"), _NOTHING))
            distinct = told.group_by("key").aggregate([("value", "count")])
            diverse = compute.greater_equal(distinct.column("value_count"), self.anonymity.l)
            good = _flat(distinct.filter(diverse).column("key"))
            bad.append(every.filter(compute.invert(compute.is_in(every, value_set=good))))
        return pa.concat_arrays(bad).unique()

    def require(self, place: str) -> pa.Array:
        """Keys of the rows to leave out, none if every group is large and diverse enough.

        Raises:
            ConfigError: Some are not, and the contract says to refuse.
        """
        bad = self.too_small()
        if len(bad) and self.anonymity.violation == "refuse":
            what = f"k = {self.anonymity.k}"
            if self.anonymity.l > 1:
                what += f" and l = {self.anonymity.l}"
            raise ConfigError(
                "connect.anonymity",
                f"{place}: {len(bad)} combinations of {', '.join(self.quasi)} violate {what}",
                remedy="make these columns coarser, drop one, or lower k; nothing was used",
                file=place,
            )
        return bad

    def outside(self, results: pa.RecordBatch, bad: pa.Array) -> npt.NDArray[np.bool_]:
        """``bool[rows]``, true where a row belongs to none of the groups ``bad``."""
        member = compute.is_in(self.keys(results), value_set=bad)
        return ~np.asarray(member.to_numpy(zero_copy_only=False))


def _changed(place: str) -> ConfigError:
    return ConfigError(
        "connect.changed",
        f"{place}: the data changed while they were read: anonymity is counted first, for all of them",
        remedy="read a copy, or try again when nothing writes to them; nothing was used",
        file=place,
    )


def _as_bytes(cells: pa.Array) -> pa.Array:
    kind = cells.type
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        converted = cells.cast(pa.binary())
    else:
        converted = cells.cast(pa.string()).cast(pa.binary())
    return compute.fill_null(converted, _NOTHING)


def _flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
