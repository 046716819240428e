"""A tiny federation for tests: four sites with a dozen records each, two features, three rounds.

Files lie on disk, because only a contract leads to data; the parties keep their state in memory and
draw from seeded streams, so that a run takes a fraction of a second and can be repeated bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tacit.demo.layout import Place, column, contract, toml, write_keys, write_table
from tacit.engine.folder import World
from tacit.engine.local import LocalEngine, Tap
from tacit.learn.code import LoadedModel, load_model
from tacit.learn.feature_map import FeatureMap
from tacit.party.admission import DataSource, SiteSetup
from tacit.party.base import Ports
from tacit.party.computation import in_process
from tacit.party.coordinator import Coordinator
from tacit.party.draft import draft
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.party.terms import Terms
from tacit.party.workload import Workload
from tacit.policy.schema import Schema
from tacit.testing.clock import FixedClock
from tacit.testing.entropy import SeededEntropy
from tacit.testing.files import Files
from tacit.testing.sealing import SeededSealing
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.types import Digest, PartyName, Sealing
from tacit.wire.envelope import Address, Channel, Envelope, Received, open_message, sign_message
from tacit.wire.messages import Offer

__all__ = [
    "LEADER",
    "PLAIN",
    "SITES",
    "WITHOUT_NOISE",
    "SmallFederation",
    "seeded_world",
    "write_small_federation",
]

LEADER = PartyName("coordinator")
SITES = tuple(PartyName(name) for name in ("east", "north", "south", "west"))
RECORDS = 12
CLASSES = ("no", "yes")

JOB: dict[str, Any] = {
    "version": 1,
    "name": "small",
    "purpose": "research",
    "rounds": 3,
    "model": "logistic",
    "data": {"contract": "small"},
    "evaluation": {"contract": "evaluation/contract.toml"},
    "privacy": {"epsilon": 0.5, "delta": 1e-5, "sampling_rate": 0.5, "expected_units": 48},
    "aggregation": {"min_cohort": 3},
    "training": {"micro_batch": 8, "average_from": 0.5},
}
WITHOUT_NOISE: dict[str, Any] = {
    "privacy": {"unit": "none", "clip_norm": 100.0, "sampling_rate": 1.0, "max_colluding": 0}
}
"""Changes to ``JOB`` for a masked run whose sums are exact."""

PLAIN: dict[str, Any] = {**WITHOUT_NOISE, "aggregation": {"protocol": "plain", "min_cohort": 3}}
"""Changes to ``JOB`` for a run in which the leader sees every contribution."""

POLICY = """
@id("research-only")
permit (principal, action == Action::"train", resource == Dataset::"small")
when { context.purpose == "research" };

@id("baseline")
permit (principal, action == Action::"train", resource == Dataset::"small")
when { context.purpose == "research" && context.aggregation == "plain" };

@id("no-large-epsilon")
forbid (principal, action == Action::"train", resource)
when { context.private && context.epsilon_milli > 600 };
"""

SITE = """version = 1
name = "{name}"
operator = "{operator}"
region = "eu"

