"""Discrete Gaussian noise: exact alias tables, combined by convolution, on an AES-256-CTR stream.

A sample of variance V is ``sum(c_j * Y_j)`` with independent ``Y_j`` from one discrete Gaussian of
variance at most 150**2. One 32-bit word draws one ``Y_j``: 12 bits choose a column of the alias
table, 20 bits are compared with the column's threshold; in the one case in 2**20 where they are
equal, 128 further bits decide. All arithmetic is on integers; floats appear nowhere.

The time of a draw depends on the noise in two ways that only this machine could observe: the
position in a 16 KiB table and the rare ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from math import isqrt

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from tacit.types import Entropy

__all__ = ["MAX_DRAWS", "MAX_VARIANCE", "discrete_gaussian"]

MAX_VARIANCE = 2**60
"""Above this a sample would no longer fit anything that Tacit adds up."""

MAX_DRAWS = 2**28
"""Largest number of samples in one call; the accountant's reserve for the sampler relies on it."""

COLUMN_BITS = 12
COLUMNS = 1 << COLUMN_BITS
TIE_BITS = 128
WEIGHT_BITS = 32 - COLUMN_BITS + TIE_BITS
"""Bits of one column's threshold: 148."""

REACH = COLUMNS // 2 - 1
"""The tables cover -2047..2047; beyond lies less than 4e-42 of the mass at s = 150."""

MAX_BASE_STD = 150
MIN_SMOOTHING = Fraction(3609, 1000)
"""Least tau**2 of a level: its law is then right within a factor 1 +- 5e-31 (lemma 1)."""

PRECISION = Context(prec=90)
CHUNK = 1 << 15


@dataclass(frozen=True)
class _Table:
    """An alias table for a discrete Gaussian on -REACH..REACH.

    Args:
        entries: uint32[4096]; upper 20 bits of the threshold above the alias column.
        ties: The lower 128 bits of every threshold.
    """

    entries: NDArray[np.uint32]
    ties: tuple[int, ...]


def discrete_gaussian(
    variance: int | float | Fraction, size: int, entropy: Entropy
) -> NDArray[np.int64]:
    """Independent samples of the discrete Gaussian N_Z(0, variance): pmf ~ exp(-x**2 / (2 variance)).

    Args:
        variance: The parameter sigma**2, above 0 and at most ``MAX_VARIANCE``. Zero is refused: who
            wants no noise must say so by not calling this.
        size: Number of samples, at most ``MAX_DRAWS``.
        entropy: Secret randomness; 32 bytes are drawn and key an AES-256-CTR stream.

    Returns:
        int64[size].

    Raises:
        ValueError: ``variance`` or ``size`` is out of range.

    Guarantee:
        Given uniform stream bits, each sample's law is within total variation ``L * 5e-42`` of one
        whose pmf is within a factor 1 +- ``L * 5e-31`` of N_Z(0, variance), where L <= 5 is the number
        of levels. Checked by ``tests/unit/test_privacy_noise.py::test_table_is_exact``,
        ``::test_levels_keep_the_smoothing_condition``, ``::test_exact_law_of_two_levels``,
        ``::test_goodness_of_fit`` and ``::test_variance``.

    Reference:
        docs/design/0003-discrete-gaussian.md, section 5; alias method: Vose 1991; convolution:
        Micciancio and Walter 2017, section 4.
    """
    if not 0 < variance <= MAX_VARIANCE:
        raise ValueError(f"the variance must be above 0 and at most {MAX_VARIANCE}")
    if not 0 <= size <= MAX_DRAWS:
        raise ValueError(f"the size must lie between 0 and {MAX_DRAWS}")
    coefficients, base = _levels(Fraction(variance))
    table = _table(base)
    stream = Cipher(algorithms.AES256(entropy.draw(32)), modes.CTR(bytes(16))).encryptor()
    result = np.zeros(size, dtype=np.int64)
    for start in range(0, size, CHUNK):
        part = result[start : start + CHUNK]
        for coefficient in coefficients:
            part += coefficient * _draw(table, part.size, stream)
    return result


