"""The kept transcript of a run: what the bundle will hold, written while the run goes on."""

from __future__ import annotations

from tacit.errors import LocalProtocolError
from tacit.party.base import RunState
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import split_chunks
from tacit.wire.messages import Aggregate, CatchUp

__all__ = ["Transcript"]

PREFIX = "transcript/"


class Transcript:
    """Named byte strings of one run in the leader's durable state."""

    def __init__(self, state: RunState) -> None:
        self._state = state

    def put(self, name: str, data: bytes) -> None:
        """Keeps one item, inside a transaction."""
        self._state.put(PREFIX + name, data)

    def put_round(self, round_number: int, name: str, data: bytes) -> None:
        """Keeps one item of a round, inside a transaction."""
        self.put(f"r{round_number:06d}/{name}", data)

    def get(self, name: str) -> bytes:
        """One item.

        Raises:
            LocalProtocolError: It was never kept.
        """
        data = self._state.get(PREFIX + name)
        if data is None:
            raise LocalProtocolError("transcript.missing", f"the transcript has no {name}")
        return data

    def get_round(self, round_number: int, name: str) -> bytes:
        """One item of a round.

        Raises:
            LocalProtocolError: It was never kept.
        """
        return self.get(f"r{round_number:06d}/{name}")

    def put_aggregate(self, aggregate: Aggregate, chunks: tuple[bytes, ...]) -> None:
        """Keeps a round's result, inside a transaction."""
        self.put_round(aggregate.round, "aggregate.bin", b"".join(chunks))
        self._state.put(f"aggregate/{aggregate.round}", encode(aggregate))
        self._state.put_number("last-aggregate", aggregate.round)

    def aggregate(self, round_number: int) -> Aggregate:
        """The result of a closed round, without its vector.

        Raises:
            LocalProtocolError: The round has none.
        """
        stored = self._state.get(f"aggregate/{round_number}")
        if stored is None:
            raise LocalProtocolError("transcript.missing", f"round {round_number} has no result")
        return decode(Aggregate, stored, len(stored))

    def last_aggregate(self) -> tuple[Aggregate | None, tuple[bytes, ...]]:
        """The latest result and the chunks of its vector."""
        number = self._state.number("last-aggregate")
        if not number:
            return None, ()
        aggregate = self.aggregate(number)
        data = self.get_round(number, "aggregate.bin")
        _, chunks = split_chunks(data, aggregate.vector.length)
        return aggregate, chunks

    def proof_of(self, aggregate: Aggregate) -> tuple[CatchUp, tuple[bytes, ...]]:
        """What a late joiner needs to apply the last aggregate, and the chunks of the state.

        Raises:
            LocalProtocolError: It is not the last one, or there is none.
        """
        before = self._state.get("model-before")
        if before is None:
            raise LocalProtocolError("transcript.missing", "no aggregate was applied yet")
        uploads = tuple(
            self.get_round(aggregate.round, f"upload-{member.client}.msg")
            for member in aggregate.cohort
        )
        state, chunks = split_chunks(before, len(before))
        accepts = tuple(self.matching("accept-"))
        proof = CatchUp(accepts=accepts, uploads=uploads, aggregate=aggregate, state=state)
        return proof, chunks

    def matching(self, prefix: str) -> list[bytes]:
        """All items whose name begins with ``prefix``, in name order."""
        return [data for _, data in self._state.items(PREFIX + prefix)]

    def items(self) -> dict[str, bytes]:
        """Everything kept, by name."""
        return dict(self._state.items(PREFIX))
