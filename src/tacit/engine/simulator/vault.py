"""What an omniscient observer of a simulated federation remembers: every key, seed and contribution.

A seeded test world fills it; checkers use it to say what a message means, never the parties.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.types import PartyName

__all__ = ["Sealed", "Vault"]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealing that some party made: to which key, and of what."""

    public_key: bytes
    info: bytes
    plaintext: bytes
    by: PartyName


NOBODY = PartyName("")


@dataclass(slots=True)
class Vault:
    """Every secret of a simulated federation.

    Attributes:
        current: The party that acts at the moment.
        owners: Public sealing key -> who made it.
        secrets: Public sealing key -> its private half.
        sealed: Sealed bytes -> what is inside.
        contributions: What clients computed, in order, before masking.
        share: What a test world puts in the place of every coordinate of a noise share.
    """

    current: PartyName = NOBODY
    owners: dict[bytes, PartyName] = field(default_factory=dict)
    secrets: dict[bytes, bytes] = field(default_factory=dict)
    sealed: dict[bytes, Sealed] = field(default_factory=dict)
    contributions: list[tuple[PartyName, NDArray[np.int64]]] = field(default_factory=list)
    share: int = 0

    def __repr__(self) -> str:
        return f"Vault({len(self.owners)} keys, {len(self.sealed)} sealings)"
