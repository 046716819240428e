"""The kept transcript of a run: what the bundle will hold, written while the run goes on."""

from __future__ import annotations

from tacit.errors import LocalProtocolError
from tacit.party.base import RunState

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

    def get_round(self, round_number: int, name: str) -> bytes:
        """One item of a round.

        Raises:
            LocalProtocolError: It was never kept.
        """
        data = self._state.get(f"{PREFIX}r{round_number:06d}/{name}")
        if data is None:
            raise LocalProtocolError("transcript.missing", f"round {round_number} has no {name}")
        return data

    def matching(self, prefix: str) -> list[bytes]:
        """All items whose name begins with ``prefix``, in name order."""
        return [data for _, data in self._state.items(PREFIX + prefix)]

    def items(self) -> dict[str, bytes]:
        """Everything kept, by name."""
        return dict(self._state.items(PREFIX))
