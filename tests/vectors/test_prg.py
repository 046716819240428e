"""Known answers of the mask expansion.

Reference: NIST SP 800-38A, F.5.5 (CTR-AES256.Encrypt); the keystream is its column of output blocks.
"""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.algebra.prg import add_keystreams, expand
from tacit.algebra.ring import WIDTHS, Ring

KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
OUTPUT_BLOCKS = (
    "0bdf7df1591716335e9a8b15c860c502",
    "5a6e699d536119065433863c8f657b94",
    "1bc12c9c01610d5d0d8bd6a3378eca62",
    "2956e1c8693536b1bee99c73a31576b6",
)
PLAINTEXT = (
    "6bc1bee22e409f96e93d7e117393172a"
    "ae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52ef"
    "f69f2445df4f9b17ad2b417be66c3710"
)
CIPHERTEXT = (
    "601ec313775789a5b7a7f504bbf3d228"
    "f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988d"
    "dfc9c58db67aada613c2dd08457941a6"
)
STREAM = bytes.fromhex("".join(OUTPUT_BLOCKS))
RINGS = [Ring(bits) for bits in WIDTHS]


def fused(key: bytes, counter: bytes, length: int, ring: Ring) -> np.ndarray:
    """The other implementation, which the vectors fix as well."""
    out = ring.zeros(length)
    add_keystreams(None, [(key, counter)], ring, out=out)
    return out


both = pytest.mark.parametrize("keystream", [expand, fused])
widths = pytest.mark.parametrize("ring", RINGS, ids=[str(ring.bits) for ring in RINGS])


@both
@widths
def test_nist_f_5_5(keystream, ring) -> None:
    length = len(STREAM) // ring.item_bytes
    elements = keystream(KEY, COUNTER, length, ring)
    assert bytes(ring.to_bytes(elements)) == STREAM[: length * ring.item_bytes]


@both
def test_the_blocks_are_those_of_the_published_ciphertext(keystream) -> None:
    stream = int.from_bytes(Ring(32).to_bytes(keystream(KEY, COUNTER, 16, Ring(32))), "big")
    assert stream ^ int(PLAINTEXT, 16) == int(CIPHERTEXT, 16)


@both
@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (16, [0xDF0B, 0xF17D, 0x1759, 0x3316]),
        (24, [0x7DDF0B, 0x1759F1, 0x5E3316, 0x158B9A]),
        (32, [0xF17DDF0B, 0x33161759, 0x158B9A5E, 0x02C560C8]),
    ],
)
def test_elements_are_little_endian(keystream, bits, expected) -> None:
    assert keystream(KEY, COUNTER, 4, Ring(bits)).tolist() == expected


@both
@widths
@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_a_length_that_is_no_multiple_of_a_block_is_a_prefix(keystream, ring, length) -> None:
    whole = keystream(KEY, COUNTER, 16, ring)
    assert np.array_equal(keystream(KEY, COUNTER, length, ring), whole[:length])


@both
@widths
def test_the_counter_wraps_at_128_bits(keystream, ring) -> None:
    blocks = b"".join(value.to_bytes(16, "big") for value in (2**128 - 1, 0, 1))
    one_by_one = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor().update(blocks)
    elements = keystream(KEY, b"\xff" * 16, 48 // ring.item_bytes, ring)
    assert bytes(ring.to_bytes(elements)) == one_by_one
