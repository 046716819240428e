"""One suite at a time in a folder: results are shared there, and the report belongs to who writes last."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tacit.errors import ConfigError, RoundAborted
from tacit.files import hold

__all__ = ["NAME", "held"]

NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Of a file system without locks: there the folder is used as it is."""


@contextmanager
def held(folder: Path, *, private: bool = False) -> Iterator[None]:
    """Holds a folder for this process; the kernel lets go of it however the process ends.

    Guarantee: of two suites in one folder the second one ends before it runs or writes anything. Checked by
    ``tests/attack/test_suite.py::test_a_folder_is_one_suites_at_a_time``.

    Raises:
        RoundAborted: Another process holds it; retryable.
        ConfigError: The lock cannot be opened.
    """
    with contextlib.ExitStack() as locked:
        try:
            locked.enter_context(hold(folder / NAME, 0o600 if private else 0o666))
        except BlockingIOError as error:
            raise RoundAborted(
                "attack.busy",
                f"another attack suite works in {folder}",
                retryable=True,
                remedy="wait until it is done and run the command again, or name another folder with --out",
                file=str(folder),
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise _unusable(folder, error) from error
        yield


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        "attack.folder",
        f"cannot lock {folder}: {error.strerror}",
        remedy="check its permissions, or name another folder with --out",
        file=str(folder),
    )
