"""Parquet files: only the wanted column chunks are read, a few pages of each at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import dataset, parquet

from tacit.connect.sources.base import BATCH_ROWS, Request
from tacit.connect.sources.checks import attempt, check_columns, guarded
from tacit.connect.sources.files import DataFile
from tacit.connect.sources.filters import needed_columns, select_rows
from tacit.errors import TacitError

__all__ = ["ParquetFormat"]

BUFFER_BYTES = 64 * 1024
"""Read-ahead within one column chunk of a local file."""

PREFETCH_BYTES = 64 * 1024 * 1024
"""Most compressed bytes of a remote file that are fetched ahead."""


@dataclass(frozen=True, slots=True)
class ParquetFormat:
    """Parquet.

    Batches come from ``ParquetFile.iter_batches`` over buffered column readers, not from a
    ``pyarrow.dataset`` scan. Measured on 1 M rows, 20 of 27 columns, 2 cores: both take 0.06 s; with
    row groups of 1 M rows the scan, however little it reads ahead, holds a whole one decoded
    (peak 159 to 252 MB), and this 47 MB: memory does not depend on how the file was written.

    Checksums of pages are verified where the writer left them (by default pyarrow does not). Without
    them, damage within a page that still decodes cannot be told from data.
    """

    text: bool = False

    def schema(self, file: DataFile) -> pa.Schema:
        """The schema in the file's footer."""
        with file.open() as opened:
            return _schema(_open(file, opened))

    def batches(self, file: DataFile, request: Request) -> Generator[pa.RecordBatch]:
        """The wanted columns; row groups that the filter rules out by their statistics are skipped."""
        with file.open() as opened:
            content = _open(file, opened)
            schema = _schema(content)
            check_columns(file.place, schema.names, request.declared)
            leaves = _leaves(schema, needed_columns(file.place, request, schema))
            groups = attempt(
                lambda: _groups(content, opened, request, schema), _damaged(file), file.broken
            )
            if file.remote:
                content = _reopen(file, opened, content.metadata, leaves)
            yield from _rows(file, content, (groups, leaves), request)


def _rows(
    file: DataFile,
    content: parquet.ParquetFile,
    part: tuple[list[int], list[int]],
    request: Request,
) -> Iterator[pa.RecordBatch]:
    groups, leaves = part
    rows = 0
    # Over a network one by one: what was fetched of one row group is freed before the next.
    for chosen in [[group] for group in groups] if file.remote else [groups]:
        for batch in guarded(_start(content, chosen, leaves), _damaged(file), file.broken):
            rows += batch.num_rows
            yield select_rows(file.place, batch, request)
    if rows != sum(content.metadata.row_group(group).num_rows for group in groups):
        raise file.failure("the file holds fewer rows than its footer says")


def _start(
    content: parquet.ParquetFile, groups: list[int], leaves: list[int]
) -> Callable[[], Iterator[pa.RecordBatch]]:
    # By position, because by name "a" would also decode a column "a.b".
    return lambda: content.reader.iter_batches(
        BATCH_ROWS, row_groups=groups, column_indices=leaves, use_threads=True
    )


def _open(file: DataFile, opened: pa.NativeFile) -> parquet.ParquetFile:
    return attempt(
        lambda: parquet.ParquetFile(
            opened, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ),
        _damaged(file),
        file.broken,
    )


def _reopen(
    file: DataFile, opened: pa.NativeFile, metadata: parquet.FileMetaData, leaves: list[int]
) -> parquet.ParquetFile:
    """For a network: few, large reads, within ``PREFETCH_BYTES``."""
    sizes = [
        sum(group.column(leaf).total_compressed_size for leaf in leaves)
        for group in map(metadata.row_group, range(metadata.num_row_groups))
    ]
    whole = max(sizes, default=0) <= PREFETCH_BYTES
    buffer = 0 if whole else max(BUFFER_BYTES, PREFETCH_BYTES // len(leaves))
    return attempt(
        lambda: parquet.ParquetFile(
            opened,
            metadata=metadata,
            buffer_size=buffer,
            pre_buffer=whole,
            page_checksum_verification=True,
        ),
        _damaged(file),
        file.broken,
    )


def _schema(content: parquet.ParquetFile) -> pa.Schema:
    return content.schema_arrow.remove_metadata()


def _groups(
    content: parquet.ParquetFile, opened: pa.NativeFile, request: Request, schema: pa.Schema
) -> list[int]:
    if request.where is None or not content.num_row_groups:
        return list(range(content.num_row_groups))
    fragment = dataset.ParquetFileFormat().make_fragment(opened)
    possible = fragment.subset(request.where, schema=schema)
    return [group.id for group in possible.row_groups]


def _leaves(schema: pa.Schema, names: tuple[str, ...]) -> list[int]:
    """The positions of the column chunks of some columns; a nested column has several."""
    found: list[int] = []
    position = 0
    for field in schema:
        width = _width(field.type)
        if field.name in names:
            found += range(position, position + width)
        position += width
    return found


def _width(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    fields = [kind.field(index) for index in range(kind.num_fields)]
    if pa.types.is_map(kind):
        fields = [kind.key_field, kind.item_field]
    return sum(_width(field.type) for field in fields) if fields else 1


def _damaged(file: DataFile) -> Callable[[Exception], TacitError]:
    return lambda _error: file.failure("this is not a whole Parquet file")
