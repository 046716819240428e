"""Scratch federations: real parties and the real protocol over public data, for attacks.

Keys, stores and rosters are made for one run and forgotten with it. Nothing here touches a federation of
anybody's: no budget is spent, and the data must be public, or never leave the site that attacks itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from tacit.attack.transcript import KeepingSealing, Recorder, Transcript
from tacit.connect import SanitisedBatch, take
from tacit.engine.folder import FolderSource
from tacit.engine.local import LocalEngine, Tap, wall_clock
from tacit.engine.store import SqliteStore
from tacit.errors import TacitError
from tacit.learn.code import LoadedModel, load_model
from tacit.learn.feature_map import FeatureMap
from tacit.party.admission import SiteSetup
from tacit.party.base import Ports
from tacit.party.computation import in_process
from tacit.party.config import SiteConfig
from tacit.party.coordinator import Coordinator
from tacit.party.draft import draft
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.party.terms import Terms
from tacit.party.workload import TrainingData, Workload
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.lock import Parts
from tacit.policy.permission import Permission
from tacit.policy.schema import Schema
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import Member, Roster
from tacit.types import Digest, Entropy, Milliseconds, Opener, PartyName
from tacit.wire.messages import Offer

__all__ = ["LEADER", "DataPool", "ScratchFederation", "model_for", "site_names"]

LEADER = PartyName("coordinator")
REGION = "scratch"
MAX_OWN_HELPERS = 8
NAMED_HELPERS = 3

_PERMIT = """@id("scratch")
permit (principal, action == Action::"train", resource);

