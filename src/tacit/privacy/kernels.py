"""Compiled inner loops, where numba is installed (the extra ``fast``).

Every one has a NumPy counterpart that gives the same result bit for bit and is the tested reference.
Machine code is compiled in this process and never stored: nobody can plant any. numba is imported
with the first large request, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AddDraws", "compiled_add_draws"]

AddDraws = Callable[[NDArray[np.uint32], NDArray[np.uint32], int, NDArray[np.int64]], int]
"""``noise.add_draws`` and its compiled twin."""


@lru_cache(maxsize=1)
def compiled_add_draws() -> AddDraws | None:
    """The compiled twin of ``noise.add_draws``, or None without numba; one second at first.

    Checked by ``tests/unit/test_privacy_noise.py::test_the_compiled_loop_gives_the_same_samples``.
    """
    try:
        import numba  # noqa: PLC0415 - optional and slow to import
    except ImportError:
        return None

    def array(kind: Any, *, readonly: bool) -> Any:
        return numba.types.Array(kind, 1, "C", readonly=readonly)

    words, sums = array(numba.uint32, readonly=False), array(numba.int64, readonly=False)
    entries = array(numba.uint32, readonly=True)
    signature = numba.uint32(words, entries, numba.int64, sums)
    compiled: AddDraws = numba.njit([signature], nogil=True)(_add_draws)
    return compiled


def _add_draws(words: Any, entries: Any, coefficient: Any, total: Any) -> Any:
    """Source of the compiled loop, in the subset of Python that numba compiles."""
    mask = np.uint32(entries.size - 1)
    middle = np.int64(entries.size // 2 - 1)
    least = np.uint32(0xFFFFFFFF)
    for i in range(words.size):
        word = words[i]
        entry = entries[word & mask]
        least = min(least, word ^ entry)
        value = min(word, entry) & mask  # the column where it is kept, the alias elsewhere
        total[i] += coefficient * (np.int64(value) - middle)
    return least
