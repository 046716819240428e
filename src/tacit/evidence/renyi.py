"""A second accountant: an upper bound of a plan's epsilon, by a few formulas and nothing else.

The privacy loss distribution of ``dp_accounting`` is what a run is planned and charged with. It is
large and takes a second to load; an auditor may not have it, or not trust it alone. Here is the
classical bound by Renyi divergences at integer orders, which is a few per cent larger. It is used in
one direction only: who recorded at least this much recorded enough.
"""

from __future__ import annotations

import math

from tacit.privacy.plan import Plan

__all__ = ["renyi_epsilon"]

ORDERS = (*range(2, 64), 128, 256, 512, 1024)

ROUNDING = 1e-11
"""Added to every logarithm of a sum: more than floating point can have lost in it."""

SLACK = 1e-9
"""Added to the result, for the integer mechanism (docs/design/0003, section 6)."""

DELTA_SHARE = 1e-6
SAMPLER_VARIATION = 2.0**-82
"""Of delta, this share is kept for the samplers, which are not exact: it must be enough for all of
them, ``(1 + exp(epsilon))`` times the variation (docs/design/0003, section 6)."""


def renyi_epsilon(plan: Plan, rounds: int | None = None) -> float:
    """An upper bound of ``plan.charge(rounds)``; infinity where it has none.

    Args:
        plan: The privacy plan.
        rounds: All rounds of the plan by default.

    Guarantee: Never below what the plan costs
    (tests/unit/test_evidence_renyi.py::test_it_is_never_below_the_accountant).

    Reference:
        Mironov, Talwar and Zhang 2019, section 3.3 (integer orders); Canonne, Kamath and Steinke
        2020, proposition 12 (conversion).
    """
    rounds = plan.rounds if rounds is None else rounds
    if rounds == 0:
        return 0.0
    releases = plan.releases(rounds)
    if releases is None:
        return math.inf
    # Leader and helpers look: what they see gives no amplification.
    whole = _epsilon(releases.noise_ratio, 1.0, releases.contributions, plan.delta)
    if releases.sampling.kind != "secret":
        return whole
    sampled = _epsilon(releases.noise_ratio, releases.sampling.rate, rounds, plan.delta)
    return sampled if releases.contributions == rounds else min(sampled, whole)


def _epsilon(ratio: float, rate: float, rounds: int, delta: float) -> float:
    """Of ``rounds`` Poisson-subsampled Gaussian releases; infinity where the samplers' share is short."""
    rest = delta * (1.0 - DELTA_SHARE)
    found = min(
        rounds * _divergence(ratio, rate, order)
        + math.log1p(-1.0 / order)
        - math.log(rest * order) / (order - 1)
        for order in ORDERS
    )
    result: float = max(found, 0.0) + SLACK
    if result > 700.0 or (1.0 + math.exp(result)) * SAMPLER_VARIATION > delta * DELTA_SHARE:
        return math.inf
    return result


def _divergence(ratio: float, rate: float, order: int) -> float:
    """Of one release, at an integer order: the binomial sum of the sampled Gaussian."""
    half: float = 0.5 / (ratio * ratio)
    if rate == 1.0:
        return float(order * half * (1.0 + ROUNDING))
    taken, left = math.log(rate), math.log1p(-rate)
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + k * taken
        + (order - k) * left
        + (k * k - k) * half
        for k in range(order + 1)
    ]
    largest = max(terms)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return (max(total, 0.0) * (1.0 + ROUNDING) + ROUNDING) / (order - 1)
