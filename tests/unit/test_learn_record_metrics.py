"""Training metrics as coordinates of a record's row."""

import math

import numpy as np
import pytest

from tacit.learn.models import LogisticRegression
from tacit.learn.record_metrics import MetricCode

CODE = MetricCode(clip_norm=2.0, share=0.18, loss_bound=4.0)


def test_the_extremes_take_the_whole_share_and_no_more():
    extremes = np.array([[0.0, 1.0], [4.0, 0.0], [9.0, 1.0], [0.0, 0.0]])
    lengths = np.linalg.norm(CODE.code(extremes), axis=1)
    assert lengths == pytest.approx(np.full(4, 2.0 * math.sqrt(0.18)), rel=1e-12)
    between = CODE.code(np.array([[1.0, 1.0], [3.9, 0.0]]))
    assert (np.linalg.norm(between, axis=1) < 2.0 * math.sqrt(0.18)).all()


@pytest.mark.parametrize("loss", [math.nan, math.inf, 4.0, 5.0])
def test_a_loss_beyond_the_bound_counts_as_the_bound(loss):
    assert CODE.code(np.array([[loss, 1.0]])).tolist() == CODE.code(np.array([[4.0, 1.0]])).tolist()


def test_what_is_coded_is_decoded():
    assessed = np.array([[0.5, 1.0], [3.0, 0.0], [9.0, 1.0], [0.1, 1.0]])
    decoded = CODE.decode(CODE.code(assessed).mean(axis=0), 0.0)
    assert decoded["train_loss"] == pytest.approx((0.5 + 3.0 + 4.0 + 0.1) / 4)
    assert decoded["train_accuracy"] == pytest.approx(0.75)
    assert decoded["train_loss_std"] == decoded["train_accuracy_std"] == 0.0


@pytest.mark.parametrize(
    "change", [{"share": 0.0}, {"share": 0.6}, {"loss_bound": 0.0}, {"clip_norm": math.inf}]
)
def test_senseless_settings_are_refused(change):
    with pytest.raises(ValueError, match="must"):
        MetricCode(**{"clip_norm": 1.0, "share": 0.1, "loss_bound": 4.0} | change)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_records_are_assessed_like_the_mean_loss_and_the_scores(classes):
    rng = np.random.default_rng(0)
    model = LogisticRegression(3, classes)
    x, y, theta = (
        rng.normal(size=(50, 3)),
        np.arange(50) % classes,
        rng.normal(size=model.dimension),
    )
    assessed = model.assess(theta, x, y)
    assert assessed[:, 0].mean() == pytest.approx(model.loss(theta, x, y), rel=1e-12)
    assert assessed[:, 1].tolist() == (model.scores(theta, x).argmax(axis=1) == y).tolist()
    assert assessed[:, 2] == pytest.approx(model.scores(theta, x)[:, -1], rel=1e-12)
    assert 0 < assessed[:, 1].mean() < 1
