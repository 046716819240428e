"""Federations, coordinators and sites as folders on disk, opened as parties."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tacit.config import load_toml
from tacit.connect import KeyFolder, SanitisedBatch, read
from tacit.engine.local import wall_clock
from tacit.engine.store import STATE, SqliteStore
from tacit.errors import ConfigError
from tacit.learn.code import LoadedModel
from tacit.party.admission import SiteSetup, vouch_for_time
from tacit.party.base import Ports
from tacit.party.computation import Compute, in_process
from tacit.party.config import SiteConfig
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.policy.cases import CaseFile, load_cases
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.disclosure import disclose
from tacit.policy.folder import load_contracts
from tacit.policy.lock import LOCK_FILE, Parts, PolicyLock, verify_lock
from tacit.policy.permission import Permission, public_permission
from tacit.policy.schema import Schema
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import Roster
from tacit.trust.sealing import HpkeSealing
from tacit.types import Digest, Entropy, Milliseconds, ParallelMap, PartyName, Sealing

__all__ = [
    "CODE",
    "DATA_KEYS",
    "STATE",
    "FolderSource",
    "SiteFolder",
    "World",
    "not_a_site",
    "party_ports",
]

CODE = "code"
"""Folder of the model files that a serving site may run: its operator reviewed them."""

DATA_KEYS = Path("keys") / "data"
"""Where the keys of tokens lie in a site's folder."""

LoadModel = Callable[[JobSpec, Schema, Digest], LoadedModel]


@dataclass(frozen=True, slots=True)
class World:
    """Where parties get entropy, sealing, cores and the time from; tests pass their own."""

    entropy: Callable[[PartyName], Entropy]
    sealing: Callable[[PartyName], Sealing]
    parallel: ParallelMap = map
    clock: Callable[[], Milliseconds] = wall_clock

    @classmethod
    def real(cls) -> World:
        """The operating system's generator, HPKE, and as many threads as there are cores."""
        cores = os.cpu_count() or 1
        pool = ThreadPoolExecutor(cores, thread_name_prefix="tacit") if cores > 1 else None
        return cls(
            entropy=lambda _: OsEntropy(),
            sealing=lambda _: HpkeSealing(),
            parallel=pool.map if pool is not None else map,
        )


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A data set in a folder: its contract and how to read it."""

    contract: Contract
    base: Path

    @property
    def keys(self) -> KeyFolder:
        """The keys of tokens; made when first needed."""
        return KeyFolder(self.base / DATA_KEYS)

    def read(self, permission: Permission, at: Milliseconds) -> SanitisedBatch:
        """All rows that the policy permits, redacted and checked."""
        return read(self.contract, self.base, permission, self.keys, at)

    def read_public(self, purpose: str, at: Milliseconds) -> SanitisedBatch:
        """All rows of public data, for which no policy is asked.

        Raises:
            PolicyDenied: The contract does not say that the data are public.
        """
        return self.read(public_permission(self.contract, purpose, at), at)


@dataclass(frozen=True, slots=True)
class SiteFolder:
    """A site as its operator keeps it.

    ``site.toml``, ``contracts``, ``policies``, ``tests`` (of the policy), ``policy.lock``, ``keys``,
    ``state``.
    """

    path: Path
    config: SiteConfig
    policy: Policy
    sources: dict[str, FolderSource]
    tests: dict[str, CaseFile]

    @classmethod
    def load(cls, path: Path) -> SiteFolder:
        """Reads and validates a site folder; no key and no data is opened, and no lock is needed.

        Raises:
            ConfigError: Names file, key and remedy.
        """
        if not path.is_dir():
            raise not_a_site(path)
        config = load_toml(path / "site.toml", SiteConfig)
        contracts = load_contracts(path / "contracts")
        sources = {name: FolderSource(contract, path) for name, contract in contracts.items()}
        named = {source.contract.population for source in sources.values()}
        for population in config.budget.populations:
            if population not in named:
                raise _unknown_population(path, population, named)
        return cls(
            path=path,
            config=config,
            policy=Policy.load(path / "policies", contracts.values()),
            sources=sources,
            tests=load_cases(path / "tests"),
        )

    @property
    def name(self) -> PartyName:
        """The site's name in the roster."""
        return PartyName(self.config.name)

    @property
    def contracts(self) -> dict[str, Contract]:
        """The contracts of all data sets by name."""
        return {name: source.contract for name, source in self.sources.items()}

    @property
    def parts(self) -> Parts:
        """What the site's approvers must have approved."""
        return Parts.of(self.policy, self.contracts.values(), self.tests)

    def lock(self, now: Milliseconds) -> Digest:
        """The digest of ``policy.lock``, once it is shown to be of exactly this policy.

        Args:
            now: The time.

        Raises:
            ConfigError, SignatureError: The policy is not approved as it is; see ``verify_lock``.
        """
        return verify_lock(
            self.path / LOCK_FILE, self.parts, self.config.policy, site=self.name, now=now
        )

    def _disclose(self, lock: PolicyLock, contract: Contract) -> bytes:
        """What the site's part of a bundle shows of its policy; empty for nothing."""
        if self.config.evidence.policy == "none":
            return b""
        return disclose(lock, self.config.policy, self.policy, contract)

    def vouch_for_time(self, locked_at: Milliseconds, now: Milliseconds) -> None:
        """Takes an approver's word for the time, if the site has any state; see ``vouch_for_time``."""
        if (self.path / STATE).exists():
            store = SqliteStore(self.path / STATE)
            vouch_for_time(store, locked_at, now)
            store.close()

    def parties(
        self, roster: Roster, load_model: LoadModel, world: World, *, pinned: bool = True
    ) -> tuple[Site, Helper]:
        """The site and its helper, where model code runs in this process; see ``open``."""
        return self.open(roster, in_process(load_model), world, pinned=pinned)

    def open(
        self, roster: Roster, compute: Compute, world: World, *, pinned: bool = True
    ) -> tuple[Site, Helper]:
        """The site and its helper, over one identity, store and log.

        Args:
            roster: The pinned roster.
            compute: Where and from which code the computation of a run comes.
            world: Entropy, sealing and the time.
            pinned: Whether a digest names the code.

        Guarantee:
            No run begins at a site whose rules, contracts or policy tests are not as its approvers
            signed for.
            Checked by tests/unit/test_engine_folder.py::test_a_run_needs_the_approved_policy.

        Raises:
            SignatureError: An approval of the policy is forged.
            ConfigError: The policy is not approved as it is, or the identity key is missing, readable by others, or not the roster's.
            LedgerError: The stored log was tampered with.
        """
        lock = self.lock(world.clock())
        member = roster.member(self.name)
        for key, ours, listed in (
            ("operator", self.config.operator, member.operator),
            ("region", self.config.region, member.region),
        ):
            if ours != listed:
                raise ConfigError(
                    "site.roster",
                    f"{self.path}/site.toml: key '{key}' is not what the roster lists for "
                    f"'{self.name}'",
                    remedy=f"correct '{key}', or have every operator sign a new federation.toml",
                    file=str(self.path / "site.toml"),
                    key=key,
                )
        ports = party_ports(self.path, self.name, roster, world)
        approved = PolicyLock.load(self.path / LOCK_FILE)
        setup = SiteSetup(
            config=self.config,
            policy=self.policy,
            lock=lock,
            sources=self.sources,
            compute=compute,
            code_pinned=pinned,
            locked_at=approved.time,
            disclose=partial(self._disclose, approved),
        )
        return Site(self.name, roster, ports, setup), Helper(self.name, roster, ports)


