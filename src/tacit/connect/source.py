"""CSV and Parquet files as a stream of Arrow record batches that holds only the wanted columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import csv, parquet

from tacit.errors import ConfigError

__all__ = ["cell_error", "record_batches"]

BLOCK_BYTES = 4 * 1024 * 1024
"""How much of a CSV file is parsed at once; also the largest record."""

BATCH_ROWS = 65_536
"""Rows of a Parquet batch."""

Item = TypeVar("Item")

_BROKEN = (pa.ArrowException, OSError, ValueError)


def record_batches(
    path: Path, form: str, declared: Sequence[str], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Streams the wanted columns.

    Parquet columns that are not wanted are never decoded; CSV ones are parsed, because the number of
    fields in a row must be right, but never kept. CSV cells come as binary, Parquet ones as stored.

    Args:
        path: The data file.
        form: ``csv`` or ``parquet``.
        declared: Every column that the file must have, no more and no fewer.
        wanted: The columns to deliver, a part of ``declared``.

    Raises:
        ConfigError: Missing or unreadable file, undeclared, missing or duplicate column, broken row.
    """
    if not path.is_file():
        raise ConfigError(
            "connect.missing-file",
            f"{path}: there is no such data file",
            remedy="correct 'source.path' in the contract",
            file=str(path),
        )
    return (_csv if form == "csv" else _parquet)(path, declared, wanted)


def cell_error(path: Path, row: int, column: str, problem: str) -> ConfigError:
    """The error for one bad cell: where it is and what is wrong, never what it holds.

    Args:
        path: The data file.
        row: 1-based data row; a CSV header does not count.
        column: Column name.
        problem: Completes the sentence "the cell ...".
    """
    return ConfigError(
        "connect.cell",
        f"{path}: data row {row}, column '{column}': the cell {problem}",
        remedy="correct the data or the contract; nothing was used",
        file=str(path),
        row=row,
        column=column,
    )


def _csv(path: Path, declared: Sequence[str], wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    _check_columns(path, _csv_header(path), declared)
    broken: list[csv.InvalidRow] = []
    rows = 0

    def on_broken_row(row: csv.InvalidRow) -> str:
        broken.append(row)
        return "error"

    def explain() -> ConfigError:
        if broken:
            row = broken[0]
            where = f"data row {row.number - 1}"
            problem = f"has {row.actual_columns} fields instead of {row.expected_columns}"
        else:
            where, problem = f"the record after data row {rows}", "cannot be parsed"
        return _source_error(path, f"{where} {problem}")

    convert = csv.ConvertOptions(
        column_types={name: pa.binary() for name in wanted},
        include_columns=list(wanted),
        null_values=[],
        strings_can_be_null=False,
    )
    for batch in _guarded(lambda: _open_csv(path, on_broken_row, convert), explain):
        yield batch
        rows += batch.num_rows


def _csv_header(path: Path) -> list[str]:
    def names() -> list[str]:
        reader = _open_csv(path, lambda _row: "skip", csv.ConvertOptions())
        return list(reader.schema.names)

    problem = "the header cannot be parsed, or the file is empty"
    return list(_guarded(names, lambda: _source_error(path, problem)))


def _open_csv(
    path: Path, on_broken_row: Callable[[csv.InvalidRow], str], convert: csv.ConvertOptions
) -> csv.CSVStreamingReader:
    return csv.open_csv(
        path,
        # One thread: only then does Arrow number the rows.
        read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(
            newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=on_broken_row
        ),
        convert_options=convert,
    )


def _parquet(
    path: Path, declared: Sequence[str], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    def explain() -> ConfigError:
        return _source_error(path, "this is not a whole Parquet file")

    def open_file() -> list[tuple[parquet.ParquetFile, list[str]]]:
        file = parquet.ParquetFile(path)
        return [(file, list(file.schema_arrow.names))]

    for file, names in _guarded(open_file, explain):
        with file:
            _check_columns(path, names, declared)
            batches = partial(file.iter_batches, BATCH_ROWS, columns=list(wanted))
            yield from _guarded(batches, explain)


def _guarded(
    start: Callable[[], Iterable[Item]], explain: Callable[[], ConfigError]
) -> Iterator[Item]:
    """Passes items on; Arrow's errors, which quote data, are replaced and not even chained."""
    iterator: Iterator[Item] | None = None
    while True:
        items: list[Item] = []
        try:
            iterator = iterator or iter(start())
            items.append(next(iterator))
        except StopIteration:
            return
        except _BROKEN:
            pass
        if not items:
            raise explain()
        yield from items


def _check_columns(path: Path, found: Sequence[str], declared: Sequence[str]) -> None:
    known, present = set(declared), Counter(found)
    if known.isdisjoint(present):
        # Probably no header at all: then these "names" are data and must not be shown.
        raise _source_error(path, "no declared column is in the header")
    # First, for the same reason: with a declared name missing, the others may be data.
    for name in declared:
        if name not in present:
            raise _column_error(
                path, name, "is in the contract but not in the file", "correct its name"
            )
    for name in found:
        if name not in known:
            raise _column_error(
                path,
                name,
                "is in the file but not in the contract",
                "declare it, if only to drop it",
            )
        if present[name] > 1:
            raise _column_error(path, name, "is in the file twice", "rename or remove one")


def _column_error(path: Path, column: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(
        "connect.column",
        f"{path}: column '{column}' {problem}",
        remedy=remedy,
        file=str(path),
        column=column,
    )


def _source_error(path: Path, problem: str) -> ConfigError:
    return ConfigError(
        "connect.source",
        f"{path}: {problem}",
        remedy="correct the data file; nothing was used",
        file=str(path),
    )
