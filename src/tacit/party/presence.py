"""Which helpers the leader can count on for the next round: their keys, and who is silent."""

from __future__ import annotations

from collections.abc import Collection

from tacit.errors import DecodeError
from tacit.party.terms import Terms
from tacit.types import PartyName, Sealing
from tacit.wire.envelope import Received

__all__ = ["Presence"]

KEY_CHECK = b"tacit helper key check v1\x00"


class Presence:
    """The latest key of every helper, and the helpers for whom nobody waits.

    Args:
        terms: The run.
        sealing: Tells a key from what only looks like one.
    """

    def __init__(self, terms: Terms, sealing: Sealing) -> None:
        self._terms = terms
        self._sealing = sealing
        self._keys: dict[PartyName, Received] = {}
        self._absent: set[PartyName] = set()

    def silent(self, number: int) -> list[PartyName]:
        """Helpers that nobody waits for and that hold no key of round ``number`` or later."""
        there = self._holders(number)
        return [name for name in self._terms.helpers if name in self._absent - there]

    def take(self, message: Received, wanted: int) -> None:
        """Keeps a helper's key, unless an older one came late or nothing can be sealed to it.

        Every client would refuse a malformed key, and with it everybody's round.

        Args:
            message: The signed key; its round is the key's.
            wanted: The next round.
        """
        try:
            self._sealing.seal(b"", message.body.key, KEY_CHECK)
        except DecodeError:
            return
        name = message.sender.party
        known = self._keys.get(name)
        if known is None or known.round < message.round:
            self._keys[name] = message
        if message.round >= wanted:
            self._absent.discard(name)

    def miss(self, helpers: Collection[PartyName]) -> None:
        """Waits for these no longer."""
        self._absent |= set(helpers)

    def forget(self, number: int) -> None:
        """Drops the keys of round ``number`` and before."""
        self._keys = {name: key for name, key in self._keys.items() if key.round > number}

    def ready(self, number: int) -> list[Received]:
        """The keys of a round that are here, in the manifest's order of helpers."""
        found = (self._keys.get(name) for name in self._terms.helpers)
        return [key for key in found if key is not None and key.round == number]

    def awaited(self, number: int) -> list[PartyName]:
        """The helpers whose key of a round is still to come."""
        there = self._holders(number)
        return [name for name in self._terms.helpers if name not in there | self._absent]

    def _holders(self, number: int) -> set[PartyName]:
        return {name for name, key in self._keys.items() if key.round >= number}

    def enough(self, number: int) -> bool:
        """Whether the helpers that are here suffice for a round."""
        return len(self.ready(number)) >= self._terms.plan.min_helpers

    def move_on(self, wanted: int) -> int | None:
        """The round to go on with when too many helpers hold keys of later rounds only."""
        ahead = [key.round for key in self._keys.values() if key.round > wanted]
        if len(self._terms.helpers) - len(ahead) >= self._terms.plan.min_helpers:
            return None
        return min(ahead, default=None)
