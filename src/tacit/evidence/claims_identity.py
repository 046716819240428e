"""Claims about who signed what, and that all of it belongs to one run."""

from __future__ import annotations

import hashlib

from tacit.errors import TacitError
from tacit.evidence import layout
from tacit.evidence.head import check_signatures, transcript_digest
from tacit.evidence.records import PartyLog
from tacit.evidence.report import Claim, Findings
from tacit.evidence.trust import Trust
from tacit.evidence.view import Missing, View, inconsistency
from tacit.ledger.log import log_origin
from tacit.ledger.note import open_checkpoint
from tacit.types import PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import digest

__all__ = ["authenticity", "integrity", "log_inclusion", "manifest_signers", "same_job"]


def authenticity(view: View, trust: Trust | None) -> Claim:
    """Every party signed the manifest, and its own messages and checkpoint, by the pinned roster."""
    findings = Findings("authenticity")
    for fault in view.faults:
        findings.fail(fault)
    _check_manifest_signature(view, findings)
    for name in view.members:
        party = layout.log_party(name)
        if party is not None and name == layout.checkpoint(party):
            _check_checkpoint(view, party, findings)
    if trust is None:
        findings.unproven(
            "no trust file: signatures agree with the bundle's own roster, which anyone can make"
        )
    elif trust.roster.digest != view.roster.digest:
        findings.fail(_roster_difference(trust, view))
    return findings.conclude(
        lambda: (
            f"{len(view.messages)} messages and every checkpoint are signed by the "
            f"{len(view.roster.members)} members of the trusted roster, and the manifest by all "
            f"{len(view.parties)} parties of the run"
        )
    )


def _check_manifest_signature(view: View, findings: Findings) -> None:
    """Whoever signed has seen what is in the bundle; the leader alone could leave things out."""
    try:
        signed = _signers(view)
        findings.require(view.leader in signed, f"{view.leader}, who led the run, did not sign it")
        for party in sorted(set(view.parties) - signed):
            findings.unproven(f"{party} took part and did not sign the manifest")
    except TacitError as error:
        findings.fail(f"{layout.SIGNATURE}: {error.message}")
    except Missing as missing:
        findings.unproven(str(missing))


def _signers(view: View) -> frozenset[PartyName]:
    return check_signatures(
        view.members.get(layout.SIGNATURE, b""),
        view.members[layout.MANIFEST],
        view.head.federation,
        {party: view.key(party) for party in view.parties},
    )


def manifest_signers(view: View) -> frozenset[PartyName]:
    """The parties that signed the manifest; none if a signature under it is wrong."""
    try:
        return _signers(view)
    except TacitError:
        return frozenset()


def _check_checkpoint(view: View, party: PartyName, findings: Findings) -> None:
    name = layout.checkpoint(party)
    try:
        key = view.roster.member(party).key
        open_checkpoint(view.members[name], {log_origin(view.roster.federation, party): key})
    except TacitError as error:
        findings.fail(f"{name}: {error.message}")


def _roster_difference(trust: Trust, view: View) -> str:
    pinned = {member.name: member for member in trust.roster.members}
    for member in view.roster.members:
        if member != pinned.pop(member.name, None):
            return f"'{member.name}' of the bundle's roster is not the one that the trust file pins"
    if pinned:
        return f"the bundle's roster lacks '{min(pinned)}', which the trust file pins"
    return "the trust file is of another federation"


def integrity(view: View) -> Claim:
    """Every member is there, is known, and has the digest that the manifest says."""
    findings = Findings("integrity")
    files = {
        name: data
        for name, data in view.members.items()
        if name not in (layout.MANIFEST, layout.SIGNATURE)
    }
    for name in sorted(files.keys() ^ view.head.files.keys()):
        findings.fail(f"{name} is {'missing' if name in view.head.files else 'not listed'}")
    for name, data in sorted(files.items()):
        known = view.head.files.get(name)
        if known is not None and hashlib.sha256(data).hexdigest() != known:
            findings.fail(f"{name} is not what the manifest says")
        if not layout.is_known(name):
            findings.fail(f"{name} does not belong into a bundle")
    if view.head.model != view.head.files.get(layout.FINAL, ""):
        findings.fail("the manifest names another model than the released one")
    findings.require(
        view.head.transcript == transcript_digest(view.head.files),
        "the manifest names another transcript than its members make up",
    )
    return findings.conclude(
        f"the archive is canonical and all {len(files)} members match the manifest"
    )


