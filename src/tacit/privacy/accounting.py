"""What a run costs: the privacy loss distribution of ``dp_accounting`` and calibration against it.

There is no accountant of our own here. The integer mechanism is, up to the constants below,
post-processing of the Poisson-subsampled continuous Gaussian mechanism (design note), and that is
what ``dp_accounting`` is asked about. Its estimates are pessimistic: every figure is an upper bound.
Every figure that leaves this module lies between two others (``bounds``), or is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Any

from tacit.errors import VerificationError
from tacit.privacy.bounds import Rounds, renyi_bound, shown_by_a_test
from tacit.privacy.events import SEES_PARTICIPATION, Observer, Releases, refused

__all__ = ["MAX_ROUNDS", "MIN_DELTA", "calibrate", "deltas", "epsilon", "price"]

INTERVAL = 1e-4
COARSE_INTERVAL = 1e-3
RESOLUTION = 8
"""Points of the grid to one deviation of a round's privacy loss, at least."""

MAX_POINTS = 2**20
MAX_POINTS_OF_ONE = 2**18
"""Keep the distribution of a nearly noiseless mechanism, composed and of one round, in some hundred
megabytes and seconds, on a coarser grid if need be; that only raises epsilon."""

MAX_ROUNDS = 2**17
"""Of one run; with the limits on helpers and draws it keeps a run below 2**52 samples."""

MAX_KINDS = 16
"""Different kinds of rounds in one sequence: each takes its share off delta."""

MIN_NOISE_RATIO = 0.1
"""Below this one release alone costs an epsilon near 100: called infinite."""

MIN_DELTA = 1e-10
"""Below this the accountant's floating-point convolution is no longer trustworthy."""

CONVOLUTION_ERROR = 4e-12
CONVOLUTION_ERROR_OF_A_ROUND = 2e-16
"""Taken off delta, for every kind of rounds and for every round: the convolution's rounding is
absolute. Where the exact Gaussian could be compared, it lowered delta by 2e-15 at 1,000 rounds and by
7e-12 at 100,000, on grids down to 1e-6."""

GRID_ROUNDING = 5e-14
"""Least square of the grid's interval, for each round and each unit of its loss's range. The rounding
of a grid's masses only adds to them; below this it would add more than a thousandth of delta."""

SLACK = 1e-9
"""Added to epsilon, and taken off delta relatively. Covers the lemmas' factors (at most 2**52 samples
in a run, each within a factor 1 +- 3e-30, twice: 3e-14; design note, section 6)."""

SAMPLER_VARIATION = 2.0**-82
"""Charged to delta, times ``1 + exp(epsilon)``: 2**52 samples, each within total variation 3e-41."""

TOLERANCE = 1e-6
"""Relative, for the rounding of the two figures between which an epsilon must lie."""

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
        VerificationError: The accountants contradict each other: a fault in the program.

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
    if rounds < 0:
        raise ValueError("rounds must not be negative")
    _check_delta(delta)
    return _certified((Rounds(noise_ratio, sampling_rate, rounds),), delta) if rounds else 0.0


def deltas(
    *, noise_ratio: float, sampling_rate: float, rounds: int, epsilons: Sequence[float]
) -> list[float]:
    """Delta at each epsilon: the whole privacy profile, for ceilings of attacks.

    ``deltas(epsilons=[0.0])`` is the total variation distance between the two neighbours' outputs, which
    no membership test's advantage can exceed.

    Args:
        noise_ratio: See ``epsilon``.
        sampling_rate: See ``epsilon``.
        rounds: At least 1.
        epsilons: At least 0 each.

    Returns:
        Upper bounds, at most 1.0 each; 1.0 everywhere without enough noise.

    Guarantee:
        Never below what ``epsilon`` certifies: at the epsilon of a delta it is at most that delta. Checked by
        ``tests/unit/test_privacy_accounting.py::test_the_profile_agrees_with_epsilon``.

    Reference:
        Koskela et al. 2020 (PLD); Kairouz et al. 2015 (operational meaning of (epsilon, delta)).
    """
    if not (0.0 < noise_ratio < math.inf and 0.0 < sampling_rate <= 1.0 and rounds >= 1):
        raise ValueError("noise_ratio must be positive and finite, sampling_rate in (0, 1]")
    part = Rounds(noise_ratio, sampling_rate, rounds)
    if noise_ratio < MIN_NOISE_RATIO:
        return [1.0 for _ in epsilons]
    composed = _one_round(noise_ratio, sampling_rate, _interval((part,), COARSE_INTERVAL))
    composed = composed.self_compose(rounds)
    reserve = CONVOLUTION_ERROR + CONVOLUTION_ERROR_OF_A_ROUND * rounds + SLACK
    return [min(1.0, float(composed.get_delta_for_epsilon(e)) + reserve) for e in epsilons]


