"""Logistic regression: closed form against finite differences, layout, limits."""

import math

import numpy as np
import pytest

from tacit.learn.models import LogisticRegression


def records(features, classes, n=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, features)), rng.integers(0, classes, n)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_gradients_match_finite_differences(classes):
    model = LogisticRegression(4, classes)
    x, y = records(4, classes)
    theta = np.random.default_rng(1).normal(size=model.dimension)
    gradients = model.gradients(theta, x, y)
    for i in range(len(x)):
        for j, unit in enumerate(np.eye(model.dimension)):
            up = model.loss(theta + 1e-6 * unit, x[i : i + 1], y[i : i + 1])
            down = model.loss(theta - 1e-6 * unit, x[i : i + 1], y[i : i + 1])
            assert gradients[i, j] == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_two_classes_take_one_weight_vector():
    assert LogisticRegression(30, 2).dimension == 31
    assert LogisticRegression(30, 3).dimension == 93


def test_scores_are_the_logistic_function_of_the_documented_layout():
    model = LogisticRegression(2, 2)
    theta = np.array([1.0, -2.0, 0.5])
    scores = model.scores(theta, np.array([[3.0, 1.0]]))
    assert scores[0, 1] == pytest.approx(1 / (1 + math.exp(-1.5)), abs=1e-15)
    assert scores.sum() == pytest.approx(1.0)
    assert model.tensors(theta)["weight"].tolist() == [[1.0, -2.0]]
    assert model.tensors(theta)["bias"].tolist() == [0.5]


def test_softmax_follows_the_documented_layout():
    model = LogisticRegression(1, 3)
    theta = np.array([1.0, 2.0, 3.0, 0.1, 0.2, 0.3])
    logits = np.array([2.1, 4.2, 6.3])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert model.scores(theta, np.array([[2.0]]))[0] == pytest.approx(expected, abs=1e-15)


def test_large_logits_neither_overflow_nor_warn():
    model = LogisticRegression(1, 2)
    theta, x, y = np.array([1e6, 0.0]), np.array([[1.0], [-1.0]]), np.array([1, 0])
    with np.errstate(all="raise"):
        scores = model.scores(theta, x)
        loss = model.loss(theta, x, y)
    assert scores.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert loss == 0.0


def test_first_model_is_zero_whatever_the_seed():
    model = LogisticRegression(3, 2)
    assert not model.initial(b"a").any()
    assert model.initial(b"a").tobytes() == model.initial(b"b").tobytes()


@pytest.mark.parametrize(("features", "classes"), [(0, 2), (3, 1)])
def test_impossible_sizes_are_refused(features, classes):
    with pytest.raises(ValueError, match="at least 1 feature and 2 classes"):
        LogisticRegression(features, classes)
