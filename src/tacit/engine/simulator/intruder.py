"""An adversary that controls the leader, some sites and their helpers, and picks its misbehaviours.

It runs the production machines of the parties that it controls and rewrites what they send: it holds
their identity keys, remembers all that they received, and can sign anything in their names, or in
anybody's name with the wrong key. The misbehaviours are in ``misdeeds``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tacit.engine.simulator.core import Cluster
from tacit.errors import DecodeError, SignatureError
from tacit.party.base import Party, log_head
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Address, Channel, Envelope, Received, sign_message

__all__ = ["Adversary", "Misdeed"]

Misdeed = Callable[["Adversary", Envelope, Received], Sequence[Envelope] | None]
"""What leaves instead of an envelope; None when the misdeed does not apply to it."""


class Adversary:
    """Controls ``corrupt`` parties.

    Args:
        cluster: The federation; only the corrupt parties' keys are used.
        corrupt: Whom it controls, in all their roles.
        random: The seed's stream.
        misdeeds: What it does with what its machines send, by name.
        rate: How often it does it.
        ears: What its machines hear, by name: a misdeed that returns nothing swallows the message.

    Attributes:
        seen: What corrupt parties received and sent, opened, in order.
        done: Names of the misdeeds that took place.
    """

    def __init__(
        self,
        cluster: Cluster,
        corrupt: frozenset[PartyName],
        random: Random,
        misdeeds: dict[str, Misdeed],
        rate: float,
        ears: dict[str, Misdeed] | None = None,
    ) -> None:
        self.cluster = cluster
        self.corrupt = corrupt
        self.random = random
        self.misdeeds = misdeeds
        self.rate = rate
        self.ears = ears or {}
        self.seen: list[Received] = []
        self.done: set[str] = set()

    @property
    def shifted(self) -> bool:
        """Whether a corrupt helper has answered with another vector."""
        return "wrong-sum" in self.done

    def observe(self, envelope: Envelope) -> bool:
        """Remembers what a corrupt party received; whether its machine hears of it."""
        try:
            message = self.cluster.read(envelope)
        except (DecodeError, SignatureError):
            return True
        self.seen.append(message)
        for name, ear in self.ears.items():
            if ear(self, envelope, message) is not None:
                self.done.add(name)
                return False
        return True

    def rewrite(self, envelope: Envelope) -> Sequence[Envelope]:
        """What leaves instead of ``envelope``."""
        message = self.cluster.read(envelope)
        self.seen.append(message)
        for name, misdeed in self.misdeeds.items():
            if self.random.random() < self.rate:
                made = misdeed(self, envelope, message)
                if made is not None:
                    self.done.add(name)
                    return made
        return [envelope]

    def bodies(self, kind: type) -> list[Received]:
        """All messages of a kind that corrupt parties have seen."""
        return [message for message in self.seen if isinstance(message.body, kind)]

    def again(
        self,
        envelope: Envelope,
        message: Received,
        /,
        *,
        chunks: Sequence[bytes] | None = None,
        number: int | None = None,
        receiver: Address | None = None,
        **changes: Any,
    ) -> Envelope:
        """The message with other fields, signed by its corrupt sender."""
        return self.speak(
            message.sender,
            envelope.receiver if receiver is None else receiver,
            dataclasses.replace(message.body, **changes),
            number=message.round if number is None else number,
            chunks=envelope.chunks if chunks is None else chunks,
        )

    def speak(
        self,
        sender: Address,
        receiver: Address,
        body: Any,
        *,
        number: int,
        chunks: Sequence[bytes] = (),
    ) -> Envelope:
        """A message in anybody's name; signed with a corrupt party's key where the name is not ours."""
        signer = sender.party if sender.party in self.corrupt else min(self.corrupt)
        terms = self.cluster.terms
        channel = Channel(
            run=terms.run,
            roster=Digest(terms.manifest.roster),
            job=Digest(terms.manifest.job),
            sender=sender,
            signer=self.cluster.identity(signer),
            log=log_head(self._machine(signer).ports.log),
        )
        return sign_message(channel, receiver, body, round_number=number, chunks=chunks)

    def _machine(self, name: PartyName) -> Party:
        """One of the machines over a party's log."""
        leader = self.cluster.leader
        return leader if name == leader.address.party else self.cluster.sites[name]

    def flip(self, data: bytes) -> bytes:
        """``data`` with one bit changed; empty stays empty."""
        changed = bytearray(data)
        if changed:
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)
