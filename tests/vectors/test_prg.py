"""Known answers of the mask expansion.

Reference: NIST SP 800-38A, F.5.5 (CTR-AES256.Encrypt); the keystream is its column of output blocks.
"""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.algebra.prg import expand

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


def test_nist_f_5_5() -> None:
    assert expand(KEY, COUNTER, 16).astype("<u4").tobytes().hex() == "".join(OUTPUT_BLOCKS)


def test_the_blocks_are_those_of_the_published_ciphertext() -> None:
    stream = int.from_bytes(expand(KEY, COUNTER, 16).astype("<u4").tobytes(), "big")
    assert stream ^ int(PLAINTEXT, 16) == int(CIPHERTEXT, 16)


def test_elements_are_little_endian() -> None:
    assert expand(KEY, COUNTER, 2).tolist() == [0xF17DDF0B, 0x33161759]


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_a_length_that_is_no_multiple_of_a_block_is_a_prefix(length: int) -> None:
    assert np.array_equal(expand(KEY, COUNTER, length), expand(KEY, COUNTER, 16)[:length])


def test_the_counter_wraps_at_128_bits() -> None:
    blocks = b"".join(value.to_bytes(16, "big") for value in (2**128 - 1, 0, 1))
    one_by_one = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor().update(blocks)
    assert expand(KEY, b"\xff" * 16, 12).astype("<u4").tobytes() == one_by_one
