"""Reproducible entropy for tests; no production code may import it."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = ["SeededEntropy"]


class SeededEntropy:
    """An ``Entropy`` whose bytes follow from a seed: an AES-256-CTR stream.

    Args:
        seed: Names the stream; equal seeds give equal streams.
    """

    def __init__(self, seed: int | str | bytes) -> None:
        name = seed if isinstance(seed, bytes) else f"{type(seed).__name__}:{seed}".encode()
        self._key = hashlib.sha256(b"tacit testing entropy\x00" + name).digest()
        self._stream = Cipher(algorithms.AES256(self._key), modes.CTR(bytes(16))).encryptor()

    def draw(self, size: int) -> bytes:
        """The next ``size`` bytes of the stream."""
        return self._stream.update(bytes(size))

    def fork(self, name: str) -> SeededEntropy:
        """An unrelated stream that depends on seed and ``name`` only, not on what was drawn."""
        return SeededEntropy(self._key + b"\x00" + name.encode())
