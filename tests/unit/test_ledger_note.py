"""Signed notes: the published example, and notes that must not open."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tacit.errors import DecodeError, LedgerError, LocalProtocolError, SignatureError, TacitError
from tacit.ledger.note import (
    Checkpoint,
    key_hash,
    open_checkpoint,
    open_note,
    sign_checkpoint,
    sign_note,
)
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity

ALICE = Identity.generate(SeededEntropy("alice"))
BOB = Identity.generate(SeededEntropy("bob"))
KEYS = {"fed/alice": ALICE.public_key}
ROOT = hashlib.sha256(b"root").digest()

# The example of golang.org/x/mod/sumdb/note, whose format C2SP signed-note writes down.
PUBLISHED_NAME = "PeterNeumann"
PUBLISHED_KEY = "c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PUBLISHED_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_the_published_example_opens() -> None:
    mark, encoded = PUBLISHED_KEY.split("+", 1)
    key = base64.b64decode(encoded)[1:]
    assert key_hash(PUBLISHED_NAME, key).hex() == mark
    text, names = open_note(PUBLISHED_NOTE.encode(), {PUBLISHED_NAME: key})
    assert text == PUBLISHED_NOTE.partition("\n\n")[0] + "\n"
    assert names == {PUBLISHED_NAME}


def test_checkpoint_round_trip_and_layout() -> None:
    note = sign_checkpoint("fed/alice", 42, ROOT, ALICE, "fed/alice")
    assert open_checkpoint(note, KEYS) == Checkpoint("fed/alice", 42, ROOT)
    lines = note.decode().split("\n")
    assert lines[:4] == ["fed/alice", "42", base64.b64encode(ROOT).decode(), ""]
    mark = base64.b64decode(lines[4].removeprefix("— fed/alice "))
    assert mark[:4] == key_hash("fed/alice", ALICE.public_key)
    assert len(mark) == 68


def test_any_flipped_byte_of_a_note_is_refused() -> None:
    note = sign_checkpoint("fed/alice", 42, ROOT, ALICE, "fed/alice")
    for position in range(len(note)):
        for bit in range(8):
            forged = bytearray(note)
            forged[position] ^= 1 << bit
            with pytest.raises(TacitError):
                open_checkpoint(bytes(forged), KEYS)


def test_a_signature_by_another_key_or_under_another_name_does_not_count() -> None:
    note = sign_checkpoint("fed/alice", 42, ROOT, BOB, "fed/alice")
    with pytest.raises(SignatureError):
        open_checkpoint(note, KEYS)
    with pytest.raises(SignatureError):
        open_checkpoint(sign_checkpoint("fed/alice", 42, ROOT, ALICE, "fed/bob"), KEYS)


def test_a_wrong_signature_with_the_right_key_hash_is_refused_even_beside_a_good_one() -> None:
    note = sign_checkpoint("fed/alice", 42, ROOT, ALICE, "fed/alice").decode()
    forged = key_hash("fed/bob", BOB.public_key) + bytes(64)
    note += f"— fed/bob {base64.b64encode(forged).decode()}\n"
    with pytest.raises(SignatureError):
        open_checkpoint(note.encode(), {**KEYS, "fed/bob": BOB.public_key})
    assert open_checkpoint(note.encode(), KEYS).size == 42


@pytest.mark.parametrize(
    "text",
    [
        "fed/alice\n42\n",
        "fed/alice\n042\n" + "A" * 43 + "=\n",
        "fed/alice\n-1\n" + "A" * 43 + "=\n",
        "fed/alice\n٤٢\n" + "A" * 43 + "=\n",
        "fed/alice\n42\n" + "A" * 42 + "\n",
        "fed/alice\n42\n" + "A" * 42 + "B=\n",
        "two words\n42\n" + "A" * 43 + "=\n",
        "fed/alice\n42\n" + "A" * 43 + "=\nextension\n",
        "\n",
    ],
)
def test_signed_text_that_is_no_checkpoint(text: str) -> None:
    with pytest.raises(LedgerError):
        open_checkpoint(sign_note(text, ALICE, "fed/alice"), KEYS)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\nno signature line\n",
        "text\n\n— fed/alice\n".encode(),
        "text\n\n— fed/alice !!!!\n".encode(),
        "text\n\n— fed/alice AAAA\n".encode(),
        "te\tt\n\n— fed/alice AAAAAAAA\n".encode(),
        b"\xff\n\n\xe2\x80\x94 fed/alice AAAAAAAA\n",
        b"x" * (1024 * 1024 + 1),
    ],
)
def test_malformed_notes_raise_decode_error(note: bytes) -> None:
    with pytest.raises(DecodeError):
        open_note(note, KEYS)


def test_the_same_signature_twice_is_refused() -> None:
    note = sign_note("text\n", ALICE, "fed/alice").decode()
    with pytest.raises(DecodeError):
        open_note((note + note.split("\n\n")[1]).encode(), KEYS)


@pytest.mark.parametrize("text", ["no newline", "a\x00b\n"])
def test_unsignable_text(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        sign_note(text, ALICE, "fed/alice")


@pytest.mark.parametrize("name", ["", "two words", "plus+sign", "line\nbreak"])
def test_unusable_key_names(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        sign_note("text\n", ALICE, name)
