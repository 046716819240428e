"""The memory of a process that holds keys."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os, resource, sys
from tacit.service.guard import guard_memory
if os.getuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    # A change of user leaves a process guarded already; as one that a user started it would not be.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
def reads():
    pid = os.fork()
    if pid == 0:
        try:
            open(f"/proc/{os.getppid()}/environ", "rb").read()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
before = reads()
guard_memory()
print(before, reads(), resource.getrlimit(resource.RLIMIT_CORE))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_memory_is_not_for_others():
    """A process of the same user, as a training child is, reads nothing of one that is guarded."""
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert made.stdout.split(maxsplit=2) == ["True", "False", "(0, 0)\n"]
