"""A run on this machine, composed: folders opened as parties, engine, metrics, model file, bundle."""

from __future__ import annotations

import contextlib
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

from tacit.attack.entry import STATEMENT, latest_entry
from tacit.engine.folder import World, party_ports
from tacit.engine.local import LocalEngine, Tap
from tacit.engine.witnesses import IndependentWitnesses
from tacit.errors import ConfigError, RoundAborted
from tacit.evidence import layout
from tacit.evidence.bundle import BundleWriter
from tacit.evidence.dsse import Statement, sign_statement
from tacit.evidence.head import sign_line
from tacit.evidence.report import default_required
from tacit.evidence.trust import Trust, default_quorum
from tacit.federation import Federation, ModelObject, leader_of
from tacit.files import make_folder, read_limited, write_atomic
from tacit.ledger.log import log_origin
from tacit.ledger.note import add_signatures
from tacit.ledger.record import LogRecord
from tacit.outcome import Outcome
from tacit.party.base import Ports
from tacit.party.coordinator import Coordinator
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.party.terms import Terms
from tacit.party.workload import TrainingData
from tacit.privacy.statement import make_statement
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.codec import decode
from tacit.wire.envelope import open_message
from tacit.wire.messages import Cosigned, Offer

__all__ = ["Progress", "RunPlace", "Session"]

