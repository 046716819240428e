"""How gradients are shortened, and how a row shares its bound out."""

import math

import numpy as np
import pytest

from tacit.learn.clipping import Clipping
from tacit.learn.record_metrics import MetricCode
from tacit.learn.row_code import RowCode

GRADIENTS = np.array([[30.0, -40.0, 0.0], [0.3, 0.4, 0.0], [0.0, 0.0, 0.0]])
METRICS = MetricCode(clip_norm=2.0, share=0.18, loss_bound=4.0)


def lengths(rows):
    return np.linalg.norm(rows, axis=1)


def test_flat_shortens_what_is_longer_and_nothing_else():
    rows = Clipping("flat", 2.0).rows(GRADIENTS)
    assert lengths(rows) == pytest.approx([2.0, 0.5, 0.0])
    assert rows[0, 0] / rows[0, 1] == pytest.approx(-0.75)
    assert rows[1].tolist() == GRADIENTS[1].tolist()


def test_normalised_brings_every_gradient_near_the_bound():
    rows = Clipping("normalised", 2.0).rows(GRADIENTS)
    assert lengths(rows)[0] == pytest.approx(2.0, rel=1e-3)
    assert 1.9 < lengths(rows)[1] < 2.0
    assert not rows[2].any()


def test_per_layer_bounds_every_layer_by_itself():
    rows = Clipping("per-layer", 2.0, layers=(1, 2)).rows(GRADIENTS)
    part = 2.0 / math.sqrt(2)
    assert rows[0] == pytest.approx([part, -part, 0.0])
    assert rows[1].tolist() == GRADIENTS[1].tolist()


def test_adaptive_clips_at_the_scaled_bound_and_says_which_were_short():
    clipping = Clipping("adaptive", 2.0, bit=0.1)
    rows = clipping.rows(GRADIENTS, scale=0.2)
    assert lengths(rows[:, :3]) == pytest.approx([2.0, 2.0, 0.0])  # 0.5 is longer than 0.4
    assert rows[:, 3].tolist() == [-0.1, -0.1, 0.1]
    wide = clipping.rows(GRADIENTS, scale=10.0)
    assert lengths(wide[:, :3]) == pytest.approx([2.0, 0.05, 0.0])
    assert wide[:, 3].tolist() == [-0.1, 0.1, 0.1]
    assert clipping.fraction(float(wide[:, 3].sum()), 3) == pytest.approx(2 / 3)
    assert clipping.fraction(1e9, 3) == 1.0
    assert clipping.fraction(-1e9, 3) == 0.0


@pytest.mark.parametrize("mode", ["flat", "normalised", "adaptive", "per-layer"])
def test_a_gradient_that_is_not_finite_stays_so(mode):
    """The encoder then drops the whole row, bit and metrics included."""
    code = RowCode.of(2.0, mode, layers=(1, 1), bit_share=0.1, metrics=METRICS)
    for bad in (math.nan, math.inf):
        rows = code.rows(np.array([[bad, 1.0], [1.0, 1.0]]), np.ones((2, 3)))
        assert not np.isfinite(rows[0]).all()
        assert np.isfinite(rows[1]).all()


def test_a_huge_gradient_is_shortened_too():
    rows = Clipping("flat", 2.0).rows(np.array([[1e200, 1e200]]))
    assert lengths(rows) == pytest.approx([2.0])


@pytest.mark.parametrize("mode", ["flat", "normalised", "adaptive", "per-layer"])
def test_gradient_bit_and_metrics_share_one_bound(mode):
    code = RowCode.of(2.0, mode, layers=(1, 2), bit_share=0.1, metrics=METRICS)
    rows = code.rows(np.full((1, 3), 1e6), np.array([[0.0, 1.0, 0.5]]))
    assert rows.shape == (1, 3 + code.extra)
    assert code.extra == (3 if mode == "adaptive" else 2)
    assert lengths(rows)[0] <= 2.0 * (1 + 1e-12)
    if mode != "per-layer":
        assert lengths(rows)[0] == pytest.approx(2.0, rel=1e-6)
    assert np.linalg.norm(rows[0, -2:]) == pytest.approx(2.0 * math.sqrt(0.18))


def test_nothing_left_for_the_gradient_is_refused():
    with pytest.raises(ValueError, match="leave nothing"):
        RowCode.of(1.0, "adaptive", bit_share=0.6, metrics=MetricCode(1.0, 0.4, 4.0))


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "flat", "bound": 0.0},
        {"mode": "flat", "bound": math.nan},
        {"mode": "flat", "bound": 1.0, "bit": 0.1},
        {"mode": "adaptive", "bound": 1.0},
    ],
)
def test_senseless_settings_are_refused(arguments):
    with pytest.raises(ValueError, match=r"bound|bit"):
        Clipping(**arguments)
