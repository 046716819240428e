"""Files that are either whole or absent: write to a temporary file, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tacit.errors import ConfigError, TransportError

__all__ = ["hold", "make_folder", "read_limited", "write_atomic"]

PRIVATE = 0o600
PUBLIC = 0o644


def write_atomic(path: Path, data: bytes, *, private: bool = False, replace: bool = True) -> None:
    """Writes ``data`` so that ``path`` holds all of it or is left as it was.

    Args:
        path: Destination; its folder must exist.
        data: The whole content.
        private: Mode 0600 instead of 0644.
        replace: Whether an existing file may be replaced.

    Raises:
        ConfigError: ``path`` exists and ``replace`` is false.
        TransportError: The disk is full or refuses the write; nothing is left behind.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), PRIVATE if private else PUBLIC)
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
            os.unlink(temporary)
        _sync_folder(path.parent)
    except FileExistsError as error:
        _discard(temporary)
        raise ConfigError(
            "file.exists",
            f"{path} exists already",
            remedy="choose another place or remove it",
            file=str(path),
        ) from error
    except OSError as error:
        _discard(temporary)
        raise TransportError(
            "file.write",
            f"cannot write {path}: {error.strerror}",
            remedy="check the folder, its permissions and its free space, then try again",
            file=str(path),
        ) from error


def make_folder(folder: Path) -> None:
    """Creates a new folder, and its parents where they are missing.

    Raises:
        ConfigError: It exists already, or cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except (OSError, ValueError) as error:
        taken = isinstance(error, FileExistsError)
        strerror = error.strerror if isinstance(error, OSError) else "not a path"
        reason = "exists already" if taken else f"cannot be made: {strerror}"
        raise ConfigError(
            "folder.exists" if taken else "folder.create",
            f"folder {folder} {reason}",
            remedy="choose another place, or remove what is there",
            file=str(folder),
        ) from error


def read_limited(path: Path, limit: int) -> bytes:
    """The content of ``path``, which may hold at most ``limit`` bytes.

    Raises:
        ConfigError: The file is missing, unreadable, a pipe or larger than ``limit``.
    """
    try:
        if path.is_fifo():  # one that nobody writes to would be waited for without end
            raise ConfigError(
                "file.read",
                f"cannot read {str(path)!r}: it is a pipe, not a file",
                remedy="save its content to a file first",
                file=str(path),
            )
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(
            "file.read",
            f"cannot read {str(path)!r}: {reason}",
            remedy="check the path and its permissions",
            file=str(path),
        ) from error
    if len(data) > limit:
        raise ConfigError(
            "file.too-large",
            f"{path} is larger than {limit} bytes",
            remedy="check that this is the right file",
            file=str(path),
        )
    return data


@contextlib.contextmanager
def hold(path: Path, mode: int = PRIVATE) -> Iterator[None]:
    """Holds a lock file for this process; the kernel lets go of it however the process ends.

    Args:
        path: The file; made if need be, and left behind.
        mode: Of a file that is made.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: It cannot be opened, or the file system knows no locks.
    """
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(temporary: str) -> None:
    if temporary:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
