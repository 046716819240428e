"""Dates moved by a secret number of days that is the same for all dates of one entity."""

from __future__ import annotations

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.cells import BadCell, validity
from tacit.connect.tokens import prf

__all__ = ["shift_dates"]


def shift_dates(dates: pa.Array, entities: pa.Array, key: bytes, days: int) -> pa.Array:
    """Every date moved by its entity's offset: 1 to ``days`` days earlier or later; nulls stay.

    Guarantee:
        To whoever does not hold the key, an entity's offset is one of 2 * ``days`` equally likely ones
        (the bias is below 2 * ``days`` / 2**64) and independent of other entities'; no date stays as it
        was. Intervals between dates of one entity are kept: whoever knows one of the dates knows
        them all, and a rare pattern of intervals may point to a person.
        Checked by tests/unit/test_connect_dates.py::test_offsets_are_uniform_and_never_zero and
        tests/unit/test_connect_dates.py::test_intervals_of_one_entity_are_kept.

    Args:
        dates: date32[n].
        entities: Whose date each is: text, integers or dates, n of them; null only where the date is.
        key: 32 bytes, from ``column_key``.
        days: The largest offset, at least 1.

    Raises:
        BadCell: A date has no entity or would leave the range of ``date32``.
        ValueError: ``days`` is below 1, the lengths differ, or the key has another size.

    Reference:
        Hripcsak et al., Preserving temporal relations in clinical data while maintaining privacy,
        JAMIA 23(6), 2016.
    """
    if days < 1:
        raise ValueError("a shift has at least one day")
    if len(dates) != len(entities):
        raise ValueError("every date has one entity")
    blocks, known = prf(entities, key, b"tacit date shift v1\0")
    present = validity(dates)
    orphans = present & ~known
    if orphans.any():
        raise BadCell(int(np.argmax(orphans)), "is a date of no known entity")
    drawn = (blocks.view("<u8")[:, 0] % np.uint64(2 * days)).astype(np.int64)
    # 0 .. 2 days - 1 -> -days .. -1, 1 .. days: an offset of 0 would leave the date as it is.
    offsets = drawn - days + (drawn >= days)
    numbers = dates.cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False)
    moved = numbers.astype(np.int64) + offsets
    limits = np.iinfo(np.int32)
    outside = present & ((moved < limits.min) | (moved > limits.max))
    if outside.any():
        raise BadCell(int(np.argmax(outside)), "lies too far in the past or future to be moved")
    return pa.array(moved.astype(np.int32), mask=~present).cast(pa.date32())
