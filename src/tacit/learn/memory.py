"""Memory that computations in small batches allocate again and again."""

from __future__ import annotations

import numpy as np

__all__ = ["keep_freed_memory"]

_LARGEST_THRESHOLD = 31 * 2**20


def keep_freed_memory() -> None:
    """Lets this process keep freed arrays of up to 31 MiB for the next ones.

    The C library of Linux (glibc) returns blocks above a threshold to the system as they are freed, and
    paging them in anew costs as much as the arithmetic on a micro-batch. The threshold is the largest
    block that was ever freed, up to 32 MiB: so one is allocated here, untouched, and freed. Elsewhere
    this does nothing.

    Reference:
        mallopt(3), M_MMAP_THRESHOLD: the dynamic threshold.
    """
    np.empty(_LARGEST_THRESHOLD, dtype=np.uint8)
