"""A run on this machine, composed: folders opened as parties, engine, metrics, model file, bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rfc8785
import safetensors.numpy
from numpy.typing import NDArray

from tacit.engine.folder import FolderSource, SiteFolder, World, party_ports
from tacit.engine.local import LocalEngine, Tap, wall_clock
from tacit.errors import ConfigError, RoundAborted
from tacit.evidence.bundle import BundleWriter
from tacit.evidence.report import default_required
from tacit.evidence.trust import Trust
from tacit.files import make_folder, read_limited, write_atomic
from tacit.learn.code import LoadedModel, load_model
from tacit.learn.feature_map import FeatureMap
from tacit.outcome import Outcome
from tacit.party.base import Ports
from tacit.party.coordinator import Coordinator
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.party.terms import PROTOCOLS, Terms, check_cohort, check_sizes, choose_helpers, plan_for
from tacit.party.workload import TrainingData, Workload
from tacit.policy.contract import Contract
from tacit.policy.schema import Schema
from tacit.privacy.statement import make_statement
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.envelope import open_message
from tacit.wire.messages import Manifest, Offer

__all__ = ["Federation", "Progress", "RunPlace", "Session"]

RUN_NAME_DIGITS = 12
EVALUATIONS = 50
RESULT_LIMIT = 16 * 1024 * 1024
ModelObject = Callable[[int, int], LoadedModel | None]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: round, rounds, and the latest public metrics."""

    round: int
    rounds: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run of this machine lies: what ``run.json`` in its folder says."""

    folder: Path
    run: str
    base: Path
    sites: tuple[Path, ...]

    @classmethod
    def read(cls, folder: Path) -> RunPlace:
        """Reads a run's folder.

        Raises:
            ConfigError: Not the folder of a run.
        """
        if not (folder / "run.json").is_file():
            raise ConfigError(
                "run.folder",
                f"{folder} is not the folder of a run",
                remedy="pass what an earlier 'tacit run' made, for example runs/3f2a9c1b04de",
                file=str(folder),
            )
        try:
            places = json.loads(read_limited(folder / "run.json", RESULT_LIMIT))
            sites = tuple(Path(site) for site in places["sites"])
            return cls(folder, str(places["run"]), Path(places["base"]), sites)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                "run.folder",
                f"{folder}/run.json is not that of a run",
                remedy="pass the folder that an earlier 'tacit run' made",
                file=str(folder / "run.json"),
            ) from error

    def roster(self) -> tuple[Roster, PartyName]:
        """The federation's roster and its leader."""
        roster = Roster.load(self.base / "federation.toml")
        return roster, _leader(roster)

    def offer(self, ports: Ports, roster: Roster) -> Offer:
        """The offer of the run, from the leader's own state.

        Raises:
            RoundAborted: The leader knows nothing of the run.
        """
        raw = ports.store.get(f"leader/{self.run}", "transcript/offer.msg")
        if raw is None:
            raise RoundAborted(
                "run.unknown",
                f"the coordinator knows nothing of the run in {self.folder}",
                retryable=False,
                remedy="start a new run",
            )
        body: Offer = open_message(raw, roster.authenticate).body
        return body


