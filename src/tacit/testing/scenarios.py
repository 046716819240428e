"""The scenarios of the simulation: who is corrupt, what breaks, in which federation; by name and seed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tacit.engine.simulator import checkers, log_misdeeds, misdeeds, privacy
from tacit.engine.simulator.core import Checker, Simulation, Violation
from tacit.engine.simulator.faults import Faults
from tacit.engine.simulator.intruder import Adversary, Misdeed
from tacit.engine.simulator.vault import Vault
from tacit.testing.federation import LEADER, SITES, WITHOUT_NOISE, write_small_federation
from tacit.testing.files import Files
from tacit.testing.simulation import SimulatedFederation, remembering, watched
from tacit.testing.store import MemoryStore
from tacit.types import PartyName
from tacit.wire.envelope import Envelope

__all__ = ["CHECKERS", "SCENARIOS", "WORLDS", "Laboratory", "Scenario", "World"]

CHECKERS: tuple[Callable[[], Checker], ...] = (
    checkers.OneUpload,
    checkers.OneAnswer,
    checkers.OneSumPerUpload,
    checkers.CohortSize,
    checkers.OneContext,
    checkers.UploadExact,
    checkers.MaskSumExact,
    checkers.SumExact,
    checkers.FreshSeeds,
    checkers.PersistedBeforeSent,
    checkers.RequiredHelpers,
    checkers.Budgets,
    checkers.BudgetHeads,
    checkers.Ending,
    checkers.Logs,
    checkers.Witnesses,
    checkers.Progress,
    privacy.NoIsolation,
    privacy.ForwardSecrecy,
)


@dataclass(frozen=True, slots=True)
class World:
    """A federation to simulate: its sites, its job, and what its sites tolerate."""

    names: tuple[PartyName, ...]
    job: Mapping[str, Any]
    limits: Mapping[str, Any] = field(default_factory=dict)
    operators: Mapping[PartyName, str] = field(default_factory=dict)


NOISY = {"sampling_rate": 1.0}
"""Every record in every round, so that contributions follow from the model."""

ALONE = {"max_colluding_helpers": 0}

WORLDS: dict[str, World] = {
    "three-noisy": World(
        SITES[:3],
        {
            "rounds": 2,
            "privacy": {**NOISY, "noise": "own"},
            "aggregation": {"min_cohort": 2},
        },
    ),
    "three-exact": World(
        SITES[:3], {"rounds": 2, **WITHOUT_NOISE, "aggregation": {"min_cohort": 2}}, ALONE
    ),
    "four-noisy": World(SITES, {"rounds": 2, "privacy": NOISY}),
    "four-exact": World(SITES, {"rounds": 2, **WITHOUT_NOISE}),
    "leaving-noisy": World(
        SITES,
        {"rounds": 3, "privacy": NOISY, "aggregation": {"min_cohort": 3, "min_helpers": 2}},
        {"require_own_helper": False},
    ),
    "leaving-own": World(
        SITES,
        {"rounds": 2, "privacy": NOISY, "aggregation": {"min_cohort": 3, "min_helpers": 2}},
    ),
    "split-exact": World(
        SITES,
        {"rounds": 3, **WITHOUT_NOISE, "aggregation": {"min_cohort": 3, "min_helpers": 2}},
        {"require_own_helper": False},
    ),
    "leaving-exact": World(
        SITES,
        {"rounds": 3, **WITHOUT_NOISE, "aggregation": {"min_cohort": 3, "min_helpers": 3}},
        {"require_own_helper": False},
    ),
    "three-24": World(
        SITES[:3],
        {
            "rounds": 2,
            "privacy": {**NOISY, "noise": "own"},
            "aggregation": {"min_cohort": 2, "ring_bits": 24},
        },
    ),
    "resum": World(SITES[:3], {"rounds": 3, **WITHOUT_NOISE}, {"resum": "always"}),
    "sybil": World(
        (*SITES, PartyName("young")),
        {
            "rounds": 2,
            "privacy": NOISY,
            "aggregation": {"min_cohort": 3, "helpers": ["east", "north", "south"]},
        },
        {"require_own_helper": False},
        {PartyName("young"): "west-clinic"},
    ),
    "long-noisy": World(SITES, {"rounds": 4, "privacy": NOISY}),
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """How a seed becomes a simulation.

    Args:
        worlds: Names of worlds, each as often as it is to be drawn.
        rollback: Whether parties restart from old backups.
        misdeeds: What the corrupt parties may do; empty: nobody is corrupt.
        leads: Whether the leader is corrupt.
        ears: What the machine of a corrupt leader does not hear.
        restored: Whether it is the federation's second run, before which one site has lost its state or
            released what the first run spent, and in half of the seeds the leader has forgotten it all.
    """

    worlds: tuple[str, ...]
    rollback: bool = False
    misdeeds: Mapping[str, Misdeed] = field(default_factory=dict)
    leads: bool = False
    ears: Mapping[str, Misdeed] = field(default_factory=dict)
    restored: bool = False


SMALL = (
    *("three-noisy", "three-exact") * 8,
    *("four-noisy", "four-exact", "leaving-noisy", "leaving-exact", "three-24", "resum"),
)
MALICIOUS = ("three-noisy", "three-exact", "four-noisy", "four-exact", "leaving-own")

SCENARIOS: dict[str, Scenario] = {
    "faults": Scenario(SMALL),
    "rollback": Scenario(SMALL, rollback=True),
    "malicious-leader": Scenario(MALICIOUS, misdeeds=misdeeds.LEADER, leads=True),
    "malicious-helper": Scenario(MALICIOUS, misdeeds=misdeeds.HELPER),
    "malicious-client": Scenario(MALICIOUS, misdeeds=misdeeds.CLIENT),
    "absent-helpers": Scenario(
        ("leaving-noisy", "leaving-exact"),
        misdeeds=misdeeds.ABSENCE,
        leads=True,
        ears=misdeeds.EARS,
    ),
    "split-helpers": Scenario(
        ("split-exact",), misdeeds=misdeeds.ABSENCE, leads=True, ears=misdeeds.EARS
    ),
    "one-operator": Scenario(("sybil",), misdeeds=misdeeds.LEADER, leads=True),
    "restored-budget": Scenario(("three-noisy", "four-noisy", "leaving-own"), restored=True),
    "long": Scenario(("long-noisy",)),
    "lying-leader": Scenario(MALICIOUS, misdeeds=log_misdeeds.LEADER_LOGS, leads=True),
    "lying-member": Scenario(MALICIOUS, misdeeds=log_misdeeds.MEMBER_LOGS),
}


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """A run that is over: its id, what was said, and the parties' state after it.

    ``reserved`` is the state of each site when it had reserved and nothing had left it.
    """

    run: str
    said: tuple[Envelope, ...]
    stores: Mapping[PartyName, MemoryStore]
    reserved: Mapping[PartyName, MemoryStore]


class Backups(checkers.Rule):
    """No rule: keeps a copy of every site's state at the moment of its reservation."""

    name = "backups"

    def __init__(self) -> None:
        self.stores: dict[PartyName, MemoryStore] = {}

    def acted(self, simulation: Simulation, party: PartyName) -> None:
        """Takes the copy the first time that there is one."""
        site = simulation.cluster.sites.get(party)
        reserved = site is not None and site.budget.find(simulation.cluster.terms.run_id)
        if reserved and party not in self.stores:
            self.stores[party] = simulation.cluster.stores[party].crash()


