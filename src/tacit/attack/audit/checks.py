"""Statistics of recorded runs: whether the noise is there, fresh and of the right law, and masks serve once.

The auditor holds every key of a scratch run, so that it sees each share of noise and each mask. A sound
system fails any of these tests with probability ``LEVEL`` at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from tacit.algebra.ring import RingVector
from tacit.attack.transcript import Transcript
from tacit.engine.simulator.oracle import seal_info

__all__ = [
    "LEVEL",
    "NoiseFigures",
    "correlated",
    "noise_figures",
    "repeated_seeds",
    "reused_masks",
    "shape_is_wrong",
    "shares_of",
    "variance_is_wrong",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL = 1e-8
"""Of one kind of test, over all that it compares; an audit has about ten kinds."""

LAGS = 16
TOP_BITS = 4
FEW = 64
"""Shortest vectors whose top bits and correlations are judged."""


@dataclass(frozen=True, slots=True)
class NoiseFigures:
    """Noise of several runs under one plan.

    Args:
        shares: A helper's share of a round, by run, round and helper, ``int64[d]``, in standard deviations
            of the plan.
        sums: The noise in each published sum, by run and round: the sum less all contributions.
        exact: Whether each sum is contributions and shares, and nothing else.
    """

    shares: Mapping[tuple[int, int, str], Floats]
    sums: Mapping[tuple[int, int], Floats]
    exact: bool


def shares_of(transcript: Transcript) -> dict[tuple[int, str], Integers]:
    """Each helper's share of the noise in each closed round, ``int64[length]``."""
    return {
        (one.number, helper): transcript.noise_share(one, helper)
        for one in transcript.closed
        for helper, _ in one.helper_keys
    }


def noise_figures(transcripts: Sequence[Transcript]) -> NoiseFigures:
    """The noise of runs under one plan, standardised."""
    shares: dict[tuple[int, int, str], Floats] = {}
    sums: dict[tuple[int, int], Floats] = {}
    exact = True
    for run, transcript in enumerate(transcripts):
        found, plan = shares_of(transcript), transcript.plan
        for one in transcript.closed:
            assert one.total is not None
            present = len(one.helper_keys)
            whole = one.total - sum(transcript.contribution(one, site) for site in one.cohort)
            parts = [found[one.number, helper] for helper, _ in one.helper_keys]
            exact &= bool(np.array_equal(whole, sum(parts)))
            sums[run, one.number] = whole / math.sqrt(plan.total_variance(present))
            spread = math.sqrt(plan.share_variance(present))
            for (helper, _), part in zip(one.helper_keys, parts, strict=True):
                shares[run, one.number, helper] = part / spread
    return NoiseFigures(shares, sums, exact)


def variance_is_wrong(vectors: Iterable[Floats], level: float = LEVEL) -> int:
    """Whether standardised noise has another variance than 1: -1 too small, 1 too large, 0 neither.

    Each vector by a two-sided chi-square test, at ``level`` for all of them together.
    """
    each = list(vectors)
    verdict = 0
    for vector in each:
        squares, free = float(np.square(vector).sum()), len(vector)
        if stats.chi2.cdf(squares, free) < level / (2 * len(each)):
            return -1
        if stats.chi2.sf(squares, free) < level / (2 * len(each)):
            verdict = 1
    return verdict


def shape_is_wrong(vectors: Iterable[Floats], level: float = LEVEL) -> bool:
    """Whether noise is not Gaussian, whatever its variance: Kolmogorov and Smirnov on all of it, its mean.

    A spread that is estimated makes the test the more careful with a sound system (Lilliefors).
    """
    pooled = np.concatenate(list(vectors))
    spread = float(pooled.std())
    if spread == 0.0:
        return True
    pooled = pooled / spread
    if stats.kstest(pooled, "norm").pvalue < level / 2:
        return True
    mean = abs(float(pooled.mean())) * math.sqrt(len(pooled))
    return bool(2 * stats.norm.sf(mean) < level / 2)


def correlated(vectors: Mapping[Any, Floats], level: float = LEVEL) -> bool:
    """Whether noise repeats: between any two vectors, or within one at a small lag or at half its length.

    Correlations of independent vectors of length d are Gaussian with variance 1/d, nearly; the exact law
    of the correlation coefficient is used.
    """
    each = [vector for vector in vectors.values() if vector.any()]
    if not each:
        return False
    rows = np.stack(each)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = rows.shape[1]
    if length < FEW:
        return False
    rows /= np.sqrt(np.square(rows).sum(axis=1, keepdims=True)) + 1e-300
    found = np.abs(rows @ rows.T)[np.triu_indices(len(rows), 1)]
    lags = [*range(1, LAGS + 1), length // 2]
    within = [np.abs((rows[:, lag:] * rows[:, :-lag]).sum(axis=1)) for lag in lags]
    largest = float(np.concatenate([found, *within]).max())
    tests = len(found) + len(rows) * len(lags)
    return largest > _correlation(level / tests, length)


def _correlation(level: float, length: int) -> float:
    """What a correlation of independent vectors exceeds in magnitude with this probability."""
    t = float(stats.t.isf(level / 2.0, length - 2))
    return t / math.sqrt(length - 2 + t * t)


def reused_masks(transcripts: Sequence[Transcript], level: float = LEVEL) -> bool:
    """Whether two uploads share masks: then their difference is that of contributions, and small.

    Compared are the uploads of a site in two rounds and in the same round of two runs, and those of two
    sites in a round; of single masks, those of two helpers too. The upper bits of a difference of sound
    ones are uniform (chi-square).
    """
    bits = transcripts[0].terms.ring.bits
    uploads: dict[tuple[Any, ...], RingVector] = {
        (run, one.number, site): vector
        for run, transcript in enumerate(transcripts)
        for one in transcript.closed
        for site, vector in one.uploads.items()
    }
    masks: dict[tuple[Any, ...], RingVector] = {
        (*key, helper): transcripts[key[0]].masks(one, key[2], [helper])[0]
        for key in uploads
        for one in transcripts[key[0]].closed
        if one.number == key[1]
        for helper, _ in one.helper_keys
    }
    pairs = [
        (vectors[one], vectors[other])
        for vectors in (uploads, masks)
        for one, other in combinations(vectors, 2)
        if sum(a != b for a, b in zip(one, other, strict=True)) == 1
    ]
    if not pairs or len(pairs[0][0]) < FEW:
        return False
    return any(_not_uniform(a, b, bits, level / len(pairs)) for a, b in pairs)


def _not_uniform(a: RingVector, b: RingVector, bits: int, level: float) -> bool:
    difference = (a.astype(np.int64) - b.astype(np.int64)) % (1 << bits)
    counts = np.bincount(difference >> (bits - TOP_BITS), minlength=1 << TOP_BITS)
    return bool(stats.chisquare(counts).pvalue < level)


def repeated_seeds(transcripts: Sequence[Transcript]) -> bool:
    """Whether two masks stand under one seed, wherever: of rounds, sites, helpers or runs."""
    seen: set[bytes] = set()
    count = 0
    for transcript in transcripts:
        for one in transcript.rounds:
            keys = dict(one.helper_keys)
            for site, sealed in one.sealed.items():
                for helper, box in sealed.items():
                    assert one.context is not None
                    info = seal_info(one.context, site, helper)
                    seen.add(transcript.openers[keys[helper]].open(box, info))
                    count += 1
    return len(seen) < count