def same_job(view: View, trust: Trust | None = None) -> Claim:
    """Run, job, schema, code and roster are the same everywhere, and as the trust file says."""
    findings = Findings("same-job")
    manifest, run = view.manifest, view.head.run
    findings.require(digest(encode(manifest)).hex() == run, "the offer defines another run")
    if trust is not None and trust.run:
        findings.require(trust.run == run, "the bundle is not of the run that the trust file names")
    findings.require(
        view.head.federation == view.roster.federation, "the roster is of another federation"
    )
    for name, data in ((layout.JOB, view.offer.job), (layout.SCHEMA, view.offer.schema)):
        findings.require(view.members.get(name) == data, f"{name} is not what the offer holds")
    problem = inconsistency(view)
    if problem is not None:
        findings.fail(problem)
    _check_places(view, findings)
    expected = (run, manifest.roster.hex(), manifest.job.hex())
    for name, message in view.messages.items():
        header = message.header
        found = (header.run.hex(), header.roster.hex(), header.job.hex())
        findings.require(found == expected, f"{name} belongs to another run, roster or job")
    for party in view.clients:
        _check_client(view, party, findings)
    _check_leader(view, findings)
    return findings.conclude("run, job, schema, code and roster agree in all messages and logs")


def _check_places(view: View, findings: Findings) -> None:
    for name, message in view.messages.items():
        place = layout.place(name)
        sender = message.sender
        if place is None:
            found = (message.header.type, sender.party, sender.role, message.round)
            right = found == ("offer", view.leader, "leader", 0)
        else:
            told = (message.header.type, sender.party, sender.role, message.round)
            right = told == (place.type, place.party, place.role, place.round)
        findings.require(right, f"{name} holds another message than its name says")
        is_party = place is None or place.party in (
            view.helpers if place.role == "helper" else view.clients
        )
        findings.require(is_party, f"{name} is from a stranger to this run")


def _check_client(view: View, party: PartyName, findings: Findings) -> None:
    """What the client logged about the offer that it received."""
    manifest = view.manifest
    expected = {
        "job": manifest.job.hex(),
        "schema": manifest.schema.hex(),
        "code": manifest.code.hex(),
        "roster": manifest.roster.hex(),
        "leader": manifest.leader,
    }
    try:
        offers = view.log(party).of("offer.received")
        if not offers:
            findings.fail(f"{party} logged no offer")
        for event in offers:
            for field, value in expected.items():
                findings.require(event.text(field) == value, f"{party} was offered another {field}")
    except Missing as missing:
        findings.unproven(str(missing))


def _check_leader(view: View, findings: Findings) -> None:
    manifest = view.manifest
    try:
        offers = view.log(view.leader).of("run.offered")
        if not offers:
            findings.fail("the leader logged no offer")
        for event in offers:
            same = (event.digest("job"), event.digest("plan")) == (
                manifest.job,
                digest(manifest.plan),
            )
            findings.require(same, "the leader logged another job or plan")
    except Missing as missing:
        findings.unproven(str(missing))


def log_inclusion(view: View) -> Claim:
    """Every event is in its party's log, none lacks, and no history was rewritten after a message."""
    findings = Findings("log-inclusion")
    shown = {layout.log_party(name) for name in view.members} - {None}
    for stranger in sorted(shown - set(view.parties), key=str):
        findings.fail(f"there is a log of {stranger}, who is not in the run")
    count = 0
    for party in view.parties:
        log = view.logs[party]
        if isinstance(log, Missing):
            findings.unproven(str(log))
            continue
        if isinstance(log, TacitError):
            findings.fail(log.message)
            continue
        count += len(log.events)
        _check_heads(view, party, log, findings)
        if not log.closed:
            reason = f"the log of {party} ends before the run was closed"
            (findings.fail if view.complete else findings.unproven)(reason)
        elif view.complete:
            findings.require(
                all(event.flag("complete") for event in log.of("run.closed")),
                f"{party} logged that the run did not end as planned",
            )
    if view.complete:
        _check_last_round(view, findings)
    return findings.conclude(
        f"{count} events of {len(view.parties)} parties, none missing up to the end of the run, "
        f"and no history rewritten after any of {len(view.messages)} messages"
    )


def _check_heads(view: View, party: PartyName, log: PartyLog, findings: Findings) -> None:
    """Every head that a party signed in a message is that of a prefix of its final log."""
    for name, head in view.heads.get(party, {}).items():
        if head.size > log.size:
            findings.fail(f"{party} dropped events from its log after {name}")
            continue
        root = log.root_at(head.size)
        if root is None:
            findings.unproven(
                f"{name} was signed before {party} logged anything of the run: nothing shows its log then"
            )
        else:
            findings.require(root == head.root, f"{party} rewrote its log after {name}")


def _check_last_round(view: View, findings: Findings) -> None:
    """A complete run went through all of its rounds; an abort costs the round its number.

    Whether it may have stopped early follows from its sums: ``model-chain`` recomputes it.
    """
    try:
        log, rounds = view.log(view.leader), view.manifest.rounds
    except Missing as missing:
        findings.unproven(str(missing))
        return
    events = [*log.of("round.started"), *log.of("round.aborted")]
    last = max((event.number("round") for event in events), default=0)
    findings.require(
        last == rounds or view.job.evaluation.patience > 0,
        f"the run is marked complete and ends with round {last} of {rounds}",
    )