def price(events: Sequence[Releases], *, observer: Observer, delta: float) -> float:
    """Epsilon of a sequence of events, whose parameters were fixed before the first, for an observer.

    Args:
        events: In any order; none costs nothing. They name one unit and one neighbouring relation.
        observer: Who looks at everything that was released.
        delta: Of the whole sequence, in [``MIN_DELTA``, 1).

    Returns:
        An upper bound; infinity if none is finite. Sampling lowers it only for an observer who does
        not see who takes part: for any other a unit's contributions count in full, as many as its
        participation cap allows, or one each round.

    Raises:
        ConfigError: The events or the observer have no sound price; names the key.
        ValueError: ``delta`` is out of range.
        VerificationError: The accountants contradict each other: a fault in the program.

    Guarantee:
        (epsilon, delta)-DP for one unit under the events' neighbouring relation against the observer,
        whatever the units' contributions depend on. Checked by
        ``tests/unit/test_privacy_caps.py::test_a_capped_adaptive_process_costs_no_more`` (brute force,
        both directions) and
        ``tests/unit/test_privacy_events.py::test_who_sees_the_cohort_is_never_given_the_amplified_figure``.

    Reference:
        docs/design/0003-discrete-gaussian.md, section 10 (lemma 3).
    """
    _check_delta(delta)
    if observer != "released-models" and observer not in SEES_PARTICIPATION:
        raise refused("observer", f"{observer!r} is unknown", "name one of events.Observer")
    for key in ("unit", "adjacency"):
        if len({getattr(event, key) for event in events}) > 1:
            raise refused(key, "one sequence of events has one", "price the others by themselves")
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        part = _as_seen(event, observer, delta)
        counts[part.ratio, part.rate] += part.number
    if sum(event.rounds for event in events) > MAX_ROUNDS:
        raise refused("rounds", f"a run has {MAX_ROUNDS} at most", "lower their number")
    if len(counts) > MAX_KINDS:
        raise refused(
            "events", f"there are more than {MAX_KINDS} kinds", "let rounds be more alike"
        )
    parts = tuple(Rounds(*kind, count) for kind, count in sorted(counts.items()))
    return _certified(parts, delta) if parts else 0.0


def _as_seen(event: Releases, observer: Observer, delta: float) -> Rounds:
    """The rounds whose outputs, post-processed, are all that the observer learns of one unit."""
    in_full = Rounds(event.noise_ratio, 1.0, event.contributions)
    kind = event.sampling.kind
    if kind == "none":
        return in_full
    if kind == "visible" and observer in SEES_PARTICIPATION:
        if event.adjacency != "zero-out":
            raise refused(
                "adjacency",
                f"a {observer} sees who takes part, so that it always knows who was added",
                "choose 'zero-out', which hides what a unit contributes and not that it does",
            )
        return in_full
    sampled = Rounds(event.noise_ratio, event.sampling.rate, event.rounds)
    if event.contributions == event.rounds:
        return sampled
    return min(sampled, in_full, key=lambda part: _epsilon((part,), delta, COARSE_INTERVAL))


def calibrate(*, target_epsilon: float, delta: float, sampling_rate: float, rounds: int) -> float:
    """The smallest noise multiplier whose epsilon is at most ``target_epsilon``.

    Args:
        target_epsilon: Positive and finite.
        delta: In [``MIN_DELTA``, 1).
        sampling_rate: The realised Poisson rate, in (0, 1].
        rounds: At least 1.

    Returns:
        z with ``epsilon(noise_ratio=z, ...) <= target_epsilon``, as that call certifies; one
        step (a relative 5e-5 at most) less would exceed the target, unless z is ``MIN_OCTAVE``.

    Raises:
        ValueError: An argument is out of range or no multiplier up to 2**20 reaches the target.
        VerificationError: The accountants contradict each other: a fault in the program.
    """
    if not 0.0 < target_epsilon < math.inf or rounds < 1:
        raise ValueError("target_epsilon must be positive and finite, rounds at least 1")
    return _calibrate(target_epsilon, delta, sampling_rate, rounds)


