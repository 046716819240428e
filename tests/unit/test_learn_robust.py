"""Robust rules: what they owe by definition."""

from __future__ import annotations

import numpy as np
import pytest

from tacit.learn import robust

RULES = {
    "mean": robust.mean,
    "median": robust.coordinate_median,
    "trimmed": lambda rows: robust.trimmed_mean(rows, 2),
    "krum": lambda rows: robust.multi_krum(rows, 2, 1),
    "multi-krum": lambda rows: robust.multi_krum(rows, 2),
    "geometric": robust.geometric_median,
    "centered": robust.centered_clipping,
    "nnm": lambda rows: robust.trimmed_mean(robust.nearest_mixing(rows, 2), 2),
}
ROBUST = sorted(set(RULES) - {"mean"})


def rows(seed, n=9, d=6):
    return np.random.default_rng(seed).standard_normal((n, d)) + 1.0


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_does_not_matter(name, seed):
    given = rows(seed)
    order = np.random.default_rng(seed + 100).permutation(len(given))
    assert np.allclose(RULES[name](given), RULES[name](given[order]), atol=1e-9)


@pytest.mark.parametrize("name", sorted(RULES))
def test_equal_rows_are_their_own_result(name):
    given = np.tile(rows(0)[0], (9, 1))
    assert np.allclose(RULES[name](given), given[0], atol=1e-12)


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_move_with_the_rows(name):
    given = rows(3)
    assert np.allclose(RULES[name](given + 5.0), RULES[name](given) + 5.0, atol=1e-6)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("size", [1e3, 1e9])
def test_two_of_nine_rows_move_it_no_further_however_far_they_are(name, size):
    given = rows(1)
    honest = given[:7]
    given[7:] = size
    found = RULES[name](given)
    assert np.linalg.norm(found - honest.mean(axis=0)) < 6.0
    assert np.linalg.norm(robust.mean(given) - honest.mean(axis=0)) > size / 9


@pytest.mark.parametrize("seed", range(20))
def test_trimming_keeps_to_the_honest_range(seed):
    given = rows(seed)
    given[:2] = np.random.default_rng(seed).choice([-1e6, 1e6, 0.0], size=(2, 6))
    found, honest = robust.trimmed_mean(given, 2), given[2:]
    assert (found >= honest.min(axis=0)).all()
    assert (found <= honest.max(axis=0)).all()


def test_with_nobody_malicious_they_are_means():
    given = rows(4)
    expected = given.mean(axis=0)
    assert np.allclose(robust.trimmed_mean(given, 0), expected)
    assert np.allclose(robust.multi_krum(given, 0), expected)
    assert np.allclose(robust.nearest_mixing(given, 0), expected)
    assert np.allclose(robust.centered_clipping(given, radius=1e9), expected)


def test_krum_scores_are_sums_of_nearest_squares():
    given = np.array([[0.0], [1.0], [3.0], [10.0], [11.0]])
    # n - f - 2 = 2 nearest others each.
    assert robust.krum_scores(given, 1).tolist() == [1 + 9, 1 + 4, 4 + 9, 1 + 49, 1 + 64]


def test_the_geometric_median_of_three_points_on_a_line_is_the_middle_one():
    given = np.array([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
    assert np.allclose(robust.geometric_median(given, steps=2000), [1.0, 1.0], atol=1e-3)


def test_too_many_malicious_rows_are_refused():
    with pytest.raises(ValueError, match="too many"):
        robust.trimmed_mean(rows(0, n=4), 2)
    with pytest.raises(ValueError, match="too many"):
        robust.nearest_mixing(rows(0, n=4), 4)
