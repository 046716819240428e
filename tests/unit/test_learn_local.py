"""Local SGD of the FedAvg baseline."""

import math

import numpy as np
import pytest

from tacit.learn.local import LocalSettings, local_update
from tacit.learn.models import LogisticRegression

MODEL = LogisticRegression(3, 2)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)), RNG.integers(0, 2, 20)
THETA = RNG.normal(size=4)


def test_one_full_batch_is_one_gradient_step():
    settings = LocalSettings(epochs=1, batch=20, learning_rate=0.3)
    delta = local_update(MODEL, THETA, X, Y, settings, b"seed")
    assert delta == pytest.approx(-0.3 * MODEL.gradients(THETA, X, Y).mean(axis=0), abs=1e-8)


def test_an_uneven_last_batch_is_its_own_mean():
    settings = LocalSettings(epochs=1, batch=2, learning_rate=0.3)
    x, y = np.repeat(X[:1], 3, axis=0), np.repeat(Y[:1], 3)
    step = THETA - 0.3 * MODEL.gradients(THETA, x[:1], y[:1])[0]
    step = step - 0.3 * MODEL.gradients(step, x[:1], y[:1])[0]
    assert local_update(MODEL, THETA, x, y, settings, b"") == pytest.approx(step - THETA, abs=1e-8)


def test_the_seed_fixes_the_order_and_nothing_else_moves():
    settings = LocalSettings(epochs=2, batch=4, learning_rate=0.3)
    before = np.random.get_state()[1].copy()
    theta = THETA.copy()
    first = local_update(MODEL, theta, X, Y, settings, b"one")
    assert first.tobytes() == local_update(MODEL, theta, X, Y, settings, b"one").tobytes()
    assert first.tobytes() != local_update(MODEL, theta, X, Y, settings, b"two").tobytes()
    assert theta.tobytes() == THETA.tobytes()
    assert (np.random.get_state()[1] == before).all()


def test_training_lowers_the_loss():
    settings = LocalSettings(epochs=20, batch=5, learning_rate=0.1)
    after = THETA + local_update(MODEL, THETA, X, Y, settings, b"seed")
    assert MODEL.loss(after, X, Y) < MODEL.loss(THETA, X, Y)


def test_a_record_without_a_finite_gradient_is_left_out():
    x = X.copy()
    x[3, 0] = math.nan
    settings = LocalSettings(epochs=1, batch=20, learning_rate=0.3)
    delta = local_update(MODEL, THETA, x, Y, settings, b"seed")
    kept = np.arange(20) != 3
    expected = -0.3 * MODEL.gradients(THETA, X[kept], Y[kept]).sum(axis=0) / 20
    assert delta == pytest.approx(expected, abs=1e-8)


def test_no_records_are_refused():
    settings = LocalSettings(epochs=1, batch=4, learning_rate=0.3)
    with pytest.raises(ValueError, match="at least one record"):
        local_update(MODEL, THETA, X[:0], Y[:0], settings, b"")


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch": 0}, {"learning_rate": math.inf}])
def test_senseless_settings_are_refused(change):
    with pytest.raises(ValueError, match="at least 1"):
        LocalSettings(**{"epochs": 1, "batch": 1, "learning_rate": 0.1} | change)
