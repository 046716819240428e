"""No record, however crafted, moves the integer sum by more than the sensitivity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tacit.privacy import integers
from tacit.privacy.integers import MAX_SENSITIVITY, encode_records, encode_row, sensitivity

ODD = st.sampled_from(
    [
        *(0.0, -0.0, 5e-324, -5e-324, 1e-310, math.nan, math.inf, -math.inf, 1.0),
        *(1.7976931348623157e308, -1e300, 1e154, 1.3407807929942596e154, 2.0**63, -(2.0**63)),
    ]
)
ANY = st.one_of(ODD, st.floats(), st.floats(-2, 2), st.integers(-40, 40).map(lambda k: k / 10))
MATRICES = npst.arrays(
    np.float64, npst.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=ANY
)
CLIP_AND_GRID = st.one_of(
    st.sampled_from(
        [
            *((1.0, 2.0**-22), (1.0, 2.0**-30), (1.0, 0.1), (0.3, 0.1), (1.0, 1.0), (1.5, 1.0)),
            *((7.3, 0.7), (1.0, 1.0 / 3.0), (float(MAX_SENSITIVITY), 1.0)),
            *((1e300, 1e299), (1e-310, 1e-312), (1.7976931348623157e308, 1e305)),
        ]
    ),
    st.tuples(st.floats(0.01, 100), st.floats(1e-6, 0.01)),
)


@settings(max_examples=400, deadline=None)
@given(MATRICES, CLIP_AND_GRID)
def test_no_input_exceeds_the_sensitivity(gradients, clip_and_grid):
    encoded = encode_records(gradients, *clip_and_grid)
    bound = sensitivity(*clip_and_grid)
    assert encoded.dtype == np.int64
    assert encoded.shape == gradients.shape
    for row in encoded.tolist():
        assert sum(x * x for x in row) <= bound * bound


LONG = integers.LONG_ROW
PLACES = (0, 1, 2, LONG - 1, LONG, LONG + 1, 2 * LONG, 2 * LONG + 7)


def exact_squares(row: np.ndarray) -> int:
    return sum(x * x for x in row[row != 0].tolist())


def long_row(values: list[float], fill: float) -> np.ndarray:
    """A row of three blocks, constant but for a few values, some at the edges of a block."""
    row = np.full(2 * LONG + 8, fill)
    row[list(PLACES)] = values
    return row


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ANY, min_size=8, max_size=8),
    st.one_of(st.just(0.0), st.sampled_from([1e-3, -1.0, 1e150, 1e-200, 5e-324, 1e300]), ANY),
    CLIP_AND_GRID,
)
def test_no_long_row_exceeds_the_sensitivity(values, fill, clip_and_grid):
    row = long_row(values, fill)
    bound = sensitivity(*clip_and_grid)
    encoded = encode_records(row[None, :], *clip_and_grid)[0]
    assert exact_squares(encoded) <= bound * bound
    out = np.full(len(row), -7, dtype=np.int32)
    encode_row(row, *clip_and_grid, out)
    assert np.array_equal(out, encoded)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8),
    st.sampled_from([0.0, 1e-4, -0.01, 3.0]),
    st.sampled_from(
        [(1.0, 2.0**-22), (1.0, 0.001), (300.0, 0.0007), (1e4, 0.0131), (1.0, 2.0**-30)]
    ),
)
def test_an_honest_long_row_survives(values, fill, clip_and_grid):
    clip, grid = clip_and_grid
    row = long_row(values, fill)
    norm = math.hypot(*row.tolist())
    limit = sensitivity(clip, grid) * grid
    exact = row * (min(1.0, limit / norm) if norm > 0 else 0.0) / grid
    encoded = encode_records(row[None, :], clip, grid)[0]
    assert np.all(np.abs(encoded) <= np.abs(exact) * (1 + 1e-9))
    assert np.all(np.abs(exact - encoded) <= 1 + np.abs(exact) * 1e-9)
    assert np.all((encoded == 0) | (np.sign(encoded) == np.sign(row)))


@pytest.mark.parametrize("stretch", [1.0 + 2.0**-40, 1.0 + 2.0**-20, 1.001, 4.0, 1e30])
def test_a_violation_planted_before_the_certificate_is_caught(stretch):
    """Clipping that leaves too large a norm: no such row passes, whatever the certificate saw."""
    generator = np.random.default_rng(5)
    for clip in (1.0, 1000.0, 2.0**31 - 1.0):
        for row in (generator.standard_normal(3 * LONG) * clip, long_row([clip] + [0.0] * 7, 0.0)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(integers, "MARGIN", stretch)
                encoded = encode_records(row[None, :], clip, 1.0)[0]
            assert exact_squares(encoded) <= int(clip) ** 2
    # a certificate that believes anything lets the violation through: the test above can fail
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers, "MARGIN", 1.001)
        patch.setattr(integers, "_certain", lambda squares, bound: True)
        encoded = encode_records(generator.standard_normal((1, 3 * LONG)), 1.0, 2.0**-28)[0]
    assert exact_squares(encoded) > 2**56


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, MAX_SENSITIVITY), st.integers(-3, 3))
def test_the_certificate_never_accepts_a_norm_beyond_the_bound(seed, scale, nudge):
    """Integer rows whose norm is the bound, a unit more or a unit less."""
    generator = np.random.default_rng(seed)
    x = np.rint(generator.standard_normal(LONG) * generator.uniform(0, scale / 128)).astype(
        np.int64
    )
    bound = max(1, math.isqrt(exact_squares(x)) + nudge)
    q = x.astype(np.float64)
    for squares in (np.add.reduce(q * q), np.einsum("i,i->", q, q), integers.sum_of_squares(q)):
        assert not integers._certain(float(squares), bound) or exact_squares(x) <= bound**2
    assert not integers._certain(math.nan, bound)
    assert not integers._certain(math.inf, bound)
    assert not integers._certain(float(bound) ** 2, bound)  # undecided at the bound itself


def test_the_certificate_decides_for_an_honest_long_row(monkeypatch):
    """The slow exact check is not what usually decides."""

    def forbidden(*_):
        raise AssertionError("the certificate left an honest row undecided")

    monkeypatch.setattr(integers, "_encode_odd_row", forbidden)
    row = np.random.default_rng(1).standard_normal(5 * LONG + 3)
    for size in (1e-9, 1e-3, 1.0, 1e9, 1e100):
        encoded = encode_records(size * row[None, :], 1.0, 2.0**-24)[0]
        assert math.isqrt(exact_squares(encoded)) <= 2**24
    assert math.isqrt(exact_squares(encoded)) > 2**24 - 500


@pytest.mark.parametrize("offset", range(8))
def test_a_long_row_does_not_depend_on_its_address(offset):
    row = np.random.default_rng(2).standard_normal(2 * LONG + 77)
    room = np.empty(len(row) + 8)
    room[offset : offset + len(row)] = row
    out = np.empty(len(row), dtype=np.int64)
    encode_row(room[offset : offset + len(row)], 1.0, 2.0**-28, out)
    assert np.array_equal(out, encode_records(row[None, :], 1.0, 2.0**-28)[0])


def test_a_long_row_fills_a_narrow_vector_or_is_refused():
    row = np.random.default_rng(3).standard_normal(2 * LONG)
    wide = np.empty(len(row), dtype=np.int64)
    for dtype, clip in ((np.int16, 32767.0), (np.int32, float(MAX_SENSITIVITY))):
        narrow = np.empty(len(row), dtype=dtype)
        encode_row(row * clip, clip, 1.0, narrow)
        encode_row(row * clip, clip, 1.0, wide)
        assert np.array_equal(narrow, wide)
    with pytest.raises(ValueError, match="narrow"):
        encode_row(row, 32768.0, 1.0, np.empty(len(row), dtype=np.int16))
    with pytest.raises(ValueError, match="length"):
        encode_row(row, 1.0, 0.1, np.empty(3, dtype=np.int64))


@settings(max_examples=200, deadline=None)
@given(MATRICES, CLIP_AND_GRID, st.randoms(use_true_random=False))
def test_a_row_depends_on_itself_only(gradients, clip_and_grid, random):
    encoded = encode_records(gradients, *clip_and_grid)
    order = list(range(len(gradients)))
    random.shuffle(order)
    assert np.array_equal(encode_records(gradients[order], *clip_and_grid), encoded[order])
    fortran = encode_records(np.asfortranarray(gradients), *clip_and_grid)
    assert np.array_equal(fortran, encoded)
    for i in range(len(gradients)):
        alone = encode_records(gradients[i : i + 1], *clip_and_grid)
        assert np.array_equal(alone[0], encoded[i])


@pytest.mark.parametrize("length", [1, 7, 8, 9, 31, 128, 129, 1000, 40_000, 300_000])
def test_a_row_depends_on_itself_only_at_any_length(length):
    generator = np.random.default_rng(length)
    gradients = generator.standard_normal((7, length)) * 10.0 ** generator.integers(-3, 4, (7, 1))
    encoded = encode_records(gradients, 1.0, 2.0**-24)
    for rows in ([6, 2, 4], [3], [0, 0, 5, 1]):
        assert np.array_equal(encode_records(gradients[rows], 1.0, 2.0**-24), encoded[rows])


@settings(max_examples=200, deadline=None)
@given(
    npst.arrays(
        np.float64, st.tuples(st.just(3), st.integers(1, 20)), elements=st.floats(-1e6, 1e6)
    ),
    st.sampled_from([(1.0, 2.0**-22), (1.0, 0.001), (0.3, 0.0007), (10.0, 0.0131)]),
)
def test_an_honest_record_survives(gradients, clip_and_grid):
    """The check refuses no record that was clipped: every coordinate is the clipped one, truncated."""
    clip, grid = clip_and_grid
    limit = sensitivity(clip, grid) * grid
    encoded = encode_records(gradients, clip, grid)
    for row, x in zip(gradients.tolist(), encoded.tolist(), strict=True):
        norm = math.hypot(*row)
        factor = min(1.0, limit / norm) if norm > 0 else 0.0
        for value, integer in zip(row, x, strict=True):
            exact = value * factor / grid
            assert abs(integer) <= abs(exact) * (1 + 1e-9)
            assert abs(exact - integer) <= 1 + abs(exact) * 1e-9
            assert integer == 0 or (integer > 0) == (value > 0)


def test_removing_a_record_moves_the_sum_by_its_own_contribution():
    gradients = np.random.default_rng(1).standard_normal((20, 31))
    whole = encode_records(gradients, 1.0, 2.0**-22).sum(axis=0)
    for i in range(20):
        rest = encode_records(np.delete(gradients, i, axis=0), 1.0, 2.0**-22).sum(axis=0)
        assert np.array_equal(whole - rest, encode_records(gradients[i : i + 1], 1.0, 2.0**-22)[0])


INTEGERS = st.one_of(
    st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**32, 2**31, 2**31 - 1, 70, 71, -100, 101]),
    st.integers(-150, 150),
    st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=200, deadline=None)
@given(
    npst.arrays(np.int64, (3, 4), elements=INTEGERS),
    st.sampled_from([1.0, 100.0, float(MAX_SENSITIVITY)]),
)
def test_the_bound_rests_on_the_integers_alone(crafted, clip):
    """Even if clipping and truncation returned anything at all, no row would exceed D."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers, "truncate", lambda values, grid: crafted.copy())
        encoded = encode_records(np.ones((3, 4)), clip, 1.0)
    for before, row in zip(crafted.tolist(), encoded.tolist(), strict=True):
        assert sum(x * x for x in row) <= int(clip) ** 2
        if sum(x * x for x in before) <= int(clip) ** 2:
            assert row == before


