"""Arrow IPC files (Feather version 2): one record batch at a time, its wanted columns only."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import ipc

from tacit.connect.sources.base import Request
from tacit.connect.sources.checks import attempt, check_columns
from tacit.connect.sources.files import DataFile
from tacit.connect.sources.filters import needed_columns, select_rows
from tacit.errors import TacitError

__all__ = ["IpcFormat"]


@dataclass(frozen=True, slots=True)
class IpcFormat:
    """The IPC file format; the streaming format, which has no footer, is refused as not whole.

    A record batch is the least that can be read of such a file, so memory grows with the batches
    that its writer chose.
    """

    text: bool = False

    def schema(self, file: DataFile) -> pa.Schema:
        """The schema in the file's footer."""
        with file.open() as opened:
            return _open(file, opened, None).schema.remove_metadata()

    def batches(self, file: DataFile, request: Request) -> Generator[pa.RecordBatch]:
        """The wanted columns of each record batch."""
        with file.open() as opened:
            schema = _open(file, opened, None).schema.remove_metadata()
            check_columns(file.place, schema.names, request.declared)
            names = needed_columns(file.place, request, schema)
            content = _open(file, opened, sorted(map(schema.get_field_index, names)))
            for index in range(content.num_record_batches):
                batch = attempt(_get(content, index), _damaged(file), file.broken)
                yield select_rows(file.place, batch.replace_schema_metadata(), request)


def _open(
    file: DataFile, opened: pa.NativeFile, fields: list[int] | None
) -> ipc.RecordBatchFileReader:
    options = ipc.IpcReadOptions(included_fields=fields)
    return attempt(lambda: ipc.open_file(opened, options=options), _damaged(file), file.broken)


def _get(content: ipc.RecordBatchFileReader, index: int) -> Callable[[], pa.RecordBatch]:
    def batch() -> pa.RecordBatch:
        found = content.get_batch(index)
        # Offsets are read as they lie in the file: wrong ones would reach beyond the buffers.
        found.validate(full=True)
        return found

    return batch


def _damaged(file: DataFile) -> Callable[[Exception], TacitError]:
    return lambda _error: file.failure("this is not a whole Arrow IPC file")
