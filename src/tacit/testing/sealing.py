"""A reproducible ``Sealing`` for tests: X25519, HKDF and AES-GCM on seeded bytes. Not HPKE."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.errors import DecodeError, LocalProtocolError
from tacit.types import Entropy

__all__ = ["SeededOpener", "SeededSealing"]

KEY_BYTES = 32
# Every sealing has its own ephemeral key, hence its own AES key: one nonce is enough.
NONCE = bytes(12)


class SeededOpener:
    """An ``Opener`` whose private half is 32 given bytes."""

    def __init__(self, secret: bytes) -> None:
        self._private: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(secret)
        self._public = self._private.public_key().public_bytes_raw()

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._public

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext.

        Raises:
            DecodeError: Not sealed to this key under this ``info``.
            LocalProtocolError: The key was erased.
        """
        if self._private is None:
            raise LocalProtocolError("trust.erased", "the sealing key of this round was erased")
        ephemeral, ciphertext = sealed[:KEY_BYTES], sealed[KEY_BYTES:]
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            return _cipher(shared, ephemeral + self._public).decrypt(NONCE, ciphertext, info)
        except (InvalidTag, ValueError) as error:
            raise DecodeError("trust.sealed", "sealed bytes do not open with this key") from error

    def erase(self) -> None:
        """Forgets the private half."""
        self._private = None


class SeededSealing:
    """Deterministic sealing: equal entropy gives equal keys and equal sealed bytes."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def generate(self) -> SeededOpener:
        """The next key pair of the stream."""
        return SeededOpener(self._entropy.draw(KEY_BYTES))

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        """Encrypts to ``public_key``, bound to ``info``.

        Raises:
            DecodeError: ``public_key`` is not a valid key.
        """
        private = X25519PrivateKey.from_private_bytes(self._entropy.draw(KEY_BYTES))
        ephemeral = private.public_key().public_bytes_raw()
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(public_key))
        except ValueError as error:
            raise DecodeError("trust.sealing-key", "a sealing key is malformed") from error
        cipher = _cipher(shared, ephemeral + public_key)
        return ephemeral + cipher.encrypt(NONCE, plaintext, info)


def _cipher(shared: bytes, transcript: bytes) -> AESGCM:
    derive = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"tacit testing sealing\x00" + transcript)
    return AESGCM(derive.derive(shared))
