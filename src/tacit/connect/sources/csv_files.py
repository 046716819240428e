"""CSV files: cells as bytes, as they are written."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import csv

from tacit.connect.sources.base import Request
from tacit.connect.sources.checks import attempt, check_columns, guarded
from tacit.connect.sources.files import DataFile
from tacit.errors import TacitError

__all__ = ["CsvFormat"]

BLOCK_BYTES = 4 * 1024 * 1024
"""How much of a file is parsed at once; also the largest record.

Measured: with what Arrow reads ahead, at most 160 MB are held, for 390 MB and for 1.6 GB of CSV.
"""

COMPRESSIONS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
"""By the suffix of the file."""


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """A header and one record a line (RFC 4180), perhaps compressed as the file's suffix says.

    Args:
        delimiter: The character between two cells.
    """

    delimiter: str = ","
    text: bool = True

    def schema(self, file: DataFile) -> pa.Schema:
        """All columns, as binary: a CSV file has no types."""
        return pa.schema([(name, pa.binary()) for name in self._header(file)])

    def batches(self, file: DataFile, request: Request) -> Generator[pa.RecordBatch]:
        """Cells as bytes. Unwanted ones are parsed, as rows must have all of them, but not kept."""
        check_columns(file.place, self._header(file), request.declared)
        broken: list[csv.InvalidRow] = []
        rows = 0

        def on_broken_row(row: csv.InvalidRow) -> str:
            broken.append(row)
            return "error"

        def explain(_error: Exception) -> TacitError:
            if not broken:
                return file.failure(f"the record after data row {rows} cannot be parsed")
            row = broken[0]
            return file.failure(
                f"data row {row.number - 1} has {row.actual_columns} fields instead of "
                f"{row.expected_columns}"
            )

        convert = csv.ConvertOptions(
            column_types={name: pa.binary() for name in request.wanted},
            include_columns=list(request.wanted),
            null_values=[],
            strings_can_be_null=False,
        )
        with file.open() as opened:
            start = _reader(self, (opened, file.place), on_broken_row, convert)
            for batch in guarded(start, explain, file.broken):
                yield batch
                rows += batch.num_rows

    def _header(self, file: DataFile) -> list[str]:
        with file.open() as opened:
            convert = csv.ConvertOptions()
            start = _reader(self, (opened, file.place), lambda _row: "skip", convert)
            problem = "the header cannot be parsed, or the file is empty"
            # Names that are not UTF-8 fail only when they are asked for.
            return attempt(
                lambda: list(start().schema.names),
                lambda _error: file.failure(problem),
                file.broken,
            )


def _reader(
    form: CsvFormat,
    source: tuple[pa.NativeFile, str],
    on_broken_row: Callable[[csv.InvalidRow], str],
    convert: csv.ConvertOptions,
) -> Callable[[], Any]:
    opened, place = source

    def start() -> csv.CSVStreamingReader:
        compression = COMPRESSIONS.get(place.rpartition(".")[2])
        return csv.open_csv(
            pa.CompressedInputStream(opened, compression) if compression else opened,
            # One thread: only then does Arrow number the rows.
            read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=csv.ParseOptions(
                delimiter=form.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=on_broken_row,
            ),
            convert_options=convert,
        )

    return start
