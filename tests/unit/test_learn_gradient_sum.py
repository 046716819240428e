"""The record-level contribution: padding, clipping, non-finite gradients, constant work."""

import tracemalloc

import numpy as np
import pytest

from tacit.learn import gradient_sum
from tacit.learn.gradient_sum import Encoding, unit_sum
from tacit.learn.linear import LinearHead
from tacit.learn.models import LogisticRegression
from tacit.learn.record_metrics import MetricCode
from tacit.learn.row_code import RowCode
from tacit.testing.sums import record_sum

PUBLIC = {"clip_norm": 1.0, "grid": 2.0**-20, "micro_batch": 8}


class Head(LogisticRegression):
    """Notes the shape of every batch; a record with feature 0 above 1 has a NaN gradient."""

    def __init__(self, features, classes):
        super().__init__(features, classes)
        self.shapes = []

    def factors(self, theta, x, y):
        self.shapes.append(x.shape)
        factors = super().factors(theta, x, y)
        factors.errors[x[:, 0] > 1, 0] = np.nan
        return factors


class Rows:
    """The same as a model that gives rows only."""

    def __init__(self, features, classes):
        self._inner = LogisticRegression(features, classes)
        self.dimension, self.assess = self._inner.dimension, self._inner.assess
        self.shapes = []

    def gradients(self, theta, x, y):
        self.shapes.append(x.shape)
        rows = self._inner.gradients(theta, x, y)
        rows[x[:, 0] > 1, 0] = np.nan
        return rows


@pytest.fixture(params=[Head, Rows])
def kind(request):
    return request.param


def setting(kind, n, k=3, seed=0, classes=2):
    rng = np.random.default_rng(seed)
    model = kind(k, classes)
    x = rng.uniform(-1, 1, size=(n, k))
    return model, rng.normal(size=model.dimension), x, rng.integers(0, classes, n)


def test_without_padding_the_sum_is_the_same_and_the_work_that_of_the_sample(kind):
    model, theta, x, y = setting(kind, 40)
    selected = np.arange(40) % 4 == 0
    groups = np.where(selected, np.arange(40), -1)[:, None]
    code = RowCode.of(1.0)
    sums, shapes = [], []
    for padded in (True, False):
        model.shapes.clear()
        encoding = Encoding(**PUBLIC, padded=padded)
        sums.append(unit_sum(model, theta, (x, y), groups, code, encoding))
        shapes.append(list(model.shapes))
    assert np.array_equal(*sums)
    assert sums[0].any()
    assert shapes == [[(8, 3)] * 5, [(8, 3)] * 2]


def test_the_kinds_take_different_ways():
    assert isinstance(Head(3, 2), LinearHead)
    assert not isinstance(Rows(3, 2), LinearHead)


@pytest.mark.parametrize(("kind", "error"), [(Head, 2.0**-9), (Rows, 2.0**-20)])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_sum_of_one_record_is_its_clipped_gradient(kind, error, classes):
    model, theta, x, y = setting(kind, 1, classes=classes)
    gradient = LogisticRegression(3, classes).gradients(theta, x, y)[0]
    gradient = gradient * min(1.0, 0.25 / np.linalg.norm(gradient))
    total = record_sum(model, theta, x, y, np.ones(1, bool), **PUBLIC | {"clip_norm": 0.25})
    assert total * PUBLIC["grid"] == pytest.approx(gradient, abs=2 * error)
    assert np.linalg.norm(total) * PUBLIC["grid"] <= 0.25


@pytest.mark.parametrize("metrics", [None, MetricCode(1.0, 0.1, 2.0)])
@pytest.mark.parametrize("classes", [2, 4])
def test_both_ways_lead_to_the_same_sum(metrics, classes):
    """Up to the rounding of the factors, also where gradients are clipped."""
    for clip_norm in (0.1, 1.0, 10.0):
        code = metrics and MetricCode(clip_norm, metrics.share, metrics.loss_bound)
        public = PUBLIC | {"clip_norm": clip_norm, "metrics": code}
        sums = []
        for kind in (Head, Rows):
            model, theta, x, y = setting(kind, 300, k=6, classes=classes)
            sums.append(record_sum(model, theta, x, y, np.arange(300) % 3 > 0, **public))
        assert np.linalg.norm(sums[0] - sums[1]) < 0.01 * np.linalg.norm(sums[1])
        assert metrics is None or sums[0][-2:] == pytest.approx(sums[1][-2:], abs=200)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 20])
def test_the_work_depends_on_the_number_of_records_alone(kind, n):
    model, theta, x, y = setting(kind, n)
    seen = []
    for selected in (np.zeros(n, bool), np.ones(n, bool), np.arange(n) % 2 == 0):
        model.shapes.clear()
        record_sum(model, theta, x, y, selected, **PUBLIC)
        seen.append(list(model.shapes))
    assert seen == [[(8, 3)] * max(1, -(-n // 8))] * 3


def test_padding_and_unselected_records_contribute_nothing(kind):
    model, theta, x, y = setting(kind, 13)
    assert not record_sum(model, theta, x, y, np.zeros(13, bool), **PUBLIC).any()
    part = np.arange(13) < 5
    alone = record_sum(model, theta, x[:5], y[:5], np.ones(5, bool), **PUBLIC)
    assert (record_sum(model, theta, x, y, part, **PUBLIC) == alone).all()
    code = MetricCode(1.0, 0.1, 2.0)
    assert not record_sum(model, theta, x, y, np.zeros(13, bool), metrics=code, **PUBLIC).any()


@pytest.mark.parametrize("metrics", [None, MetricCode(1.0, 0.1, 2.0)])
def test_a_non_finite_gradient_counts_as_zero(kind, metrics):
    model, theta, x, y = setting(kind, 9)
    healthy = np.arange(9) != 4
    x[4, 0] = 2.0
    everyone = record_sum(model, theta, x, y, np.ones(9, bool), metrics=metrics, **PUBLIC)
    assert everyone.any()
    assert (everyone == record_sum(model, theta, x, y, healthy, metrics=metrics, **PUBLIC)).all()


def test_features_may_be_stored_in_single_precision():
    model, theta, x, y = setting(Head, 21)
    single = x.astype(np.float32)
    sums = [
        record_sum(model, theta, features, y, np.ones(21, bool), **PUBLIC)
        for features in (single, single.astype(np.float64))
    ]
    assert (sums[0] == sums[1]).all()


def test_memory_does_not_grow_with_the_records(monkeypatch):
    monkeypatch.setattr(
        gradient_sum, "keep_freed_memory", lambda: None
    )  # reserves, and uses nothing
    model, theta, x, y = setting(Head, 20_000, k=100)
    selected, single = np.arange(20_000) % 2 == 0, x.astype(np.float32)
    tracemalloc.start()
    record_sum(model, theta, single, y, selected, **PUBLIC | {"micro_batch": 64})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < single.nbytes / 4


def test_disagreeing_shapes_are_refused(kind):
    model, theta, x, y = setting(kind, 4)
    with pytest.raises(ValueError, match="selected"):
        record_sum(model, theta, x, y, np.ones(5, bool), **PUBLIC)
    with pytest.raises(ValueError, match="micro_batch"):
        record_sum(model, theta, x, y, np.ones(4, bool), **PUBLIC | {"micro_batch": 0})
