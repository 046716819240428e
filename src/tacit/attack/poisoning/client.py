"""A malicious client inside the real protocol: its masks, seeds and signatures are right, its vector is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tacit.algebra.ring import Ring
from tacit.attack.poisoning.strategies import Crowd, Floats, Strategy
from tacit.attack.scratch import ScratchFederation
from tacit.learn.server import ServerState
from tacit.party.admission import SiteSetup
from tacit.party.base import Ports
from tacit.party.live import Live
from tacit.party.site import Site
from tacit.party.workload import FRESH, Carried, Contributed, TrainingData, Workload
from tacit.privacy.plan import Plan
from tacit.trust.roster import Roster
from tacit.types import Entropy, Milliseconds, PartyName
from tacit.wire.envelope import Envelope, Received

__all__ = ["MaliciousSite", "PoisonedWorkload", "corrupt", "crowd_of"]

PARTS = 4
"""Into how many parts a malicious client divides its records to see how honest contributions spread."""


def crowd_of(workload: Workload, plan: Plan, clients: int, malicious: int, records: int) -> Crowd:
    """What a malicious client with so many records knows of the others."""
    by_record = workload.job.training.algorithm == "sgd"
    units = plan.sampling_rate * records if by_record else 1.0
    return Crowd(
        clients=clients,
        malicious=malicious,
        limit=units * plan.sensitivity,
        bound=plan.aggregate_norm_bound(workload.length),
    )


@dataclass(frozen=True, slots=True)
class PoisonedWorkload(Workload):
    """The job's computation, as a malicious client carries it out.

    Args:
        strategy: What it does.
        clients: How many there are.
        malicious: How many of them are malicious.
    """

    strategy: Strategy
    clients: int
    malicious: int

    @classmethod
    def of(
        cls, workload: Workload, strategy: Strategy, clients: int, malicious: int
    ) -> PoisonedWorkload:
        """The workload of a client that poisons."""
        honest = {one.name: getattr(workload, one.name) for one in dataclasses.fields(Workload)}
        return cls(**honest, strategy=strategy, clients=clients, malicious=malicious)

    def contribution(
        self,
        state: ServerState,
        data: TrainingData,
        plan: Plan,
        entropy: Entropy,
        carried: Carried = FRESH,
        *,
        idle: bool = True,
    ) -> Contributed:
        """The poisoned contribution; with poisoned data alone it is clipped by the very code of the run."""
        strategy = self.strategy
        poisoned = data if strategy.data is None else strategy.data(data)
        made = Workload.contribution(self, state, poisoned, plan, entropy, carried, idle=idle)
        if strategy.vector is None:
            return made
        ring = Ring(plan.ring_bits)
        own = ring.centred(made.vector).astype(np.float64)
        crowd = crowd_of(self, plan, self.clients, self.malicious, len(data.labels))
        spread = np.zeros_like(own)
        if strategy.spread:
            spread = self._spread(state, poisoned, plan, entropy)
        crafted = strategy.crafted(own, spread, crowd)
        integers = np.rint(crafted).astype(np.int64)
        return dataclasses.replace(made, vector=ring.from_integers(integers))

    def _spread(
        self, state: ServerState, data: TrainingData, plan: Plan, entropy: Entropy
    ) -> Floats:
        """How honest contributions differ in every coordinate, from parts of this client's records."""
        ring, parts = Ring(plan.ring_bits), []
        for rows in np.array_split(np.arange(len(data.labels)), PARTS):
            if len(rows):
                part = dataclasses.replace(data.take(rows), held_out=data.held_out)
                made = Workload.contribution(self, state, part, plan, entropy, idle=False)
                parts.append(ring.centred(made.vector).astype(np.float64) * PARTS)
        # A part holds 1 / PARTS of the records: its mean spreads by the root of PARTS more.
        spread: Floats = np.std(parts, axis=0) / np.sqrt(PARTS)
        return spread


class MaliciousSite(Site):
    """A site whose operator has replaced its training; everything else is the production site.

    Args:
        name: Its name in the roster.
        roster: The pinned roster.
        ports: The world.
        setup: What the operator brings.
        poison: What it trains with, and of how many clients how many are like it.
    """

    def __init__(
        self,
        name: PartyName,
        roster: Roster,
        ports: Ports,
        setup: SiteSetup,
        poison: tuple[Strategy, int, int],
    ) -> None:
        super().__init__(name, roster, ports, setup)
        self._poison = poison

    def _train(
        self, message: Received, live: Live, model: ServerState, now: Milliseconds
    ) -> list[Envelope]:
        assert isinstance(live.workload, Workload)  # a scratch federation's: in this process
        workload = PoisonedWorkload.of(live.workload, *self._poison)
        return super()._train(message, dataclasses.replace(live, workload=workload), model, now)


def corrupt(
    scratch: ScratchFederation, names: Iterable[PartyName], strategy: Strategy
) -> ScratchFederation:
    """Puts malicious sites in the place of honest ones, before the run."""
    malicious = tuple(names)
    for name in malicious:
        scratch.sites[name] = MaliciousSite(
            name,
            scratch.roster,
            scratch.sites[name].ports,
            scratch.setups[name],
            (strategy, len(scratch.holdings), len(malicious)),
        )
    return scratch
