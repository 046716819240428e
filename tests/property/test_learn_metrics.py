"""Metrics against scikit-learn, ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.learn.metrics import auc, evaluate
from tacit.learn.models import LogisticRegression

sklearn = pytest.importorskip("sklearn.metrics")


@given(n=st.integers(2, 80), levels=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_auc_equals_scikit_learn(n, levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, n) / levels
    positive = rng.random(n) < 0.4
    positive[:2] = [True, False]
    assert auc(scores, positive) == pytest.approx(
        sklearn.roc_auc_score(positive, scores), abs=1e-12
    )


@given(classes=st.integers(2, 5), seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_metrics_equal_scikit_learn(classes, seed):
    rng = np.random.default_rng(seed)
    model = LogisticRegression(3, classes)
    theta = rng.normal(size=model.dimension)
    x = rng.integers(-1, 2, size=(40, 3)).astype(float)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 40 - classes)])
    scores, result = model.scores(theta, x), evaluate(model, theta, x, y)
    ranked = scores[:, 1] if classes == 2 else scores
    expected = sklearn.roc_auc_score(y, ranked, multi_class="ovr", average="macro")
    assert result["auc"] == pytest.approx(expected, abs=1e-12)
    assert result["accuracy"] == sklearn.accuracy_score(y, scores.argmax(axis=1))
    assert result["loss"] == pytest.approx(sklearn.log_loss(y, scores), rel=1e-10)
