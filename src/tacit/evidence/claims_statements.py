"""The claim that the bundle's statements say what the rest of it says."""

from __future__ import annotations

from tacit.errors import TacitError
from tacit.evidence import layout
from tacit.evidence.dsse import Envelope, open_envelope
from tacit.evidence.report import Claim, Findings
from tacit.evidence.sbom import read_sbom
from tacit.evidence.statements import derive, required
from tacit.evidence.view import Missing, View

__all__ = ["statements"]


def statements(view: View) -> Claim:
    """Each statement is signed by the leader and says exactly what the rest of the bundle says."""
    findings = Findings("statements")
    expected = required(view)
    for name in layout.DERIVED:
        member = layout.statement(name)
        try:
            if member in view.members:
                _check_derived(view, name, name in expected, findings)
            elif name in expected:
                findings.unproven(f"the bundle holds no {member}")
        except Missing as missing:
            findings.unproven(f"{member}: {missing}")
        except TacitError as error:
            findings.fail(f"{member}: {error.message}")
    reported = "".join(_check_reported(view, name, findings) for name in layout.REPORTED)
    _check_sbom(view, findings)
    return findings.conclude(
        lambda: (
            f"{', '.join(expected)}: signed by {view.leader}, and each says what the rest of the bundle "
            f"says{reported}"
        )
    )


def _check_derived(view: View, name: str, expected: bool, findings: Findings) -> None:
    member = layout.statement(name)
    envelope = open_envelope(view.members[member])
    leader = view.origin(view.leader)
    envelope.check({leader: view.key(view.leader)})
    envelope.statement(name)
    if findings.require(expected, f"{member} does not belong into the bundle of such a run"):
        findings.require(
            envelope.payload == derive(view, name).canonical(),
            f"{member} does not say what the rest of the bundle says",
        )


def _check_reported(view: View, name: str, findings: Findings) -> str:
    """A report is signed by parties of the roster, and about this run; what it says is not judged.

    Returns:
        What a reader of the claim must know of it; nothing if it is not there.
    """
    member = layout.statement(name)
    data = view.members.get(member)
    if data is None:
        return ""
    try:
        envelope: Envelope = open_envelope(data)
        signed = envelope.check({view.origin(m.name): m.key for m in view.roster.members})
        subjects = envelope.statement(name).subjects
        findings.require(
            ("transcript", view.head.transcript) in subjects, f"{member} is about another run"
        )
    except TacitError as error:
        findings.fail(f"{member}: {error.message}")
        return ""
    return f"; {name} is the word of {', '.join(sorted(signed))} alone, what it says is not judged"


def _check_sbom(view: View, findings: Findings) -> None:
    data = view.members.get(layout.SBOM)
    if data is None:
        findings.unproven(f"the bundle holds no {layout.SBOM}")
        return
    try:
        read_sbom(data)
    except TacitError as error:
        findings.fail(f"{layout.SBOM}: {error.message}")
