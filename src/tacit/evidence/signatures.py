"""Checking the signatures of many messages, on two threads.

The messages are decoded first, with nothing believed: a decoder is safe on hostile bytes. The library
that checks signatures lets other threads run meanwhile, so that two cores take half the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tacit.errors import TacitError
from tacit.trust.roster import Roster
from tacit.wire.envelope import Address, Received, open_message

__all__ = ["Signatures"]

THREADS = 2
FEW = 64
"""Not worth a thread."""

Claimed = tuple[str, Address, bytes, bytes]


@dataclass
class Signatures:
    """What members claim to be signed by whom, collected and then checked together.

    Args:
        roster: Whose keys count.
    """

    roster: Roster
    claimed: list[Claimed] = field(default_factory=list)

    def open(self, name: str, raw: bytes) -> Received:
        """Decodes a message and notes its signature; nothing is authentic before ``check``.

        Raises:
            DecodeError: Not a valid message.
        """

        def note(sender: Address, data: bytes, signature: bytes) -> None:
            self.claimed.append((name, sender, data, signature))

        return open_message(raw, note)

    def check(self) -> Mapping[str, str]:
        """What is wrong with which member; nothing for those whose sender signed them.

        Guarantee: Against anyone without the sender's key: a message that it did not sign is named
        (tests/unit/test_evidence_verify.py::test_every_forged_message_is_named).
        """
        if len(self.claimed) < FEW:
            return dict(self._faults(self.claimed))
        parts = [self.claimed[start::THREADS] for start in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as pool:
            return dict(fault for faults in pool.map(self._faults, parts) for fault in faults)

    def _faults(self, claimed: list[Claimed]) -> list[tuple[str, str]]:
        found = []
        for name, sender, data, signature in claimed:
            try:
                self.roster.authenticate(sender, data, signature)
            except TacitError as error:
                found.append((name, error.message))
        return found