def party_ports(path: Path, name: PartyName, roster: Roster, world: World) -> Ports:
    """The ports of a site or the coordinator over its folder.

    Raises:
        ConfigError: The identity key is missing, readable by others, or not the roster's.
        LedgerError: The stored log was tampered with.
    """
    key_file = path / "keys" / "identity.key"
    if not key_file.exists():
        raise ConfigError(
            "site.identity",
            f"{key_file} is missing",
            remedy=f"restore the identity key of '{name}'; a new one needs a newly signed roster",
            file=str(key_file),
        )
    identity = Identity.load(key_file)
    if roster.member(name).key != identity.public_key:
        raise ConfigError(
            "site.identity",
            f"{path}/keys/identity.key is not the key that the roster lists for '{name}'",
            remedy="restore the key, or have every operator sign a new federation.toml",
            file=str(path / "keys" / "identity.key"),
        )
    store = SqliteStore(path / STATE)
    return Ports.of(
        name,
        roster,
        entropy=world.entropy(name),
        signer=identity,
        sealing=world.sealing(name),
        store=store,
        parallel=world.parallel,
    )


def not_a_site(path: Path) -> ConfigError:
    """What is said of a folder that is none of a site."""
    return ConfigError(
        "site.missing",
        f"{path} is not a site folder",
        remedy="pass the folders that hold site.toml, or run 'tacit init' for an example",
        file=str(path),
    )


def _unknown_population(path: Path, population: str, named: set[str]) -> ConfigError:
    """A limit for nobody: the people who were meant would have the larger total."""
    return ConfigError(
        "site.population",
        f"{path}/site.toml: no contract is about population '{population}' "
        f"(they are about: {', '.join(sorted(named)) or 'nobody'})",
        remedy="correct the name there, or 'population' in the contract that is meant",
        file=str(path / "site.toml"),
        key=f"budget.populations.{population}",
    )
