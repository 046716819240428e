"""The lemmas of docs/design/0003-discrete-gaussian.md and their consequence, by brute force."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from tacit.privacy.accounting import epsilon

DIGITS = 40


def alpha(v: float) -> mpmath.mpf:
    """The sum of exp(-2 pi^2 v n^2) over all integers n but 0."""
    return mpmath.jtheta(3, 0, mpmath.exp(-2 * mpmath.pi**2 * v)) - 1


def bound(tau_squared: float) -> mpmath.mpf:
    """What both lemmas promise: the pmfs differ by this relative error at most."""
    a = alpha(tau_squared)
    return 2 * a / (1 - a)


def gaussian(x: float, variance: float) -> mpmath.mpf:
    """exp(-x^2 / (2 variance)), in the current precision."""
    return mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * variance))


def test_the_bound_at_the_values_in_use():
    assert bound(4) < 2.2e-34
    assert bound(3.609) < 5e-31


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (0.5, 2.0), (4.0, 1.3), (3.0, 3.0)])
def test_lemma_1_a_sum_of_discrete_gaussians(first, second, scale):
    """X + c Y against N_Z(s1^2 + c^2 s2^2), for X of variance s1^2 and Y of s2^2."""
    total = first + scale**2 * second
    reach = int(14 * math.sqrt(total))
    with mpmath.workdps(DIGITS):
        one, two, target = (
            [gaussian(x, v) for x in range(5 * reach)] for v in (first, second, total)
        )
        masses = [2 * mpmath.fsum(w) - 1 for w in (one, two, target)]
        worst = mpmath.mpf(0)
        for x in range(reach // 2):
            law = mpmath.fsum(
                two[abs(y)] * one[abs(x - scale * y)] for y in range(-reach, reach + 1)
            )
            ratio = law / (masses[0] * masses[1]) / (target[x] / masses[2])
            worst = max(worst, abs(ratio - 1))
        tau_squared = mpmath.mpf(first) * second / total
        assert worst <= bound(tau_squared)
        assert worst > alpha(tau_squared) / 10  # and the bound is not idle


@pytest.mark.parametrize("tau_squared", [0.25, 0.4])
@pytest.mark.parametrize("variance", [0.6, 1.0, 3.0])
def test_lemma_2_the_integers_are_post_processing(tau_squared, variance):
    """K applied to N(s, V - tau^2) against s + N_Z(0, V)."""
    step, shift = 1 / 512, 5
    y = np.arange(-15, 15, step)
    continuous = np.exp(-np.square(y) / (2 * (variance - tau_squared)))
    continuous /= continuous.sum()
    integers = np.arange(-25, 26.0)
    kernel = np.exp(-np.square(integers[:, None] - shift - y[None, :]) / (2 * tau_squared))
    kernel_at_shift = kernel / kernel.sum(axis=0)  # K centred at s + y
    law = kernel_at_shift @ continuous
    target = np.exp(-np.square(integers - shift) / (2 * variance))
    target /= target.sum()
    near = np.abs(integers - shift) <= 6
    worst = np.abs(law[near] / target[near] - 1).max()
    assert worst <= bound(tau_squared) + 1e-12
    if variance < 1:  # a wide Gaussian averages most of the error away
        assert worst > alpha(tau_squared) / 100  # the bound is not idle


@pytest.mark.parametrize("variance", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_noise_tail(variance, share):
    """E exp(lambda Z^2) is at most (1 - 2 lambda V)^(-1/2), as for a continuous Gaussian."""
    rate = share / (2 * variance)
    x = np.arange(-2000, 2001.0)
    mass = np.exp(-np.square(x) / (2 * variance))
    moment = np.exp(-np.square(x) * (1 / (2 * variance) - rate)).sum() / mass.sum()
    assert moment <= (1 - share) ** -0.5 * (1 + 1e-12)


def hockey_stick(p: np.ndarray, q: np.ndarray, eps: float) -> float:
    """Smallest delta with P <= e^eps Q + delta."""
    return float(np.maximum(p - math.exp(eps) * q, 0).sum())


def releases(variance: float, record: tuple[int, ...], other: tuple[int, ...], rate: float):
    """The exact laws of one round's released integers, with and without ``record``.

    ``other`` is a further record; both are Poisson-sampled at ``rate``.
    """
    reach = int(9 * math.sqrt(variance)) + 12
    grid = np.arange(-reach, reach + 1.0)

    def noisy(centre: np.ndarray) -> np.ndarray:
        law = np.ones(1)
        for c in centre:
            weights = np.exp(-np.square(grid - c) / (2 * variance))
            law = np.multiply.outer(law, weights / weights.sum()).ravel()
        return law

    x, o = np.array(record), np.array(other)
    without = (1 - rate) * noisy(0 * x) + rate * noisy(o)
    return without * (1 - rate) + rate * ((1 - rate) * noisy(x) + rate * noisy(x + o)), without


CASES = [
    # variance, D, record, other, rate, rounds
    (8, 1, (-1,), (1,), 0.1, 2),
    (12, 3, (2, 2), (0, 0), 0.5, 1),
    (20, 5, (3, 4), (-4, 3), 0.1, 1),
    (40, 3, (3,), (3,), 0.7, 2),
    (40, 5, (-4, 3), (0, 0), 1.0, 1),
]


@pytest.mark.parametrize(("variance", "d", "record", "other", "rate", "rounds"), CASES)
def test_integer_mechanism_costs_no_more(variance, d, record, other, rate, rounds):
    assert sum(x * x for x in record) <= d * d
    p, q = releases(variance, record, other, rate)
    for _ in range(rounds - 1):
        one_p, one_q = releases(variance, record, other, rate)
        p, q = np.multiply.outer(p, one_p).ravel(), np.multiply.outer(q, one_q).ravel()
    for delta in (1e-2, 1e-5):
        eps = epsilon(
            noise_ratio=math.sqrt(variance - 4) / d,
            sampling_rate=rate,
            rounds=rounds,
            delta=delta,
        )
        assert hockey_stick(p, q, eps) <= delta
        assert hockey_stick(q, p, eps) <= delta


def test_brute_force_notices_an_epsilon_that_is_too_small():
    """The check above has teeth: 20% more noise than there is gives an epsilon that fails."""
    p, q = releases(40, (5,), (0,), 0.5)
    eps = epsilon(noise_ratio=1.2 * math.sqrt(40) / 5, sampling_rate=0.5, rounds=1, delta=1e-5)
    assert hockey_stick(p, q, eps) > 1e-5


def test_a_share_that_leaves_with_its_record_would_cost_more():
    """Why clients add no noise: neighbours would then differ in variance, too."""
    variance, d = 40, 1
    with_share, _ = releases(variance, (d,), (0,), 0.1)
    _, without = releases(variance * 3 / 4, (d,), (0,), 0.1)
    pad = (len(with_share) - len(without)) // 2
    without = np.pad(without, pad)
    eps = epsilon(noise_ratio=math.sqrt(variance - 4) / d, sampling_rate=0.1, rounds=1, delta=1e-5)
    assert hockey_stick(with_share, without, eps) > 1e-5
