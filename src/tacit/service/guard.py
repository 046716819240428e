"""What keeps the keys in a process's memory there."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

__all__ = ["guard_memory"]

PR_SET_DUMPABLE = 4


def guard_memory() -> None:
    """No core file of this process is ever written, and no process of the same user reads its memory.

    On Linux that goes for training children, too, which run as the user that the site runs as; root can
    read everything. Elsewhere only core files are prevented.

    Reference: Linux, prctl(2), PR_SET_DUMPABLE; ptrace(2), "Ptrace access mode checking".

    Guarantee: Checked by tests/unit/test_service_guard.py::test_memory_is_not_for_others.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
