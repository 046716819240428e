"""A federation on this machine, opened: every file of a job and its sites checked, no run yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tacit.engine.folder import FolderSource, SiteFolder, World, party_ports
from tacit.engine.local import wall_clock
from tacit.engine.witnesses import WITNESSES_FILE, IndependentWitnesses, load_witnesses
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

__all__ = ["Federation", "ModelObject", "leader_of"]

ModelObject = Callable[[int, int], LoadedModel | None]


@dataclass(frozen=True, slots=True)
class Federation:
    """Everything opened and checked, before there is a run."""

    job: JobSpec
    roster: Roster
    leader: PartyName
    ports: Ports
    workload: Workload
    schema: Schema
    evaluation: TrainingData
    sites: dict[PartyName, Site]
    helpers: dict[PartyName, Helper]
    places: dict[PartyName, Path]
    witnesses: IndependentWitnesses
    disclosed: bool

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

        helpers = choose_helpers(job, tuple(sorted(folders)))
        check_cohort(job, tuple(sorted(folders)), helpers, roster)
        workload = Workload.build(job, load(job, schema), len(schema.classes))
        evaluation = workload.prepare(source.read_public("evaluation", wall_clock()))
        opened = {
            name: folder.parties(roster, load, world, pinned=model is None)
            for name, folder in folders.items()
        }
        ports = party_ports(base / "coordinator", leader, roster, world)
        taken = {log_origin(roster.federation, member.name) for member in roster.members}
        witnesses = load_witnesses(base / WITNESSES_FILE, taken)
        logs = {leader: ports.log} | {name: site.ports.log for name, (site, _) in opened.items()}
        return cls(
            job=job,
            roster=roster,
            leader=leader,
            ports=ports,
            workload=workload,
            schema=schema,
            evaluation=evaluation,
            sites={name: pair[0] for name, pair in opened.items()},
            helpers={name: pair[1] for name, pair in opened.items()},
            places={name: folder.path for name, folder in folders.items()},
            witnesses=IndependentWitnesses(witnesses, logs),
            disclosed=all(f.config.evidence.policy != "none" for f in folders.values()),
        )

    def offer(self) -> tuple[Offer, Terms]:
        """A fresh run of the job."""
        return draft(
            self.job,
            self.workload,
            self.schema,
            self.roster,
            leader=self.leader,
            clients=tuple(sorted(self.sites)),
            nonce=self.ports.entropy.draw(32),
        )


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