def _draw(table: _Table, size: int, stream: CipherContext) -> NDArray[np.int64]:
    """``size`` samples from the table, at most ``CHUNK``: one 32-bit word each."""
    words = np.frombuffer(stream.update(bytes(4 * size)), dtype="<u4")
    columns = (words & np.uint32(COLUMNS - 1)).astype(np.intp)
    entries = table.entries.take(columns, mode="clip")  # never clips; skips the bounds check
    difference = words ^ entries
    # Comparing whole words compares the upper 20 bits unless these are equal, which is a tie.
    keep = words < entries
    if size and difference.min() < COLUMNS:
        for index in np.flatnonzero(difference < COLUMNS).tolist():
            column = int(words[index]) & (COLUMNS - 1)
            bits = int.from_bytes(stream.update(bytes(TIE_BITS // 8)), "little")
            keep[index] = bits < table.ties[column]
    difference *= keep  # words where kept, entries (that is, the alias) elsewhere
    difference ^= entries
    difference &= np.uint32(COLUMNS - 1)
    return difference.astype(np.int64) - REACH


@lru_cache(maxsize=64)
def _levels(variance: Fraction) -> tuple[tuple[int, ...], Fraction]:
    """Coefficients c_1 = 1, c_2, ... and base variance s**2 with ``sum(c_j**2) * s**2 == variance``.

    Fewest levels first; s <= 150, and every level keeps ``MIN_SMOOTHING``, checked exactly.
    """
    if variance <= MAX_BASE_STD**2:
        return (1,), variance
    for count in range(2, 8):
        for planned in range(MAX_BASE_STD, MAX_BASE_STD // 2, -2):
            coefficients = _greedy(variance, planned, count)
            base = variance / sum(c * c for c in coefficients)
            if base <= MAX_BASE_STD**2 and _smooth(coefficients, base):
                return coefficients, base
    raise AssertionError("every variance up to MAX_VARIANCE has levels")


def _greedy(variance: Fraction, planned: int, count: int) -> tuple[int, ...]:
    """Coefficients that grow as fast as a base of ``planned`` permits; the last one fits the target."""
    squares, coefficients = 1, [1]
    for _ in range(count - 2):
        step = isqrt(int(squares * (planned**2 / MIN_SMOOTHING - 1)))
        coefficients.append(step)
        squares += step * step
    missing = max(variance / MAX_BASE_STD**2 - squares, Fraction(0))
    whole = -(-missing.numerator // missing.denominator)
    last = isqrt(whole)
    coefficients.append(max(1, last + (last * last < whole)))
    return tuple(coefficients)


def _smooth(coefficients: tuple[int, ...], base: Fraction) -> bool:
    """Whether tau**2 = s**2 S / (S + c**2) is large enough at every level c, S = squares before it."""
    squares = 1
    for c in coefficients[1:]:
        if base * squares < MIN_SMOOTHING * (squares + c * c):
            return False
        squares += c * c
    return True


def _weights(variance: Fraction) -> list[int]:
    """Integer weights of 0..REACH for a table that sums to ``2**(12 + 148)`` over -REACH..REACH.

    Rounded down; what is missing goes to zero, so that the law stays symmetric and has mean zero.
    """
    with localcontext(PRECISION):
        step = (-Decimal(variance.denominator) / (2 * Decimal(variance.numerator))).exp()
        masses, ratio = [Decimal(1)], step
        for _ in range(REACH):
            masses.append(masses[-1] * ratio)
            ratio *= step * step
        total = 2 * sum(masses) - 1
        scale = Decimal(COLUMNS << WEIGHT_BITS) / total
        weights = [int(mass * scale) for mass in masses]
    weights[0] += (COLUMNS << WEIGHT_BITS) - (2 * sum(weights) - weights[0])
    return weights


@lru_cache(maxsize=32)
def _table(variance: Fraction) -> _Table:
    """Vose's alias method in exact integers."""
    half = _weights(variance)
    weights = [half[abs(column - REACH)] for column in range(COLUMNS - 1)] + [0]
    full = 1 << WEIGHT_BITS
    thresholds, aliases = [0] * COLUMNS, list(range(COLUMNS))
    small = [column for column, weight in enumerate(weights) if weight < full]
    large = [column for column, weight in enumerate(weights) if weight >= full]
    while small:
        column, donor = small.pop(), large[-1]
        thresholds[column], aliases[column] = weights[column], donor
        weights[donor] -= full - weights[column]
        if weights[donor] < full:
            small.append(large.pop())
    # What is left in `large` is exactly full and its own alias: any threshold is right.
    entries = [
        (threshold >> TIE_BITS << COLUMN_BITS) | alias
        for threshold, alias in zip(thresholds, aliases, strict=True)
    ]
    ties = tuple(threshold & ((1 << TIE_BITS) - 1) for threshold in thresholds)
    array = np.array(entries, dtype=np.uint32)
    array.flags.writeable = False
    return _Table(array, ties)
