from __future__ import annotations

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.connect.cells import BadCell
from tacit.connect.ff1 import ALPHABETS, decrypt, encrypt

NIST_KEY = bytes.fromhex("2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94")
DIGITS, BASE_36 = ALPHABETS["digits"], ALPHABETS["lower-alphanumeric"]
TWEAKS = {DIGITS: bytes.fromhex("39383736353433323130"), BASE_36: bytes.fromhex("37" * 4 + "70717273" + "37" * 3)}  # fmt: skip
SAMPLES = [
    (16, DIGITS, False, "2433477484"),
    (16, DIGITS, True, "6124200773"),
    (16, BASE_36, True, "a9tv40mll9kdu509eum"),
    (24, DIGITS, False, "2830668132"),
    (24, DIGITS, True, "2496655549"),
    (24, BASE_36, True, "xbj3kv35jrawxv32ysr"),
    (32, DIGITS, False, "6657667009"),
    (32, DIGITS, True, "1001623463"),
    (32, BASE_36, True, "xs8a0azh2avyalyzuwd"),
]
KEY = bytes(range(32))


def specified(text: str, key: bytes, alphabet: str, tweak: bytes) -> str:
    """Algorithm 7 of SP 800-38G step by step, one text at a time."""
    radix, length = len(alphabet), len(text)
    u = length // 2
    v = length - u
    a, b = ([alphabet.index(character) for character in half] for half in (text[:u], text[u:]))

    def aes(block: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)

    def number(half: list[int]) -> int:
        total = 0
        for symbol in half:
            total = total * radix + symbol
        return total

    width = -(-(radix**v - 1).bit_length() // 8)
    size = 4 * -(-width // 4) + 4
    p = bytes([1, 2, 1]) + radix.to_bytes(3, "big") + bytes([10, u % 256])
    p += length.to_bytes(4, "big") + len(tweak).to_bytes(4, "big")
    for i in range(10):
        q = tweak + bytes((-len(tweak) - width - 1) % 16) + bytes([i])
        q += number(b).to_bytes(width, "big")
        r = bytes(16)
        for start in range(0, len(p + q), 16):
            r = aes(bytes(x ^ y for x, y in zip(r, (p + q)[start : start + 16], strict=True)))
        s = r
        for j in range(1, -(-size // 16)):
            s += aes(bytes(x ^ y for x, y in zip(r, j.to_bytes(16, "big"), strict=True)))
        m = v if i % 2 else u
        c = (number(a) + int.from_bytes(s[:size], "big")) % radix**m
        digits = []
        for _ in range(m):
            c, digit = divmod(c, radix)
            digits.append(digit)
        a, b = b, digits[::-1]
    return "".join(alphabet[symbol] for symbol in a + b)


@pytest.mark.parametrize(("size", "alphabet", "tweaked", "expected"), SAMPLES)
def test_the_samples_of_nist(size: int, alphabet: str, tweaked: bool, expected: str) -> None:
    """FF1 samples 1 to 9, published with SP 800-38G."""
    plain = pa.array(["0123456789" if alphabet == DIGITS else "0123456789abcdefghi"])
    tweak = TWEAKS[alphabet] if tweaked else b""
    made = encrypt(plain, NIST_KEY[:size], alphabet, tweak)
    assert made.to_pylist() == [expected]
    assert decrypt(made, NIST_KEY[:size], alphabet, tweak) == plain


@pytest.mark.parametrize("tweak", [b"", b"t", bytes(range(15)), bytes(40)])
def test_every_length_matches_the_specification(tweak: bytes) -> None:
    """Up to 18 digits a half is below 2**32 or 2**63, from 37 on beyond 64 bits."""
    texts = [("31415926535897932384626433" * 4)[:n] for n in range(6, 101, 3)]
    made = encrypt(pa.array(texts), KEY, DIGITS, tweak)
    assert made.to_pylist() == [specified(text, KEY, DIGITS, tweak) for text in texts]
    assert decrypt(made, KEY, DIGITS, tweak).to_pylist() == texts


@pytest.mark.parametrize("alphabet", ["01", "abc", ALPHABETS["alphanumeric"], "äß€\U0001d5380z", "".join(map(chr, range(0x4E00, 0x4E00 + 2**14)))])  # fmt: skip
def test_every_alphabet_matches_the_specification(alphabet: str) -> None:
    texts = [(alphabet[::-1] * 40)[3 : 3 + n] for n in (20, 21, 33, 64)]
    made = encrypt(pa.array(texts), KEY, alphabet, b"tweak")
    assert made.to_pylist() == [specified(text, KEY, alphabet, b"tweak") for text in texts]
    assert decrypt(made, KEY, alphabet, b"tweak").to_pylist() == texts


def test_the_largest_numbers_on_either_side_of_64_bits() -> None:
    """radix**v of 2**62, 2**63 and 2**64, and all symbols the highest."""
    for alphabet, lengths in (("01", (124, 126, 128)), ("".join(map(chr, range(128))), (18, 20))):
        texts = [alphabet[-1] * n for n in lengths]
        made = encrypt(pa.array(texts), KEY, alphabet)
        assert made.to_pylist() == [specified(text, KEY, alphabet, b"") for text in texts]
        assert decrypt(made, KEY, alphabet).to_pylist() == texts


def test_columns_longer_than_one_pass() -> None:
    cells = pa.array([str(10**9 + i) for i in range(2**14 + 5)])
    made = encrypt(cells, KEY, DIGITS)
    assert len(set(made.to_pylist())) == len(cells)
    assert made[-1].as_py() == specified(cells[-1].as_py(), KEY, DIGITS, b"")
    assert decrypt(made, KEY, DIGITS) == cells


def test_the_tweak_and_the_key_matter() -> None:
    cells = pa.array(["0123456789"])
    made = {
        encrypt(cells, key, DIGITS, t)[0].as_py() for key in (KEY, bytes(32)) for t in (b"", b"a")
    }
    assert len(made) == 4


def test_small_domains_are_refused() -> None:
    assert encrypt(pa.array(["123456"]), KEY, DIGITS)
    for alphabet, shortest in ((DIGITS, 6), ("01", 20), (BASE_36, 4), (ALPHABETS["hex"], 5)):
        good, short = alphabet[1] * shortest, alphabet[1] * (shortest - 1)
        with pytest.raises(BadCell, match=f"fewer than {shortest} characters") as caught:
            encrypt(pa.array([good, None, short, ""]), KEY, alphabet)
        assert caught.value.index == 2


@pytest.mark.parametrize(("alphabet", "bad"), [(DIGITS, "12345x7"), (DIGITS, "1234567ü"), ("äbcdefghij", "bcdefgh€"), ("äbcdefghij", "zzzzzzz")])  # fmt: skip
def test_a_foreign_character_is_refused_and_not_named(alphabet: str, bad: str) -> None:
    cells = pa.array([None, alphabet[1] * 7, bad, "", alphabet[2] * 7 + "?"])
    with pytest.raises(BadCell, match=r"^holds a character outside its alphabet$") as caught:
        encrypt(cells, KEY, alphabet)
    assert caught.value.index == 2


def test_nulls_stay_whatever_lies_beneath() -> None:
    below = pa.array(["not digits", "1234567", "x", "7654321"])
    mask = pa.array([False, True, False, True]).buffers()[1]
    cells = pa.Array.from_buffers(pa.string(), 4, [mask, *below.buffers()[1:]])
    expected = encrypt(pa.array([None, "1234567", None, "7654321"]), KEY, DIGITS)
    assert encrypt(cells, KEY, DIGITS) == expected
    assert expected.to_pylist()[::2] == [None, None]


def test_types_and_empty_columns() -> None:
    cells = pa.array(["1234567", "1234567", None])
    plain = encrypt(cells, KEY, DIGITS)
    assert encrypt(cells.dictionary_encode(), KEY, DIGITS) == plain
    large = encrypt(cells.cast(pa.large_string()), KEY, DIGITS)
    assert large.type == pa.large_string()
    assert large.cast(pa.string()) == plain
    assert len(encrypt(pa.array([], pa.string()), KEY, DIGITS)) == 0
    assert encrypt(pa.array([None], pa.string()), KEY, "äöabc").to_pylist() == [None]


@pytest.mark.parametrize("alphabet", ["", "0", "00", "0120"])
def test_an_alphabet_has_distinct_characters(alphabet: str) -> None:
    with pytest.raises(ValueError, match="distinct"):
        encrypt(pa.array(["0101010101"]), KEY, alphabet)


def test_a_key_is_an_aes_key() -> None:
    with pytest.raises(ValueError, match="AES key"):
        encrypt(pa.array(["1234567"]), KEY[:20], DIGITS)
