from __future__ import annotations

import hashlib
import hmac
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.connect.cells import BadCell
from tacit.connect.tokens import column_key, pseudonyms, tokens

KEY = bytes(range(32))


def derived(label: bytes) -> bytes:
    return hmac.new(KEY, label, hashlib.sha256).digest()


def defined(value: bytes, label: bytes = b"tacit token v2\0") -> bytes:
    """A token by its definition, one value at a time."""
    if len(value) > 15:
        return hmac.new(derived(label + b"long"), value, hashlib.sha256).digest()[:16]
    cipher = Cipher(algorithms.AES256(derived(label + b"short")), modes.ECB()).encryptor()
    return cipher.update((bytes([len(value)]) + value).ljust(16, b"\0"))


def test_tokens_match_their_definition() -> None:
    texts = [
        "",
        "a",
        "MRN0012345",
        "x" * 15,
        "x" * 16,
        "ü" * 7,
        "ü" * 8,
        "a\0",
        "x" * 16,
        "y" * 999,
    ]
    made = tokens(pa.array(texts), KEY)
    assert made.type == pa.binary(16)
    assert made.to_pylist() == [defined(text.encode()) for text in texts]
    assert tokens(pa.array(texts, pa.large_string()), KEY) == made


def test_numbers_and_dates_get_the_token_of_their_text() -> None:
    numbers = [0, -7, 2**63 - 1, -(2**63), None]
    texts = [None if number is None else str(number) for number in numbers]
    assert tokens(pa.array(numbers), KEY) == tokens(pa.array(texts), KEY)
    day = pa.array([date(2000, 1, 2)])
    assert tokens(day, KEY) == tokens(pa.array(["2000-01-02"]), KEY)


def test_nulls_stay_null_whatever_lies_beneath() -> None:
    below = pa.array(["secret-beneath-a-null", "b", "c"])
    mask = pa.array([False, True, True]).buffers()[1]
    cells = pa.Array.from_buffers(pa.string(), 3, [mask, *below.buffers()[1:]])
    made = tokens(cells, KEY)
    assert made.to_pylist() == [None, defined(b"b"), defined(b"c")]
    assert bytes(made.buffers()[1])[:16] == bytes(16)


def test_columns_without_cells_or_values() -> None:
    assert tokens(pa.array([], pa.string()), KEY).to_pylist() == []
    assert tokens(pa.array([None, None], pa.string()), KEY).to_pylist() == [None, None]
    assert tokens(pa.array(["", ""]), KEY).to_pylist() == [defined(b"")] * 2
    nothing = pa.DictionaryArray.from_arrays(pa.array([None], pa.int8()), pa.array([], pa.string()))
    assert tokens(nothing, KEY).to_pylist() == [None]


def test_nulls_of_a_dictionary_stay_null_in_index_and_value() -> None:
    cells = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 0]), pa.array(["a", None, "c"]))
    assert tokens(cells[1:], KEY).to_pylist() == [None, None, defined(b"c"), defined(b"a")]


def test_pseudonyms_are_unrelated_to_tokens() -> None:
    texts = ["a", "b", "a", "z" * 40]
    made = pseudonyms(pa.array(texts), KEY)
    label = b"tacit pseudonym v2\0"
    assert made.dtype == np.uint64
    assert made.tolist() == [
        int.from_bytes(defined(text.encode(), label)[:8], "little") for text in texts
    ]
    low = [
        int.from_bytes(token[:8], "little") for token in tokens(pa.array(texts), KEY).to_pylist()
    ]
    assert not set(low) & set(made.tolist())


def test_an_entity_must_be_known() -> None:
    with pytest.raises(BadCell) as caught:
        pseudonyms(pa.array(["a", None, None]), KEY)
    assert (caught.value.index, caught.value.problem) == (1, "is empty")


def test_keys_of_different_purposes_differ() -> None:
    keys = {
        column_key(KEY, "diagnosis", "id", "token"),
        column_key(KEY, "diagnosis", "id", "ff1"),
        column_key(KEY, "diagnosis", "phone", "token"),
        column_key(KEY, "billing", "id", "token"),
        column_key(KEY, "diagnosisi", "d", "token"),
        column_key(KEY, "diagnosis", "idtoken", ""),
        column_key(bytes(32), "diagnosis", "id", "token"),
    }
    assert len(keys) == 7
    message = b"\0\0\0\x05token" + b"\0\0\0\x09diagnosis" + b"\0\0\0\x02id"
    assert derived(b"tacit column key v1\0" + message) in keys


def test_keys_of_another_size_are_refused() -> None:
    for use in (tokens, pseudonyms):
        with pytest.raises(ValueError, match="32 bytes"):
            use(pa.array(["a"]), KEY[:16])
    with pytest.raises(ValueError, match="32 bytes"):
        column_key(b"", "diagnosis", "id", "token")
