"""No record, however crafted, moves a sum of outer products by more than the sensitivity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tacit.algebra.exact import PRECISION, IntegerRows
from tacit.privacy import outer
from tacit.privacy.integers import MAX_SENSITIVITY, sensitivity
from tacit.privacy.outer import MAX_ROWS, OuterRows, encode_outer, right_bits

ODD = [
    *(0.0, -0.0, 5e-324, -5e-324, 1e-310, math.nan, math.inf, -math.inf, 1.0, 1e-130, -1e130),
    *(1.7976931348623157e308, -1e300, 1e154, 1.3407807929942596e154, 2.0**63, -(2.0**53), 0.5),
]
ANY = st.one_of(
    st.sampled_from(ODD), st.floats(), st.floats(-2, 2), st.integers(-2000, 2000).map(float)
)
PUBLIC = st.one_of(
    st.sampled_from(
        [
            *((1.0, 2.0**-22), (1.0, 2.0**-17), (0.5, 2.0**-30), (1.0, 0.1), (1.0, 1.0)),
            *((7.3, 0.7), (float(MAX_SENSITIVITY), 1.0), (1e300, 1e299), (1e-310, 1e-312)),
        ]
    ),
    st.tuples(st.floats(0.01, 100), st.floats(1e-6, 0.01)),
)


def floats(*shape):
    return npst.arrays(np.float64, shape, elements=ANY)


def crafted_rows(n, k):
    """Honestly rounded rows, and rows that no code of ours would make."""
    return st.one_of(
        floats(n, k).map(IntegerRows.of),
        st.builds(IntegerRows, floats(n, k), floats(n), floats(n), st.just(PRECISION)),
    )


@st.composite
def cases(draw):
    n, r, k, c = (draw(st.integers(low, 5)) for low in (1, 1, 1, 0))
    left, right = draw(floats(n, r)), draw(crafted_rows(n, k))
    return left, right, draw(floats(n, c)) if c else None


def exact_square(encoded, row):
    left, right, extra = (
        [int(value) for value in part[row].tolist()]
        for part in (encoded.left, encoded.right, encoded.extra)
    )
    return sum(a * a for a in left) * sum(b * b for b in right) + sum(m * m for m in extra)


@settings(max_examples=300, deadline=None)
@given(cases(), PUBLIC)
def test_no_input_exceeds_the_sensitivity(case, public):
    left, right, extra = case
    encoded = encode_outer(left, right, *public, extra)
    bound = sensitivity(*public)
    for part in (encoded.left, encoded.right):
        assert (part == np.rint(part)).all()  # false for NaN
    for row in range(len(left)):
        assert exact_square(encoded, row) <= bound**2


@settings(max_examples=200, deadline=None)
@given(cases(), PUBLIC, st.data())
def test_a_violation_planted_before_the_check_is_caught(case, public, data):
    """Even if shortening and rounding returned anything at all, no contribution would exceed D."""
    left, right, extra = case
    planted = data.draw(floats(len(outer.SHORTFALLS) + 1, *left.shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outer, "_candidates", lambda *_: planted)
        with np.errstate(invalid="ignore"):  # what was planted may be no number
            encoded = encode_outer(left, right, *public, extra)
    for row in range(len(left)):
        assert exact_square(encoded, row) <= sensitivity(*public) ** 2


def test_without_the_check_the_violation_would_pass(monkeypatch):
    """So the test above can fail."""
    left, right = np.ones((1, 2)), IntegerRows.of(np.ones((1, 3)))
    monkeypatch.setattr(outer, "_candidates", lambda target, *_: np.full((7, 1, 2), 900.0))
    assert exact_square(encode_outer(left, right, 1.0, 2.0**-17), 0) == 0
    monkeypatch.setattr(outer, "squares_within", lambda x, _: np.ones(len(x), dtype=bool))
    assert exact_square(encode_outer(left, right, 1.0, 2.0**-17), 0) > 2**34


@pytest.mark.parametrize("stretch", [-1.0, -0.01, -1e9])
def test_rounding_beyond_the_bound_is_caught(monkeypatch, stretch):
    generator = np.random.default_rng(0)
    right = IntegerRows.of(generator.standard_normal((200, 40)))
    monkeypatch.setattr(outer, "SHORTFALLS", np.array([stretch]))
    encoded = encode_outer(generator.standard_normal((200, 10)), right, 0.1, 2.0**-20)
    bound = sensitivity(0.1, 2.0**-20)
    squares = [exact_square(encoded, row) for row in range(200)]
    assert max(squares) <= bound**2
    assert min(squares) > 0.9 * bound**2  # truncated instead


def test_a_contribution_may_have_exactly_the_sensitivity():
    right = IntegerRows.of(np.ones((2, 1)))
    encoded = encode_outer(np.array([[1.0], [-1e300]]), right, 1.0, 2.0**-17)
    assert (encoded.left * encoded.right).tolist() == [[2.0**17], [-(2.0**17)]]


@settings(max_examples=200, deadline=None)
@given(cases(), PUBLIC, st.randoms(use_true_random=False))
def test_a_row_depends_on_itself_only(case, public, random):
    left, right, extra = case
    together = encode_outer(left, right, *public, extra)
    order = list(range(len(left)))
    random.shuffle(order)
    for rows in (order, order[:1]):
        chosen = IntegerRows(right.values[rows], right.units[rows], right.norms[rows], right.bits)
        encoded = encode_outer(left[rows], chosen, *public, None if extra is None else extra[rows])
        for ours, theirs in (
            (encoded.left, together.left),
            (encoded.right, together.right),
            (encoded.extra, together.extra),
        ):
            assert np.array_equal(ours, theirs[rows])


def honest(n, r, k, seed=0):
    generator = np.random.default_rng(seed)
    left = generator.standard_normal((n, r)) * 10.0 ** generator.uniform(-3, 1, (n, 1))
    x = generator.standard_normal((n, k)) * 10.0 ** generator.uniform(-1, 1, (n, 1))
    return left, x


@pytest.mark.parametrize(("r", "k", "bits"), [(1, 31, 22), (10, 3970, 17), (3, 7, 30), (2, 1, 12)])
def test_an_honest_record_survives(r, k, bits):
    """Its matrix is its clipped gradient, up to half a unit of the inputs and two of the errors."""
    left, x = honest(60, r, k)
    grid = 0.5 * 2.0**-bits
    encoded = encode_outer(left, IntegerRows.of(x), 0.5, grid)
    for e, row, a, b in zip(left, x, encoded.left, encoded.right, strict=True):
        norm = np.linalg.norm(e) * np.linalg.norm(row)
        wanted = min(1.0, 0.5 / norm) / grid * np.outer(e, row)
        room = 2 * math.sqrt(r) * np.linalg.norm(b) + 0.51 * math.sqrt(k) * np.linalg.norm(a)
        assert np.linalg.norm(np.outer(a, b) - wanted) <= room + 1
        assert np.linalg.norm(b) <= 2.0 ** right_bits(2**bits, r, k) * (1 + 1e-3) + math.sqrt(k)
        if norm > 0.5:
            assert np.linalg.norm(a) * np.linalg.norm(b) >= 0.97 * 2**bits - room


@pytest.mark.parametrize("error", [0.02, -0.3])
def test_the_errors_of_many_records_cancel(error):
    """All have the same small error: rounded to the nearest, or truncated, all would err alike."""
    n, k = 4000, 50
    x = np.random.default_rng(3).uniform(0, 1, (n, k))
    left = np.full((n, 1), error)
    unit = 2.0  # of the left factor is about 1.4 times the largest error
    grid = unit * float(np.median(IntegerRows.of(x, 4).units))
    clip_norm = grid * 2**7
    encoded = encode_outer(left, IntegerRows.of(x), clip_norm, grid)
    assert right_bits(2**7, 1, k) == 4
    matrix, _ = encoded.sums()
    exact = (left.T @ x)[0] / grid
    assert set(np.abs(encoded.left).ravel()) <= {0.0, 1.0}
    assert np.linalg.norm(matrix[0] - exact) < 0.2 * np.linalg.norm(exact)


def test_further_coordinates_are_served_first():
    right = IntegerRows.of(np.ones((3, 4)))
    extra = np.array([[0.6, 0.0], [1.0, 0.0], [30.0, 40.0]])
    encoded = encode_outer(np.full((3, 1), 9.0), right, 1.0, 2.0**-20, extra)
    assert encoded.extra[0].tolist() == [int(0.6 * 2**20), 0]
    assert encoded.extra[1].tolist() == [2**20 - 1, 0]
    assert encoded.extra[2] / 2**20 == pytest.approx([0.6, 0.8], abs=1e-5)
    assert exact_square(encoded, 0) > 0.99 * 2**40
    assert np.abs(encoded.left[1:]).max() <= 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_record_counts_as_zero(bad):
    left, x, extra = np.full((4, 2), 0.1), np.ones((4, 3)), np.full((4, 1), 0.1)
    left[0, 1] = x[1, 2] = extra[2, 0] = bad
    encoded = encode_outer(left, IntegerRows.of(x), 1.0, 2.0**-20, extra)
    squares = [exact_square(encoded, row) for row in range(4)]
    assert squares[:3] == [0, 0, 0]
    assert squares[3] > 0
    assert np.isfinite(encoded.sums()[0]).all()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    r=st.integers(1, 12),
    k=st.integers(1, 40),
    public=st.sampled_from([(1.0, 2.0**-17), (1.0, 2.0**-30), (float(MAX_SENSITIVITY), 1.0)]),
    seed=st.integers(0, 2**32),
)
def test_the_sum_is_that_of_the_integers(n, r, k, public, seed):
    left, x = honest(n, r, k, seed)
    encoded = encode_outer(left * 1e9, IntegerRows.of(x), *public, left[:, :1])
    a, b = encoded.left.astype(np.int64), encoded.right.astype(np.int64)
    matrix, beside = encoded.sums()
    assert matrix.tolist() == (a.T.astype(object) @ b.astype(object)).tolist()
    assert beside.tolist() == encoded.extra.astype(object).sum(axis=0).tolist()
    encoded.drop(slice(n // 2, None))
    fewer, _ = encoded.sums()
    half = a[n // 2 :].astype(object).T @ b[n // 2 :].astype(object)
    assert (matrix - fewer).tolist() == np.broadcast_to(half, (r, k)).tolist()


def test_the_largest_sum_is_exact():
    """As many contributions as are allowed, each of the largest norm in one coordinate."""
    left = np.full((MAX_ROWS, 1), float(MAX_SENSITIVITY))
    right, extra = np.ones((MAX_ROWS, 1)), np.zeros((MAX_ROWS, 0), dtype=np.int64)
    assert OuterRows(left, right, extra).sums()[0].tolist() == [[MAX_ROWS * MAX_SENSITIVITY]]
    more = np.ones((MAX_ROWS + 1, 1))
    with pytest.raises(ValueError, match="rows are summed"):
        OuterRows(more, more, np.zeros((MAX_ROWS + 1, 0), dtype=np.int64)).sums()


@given(st.integers(1, MAX_SENSITIVITY), st.integers(1, 2**20), st.integers(1, 2**28))
def test_the_split_leaves_both_factors_room(bound, r, k):
    bits = right_bits(bound, r, k)
    assert 0 <= bits <= PRECISION
    balance = math.sqrt(bound * math.sqrt(k / r))
    assert 2**bits <= max(1.0, balance * (1 + 1e-9))
    assert 2 ** (bits + 1) > balance * (1 - 1e-9)


@pytest.mark.parametrize("shapes", [((2, 1), (3, 1)), ((2, 0), (2, 1)), ((2,), (2, 1))])
def test_disagreeing_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="one row per record"):
        encode_outer(np.zeros(shapes[0]), IntegerRows.of(np.zeros(shapes[1])), 1.0, 0.1)


def test_a_sensitivity_out_of_range_is_refused():
    with pytest.raises(ValueError, match="clip_norm"):
        encode_outer(np.zeros((1, 1)), IntegerRows.of(np.zeros((1, 1))), 1.0, 2.0)
