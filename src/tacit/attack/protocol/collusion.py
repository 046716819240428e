"""What a coalition opens of a real transcript, and the noise that it cannot subtract."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from tacit.attack.measure import Estimate
from tacit.attack.transcript import Transcript
from tacit.types import PartyName

__all__ = ["Opened", "opened_by", "residual_noise"]

BINS = 16


@dataclass(frozen=True, slots=True)
class Opened:
    """A victim's uploads, as leader and so many helpers see them.

    Args:
        helpers: How many.
        p_value: Of Pearson's test that the top four bits of every element are uniform.
        exact: Whether what they see is the contribution.
    """

    helpers: int
    p_value: float
    exact: bool

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def opened_by(transcript: Transcript, victim: PartyName, helpers: Iterable[PartyName]) -> Opened:
    """What leader and ``helpers`` see of a victim's uploads, over all rounds."""
    held, ring = frozenset(helpers), transcript.terms.ring
    counts, exact = np.zeros(BINS, dtype=np.int64), True
    for one in transcript.closed:
        seen = transcript.less_masks(one, victim, held)
        exact &= bool(np.array_equal(ring.centred(seen), transcript.contribution(one, victim)))
        top = seen.astype(np.int64) % (1 << ring.bits) >> (ring.bits - 4)
        counts += np.bincount(top, minlength=BINS)
    found = stats.chisquare(counts)
    return Opened(len(held), float(found.pvalue), exact)


def residual_noise(transcript: Transcript, victim: PartyName) -> Estimate:
    """Variance of the noise that all others together cannot subtract, over what the plan says of it.

    All other sites, with their helpers, subtract their contributions and their shares; what stays is the
    victim's contribution, which is known here, and its own helper's share.
    """
    plan, squares, count = transcript.plan, 0.0, 0
    for one in transcript.closed:
        assert one.total is not None
        rest = one.total.astype(np.int64)
        for site in one.cohort:
            rest = rest - transcript.contribution(one, site)
        for helper, _ in one.helper_keys:
            if helper != victim:
                rest = rest - transcript.noise_share(one, helper)
        squares += float(np.square(rest.astype(np.float64)).sum())
        count += len(rest)
    present = len(transcript.closed[0].helper_keys)
    ratio = squares / plan.share_variance(present) / count
    low, high = (count * ratio / float(stats.chi2.ppf(q, count)) for q in (0.975, 0.025))
    epsilon = plan.epsilon(colluding=present - 1)
    against = "infinite" if math.isinf(epsilon) else f"{epsilon:.3g}"
    return Estimate(
        ratio,
        min(low, ratio),
        max(high, ratio),
        0.0,
        None,
        count,
        "ratio",
        "chi-square over independent coordinates: variance left to all other sites and the leader "
        f"together, over that of the plan; epsilon against them {against}",
    )
