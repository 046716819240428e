"""Bitwise independence of per-record gradients."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tacit.learn.models import LogisticRegression


@given(
    features=st.integers(1, 40),
    classes=st.integers(2, 5),
    n=st.integers(1, 70),
    seed=st.integers(0, 2**32),
)
def test_logistic_rows_are_independent(features, classes, n, seed):
    rng = np.random.default_rng(seed)
    model = LogisticRegression(features, classes)
    theta = rng.normal(size=model.dimension)
    x, y = rng.normal(size=(n, features)), rng.integers(0, classes, n)
    together = model.gradients(theta, x, y)
    order = rng.permutation(n)
    assert model.gradients(theta, x[order], y[order]).tobytes() == together[order].tobytes()
    row = int(rng.integers(n))
    alone = model.gradients(theta, x[row : row + 1], y[row : row + 1])
    assert alone.tobytes() == together[row : row + 1].tobytes()
    others = np.full_like(x, np.inf)
    others[row] = x[row]
    assert model.gradients(theta, others, y)[row].tobytes() == together[row].tobytes()


@given(classes=st.integers(2, 5), n=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_assessed_rows_are_independent(classes, n, seed):
    rng = np.random.default_rng(seed)
    model = LogisticRegression(5, classes)
    theta = rng.normal(size=model.dimension)
    x, y = rng.normal(size=(n, 5)), rng.integers(0, classes, n)
    together = model.assess(theta, x, y)
    order = rng.permutation(n)
    assert model.assess(theta, x[order], y[order]).tobytes() == together[order].tobytes()
    row = int(rng.integers(n))
    others = np.full_like(x, np.inf)
    others[row] = x[row]
    assert model.assess(theta, others, y)[row].tobytes() == together[row].tobytes()


@given(n=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_memory_layout_does_not_matter(n, seed):
    rng = np.random.default_rng(seed)
    model = LogisticRegression(9, 3)
    theta, y = rng.normal(size=model.dimension), rng.integers(0, 3, n)
    x = rng.normal(size=(n, 9))
    expected = model.gradients(theta, x, y).tobytes()
    assert model.gradients(theta, np.asfortranarray(x), y).tobytes() == expected
    assert model.gradients(theta, np.repeat(x, 2, axis=0)[::2], y).tobytes() == expected
