"""Data in files: where they lie, and one stream over all of them, in sorted order."""

from __future__ import annotations

import glob
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect.sources.base import Piece, Request
from tacit.connect.sources.checks import (
    BROKEN,
    attempt,
    check_wanted,
    missing_error,
    source_error,
    steady,
)
from tacit.errors import LocalProtocolError, TacitError
from tacit.policy.server import Server

__all__ = ["DataFile", "FileSource", "Format", "LocalFile", "local_files"]


class DataFile(Protocol):
    """One file, opened anew for each pass."""

    @property
    def place(self) -> str:
        """Path or URL, for errors."""

    @property
    def remote(self) -> bool:
        """Whether each read is a request over a network."""

    @property
    def broken(self) -> tuple[type[Exception], ...]:
        """What reading may raise."""

    @abstractmethod
    def open(self) -> pa.NativeFile:
        """The file, to be read from any place in it.

        Raises:
            ConfigError: It is not there, or may not be read.
            TransportError: Where it lies cannot be reached.
        """

    @abstractmethod
    def failure(self, problem: str) -> TacitError:
        """The error for a file that could not be read.

        Args:
            problem: What is wrong, if all of its bytes arrived.
        """


class Format(Protocol):
    """How a file is written."""

    @property
    def text(self) -> bool:
        """Whether cells are text as bytes."""

    def schema(self, file: DataFile) -> pa.Schema:
        """Names and stored types of one file."""

    def batches(self, file: DataFile, request: Request) -> Generator[pa.RecordBatch]:
        """The wanted columns of one file, after a check of its own names; all rows or an error."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    path: Path
    remote: bool = False
    broken: tuple[type[Exception], ...] = BROKEN

    @property
    def place(self) -> str:
        """The path."""
        return str(self.path)

    def open(self) -> pa.NativeFile:
        """The open file. It is not mapped: to cut a mapped file short kills the process."""
        return attempt(
            lambda: pa.OSFile(str(self.path)), lambda _error: self.failure("it cannot be opened")
        )

    def failure(self, problem: str) -> TacitError:
        """Data that cannot be read."""
        return source_error(self.place, problem)


@dataclass(frozen=True, slots=True)
class FileSource:
    """Files of one format as one data set.

    Args:
        place: Path, pattern or URL, for errors.
        form: How the files are written.
        files: Lists the files, in the order in which they are read.
    """

    place: str
    form: Format
    files: Callable[[], Sequence[DataFile]]

    @property
    def text(self) -> bool:
        """Whether cells come as bytes."""
        return self.form.text

    def schema(self, unseen: Collection[str] = ()) -> pa.Schema:
        """Names and stored types of the first file; ``batches`` holds all others to them."""
        return self.form.schema(self.files()[0])

    def batches(
        self,
        declared: Sequence[str],
        wanted: Sequence[str],
        where: compute.Expression | None = None,
    ) -> Iterator[Piece]:
        """Streams one file after the other; each one's columns are checked when it is opened."""
        check_wanted(declared, wanted)
        if self.text and where is not None:
            raise LocalProtocolError(
                "connect.filter", "a CSV file is filtered after its cells are parsed, not before"
            )
        return steady(self._pieces(Request(tuple(declared), tuple(wanted), where)))

    def _pieces(self, request: Request) -> Iterator[Piece]:
        for file in self.files():
            rows = 0
            found = self.form.batches(file, request)
            for batch in found:
                yield Piece(file.place, rows, batch)
                rows += batch.num_rows


def local_files(base: Path, server: Server) -> list[DataFile]:
    """The files that a path or pattern names, sorted.

    Args:
        base: Folder that the path is relative to.
        server: Of type ``local``.

    Raises:
        ConfigError: There is none.
    """
    name = server.path or ""
    path = base / name
    if path.is_file():  # a file may have a name that reads like a pattern
        return [LocalFile(path)]
    found = sorted(glob.glob(name, root_dir=base))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not found or not all((base / file).is_file() for file in found):
        raise missing_error(str(path), "data file", "path")
    return [LocalFile(base / file) for file in found]
