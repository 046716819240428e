"""Discrete Gaussian noise: exact alias tables, combined by convolution, on an AES-256-CTR stream.

A sample of variance V is ``sum(c_j * Y_j)`` with independent ``Y_j`` from one discrete Gaussian of
variance at most 150**2. One 32-bit word draws one ``Y_j``: 12 bits choose a column of the alias
table, 20 bits are compared with the column's threshold; in the one case in 2**20 where they are
equal, 128 further bits decide. All arithmetic is on integers; floats appear nowhere.

The time of a draw depends on the noise in two ways that only this machine could observe: the
position in a 16 KiB table and the rare ties.

Large vectors are drawn by a compiled loop where numba is installed: the same samples, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from tacit.privacy.kernels import AddDraws, compiled_add_draws
from tacit.types import Entropy

__all__ = ["MAX_DRAWS", "MAX_VARIANCE", "add_draws", "discrete_gaussian", "noise_blocks"]

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
ZEROS = memoryview(bytes(4 * CHUNK))

COMPILED_DRAWS = 1 << 19
"""From so many samples in one call on, two seconds of importing and compiling may pay."""


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
        ``::test_goodness_of_fit``, ``::test_variance`` and
        ``::test_the_compiled_loop_gives_the_same_samples``.

    Reference:
        docs/design/0003-discrete-gaussian.md, section 5; alias method: Vose 1991; convolution:
        Micciancio and Walter 2017, section 4.
    """
    sampler = _Sampler(variance, size, entropy)
    result = np.empty(size, dtype=np.int64)
    sampler.fill(result)
    return result


def noise_blocks(
    variance: int | float | Fraction, size: int, entropy: Entropy, block: int = 1 << 18
) -> Iterator[NDArray[np.int64]]:
    """The samples of ``discrete_gaussian``, block by block, in the memory of one block.

    Args:
        variance: As for ``discrete_gaussian``.
        size: Number of samples in all blocks together.
        entropy: 32 bytes are drawn, before the first block.
        block: Samples per block, a multiple of ``CHUNK``; it does not change the samples.

    Yields:
        int64[block], the last one shorter; each is overwritten by the next.

    Raises:
        ValueError: An argument is out of range; raised by the call, not by the first block.

    Guarantee:
        That of ``discrete_gaussian``: the same samples from the same entropy. Checked by
        ``tests/unit/test_privacy_noise.py::test_blocks_are_the_same_samples``.
    """
    if block < 1 or block % CHUNK:
        raise ValueError(f"a block must be a positive multiple of {CHUNK}")
    return _blocks(_Sampler(variance, size, entropy), size, block)


def _blocks(sampler: _Sampler, size: int, block: int) -> Iterator[NDArray[np.int64]]:
    scratch = np.empty(min(block, size), dtype=np.int64)
    for start in range(0, size, block):
        part = scratch[: min(block, size - start)]
        sampler.fill(part)
        yield part


class _Sampler:
    """One keystream and what turns it into samples of one variance."""

    def __init__(self, variance: int | float | Fraction, size: int, entropy: Entropy) -> None:
        if not 0 < variance <= MAX_VARIANCE:
            raise ValueError(f"the variance must be above 0 and at most {MAX_VARIANCE}")
        if not 0 <= size <= MAX_DRAWS:
            raise ValueError(f"the size must lie between 0 and {MAX_DRAWS}")
        self._coefficients, base = _levels(Fraction(variance))
        self._table = _table(base)
        compiled = compiled_add_draws() if size >= COMPILED_DRAWS else None
        self._add: AddDraws = add_draws if compiled is None else compiled
        self._stream = Cipher(algorithms.AES256(entropy.draw(32)), modes.CTR(bytes(16))).encryptor()

    def fill(self, out: NDArray[np.int64]) -> None:
        """Overwrites ``out`` with the next samples; all calls but the last take whole chunks."""
        out[...] = 0
        words: NDArray[np.uint32] = np.empty(min(CHUNK, out.size), dtype="<u4")
        for start in range(0, out.size, CHUNK):
            part = out[start : start + CHUNK]
            for coefficient in self._coefficients:
                _draw_into(
                    part, coefficient, self._table, self._stream, words[: part.size], self._add
                )


def _draw_into(
    total: NDArray[np.int64],
    coefficient: int,
    table: _Table,
    stream: CipherContext,
    scratch: NDArray[np.uint32],
    add: AddDraws,
) -> None:
    """Adds ``coefficient`` times a sample from the table to each element: one 32-bit word each."""
    buffer: Any = scratch.view(np.uint8)
    stream.update_into(ZEROS[: 4 * total.size], buffer)
    words = scratch.astype(np.uint32, copy=False)
    if add(words, table.entries, coefficient, total) >= COLUMNS:
        return
    difference = words ^ table.entries[words & np.uint32(COLUMNS - 1)]
    for index in np.flatnonzero(difference < COLUMNS).tolist():
        word = int(words[index])
        column = word & (COLUMNS - 1)
        entry = int(table.entries[column])
        alias = entry & (COLUMNS - 1)
        bits = int.from_bytes(stream.update(bytes(TIE_BITS // 8)), "little")
        right = column if bits < table.ties[column] else alias
        assumed = column if word < entry else alias
        total[index] += coefficient * (right - assumed)


def add_draws(
    words: NDArray[np.uint32],
    entries: NDArray[np.uint32],
    coefficient: int,
    total: NDArray[np.int64],
) -> int:
    """Adds ``coefficient`` times what each word draws from the table; ties are left to the caller.

    A word keeps its column if it is below the column's entry, and takes the alias otherwise.
    Comparing whole words compares the upper 20 bits unless these are equal, which is a tie.

    Args:
        words: uint32[n], uniform.
        entries: uint32[4096], of a table.
        coefficient: Factor of every sample.
        total: int64[n], added to in place.

    Returns:
        The least ``word ^ entry``: there is a tie if it is below 4096.
    """
    columns = (words & np.uint32(COLUMNS - 1)).astype(np.intp)
    met = entries.take(columns, mode="clip")  # never clips; skips the bounds check
    difference = words ^ met
    least = int(difference.min())
    chosen = np.minimum(words, met, out=difference)  # the column where it is kept, else the alias
    chosen &= np.uint32(COLUMNS - 1)
    drawn = chosen.astype(np.int64)
    drawn -= REACH
    drawn *= coefficient
    total += drawn
    return least


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
