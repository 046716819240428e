"""Signed notes and log checkpoints in the format of transparency logs.

A note is text that ends with a newline, an empty line, and one line per signature::

    example/north
    42
    <base64 root>

    — example/north <base64 of key hash and Ed25519 signature>

Others add cosignatures to a checkpoint: lines of the same form that say when they saw it, and that it
extends all that they saw of the log before.

Reference: C2SP signed-note, tlog-checkpoint and tlog-cosignature, https://c2sp.org/signed-note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.errors import DecodeError, LedgerError, LocalProtocolError, SignatureError
from tacit.types import Digest, Signer

__all__ = [
    "COSIGNATURE",
    "MAX_SIGNATURES",
    "Checkpoint",
    "add_signatures",
    "check_cosignature",
    "cosign",
    "decode_base64",
    "is_key_name",
    "key_hash",
    "note_text",
    "open_checkpoint",
    "open_cosigned",
    "open_note",
    "parse_checkpoint",
    "sign_checkpoint",
    "sign_note",
    "verifier_key",
]

ED25519 = b"\x01"
COSIGNATURE = b"\x04"
"""Type of a timestamped Ed25519 signature, C2SP tlog-cosignature."""
HASH_BYTES = 4
TIME_BYTES = 8
SIGNATURE_PREFIX = "\N{EM DASH} "
NOTE_LIMIT = 1024 * 1024
MAX_SIGNATURES = 4096
"""Every party of a run signs the manifest of its bundle; a MiB holds no more of them."""
MAX_SIZE = 2**63 - 1
MAX_SECONDS = 2**63 - 1
CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log signs: who it is, how many leaves it has, and the root over them."""

    origin: str
    size: int
    root: Digest


def key_hash(name: str, public_key: bytes, kind: bytes = ED25519) -> bytes:
    """The 4 bytes that say which key made a signature, and of which kind it is.

    Reference: C2SP signed-note, "Signature types", Ed25519; tlog-cosignature, "Format".
    """
    return hashlib.sha256(name.encode() + b"\n" + kind + public_key).digest()[:HASH_BYTES]


def verifier_key(name: str, public_key: bytes, kind: bytes = ED25519) -> str:
    """A public key as other tools of transparency logs read it: ``NAME+HASH+BASE64``.

    Reference: C2SP signed-note, "Verifier keys".
    """
    material = base64.b64encode(kind + public_key).decode()
    return f"{name}+{key_hash(name, public_key, kind).hex()}+{material}"


