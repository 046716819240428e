"""The discrete Gaussian sampler: exact tables, exact convolution, and the samples themselves."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import stats

from tacit.privacy import noise
from tacit.privacy.kernels import compiled_add_draws
from tacit.privacy.noise import discrete_gaussian, noise_blocks
from tacit.testing.entropy import SeededEntropy

DRAWS = 1_000_000
SIGMAS = 4.5
VARIANCES = [1e2, 3e4, 1e6, 1e8, 1e10, 1e12, 1e14]


def table_law(table: noise._Table) -> dict[int, Fraction]:
    """The exact law that an alias table draws from, given uniform bits."""
    full, law = 1 << noise.WEIGHT_BITS, dict.fromkeys(range(-2048, 2049), 0)
    for column, entry in enumerate(table.entries.tolist()):
        threshold = (entry >> noise.COLUMN_BITS << noise.TIE_BITS) | table.ties[column]
        law[column - noise.REACH] += threshold
        law[(entry & (noise.COLUMNS - 1)) - noise.REACH] += full - threshold
    return {x: Fraction(weight, noise.COLUMNS * full) for x, weight in law.items()}


def exact_pmf(variance: Fraction, reach: int) -> list:
    """N_Z(0, variance) on 0..reach in the current mpmath precision."""
    parameter = mpmath.mpf(variance.numerator) / variance.denominator
    weights = [mpmath.exp(-mpmath.mpf(x * x) / (2 * parameter)) for x in range(reach + 1)]
    total = 2 * mpmath.fsum(weights) - 1
    return [weight / total for weight in weights]


@pytest.mark.parametrize("variance", [Fraction(8), Fraction(123456, 1000), Fraction(22500)])
def test_table_is_exact(variance):
    law = table_law(noise._table(variance))
    assert sum(law.values()) == 1
    assert all(law[x] == law[-x] for x in range(2049))
    with mpmath.workdps(70):
        pmf = exact_pmf(variance, 6000)
        gap = sum(
            abs(mpmath.mpf(law[abs(x)].numerator) / law[abs(x)].denominator - pmf[abs(x)])
            for x in range(-2048, 2049)
        )
        distance = (gap + 2 * mpmath.fsum(pmf[2049:])) / 2
    assert distance < 5e-42


@pytest.mark.parametrize("exponent", range(1, 61))
def test_levels_keep_the_smoothing_condition(exponent):
    for part in (1, Fraction(5, 7), Fraction(0.55)):
        variance = part * Fraction(2**exponent)
        coefficients, base = noise._levels(variance)
        assert coefficients[0] == 1
        assert len(coefficients) <= 5
        assert base <= 150**2
        assert sum(c * c for c in coefficients) * base == variance
        before = base
        for c in coefficients[1:]:
            tau = before * base / (before + c * c * base)
            assert 4.1 * mpmath.exp(-2 * mpmath.pi**2 * float(tau)) < 5e-31
            before += c * c * base


def test_exact_law_of_two_levels():
    """The tables' convolution against N_Z(V) itself, at the largest step that _levels ever takes."""
    c, base = 78, Fraction(22500)
    variance = base * (1 + c * c)
    assert noise._levels(variance) == ((1, c), base)
    with mpmath.workdps(60):
        one = exact_pmf(base, 4000)
        v = mpmath.mpf(int(variance))
        normaliser = mpmath.sqrt(2 * mpmath.pi * v)  # Poisson: relative error below exp(-2e9)
        for x in (0, 1, 39, 40, 5_000, 20_000):
            reach = range(max(-4000, (x - 4000) // c), min(4000, (x + 4000) // c) + 1)
            law = mpmath.fsum(
                one[abs(y)] * one[abs(x - c * y)] for y in reach if abs(x - c * y) <= 4000
            )
            target = mpmath.exp(-mpmath.mpf(x * x) / (2 * v)) / normaliser
            assert abs(law / target - 1) < 5e-31


@pytest.mark.parametrize("variance", [8, 20.5, 40, 1e4, 3e4, 1e6])
def test_goodness_of_fit(variance):
    sample = discrete_gaussian(variance, DRAWS, SeededEntropy(f"fit {variance}"))
    reach = int(12 * variance**0.5)
    pmf = np.exp(-np.square(np.arange(-reach, reach + 1.0)) / (2 * variance))
    cumulated = np.cumsum(pmf / pmf.sum())
    # at most 200 cells of at least 1/200, or of one integer each where that is more
    cells = np.unique(np.searchsorted(cumulated, np.linspace(0.0005, 0.9995, 200)))
    expected = np.diff(np.concatenate(([0.0], cumulated[cells], [1.0]))) * DRAWS
    index = np.searchsorted(cells - reach, sample, side="left")
    observed = np.bincount(index, minlength=expected.size)
    assert expected.min() > 5
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-4


def variance_is_right(sample: np.ndarray, variance: float) -> bool:
    """Whether the second moment lies within 4.5 of its standard errors; 1% is 7 of them."""
    scaled = sample / variance**0.5
    return abs(np.mean(scaled**2) - 1) < SIGMAS * (2 / sample.size) ** 0.5


@pytest.mark.parametrize("variance", VARIANCES)
def test_variance(variance):
    assert variance_is_right(
        discrete_gaussian(variance, DRAWS, SeededEntropy(f"variance {variance}")), variance
    )


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("error", [0.99, 1.01])
def test_variance_test_notices_one_percent(variance, error):
    planted = discrete_gaussian(error * variance, DRAWS, SeededEntropy(f"planted {variance}"))
    assert not variance_is_right(planted, variance)


@pytest.mark.parametrize("variance", [8, 1e4, 1e14])
def test_mean_is_zero_and_law_symmetric(variance):
    sample = discrete_gaussian(variance, DRAWS, SeededEntropy(f"mean {variance}"))
    assert abs(sample.mean()) < SIGMAS * (variance / DRAWS) ** 0.5
    assert abs(np.sum(np.sign(sample))) < SIGMAS * DRAWS**0.5
    assert stats.ks_2samp(sample[: DRAWS // 2], -sample[DRAWS // 2 :]).pvalue > 1e-4


def test_samples_are_uncorrelated_within_and_between_levels():
    sample = discrete_gaussian(1e10, DRAWS, SeededEntropy("lags")) / 1e5
    for lag in (1, 2, 3, noise.CHUNK, 4 * noise.CHUNK):
        assert abs(np.mean(sample[lag:] * sample[:-lag])) < SIGMAS / (DRAWS - lag) ** 0.5


def test_samples_depend_on_the_entropy_alone():
    one = discrete_gaussian(1e6, 1000, SeededEntropy(1))
    assert np.array_equal(one, discrete_gaussian(1e6, 1000, SeededEntropy(1)))
    assert not np.array_equal(one, discrete_gaussian(1e6, 1000, SeededEntropy(2)))
    entropy = SeededEntropy(1)
    first, second = (discrete_gaussian(1e6, 1000, entropy) for _ in range(2))
    assert not np.array_equal(first, second)


class FixedStream:
    """A keystream that yields given bytes."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)

    def update(self, data: bytes) -> bytes:
        part = self._parts.pop(0)
        assert len(part) == len(data)
        return part

    def update_into(self, data: bytes, out: np.ndarray) -> None:
        out[...] = np.frombuffer(self.update(data), dtype=np.uint8)


@pytest.fixture(params=["reference", "compiled"])
def add(request):
    """The loop in NumPy, and the one that numba compiles."""
    if request.param == "reference":
        return noise.add_draws
    pytest.importorskip("numba")
    return compiled_add_draws()


def test_a_tie_is_decided_by_further_bits(add):
    table = noise._table(Fraction(100))
    column = next(
        c for c, e in enumerate(table.entries.tolist()) if e % 4096 != c and table.ties[c] > 1
    )
    entry = int(table.entries[column])
    word = (entry >> 12 << 12 | column).to_bytes(4, "little")
    for bits, expected in (
        (table.ties[column] - 1, column),
        (table.ties[column], entry % 4096),
    ):
        stream = FixedStream(2 * word, *2 * [bits.to_bytes(16, "little")])
        drawn, scratch = np.array([0, 1000]), np.empty(2, dtype="<u4")
        noise._draw_into(drawn, 3, table, stream, scratch, add)
        assert drawn.tolist() == [3 * (expected - noise.REACH), 1000 + 3 * (expected - noise.REACH)]


@pytest.mark.parametrize("variance", [Fraction(8), Fraction(22500)])
def test_every_word_draws_what_the_table_says(variance, add):
    """All columns, just below, at and just above the threshold, and at both ends."""
    table = noise._table(variance)
    entries = table.entries.astype(np.int64)
    columns = np.arange(4096)
    for offset in (-1, 1, None):
        upper = (entries >> 12) + offset if offset else np.where(columns % 2, 0, 2**20 - 1)
        upper = np.clip(upper, 0, 2**20 - 1)
        words = (upper << 12 | columns).astype(np.uint32)
        total = np.arange(4096)
        least = add(words, table.entries, -7, total)
        kept = upper < entries >> 12
        tied = upper == entries >> 12
        expected = np.arange(4096) - 7 * (np.where(kept, columns, entries % 4096) - noise.REACH)
        assert np.array_equal(total[~tied], expected[~tied])
        assert (least < 4096) == tied.any()


@pytest.mark.parametrize("variance", [20.5, 1e4, 1e8, 1e14, 2.0**60])
def test_the_compiled_loop_gives_the_same_samples(variance, monkeypatch):
    pytest.importorskip("numba")
    size = 5 * noise.CHUNK + 3
    reference = discrete_gaussian(variance, size, SeededEntropy(f"same {variance}"))
    monkeypatch.setattr(noise, "COMPILED_DRAWS", 1)
    monkeypatch.setattr(noise, "add_draws", None)  # not used any more
    compiled = discrete_gaussian(variance, size, SeededEntropy(f"same {variance}"))
    assert np.array_equal(compiled, reference)


def test_without_numba_the_reference_draws(monkeypatch):
    expected = discrete_gaussian(1e8, 1000, SeededEntropy(3))
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it raises ImportError
    monkeypatch.setattr(noise, "COMPILED_DRAWS", 1)
    compiled_add_draws.cache_clear()
    try:
        assert compiled_add_draws() is None
        assert np.array_equal(discrete_gaussian(1e8, 1000, SeededEntropy(3)), expected)
    finally:
        compiled_add_draws.cache_clear()


def test_numba_is_imported_for_large_vectors_only():
    code = """
import sys, tacit, tacit.privacy.plan
from tacit.privacy.noise import COMPILED_DRAWS, discrete_gaussian
from tacit.testing.entropy import SeededEntropy
discrete_gaussian(1e6, 100_000, SeededEntropy(1))
assert COMPILED_DRAWS > 100_000
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("blocks", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [0, 1, noise.CHUNK, 3 * noise.CHUNK + 5])
def test_blocks_are_the_same_samples(blocks, size):
    parts = list(
        map(np.copy, noise_blocks(1e8, size, SeededEntropy("blocks"), blocks * noise.CHUNK))
    )
    assert all(part.size == blocks * noise.CHUNK for part in parts[:-1])
    whole = discrete_gaussian(1e8, size, SeededEntropy("blocks"))
    assert np.array_equal(np.concatenate([*parts, np.zeros(0, dtype=np.int64)]), whole)


def test_blocks_take_the_memory_of_one_block():
    addresses = {
        part.ctypes.data
        for part in noise_blocks(1e4, 4 * noise.CHUNK, SeededEntropy(1), noise.CHUNK)
    }
    assert len(addresses) == 1


def test_bad_blocks_are_refused_by_the_call():
    for block in (0, -noise.CHUNK, 1000, noise.CHUNK + 1):
        with pytest.raises(ValueError, match="multiple"):
            noise_blocks(10, 5, SeededEntropy(1), block)
    with pytest.raises(ValueError, match="variance"):
        noise_blocks(0, 5, SeededEntropy(1))
    with pytest.raises(ValueError, match="size"):
        noise_blocks(10, -1, SeededEntropy(1))


def test_no_samples():
    assert discrete_gaussian(100, 0, SeededEntropy(1)).shape == (0,)


@pytest.mark.parametrize("variance", [0, -1, float("nan"), float("inf"), 2.0**61])
def test_refuses_a_variance_out_of_range(variance):
    with pytest.raises(ValueError, match="variance"):
        discrete_gaussian(variance, 3, SeededEntropy(1))


@pytest.mark.parametrize("size", [-1, noise.MAX_DRAWS + 1])
def test_refuses_a_size_out_of_range(size):
    with pytest.raises(ValueError, match="size"):
        discrete_gaussian(10, size, SeededEntropy(1))
