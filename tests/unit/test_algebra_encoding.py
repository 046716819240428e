import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.algebra.encoding import decode, truncate

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20).map(np.array)


@given(values, st.integers(0, 20))
def test_truncates_toward_zero_exactly_on_a_binary_grid(x, bits):
    grid = 2.0**-bits
    expected = [math.trunc(Fraction(value) / Fraction(grid)) for value in x.tolist()]
    assert truncate(x, grid).tolist() == expected


@given(values, st.floats(1e-6, 10.0))
def test_decoding_never_leaves_zero_by_more_than_rounding(x, grid):
    assert np.all(np.abs(decode(truncate(x, grid), grid)) <= np.abs(x) * (1 + 1e-15))
    assert np.all(np.abs(decode(truncate(x, grid), grid) - x) <= grid * (1 + 1e-9) + 1e-9)


@given(values, st.floats(1e-6, 10.0))
def test_every_element_stands_alone(x, grid):
    alone = [int(truncate(np.array([value]), grid)[0]) for value in x]
    assert truncate(x, grid).tolist() == alone


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**62])
def test_values_that_are_no_integers_are_refused(bad):
    with pytest.raises(ValueError, match="not finite or too large"):
        truncate(np.array([0.0, bad]), 1.0)


@pytest.mark.parametrize("grid", [0.0, -1.0, math.nan, math.inf])
def test_a_grid_is_finite_and_positive(grid):
    with pytest.raises(ValueError, match="grid"):
        truncate(np.zeros(1), grid)
    with pytest.raises(ValueError, match="grid"):
        decode(np.zeros(1, np.int64), grid)