class Laboratory:
    """Writes the worlds once and runs simulations in them.

    Args:
        folder: Where the worlds are written, each when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Files] = {}
        self._earlier: dict[str, EarlierRun] = {}
        self._watch: Callable[[Vault], None] = lambda _vault: None

    @contextlib.contextmanager
    def open(self, *, remember: bool = True) -> Iterator[Laboratory]:
        """Watches contributions and, unless told otherwise, remembers pure results meanwhile."""
        with watched() as watch, remembering() if remember else contextlib.nullcontext():
            self._watch = watch
            yield self

    def federation(
        self,
        world: str,
        seed: int | str,
        stores: Mapping[PartyName, MemoryStore] | None = None,
    ) -> SimulatedFederation:
        """A federation of a world; fresh, unless it begins with ``stores``."""
        folder = self._folder / world
        if world not in self._files:
            chosen = WORLDS[world]
            write_small_federation(
                folder, job=chosen.job, names=chosen.names, operators=chosen.operators
            )
            self._files[world] = Files.read(folder).tolerating(**chosen.limits)
        return SimulatedFederation(folder, self._files[world], seed, stores)

    def earlier(self, world: str) -> EarlierRun:
        """Another run of a world."""
        if world not in self._earlier:
            cluster, backups = self.federation(world, "another run"), Backups()
            self._watch(cluster.vault)
            random = Random(0)  # noqa: S311
            other = Simulation(cluster, cluster.vault, random, Faults(), checkers=[backups])
            other.run()
            self._earlier[world] = EarlierRun(
                cluster.terms.run_id, tuple(other.history.sent), cluster.stores, backups.stores
            )
        return self._earlier[world]

    def second_run(self, world: str, seed: str, random: Random) -> SimulatedFederation:
        """A federation after its first run; the budget of one site went back."""
        earlier = self.earlier(world)
        site, refunds = random.choice(sorted(earlier.reserved)), random.random() < 0.5
        stores = {name: store.crash() for name, store in earlier.stores.items()}
        stores[site] = earlier.reserved[site].crash() if refunds else MemoryStore()
        if random.random() < 0.5:
            stores[LEADER] = MemoryStore()
        cluster = self.federation(world, seed, stores)
        if refunds:
            cluster.sites[site].release(earlier.run, cluster.clock())
        cluster.restored = frozenset({site})
        return cluster

    def simulation(
        self,
        scenario: str,
        seed: int,
        *,
        faults: Faults | None = None,
        only: tuple[str, ...] = (),
    ) -> Simulation:
        """The simulation of a scenario and a seed, not yet run.

        Args:
            scenario: One of ``SCENARIOS``.
            seed: Everything else follows from it.
            faults: Instead of those that the seed draws.
            only: The misdeeds, instead of those that the seed draws.
        """
        chosen, random = SCENARIOS[scenario], Random(f"{scenario}/{seed}")  # noqa: S311
        world = random.choice(chosen.worlds)
        foreign = self.earlier(world).said
        name = f"{scenario}/{seed}"
        cluster = (
            self.second_run(world, name, random)
            if chosen.restored
            else self.federation(world, name)
        )
        self._watch(cluster.vault)
        quiet = bool(chosen.misdeeds) and random.random() < 0.5
        drawn = Faults.draw(random, rollback=chosen.rollback)
        if random.random() < 0.05 or quiet:
            drawn = Faults(reorder=drawn.reorder)
        return Simulation(
            cluster,
            cluster.vault,
            random,
            drawn if faults is None else faults,
            checkers=[checker() for checker in CHECKERS],
            intruder=_intruder(chosen, cluster, random, only),
            foreign=foreign,
        )

    def run(self, scenario: str, seed: int, **changes: Any) -> Simulation:
        """Runs a scenario with a seed.

        Raises:
            Violation: Ends with the command that repeats it.
        """
        try:
            return self.simulation(scenario, seed, **changes).run()
        except Violation as violation:
            violation.add_note(reproduction(scenario, seed))
            raise


def reproduction(scenario: str, seed: int) -> str:
    """The command that runs one seed of a scenario again."""
    return f"pytest tests/sim/test_faults.py -k one_seed --scenario {scenario} --seed {seed}"


def _intruder(
    scenario: Scenario, cluster: SimulatedFederation, random: Random, only: tuple[str, ...]
) -> Adversary | None:
    if not scenario.misdeeds:
        return None
    count = random.choice((1, 1, 2, 3))
    names = only or tuple(random.sample(sorted(scenario.misdeeds), count))
    corrupt = {LEADER} if scenario.leads else set()
    if not scenario.leads or random.random() < 0.7:
        corrupt.add(random.choice(sorted(cluster.sites)))
    chosen = {name: scenario.misdeeds[name] for name in names}
    rate = random.choice((0.2, 0.5, 1.0))
    ears = dict(scenario.ears) if scenario.leads and random.random() < 0.5 else {}
    return Adversary(cluster, frozenset(corrupt), random, chosen, rate, ears)
