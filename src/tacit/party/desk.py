"""What the leader hands to single clients while it collects: missed models, and kept vectors."""

from __future__ import annotations

from collections import Counter

from tacit.errors import DecodeError
from tacit.party.base import Party
from tacit.party.kept import KeptRounds
from tacit.party.terms import Terms
from tacit.party.transcript import Transcript
from tacit.types import PartyName
from tacit.wire.envelope import Envelope, Received
from tacit.wire.messages import CatchUpRequest, KeptRequest, RoundStart

__all__ = ["Desk"]

MAX_SERVED = 8
"""How often a client may ask for the same vector in a round."""


class Desk:
    """Serves the clients of one round.

    Args:
        party: The leader.
        terms: The run.
        transcript: What it has published.
        start: The start of the round, with the chunks that follow it.
    """

    def __init__(
        self,
        party: Party,
        terms: Terms,
        transcript: Transcript,
        start: tuple[RoundStart, tuple[bytes, ...]],
    ) -> None:
        self.start, self.chunks = start
        self._party = party
        self._terms = terms
        self._transcript = transcript
        self._served: Counter[tuple[PartyName, str]] = Counter()

    def serve(self, message: Received, number: int) -> list[Envelope]:
        """Answers a ``CatchUpRequest`` or a ``KeptRequest``.

        Args:
            message: The request.
            number: The round in progress.

        Raises:
            LocalProtocolError: What it asks for is gone, or too large for one message: the client
                cannot be in this round.
        """
        if isinstance(message.body, CatchUpRequest):
            return self._catch_up(message, number)
        return self._kept_vector(message)

    def _catch_up(self, message: Received, number: int) -> list[Envelope]:
        """The state that the last cohort trained on, and the start of the round again."""
        previous = self.start.previous
        late = previous is not None and message.body.applied < previous.round
        if message.round != number or previous is None or not late:
            return []
        if not self._may(message, "state", 1):
            return []
        proof, parts = self._transcript.proof_of(previous)
        return [
            self._to(message, proof, (*parts, *self.chunks)),
            self._to(message, self.start, self.chunks),
        ]

    def _kept_vector(self, message: Received) -> list[Envelope]:
        body: KeptRequest = message.body
        if not self._may(message, f"{message.round}/{body.index}", MAX_SERVED):
            return []
        kept = KeptRounds(self._party, self._terms)
        try:
            return [kept.serve(message, self._transcript.aggregate(message.round))]
        except DecodeError:
            return []  # A malformed request costs the asker only.

    def _may(self, message: Received, what: str, times: int) -> bool:
        """Counts a client's requests, so that replays do not keep the leader busy."""
        self._served[message.sender.party, what] += 1
        return self._served[message.sender.party, what] <= times

    def _to(self, message: Received, body: object, chunks: tuple[bytes, ...]) -> Envelope:
        return self._party.send(
            self._terms, message.sender, body, round_number=message.round, chunks=chunks
        )
