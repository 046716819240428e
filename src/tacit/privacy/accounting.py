"""What a run costs: the privacy loss distribution of ``dp_accounting`` and calibration against it.

There is no accountant of our own here. The integer mechanism is, up to the constants below,
post-processing of the Poisson-subsampled continuous Gaussian mechanism (design note), and that is
what ``dp_accounting`` is asked about. Its estimates are pessimistic: every figure is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from dp_accounting.pld import privacy_loss_distribution as pld  # type: ignore[import-untyped]

__all__ = ["MIN_DELTA", "calibrate", "epsilon"]

INTERVAL = 1e-4
COARSE_INTERVAL = 1e-3
MAX_POINTS = 2**22
"""Keeps the distribution of a nearly noiseless mechanism in memory, on a coarser grid if need be."""

MIN_NOISE_RATIO = 0.1
"""Below this one release alone costs an epsilon near 100: called infinite."""

MIN_DELTA = 1e-10
"""Below this the accountant's floating-point convolution is no longer trustworthy."""

CONVOLUTION_ERROR = 4e-12
"""Taken off delta: the convolution's rounding is absolute, 1e-12 at most where the exact Gaussian
could be compared, up to 131,072 rounds."""

SLACK = 1e-9
"""Added to epsilon, and taken off delta relatively. Covers the lemmas' factors (at most 2**52 samples
in a run, each within a factor 1 +- 3e-30, twice: 3e-14; design note, section 6)."""

SAMPLER_VARIATION = 2.0**-82
"""Charged to delta, times ``1 + exp(epsilon)``: 2**52 samples, each within total variation 3e-41."""

STEPS_PER_OCTAVE = 20_000
"""``calibrate`` answers in steps of a twenty-thousandth of the power of two below the result."""

MIN_OCTAVE = 0.125
MAX_OCTAVE = 2.0**19
INTERPOLATIONS = 4


def epsilon(*, noise_ratio: float, sampling_rate: float, rounds: int, delta: float) -> float:
    """Epsilon of ``rounds`` adaptive rounds, adding or removing one record (or one zero-out).

    Args:
        noise_ratio: Standard deviation of the equivalent continuous Gaussian noise divided by the
            sensitivity: ``sqrt(V - 4) / D``; positive and finite.
        sampling_rate: The realised Poisson rate, in (0, 1].
        rounds: Number of releases; 0 costs nothing.
        delta: In [``MIN_DELTA``, 1).

    Returns:
        An upper bound; infinity if none is finite.

    Raises:
        ValueError: An argument is out of range.

    Guarantee:
        (epsilon, delta)-DP for one record against whoever sees every sum but not the samples drawn.
        Checked by ``tests/unit/test_privacy_lemmas.py::test_integer_mechanism_costs_no_more`` (brute
        force, both directions) and ``tests/unit/test_privacy_accounting.py::test_published_values``.

    Reference:
        Mironov et al. 2019 (sampled Gaussian); Koskela et al. 2020, Doroshenko et al. 2022 (PLD);
        docs/design/0003-discrete-gaussian.md, section 6.
    """
    if not (0.0 < noise_ratio < math.inf and 0.0 < sampling_rate <= 1.0):
        raise ValueError("noise_ratio must be positive and finite, sampling_rate in (0, 1]")
    if rounds < 0 or not MIN_DELTA <= delta < 1.0:
        raise ValueError(f"rounds must not be negative, delta must lie in [{MIN_DELTA}, 1)")
    return _epsilon(noise_ratio, sampling_rate, rounds, delta, INTERVAL) if rounds else 0.0


def calibrate(*, target_epsilon: float, delta: float, sampling_rate: float, rounds: int) -> float:
    """The smallest noise multiplier whose epsilon is at most ``target_epsilon``.

    Args:
        target_epsilon: Positive and finite.
        delta: In [``MIN_DELTA``, 1).
        sampling_rate: The realised Poisson rate, in (0, 1].
        rounds: At least 1.

    Returns:
        z with ``epsilon(noise_ratio=z, ...) <= target_epsilon``, certified by that call itself; one
        step (a relative 5e-5 at most) less would exceed the target, unless z is ``MIN_OCTAVE``.

    Raises:
        ValueError: An argument is out of range or no multiplier up to 2**20 reaches the target.
    """
    if not 0.0 < target_epsilon < math.inf or rounds < 1:
        raise ValueError("target_epsilon must be positive and finite, rounds at least 1")
    return _calibrate(target_epsilon, delta, sampling_rate, rounds)