[budget]
epsilon = 1.2
delta = 1e-4
allow_without_dp = true
"""


def seeded_world(seed: int | str) -> World:
    """Entropy and sealing that follow from ``seed``; a restarted party needs another seed."""
    source = SeededEntropy(seed)
    return World(
        entropy=source.fork, sealing=lambda name: SeededSealing(source.fork(f"{name}/sealing"))
    )


def write_small_federation(
    folder: Path,
    *,
    job: Mapping[str, Any] | None = None,
    names: Iterable[PartyName] = SITES,
    records: int = RECORDS,
    policy: str = POLICY,
    operators: Mapping[PartyName, str] | None = None,
    entity: bool = False,
) -> Path:
    """Writes the federation; returns the path of the job file.

    Args:
        folder: Destination; must not exist.
        job: Changes to ``JOB``, table by table.
        names: The sites.
        records: Records per site.
        policy: Every site's Cedar policy.
        operators: Who operates a site, where it is not a clinic of its own.
        entity: Whether every person has three records, and contracts name them as entities.
    """
    folder.mkdir(parents=True)
    names = tuple(names)
    operator = {name: f"{name}-clinic" for name in names} | dict(operators or {})
    for index, name in enumerate(names):
        site = folder / "sites" / name
        texts = {
            "site.toml": SITE.format(name=name, operator=operator[name]),
            "contracts/small.toml": _contract("small", "data/records.csv", entity=entity),
            "policies/train.cedar": policy,
        }
        for place, text in texts.items():
            (site / place).parent.mkdir(parents=True, exist_ok=True)
            (site / place).write_text(text)
        write_table(
            site / "data" / "records.csv", _records(records, index, each=3 if entity else 1)
        )
    write_table(folder / "evaluation" / "records.csv", _records(2 * RECORDS, len(names)))
    text = _contract("small-evaluation", "records.csv", public=True)
    (folder / "evaluation" / "contract.toml").write_text(text)
    places = [Place(name, operator[name], "eu", "csv") for name in names]
    write_keys(folder, "small", places, SeededEntropy("small federation"))
    path = folder / "job.toml"
    path.write_text(_job_text(job or {}))
    return path


def _job_text(changes: Mapping[str, Any]) -> str:
    merged = dict(JOB)
    for key, value in changes.items():
        table = isinstance(value, Mapping)
        merged[key] = {**merged.get(key, {}), **value} if table else value
    # Tables last: a plain key after a table's head would belong to that table.
    ordered = sorted(merged.items(), key=lambda item: isinstance(item[1], Mapping))
    lines: list[str] = []
    for key, value in ordered:
        if isinstance(value, Mapping):
            lines += [f"[{key}]", *(f"{name} = {toml(item)}" for name, item in value.items())]
        else:
            lines.append(f"{key} = {toml(value)}")
    return "\n".join(lines) + "\n"


def _contract(name: str, path: str, *, public: bool = False, entity: bool = False) -> str:
    method, head = ("token", {"entity": "name"}) if entity else ("drop", {})
    bounds = {"bounds_source": "made up for tests"}
    columns = [
        column("name", "string", "identifier", method, synthetic=True),
        column("size", "number", "feature", "keep", minimum=0.0, maximum=10.0, **bounds),
        column("weight", "number", "feature", "keep", minimum=-1.0, maximum=1.0, **bounds),
        column("answer", "string", "label", "keep", values=list(CLASSES)),
    ]
    return contract({"name": name, "public": public, **head}, (path, "csv"), columns, "For tests.")


def _records(count: int, seed: int, each: int = 1) -> dict[str, list[Any]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=count)
    return {
        "name": [f"person {seed}-{row // each}" for row in range(count)],
        "size": (3.0 + 3.0 * labels + generator.random(count)).round(3).tolist(),
        "weight": (generator.random(count) - 0.5).round(3).tolist(),
        "answer": [CLASSES[label] for label in labels],
    }


class SmallFederation:
    """The parties of a written federation, over stores in memory, with one run.

    Args:
        folder: Where ``write_small_federation`` wrote.
        seed: What all entropy follows from.
        clients: Who trains; by default all sites.
        files: What is in ``folder``, when it was read before.
        stores: The durable state that parties begin with, by name; by default none.

    Attributes:
        offer: The offer of the run; ``terms`` its terms.
        stores: The durable state of every party, by name.
        leader: The coordinator; ``sites`` and ``helpers`` the others, by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int | str = 0,
        clients: tuple[PartyName, ...] = (),
        files: Files | None = None,
        stores: Mapping[PartyName, MemoryStore] | None = None,
    ) -> None:
        self.folder = folder
        self.files = Files.read(folder) if files is None else files
        self.clock = FixedClock()
        self.roster = self.files.roster
        self.job = self.files.job
        self.schema = self.files.schema
        self.workload = Workload.build(
            self.job, self.load_model(self.job, self.schema), len(self.schema.classes)
        )
        names = tuple(member.name for member in self.roster.with_role("client"))
        self._entropy = SeededEntropy(seed)
        self._starts = 0
        begun = stores or {}
        self.stores = {name: begun.get(name, MemoryStore()) for name in (LEADER, *names)}
        self.folders = self.files.folders
        self.offer, self.terms = self._offer(clients or names)
        self.leader = self._coordinator()
        self.sites: dict[PartyName, Site] = {}
        self.helpers: dict[PartyName, Helper] = {}
        for name in names:
            self._open(name)

    def load_model(self, job: JobSpec, schema: Schema, code: Digest | None = None) -> LoadedModel:
        """The job's model for the schema."""
        columns, options = len(schema.features), job.features
        size = (options.height, options.width)
        return load_model(
            job.model,
            self.folder,
            features=columns,
            classes=len(schema.classes),
            expected=code,
            feature_map=FeatureMap.load(options.map, size, options.file(self.folder), columns),
        )

    def identity(self, name: PartyName) -> Identity:
        """The key of a party; a test may let it lie."""
        return self.files.identities[name]

    def ports(self, name: PartyName) -> Ports:
        """Ports over the party's store, with fresh entropy."""
        self._starts += 1
        source = self._entropy.fork(f"{name}/{self._starts}")
        return Ports.of(
            name,
            self.roster,
            entropy=source,
            signer=self.identity(name),
            sealing=self.sealing(source),
            store=self.stores[name],
        )

    def sources(self, name: PartyName) -> Mapping[str, DataSource]:
        """The data sets of a site."""
        return self.folders[name].sources

    def sealing(self, source: SeededEntropy) -> Sealing:
        """The sealing of a party that starts with ``source``."""
        return SeededSealing(source.fork("sealing"))

    def restart(self, name: PartyName) -> None:
        """Kills a party and starts it again: memory is lost, what was committed is not."""
        self.stores[name] = self.stores[name].crash()
        if name == LEADER:
            self.leader = self._coordinator()
        else:
            self._open(name)

    def start(self) -> list[Envelope]:
        """The leader's first messages."""
        return self.leader.start(self.offer, self.clock())

    def party(self, address: Address) -> Coordinator | Site | Helper:
        """Who serves an address."""
        if address.role == "leader":
            return self.leader
        return (self.sites if address.role == "client" else self.helpers)[address.party]

    def read(self, envelope: Envelope) -> Received:
        """The message in an envelope, whoever it is addressed to."""
        return open_message(envelope.message, self.roster.authenticate, chunks=envelope.chunks)

    def deliver(self, envelopes: Iterable[Envelope], *, hold: type | None = None) -> list[Envelope]:
        """Delivers envelopes and all that follows; answers with a body of ``hold`` come back instead."""
        queue = deque(envelopes)
        held: list[Envelope] = []
        while queue:
            envelope = queue.popleft()
            for made in self.party(envelope.receiver).receive(envelope, self.clock()):
                kept = hold is not None and isinstance(self.read(made).body, hold)
                (held if kept else queue).append(made)
        return held

    def until(self, hold: type, round_number: int = 1) -> dict[PartyName, Envelope]:
        """Starts the run; returns the messages of a kind and round, undelivered, by receiver."""
        held = self.deliver(self.start(), hold=hold)
        while held and self.read(held[0]).round < round_number:
            held = self.deliver(held, hold=hold)
        return {envelope.receiver.party: envelope for envelope in held}

    def lie(
        self, envelope: Envelope, chunks: Sequence[bytes] | None = None, **changes: Any
    ) -> Envelope:
        """The envelope with other fields in its body, signed by its sender all the same."""
        message = self.read(envelope)
        channel = Channel(
            run=Digest(message.header.run),
            roster=Digest(message.header.roster),
            job=Digest(message.header.job),
            sender=message.sender,
            signer=self.identity(message.sender.party),
            log=message.header.log,
        )
        return sign_message(
            channel,
            envelope.receiver,
            dataclasses.replace(message.body, **changes),
            round_number=message.round,
            chunks=envelope.chunks if chunks is None else chunks,
        )

    def run(self, *, tap: Tap = lambda envelope: envelope) -> LocalEngine:
        """Runs to the end on the local engine."""
        engine = LocalEngine(self.leader, self.sites, self.helpers, clock=self.clock, tap=tap)
        engine.run(self.start())
        return engine

    def _open(self, name: PartyName) -> None:
        ports, own = self.ports(name), self.folders[name]
        setup = SiteSetup(
            config=own.config,
            policy=own.policy,
            lock=own.parts.digest(name),
            sources=self.sources(name),
            compute=in_process(self.load_model),
        )
        self.sites[name] = Site(name, self.roster, ports, setup)
        self.helpers[name] = Helper(name, self.roster, ports)

    def _coordinator(self) -> Coordinator:
        return Coordinator(LEADER, self.roster, self.ports(LEADER), self.terms, self.workload)

    def _offer(self, clients: tuple[PartyName, ...]) -> tuple[Offer, Terms]:
        return draft(
            self.job,
            self.workload,
            self.schema,
            self.roster,
            leader=LEADER,
            clients=clients,
            nonce=self._entropy.fork("nonce").draw(32),
        )
