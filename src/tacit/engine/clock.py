"""The machine's clock."""

from __future__ import annotations

import time

from tacit.types import Milliseconds

__all__ = ["wall_clock"]


def wall_clock() -> Milliseconds:
    """The machine's time."""
    return Milliseconds(time.time_ns() // 1_000_000)
