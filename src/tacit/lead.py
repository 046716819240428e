"""The leader's side of a run: result folder, metrics, evidence, and the steps that end it.

Whatever moves the messages calls ``Lead.first``, then the coordinator, and ``Lead.advance`` whenever the
coordinator has handled something: a closed run is sealed, and once that is closed, too, it is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rfc8785

from tacit.attack.entry import STATEMENT, latest_entry
from tacit.engine.local import Traffic
from tacit.engine.witnesses import IndependentWitnesses
from tacit.errors import ConfigError, RoundAborted
from tacit.evidence import layout
from tacit.evidence.bundle import BundleWriter
from tacit.evidence.dsse import Statement, sign_statement
from tacit.evidence.head import sign_line
from tacit.evidence.report import default_required
from tacit.evidence.trust import Trust, default_quorum
from tacit.federation import Leadership, leader_of
from tacit.files import read_limited, write_atomic
from tacit.ledger.log import log_origin
from tacit.ledger.note import add_signatures
from tacit.ledger.record import LogRecord
from tacit.outcome import Outcome
from tacit.party.base import Ports
from tacit.party.coordinator import Coordinator
from tacit.party.terms import Terms
from tacit.party.workload import TrainingData
from tacit.privacy.statement import make_statement
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.codec import decode
from tacit.wire.envelope import Envelope, open_message
from tacit.wire.messages import Cosigned, Offer

__all__ = ["RUN_NAME_DIGITS", "Lead", "Progress", "RunPlace"]

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
    coordinator: Path

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
            base = Path(places["base"])
            coordinator = Path(places.get("coordinator", base / "coordinator"))
            return cls(folder, str(places["run"]), base, sites, coordinator)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                "run.folder",
                f"{folder}/run.json is not that of a run",
                remedy="pass the folder that an earlier 'tacit run' made",
                file=str(folder / "run.json"),
            ) from error

    def write(self) -> None:
        """Writes ``run.json``."""
        record = {
            "run": self.run,
            "base": str(self.base.resolve()),
            "sites": [str(site.resolve()) for site in self.sites],
            "coordinator": str(self.coordinator.resolve()),
        }
        write_atomic(self.folder / "run.json", rfc8785.dumps(record))

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
class Lead:
    """One run at its leader, wherever its sites are.

    Args:
        folder: Of the result.
        base: Of the job; what attacks on the job found before lies there.
        coordinator: The party that leads.
        evaluation: The public evaluation set.
        offer: What a new run offers; None for one that goes on.
        witnesses: The independent witnesses.
        history: Metrics by round.
        traffic: Bytes by party, as whoever moves the messages counts them.
        outcome: What was written; None until the run is over.

    Guarantee: Driven message by message or by the local engine, a run ends with the same model and the
    same outcome (tests/unit/test_lead.py::test_a_lead_needs_no_site_folder).
    """

    folder: Path
    base: Path
    coordinator: Coordinator
    evaluation: TrainingData
    offer: Offer | None
    witnesses: IndependentWitnesses
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    outcome: Outcome | None = None
    _writer: BundleWriter | None = None

    @classmethod
    def of(
        cls, opened: Leadership, terms: Terms, offer: Offer | None, folder: Path, base: Path
    ) -> Lead:
        """The leader's side of a run.

        Args:
            opened: What the leader needs.
            terms: The run.
            offer: What a new run offers; None for one that goes on.
            folder: Of the result.
            base: Of the job.
        """
        files = opened.files
        coordinator = Coordinator(opened.leader, opened.roster, opened.ports, terms, files.workload)
        return cls(folder, base, coordinator, files.evaluation, offer, opened.witnesses)

    def write_places(self, place: RunPlace, *, disclosed: bool = True) -> None:
        """Writes ``trust.json`` and ``run.json`` into the folder of the result.

        Args:
            place: Where the run's parts lie.
            disclosed: Whether every site is known to disclose its policy.
        """
        terms, roster = self.coordinator.terms, self.coordinator.roster
        required = default_required(
            masked=terms.masked, private=terms.plan.private, disclosed=disclosed
        )
        parties = (self.coordinator.address.party, *terms.clients, *terms.helpers)
        trust = Trust.of(
            roster,
            required,
            run=terms.run_id,
            quorum=default_quorum(roster, parties),
            witnesses=self.witnesses.keys,
        )
        trust.write(self.folder / "trust.json")
        place.write()

    # --- steps -------------------------------------------------------------------------------

    @property
    def concluded(self) -> bool:
        """Whether the run is over for its parties; its bundle may still be missing."""
        return bool(self.coordinator.durable.number("concluded"))

    @property
    def lacks_bundle(self) -> bool:
        """A run that ended, but whose bundle was not written: it still can be."""
        return self.concluded and not (self.folder / "bundle.zip").exists()

    @property
    def began(self) -> bool:
        """Whether a round began, so that there is something to tell."""
        return self.coordinator.durable.number("round") > 0

    @property
    def complete(self) -> bool:
        """Whether the run ended as planned."""
        return bool(self.coordinator.durable.number("complete"))

    def first(self, now: Milliseconds) -> list[Envelope]:
        """What is sent first: the offers of a new run, or what makes a stopped one go on.

        Raises:
            RoundAborted: The run was closed, and all is written.
        """
        if self.offer is not None:
            return self.coordinator.start(self.offer, now)
        if self.lacks_bundle:
            self.coordinator.phase = "closed"
            return []
        return self.coordinator.resume(now)

    def advance(self, now: Milliseconds) -> list[Envelope]:
        """Takes the next step of the end, if it is time: to be called after every message and tick.

        A closed run asks for the signatures of its bundle; once these are there, or late, the result is
        written and ``outcome`` is there. Nothing is written of a run in which no round began.

        Raises:
            TransportError: The disk refuses a write; to be tried again.
        """
        if self.coordinator.phase != "closed" or self.outcome is not None:
            return []
        sent: list[Envelope] = []
        if self._writer is None and self.began:
            sent = self.seal(now)
        if self.coordinator.phase == "closed":
            outcome = self.result()
            if self.began:
                self.write(outcome)
            self.outcome = outcome
        return sent

    def seal(self, now: Milliseconds) -> list[Envelope]:
        """Gathers the evidence of a closed run and asks every party to sign its manifest."""
        self._writer = self.evidence()
        return self.coordinator.seal(self._manifest(self._writer), now)

    def _manifest(self, writer: BundleWriter) -> bytes:
        leader, signer = self.coordinator.address.party, self.coordinator.ports.signer
        return writer.manifest(leader=leader, signer=signer, complete=self.complete)

    def result(
        self, spent: Mapping[str, float] | None = None, traffic: Traffic | None = None
    ) -> Outcome:
        """What the run left behind, as far as the leader knows.

        Args:
            spent: What sites know that they were charged; by default what their logs say.
            traffic: Bytes by party; by default what was counted here.
        """
        terms, complete = self.coordinator.terms, self.complete
        return Outcome(
            run_id=terms.run_id,
            folder=self.folder,
            complete=complete,
            rounds=self.coordinator.chain.completed,
            privacy=make_statement(
                terms.plan,
                tuning=terms.job.privacy.tuning,
                public_data=self._public_data(),
            ),
            metrics=self.metrics(),
            history=self.history,
            spent=dict(spent) if spent is not None else self._settled(),
            traffic=traffic if traffic is not None else self.traffic,
            failure=None if complete else self.coordinator.failure,
        )

    def write(self, outcome: Outcome) -> None:
        """Writes model, result and bundle of a sealed run; the bundle comes last."""
        coordinator, writer = self.coordinator, self._writer
        assert writer is not None
        outcome.unwitnessed = self._unwitnessed()
        leader, signer = coordinator.address.party, coordinator.ports.signer
        own = sign_line(self._manifest(writer), coordinator.roster.federation, leader, signer)
        model = writer.members.get(layout.FINAL)
        if model is not None:
            write_atomic(outcome.model, model)
        write_atomic(self.folder / "result.json", rfc8785.dumps(outcome.record()))
        writer.write(outcome.bundle, [own, *coordinator.signatures()])

    # --- rounds ------------------------------------------------------------------------------

    def observe(self, number: int) -> Progress:
        """To be called after every closed or failed round: how far the run is, and how good.

        Args:
            number: The round.
        """
        self.witnesses.follow()
        rounds = self.coordinator.terms.manifest.rounds
        every = max(1, rounds // EVALUATIONS)
        if number % every == 0 or number == rounds:
            metrics = self.metrics()
            if metrics and (not self.history or self.history[-1][0] != number):
                self.history.append((number, metrics))
        latest = self.history[-1][1] if self.history else {}
        return Progress(round=number, rounds=rounds, metrics=latest)

    def metrics(self) -> dict[str, float]:
        """On the public evaluation set, and the private ones inside the last sum, if asked for."""
        state = self.coordinator.model
        if state is None:
            return {}
        chain = self.coordinator.chain
        found = chain.workload.evaluate(state, self.evaluation)
        aggregate, chunks = self.coordinator.transcript.last_aggregate()
        private = chain.metrics(aggregate, chunks) if aggregate is not None else {}
        return {**found, **private}

    def _settled(self) -> dict[str, float]:
        """Epsilon that each site says it spent on the run, in the log that it handed over at the end.

        A site that handed over none, or did not settle, is absent: nothing is known of its budget.
        """
        run, found = self.coordinator.terms.run_id, {}
        for name in self.coordinator.terms.clients:
            for raw in self.coordinator.transcript.matching(f"log-{name}"):
                for line in raw.splitlines():
                    event = json.loads(line)
                    if (event.get("type"), event.get("run")) == ("run.settled", run):
                        found[str(name)] = float(event["epsilon"])
        return found

    def _public_data(self) -> tuple[str, ...]:
        """The public data that the result rests on, by name."""
        chain = self.coordinator.chain
        evaluation = f"{self.coordinator.terms.job.evaluation.contract} (evaluation)"
        return (*chain.workload.model.feature_map.public_data, evaluation)

    # --- evidence ----------------------------------------------------------------------------

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

    def evidence(self) -> BundleWriter:
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
