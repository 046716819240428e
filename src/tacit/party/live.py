"""A run in a site's memory."""

from __future__ import annotations

from dataclasses import dataclass

from tacit.party.chain import ModelChain
from tacit.party.computation import Computation
from tacit.party.readd import Readd
from tacit.party.terms import Terms
from tacit.party.workload import TrainingData
from tacit.wire.envelope import digest

__all__ = ["Live"]


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
