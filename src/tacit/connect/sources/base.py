"""What every data source is: a schema, and a stream of record batches with their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

__all__ = ["BATCH_ROWS", "Piece", "Request", "Source"]

BATCH_ROWS = 65_536
"""Most rows of a batch (of CSV: what 4 MiB of text hold)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One batch and where it comes from.

    Args:
        place: File, object or table, for errors.
        first_row: 0-based number within ``place`` of the batch's first row; where rows are filtered,
            counted among those that passed.
        batch: The wanted columns, in the wanted order, at most ``BATCH_ROWS`` rows (CSV excepted).
    """

    place: str
    first_row: int
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a source.

    Args:
        declared: Every column that there must be, no more and no fewer.
        wanted: The columns to deliver, in this order; a part of ``declared``.
        where: Which rows to deliver, or None for all; may name any declared column.
    """

    declared: tuple[str, ...]
    wanted: tuple[str, ...]
    where: compute.Expression | None


class Source(Protocol):
    """A data set at rest, whatever holds it."""

    @property
    def text(self) -> bool:
        """Whether cells come as bytes, as written (CSV), rather than of a stored type."""

    @property
    def place(self) -> str:
        """File pattern, URL or table, for errors; never holds a login."""

    def schema(self, unseen: Collection[str] = ()) -> pa.Schema:
        """Names and stored types, without any value.

        Args:
            unseen: Columns that are not looked at where that takes looking at cells (SQLite); their
                type is then null.

        Raises:
            ConfigError: The source is missing, broken or refuses the login.
            TransportError: It cannot be reached.
        """

    def batches(
        self,
        declared: Sequence[str],
        wanted: Sequence[str],
        where: compute.Expression | None = None,
    ) -> Iterator[Piece]:
        """Streams the wanted columns in a fixed order, holding a few batches at a time.

        Whatever goes wrong, the iterator raises; it ends only after the last row.

        Guarantee:
            Of a column that is neither wanted nor read by ``where``, no cell is decoded (Parquet, Arrow
            IPC) or leaves the database. CSV rows are split into all of their cells, but no other is
            kept. Checked by
            tests/unit/test_connect_sources_files.py::test_a_parquet_filter_skips_row_groups_and_columns
            and tests/unit/test_connect_sources_postgres.py::test_only_the_wanted_columns_are_selected.

        Args:
            declared: Every column that every file, or the table, must have: no more, no fewer.
            wanted: The columns to deliver. No other is decoded or selected, but those of ``where``.
            where: Which rows to deliver; may name any declared column.

        Raises:
            ConfigError: Undeclared, missing or duplicate column, broken row or file, columns whose
                type changes on the way.
            TransportError: The connection is lost.
            LocalProtocolError: The source is text and ``where`` is given, or nothing is wanted.
        """
