"""Poisson sampling by integer thresholds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tacit.privacy.sampling import poisson_sample, realised_rate, threshold
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
