"""A permission without a policy and keys without a folder, for tests of the connector alone."""

from __future__ import annotations

import hashlib

from tacit.policy.contract import Contract
from tacit.policy.permission import Permission, build_permission
from tacit.policy.rows import RowFilter
from tacit.types import Digest, Milliseconds

__all__ = ["LOCK", "NOON", "FixedKeys", "permission"]

LOCK = Digest(bytes(range(32)))
NOON = Milliseconds(1_767_268_800_000)
"""2026-01-01 12:00 UTC."""


def permission(
    contract: Contract, rows: RowFilter | None = None, purpose: str = "research"
) -> Permission:
    """What a policy that permits everything would give."""
    return build_permission(contract, LOCK, purpose, NOON, ("tests",), rows)


class FixedKeys:
    """Keys that follow from one value; a test's, never a site's.

    Args:
        root: Any bytes.
    """

    def __init__(self, root: bytes = b"") -> None:
        self._root = root

    def key(self, purpose: str, period: str) -> bytes:
        """The key of one purpose and period, 32 bytes."""
        return hashlib.sha256(b"\0".join((self._root, purpose.encode(), period.encode()))).digest()