@lru_cache(maxsize=64)
def _calibrate(target: float, delta: float, rate: float, rounds: int) -> float:
    epsilon(noise_ratio=1.0, sampling_rate=rate, rounds=0, delta=delta)  # checks rate and delta

    def cost(z: float, interval: float) -> float:
        return _epsilon((Rounds(z, rate, rounds),), delta, interval)

    result = octave = _octave(target, lambda z: cost(z, COARSE_INTERVAL))
    if octave > MIN_OCTAVE:
        step = octave / STEPS_PER_OCTAVE
        near = math.ceil(_interpolate(target, octave, lambda z: cost(z, COARSE_INTERVAL)) / step)
        result = step * _smallest(near, lambda n: cost(n * step, INTERVAL) <= target)
    _certified((Rounds(result, rate, rounds),), delta)  # raises if it cannot be right
    return result


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


def _check_delta(delta: float) -> None:
    if not MIN_DELTA <= delta < 1.0:
        raise ValueError(f"delta must lie in [{MIN_DELTA}, 1)")


@lru_cache(maxsize=1024)
def _certified(parts: tuple[Rounds, ...], delta: float) -> float:
    """The epsilon to report, or an error if it cannot be right."""
    result = _epsilon(parts, delta, INTERVAL)
    if result == math.inf:
        return result
    least, most = shown_by_a_test(parts, delta), renyi_bound(parts, delta)
    if not least * (1.0 - TOLERANCE) <= result <= most * (1.0 + TOLERANCE) + 10.0 * SLACK:
        raise VerificationError(
            "accounting.contradiction",
            f"epsilon {result} at delta {delta} contradicts a test, which shows {least}, or Renyi "
            f"accounting, which allows {most}",
            remedy="report it as a fault; the versions of dp-accounting and numpy matter",
        )
    return result


@lru_cache(maxsize=1024)
def _epsilon(parts: tuple[Rounds, ...], delta: float, finest: float) -> float:
    if any(part.ratio < MIN_NOISE_RATIO for part in parts):
        return math.inf
    interval = _interval(parts, finest)
    composed = reduce(
        lambda one, other: one.compose(other),
        (_one_round(part.ratio, part.rate, interval).self_compose(part.number) for part in parts),
    )
    rounds = sum(part.number for part in parts)
    reserve = CONVOLUTION_ERROR * len(parts) + CONVOLUTION_ERROR_OF_A_ROUND * rounds
    # The sampler's share of delta depends on epsilon: raise the guess until it is consistent.
    guess = float(composed.get_epsilon_for_delta(delta)) + SLACK
    while guess < 700.0:
        rest = delta * (1.0 - SLACK) - reserve - (1.0 + math.exp(guess)) * SAMPLER_VARIATION
        if rest <= 0.0:
            break
        result = float(composed.get_epsilon_for_delta(rest)) + SLACK
        if result <= guess:
            return guess
        guess = result * (1.0 + 1e-12)
    return math.inf


def _interval(parts: tuple[Rounds, ...], finest: float) -> float:
    """A grid that is fine beside the deviations of the rounds' losses, without too many points."""
    deviations = sum(p.number * p.rate / p.ratio for p in parts)
    losses = sum(p.number * (p.rate / p.ratio) ** 2 for p in parts)
    widest = max(math.log1p(p.rate * math.expm1(0.5 / p.ratio**2 + 9.0 / p.ratio)) for p in parts)
    variance = sum(p.number * min(p.rate**2 * math.expm1(p.ratio**-2), p.ratio**-2) for p in parts)
    spread = widest + variance / 2.0 + 9.0 * math.sqrt(variance)
    exact = math.sqrt(GRID_ROUNDING * sum(p.number for p in parts) * widest)
    finest = min(finest, losses / (RESOLUTION * deviations))
    return max(finest, exact, widest / MAX_POINTS_OF_ONE, spread / MAX_POINTS)


@lru_cache(maxsize=32)
def _one_round(ratio: float, rate: float, interval: float) -> Any:
    """The pessimistic ``PrivacyLossDistribution`` of one round, for adding and removing a record."""
    # Loaded when first asked: it takes a second, and who asks for no epsilon need not have it.
    from dp_accounting.pld import (  # type: ignore[import-untyped]  # noqa: PLC0415
        privacy_loss_distribution as pld,
    )

    return pld.from_gaussian_mechanism(
        ratio,
        value_discretization_interval=interval,
        sampling_prob=rate,
        pessimistic_estimate=True,
    )
