from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.connect.anonymity import PERSON, Gate
from tacit.errors import ConfigError
from tacit.policy.contract import Anonymity


def gate(k: int, l: int = 1, violation: str = "refuse") -> Gate:  # noqa: E741
    anonymity = Anonymity(k=k, l=l, violation=violation)  # type: ignore[arg-type]
    return Gate(anonymity, ("zip", "age"), ("disease",))


def batch(*rows: tuple[str | None, int | None, str | None]) -> pa.RecordBatch:
    zips, ages, diseases = zip(*rows, strict=True)
    return pa.RecordBatch.from_pydict(
        {
            "zip": pa.array(zips, pa.string()),
            "age": pa.array(ages, pa.int64()),
            "disease": pa.array(diseases, pa.string()),
        }
    )


def test_groups_are_counted_over_all_batches() -> None:
    made = gate(2)
    made.add(batch(("750", 40, "a"), ("751", 40, "a")))
    made.add(batch(("750", 40, "a"), ("751", 40, "b")))
    assert len(made.require("data")) == 0
    made.add(batch(("750", 50, "a")))
    with pytest.raises(ConfigError, match=r"data: 1 combinations of zip, age violate k = 2"):
        made.require("data")


def test_a_group_needs_different_sensitive_values() -> None:
    made = gate(2, 2)
    made.add(batch(("750", 40, "a"), ("750", 40, "a"), ("751", 40, "a"), ("751", 40, "b")))
    with pytest.raises(ConfigError, match="1 combinations of zip, age violate k = 2 and l = 2"):
        made.require("data")


def test_an_error_shows_no_value() -> None:
    made = gate(2)
    made.add(batch(("CANARY", 4711, "a")))
    with pytest.raises(ConfigError) as caught:
        made.require("data")
    assert "CANARY" not in str(caught.value)
    assert "4711" not in str(caught.value)


def test_rows_of_small_groups_can_be_left_out() -> None:
    made = gate(2, violation="suppress")
    rows = batch(("750", 40, "a"), ("7", 5040, "a"), ("750", 40, "b"), (None, 40, "b"))
    made.add(rows)
    bad = made.require("data")
    assert made.outside(rows, bad).tolist() == [True, False, True, False]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1", "11", "", None, "\x1f", "1:1"]),
            st.sampled_from([1, 11, None]),
            st.sampled_from(["a", "b", None]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_the_gate_agrees_with_counting(
    rows: list[tuple[str | None, int | None, str | None]],
    k: int,
    l: int,  # noqa: E741
    size: int,
) -> None:
    made = gate(k, l, "suppress")
    for start in range(0, len(rows), size):
        made.add(batch(*rows[start : start + size]))
    counts = Counter(row[:2] for row in rows)
    values = {key: {row[2] for row in rows if row[:2] == key} - {None} for key in counts}
    good = {key for key in counts if counts[key] >= k and (l == 1 or len(values[key]) >= l)}
    outside = made.outside(batch(*rows), made.require("data"))
    assert np.array_equal(outside, [row[:2] in good for row in rows])


def test_somebody_with_many_rows_hides_nobody() -> None:
    people = pa.array([1, 1, 1, 2, 3], pa.uint64())
    rows = batch(*[("750", 40, "a")] * 3, *[("751", 40, "a")] * 2)
    made = gate(2)
    made.add(rows.append_column(PERSON, people))
    with pytest.raises(ConfigError, match="1 combinations"):
        made.require("data")
    made.add(rows.slice(0, 1).append_column(PERSON, pa.array([9], pa.uint64())))
    assert len(made.require("data")) == 0
