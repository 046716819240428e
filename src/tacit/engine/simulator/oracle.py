"""A second, slow implementation of the arithmetic of ``masked``, for checkers only.

It shares no code with the parties: a fault of the fast path cannot hide in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cbor2
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

__all__ = ["Fields", "keystream", "seal_info", "stream_name"]

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fields:
    """How vectors travel: ``length`` little-endian fields of ``bits`` bits."""

    length: int
    bits: int

    @property
    def modulus(self) -> int:
        """2^bits."""
        return 1 << self.bits

    def read(self, data: bytes) -> Integers:
        """The fields in ``data``, each in [0, 2^bits)."""
        size = self.bits // 8
        if len(data) != size * self.length:
            raise ValueError(f"{self.length} fields of {size} bytes, not {len(data)} bytes")
        octets = np.frombuffer(data, dtype=np.uint8).reshape(self.length, size).astype(np.int64)
        return octets @ (np.int64(1) << (8 * np.arange(size, dtype=np.int64)))

    def equal(self, a: Integers, b: Integers) -> bool:
        """Whether two integer vectors are the same modulo 2^bits."""
        return a.shape == b.shape and not np.any((a - b) % self.modulus)


def seal_info(context: bytes, client: str, helper: str) -> bytes:
    """What a sealed seed is bound to."""
    pair = {"use": "seal", "context": context, "client": client, "helper": helper}
    return bytes(cbor2.dumps(pair, canonical=True))


def stream_name(seed: bytes, context: bytes, client: str, helper: str) -> bytes:
    """AES key and first counter block of one mask, 48 bytes."""
    pair = {"use": "expand", "context": context, "client": client, "helper": helper}
    info = cbor2.dumps(pair, canonical=True)
    return HKDF(algorithm=SHA256(), length=48, salt=context, info=info).derive(seed)


def keystream(name: bytes, fields: Fields) -> Integers:
    """The mask that ``stream_name`` names."""
    stream = Cipher(algorithms.AES256(name[:32]), modes.CTR(name[32:])).encryptor()
    return fields.read(stream.update(bytes(fields.length * fields.bits // 8)))