@id("scratch-baselines")
permit (principal, action == Action::"train", resource)
when { context.aggregation == "plain" };
"""


@dataclass(frozen=True, slots=True)
class DataPool:
    """A data set, read once: what every scratch federation divides among its sites.

    It is public, as ``load`` requires, or a site's own, read under its policy (``engine.inside``), and then it
    never leaves the site.

    Attributes:
        contract: Its contract.
        batch: All of its records.
    """

    contract: Contract
    batch: SanitisedBatch

    @classmethod
    def load(cls, path: Path) -> DataPool:
        """Reads the data set of a contract file.

        Raises:
            ConfigError: Names the file, the key and the remedy.
            PolicyDenied: The contract does not say that the data are public.
        """
        contract = Contract.load(path)
        return cls(
            contract, FolderSource(contract, path.parent).read_public("attack", wall_clock())
        )

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True, slots=True)
class _Share:
    """A data set in memory: what one scratch site holds."""

    contract: Contract
    batch: SanitisedBatch

    def read(self, permission: Permission, at: Milliseconds) -> SanitisedBatch:
        """The batch."""
        return self.batch


def site_names(count: int) -> tuple[PartyName, ...]:
    """The names of so many scratch sites, in order."""
    return tuple(PartyName(f"site-{number:03d}") for number in range(count))


LoadModel = Callable[[JobSpec], LoadedModel]


def model_for(job: JobSpec, base: Path, schema: Schema) -> LoadedModel:
    """The model of a job for a public schema.

    Raises:
        ConfigError: It cannot be loaded, or the prior of its features cannot.
    """
    options = job.features
    columns, size = len(schema.features), (options.height, options.width)
    feature_map = FeatureMap.load(options.map, size, options.file(base), columns)
    return load_model(
        job.model,
        base,
        features=columns,
        classes=len(schema.classes),
        feature_map=feature_map,
    )


class ScratchFederation:
    """One run of a job among sites that are made up, each with its part of a public data set.

    Every party is the production one, over a store in memory; messages are really sealed, masked and signed.
    What is kept besides, for the attacker's view alone, is the private half of every round key.

    Args:
        job: What to run; ``data.contract`` is set to the data set's, and with more than eight sites the first
            three are its helpers. ``attack.defences`` makes such jobs.
        base: Folder of the job's model code.
        data: The public data set.
        holdings: For each site the rows that it holds, ``int64[m]``, m at least 1.
        code: Model code by site, for sites that are not honest; others run the job's own, which stands under the
            leader's name where it was loaded before.
        limits: ``[limits]`` of every site; production's defaults otherwise, own helper included where every
            site is one.
        world: Entropy by party, for tests; the operating system's by default.

    Attributes:
        terms: Of the run.
        leader: The coordinator; ``sites`` and ``helpers`` the others, by name.
        setups: What the sites were made of: a malicious one takes the place of an honest one.
        identities: The keys of all parties, by name: a malicious one signs with its own.
    """

    def __init__(
        self,
        job: JobSpec,
        base: Path,
        data: DataPool,
        holdings: Sequence[NDArray[np.int64]],
        *,
        code: Mapping[PartyName, LoadModel] | None = None,
        limits: Mapping[str, object] | None = None,
        world: Callable[[PartyName], Entropy] | None = None,
    ) -> None:
        names = site_names(len(holdings))
        self.job = _for_scratch(job, data.contract, names)
        self.data = data
        self.roster, self.identities = _roster(names, data.contract, self.operator_of)
        self.holdings = dict(zip(names, holdings, strict=True))
        self.openers: dict[bytes, Opener] = {}
        self._base = base
        self._world = world or (lambda _: OsEntropy())
        self._model = (code or {}).get(LEADER, self.load_model)(self.job)
        self.workload = Workload.build(self.job, self._model, len(data.batch.schema.classes))
        self.offer, self.terms = self._draft(names)
        setup = partial(self._setup, code or {}, dict(limits or {}), _policy(data.contract))
        ports = {name: self._ports(name) for name in (LEADER, *names)}
        self.leader = Coordinator(LEADER, self.roster, ports[LEADER], self.terms, self.workload)
        self.setups = {name: setup(name) for name in names}
        self.sites = {n: Site(n, self.roster, ports[n], self.setups[n]) for n in names}
        self.helpers = {n: Helper(n, self.roster, ports[n]) for n in self.terms.helpers}
        self.recorder = Recorder(self.roster, lambda: self.leader.model)

    def operator_of(self, name: PartyName) -> str:
        """Who operates a party: each is on its own, unless a kind of federation says otherwise."""
        return f"operator-{name}"

    def load_model(self, job: JobSpec) -> LoadedModel:
        """The job's own model."""
        return model_for(job, self._base, self.data.batch.schema)

    def _own_model(self, job: JobSpec) -> LoadedModel:
        """The same for every honest site: it is loaded once."""
        return self._model

    def training_data(self, name: PartyName) -> TrainingData:
        """What a site trains on, as its workload prepares it."""
        return self.workload.prepare(take(self.data.batch, self.holdings[name]))

    def run(self, tap: Tap = lambda envelope: envelope, *, rounds: int | None = None) -> Transcript:
        """Runs to the end, or until so many rounds are closed, and returns what was recorded.

        Args:
            tap: Sees every envelope before its receiver does, after it was recorded; it may replace it, or
                drop it by returning None.
            rounds: Stop after so many; by default as the job says.

        Raises:
            TacitError: No site took part: the first site's refusal.
        """
        engine = LocalEngine(
            self.leader,
            self.sites,
            self.helpers,
            on_progress=lambda number: engine.stop() if number == rounds else None,
            tap=lambda envelope: tap(self.recorder(envelope)),
        )
        engine.run(self.leader.start(self.offer, engine.now()))
        refusals: dict[PartyName, TacitError] = dict(engine.refusals)
        return self.recorder.transcript(self.terms, self.workload, self.openers, refusals)

    def _draft(self, names: tuple[PartyName, ...]) -> tuple[Offer, Terms]:
        return draft(
            self.job,
            self.workload,
            self.data.batch.schema,
            self.roster,
            leader=LEADER,
            clients=names,
            nonce=self._world(LEADER).draw(32),
        )

    def _setup(
        self,
        code: Mapping[PartyName, LoadModel],
        limits: dict[str, object],
        policy: Policy,
        name: PartyName,
    ) -> SiteSetup:
        contract, model = self.data.contract, code.get(name, self._own_model)
        own = {
            "require_own_helper": name in self.terms.helpers,
            "max_colluding_helpers": self.job.privacy.max_colluding,
            "fixed_cohort": False,  # The data are public: sums of many divisions may be compared.
        }
        config = SiteConfig.model_validate(
            {
                "version": 1,
                "name": name,
                "operator": self.operator_of(name),
                "region": _region(contract),
                "budget": {"epsilon": 1000.0, "delta": 0.5, "allow_without_dp": True},
                "policy": {"approvals": 1, "approvers": {"operator": "00" * 32}},
                "limits": {**own, **limits},
            }
        )

        def load(job: JobSpec, _schema: object, _code: Digest | None = None) -> LoadedModel:
            return model(job)

        return SiteSetup(
            config=config,
            policy=policy,
            lock=Parts.of(policy, [contract], {}).digest(name),
            sources={contract.name: _Share(contract, take(self.data.batch, self.holdings[name]))},
            compute=in_process(load),
        )

    def _ports(self, name: PartyName) -> Ports:
        return Ports.of(
            name,
            self.roster,
            entropy=self._world(name),
            signer=self.identities[name],
            sealing=KeepingSealing(self.openers),
            store=SqliteStore(None),
        )


def _region(contract: Contract) -> str:
    return contract.allowed_regions[0] if contract.allowed_regions else contract.region or REGION


def _for_scratch(job: JobSpec, contract: Contract, names: tuple[PartyName, ...]) -> JobSpec:
    data = job.data.model_copy(update={"contract": contract.name})
    named = names[:NAMED_HELPERS] if len(names) > MAX_OWN_HELPERS else None
    masked = job.aggregation.protocol == "masked"
    aggregation = job.aggregation.model_copy(
        update={"helpers": named if masked else None, "min_helpers": None}
    )
    made = job.model_copy(update={"data": data, "aggregation": aggregation})
    return JobSpec.model_validate(made.model_dump())


def _roster(
    names: tuple[PartyName, ...], contract: Contract, operator_of: Callable[[PartyName], str]
) -> tuple[Roster, dict[PartyName, Identity]]:
    entropy = OsEntropy()
    identities = {name: Identity.generate(entropy) for name in (LEADER, *names)}
    members = tuple(
        Member(
            name=name,
            operator=operator_of(name),
            region=_region(contract),
            roles=("leader",) if name == LEADER else ("client", "helper"),
            key=identity.public_key,
        )
        for name, identity in identities.items()
    )
    return Roster("scratch", members), identities


def _policy(contract: Contract) -> Policy:
    with TemporaryDirectory() as folder:
        (Path(folder) / "scratch.cedar").write_text(_PERMIT, "utf-8")
        return Policy.load(Path(folder), [contract])
