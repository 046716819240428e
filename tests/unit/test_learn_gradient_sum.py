"""The record-level contribution: padding, clipping, non-finite gradients, constant work."""

import tracemalloc

import numpy as np
import pytest

from tacit.learn.gradient_sum import record_sum
from tacit.learn.models import LogisticRegression
from tacit.privacy import integers

PUBLIC = {"clip_norm": 1.0, "grid": 2.0**-20, "micro_batch": 8}


class Counting(LogisticRegression):
    """Notes the shape of every batch; a record with feature 0 above 1 has a NaN gradient."""

    def __init__(self, features, classes):
        super().__init__(features, classes)
        self.shapes = []

    def gradients(self, theta, x, y):
        self.shapes.append(x.shape)
        self.zero_rows = np.flatnonzero(~x.any(axis=1) & (y == 0))
        rows = super().gradients(theta, x, y)
        rows[x[:, 0] > 1, 0] = np.nan
        return rows


def setting(n, k=3, seed=0):
    rng = np.random.default_rng(seed)
    model = Counting(k, 2)
    x = rng.uniform(-1, 1, size=(n, k))
    return model, rng.normal(size=model.dimension), x, rng.integers(0, 2, n)


def test_the_sum_of_one_record_is_its_clipped_truncated_gradient():
    model, theta, x, y = setting(1)
    gradient = model.gradients(theta, x, y)[0]
    gradient = gradient * min(1.0, 0.25 / np.linalg.norm(gradient))
    total = record_sum(model, theta, x, y, np.ones(1, bool), **PUBLIC | {"clip_norm": 0.25})
    assert total * PUBLIC["grid"] == pytest.approx(gradient, abs=2 * PUBLIC["grid"])
    assert np.linalg.norm(total) * PUBLIC["grid"] <= 0.25


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 20])
def test_the_work_depends_on_the_number_of_records_alone(n):
    model, theta, x, y = setting(n)
    seen = []
    for selected in (np.zeros(n, bool), np.ones(n, bool), np.arange(n) % 2 == 0):
        model.shapes.clear()
        record_sum(model, theta, x, y, selected, **PUBLIC)
        seen.append(list(model.shapes))
    assert seen == [[(8, 3)] * max(1, -(-n // 8))] * 3


@pytest.mark.parametrize(("features", "step"), [(3, "_encode_block"), (4096, "_encode_long")])
def test_padding_is_encoded_like_any_record(monkeypatch, features, step):
    model, theta, x, y = setting(20, features)
    rows, honest = [], getattr(integers, step)

    def counting(values, *rest):
        rows.append(values.size // model.dimension)
        return honest(values, *rest)

    monkeypatch.setattr(integers, step, counting)
    for selected in (np.zeros(20, bool), np.ones(20, bool), np.arange(20) % 2 == 0):
        rows.clear()
        record_sum(model, theta, x, y, selected, **PUBLIC)
        assert sum(rows) == 24
    assert model.zero_rows.tolist() == list(
        range(8)
    )  # ten of twenty fill no part of the third batch


@pytest.mark.parametrize("features", [30, 5000])
def test_memory_is_bounded_by_the_micro_batch(features):
    """Twenty times the records take their indices more, not their features or gradients."""

    def peak(n):
        model, theta, x, y = setting(n, features)
        tracemalloc.start()
        record_sum(model, theta, x, y, np.ones(n, bool), **PUBLIC)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = 16, 320
    peak(few)
    grown = peak(many) - peak(few)
    assert grown <= 8 * (many - few) + 4096 + 200 * many // PUBLIC["micro_batch"]
    assert grown < 8 * features * (many - few) / 2


def test_padding_and_unselected_records_contribute_nothing():
    model, theta, x, y = setting(13)
    assert not record_sum(model, theta, x, y, np.zeros(13, bool), **PUBLIC).any()
    part = np.arange(13) < 5
    alone = record_sum(model, theta, x[:5], y[:5], np.ones(5, bool), **PUBLIC)
    assert (record_sum(model, theta, x, y, part, **PUBLIC) == alone).all()


def test_a_non_finite_gradient_counts_as_zero():
    model, theta, x, y = setting(9)
    healthy = np.arange(9) != 4
    x[4, 0] = 2.0
    everyone = record_sum(model, theta, x, y, np.ones(9, bool), **PUBLIC)
    assert everyone.any()
    assert (everyone == record_sum(model, theta, x, y, healthy, **PUBLIC)).all()


def test_disagreeing_shapes_are_refused():
    model, theta, x, y = setting(4)
    with pytest.raises(ValueError, match="selected"):
        record_sum(model, theta, x, y, np.ones(5, bool), **PUBLIC)
    with pytest.raises(ValueError, match="micro_batch"):
        record_sum(model, theta, x, y, np.ones(4, bool), **PUBLIC | {"micro_batch": 0})
