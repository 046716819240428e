"""A job opened for its leader, and a federation on this machine: every file checked, no run yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tacit.engine.folder import FolderSource, SiteFolder, World, party_ports
from tacit.engine.local import wall_clock
from tacit.engine.witnesses import (
    WITNESSES_FILE,
    IndependentWitnesses,
    WitnessTable,
    load_witnesses,
)
from tacit.errors import ConfigError
from tacit.learn.code import LoadedModel, load_model
from tacit.learn.feature_map import FeatureMap
from tacit.ledger.log import log_origin
from tacit.party.base import Ports
from tacit.party.draft import draft
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.party.terms import Terms, check_cohort, choose_helpers
from tacit.party.workload import TrainingData, Workload
from tacit.policy.contract import Contract
from tacit.policy.schema import Schema
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName
from tacit.wire.messages import Offer

__all__ = ["Federation", "JobFiles", "Leadership", "ModelObject", "leader_of"]

ModelObject = Callable[[int, int], LoadedModel | None]
LoadModel = Callable[..., LoadedModel]


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What a job's own files say: its computation, the schema of its data, the evaluation set.

    Args:
        job: The job.
        schema: Of the evaluation set, so of everybody's data.
        workload: The computation.
        evaluation: The public evaluation set.
        load: Loads the model for a party's schema.
    """

    job: JobSpec
    schema: Schema
    workload: Workload
    evaluation: TrainingData
    load: LoadModel

    @classmethod
    def open(cls, job: JobSpec, base: Path, model: ModelObject | None = None) -> JobFiles:
        """Loads the model and reads the evaluation set; no site's folder is needed.

        Args:
            job: The job.
            base: Folder of the job file.
            model: Makes a notebook's model, instead of what the job names.

        Raises:
            ConfigError: Names file, key and remedy.
        """
        source = _evaluation_source(job, base)
        schema = source.contract.schema()

        def load(spec: JobSpec, public: Schema, code: Digest | None = None) -> LoadedModel:
            columns, classes = len(public.features), len(public.classes)
            options = spec.features
            size, prior = (options.height, options.width), options.file(base)
            feature_map = FeatureMap.load(options.map, size, prior, columns)
            if model is not None:
                made = model(feature_map.dimension(columns), classes)
                if made is not None:
                    return dataclasses.replace(made, feature_map=feature_map)
            return load_model(
                spec.model,
                base,
                features=columns,
                classes=classes,
                expected=code,
                feature_map=feature_map,
            )

        workload = Workload.build(job, load(job, schema), len(schema.classes))
        evaluation = workload.prepare(source.read_public("evaluation", wall_clock()))
        return cls(job, schema, workload, evaluation, load)

    def require_code(self, terms: Terms) -> None:
        """Whether the model's code is still the one that a run began with.

        Raises:
            ConfigError: It is not.
        """
        if self.workload.model.code != terms.manifest.code:
            raise ConfigError(
                "run.code-changed",
                "the model code has changed since the run began",
                remedy="restore the model file, or start a new run",
            )


@dataclass(frozen=True, slots=True)
class Leadership:
    """What the leader of a run needs, and nothing of any site.

    Args:
        roster: The pinned roster.
        leader: The leader's name in it.
        ports: The leader's world.
        files: The job.
        clients: Who is asked to train.
        witnesses: Independent witnesses, shown the logs that are on this machine.
        disclosed: Whether every site is known to disclose its policy.
    """

    roster: Roster
    leader: PartyName
    ports: Ports
    files: JobFiles
    clients: tuple[PartyName, ...]
    witnesses: IndependentWitnesses
    disclosed: bool = True

    @classmethod
    def open(
        cls,
        roster: Roster,
        ports: Ports,
        files: JobFiles,
        clients: Collection[PartyName] = (),
        witnesses: Path | None = None,
    ) -> Leadership:
        """The leader of a run whose sites are elsewhere.

        Args:
            roster: The pinned roster.
            ports: The leader's world, shared by all its runs.
            files: The job.
            clients: Who is asked to train; by default every client of the roster.
            witnesses: ``witnesses.toml``, which need not exist; they are shown the leader's log.

        Raises:
            ConfigError: Too few parties, or not in these roles; names the job's key and the remedy.
        """
        leader = leader_of(roster)
        chosen = clients or [member.name for member in roster.with_role("client")]
        names = tuple(sorted(chosen))
        check_cohort(files.job, names, choose_helpers(files.job, names), roster)
        known = _witnesses(roster, witnesses) if witnesses is not None else ()
        shown = IndependentWitnesses(known, {leader: ports.log})
        return cls(roster, leader, ports, files, names, shown)

    def offer(self) -> tuple[Offer, Terms]:
        """A fresh run of the job."""
        return draft(
            self.files.job,
            self.files.workload,
            self.files.schema,
            self.roster,
            leader=self.leader,
            clients=self.clients,
            nonce=self.ports.entropy.draw(32),
        )