@lru_cache(maxsize=64)
def _calibrate(target: float, delta: float, rate: float, rounds: int) -> float:
    epsilon(noise_ratio=1.0, sampling_rate=rate, rounds=0, delta=delta)  # checks rate and delta

    def cost(z: float, interval: float) -> float:
        return _epsilon(z, rate, rounds, delta, interval)

    octave = _octave(target, lambda z: cost(z, COARSE_INTERVAL))
    if octave == MIN_OCTAVE:
        return octave
    step = octave / STEPS_PER_OCTAVE
    near = _interpolate(target, octave, lambda z: cost(z, COARSE_INTERVAL))
    return step * _smallest(math.ceil(near / step), lambda n: cost(n * step, INTERVAL) <= target)


def _smallest(guess: int, enough: Callable[[int], bool]) -> int:
    """The least count that is enough: strides that double away from the guess, then halves."""
    low = high = guess
    stride = 1
    while not enough(high):
        low, high, stride = high, high + stride, 2 * stride
    while low == high or enough(low):
        low, high, stride = max(low - stride, 0), low, 2 * stride
        if low == 0:
            break
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _octave(target: float, cost: Callable[[float], float]) -> float:
    """The power of two z with cost(z) > target >= cost(2 z), or ``MIN_OCTAVE``."""
    z = 1.0
    while cost(z) <= target:
        z /= 2.0
        if z <= MIN_OCTAVE:
            return MIN_OCTAVE
    while cost(2.0 * z) > target:
        z *= 2.0
        if z > MAX_OCTAVE:
            raise ValueError("no noise multiplier reaches so small an epsilon at this delta")
    return z


def _interpolate(target: float, octave: float, cost: Callable[[float], float]) -> float:
    """About the z in [octave, 2 octave] where cost(z) = target: log cost is near linear in log z."""
    low, high = octave, 2.0 * octave
    above, below = cost(low), cost(high)
    guess = high
    for _ in range(INTERPOLATIONS):
        share = 0.5
        if below > 0.0 and below < above < math.inf:
            share = math.log(above / target) / math.log(above / below)
        guess = low * (high / low) ** share
        found = cost(guess)
        low, above, high, below = (
            (guess, found, high, below) if found > target else (low, above, guess, found)
        )
    return guess


@lru_cache(maxsize=1024)
def _epsilon(ratio: float, rate: float, rounds: int, delta: float, interval: float) -> float:
    if ratio < MIN_NOISE_RATIO:
        return math.inf
    spread = rounds / (2.0 * ratio**2) + 8.0 * math.sqrt(rounds) / ratio
    one = _one_round(ratio, rate, max(interval, spread / MAX_POINTS))
    composed = one.self_compose(rounds)
    # The sampler's share of delta depends on epsilon: raise the guess until it is consistent.
    guess = float(composed.get_epsilon_for_delta(delta)) + SLACK
    while guess < 700.0:
        rest = (
            delta * (1.0 - SLACK) - CONVOLUTION_ERROR - (1.0 + math.exp(guess)) * SAMPLER_VARIATION
        )
        if rest <= 0.0:
            break
        result = float(composed.get_epsilon_for_delta(rest)) + SLACK
        if result <= guess:
            return guess
        guess = result * (1.0 + 1e-12)
    return math.inf


@lru_cache(maxsize=32)
def _one_round(ratio: float, rate: float, interval: float) -> pld.PrivacyLossDistribution:
    """The pessimistic distribution of one round, for adding and for removing a record."""
    return pld.from_gaussian_mechanism(
        ratio,
        value_discretization_interval=interval,
        sampling_prob=rate,
        pessimistic_estimate=True,
    )
