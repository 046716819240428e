"""A record's features under a prior depend on that record only, bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.learn.prior import BLOCK, FEATURE_UNIT, PublicPrior

SEEDS = st.integers(0, 2**32)


def prior(rng, k):
    public = rng.normal(size=(3 * k, k)) * np.exp(rng.normal(size=k))
    public /= np.linalg.norm(public, axis=1, keepdims=True)
    rank = int(rng.integers(1, k + 1))
    return PublicPrior.fit(public, name="noise", rank=rank, power=float(rng.uniform(0, 2)))


def records(rng, n, k):
    rows = rng.normal(size=(n, k)) * 10.0 ** rng.integers(-9, 2, (n, 1))
    rows[rng.random((n, k)) < 0.01] = rng.choice([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    return rows


@given(n=st.integers(1, 60), k=st.integers(1, 40), seed=SEEDS)
@settings(max_examples=50)
def test_rows_are_independent(n, k, seed):
    rng = np.random.default_rng(seed)
    fitted, rows = prior(rng, k), records(rng, n, k)
    together = fitted.apply(rows)
    order = rng.permutation(n)[: rng.integers(1, n + 1)]
    assert fitted.apply(rows[order]).tobytes() == together[order].tobytes()
    row = int(rng.integers(n))
    assert fitted.apply(rows[row : row + 1]).tobytes() == together[row : row + 1].tobytes()


@given(k=st.integers(1, 40), seed=SEEDS)
@settings(max_examples=50)
def test_every_product_is_that_of_integer_arithmetic(k, seed):
    rng = np.random.default_rng(seed)
    fitted = prior(rng, k)
    matrix = fitted.matrix.astype(np.int64)
    signs = np.sign(matrix[:, 0])  # the largest sums that there are
    levels = np.stack([signs, -signs, rng.integers(-1, 2, k)]) * int(1 / FEATURE_UNIT)
    exact = levels @ matrix - fitted.offset
    assert np.abs(exact).max() <= 2**53
    lengths = np.linalg.norm(exact.astype(np.float64), axis=1, keepdims=True)
    expected = exact / np.where(lengths > 0.0, lengths, 1.0)
    assert np.abs(fitted.apply(levels * FEATURE_UNIT) - expected).max() < 1e-14


def test_blocks_do_not_show():
    rng = np.random.default_rng(1)
    fitted, rows = prior(rng, 10), records(rng, BLOCK + 3, 10)
    tail = fitted.apply(rows[BLOCK - 2 :])
    assert tail.tobytes() == fitted.apply(rows)[BLOCK - 2 :].tobytes()


@given(k=st.integers(1, 40), seed=SEEDS)
@settings(max_examples=50)
def test_no_row_exceeds_norm_one(k, seed):
    rng = np.random.default_rng(seed)
    result = prior(rng, k).apply(records(rng, 30, k))
    assert np.isfinite(result).all()
    assert (np.linalg.norm(result, axis=1) <= 1.0 + 1e-12).all()


@given(k=st.integers(1, 40), seed=SEEDS)
@settings(max_examples=50)
def test_bytes_and_back(k, seed):
    fitted = prior(np.random.default_rng(seed), k)
    again = PublicPrior.from_bytes(fitted.to_bytes())
    assert again.name == fitted.name
    assert again.digest == fitted.digest
    assert again.matrix.tobytes() == fitted.matrix.tobytes()
    assert again.offset.tobytes() == fitted.offset.tobytes()