def sign_note(text: str, signer: Signer, name: str) -> bytes:
    """The note of ``text`` with one signature, made by the key that is known as ``name``.

    Raises:
        LocalProtocolError: ``text`` does not end with a newline, or ``name`` is not a key name.
    """
    if not text.endswith("\n") or _has_control(text):
        raise LocalProtocolError(
            "ledger.note", "a note is lines of text without control characters"
        )
    if not is_key_name(name):
        raise LocalProtocolError("ledger.note", f"{name!r} is not a key name")
    mark = key_hash(name, signer.public_key) + signer.sign(text.encode())
    return f"{text}\n{_signature_line(name, mark)}".encode()


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
        if key is None or mark[:HASH_BYTES] != key_hash(name, key):
            continue
        _verify(name, key, mark[HASH_BYTES:], text.encode())
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
    if not is_key_name(origin) or len(root) != 32 or not 0 <= size <= MAX_SIZE:
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
    return parse_checkpoint(text)


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that the text of a note spells, whoever signed it.

    Raises:
        LedgerError: The text is not a checkpoint.
    """
    lines = text.split("\n")
    root = decode_base64(lines[2]) if len(lines) == 4 else None
    if root is None or len(root) != 32 or not is_key_name(lines[0]):
        raise LedgerError("ledger.checkpoint", "a signed note is not a checkpoint")
    size = lines[1]
    if not size.isascii() or not size.isdigit() or len(size) > 19 or str(int(size)) != size:
        raise LedgerError("ledger.checkpoint", "a checkpoint has no decimal size")
    return Checkpoint(origin=lines[0], size=int(size), root=Digest(root))


def note_text(note: bytes) -> str:
    """What the signatures of ``note`` sign; none of them is checked.

    Raises:
        DecodeError: Not a signed note.
    """
    return _split_note(note)[0]


def cosign(note: bytes, signer: Signer, name: str, seconds: int) -> str:
    """The cosignature line of a checkpoint: that its cosigner has seen the log grow to it.

    Whether it has is the caller's to check, see ``witness.Witness``.

    Args:
        note: The checkpoint, signed by its log.
        signer: The cosigner's key.
        name: Name of the key; a party's is the origin of its own log.
        seconds: When, in seconds since 1970-01-01 UTC, 0 to 2^63 - 1.

    Raises:
        DecodeError: Not a signed note.
        LocalProtocolError: Not a key name or a time.

    Reference: C2SP tlog-cosignature, "Ed25519 signed message".
    """
    if not is_key_name(name) or not 0 <= seconds <= MAX_SECONDS:
        raise LocalProtocolError("ledger.note", f"{name!r} at {seconds} s cannot cosign")
    mark = key_hash(name, signer.public_key, COSIGNATURE) + seconds.to_bytes(TIME_BYTES, "big")
    return _signature_line(name, mark + signer.sign(_cosigned(note_text(note), seconds)))


def check_cosignature(line: str, text: str, name: str, key: bytes) -> int:
    """The time of a cosignature, in seconds, once it is known to be that of ``key`` on ``text``.

    Args:
        line: The signature line, with its newline.
        text: Text of the checkpoint's note, see ``note_text``.
        name: Name of the cosigner.
        key: Its raw Ed25519 public key.

    Raises:
        DecodeError: Not one signature line.
        SignatureError: The signature of somebody else, of another kind, on another text, or wrong.

    Guarantee: Against anyone without the private key, the cosigner has signed this checkpoint at this
    time (tests/unit/test_ledger_cosignature.py::test_any_changed_byte_of_a_cosignature_is_refused).

    Reference: C2SP tlog-cosignature, "Format".
    """
    if not line.endswith("\n") or _has_control(line) or line.count("\n") != 1:
        raise DecodeError("ledger.note", "a cosignature is one line")
    signer_name, mark = _parse_signature(line[:-1])
    if signer_name != name:
        raise SignatureError("ledger.cosignature", f"a cosignature is not that of {name}")
    return _cosignature_time(name, key, mark, text)


def add_signatures(note: bytes, lines: Iterable[str]) -> bytes:
    """``note`` with further signature lines, sorted by name, one each; none of them is checked.

    Raises:
        DecodeError: Not a signed note, not a signature line, or a name that signs twice.
    """
    text, signatures = _split_note(note)
    marks: dict[str, bytes] = {}
    for name, mark in (*signatures, *(_parse_signature(line.removesuffix("\n")) for line in lines)):
        if name in marks:
            raise DecodeError("ledger.note", f"{name} signed a note twice")
        marks[name] = mark
    tail = "".join(_signature_line(name, marks[name]) for name in sorted(marks))
    return f"{text}\n{tail}".encode()


def open_cosigned(
    note: bytes, owner: tuple[str, bytes], witnesses: Mapping[str, bytes]
) -> tuple[Checkpoint, Mapping[str, int], tuple[str, ...]]:
    """A checkpoint as ``add_signatures`` wrote it, with who cosigned it and when.

    Args:
        note: The checkpoint with its cosignatures.
        owner: Name and raw Ed25519 public key of the log.
        witnesses: Name -> raw Ed25519 public key of the cosigners that the caller knows.

    Returns:
        The checkpoint, the time of each known cosigner's signature in seconds, and the names in
        whose lines nobody known has signed: nothing is known about them.

    Raises:
        DecodeError: Not a signed note, or its lines are not sorted by name, one each.
        SignatureError: The owner has not signed, or a line of a known name is not by its key.
        LedgerError: A signed note, but not a checkpoint.

    Guarantee: Against anyone without the private keys, the owner has signed the checkpoint and every
    cosigner returned has cosigned it
    (tests/unit/test_ledger_cosignature.py::test_every_changed_line_of_a_cosigned_note_is_refused).
    """
    text, signatures = _split_note(note)
    names = [name for name, _ in signatures]
    if names != sorted(set(names)):
        raise DecodeError("ledger.note", "the signatures of a note are not one a name, in order")
    owner_name, owner_key = owner
    marks = dict(signatures)
    if owner_name not in marks:
        raise SignatureError("ledger.note-unsigned", f"{owner_name} has not signed its checkpoint")
    _check_mark(owner_name, owner_key, marks.pop(owner_name), text)
    times = {
        name: _cosignature_time(name, witnesses[name], mark, text)
        for name, mark in marks.items()
        if name in witnesses
    }
    return parse_checkpoint(text), times, tuple(name for name in marks if name not in witnesses)


def _check_mark(name: str, key: bytes, mark: bytes, text: str) -> None:
    """Checks a plain signature, key hash included."""
    if mark[:HASH_BYTES] != key_hash(name, key):
        raise SignatureError("ledger.note-signature", f"{name} signed a note with another key")
    _verify(name, key, mark[HASH_BYTES:], text.encode())


def _cosignature_time(name: str, key: bytes, mark: bytes, text: str) -> int:
    """Checks a cosignature, key hash included."""
    if mark[:HASH_BYTES] != key_hash(name, key, COSIGNATURE):
        raise SignatureError("ledger.cosignature", f"{name} cosigned with another key")
    seconds = int.from_bytes(mark[HASH_BYTES : HASH_BYTES + TIME_BYTES], "big")
    if seconds > MAX_SECONDS:
        raise SignatureError("ledger.cosignature", f"the cosignature of {name} has no time")
    _verify(name, key, mark[HASH_BYTES + TIME_BYTES :], _cosigned(text, seconds))
    return seconds


def _cosigned(text: str, seconds: int) -> bytes:
    """What a cosignature signs."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _verify(name: str, key: bytes, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            "ledger.note-signature", f"the signature of {name} on a note is wrong"
        ) from error


def _signature_line(name: str, mark: bytes) -> str:
    return f"{SIGNATURE_PREFIX}{name} {base64.b64encode(mark).decode()}\n"


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
    mark = decode_base64(encoded)
    if not line.startswith(SIGNATURE_PREFIX) or not separator or not is_key_name(name):
        raise DecodeError("ledger.note", "a signature line is malformed")
    if mark is None or len(mark) < 5:
        raise DecodeError("ledger.note", "a signature is not base64 of a key hash and a signature")
    return name, mark


def decode_base64(text: str) -> bytes | None:
    """Strict, canonical base64, or None."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def is_key_name(name: str) -> bool:
    """Whether a key can be called ``name`` in a note: no space, no control character, no ``+``."""
    return (
        bool(name) and "+" not in name and not any(c.isspace() for c in name) and name.isprintable()
    )


def _has_control(text: str) -> bool:
    return CONTROL.search(text) is not None
