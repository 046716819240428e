"""The claim that others have seen every log, so that no party can show two histories of its own."""

from __future__ import annotations

from collections.abc import Mapping

from tacit.errors import TacitError
from tacit.evidence.records import Event, PartyLog
from tacit.evidence.report import Claim, Findings
from tacit.evidence.trust import Trust, default_quorum
from tacit.evidence.view import Missing, View
from tacit.ledger.note import open_checkpoint, open_cosigned
from tacit.types import PartyName

__all__ = ["witness"]

CONTRADICTIONS = {
    "witness.rolled-back": "had lost events that it had shown before",
    "witness.forked": "had other events than it had shown before",
}
"""What a witness may have found: codes of ``witness.refused`` that no honest party earns."""


def witness(view: View, trust: Trust | None) -> Claim:
    """Enough other operators, and every independent witness, have cosigned each party's final log."""
    findings = Findings("witness")
    if trust is None:
        findings.unproven("no trust file: whose cosignatures count, and how many, is not said")
        trust = Trust.of(view.roster, quorum=default_quorum(view.roster, view.parties))
    quorum, independent = trust.quorum, trust.witnesses
    fewest = len(view.parties)
    for party in view.parties:
        try:
            fewest = min(fewest, _check_log(view, party, (quorum, independent), findings))
        except Missing as missing:
            findings.unproven(str(missing))
        except TacitError as error:
            findings.fail(f"log of {party}: {error.message}")
    _check_refusals(view, findings)
    _check_memories(view, findings)
    others = f" and {len(independent)} independent witness(es)" if independent else ""
    return findings.conclude(
        f"the log of each of {len(view.parties)} parties is cosigned by at least {fewest} other "
        f"operators (required: {quorum}){others}: without their help nobody can show another history"
    )


def _check_log(
    view: View, party: PartyName, asked: tuple[int, Mapping[str, bytes]], findings: Findings
) -> int:
    """The cosignatures of one log; returns the number of other operators among them."""
    quorum, independent = asked
    known = {view.origin(m.name): m.key for m in view.roster.members if m.name != party}
    origin = view.origin(party)
    checkpoint, cosigned, _ = open_cosigned(
        view.note(party), (origin, view.key(party)), {**independent, **known}
    )
    findings.require(checkpoint.origin == origin, f"the checkpoint of {party} is of another log")
    others = [other for other in view.parties if view.origin(other) in cosigned]
    operators = view.roster.operators(others) - view.roster.operators([party])
    if len(operators) < quorum:
        findings.unproven(
            f"the log of {party} is cosigned by {len(operators)} other operators, required are {quorum}"
        )
    for name in sorted(independent.keys() - cosigned.keys()):
        findings.unproven(f"the independent witness {name} has not cosigned the log of {party}")
    return len(operators)


def _check_refusals(view: View, findings: Findings) -> None:
    """What parties logged when they would not cosign a log of another."""
    for witness_name in view.parties:
        log = view.logs[witness_name]
        if not isinstance(log, PartyLog):
            continue
        for event in _refused(log):
            try:
                accused, code = event.text("log"), event.text("code")
            except TacitError as error:
                findings.fail(f"log of {witness_name}: {error.message}")
                continue
            found = CONTRADICTIONS.get(code)
            if found is not None:
                findings.fail(f"{witness_name} found that the log of {accused} {found}")


def _check_memories(view: View, findings: Findings) -> None:
    """Nobody holds another history of a log, signed by its owner, than the bundle shows."""
    for holder in view.parties:
        log = view.logs[holder]
        if not isinstance(log, PartyLog):
            continue
        for event in log.of("log.witnessed"):
            try:
                _check_memory(view, holder, event, findings)
            except TacitError as error:
                findings.fail(f"log of {holder}: {error.message}")


def _check_memory(view: View, holder: PartyName, event: Event, findings: Findings) -> None:
    name = PartyName(event.text("log"))
    origin = view.origin(name)
    held = open_checkpoint(event.text("note").encode(), {origin: view.key(name)})
    if not findings.require(
        held.origin == origin, f"{holder} holds a checkpoint of another log than that of {name}"
    ):
        return
    shown = view.logs.get(name)
    if not isinstance(shown, PartyLog):
        return  # Nothing to compare with; log-inclusion says so.
    if held.size > shown.size:
        findings.unproven(
            f"{holder} has seen {held.size} events of the log of {name}, the bundle knows {shown.size}"
        )
        return
    root = shown.root_at(held.size)
    findings.require(
        root in (None, held.root),
        f"{holder} has seen another history of the log of {name}, signed by {name}",
    )


def _refused(log: PartyLog) -> list[Event]:
    return [event for event in (*log.events, *log.own) if event.kind == "witness.refused"]
