"""Federations, coordinators and sites as folders on disk, opened as parties."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tacit.config import load_toml
from tacit.connect import SanitisedBatch, read
from tacit.engine.store import SqliteStore
from tacit.errors import ConfigError
from tacit.learn.code import LoadedModel
from tacit.party.admission import SiteSetup
from tacit.party.base import Ports
from tacit.party.config import SiteConfig
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.schema import Schema
from tacit.trust.identity import Identity, OsEntropy, read_private
from tacit.trust.roster import Roster
from tacit.trust.sealing import HpkeSealing
from tacit.types import Digest, Entropy, ParallelMap, PartyName, Sealing

__all__ = [
    "STATE",
    "FolderSource",
    "SiteFolder",
    "World",
    "not_a_site",
    "party_ports",
]

TOKEN_KEY_BYTES = 32
STATE = Path("state") / "tacit.db"
LoadModel = Callable[[JobSpec, Schema, Digest], LoadedModel]


@dataclass(frozen=True, slots=True)
class World:
    """Where parties get entropy, sealing and cores from; tests pass their own."""

    entropy: Callable[[PartyName], Entropy]
    sealing: Callable[[PartyName], Sealing]
    parallel: ParallelMap = map

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
    token_key: bytes | None = None

    def __repr__(self) -> str:
        return f"FolderSource({self.contract.name!r}, {self.base})"

    def read(self) -> SanitisedBatch:
        """All rows, redacted and checked."""
        return read(self.contract, self.base, self.token_key)


@dataclass(frozen=True, slots=True)
class SiteFolder:
    """A site as its operator keeps it: ``site.toml``, ``contracts``, ``policies``, ``keys``, ``state``."""

    path: Path
    config: SiteConfig
    policy: Policy
    sources: dict[str, FolderSource]

    @classmethod
    def load(cls, path: Path) -> SiteFolder:
        """Reads and validates a site folder; no key and no data is opened.

        Raises:
            ConfigError: Names file, key and remedy.
        """
        if not path.is_dir():
            raise not_a_site(path)
        config = load_toml(path / "site.toml", SiteConfig)
        key_path = path / "keys" / "token.key"
        token_key = _token_key(key_path) if key_path.exists() else None
        sources: dict[str, FolderSource] = {}
        for file in sorted((path / "contracts").glob("*.toml")):
            contract = Contract.load(file)
            if contract.name in sources:
                raise ConfigError(
                    "site.two-contracts",
                    f"{file}: a second contract is named '{contract.name}'",
                    remedy="give every contract of a site its own name",
                    file=str(file),
                )
            sources[contract.name] = FolderSource(contract, path, token_key)
        named = {source.contract.population for source in sources.values()}
        for population in config.budget.populations:
            if population not in named:
                raise _unknown_population(path, population, named)
        return cls(path=path, config=config, policy=Policy.load(path / "policies"), sources=sources)

    @property
    def name(self) -> PartyName:
        """The site's name in the roster."""
        return PartyName(self.config.name)

    def parties(
        self, roster: Roster, load_model: LoadModel, world: World, *, pinned: bool = True
    ) -> tuple[Site, Helper]:
        """The site and its helper, over one identity, store and log.

        Raises:
            ConfigError: The identity key is missing, readable by others, or not the roster's.
            LedgerError: The stored log was tampered with.
        """
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
        setup = SiteSetup(
            config=self.config,
            policy=self.policy,
            sources=self.sources,
            load_model=load_model,
            code_pinned=pinned,
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


def _token_key(path: Path) -> bytes:
    key = read_private(path)
    if len(key) != TOKEN_KEY_BYTES:
        raise ConfigError(
            "site.token-key",
            f"{path} must hold exactly {TOKEN_KEY_BYTES} bytes",
            remedy="restore it from a backup; a new key makes new tokens",
            file=str(path),
        )
    return key
