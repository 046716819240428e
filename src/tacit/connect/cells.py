"""Cells of one column as the kernels see them, and the one error: which cell breaks the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

__all__ = ["BadCell", "Bytes", "cell_bytes", "cell_offsets", "refuse", "validity"]


class BadCell(Exception):
    """Internal: the cells that break the contract.

    Args:
        index: 0-based position in the batch of the first of them.
        problem: Completes "the cell ...".
        all_bad: ``bool[rows]``, every cell with this problem, if that is known.

    Attributes:
        column: Name of the column, once whoever walks over the columns has filled it in.
    """

    def __init__(
        self, index: int, problem: str, all_bad: npt.NDArray[np.bool_] | None = None
    ) -> None:
        super().__init__(problem)
        self.index = index
        self.problem = problem
        self.all_bad = all_bad
        self.column = ""


def refuse(bad: pa.Array | npt.NDArray[np.bool_], problem: str) -> None:
    """Raises ``BadCell`` if any entry is true; an empty cell is no entry.

    Args:
        bad: ``bool[rows]``.
        problem: Completes "the cell ...".
    """
    if isinstance(bad, np.ndarray):
        if not bad.any():
            return
        marked = bad
    else:
        if not compute.any(bad).as_py():
            return
        marked = np.asarray(compute.fill_null(bad, False).to_numpy(zero_copy_only=False))
    raise BadCell(int(np.argmax(marked)), problem, marked)


@dataclass(frozen=True, slots=True)
class Bytes:
    """The cells of a column without copying them: cell ``i`` is ``data[starts[i] : starts[i] + lengths[i]]``.

    Args:
        data: uint8[m], the whole buffer; bytes outside the cells may be anything.
        starts: int64[n], ascending.
        lengths: int64[n], in bytes; 0 where the cell is null.
        valid: bool[n], false where the cell is null.
    """

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_]


def cell_bytes(cells: pa.Array) -> Bytes:
    """The UTF-8 text of every cell; numbers and dates as Arrow writes them (``7``, ``2000-01-02``).

    Args:
        cells: Text, or of a type that Arrow can cast to text; slices and dictionaries are respected.
    """
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        cells = cells.cast(pa.string())
    offsets = cell_offsets(cells).astype(np.int64)
    data_buffer = cells.buffers()[2]
    if data_buffer is None:
        data = np.zeros(0, dtype=np.uint8)
    else:
        data = np.frombuffer(data_buffer, dtype=np.uint8)
    lengths = offsets[1:] - offsets[:-1]
    valid = validity(cells)
    if cells.null_count:
        # A null may still have bytes beneath it: they are no cell.
        lengths[~valid] = 0
    return Bytes(data, offsets[:-1], lengths, valid)


def cell_offsets(cells: pa.Array) -> npt.NDArray[np.integer[Any]]:
    """Where each cell of text begins and the last one ends, [n + 1], without copying."""
    if len(cells) == 0:
        return np.zeros(1, dtype=np.int32)
    kind = np.int64 if pa.types.is_large_string(cells.type) else np.int32
    stored = np.frombuffer(cells.buffers()[1], kind, cells.offset + len(cells) + 1)
    return np.asarray(stored[cells.offset :])


def validity(cells: pa.Array) -> npt.NDArray[np.bool_]:
    """bool[n], false where a cell is null."""
    if cells.null_count == 0:
        return np.ones(len(cells), dtype=np.bool_)
    return np.asarray(cells.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
