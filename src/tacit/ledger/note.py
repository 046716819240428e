"""Signed notes and log checkpoints in the format of transparency logs.

A note is text that ends with a newline, an empty line, and one line per signature::

    example/north
    42
    <base64 root>

    — example/north <base64 of key hash and Ed25519 signature>

Reference: C2SP signed-note and tlog-checkpoint, https://c2sp.org/signed-note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.errors import DecodeError, LedgerError, LocalProtocolError, SignatureError
from tacit.types import Digest, Signer

__all__ = ["Checkpoint", "key_hash", "open_checkpoint", "open_note", "sign_checkpoint", "sign_note"]

ED25519 = b"\x01"
SIGNATURE_PREFIX = "\N{EM DASH} "
NOTE_LIMIT = 1024 * 1024
MAX_SIGNATURES = 100
MAX_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log signs: who it is, how many leaves it has, and the root over them."""

    origin: str
    size: int
    root: Digest


def key_hash(name: str, public_key: bytes) -> bytes:
    """The 4 bytes that say which key made a signature.

    Reference: C2SP signed-note, "Signature types", Ed25519.
    """
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def sign_note(text: str, signer: Signer, name: str) -> bytes:
    """The note of ``text`` with one signature, made by the key that is known as ``name``.

    Raises:
        LocalProtocolError: ``text`` does not end with a newline, or ``name`` is not a key name.
    """
    if not text.endswith("\n") or _has_control(text):
        raise LocalProtocolError(
            "ledger.note", "a note is lines of text without control characters"
        )
    if not _is_name(name):
        raise LocalProtocolError("ledger.note", f"{name!r} is not a key name")
    mark = key_hash(name, signer.public_key) + signer.sign(text.encode())
    return f"{text}\n{SIGNATURE_PREFIX}{name} {base64.b64encode(mark).decode()}\n".encode()


def open_note(note: bytes, keys: Mapping[str, bytes]) -> tuple[str, frozenset[str]]:
    """The text of ``note`` and the names in ``keys`` that signed it, at least one.

    Args:
        note: The signed note, at most 1 MiB.
        keys: Key name -> raw Ed25519 public key. Signatures by other keys are ignored.

    Raises:
        DecodeError: Not a signed note.
        SignatureError: A signature that claims a known key is wrong, or no known key signed.

    Guarantee: Against anyone without the private keys, the text is what one of ``keys`` signed
    (tests/unit/test_ledger_note.py::test_any_flipped_byte_of_a_note_is_refused).

    Reference: C2SP signed-note, "Verifying".
    """
    text, signatures = _split_note(note)
    signed: set[str] = set()
    for name, mark in signatures:
        key = keys.get(name)
        if key is None or mark[:4] != key_hash(name, key):
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(mark[4:], text.encode())
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                "ledger.note-signature", f"the signature of {name} on a note is wrong"
            ) from error
        if name in signed:
            raise DecodeError("ledger.note", f"{name} signed a note twice")
        signed.add(name)
    if not signed:
        raise SignatureError("ledger.note-unsigned", "no known key has signed the note")
    return text, frozenset(signed)


def sign_checkpoint(origin: str, size: int, root: bytes, signer: Signer, name: str) -> bytes:
    """The signed checkpoint of a log.

    Args:
        origin: The log's unique name; one line.
        size: Number of leaves.
        root: Root over them, 32 bytes.
        signer: The log's key.
        name: Key name in the signature line; by custom the origin.
    """
    if not _is_name(origin) or len(root) != 32 or not 0 <= size <= MAX_SIZE:
        raise LocalProtocolError("ledger.checkpoint", "not an origin, size and root of a log")
    return sign_note(f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n", signer, name)


def open_checkpoint(note: bytes, keys: Mapping[str, bytes]) -> Checkpoint:
    """The checkpoint in ``note``, signed by at least one of ``keys``.

    Raises:
        DecodeError: Not a signed note.
        SignatureError: No valid signature of a known key.
        LedgerError: A signed note, but not a checkpoint.

    Reference: C2SP tlog-checkpoint; extension lines are refused, since Tacit writes none.
    """
    text, _ = open_note(note, keys)
    lines = text.split("\n")
    root = _base64(lines[2]) if len(lines) == 4 else None
    if root is None or len(root) != 32 or not _is_name(lines[0]):
        raise LedgerError("ledger.checkpoint", "a signed note is not a checkpoint")
    size = lines[1]
    if not size.isascii() or not size.isdigit() or len(size) > 19 or str(int(size)) != size:
        raise LedgerError("ledger.checkpoint", "a checkpoint has no decimal size")
    return Checkpoint(origin=lines[0], size=int(size), root=Digest(root))


def _split_note(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """Text and (name, key hash || signature) pairs."""
    bad = DecodeError("ledger.note", "not a signed note")
    if len(note) > NOTE_LIMIT:
        raise DecodeError("ledger.note", f"a note of {len(note)} bytes, limit {NOTE_LIMIT}")
    try:
        whole = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad from error
    text, separator, tail = whole.rpartition("\n\n")
    lines = tail.split("\n")
    if not separator or lines.pop() != "" or not 1 <= len(lines) <= MAX_SIGNATURES:
        raise bad
    if _has_control(whole):
        raise bad
    return text + "\n", [_parse_signature(line) for line in lines]


def _parse_signature(line: str) -> tuple[str, bytes]:
    name, separator, encoded = line.removeprefix(SIGNATURE_PREFIX).partition(" ")
    mark = _base64(encoded)
    if not line.startswith(SIGNATURE_PREFIX) or not separator or not _is_name(name):
        raise DecodeError("ledger.note", "a signature line is malformed")
    if mark is None or len(mark) < 5:
        raise DecodeError("ledger.note", "a signature is not base64 of a key hash and a signature")
    return name, mark


def _base64(text: str) -> bytes | None:
    """Strict, canonical base64, or None."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _is_name(name: str) -> bool:
    return (
        bool(name) and "+" not in name and not any(c.isspace() for c in name) and name.isprintable()
    )


def _has_control(text: str) -> bool:
    return any(ord(character) < 0x20 and character != "\n" for character in text)
