"""A run in a site's memory."""

from __future__ import annotations

from dataclasses import dataclass

from tacit.errors import RemoteProtocolError
from tacit.party.chain import ModelChain
from tacit.party.computation import Computation
from tacit.party.readd import Readd
from tacit.party.terms import Terms
from tacit.party.workload import TrainingData
from tacit.wire.envelope import Received, digest
from tacit.wire.messages import Aggregate

__all__ = ["Live", "require_past"]


@dataclass(slots=True)
class Live:
    """A run in memory; rebuilt from the store and the data after a restart."""

    terms: Terms
    chain: ModelChain[Computation]
    workload: Computation
    data: TrainingData | None = None
    asked: int | None = None
    """The round for which the leader was asked for the model."""
    caught_up: bool = False
    readd: Readd | None = None

    @property
    def released(self) -> str:
        """Digest of the model that this site derived; empty before there is one."""
        model = self.chain.current
        if model is None:
            return ""
        return digest(self.workload.released(model).astype("<f8").tobytes()).hex()


def require_past(message: Received, aggregate: Aggregate) -> None:
    """An aggregate that comes with a round's start is of an earlier round.

    Raises:
        RemoteProtocolError: It is not.
    """
    if aggregate.round >= message.round:
        raise RemoteProtocolError(
            "round.aggregate",
            f"round {message.round} was started with an aggregate of round {aggregate.round}",
            party=message.sender.party,
        )
