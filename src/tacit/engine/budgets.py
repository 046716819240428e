"""Budgets of sites as folders on disk: what is spent, its history, and what peers remember of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tacit.config import load_toml
from tacit.engine.folder import STATE, SiteFolder, World, not_a_site
from tacit.engine.local import wall_clock
from tacit.engine.operators import open_party
from tacit.engine.store import SqliteStore
from tacit.errors import ConfigError, LocalProtocolError
from tacit.learn.code import LoadedModel
from tacit.party.config import SiteConfig
from tacit.party.heads import PeerHeads
from tacit.party.job import JobSpec
from tacit.policy.contract import EVERYONE, Contract
from tacit.policy.schema import Schema
from tacit.privacy.budget import Budget, Entry, Heads, Record, Spent
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName

__all__ = [
    "KnownHeads",
    "PopulationBudget",
    "SiteBudget",
    "SiteHistory",
    "accept_head",
    "read_budget",
    "read_heads",
    "read_history",
    "release_reservation",
]


@dataclass(frozen=True, slots=True)
class PopulationBudget:
    """The budget of one population: its total, and its part for each purpose.

    Args:
        total: All runs.
        purposes: The runs of each purpose that has a limit of its own or was used.
        own_limits: The purposes that have a limit of their own.
        unit: Unit of privacy that the budget is spent by; empty while nothing is.
    """

    total: Spent
    purposes: tuple[Spent, ...]
    own_limits: frozenset[str]
    unit: str

    def left(self, spent: Spent) -> Decimal:
        """What a new run may still reserve: of a purpose never more than the total has."""
        return min(spent.epsilon_left, self.total.epsilon_left)

    def record(self) -> dict[str, Any]:
        """For scripts; amounts as decimal text."""
        return {
            "population": self.total.population,
            "unit": self.unit,
            "epsilon": self._epsilon(self.total),
            "delta": {
                "spent": str(self.total.delta),
                "reserved": str(self.total.reserved_delta),
                "limit": str(self.total.delta_limit),
            },
            "purposes": [
                {"purpose": spent.purpose, "epsilon": self._epsilon(spent)}
                for spent in self.purposes
            ],
        }

    def _epsilon(self, spent: Spent) -> dict[str, str | None]:
        limited = not spent.purpose or spent.purpose in self.own_limits
        return {
            "spent": str(spent.epsilon),
            "reserved": str(spent.reserved_epsilon),
            "limit": str(spent.epsilon_limit) if limited else None,
            "left": str(self.left(spent)),
        }


@dataclass(frozen=True, slots=True)
class SiteBudget:
    """The state of a site's budgets, for its operator."""

    site: str
    populations: tuple[PopulationBudget, ...]
    entries: tuple[Entry, ...]

    def record(self) -> dict[str, Any]:
        """For scripts; amounts as decimal text."""
        return {
            "site": self.site,
            "populations": [population.record() for population in self.populations],
            "runs": [
                {
                    "run": entry.run,
                    "population": entry.account.population,
                    "purpose": entry.account.purpose,
                    "unit": entry.account.unit,
                    "epsilon": str(entry.charged),
                    "reserved": str(entry.epsilon),
                    "open": entry.open,
                }
                for entry in self.entries
            ],
        }


@dataclass(frozen=True, slots=True)
class SiteHistory:
    """A site's journal: every record, and what its population had left after it."""

    site: str
    records: tuple[tuple[Record, Decimal], ...]

    def record(self) -> dict[str, Any]:
        """For scripts; amounts as decimal text, time in milliseconds."""
        return {
            "site": self.site,
            "records": [
                {
                    "time": record.time,
                    "kind": record.kind,
                    "run": record.run,
                    "population": record.account.population,
                    "purpose": record.account.purpose,
                    "unit": record.account.unit,
                    "epsilon": str(record.epsilon),
                    "delta": str(record.delta),
                    "round": record.round_number,
                    "left": str(left),
                }
                for record, left in self.records
            ],
        }


