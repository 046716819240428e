"""Poisson sampling of units by exact integer thresholds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tacit.types import Entropy

__all__ = ["draw_groups", "poisson_sample", "realised_rate", "threshold"]

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


def draw_groups(
    entities: NDArray[np.int64] | None, n: int, cap: int, threshold: int, entropy: Entropy
) -> NDArray[np.int64]:
    """The records that a round uses: of each sampled entity up to ``cap``, chosen uniformly.

    Args:
        entities: Whose record each of the ``n`` is, ``int64[n]`` from 0 to m - 1 without gaps; None if
            every record is an entity of its own, in this order.
        n: Number of records.
        cap: Records of one entity at most, at least 1; ignored without ``entities``.
        threshold: From ``threshold(rate)``.
        entropy: Secret randomness; what is drawn depends on n and m alone.

    Returns:
        ``int64[m, cap]`` (``[n, 1]`` without ``entities``) of indices into the records: a row per entity,
        -1 where it has no further record, and all over the row of one that was not sampled. The width is
        public: one that followed the data would let an entity change how others are computed.

    Raises:
        ValueError: An argument is out of range.

    Guarantee:
        Entities are sampled independently, as by ``poisson_sample``; which records of one are used does
        not depend on any other. Checked by
        ``tests/unit/test_privacy_sampling.py::test_groups_hold_up_to_cap_records_of_a_sampled_entity``
        and ``::test_every_record_of_an_entity_is_as_likely``.
    """
    if entities is None:
        selected = poisson_sample(n, threshold, entropy)
        return np.where(selected, np.arange(n), -1)[:, None]
    if entities.shape != (n,) or cap < 1:
        raise ValueError("entities is [n], cap is at least 1")
    words = np.frombuffer(entropy.draw(8 * n), dtype="<u8")
    order = np.lexsort((words, entities))
    counts = np.bincount(entities) if n else np.zeros(0, dtype=np.int64)
    if not counts.all():
        raise ValueError("entities are numbered without gaps")
    place = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    groups = np.full((len(counts), cap), -1, dtype=np.int64)
    used = place < cap
    groups[entities[order][used], place[used]] = order[used]
    groups[~poisson_sample(len(counts), threshold, entropy)] = -1
    return groups
