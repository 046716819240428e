"""A party's Ed25519 identity: it signs the party's messages and nothing else.

Reference: RFC 8032 section 5.1; key files are PKCS #8 (RFC 8410) in PEM.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tacit.errors import ConfigError, SignatureError
from tacit.files import write_atomic
from tacit.types import Entropy

__all__ = ["Identity", "OsEntropy", "read_private", "verify"]

KEY_FILE_LIMIT = 4096
FIELD = 2**255 - 19
ORDER_EIGHT = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
SMALL_ORDER = frozenset({0, 1, FIELD - 1, ORDER_EIGHT, FIELD - ORDER_EIGHT})
"""The y-coordinates of the points whose order is 1, 2, 4 or 8."""


class OsEntropy:
    """The operating system's cryptographic random generator."""

    def draw(self, size: int) -> bytes:
        """``size`` fresh, independent, uniform bytes."""
        return secrets.token_bytes(size)


class Identity:
    """An Ed25519 key pair; implements ``Signer``.

    Args:
        private_key: The private half; use ``generate`` or ``load`` instead of this constructor.

    Guarantee: the private half appears in no repr, cannot be pickled, and leaves the object through
    ``save`` only, into a file that its owner alone can read. Checked by
    ``tests/unit/test_trust_identity.py::test_private_half_stays_inside``.
    """

    __slots__ = ("_private", "_public")

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private = private_key
        self._public = private_key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> Identity:
        """A fresh identity from 32 bytes of ``entropy``."""
        return cls(Ed25519PrivateKey.from_private_bytes(entropy.draw(32)))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Reads what ``save`` wrote.

        Raises:
            ConfigError: Missing or unreadable, readable by group or others, or not an Ed25519 key.
        """
        data = read_private(path)
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:
            raise _not_a_key(path) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _not_a_key(path)
        return cls(key)

    def save(self, path: Path) -> None:
        """Writes the key pair to a new file of mode 0600, whole or not at all.

        Raises:
            ConfigError: ``path`` exists.
            TransportError: The disk refuses the write.
        """
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(path, pem, private=True, replace=False)

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"Identity(public_key={self._public.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an identity is never copied or pickled")


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Checks that the holder of ``public_key`` signed ``message``.

    Args:
        public_key: Raw Ed25519 key, 32 bytes.
        signature: 64 bytes.
        message: The signed bytes, which begin with the domain of their kind.

    Raises:
        SignatureError: Anything else; malformed and weak keys and malformed signatures too.

    Guarantee: who does not hold the private half cannot make this return for a message that was not
    signed. Checked by ``tests/unit/test_trust_identity.py::test_every_change_breaks_the_signature``
    and ``tests/sim/test_malicious.py::test_a_key_under_which_anybody_can_sign_authenticates_nobody``.
    """
    try:
        if _is_weak(public_key):
            raise ValueError("weak key")
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            "trust.signature", "a signature does not match its key and message"
        ) from error


def _is_weak(public_key: bytes) -> bool:
    """Whether a key is of small order, under which anybody can sign, or not in its one encoding.

    Reference: RFC 8032 section 5.1.3; Chalkias, Garillot and Nikolaenko 2020, "Taming the many EdDSAs",
    section 3 (the libraries behind ``cryptography`` accept both).
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    return y >= FIELD or y in SMALL_ORDER


def read_private(path: Path) -> bytes:
    """Content of a key file, checked on the open handle so that it cannot be swapped in between."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(KEY_FILE_LIMIT)
    except OSError as error:
        raise ConfigError(
            "trust.key-file",
            f"cannot read {path}: {error.strerror}",
            remedy="check the path and its permissions",
            file=str(path),
        ) from error
    if mode & 0o077:
        raise ConfigError(
            "trust.key-permissions",
            f"{path} can be read or changed by others than its owner (mode {mode:04o})",
            remedy=f"run: chmod 600 {path}",
            file=str(path),
        )
    return data


def _not_a_key(path: Path) -> ConfigError:
    return ConfigError(
        "trust.key-file",
        f"{path} does not hold an Ed25519 private key",
        remedy="restore the file from your backup or enrol a new identity",
        file=str(path),
    )
