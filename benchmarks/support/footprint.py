"""How much memory this process holds, now and at its peak."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def in_use() -> int:
    """Bytes of memory that this process holds now."""
    if STATUS.exists():
        return _status("VmRSS")
    return peak()


def peak() -> int:
    """Most bytes that this process held since ``forget_peak``, or since its start."""
    if STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Lets the peak start anew where the system permits it."""
    if CLEAR.exists() and os.access(CLEAR, os.W_OK):
        CLEAR.write_text("5")


def _status(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {field}")
