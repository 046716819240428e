from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from tacit.connect.cells import BadCell
from tacit.connect.dates import shift_dates

KEY = bytes(range(32))


def offsets(count: int, days: int, key: bytes = KEY) -> np.ndarray:
    dates = pa.array(np.zeros(count, dtype=np.int32)).cast(pa.date32())
    moved = shift_dates(dates, pa.array(np.arange(count)), key, days)
    return moved.cast(pa.int32()).to_numpy()


def test_offsets_are_uniform_and_never_zero() -> None:
    drawn = offsets(40_000, 5)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
    # Chi-squared with 9 degrees of freedom: 40 has a chance below 1e-5, and the key is fixed.
    assert ((counts - 4_000) ** 2 / 4_000).sum() < 40
    assert set(offsets(50, 1).tolist()) == {-1, 1}


def test_other_keys_give_other_offsets() -> None:
    same = np.mean(offsets(10_000, 50) == offsets(10_000, 50, bytes(32)))
    assert same < 0.03


def test_intervals_of_one_entity_are_kept() -> None:
    days = [date(2024, 2, 28), date(2024, 3, 1), date(1999, 12, 31), date(2024, 2, 28)]
    moved = shift_dates(pa.array(days), pa.array(["a", "a", "a", "b"]), KEY, 365).to_pylist()
    shift = moved[0] - days[0]
    assert timedelta(0) != abs(shift) <= timedelta(365)
    assert [after - before for before, after in zip(days[:3], moved[:3], strict=True)] == [
        shift
    ] * 3
    assert moved[3] - days[3] != shift


def test_nulls_stay_and_need_no_entity() -> None:
    dates = pa.array([None, date(2024, 1, 1), None])
    moved = shift_dates(dates, pa.array([None, 7, 8]), KEY, 10)
    assert moved.type == pa.date32()
    assert [day is None for day in moved.to_pylist()] == [True, False, True]


def test_a_date_without_an_entity_is_refused() -> None:
    dates = pa.array([date(2024, 1, 1), None, date(2024, 1, 2)])
    with pytest.raises(BadCell) as caught:
        shift_dates(dates, pa.array(["a", None, None]), KEY, 10)
    assert caught.value.index == 2


def test_a_date_at_the_end_of_the_range_is_refused() -> None:
    last = np.iinfo(np.int32).max
    dates = pa.array(np.full(40, last, dtype=np.int32)).cast(pa.date32())
    with pytest.raises(BadCell) as caught:
        shift_dates(dates, pa.array(np.arange(40)), KEY, 10)
    assert caught.value.index == int(np.argmax(offsets(40, 10) > 0))


def test_wrong_arguments_are_refused() -> None:
    one = pa.array([date(2024, 1, 1)])
    with pytest.raises(ValueError, match="one day"):
        shift_dates(one, pa.array(["a"]), KEY, 0)
    with pytest.raises(ValueError, match="entity"):
        shift_dates(one, pa.array(["a", "b"]), KEY, 1)
    with pytest.raises(ValueError, match="32 bytes"):
        shift_dates(one, pa.array(["a"]), KEY[:16], 1)
