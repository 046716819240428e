"""Evaluation of held-out units inside the vector: exact rows, right estimates, honest error bars."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.learn.gradient_sum import Encoding, held_out_sum
from tacit.learn.held_out import HeldOutCode
from tacit.learn.metrics import accuracy, auc
from tacit.learn.models import LogisticRegression
from tacit.privacy.integers import sensitivity

GRID = 2.0**-24


def setting(n, classes, seed, micro_batch=7):
    rng = np.random.default_rng(seed)
    model = LogisticRegression(5, classes)
    theta = rng.normal(size=model.dimension)
    x, y = rng.normal(size=(n, 5)), rng.integers(0, classes, n)
    code, encoding = HeldOutCode(0.5, 4.0, classes, 8), Encoding(0.5, GRID, micro_batch)

    def total(rows):
        groups = np.arange(len(rows))[:, None]
        return held_out_sum(model, theta, (x[rows], y[rows]), groups, code, encoding)

    return model, theta, (x, y), code, total


@given(st.integers(1, 40), st.integers(2, 4), st.integers(0, 2**32), st.integers(1, 9))
@settings(max_examples=60)
def test_removing_a_held_out_record_removes_its_row(n, classes, seed, micro_batch):
    _, _, _, _, total = setting(n, classes, seed, micro_batch)
    everyone, row = np.arange(n), seed % n
    alone = total(everyone[row : row + 1])
    assert (total(everyone) - total(np.delete(everyone, row)) == alone).all()
    assert alone.any()
    assert sum(int(value) ** 2 for value in alone) <= sensitivity(0.5, GRID) ** 2


@given(
    st.lists(
        st.tuples(st.floats(), st.sampled_from([0.0, 1.0]), st.floats(), st.integers(-3, 5)),
        min_size=1,
        max_size=20,
    ),
    st.integers(2, 3),
)
def test_no_assessment_exceeds_the_bound(assessed, classes):
    code = HeldOutCode(0.5, 4.0, classes, 8)
    values = np.array([row[:3] for row in assessed])
    rows = code.rows(values, np.array([row[3] for row in assessed]))
    assert np.isfinite(rows).all()
    assert (np.linalg.norm(rows, axis=1) <= 0.5 * (1 + 1e-12)).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_without_noise_the_estimates_are_the_metrics(classes):
    model, theta, (x, y), code, total = setting(600, classes, 3)
    y[:] = (x[:, 0] > 0).astype(int)  # something to be right about
    found = code.decode(total(np.arange(600)) * GRID, 0.0)
    scores, losses = model.scores(theta, x), model.assess(theta, x, y)[:, 0]
    assert found["held_out_accuracy"] == pytest.approx(accuracy(scores, y), abs=1e-5)
    assert found["held_out_loss"] == pytest.approx(np.clip(losses, 0, 4.0).mean(), abs=1e-5)
    assert ("held_out_auc" in found) == (classes == 2)
    if classes == 2:
        exact = auc(scores[:, 1], y == 1)
        assert abs(found["held_out_auc"] - exact) < 0.03  # eight bins
        assert 0 < found["held_out_auc_std"] < 0.05


def test_the_error_bars_are_those_of_the_noise():
    """Over many draws of the noise alone, estimates spread as their error bars say."""
    _, _, (_, _), code, total = setting(4000, 2, 5)
    exact, std = total(np.arange(4000)) * GRID, 6.0 * 0.5
    rng = np.random.default_rng(1)
    found = [code.decode(exact + rng.normal(0, std, len(exact)), std) for _ in range(400)]
    clean = code.decode(exact, 0.0)
    for name in ("held_out_loss", "held_out_accuracy", "held_out_auc"):
        spread = np.std([each[name] for each in found])
        stated = np.mean([each[f"{name}_std"] ** 2 for each in found])
        noise_part = (stated - clean[f"{name}_std"] ** 2) ** 0.5
        assert spread == pytest.approx(noise_part, rel=0.15), name


def test_what_the_noise_drowns_is_left_out():
    _, _, (_, _), code, total = setting(20, 2, 5)
    assert code.decode(total(np.arange(20)) * GRID, 50.0) == {}
    assert "held_out_auc" not in code.decode(total(np.arange(20)) * GRID, 0.5)


@pytest.mark.parametrize(
    "change", [{"clip_norm": 0.0}, {"loss_bound": -1.0}, {"classes": 1}, {"bins": 1}]
)
def test_senseless_settings_are_refused(change):
    with pytest.raises(ValueError, match=r"must|at least"):
        HeldOutCode(**{"clip_norm": 1.0, "loss_bound": 4.0, "classes": 2, "bins": 8} | change)
