"""Lemma 3 of docs/design/0003-discrete-gaussian.md by brute force: capped, adaptive participation.

Every output of every round is enumerated, and every rule is tried by which one unit may choose what it
contributes from the outputs so far and from how often it took part.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest

from tacit.privacy.accounting import price
from tacit.privacy.events import Releases, Sampling

VARIANCE, SENSITIVITY = 6, 2
EPSILONS = (0.0, 0.3, 1.0, 2.5)


def noise(centre: int, variance: float, reach: int) -> np.ndarray:
    """N_Z(centre, variance) on -reach..reach."""
    weights = np.exp(-np.square(np.arange(-reach, reach + 1.0) - centre) / (2 * variance))
    return weights / weights.sum()


@cache
def worst(
    rounds: int,
    cap: int,
    rate: float,
    eps: float,
    sign: int,
    *,
    choices: tuple[int, ...] = (-SENSITIVITY, SENSITIVITY),
    variance: float = VARIANCE,
) -> float:
    """The largest hockey-stick divergence of the outputs with and without one unit, over all rules.

    A rule picks from ``choices`` what the unit contributes if its coin falls so, knowing all outputs
    and its own earlier coins. ``sign``: 1 for with against without, -1 for without against with.
    """
    reach = math.ceil(7 * math.sqrt(variance)) + SENSITIVITY
    base = noise(0, variance, reach)
    moved = {x: noise(x, variance, reach) for x in choices}

    def value(left: int, present: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Of each history, given the mass of each (present: by how often the unit took part)."""
        if not left:
            with_unit = present.sum(axis=1)
            p, q = (with_unit, absent) if sign > 0 else (absent, with_unit)
            return np.maximum(p - math.exp(eps) * q, 0)
        best = np.full(len(absent), -math.inf)
        for rule in itertools.product(choices, repeat=cap):
            after = np.zeros((*absent.shape, base.size, cap + 1))
            for took_part, mass in enumerate(present.T):
                heads = rate if took_part < cap else 0.0
                after[..., took_part] += np.multiply.outer((1 - heads) * mass, base)
                if heads:
                    after[..., took_part + 1] += np.multiply.outer(
                        heads * mass, moved[rule[took_part]]
                    )
            found = value(
                left - 1, after.reshape(-1, cap + 1), np.multiply.outer(absent, base).ravel()
            )
            best = np.maximum(best, found.reshape(len(absent), -1).sum(axis=1))
        return best

    start = np.zeros((1, cap + 1))
    start[0, 0] = 1.0
    return float(value(rounds, start, np.ones(1))[0])


def uncapped(rounds: int, rate: float, eps: float, sign: int) -> float:
    """The divergence of independent rounds, in all of which the same is contributed: the claim."""
    return worst(rounds, rounds, rate, eps, sign, choices=(SENSITIVITY,))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("rounds", "cap", "rate", "choices"),
    [
        (2, 1, 0.3, (-SENSITIVITY, 0, SENSITIVITY)),
        (2, 2, 0.3, (-SENSITIVITY, 0, SENSITIVITY)),
        (2, 1, 0.9, (-SENSITIVITY, 0, SENSITIVITY)),
        (3, 1, 0.2, (-SENSITIVITY, SENSITIVITY)),
        (3, 2, 0.5, (-SENSITIVITY, SENSITIVITY)),
    ],
)
def test_no_rule_beats_independent_rounds(rounds, cap, rate, choices, sign):
    """Lemma 3 without any slack: at the same variance, in exact arithmetic but for rounding."""
    for eps in EPSILONS if rounds == 2 else (0.3, 1.0):
        claimed = uncapped(rounds, rate, eps, sign)
        found = worst(rounds, cap, rate, eps, sign, choices=choices)
        assert found <= claimed * (1 + 1e-9) + 1e-13


