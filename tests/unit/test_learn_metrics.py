"""Metrics by hand, and what happens at their edges."""

import numpy as np
import pytest

from tacit.errors import RoundAborted
from tacit.learn.metrics import accuracy, auc, evaluate
from tacit.learn.models import LogisticRegression


def test_accuracy_counts_hits_and_breaks_ties_downwards():
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.5, 0.5]])
    assert accuracy(scores, np.array([0, 0, 0, 1])) == 0.5


def test_auc_of_perfect_reversed_and_constant_scores():
    positive = np.array([False, False, True, True])
    assert auc(np.array([1.0, 2.0, 3.0, 4.0]), positive) == 1.0
    assert auc(np.array([4.0, 3.0, 2.0, 1.0]), positive) == 0.0
    assert auc(np.zeros(4), positive) == 0.5
    assert auc(np.array([1.0, 2.0, 2.0, 3.0]), positive) == 3.5 / 4


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_auc_needs_both_groups(positive):
    with pytest.raises(ValueError, match="positive and negative"):
        auc(np.array([0.1, 0.2]), np.array(positive))


def test_auc_refuses_scores_that_have_no_order():
    with pytest.raises(ValueError, match="finite"):
        auc(np.array([0.1, np.nan]), np.array([True, False]))


def test_two_classes_are_ranked_by_the_second_score():
    model, theta = LogisticRegression(1, 2), np.array([1.0, 0.0])
    x, y = np.array([[-1.0], [1.0], [2.0], [0.5]]), np.array([0, 1, 1, 1])
    result = evaluate(model, theta, x, y)
    assert result == {"accuracy": 1.0, "auc": 1.0, "loss": model.loss(theta, x, y)}


def test_a_single_class_has_no_auc():
    x, y = np.ones((3, 1)), np.zeros(3, dtype=np.int64)
    assert set(evaluate(LogisticRegression(1, 2), np.zeros(2), x, y)) == {"accuracy", "loss"}


def test_no_records_are_refused():
    with pytest.raises(ValueError, match="no records"):
        evaluate(LogisticRegression(1, 2), np.zeros(2), np.ones((0, 1)), np.zeros(0, np.int64))


def test_scores_that_are_not_finite_end_the_run():
    with pytest.raises(RoundAborted) as caught:
        evaluate(LogisticRegression(1, 2), np.array([np.nan, 0]), np.ones((2, 1)), np.arange(2))
    assert caught.value.code == "learn.diverged"
