from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest

from tacit.connect.cells import BadCell
from tacit.connect.transforms import SPARSE_ZIP3, coarser, feature_values, mask, zip3
from tacit.policy.column import Column, Options
from tacit.policy.transform import Transform


def test_a_prefix_must_leave_something_out() -> None:
    how = Transform(method="prefix", length=3)
    assert coarser(pa.array(["75001", "äöüß"]), how).to_pylist() == ["750", "äöü"]
    with pytest.raises(BadCell) as caught:
        coarser(pa.array(["75001", "750"]), how)
    assert caught.value.index == 1


def test_dates_become_years_or_decades() -> None:
    days = pa.array([date(1959, 12, 31), date(1960, 1, 1), date(2004, 2, 29)])
    assert coarser(days, Transform(method="year")).to_pylist() == [1959, 1960, 2004]
    assert coarser(days, Transform(method="decade")).to_pylist() == [1950, 1960, 2000]


def test_ages_are_completed_years_and_capped_at_ninety() -> None:
    how = Transform(method="age", on=date(2026, 3, 1), width=1)
    births = [
        (date(2026, 3, 1), 0),
        (date(2004, 2, 29), 22),
        (date(2004, 3, 1), 22),
        (date(2004, 3, 2), 21),
        (date(1936, 3, 2), 89),
        (date(1936, 3, 1), 90),
        (date(1900, 1, 1), 90),
    ]
    days = pa.array([birth for birth, _ in births])
    assert coarser(days, how).to_pylist() == [age for _, age in births]
    tens = Transform(method="age", on=date(2026, 3, 1), width=10)
    assert coarser(days, tens).to_pylist() == [0, 20, 20, 20, 80, 90, 90]
    with pytest.raises(BadCell):
        coarser(pa.array([date(2026, 3, 2)]), how)


def test_bins_give_their_lower_edge() -> None:
    how = Transform(method="bins", width=10)
    assert coarser(pa.array([0, 9, 10, -1]), how).to_pylist() == [0, 0, 10, -10]
    assert coarser(pa.array([9.99, -0.5]), how).to_pylist() == [0.0, -10.0]
    with pytest.raises(BadCell):
        coarser(pa.array([1.0, float("nan")]), how)


def test_sparse_zip_areas_become_zeros() -> None:
    codes = pa.array(["75001", "03601", "89012-3456", "893451234", None, "20500"])
    assert zip3(codes).to_pylist() == ["750", "000", "000", "000", None, "000"]
    assert len(SPARSE_ZIP3) == 21
    for bad in ("7500", "75001-12", "SW1A 1AA"):
        with pytest.raises(BadCell) as caught:
            zip3(pa.array(["75001", bad]))
        assert caught.value.index == 1


def test_a_mask_tells_neither_text_nor_length() -> None:
    assert mask(pa.array(["Ada", "Bartholomew", None]), 0).to_pylist() == ["****", "****", None]
    assert mask(pa.array(["4711-0815"]), 4).to_pylist() == ["****0815"]
    with pytest.raises(BadCell):
        mask(pa.array(["47110815"]), 4)


def test_numbers_are_top_and_bottom_coded() -> None:
    how = Transform(method="clamp", lower=0.0, upper=90.0)
    assert coarser(pa.array([-3, 50, 104, None]), how).to_pylist() == [0.0, 50.0, 90.0, None]
    assert coarser(pa.array([float("inf"), -0.5]), how).to_pylist() == [90.0, 0.0]
    with pytest.raises(BadCell):
        coarser(pa.array([float("nan")]), how)


def test_ages_in_years_are_grouped_too() -> None:
    how = Transform(method="age", width=5)
    assert coarser(pa.array([0, 4, 5, 89, 90, 117]), how).to_pylist() == [0, 0, 5, 85, 90, 90]
    with pytest.raises(BadCell):
        coarser(pa.array([-1]), how)


def test_empty_cells_stay_empty() -> None:
    for how in (
        Transform(method="bins", width=10),
        Transform(method="clamp", lower=0.0, upper=9.0),
        Transform(method="age", width=10),
    ):
        assert coarser(pa.array([5, None]), how).to_pylist()[1] is None
    days = pa.array([date(1960, 1, 1), None])
    for how in (Transform(method="year"), Transform(method="decade")):
        assert coarser(days, how).to_pylist() == [1960, None]


@pytest.mark.parametrize(
    ("lowest", "highest", "width"),
    [(-5e-324, 20.0, 10), (-1.7004642349811788e16, -5526889705545814.0, 3)],
)
def test_a_bin_is_within_the_public_bounds(lowest: float, highest: float, width: int) -> None:
    column = Column(
        name="x",
        logicalType="number",
        classification="feature",
        transform=Transform(method="bins", width=width),
        logicalTypeOptions=Options(minimum=lowest, maximum=highest),
        bounds_source="instrument",
    )
    (bounds,) = column.features()
    values = feature_values(pa.array([lowest, highest]), column)
    assert values.min() >= bounds.lower
    assert values.max() <= bounds.upper
