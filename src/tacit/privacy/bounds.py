"""Between what an epsilon must lie: Renyi accounting above, what a plain test shows below.

Neither is ever reported. They are computed in other ways than the reported figure, so that a fault in
the accountant, or in how it is called, is an error and no number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rounds", "renyi_bound", "shown_by_a_test"]

ORDERS = (*range(2, 64), 128, 256, 512, 1024)
"""Integers only: a fractional order takes a series that does not always converge."""

RENYI_ROUNDING = 1e-11
"""Renyi divergences of order 2 below this drown in the rounding of their own formula."""

REACH = 38.0
"""Standard deviations at which a Gaussian's tail is still a normal double."""

SEARCH_POINTS = 33
BINOMIAL_DEVIATIONS = 8.0


class Rounds(NamedTuple):
    """``number`` adaptive rounds of one Poisson-subsampled Gaussian mechanism.

    Args:
        ratio: Standard deviation of the noise divided by the sensitivity.
        rate: Poisson rate, in (0, 1].
        number: At least 1.
    """

    ratio: float
    rate: float
    number: int


def renyi_bound(parts: Sequence[Rounds], delta: float) -> float:
    """An upper bound of epsilon by the Renyi accountant of ``dp_accounting``; infinity if it has none.

    Reference:
        Mironov, Talwar and Zhang 2019 (sampled Gaussian); Canonne, Kamath and Steinke 2020,
        proposition 12 (conversion).
    """
    if any(p.rate**2 * math.expm1(p.ratio**-2) < RENYI_ROUNDING for p in parts):
        return math.inf
    # Loaded when first asked, like the accountant itself.
    from dp_accounting import dp_event, rdp  # type: ignore[import-untyped]  # noqa: PLC0415
    from dp_accounting.privacy_accountant import (  # type: ignore[import-untyped]  # noqa: PLC0415
        NeighboringRelation,
    )

    event = dp_event.ComposedDpEvent(
        [
            dp_event.SelfComposedDpEvent(
                dp_event.PoissonSampledDpEvent(p.rate, dp_event.GaussianDpEvent(p.ratio)), p.number
            )
            for p in parts
        ]
    )
    accountant = rdp.RdpAccountant(ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    return float(accountant.compose(event).get_epsilon(delta))


def shown_by_a_test(parts: Sequence[Rounds], delta: float) -> float:
    """A lower bound of epsilon: what the best threshold on the sum of one part's outputs shows.

    A unit that contributes the whole sensitivity, in the same direction, whenever it is sampled moves
    the sum of T outputs by a binomial number. Any event E has P(E) <= e^epsilon Q(E) + delta; here E
    is that the sum exceeds a threshold. Exact for one part without sampling.

    Reference:
        Neyman and Pearson; Balle and Wang 2018, theorem 5, for the case without sampling.
    """
    return max(_shown(part, delta) for part in parts)


def _shown(part: Rounds, delta: float) -> float:
    shift = 1.0 / (math.sqrt(part.number) * part.ratio)  # of the sum, in its standard deviations
    present, weights = _binomial(part.number, part.rate)
    low, high, best = 0.0, min(float(present[-1]) * shift + 9.0, REACH), 0.0
    for _ in range(3):  # a grid, then finer ones about the best threshold
        thresholds = np.linspace(low, high, SEARCH_POINTS)
        without = _tail(thresholds)
        excess = _tail(thresholds[:, None] - present * shift) @ weights - delta
        shown = np.log(np.maximum(excess, np.finfo(float).tiny) / without)
        best = max(best, float(shown.max()))
        step, middle = (high - low) / (SEARCH_POINTS - 1), float(thresholds[shown.argmax()])
        low, high = max(middle - step, 0.0), min(middle + step, REACH)
    return best


def _binomial(count: int, rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often a unit is sampled, with probabilities; far tails are left out, which only lowers."""
    if rate == 1.0:
        return np.array([float(count)]), np.ones(1)
    mean, width = count * rate, BINOMIAL_DEVIATIONS * math.sqrt(count * rate * (1.0 - rate))
    times = range(max(0, int(mean - width)), min(count, int(mean + width) + 8) + 1)
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(rate) + (count - k) * math.log1p(-rate)
        for k in times
    ]  # fmt: skip
    return np.array(times, dtype=np.float64), np.exp(logs)


def _tail(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard Gaussian's probability above x."""
    flat = [0.5 * math.erfc(value) for value in (x / math.sqrt(2.0)).ravel().tolist()]
    return np.array(flat).reshape(x.shape)
