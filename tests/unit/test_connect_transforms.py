from __future__ import annotations

import hashlib
import hmac
from datetime import date

import pyarrow as pa
import pytest

from tacit.connect.transforms import BadCell, generalise, token_key, tokens
from tacit.policy.contract import Generalise

KEY = bytes(range(32))


def test_tokens_are_truncated_hmac_under_a_purpose_key() -> None:
    key = token_key(KEY, "diagnosis", "id")
    made = tokens(pa.array(["a", "b", "a", "ü"]), key).to_pylist()
    expected = [hmac.new(key, text.encode(), hashlib.sha256).digest()[:16].hex() for text in "abaü"]
    assert made == expected
    message = b"tacit token v1\0" + b"\0\0\0\x09diagnosis" + b"\0\0\0\x02id"
    assert key == hmac.new(KEY, message, hashlib.sha256).digest()


def test_tokens_of_different_purposes_cannot_be_joined() -> None:
    keys = {
        token_key(KEY, "diagnosis", "id"),
        token_key(KEY, "diagnosis", "phone"),
        token_key(KEY, "billing", "id"),
        token_key(bytes(32), "diagnosis", "id"),
        token_key(KEY, "diagnosisi", "d"),
    }
    assert len(keys) == 5


def test_equal_values_of_different_types_get_the_token_of_their_text() -> None:
    assert tokens(pa.array([7]), KEY) == tokens(pa.array(["7"]), KEY)
    day = pa.array([date(2000, 1, 2)])
    assert tokens(day, KEY) == tokens(pa.array(["2000-01-02"]), KEY)


def test_a_prefix_must_leave_something_out() -> None:
    how = Generalise(method="prefix", length=3)
    assert generalise(pa.array(["75001", "äöüß"]), how).to_pylist() == ["750", "äöü"]
    with pytest.raises(BadCell) as caught:
        generalise(pa.array(["75001", "750"]), how)
    assert caught.value.index == 1


def test_dates_become_years_or_decades() -> None:
    days = pa.array([date(1959, 12, 31), date(1960, 1, 1), date(2004, 2, 29)])
    assert generalise(days, Generalise(method="year")).to_pylist() == [1959, 1960, 2004]
    assert generalise(days, Generalise(method="decade")).to_pylist() == [1950, 1960, 2000]


def test_ages_are_completed_years_and_capped_at_ninety() -> None:
    how = Generalise(method="age", on=date(2026, 3, 1), width=1)
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
    assert generalise(days, how).to_pylist() == [age for _, age in births]
    tens = Generalise(method="age", on=date(2026, 3, 1), width=10)
    assert generalise(days, tens).to_pylist() == [0, 20, 20, 20, 80, 90, 90]
    with pytest.raises(BadCell):
        generalise(pa.array([date(2026, 3, 2)]), how)


def test_bins_give_their_lower_edge() -> None:
    how = Generalise(method="bins", width=10)
    assert generalise(pa.array([0, 9, 10, -1]), how).to_pylist() == [0, 0, 10, -10]
    assert generalise(pa.array([9.99, -0.5]), how).to_pylist() == [0.0, -10.0]
    with pytest.raises(BadCell):
        generalise(pa.array([1.0, float("nan")]), how)
