"""Matrix products of rounded rows are exact, whatever the rows hold and wherever they stand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tacit.algebra.exact import PRECISION, IntegerRows, products

ODD = [
    *(0.0, -0.0, 5e-324, -1e-310, 1e-130, -1e130, 1e154, -1e300, math.nan, math.inf, -math.inf),
    *(1.0, 1.0 - 2.0**-53, 2.0**-400, 2.0**400),
]
ANY = st.one_of(st.sampled_from(ODD), st.floats(), st.floats(-2, 2))


def matrices(rows, columns):
    return npst.arrays(np.float64, (rows, columns), elements=ANY)


def exact_products(rows, columns):
    """Over the integers of Python."""
    integers = [[int(value) for value in row] for row in rows.values.tolist()]
    others = [[int(value) for value in row] for row in columns.values.tolist()]
    return [[sum(a * b for a, b in zip(r, c, strict=True)) for c in others] for r in integers]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9).flatmap(lambda k: matrices(5, k)), st.integers(0, PRECISION))
def test_rows_are_integers_on_powers_of_two(x, bits):
    rows = IntegerRows.of(x, bits)
    for row, values, unit in zip(x, rows.values, rows.units, strict=True):
        norm = math.hypot(*row.tolist())
        if not norm < 2.0**400:
            assert math.isnan(unit)
            assert not values.any()
            continue
        assert math.frexp(unit)[0] == 0.5
        assert sum(int(v) ** 2 for v in values) <= (2**bits + math.sqrt(len(row)) / 2) ** 2
        if norm > 2.0**-399:
            assert np.all(np.abs(values * unit - row) <= unit / 2)
            assert norm * (1 - 1e-12) <= unit * 2.0**bits <= 2 * norm * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9).flatmap(lambda k: st.tuples(matrices(4, k), matrices(3, k))))
def test_products_are_those_of_the_integers(pair):
    rows, columns = IntegerRows.of(pair[0]), IntegerRows.of(pair[1])
    result = products(rows, pair[1])
    for i, exact in enumerate(exact_products(rows, columns)):
        for j, value in enumerate(exact):
            expected = value * rows.units[i] * columns.units[j]
            assert abs(value) < 2**53
            assert np.array_equal(result[i, j], expected, equal_nan=True)


@pytest.mark.parametrize("k", [1, 30, 3970, 70_000])
def test_products_do_not_round_where_sums_are_largest(k):
    """Coordinates of one sign, as large as their number allows: plain float64 sums would err."""
    x = np.random.default_rng(k).uniform(0.9, 1.0, size=(7, k))
    rows = IntegerRows.of(x)
    exact = exact_products(rows, rows)
    units = rows.units[:, None] * rows.units
    assert ((products(rows, x) / units).astype(np.int64) == exact).all()
    assert rows.squares().tolist() == [exact[i][i] for i in range(7)]


@pytest.mark.parametrize("k", [1, 3, 8, 31, 257, 3970])
def test_a_row_depends_on_itself_only(k):
    generator = np.random.default_rng(k)
    x = generator.standard_normal((70, k)) * 10.0 ** generator.integers(-3, 4, (70, 1))
    other = generator.standard_normal((10, k))
    rows, together = IntegerRows.of(x), products(IntegerRows.of(x), other)
    assert (products(IntegerRows.of(x[::-1]), other)[::-1] == together).all()
    assert (products(IntegerRows.of(np.asfortranarray(x)), other) == together).all()
    assert (products(IntegerRows.of(x), other[::-1])[:, ::-1] == together).all()
    for row in (0, 13, 69):
        alone = IntegerRows.of(x[row : row + 1])
        others = np.full_like(x, np.inf)
        others[row] = x[row]
        for same in (alone.values[0], IntegerRows.of(others).values[row]):
            assert same.tobytes() == rows.values[row].tobytes()
        assert alone.norms[0] == rows.norms[row]
        assert (products(alone, other)[0] == together[row]).all()
        assert (products(IntegerRows.of(others), other)[row] == together[row]).all()


@pytest.mark.parametrize("offset", range(8))
def test_a_row_does_not_depend_on_its_address(offset):
    x = np.random.default_rng(1).standard_normal((9, 3970))
    room = np.empty(x.size + 8)
    moved = room[offset : offset + x.size].reshape(x.shape)
    moved[:] = x
    assert (IntegerRows.of(moved).norms == IntegerRows.of(x).norms).all()


@settings(max_examples=100, deadline=None)
@given(matrices(4, 6), st.integers(0, PRECISION))
def test_coarser_rows_stand_for_the_same(x, bits):
    fine = IntegerRows.of(x)
    coarse = fine.coarser(bits)
    assert coarse.bits == bits
    assert (np.isnan(coarse.units) == np.isnan(fine.units)).all()
    known = ~np.isnan(fine.units)
    difference = coarse.values[known] - fine.values[known] / 2.0 ** (PRECISION - bits)
    assert np.all(np.abs(difference) <= 0.5)
    assert (coarse.values == np.rint(coarse.values)).all()
    assert (coarse.units[known] == fine.units[known] * 2.0 ** (PRECISION - bits)).all()


def test_products_are_accurate():
    generator = np.random.default_rng(2)
    x, other = generator.standard_normal((50, 400)), generator.standard_normal((10, 400))
    scale = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    assert np.all(np.abs(products(IntegerRows.of(x), other) - x @ other.T) < 2.0**-24 * scale)


def test_senseless_rows_are_refused():
    with pytest.raises(ValueError, match="matrix"):
        IntegerRows.of(np.zeros(3))
    with pytest.raises(ValueError, match="26 bits"):
        IntegerRows.of(np.zeros((1, 1)), 27)
    with pytest.raises(ValueError, match="3 bits"):
        IntegerRows.of(np.zeros((1, 1)), 3).coarser(4)
