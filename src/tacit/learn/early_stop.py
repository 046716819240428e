"""When to stop early: a rule on noisy held-out losses that everybody can recompute."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

__all__ = ["losses_from_bytes", "losses_to_bytes", "should_stop"]


def should_stop(losses: Sequence[float], patience: int) -> bool:
    """Whether the smoothed loss was lowest more than ``patience`` measured rounds ago.

    Args:
        losses: The held-out loss of every round so far, noise included; NaN where the noise drowned it,
            which does not count: a run that nothing was measured of is not stopped for it.
        patience: Rounds without improvement that are put up with; 0 never stops.

    Returns:
        The decision. It is post-processing of published sums and costs no privacy; a run that it ends
        has nonetheless spent its whole plan.
    """
    if not patience:
        return False
    keep = 1.0 - 2.0 / (patience + 1.0)
    smooth, best, since = math.nan, math.inf, 0
    for loss in losses:
        if math.isnan(loss):
            continue
        smooth = loss if math.isnan(smooth) else keep * smooth + (1.0 - keep) * loss
        since += 1
        if smooth < best:
            best, since = smooth, 0
    return since > patience


def losses_to_bytes(losses: Sequence[float]) -> bytes:
    """Losses as a party stores them."""
    return struct.pack(f"<{len(losses)}d", *losses)


def losses_from_bytes(data: bytes) -> list[float]:
    """The inverse of ``losses_to_bytes``."""
    return list(struct.unpack(f"<{len(data) // 8}d", data))
