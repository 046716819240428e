"""Shared names and ports. A port is what a sans-IO party needs from the world: it is always an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, NewType, Protocol

__all__ = [
    "Digest",
    "Entropy",
    "Milliseconds",
    "Opener",
    "ParallelMap",
    "PartyName",
    "Role",
    "Round",
    "Sealing",
    "Signer",
    "Store",
]

PartyName = NewType("PartyName", str)
"""Name of a roster member, 1 to 64 characters of ``a-z0-9-``."""

Digest = NewType("Digest", bytes)
"""SHA-256, 32 bytes."""

Round = NewType("Round", int)
"""Round number; the first round of a run is 1."""

Milliseconds = NewType("Milliseconds", int)
"""Milliseconds since 1970-01-01 UTC."""

Role = Literal["leader", "client", "helper"]

ParallelMap = Callable[..., Iterable[Any]]
"""The builtin ``map``, or a pool's: calls a function on every item, perhaps on several cores."""


class Entropy(Protocol):
    """Source of secret randomness; cryptographic in production, seeded under ``tacit.testing`` only."""

    def draw(self, size: int) -> bytes:
        """``size`` fresh, independent, uniform bytes."""
        ...


class Signer(Protocol):
    """An Ed25519 identity that can sign; the private half never leaves it."""

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        ...


class Opener(Protocol):
    """The private half of one sealing key pair. Lives in memory only."""

    @property
    def public_key(self) -> bytes:
        """The public half, as it travels in a message."""
        ...

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext.

        Raises:
            DecodeError: ``sealed`` was not made for this key and this ``info``.
            LocalProtocolError: The key was erased.
        """
        ...

    def erase(self) -> None:
        """Forget the private half; every later ``open`` fails."""
        ...


class Sealing(Protocol):
    """Public-key encryption to a party: one-shot HPKE in production."""

    def generate(self) -> Opener:
        """A fresh key pair."""
        ...

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        """Encrypts to ``public_key``, bound to ``info``.

        Raises:
            DecodeError: ``public_key`` is not a valid key.
        """
        ...


class Store(Protocol):
    """Durable, atomic state of one party: byte values by space and key.

    Writes happen inside ``transaction()`` only and are durable, all or none, when its outermost
    block ends; an exception undoes them. Envelopes leave a party after the commit.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """One atomic unit of work; nested blocks join the outer one."""
        ...

    def get(self, space: str, key: str) -> bytes | None:
        """The value, or None."""
        ...

    def put(self, space: str, key: str, value: bytes) -> None:
        """Writes one value.

        Raises:
            LocalProtocolError: Outside a transaction.
            TransportError: The medium refused the write.
        """
        ...

    def delete(self, space: str, key: str) -> None:
        """Removes one value, if present."""
        ...

    def items(self, space: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """The pairs of a space whose key begins with ``prefix``, in key order."""
        ...
