"""Sealing to a party's key: one-shot HPKE with a hybrid post-quantum KEM.

Reference: RFC 9180 sections 5 and 6.1 (base mode, single shot); FIPS 203; draft-ietf-hpke-pq, KEM
``MLKEM768-X25519``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
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

from tacit.errors import ConfigError, DecodeError, LocalProtocolError
from tacit.files import write_atomic
from tacit.trust.identity import read_private

__all__ = ["SEALING_KEY_BYTES", "HpkeOpener", "HpkeSealing", "StoredOpener"]

MLKEM_BYTES = 1184
MLKEM_SEED_BYTES = 64
X25519_BYTES = 32
SEALING_KEY_BYTES = MLKEM_BYTES + X25519_BYTES
"""Length of a public sealing key."""

STORED = re.compile(
    rb"tacit transport key v1 " + rb"([0-9a-f]{%d})\n" % (2 * (MLKEM_SEED_BYTES + X25519_BYTES))
)
"""The one line of a key file: the seed of FIPS 203 section 7.1 (d, z), then the X25519 scalar."""
SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class _Opener:
    """The private half of one key pair and all that is done with it; who makes it decides how long it lives."""

    __slots__ = ("_private", "_public")

    def __init__(self, post_quantum: MLKEM768PrivateKey, classical: X25519PrivateKey) -> None:
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
            raise LocalProtocolError("trust.erased", "this sealing key was erased")
        try:
            return SUITE.decrypt(sealed, self._private, info)
        except (InvalidTag, ValueError) as error:
            raise DecodeError("trust.sealed", "sealed bytes do not open with this key") from error

    def erase(self) -> None:
        """Forgets the private half."""
        self._private = None

    def __repr__(self) -> str:
        state = "erased" if self._private is None else "live"
        return f"{type(self).__name__}({state}, public_key={self._public[-X25519_BYTES:].hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealing key is never copied or pickled")


class HpkeOpener(_Opener):
    """The private half of one key pair, in memory only; implements ``Opener``.

    Guarantee: after ``erase`` nothing opens, and the private half appears in no repr and no pickle.
    The interpreter may keep freed memory for a while: this is no defence against a snapshot of the
    live process. Checked by ``tests/unit/test_trust_sealing.py::test_erased_key_opens_nothing`` and
    ``::test_private_half_stays_inside``.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())


class StoredOpener(_Opener):
    """The private half of a party's transport key, kept in a file; implements ``Opener``.

    It opens what travels to the party on the network, and nothing else. It may outlive the process,
    because a parcel that was sent while the party was down must open after its restart, and because
    what is inside is masked or sealed once more by the protocol wherever it must stay secret. The
    protocol's round keys must not be stored: they are ``HpkeOpener``, which has no ``save``.

    Args:
        post_quantum: The ML-KEM-768 half; use ``generate`` or ``load`` instead of this constructor.
        classical: The X25519 half.

    Guarantee: the private half appears in no repr and no pickle, and leaves the object through
    ``save`` only, into a file that its owner alone can read. Checked by
    ``tests/unit/test_engine_nats_network.py::test_a_stored_key_stays_inside``.
    """

    __slots__ = ("_seed",)

    def __init__(self, post_quantum: MLKEM768PrivateKey, classical: X25519PrivateKey) -> None:
        super().__init__(post_quantum, classical)
        self._seed = post_quantum.private_bytes_raw() + classical.private_bytes_raw()

    @classmethod
    def generate(cls) -> StoredOpener:
        """A fresh key pair from the operating system's generator."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> StoredOpener:
        """Reads what ``save`` wrote.

        Raises:
            ConfigError: Missing or unreadable, readable by group or others, or not such a key.
        """
        found = STORED.fullmatch(read_private(path))
        if found is None:
            raise ConfigError(
                "trust.key-file",
                f"{path} does not hold a transport key",
                remedy="restore the file from your backup, or make new keys and have the "
                "federation's network.toml written again",
                file=str(path),
            )
        seed = bytes.fromhex(found[1].decode())
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(seed[:MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(seed[MLKEM_SEED_BYTES:]),
        )

    def save(self, path: Path) -> None:
        """Writes the key pair to a new file of mode 0600, whole or not at all.

        Raises:
            ConfigError: ``path`` exists.
            LocalProtocolError: The key was erased.
            TransportError: The disk refuses the write.
        """
        if self._private is None:
            raise LocalProtocolError("trust.erased", "the transport key was erased")
        line = f"tacit transport key v1 {self._seed.hex()}\n"
        write_atomic(path, line.encode(), private=True, replace=False)

    def erase(self) -> None:
        """Forgets the private half; the file stays."""
        super().erase()
        self._seed = b""


@lru_cache(maxsize=256)
def _parsed(public_key: bytes) -> MLKEM768X25519PublicKey:
    """A public key, once for all that is sealed to it: members' transport keys come again and again."""
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public_key[:MLKEM_BYTES]),
        X25519PublicKey.from_public_bytes(public_key[MLKEM_BYTES:]),
    )


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
        if len(public_key) != SEALING_KEY_BYTES:
            raise DecodeError("trust.sealing-key", "a sealing key has the wrong length")
        try:
            return SUITE.encrypt(plaintext, _parsed(public_key), info)
        except ValueError as error:
            raise DecodeError("trust.sealing-key", "a sealing key is malformed") from error
