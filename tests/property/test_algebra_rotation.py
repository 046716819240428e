"""The rotation is orthonormal, linear, fixed by its seed, and spreads what was concentrated."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.algebra.rotation import BLOCK, padded_length, rotate, unrotate

SEED = bytes(range(32))

blocks = st.integers(0, 9).map(lambda k: 2**k)
seeds = st.binary(min_size=32, max_size=32)
lengths = st.integers(0, 700)


def vector(length, seed=0):
    """Normal values over many orders of magnitude."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(length) * 10.0 ** rng.integers(-6, 7, length)


def hadamard(size):
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def published_signs(seed, length):
    """From the definition: HKDF, AES-256-CTR, lowest bit of the first octet first."""
    material = HKDF(SHA256(), 48, None, b"tacit rotation v1").derive(seed)
    cipher = Cipher(algorithms.AES256(material[:32]), modes.CTR(material[32:])).encryptor()
    stream = int.from_bytes(cipher.update(bytes(length // 8 + 1)), "little")
    return np.array([-1.0 if stream >> i & 1 else 1.0 for i in range(length)])


@settings(deadline=None)
@given(length=lengths, block=blocks, seed=seeds, data=st.integers(0, 2**32))
def test_the_norm_is_kept(length, block, seed, data):
    """Of every block, up to rounding."""
    x = vector(length, data)
    rotated = rotate(x, seed, block)
    assert rotated.shape == (padded_length(length, block),)
    padded = np.concatenate([x, np.zeros(len(rotated) - length)])
    before = np.linalg.norm(padded.reshape(-1, block), axis=1)
    after = np.linalg.norm(rotated.reshape(-1, block), axis=1)
    assert np.allclose(after, before, rtol=1e-12, atol=0)


@settings(deadline=None)
@given(length=lengths, block=blocks, seed=seeds, data=st.integers(0, 2**32))
def test_unrotating_inverts_to_rounding(length, block, seed, data):
    x = vector(length, data)
    kept = x.copy()
    rotated = rotate(x, seed, block)
    rotated_before = rotated.copy()
    back = unrotate(rotated, seed, length, block)
    assert back.shape == x.shape
    assert np.linalg.norm(back - x) <= 1e-12 * np.linalg.norm(x)
    assert np.array_equal(x, kept)
    assert np.array_equal(rotated, rotated_before)


@settings(deadline=None)
@given(
    length=lengths, block=blocks, seed=seeds, data=st.integers(0, 2**32), scale=st.floats(-1e3, 1e3)
)
def test_rotating_is_linear(length, block, seed, data, scale):
    """Hence a sum of rotated contributions unrotates to the sum of contributions."""
    x, y = vector(length, data), vector(length, data + 1)
    expected = scale * rotate(x, seed, block) + rotate(y, seed, block)
    size = abs(scale) * np.linalg.norm(x) + np.linalg.norm(y)
    assert np.linalg.norm(rotate(scale * x + y, seed, block) - expected) <= 1e-12 * size


@settings(deadline=None)
@given(length=lengths, block=blocks, seed=seeds)
def test_it_is_the_walsh_hadamard_matrix_after_the_published_signs(length, block, seed):
    """Integers and blocks of an even power: not even rounding differs."""
    x = np.random.default_rng(length).integers(-1000, 1000, length).astype(np.float64)
    size = padded_length(length, block)
    signed = np.concatenate([x, np.zeros(size - length)]) * published_signs(seed, size)
    expected = signed.reshape(-1, block) @ hadamard(block) / np.sqrt(block)
    got = rotate(x, seed, block).reshape(-1, block)
    if block.bit_length() % 2:
        assert np.array_equal(got, expected)
    assert np.allclose(got, expected, rtol=1e-13, atol=1e-10)


def test_signs_go_on_across_the_pieces_that_are_drawn_at_once():
    """Blocks of one element: nothing but signs, whose stream is longer than any buffer."""
    length = 3 * 2**16 + 5
    assert np.array_equal(rotate(np.ones(length), SEED, 1), published_signs(SEED, length))


@pytest.mark.parametrize("block", [2**13, BLOCK, 2**15, 2**17])
def test_large_blocks_and_several_of_them(block):
    x = vector(2 * block + 77)
    rotated = rotate(x, SEED, block)
    assert len(rotated) == 3 * block
    assert np.linalg.norm(unrotate(rotated, SEED, len(x), block) - x) <= 1e-12 * np.linalg.norm(x)
    one_by_one = [rotate(np.ones(block), SEED, block)]
    assert np.array_equal(rotate(np.ones(3 * block), SEED, block)[:block], one_by_one[0])


def test_one_large_element_becomes_many_small_ones():
    x = np.zeros(BLOCK)
    x[1234] = 3.0
    assert np.allclose(np.abs(rotate(x, SEED)), 3.0 / np.sqrt(BLOCK), rtol=1e-12)


@pytest.mark.parametrize("name", ["ones", "alternating", "ramp", "row"])
def test_no_fixed_pattern_stays_concentrated(name):
    """Six deviations of a Gaussian vector of the same norm bound every element: 1e-4 for all."""
    index = np.arange(BLOCK)
    x = {
        "ones": np.ones(BLOCK),
        "alternating": 1.0 - 2.0 * (index % 2),
        "ramp": index.astype(np.float64),
        "row": np.where(index & 4096, 1.0, -1.0),
    }[name]
    for number in range(3):
        seed = hashlib.sha256(bytes([number])).digest()
        assert np.max(np.abs(rotate(x, seed))) < 6.0 * np.linalg.norm(x) / np.sqrt(BLOCK)


def test_another_seed_is_another_rotation():
    x = np.ones(BLOCK)
    other = hashlib.sha256(SEED).digest()
    assert np.array_equal(rotate(x, SEED), rotate(x, SEED))
    cosine = float(rotate(x, SEED) @ rotate(x, other)) / BLOCK
    assert abs(cosine) < 6.0 / np.sqrt(BLOCK)


@pytest.mark.parametrize("block", [0, -1, 3, 12, 2**20 + 1, 2**21])
def test_a_block_is_a_power_of_two(block):
    with pytest.raises(ValueError, match="power of two"):
        rotate(np.zeros(4), SEED, block)
    with pytest.raises(ValueError, match="power of two"):
        unrotate(np.zeros(4), SEED, 4, block)


def test_what_does_not_fit_is_refused():
    for call in (
        lambda: rotate(np.zeros(4), SEED[1:], 2),
        lambda: rotate(np.zeros(4), b"", 2),
        lambda: rotate(np.zeros((2, 2)), SEED, 2),
        lambda: unrotate(np.zeros(4), SEED, 5, 2),
        lambda: unrotate(np.zeros(4), SEED, 2, 2),
        lambda: unrotate(np.zeros(4), SEED, -4, 2),
        lambda: padded_length(-1),
    ):
        with pytest.raises(ValueError, match=r"seed|vector|elements|negative"):
            call()
