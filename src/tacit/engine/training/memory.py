"""Records in memory that a site shares with its training child: one copy, which nobody can change."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.engine.training.protocol import Part, Records, octets
from tacit.errors import ConfigError, DecodeError
from tacit.party.workload import TrainingData

__all__ = ["SharedRecords", "map_records"]

ALIGNMENT = 64


@dataclass(slots=True)
class SharedRecords:
    """Training data whose arrays lie in a sealed memory file.

    Args:
        data: The records; views of the file.
        layout: What lies where.
        descriptor: The file's descriptor, which a child maps.
    """

    data: TrainingData
    layout: Records
    descriptor: int

    @classmethod
    def of(cls, data: TrainingData) -> SharedRecords:
        """Writes training data into a memory file.

        Raises:
            ConfigError: The operating system has no sealed memory files.
        """
        if not hasattr(os, "memfd_create"):
            raise ConfigError(
                "training.platform",
                "a training child needs Linux: this system has no memory files",
                remedy="serve sites on Linux, or run the job on the embedded engine: 'tacit run'",
            )
        descriptor = os.memfd_create("tacit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            parts = [data] if data.held_out is None else [data, data.held_out]
            layout = Records(tuple(_part(part) for part in parts))
            with os.fdopen(os.dup(descriptor), "wb", buffering=0) as file:
                for part in parts:
                    for array in _arrays(part):
                        _write(file.fileno(), octets(array))
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            return cls(map_records(descriptor, layout), layout, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Closes the file; the memory goes with the last view of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _part(data: TrainingData) -> Part:
    rows, columns = data.features.shape
    return Part(
        rows=rows,
        columns=columns,
        single=data.features.dtype == np.float32,
        # The order in memory counts: BLAS adds up in another order along another axis.
        by_column=data.features.flags.f_contiguous and not data.features.flags.c_contiguous,
        entities=data.entities is not None,
    )


def _arrays(data: TrainingData) -> Iterator[NDArray[np.generic]]:
    by_column = data.features.flags.f_contiguous and not data.features.flags.c_contiguous
    yield np.ascontiguousarray(data.features.T if by_column else data.features)
    yield np.ascontiguousarray(data.labels, dtype=np.int64)
    if data.entities is not None:
        yield np.ascontiguousarray(data.entities, dtype=np.int64)


def _write(descriptor: int, view: memoryview) -> None:
    padding = -view.nbytes % ALIGNMENT
    while view.nbytes:
        view = view[os.write(descriptor, view) :]
    os.write(descriptor, bytes(padding))


def map_records(descriptor: int, layout: Records) -> TrainingData:
    """The records in a memory file, read-only.

    Args:
        descriptor: Of the file; it may be closed afterwards.
        layout: What lies where.

    Raises:
        DecodeError: The file is too short for its layout.
    """
    size = os.fstat(descriptor).st_size
    memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b""
    place, found = 0, []
    for part in layout.parts:
        kind = np.dtype("<f4" if part.single else "<f8")
        wanted = [(kind, part.rows * part.columns), (np.dtype("<i8"), part.rows)]
        wanted += [(np.dtype("<i8"), part.rows)] if part.entities else []
        arrays = []
        for dtype, count in wanted:
            if place + count * dtype.itemsize > size:
                raise DecodeError("training.records", "the records are shorter than their layout")
            arrays.append(
                np.frombuffer(memory, dtype, count, place) if count else np.zeros(0, dtype)
            )
            place += count * dtype.itemsize
            place += -place % ALIGNMENT
        if part.by_column:
            features = arrays[0].reshape(part.columns, part.rows).T
        else:
            features = arrays[0].reshape(part.rows, part.columns)
        found.append((features, arrays[1], arrays[2] if part.entities else None))
    held_out = TrainingData(*found[1]) if len(found) > 1 else None
    return TrainingData(*found[0], held_out)