def test_the_exact_check_does_not_overflow():
    """The largest integers, where float64 or plain uint64 sums would be wrong."""
    top = MAX_SENSITIVITY
    rows = np.zeros((4, 9), dtype=np.int64)
    rows[1, 3] = -top
    rows[2, :2] = (top, 1)
    rows[3] = top  # nine squares of 2**62 wrap uint64
    assert integers.squares_within(rows, top**2).tolist() == [True, True, False, False]
    # here only the carry from the lower halves tells
    assert integers.squares_within(np.array([[65535, 65535], [65535, 0]]), 65535**2).tolist() == [
        False,
        True,
    ]


def test_a_vector_whose_truncated_norm_would_exceed_the_bound_is_kept_below_it():
    # C / grid = 100.9, D = 100: two equal coordinates of norm C would truncate to (71, 71), norm 100.4
    encoded = encode_records(np.array([[1e3, 1e3]]), 100.9, 1.0)
    assert encoded.tolist() == [[70, 70]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_record_counts_as_zero(bad):
    encoded = encode_records(np.array([[0.5, bad], [0.5, 0.25]]), 1.0, 0.25)
    assert encoded.tolist() == [[0, 0], [2, 1]]


def test_empty_shapes():
    assert encode_records(np.zeros((0, 5)), 1.0, 0.1).shape == (0, 5)
    assert encode_records(np.zeros((5, 0)), 1.0, 0.1).shape == (5, 0)


@pytest.mark.parametrize(
    ("clip", "grid"),
    [
        *((1.0, 2.0), (0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)),
        *((1.0, -1.0), (2.0**31, 1.0), (1e300, 5e-324)),
    ],
)
def test_refuses_a_sensitivity_out_of_range(clip, grid):
    with pytest.raises(ValueError, match="clip_norm"):
        encode_records(np.zeros((1, 1)), clip, grid)


def test_refuses_anything_but_a_matrix():
    with pytest.raises(ValueError, match="matrix"):
        encode_records(np.zeros(3), 1.0, 0.1)


def test_sensitivity_is_the_exact_quotient():
    assert sensitivity(1.0, 2.0**-30) == 2**30
    # in float64 0.3 / 0.1 rounds below 3 and 1.0 / 0.1 to 10, while the true quotients of these
    # two doubles are 2.9999... and 9.99999...
    assert sensitivity(0.3, 0.1) == 2
    assert sensitivity(1.0, 0.1) == 9
