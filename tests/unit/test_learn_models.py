"""Logistic regression: closed form against finite differences, layout, limits."""

import math

import numpy as np
import pytest

from tacit.learn.models import LogisticRegression


def records(features, classes, n=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, features)), rng.integers(0, classes, n)


def cross_entropy(theta, x, y, classes):
    """From the definition, one record at a time."""
    rows = 1 if classes == 2 else classes
    weight, bias = theta[:-rows].reshape(rows, -1), theta[-rows:]
    logits = np.concatenate([np.zeros(classes - rows), weight @ x + bias])
    return math.log(sum(math.exp(value) for value in logits)) - logits[y]


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_gradients_match_finite_differences(classes):
    model = LogisticRegression(4, classes)
    x, y = records(4, classes)
    theta = np.random.default_rng(1).normal(size=model.dimension)
    gradients = model.gradients(theta, x, y)
    for i in range(len(x)):
        for j, unit in enumerate(np.eye(model.dimension)):
            up = cross_entropy(theta + 1e-6 * unit, x[i], y[i], classes)
            down = cross_entropy(theta - 1e-6 * unit, x[i], y[i], classes)
            assert gradients[i, j] == pytest.approx((up - down) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_losses_and_scores_are_those_of_the_definition(classes):
    model = LogisticRegression(4, classes)
    x, y = records(4, classes)
    theta = np.random.default_rng(1).normal(size=model.dimension)
    losses = [cross_entropy(theta, *record, classes) for record in zip(x, y, strict=True)]
    scores = model.scores(theta, x)
    assert model.loss(theta, x, y) == pytest.approx(np.mean(losses), abs=1e-7)
    assert model.assess(theta, x, y)[:, 0] == pytest.approx(losses, abs=1e-7)
    assert -np.log(scores[np.arange(len(x)), y]) == pytest.approx(losses, abs=1e-7)
    assert (model.assess(theta, x, y)[:, 1] == (scores.argmax(axis=1) == y)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_gradients_are_the_products_of_the_factors(classes):
    model = LogisticRegression(4, classes)
    x, y = records(4, classes)
    theta = np.random.default_rng(1).normal(size=model.dimension)
    gradients, factors = model.gradients(theta, x, y), model.factors(theta, x, y)
    inputs = factors.inputs.values * factors.inputs.units[:, None]
    for i in range(len(x)):
        matrix = np.outer(factors.errors[i], inputs[i])
        assert model.arranged(matrix) == pytest.approx(gradients[i], abs=1e-7)
    assert factors.norms() == pytest.approx(np.linalg.norm(gradients, axis=1))
    assert (factors.assessed == model.assess(theta, x, y)).all()


def test_a_score_does_not_depend_on_how_many_are_asked_for():
    model = LogisticRegression(3000, 3)
    x, _ = records(3000, 3, n=200)  # more than one block
    theta = np.random.default_rng(1).normal(size=model.dimension)
    together = model.scores(theta, x)
    for row in (0, 86, 87, 88, 199):
        assert (model.scores(theta, x[row : row + 1])[0] == together[row]).all()
    assert model.scores(theta, x[:0]).shape == (0, 3)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_mean_gradient_is_the_mean_of_the_finite_rows(classes):
    model = LogisticRegression(4, classes)
    x, y = records(4, classes)
    theta = np.random.default_rng(1).normal(size=model.dimension)
    rows = model.gradients(theta, x, y)
    assert model.mean_gradient(theta, x, y) == pytest.approx(rows.mean(axis=0), abs=1e-7)
    single = x.astype(np.float32)
    same = model.mean_gradient(theta, single.astype(np.float64), y)
    assert model.mean_gradient(theta, single, y).tobytes() == same.tobytes()
    for bad in (math.nan, math.inf, -math.inf):
        x[2, 1] = bad
        expected = np.delete(rows, 2, axis=0).sum(axis=0) / len(x)
        assert model.mean_gradient(theta, x, y) == pytest.approx(expected, abs=1e-7)


def test_two_classes_take_one_weight_vector():
    assert LogisticRegression(30, 2).dimension == 31
    assert LogisticRegression(30, 3).dimension == 93


def test_scores_are_the_logistic_function_of_the_documented_layout():
    model = LogisticRegression(2, 2)
    theta = np.array([1.0, -2.0, 0.5])
    scores = model.scores(theta, np.array([[3.0, 1.0]]))
    assert scores[0, 1] == pytest.approx(1 / (1 + math.exp(-1.5)), abs=1e-7)
    assert scores.sum() == pytest.approx(1.0)
    assert model.tensors(theta)["weight"].tolist() == [[1.0, -2.0]]
    assert model.tensors(theta)["bias"].tolist() == [0.5]


def test_softmax_follows_the_documented_layout():
    model = LogisticRegression(1, 3)
    theta = np.array([1.0, 2.0, 3.0, 0.1, 0.2, 0.3])
    logits = np.array([2.1, 4.2, 6.3])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert model.scores(theta, np.array([[2.0]]))[0] == pytest.approx(expected, abs=1e-7)


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