@dataclass(frozen=True, slots=True)
class KnownHeads:
    """What one party remembers of the budgets of others."""

    party: str
    heads: dict[PartyName, Heads]

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "party": self.party,
            "heads": [
                {
                    "site": site,
                    "reservations": heads.count,
                    "head": heads.digests[-1].hex() if heads.digests else "",
                }
                for site, heads in self.heads.items()
            ],
        }


def read_budget(path: Path) -> SiteBudget:
    """The budgets of a site folder: of the populations that its files name or that were used.

    Raises:
        ConfigError: Not a site folder.
        VerificationError: Its journal is damaged.
    """
    with _opened(path) as (config, budget):
        entries = budget.entries()
        names = {
            *config.budget.populations,
            *(entry.account.population for entry in entries),
            *_declared(path),
        }
        populations = [_population(budget, name) for name in sorted(names or {EVERYONE})]
        return SiteBudget(config.name, tuple(populations), entries)


def read_history(path: Path) -> SiteHistory:
    """The journal of a site folder.

    Raises:
        ConfigError: Not a site folder.
        VerificationError: Its journal is damaged.
    """
    with _opened(path) as (config, budget):
        return SiteHistory(config.name, tuple(budget.history()))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[SiteConfig, Budget]]:
    if not path.is_dir():
        raise not_a_site(path)
    config = load_toml(path / "site.toml", SiteConfig)
    store = SqliteStore(path / STATE)
    try:
        yield config, Budget(store, config.budget.limits())
    finally:
        store.close()


def _declared(path: Path) -> Iterator[str]:
    """The populations of the site's contracts; what is wrong with one is for ``check`` to say."""
    for file in sorted((path / "contracts").glob("*.toml")):
        with contextlib.suppress(ConfigError):
            yield Contract.load(file).population


def _population(budget: Budget, name: str) -> PopulationBudget:
    entries = [entry for entry in budget.entries() if entry.account.population == name]
    own = frozenset(budget.limits.purposes)
    purposes = sorted(own | {entry.account.purpose for entry in entries})
    return PopulationBudget(
        total=budget.spent(name),
        purposes=tuple(budget.spent(name, purpose) for purpose in purposes),
        own_limits=own,
        unit=next((entry.account.unit for entry in entries if entry.counts), ""),
    )


def release_reservation(path: Path, run: str) -> None:
    """Frees what a run reserved at a site folder, if nothing left the site for it.

    Args:
        path: The site folder; ``federation.toml`` lies two folders above it.
        run: The run id, or the first digits of it.

    Raises:
        ConfigError: Not a site folder, or no run or several begin with these digits.
        LocalProtocolError: Something has left the site for the run.
    """
    folder = SiteFolder.load(path)
    known = [entry.run for entry in read_budget(path).entries if entry.run.startswith(run)]
    if len(known) != 1:
        raise ConfigError(
            "budget.run",
            f"{len(known)} runs of site {folder.name} begin with '{run}'",
            remedy="'tacit budget' lists the runs; give more digits",
        )
    roster = Roster.load(path.resolve().parent.parent / "federation.toml")

    def no_model(_job: JobSpec, _schema: Schema, _code: Digest) -> LoadedModel:
        raise LocalProtocolError("site.release", "releasing a reservation loads no model")

    site, _ = folder.parties(roster, no_model, World.real())
    site.release(known[0], wall_clock())


def read_heads(path: Path) -> KnownHeads:
    """What the party of a folder remembers of the budgets of others.

    Args:
        path: The folder of a site, or of the coordinator.

    Raises:
        ConfigError: Neither.
        VerificationError: What it remembers is damaged.
    """
    party = open_party(path)
    return KnownHeads(party.address.party, PeerHeads(party).all())


def accept_head(path: Path, site: str) -> bool:
    """Lets the party of a folder take the next head that ``site`` shows as the first, and logs it.

    False if it remembers nothing of ``site``.

    Raises:
        ConfigError: Not the folder of a site or of the coordinator.
    """
    return PeerHeads(open_party(path)).accept(PartyName(site), wall_clock())
