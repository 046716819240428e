"""``tacit audit``: adds up the kept rounds of a run again, and names who lied."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.engine.folder import World, party_ports
from tacit.errors import ConfigError, LocalProtocolError, TacitError
from tacit.evidence.records import read_log
from tacit.lead import RunPlace
from tacit.ledger.log import log_origin
from tacit.ledger.note import open_checkpoint
from tacit.ledger.record import LogRecord
from tacit.party.base import Party
from tacit.party.context import helper_keys, upload_context
from tacit.party.kept import KeptRounds, Verdict, add_up
from tacit.party.terms import Terms
from tacit.party.transcript import Transcript
from tacit.show import console, plain, table
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Address, Received

__all__ = ["Audit", "audit_run", "show_audit"]


@dataclass(frozen=True, slots=True)
class Audit:
    """What adding up a run's kept rounds showed."""

    run: str
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every kept round is the exact sum of what was signed."""
        return all(verdict.exact and not verdict.culprits for verdict in self.verdicts)

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "run": self.run,
            "passed": self.passed,
            "rounds": [
                {
                    "round": verdict.round,
                    "uploads": verdict.uploads,
                    "answers": verdict.answers,
                    "exact": verdict.exact,
                    "culprits": [
                        {"party": name, "reason": reason} for name, reason in verdict.culprits
                    ],
                }
                for verdict in self.verdicts
            ],
        }


def audit_run(folder: Path, *, forget: bool = False) -> Audit:
    """Adds up every round of a run that its leader still keeps.

    Args:
        folder: The run's folder, beside the federation whose coordinator led it.
        forget: Whether to drop the kept vectors afterwards; the evidence bundle is not touched.

    Raises:
        ConfigError: Not the folder of a run, or nothing of it is kept.
        LedgerError: The leader's log was tampered with.

    Guarantee: named are a leader whose sum is not that of what it keeps, or whose store does not fit
    together, and a helper or client that signed another answer or upload than its own log tells of.
    Wrong numbers inside a correctly signed answer or upload cannot be attributed. Checked by
    ``tests/unit/test_party_readd.py::test_an_audit_names_a_leader_that_published_another_sum`` and
    ``tests/e2e/test_audit.py::test_a_changed_store_is_found`` and
    ``::test_a_helper_that_signed_two_answers_is_named``.
    """
    place = RunPlace.read(folder)
    roster, leader = place.roster()
    ports = party_ports(place.coordinator, leader, roster, World.real())
    terms = Terms.of(place.offer(ports, roster), roster)
    party = Party(Address(leader, "leader"), roster, ports)
    kept = KeptRounds(party, terms)
    if not kept.rounds:
        raise ConfigError(
            "audit.nothing-kept",
            f"the coordinator keeps no round of run {terms.run_id[:12]}",
            remedy="what 'tacit audit --forget' dropped is gone; a job with audit_rounds = 0 keeps none",
        )
    transcript = Transcript(party.state(terms.run_id))
    verdicts = [_check(party, terms, kept, transcript, number) for number in kept.rounds]
    if forget:
        with ports.store.transaction():
            for number in kept.rounds:
                kept.drop(number)
    return Audit(run=terms.run_id, verdicts=tuple(verdicts))


def _check(
    party: Party, terms: Terms, kept: KeptRounds, transcript: Transcript, number: int
) -> Verdict:
    aggregate = transcript.aggregate(number)
    keys = helper_keys(party, terms, number, aggregate.keys)
    context = upload_context(terms, number, _model_of(party, terms, number), keys)
    verdict = add_up(kept, aggregate, context)
    signed = [party.open_copy(raw) for raw in aggregate.answers]
    uploads = [
        party.open_copy(transcript.get_round(number, f"upload-{member.client}.msg"))
        for member in aggregate.cohort
    ]
    more = [
        culprit
        for message in (*uploads, *signed)
        for culprit in _against_own_log(party, terms, transcript, message)
    ]
    return dataclasses.replace(verdict, culprits=(*verdict.culprits, *more))


def _against_own_log(
    party: Party, terms: Terms, transcript: Transcript, message: Received
) -> list[tuple[PartyName, str]]:
    """Whether a party's own signed log tells of the message that it signed, and of no other."""
    name = message.sender.party
    try:
        record = LogRecord(transcript.get(f"log-{name}"), transcript.get(f"proof-{name}"))
        note = transcript.get(f"checkpoint-{name}")
    except LocalProtocolError:
        return []  # The logs come when the run ends.
    origin = log_origin(party.roster.federation, name)
    try:
        opened = open_checkpoint(note, {origin: party.roster.member(name).key})
        log = read_log(name, terms.run_id, record, opened)
    except TacitError as error:
        return [(party.address.party, f"keeps a damaged log of {name}: {error.message}")]
    kind, field = {
        "client": ("upload.sent", "upload"),
        "helper": ("mask-sum.answered", "answer"),
    }[message.sender.role]
    told = [event.fields.get(field) for event in log.in_round(kind, message.round)]
    if told == [message.digest.hex()]:
        return []
    return [(name, f"signed another {field} in round {message.round} than its own log tells of")]


def _model_of(party: Party, terms: Terms, number: int) -> Digest:
    """The model that a round trained on, from the leader's log."""
    for _, data in party.ports.log.events(terms.run_id):
        event = json.loads(data)
        if event["type"] == "round.started" and event["round"] == number:
            return Digest(bytes.fromhex(event["model"]))
    raise ConfigError(
        "audit.log",
        f"the coordinator's log does not tell how round {number} began",
        remedy="restore coordinator/state from a backup",
    )


def show_audit(audit: Audit) -> None:
    """Prints a table and the verdict."""
    out = console()
    rows = [
        [
            str(verdict.round),
            str(verdict.uploads),
            str(verdict.answers),
            "exact" if verdict.exact else "NOT the sum",
            "; ".join(f"{name}: {reason}" for name, reason in verdict.culprits) or "nobody",
        ]
        for verdict in audit.verdicts
    ]
    title = f"run {audit.run[:12]}: kept rounds, added up again"
    out.print(table(title, ["round", "uploads", "answers", "sum", "who lied"], rows))
    if audit.passed:
        out.print(plain("every kept sum is the sum of what was signed", "green"))
    else:
        out.print(plain("a kept round does not add up", "bold red"))