@dataclass(frozen=True, slots=True)
class Federation:
    """Everything of a federation on this machine opened and checked, before there is a run."""

    lead: Leadership
    sites: dict[PartyName, Site]
    helpers: dict[PartyName, Helper]
    places: dict[PartyName, Path]

    @classmethod
    def open(
        cls,
        job: JobSpec,
        base: Path,
        sites: Sequence[Path],
        model: ModelObject | None = None,
        world: World | None = None,
    ) -> Federation:
        """Opens the files of a job; reads the evaluation set, no site's data.

        Raises:
            ConfigError: Names file, key and remedy.
        """
        world = world or World.real()
        roster = Roster.load(base / "federation.toml")
        leader = leader_of(roster)
        folders = _site_folders(sites)
        clients = tuple(sorted(folders))
        check_cohort(job, clients, choose_helpers(job, clients), roster)
        files = JobFiles.open(job, base, model)
        opened = {
            name: folder.parties(roster, files.load, world, pinned=model is None)
            for name, folder in folders.items()
        }
        ports = party_ports(base / "coordinator", leader, roster, world)
        logs = {leader: ports.log} | {name: site.ports.log for name, (site, _) in opened.items()}
        lead = Leadership(
            roster=roster,
            leader=leader,
            ports=ports,
            files=files,
            clients=clients,
            witnesses=IndependentWitnesses(_witnesses(roster, base / WITNESSES_FILE), logs),
            disclosed=all(f.config.evidence.policy != "none" for f in folders.values()),
        )
        return cls(
            lead=lead,
            sites={name: pair[0] for name, pair in opened.items()},
            helpers={name: pair[1] for name, pair in opened.items()},
            places={name: folder.path for name, folder in folders.items()},
        )

    def offer(self) -> tuple[Offer, Terms]:
        """A fresh run of the job."""
        return self.lead.offer()


def leader_of(roster: Roster) -> PartyName:
    """The one member that leads.

    Raises:
        ConfigError: None, or more than one.
    """
    leaders = roster.with_role("leader")
    if len(leaders) != 1:
        raise ConfigError(
            "roster.leader",
            f"the roster lists {len(leaders)} leaders",
            remedy="give exactly one member the role 'leader' in federation.toml",
        )
    return leaders[0].name


def _witnesses(roster: Roster, path: Path) -> tuple[WitnessTable, ...]:
    """The independent witnesses of a federation; none may be called like one of its logs."""
    return load_witnesses(path, {log_origin(roster.federation, m.name) for m in roster.members})


def _site_folders(paths: Sequence[Path]) -> dict[PartyName, SiteFolder]:
    folders: dict[PartyName, SiteFolder] = {}
    for path in paths:
        folder = SiteFolder.load(path)
        if folder.name in folders:
            raise ConfigError(
                "site.duplicate",
                f"two site folders are named '{folder.name}': {folders[folder.name].path}, {path}",
                remedy="pass each site once",
            )
        folders[folder.name] = folder
    if not folders:
        raise ConfigError(
            "site.none",
            "no site folder was found",
            remedy="pass --sites DIR..., or keep the sites in 'sites' beside the job",
        )
    return folders


def _evaluation_source(job: JobSpec, base: Path) -> FolderSource:
    path = base / job.evaluation.contract
    contract = Contract.load(path)
    if not contract.public:
        raise ConfigError(
            "evaluation.not-public",
            f"{path}: the evaluation set must be public, or its metrics would leak",
            remedy="use public data and set public = true",
            file=str(path),
            key="public",
        )
    return FolderSource(contract, path.parent)
