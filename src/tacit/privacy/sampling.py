"""Poisson sampling of records by exact integer thresholds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tacit.types import Entropy

__all__ = ["poisson_sample", "realised_rate", "threshold"]

RESOLUTION = 2**64


def threshold(rate: float) -> int:
    """The integer that stands for a sampling rate: floor(rate * 2**64).

    Args:
        rate: Sampling rate in (0, 1].

    Raises:
        ValueError: ``rate`` is not in (0, 1], or so small that nothing would ever be sampled.
    """
    if not 0.0 < rate <= 1.0:
        raise ValueError("a sampling rate lies in (0, 1]")
    result = int(Fraction(rate) * RESOLUTION)
    if result == 0:
        raise ValueError("a sampling rate must be at least 2**-64")
    return result


def realised_rate(threshold: int) -> float:
    """The rate at which ``poisson_sample`` really samples; this one is charged, rounded up."""
    exact = Fraction(threshold, RESOLUTION)
    rate = float(exact)
    return rate if Fraction(rate) >= exact else math.nextafter(rate, 1.0)


def poisson_sample(n: int, threshold: int, entropy: Entropy) -> NDArray[np.bool_]:
    """Selects each of ``n`` records independently with probability ``threshold / 2**64``.

    Args:
        n: Number of records.
        threshold: From ``threshold(rate)``; 1 to 2**64.
        entropy: Secret randomness; 8 bytes per record are drawn, whatever the rate.

    Returns:
        bool[n].

    Raises:
        ValueError: ``n`` or ``threshold`` is out of range.

    Guarantee:
        Exactly independent Bernoulli(``realised_rate``) given uniform entropy, so amplification by
        Poisson sampling applies to whoever does not see the selection.
        Checked by ``tests/unit/test_privacy_sampling.py::test_selection_is_bernoulli``.
    """
    if n < 0 or not 1 <= threshold <= RESOLUTION:
        raise ValueError("n must not be negative; the threshold lies in [1, 2**64]")
    words = np.frombuffer(entropy.draw(8 * n), dtype="<u8")
    # "<= threshold - 1", because 2**64 itself is no 64-bit integer
    selected: NDArray[np.bool_] = words <= np.uint64(threshold - 1)
    return selected