def together(rounds: int, cap: int, rate: float, contributions: tuple[int, ...]) -> np.ndarray:
    """The law of all outputs if several units, each with its own coins and cap, contribute these."""
    reach = math.ceil(7 * math.sqrt(VARIANCE)) + SENSITIVITY
    total = np.zeros((2 * reach + 1) ** rounds)
    patterns = list(itertools.product((0, 1), repeat=rounds))
    for coins in itertools.product(patterns, repeat=len(contributions)):
        law = np.ones(1)
        for t in range(rounds):
            counted = [
                x * own[t] * (sum(own[:t]) < cap)
                for x, own in zip(contributions, coins, strict=True)
            ]
            law = np.multiply.outer(law, noise(sum(counted), VARIANCE, reach)).ravel()
        heads = sum(map(sum, coins))
        total += rate**heads * (1 - rate) ** (rounds * len(coins) - heads) * law
    return total


@pytest.mark.parametrize("others", [(SENSITIVITY,), (-SENSITIVITY,)])
@pytest.mark.parametrize(("rounds", "cap"), [(2, 1), (3, 1)])
def test_caps_of_others_do_not_matter(rounds, cap, others):
    """Their hidden counts tie the rounds together, with the unit otherwise than without it."""
    rate = 0.4
    p = together(rounds, cap, rate, (SENSITIVITY, *others))
    q = together(rounds, cap, rate, (0, *others))
    for eps in (0.1, 0.5):
        for sign, (one, other) in ((1, (p, q)), (-1, (q, p))):
            divergence = np.maximum(one - math.exp(eps) * other, 0).sum()
            assert 0 < divergence <= uncapped(rounds, rate, eps, sign) * (1 + 1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_smaller_claims_would_fail(sign):
    """The check above has teeth: what a cap or its coin might be thought to save is not saved."""
    for eps in (0.1, 0.3):
        # "a cap of 1 costs one sampled round"
        assert worst(3, 1, 0.3, eps, sign) > 1.1 * uncapped(1, 0.3, eps, sign)
        # "one per cent fewer heads"
        assert worst(2, 2, 0.3, eps, sign) > uncapped(2, 0.297, eps, sign)


@pytest.mark.parametrize("kind", ["secret", "visible"])
@pytest.mark.parametrize(("rounds", "cap", "rate"), [(2, 1, 0.2), (2, 2, 0.4), (2, 1, 0.9)])
def test_a_capped_adaptive_process_costs_no_more(rounds, cap, rate, kind):
    """The accountant's own figure for whoever does not see the coins, both directions."""
    variance = 16
    ratio = math.sqrt(variance - 4) / SENSITIVITY
    releases = Releases("client", "zero-out", ratio, Sampling(kind, rate), rounds, cap)
    for delta in (1e-2, 1e-4):
        eps = price([releases], observer="released-models", delta=delta)
        for sign in (1, -1):
            assert worst(rounds, cap, rate, eps, sign, variance=variance) <= delta


def seen(rounds: int, cap: int, rate: float, eps: float, variance: float) -> float:
    """The divergence for whoever sees the coins, too: an average over what they show."""
    reach = math.ceil(7 * math.sqrt(variance)) + SENSITIVITY
    base, moved = noise(0, variance, reach), noise(SENSITIVITY, variance, reach)
    total = 0.0
    for coins in itertools.product((0, 1), repeat=rounds):
        p = q = np.ones(1)
        for _ in range(min(sum(coins), cap)):
            p, q = np.multiply.outer(p, moved).ravel(), np.multiply.outer(q, base).ravel()
        weight = rate ** sum(coins) * (1 - rate) ** (rounds - sum(coins))
        total += weight * float(np.maximum(p - math.exp(eps) * q, 0).sum())
    return total


@pytest.mark.parametrize("cap", [1, 2])
def test_who_sees_the_coins_gets_the_full_price(cap):
    """What is charged against the leader holds for it; the amplified figure would not."""
    variance, rate, rounds, delta = 24, 0.1, 3, 1e-3
    ratio = math.sqrt(variance - 4) / SENSITIVITY
    releases = Releases("client", "zero-out", ratio, Sampling("visible", rate), rounds, cap)
    full, amplified = (
        price([releases], observer=observer, delta=delta)
        for observer in ("leader", "released-models")
    )
    assert seen(rounds, cap, rate, full, variance) <= delta
    assert seen(rounds, cap, rate, amplified, variance) > 2 * delta
