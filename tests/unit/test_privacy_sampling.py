"""Poisson sampling by integer thresholds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tacit.privacy.sampling import draw_groups, poisson_sample, realised_rate, threshold
from tacit.testing.entropy import SeededEntropy


class FixedEntropy:
    """Entropy that yields given 64-bit words."""

    def __init__(self, *words: int) -> None:
        self._data = b"".join(word.to_bytes(8, "little") for word in words)

    def draw(self, size: int) -> bytes:
        assert size == len(self._data)
        return self._data


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_selection_is_bernoulli(rate):
    n = 400_000
    selected = poisson_sample(n, threshold(rate), SeededEntropy(f"rate {rate}"))
    spread = 4.5 * (rate * (1 - rate) / n) ** 0.5
    assert abs(selected.mean() - rate) < spread
    pairs = np.mean(selected[1:] & selected[:-1])
    assert abs(pairs - rate**2) < 4.5 * (3 * rate**2 / n) ** 0.5


def test_the_threshold_is_exact():
    t = threshold(0.1)
    words = (0, t - 1, t, 2**64 - 1)
    assert poisson_sample(4, t, FixedEntropy(*words)).tolist() == [True, True, False, False]


def test_rate_one_selects_everything():
    assert threshold(1.0) == 2**64
    assert poisson_sample(2, 2**64, FixedEntropy(0, 2**64 - 1)).all()
    assert realised_rate(2**64) == 1.0


def test_the_charged_rate_is_never_below_the_realised_one():
    for t in (1, 3, 2**53 + 1, 2**63 + 1, 2**64 - 1, threshold(0.1)):
        assert Fraction(realised_rate(t)) >= Fraction(t, 2**64)


def test_records_are_independent_of_the_number_of_others():
    few = poisson_sample(10, threshold(0.5), SeededEntropy(3))
    assert np.array_equal(few, poisson_sample(1000, threshold(0.5), SeededEntropy(3))[:10])


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan"), 2.0**-65])
def test_refuses_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="sampling rate"):
        threshold(rate)


@pytest.mark.parametrize("t", [0, -1, 2**64 + 1])
def test_refuses_a_threshold_out_of_range(t):
    with pytest.raises(ValueError, match="threshold"):
        poisson_sample(3, t, SeededEntropy(1))


OWNERS = np.array([0, 2, 1, 2, 2, 0, 2, 3])


def test_without_entities_every_record_is_its_own():
    groups = draw_groups(None, 5, 1, 2**64, SeededEntropy(1))
    assert groups.tolist() == [[0], [1], [2], [3], [4]]
    some = draw_groups(None, 4000, 1, threshold(0.3), SeededEntropy(1))
    assert some.shape == (4000, 1)
    assert abs((some >= 0).mean() - 0.3) < 0.04
    assert set(some[some >= 0]) == set(np.flatnonzero(some[:, 0] >= 0))


@pytest.mark.parametrize("cap", [1, 2, 3, 50])
def test_groups_hold_up_to_cap_records_of_a_sampled_entity(cap):
    groups = draw_groups(OWNERS, 8, cap, 2**64, SeededEntropy(cap))
    assert groups.shape == (4, cap)  # whatever anybody has: the width is public
    for entity, group in enumerate(groups):
        used = group[group >= 0]
        assert len(used) == len(set(used)) == min(cap, int((entity == OWNERS).sum()))
        assert (OWNERS[used] == entity).all()
        assert (group[: len(used)] >= 0).all()


def test_an_entity_is_sampled_as_a_whole():
    owners = np.repeat(np.arange(3000), 3)
    groups = draw_groups(owners, 9000, 2, threshold(0.2), SeededEntropy("entities"))
    there = groups >= 0
    assert (there.all(axis=1) | ~there.any(axis=1)).all()
    assert abs(there[:, 0].mean() - 0.2) < 4.5 * (0.16 / 3000) ** 0.5


def test_every_record_of_an_entity_is_as_likely():
    entropy, counts = SeededEntropy("uniform"), np.zeros(8)
    for _ in range(3000):
        chosen = draw_groups(OWNERS, 8, 2, 2**64, entropy)
        counts[chosen[chosen >= 0]] += 1
    assert (counts[OWNERS == 0] == 3000).all()
    assert np.abs(counts[OWNERS == 2] - 1500).max() < 4.5 * (3000 / 4) ** 0.5


def test_no_records_give_no_groups():
    assert draw_groups(np.zeros(0, dtype=np.int64), 0, 3, 2**64, SeededEntropy(1)).shape == (0, 3)
    assert draw_groups(None, 0, 1, 2**64, SeededEntropy(1)).shape == (0, 1)


@pytest.mark.parametrize(
    ("owners", "n", "cap"), [([0, 2], 2, 1), ([0, 1], 3, 1), ([0, 1], 2, 0), ([-1, 0], 2, 1)]
)
def test_senseless_groups_are_refused(owners, n, cap):
    with pytest.raises(ValueError, match=r"entities|negative"):
        draw_groups(np.array(owners), n, cap, 2**64, SeededEntropy(1))
