"""Sealing to a party's key: one-shot HPKE with a hybrid post-quantum KEM.

Reference: RFC 9180 sections 5 and 6.1 (base mode, single shot); FIPS 203; draft-ietf-hpke-pq, KEM
``MLKEM768-X25519``.
"""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from tacit.errors import DecodeError, LocalProtocolError

__all__ = ["HpkeOpener", "HpkeSealing"]

MLKEM_BYTES = 1184
X25519_BYTES = 32
SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class HpkeOpener:
    """The private half of one key pair, in memory only; implements ``Opener``.

    Guarantee: after ``erase`` nothing opens, and the private half appears in no repr and no pickle.
    The interpreter may keep freed memory for a while: this is no defence against a snapshot of the
    live process. Checked by ``tests/unit/test_trust_sealing.py::test_erased_key_opens_nothing`` and
    ``::test_private_half_stays_inside``.
    """

    __slots__ = ("_private", "_public")

    def __init__(self) -> None:
        post_quantum, classical = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._private: MLKEM768X25519PrivateKey | None = MLKEM768X25519PrivateKey(
            post_quantum, classical
        )
        self._public = (
            post_quantum.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()
        )

    @property
    def public_key(self) -> bytes:
        """ML-KEM-768 and X25519 public keys, 1184 + 32 bytes."""
        return self._public

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext.

        Raises:
            DecodeError: Not sealed to this key under this ``info``.
            LocalProtocolError: The key was erased.
        """
        if self._private is None:
            raise LocalProtocolError("trust.erased", "the sealing key of this round was erased")
        try:
            return SUITE.decrypt(sealed, self._private, info)
        except (InvalidTag, ValueError) as error:
            raise DecodeError("trust.sealed", "sealed bytes do not open with this key") from error

    def erase(self) -> None:
        """Forgets the private half."""
        self._private = None

    def __repr__(self) -> str:
        state = "erased" if self._private is None else "live"
        return f"HpkeOpener({state}, public_key={self._public[-X25519_BYTES:].hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealing key is never copied or pickled")


class HpkeSealing:
    """HPKE with ML-KEM-768 + X25519, HKDF-SHA256 and AES-256-GCM; implements ``Sealing``.

    Key pairs and encapsulations draw on the operating system's generator.

    Guarantee: an adversary without the private half that cannot break both ML-KEM-768 and X25519
    learns only the length of what is sealed, and cannot move sealed bytes to another ``info``.
    Checked by ``tests/unit/test_trust_sealing.py::test_every_change_is_refused``.
    """

    def generate(self) -> HpkeOpener:
        """A fresh key pair."""
        return HpkeOpener()

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        """Encrypts to ``public_key``, bound to ``info``.

        Raises:
            DecodeError: ``public_key`` is not a valid key.
        """
        if len(public_key) != MLKEM_BYTES + X25519_BYTES:
            raise DecodeError("trust.sealing-key", "a sealing key has the wrong length")
        try:
            key = MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(public_key[:MLKEM_BYTES]),
                X25519PublicKey.from_public_bytes(public_key[MLKEM_BYTES:]),
            )
            return SUITE.encrypt(plaintext, key, info)
        except ValueError as error:
            raise DecodeError("trust.sealing-key", "a sealing key is malformed") from error