@dataclass(slots=True)
class Session:
    """One run: built by ``begin`` or ``reopen``, driven by ``execute``."""

    folder: Path
    coordinator: Coordinator
    sites: dict[PartyName, Site]
    helpers: dict[PartyName, Helper]
    evaluation: TrainingData
    offer: Offer | None
    places: dict[PartyName, Path] = field(default_factory=dict)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        job: JobSpec,
        base: Path,
        sites: Sequence[Path],
        *,
        model: ModelObject | None = None,
        out: Path | None = None,
        world: World | None = None,
    ) -> Session:
        """Checks everything that can be checked before a message is sent, and makes the folder.

        Args:
            job: What to run.
            base: Folder of the job file; ``federation.toml`` and ``coordinator`` lie there.
            sites: Site folders.
            model: Makes a notebook's model from the numbers of features and classes, instead of what
                the job names.
            out: Folder of the result; by default ``runs/ID`` beside the job.
            world: Entropy and sealing; the real ones by default.

        Raises:
            ConfigError: Names file, key and remedy.
        """
        opened = Federation.open(job, base, sites, model, world)
        offer, terms = opened.offer()
        folder = out if out is not None else base / "runs" / terms.run_id[:RUN_NAME_DIGITS]
        make_folder(folder)
        session = opened.session(folder, terms, offer)
        required = default_required(masked=terms.masked, private=terms.plan.unit != "none")
        Trust.of(opened.roster, required, run=terms.run_id).write(folder / "trust.json")
        places = {"base": str(base.resolve()), "sites": [str(p.resolve()) for p in sites]}
        write_atomic(folder / "run.json", rfc8785.dumps({"run": terms.run_id, **places}))
        return session

    @classmethod
    def reopen(cls, folder: Path, world: World | None = None) -> Session:
        """Opens a run that was stopped, from its folder and the parties' own state.

        Raises:
            ConfigError: Not the folder of a run, or the model code has changed.
        """
        place = RunPlace.read(folder)
        roster, leader = place.roster()
        ports = party_ports(place.base / "coordinator", leader, roster, world or World.real())
        offer = place.offer(ports, roster)
        spec = JobSpec.from_canonical(offer.job)
        if spec.model == "notebook":
            raise ConfigError(
                "run.notebook",
                "a run whose model is an object of a notebook cannot be continued",
                remedy="put the model into a file and name it in the job, then start a new run",
            )
        opened = Federation.open(spec, place.base, place.sites, None, world)
        terms = Terms.of(offer, opened.roster)
        if opened.workload.model.code != terms.manifest.code:
            raise ConfigError(
                "run.code-changed",
                "the model code has changed since the run began",
                remedy="restore the model file, or start a new run",
            )
        return opened.session(folder, terms, None)

    def execute(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        tap: Tap = lambda envelope: envelope,
        clock: Callable[[], Milliseconds] | None = None,
    ) -> Outcome:
        """Runs to the end and writes model, result and bundle.

        Raises:
            PolicyDenied, BudgetExhausted, ConfigError: A site refuses before the first round.
            RoundAborted: The run could not begin.
            TransportError: The disk refuses a write.
        """
        coordinator = self.coordinator
        options = {} if clock is None else {"clock": clock}
        engine = LocalEngine(
            coordinator,
            self.sites,
            self.helpers,
            on_progress=lambda number: self._observe(number, on_progress),
            tap=tap,
            **options,
        )
        if self.offer is None and self._lacks_bundle():
            return self._conclude(engine)
        now = engine.now()
        first = (
            coordinator.start(self.offer, now)
            if self.offer is not None
            else coordinator.resume(now)
        )
        with _interruptible(engine):
            engine.run(first)
        if coordinator.durable.number("round") == 0:
            self._raise_refusal(engine)
        return self._conclude(engine)

    def _lacks_bundle(self) -> bool:
        """A run that ended, but whose bundle the disk refused: it can still be written."""
        closed = bool(self.coordinator.durable.number("closed"))
        return closed and not (self.folder / "bundle.zip").exists()

    def _observe(self, number: int, on_progress: Callable[[Progress], None]) -> None:
        rounds = self.coordinator.terms.manifest.rounds
        every = max(1, rounds // EVALUATIONS)
        if number % every == 0 or number == rounds:
            metrics = self._metrics()
            if metrics and (not self.history or self.history[-1][0] != number):
                self.history.append((number, metrics))
        latest = self.history[-1][1] if self.history else {}
        on_progress(Progress(round=number, rounds=rounds, metrics=latest))

    def _metrics(self) -> dict[str, float]:
        """On the public evaluation set, and the private ones inside the last sum, if asked for."""
        state = self.coordinator.model
        if state is None:
            return {}
        chain = self.coordinator.chain
        found = chain.workload.evaluate(state, self.evaluation)
        aggregate, chunks = self.coordinator.transcript.last_aggregate()
        private = chain.metrics(aggregate, chunks) if aggregate is not None else {}
        return {**found, **private}

    def _raise_refusal(self, engine: LocalEngine) -> None:
        """No round began: the operator of this machine may read the site's own words."""
        for name in ("trust.json", "run.json"):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        for name, error in sorted(engine.refusals.items()):
            error.details.setdefault("site", name)
            raise error
        if self.coordinator.failure is not None:
            raise self.coordinator.failure

    def _conclude(self, engine: LocalEngine) -> Outcome:
        coordinator, terms = self.coordinator, self.coordinator.terms
        complete = bool(coordinator.durable.number("complete"))
        outcome = Outcome(
            run_id=terms.run_id,
            folder=self.folder,
            complete=complete,
            rounds=coordinator.chain.completed,
            privacy=make_statement(
                terms.plan,
                tuning=terms.job.privacy.tuning,
                public_data=self._public_data(),
            ),
            metrics=self._metrics(),
            history=self.history,
            spent={name: site.spent_on(terms.run_id) for name, site in self.sites.items()},
            traffic=engine.traffic,
            failure=None if complete else coordinator.failure,
        )
        model = self._released()
        if model is not None:
            write_atomic(outcome.model, model)
        self._write_own_models(outcome)
        write_atomic(self.folder / "result.json", rfc8785.dumps(outcome.record()))
        self._write_bundle(outcome, model)
        return outcome

    def _public_data(self) -> tuple[str, ...]:
        """The public data that the result rests on, by name."""
        chain = self.coordinator.chain
        evaluation = f"{self.coordinator.terms.job.evaluation.contract} (evaluation)"
        return (*chain.workload.model.feature_map.public_data, evaluation)

    def _write_own_models(self, outcome: Outcome) -> None:
        """Gives every site with local layers the whole model, in its own folder."""
        for name, site in self.sites.items():
            theta, place = site.own_model(outcome.run_id), self.places.get(name)
            if theta is not None and place is not None:
                folder = place / "models"
                folder.mkdir(mode=0o700, exist_ok=True)
                path = folder / f"{outcome.run_id[:RUN_NAME_DIGITS]}.safetensors"
                write_atomic(path, _tensors(theta, outcome.run_id))
                outcome.own_models[name] = path

    def _released(self) -> bytes | None:
        state = self.coordinator.model
        if state is None or not self.coordinator.chain.applied:
            return None
        theta = self.coordinator.chain.workload.released(state)
        return _tensors(theta, self.coordinator.terms.run_id)

    def _write_bundle(self, outcome: Outcome, model: bytes | None) -> None:
        coordinator = self.coordinator
        writer = BundleWriter(coordinator.roster, coordinator.terms.run)
        items = coordinator.transcript.items()
        for name, data in items.items():
            if name.endswith(".msg"):
                writer.add_message(open_message(data, coordinator.roster.authenticate))
            elif name.endswith("/aggregate.bin"):
                number = int(name.split("/")[0].removeprefix("r"))
                writer.add_aggregate(number, data)
            elif name == "model-initial":
                writer.add_initial(np.frombuffer(data, dtype="<f8"))
            elif name.startswith("log-"):
                party = PartyName(name.removeprefix("log-"))
                writer.add_log(party, data, items[f"checkpoint-{party}"])
        if model is not None:
            writer.add_final(model)
        writer.write(
            outcome.bundle,
            leader=coordinator.address.party,
            signer=coordinator.ports.signer,
            complete=outcome.complete,
        )


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
        leader = _leader(roster)
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
        return cls(
            job=job,
            roster=roster,
            leader=leader,
            ports=party_ports(base / "coordinator", leader, roster, world),
            workload=workload,
            schema=schema,
            evaluation=evaluation,
            sites={name: pair[0] for name, pair in opened.items()},
            helpers={name: pair[1] for name, pair in opened.items()},
            places={name: folder.path for name, folder in folders.items()},
        )

    def offer(self) -> tuple[Offer, Terms]:
        """A fresh run of the job."""
        clients = tuple(sorted(self.sites))
        helpers = choose_helpers(self.job, clients)
        length = self.workload.length
        check_sizes(len(clients), len(helpers), length)
        plan = plan_for(self.job, clients=len(clients), helpers=len(helpers), length=length)
        manifest = Manifest(
            protocol=PROTOCOLS[self.job.aggregation.protocol],
            nonce=self.ports.entropy.draw(32),
            job=self.job.digest,
            schema=self.schema.digest,
            code=self.workload.model.code,
            layout=self.workload.layout,
            roster=self.roster.digest,
            plan=plan.canonical(),
            ring_bits=plan.ring_bits,
            dimension=self.workload.dimension,
            length=length,
            rounds=self.job.rounds,
            leader=self.leader,
            clients=clients,
            helpers=helpers,
            min_cohort=self.job.aggregation.min_cohort,
            max_colluding=plan.max_colluding,
            own_noise=self.job.privacy.noise == "own",
        )
        offer = Offer(manifest=manifest, job=self.job.canonical(), schema=self.schema.canonical())
        return offer, Terms.of(offer, self.roster)

    def session(self, folder: Path, terms: Terms, offer: Offer | None) -> Session:
        """The parties, put around one run."""
        coordinator = Coordinator(self.leader, self.roster, self.ports, terms, self.workload)
        return Session(
            folder=folder,
            coordinator=coordinator,
            sites=self.sites,
            helpers=self.helpers,
            evaluation=self.evaluation,
            offer=offer,
            places=self.places,
        )


def _tensors(theta: NDArray[np.float64], run: str) -> bytes:
    """A model file, safetensors."""
    return safetensors.numpy.save({"theta": np.ascontiguousarray(theta)}, metadata={"run": run})


def _leader(roster: Roster) -> PartyName:
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


@contextmanager
def _interruptible(engine: LocalEngine) -> Iterator[None]:
    """The first Ctrl-C ends the run in order; a second one is Python's own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(_number: int, _frame: object) -> None:
        engine.stop()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