RUN_NAME_DIGITS = 12
EVALUATIONS = 50
RESULT_LIMIT = 16 * 1024 * 1024


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
        return roster, leader_of(roster)

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
    base: Path
    coordinator: Coordinator
    sites: dict[PartyName, Site]
    helpers: dict[PartyName, Helper]
    evaluation: TrainingData
    offer: Offer | None
    witnesses: IndependentWitnesses
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
        opened.witnesses.begin()
        make_folder(folder)
        session = cls._around(opened, (base, folder), terms, offer)
        required = default_required(
            masked=terms.masked, private=terms.plan.private, disclosed=opened.disclosed
        )
        parties = (opened.leader, *terms.clients, *terms.helpers)
        trust = Trust.of(
            opened.roster,
            required,
            run=terms.run_id,
            quorum=default_quorum(opened.roster, parties),
            witnesses=session.witnesses.keys,
        )
        trust.write(folder / "trust.json")
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
        opened.witnesses.begin()
        return cls._around(opened, (place.base, folder), terms, None)

    @classmethod
    def _around(
        cls, opened: Federation, folders: tuple[Path, Path], terms: Terms, offer: Offer | None
    ) -> Session:
        """The parties, put around one run; its job lies in the first folder, its result in the second."""
        base, folder = folders
        return cls(
            folder=folder,
            base=base,
            coordinator=Coordinator(
                opened.leader, opened.roster, opened.ports, terms, opened.workload
            ),
            sites=opened.sites,
            helpers=opened.helpers,
            evaluation=opened.evaluation,
            offer=offer,
            witnesses=opened.witnesses,
            places=opened.places,
        )

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
        for site in self.sites.values():
            site.note_start(now)
        with _interruptible(engine):
            engine.run(first)
        if coordinator.durable.number("round") == 0:
            self._raise_refusal(engine)
        return self._conclude(engine)

    def _lacks_bundle(self) -> bool:
        """A run that ended, but whose bundle the disk refused: it can still be written."""
        concluded = bool(self.coordinator.durable.number("concluded"))
        return concluded and not (self.folder / "bundle.zip").exists()

    def _observe(self, number: int, on_progress: Callable[[Progress], None]) -> None:
        self.witnesses.follow()
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
        self._write_own_models(outcome)
        writer = self._evidence()
        outcome.unwitnessed = self._unwitnessed()
        signatures = self._signed(writer, engine, complete=complete)
        model = writer.members.get(layout.FINAL)
        if model is not None:
            write_atomic(outcome.model, model)
        write_atomic(self.folder / "result.json", rfc8785.dumps(outcome.record()))
        writer.write(outcome.bundle, signatures)
        return outcome

    def _unwitnessed(self) -> dict[str, str]:
        """By independent witness or party, why it did not cosign a final log."""
        found = {name: e.message for name, e in self.witnesses.failures.items()}
        for raw in self.coordinator.transcript.matching("refused/"):
            one = decode(Cosigned, raw, len(raw))
            found[f"{one.witness}/{one.log}"] = (
                f"{one.witness} does not cosign the log of {one.log}: {one.code}; it knows "
                f"{one.size} events of it"
            )
        return found

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

    def _signed(self, writer: BundleWriter, engine: LocalEngine, *, complete: bool) -> list[str]:
        """The bundle's manifest signed by the leader, and by every other party that answers."""
        coordinator = self.coordinator
        leader, signer = coordinator.address.party, coordinator.ports.signer
        manifest = writer.manifest(leader=leader, signer=signer, complete=complete)
        with _interruptible(engine):
            engine.run(coordinator.seal(manifest, engine.now()))
        own = sign_line(manifest, coordinator.roster.federation, leader, signer)
        return [own, *coordinator.signatures()]

    def _witnessed(self) -> dict[str, bytes]:
        """The transcript, once independent witnesses were asked to cosign the final heads in it.

        Their word is kept before any party signs the manifest: nobody would sign another one.
        """
        coordinator, transcript = self.coordinator, self.coordinator.transcript
        if not coordinator.durable.number("witnessed"):
            notes = {
                PartyName(name.removeprefix("checkpoint-")): note
                for name, note in transcript.items().items()
                if name.startswith("checkpoint-")
            }
            lines = self.witnesses.conclude(notes)
            with coordinator.ports.store.transaction():
                for party, note in notes.items():
                    transcript.put(f"checkpoint-{party}", add_signatures(note, lines[party]))
                coordinator.durable.put_number("witnessed", 1)
        return transcript.items()

    def _evidence(self) -> BundleWriter:
        """What the bundle holds: the leader's transcript, cosigned by independent witnesses too."""
        coordinator = self.coordinator
        writer = BundleWriter(coordinator.roster, coordinator.terms.run)
        items = self._witnessed()
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
                record = LogRecord(data, items[f"proof-{party}"])
                writer.add_log(party, record, items[f"checkpoint-{party}"])
            elif name.startswith("policy-"):
                writer.add_policy(PartyName(name.removeprefix("policy-")), data)
        state = coordinator.model
        if state is not None and coordinator.chain.applied:
            writer.add_final(coordinator.chain.workload.released(state))
        report = self._attack_report(writer)
        if report:
            writer.add_statement(STATEMENT, report)
        return writer

    def _attack_report(self, writer: BundleWriter) -> bytes:
        """What attacks on this job found before, signed by the leader; empty if there is no report.

        It is kept before any party signs the manifest that names it: nobody would sign another one.
        """
        coordinator = self.coordinator
        kept = coordinator.durable.get(STATEMENT)
        if kept is not None:
            return kept
        manifest, leader = coordinator.terms.manifest, coordinator.address.party
        entry = latest_entry(self.base, Digest(manifest.job), Digest(manifest.code))
        envelope = b""
        if entry is not None:
            subjects = (("transcript", writer.transcript), ("report.json", entry["report"]))
            keyid = log_origin(coordinator.roster.federation, leader)
            statement = Statement(STATEMENT, subjects, entry)
            envelope = sign_statement(statement, [(keyid, coordinator.ports.signer)])
        with coordinator.ports.store.transaction():
            coordinator.durable.put(STATEMENT, envelope)
        return envelope


def _tensors(theta: NDArray[np.float64], run: str) -> bytes:
    """A model file, safetensors."""
    return safetensors.numpy.save({"theta": np.ascontiguousarray(theta)}, metadata={"run": run})


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
