"""The parties of a run on the page: what each was trusted with, and what each signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tacit.errors import TacitError
from tacit.evidence import layout
from tacit.evidence.head import check_signatures
from tacit.evidence.page_words import clean
from tacit.evidence.records import PartyLog
from tacit.evidence.trust import Trust
from tacit.evidence.view import Missing, View
from tacit.ledger.note import open_cosigned
from tacit.types import PartyName

__all__ = ["Duties", "Signed", "bystanders", "duties", "signed"]

SHORT = 16
"""Hexadecimal digits of a key that people compare."""

MAX_NAMES = 12
MAX_PARTIES = 200


@dataclass(frozen=True, slots=True)
class Duties:
    """What one party was trusted with.

    Args:
        party: Its name.
        operator: Who runs it, as the roster says.
        region: Where, likewise.
        leads: Whether it led the run.
        data: Whether it contributed data.
        unmasks: Whether it removed masks and added noise.
        witnesses: Whose logs it cosigned.
        approves: Who approved its policy, if it discloses that.
    """

    party: str
    operator: str
    region: str
    leads: bool
    data: bool
    unmasks: bool
    witnesses: str
    approves: str


@dataclass(frozen=True, slots=True)
class Signed:
    """What one party signed.

    Args:
        party: Its name.
        key: First digits of its public key.
        pinned: Whether the trust file knows that key.
        manifest: Whether it signed the manifest.
        messages: How many messages of which kind.
        log: Its log, and who cosigned it.
    """

    party: str
    key: str
    pinned: str
    manifest: str
    messages: str
    log: str


def duties(view: View, trust: Trust | None) -> tuple[Duties, ...]:
    """Parties of the run, and what each was trusted with; the first ``MAX_PARTIES``.

    Raises:
        Missing: The bundle holds no readable offer.
    """
    parties = view.parties[:MAX_PARTIES]
    cosigners = _cosigners(view, parties, trust)
    clients, helpers = set(view.clients), set(view.helpers)
    return tuple(
        Duties(
            party=clean(party),
            operator=clean(view.roster.member(party).operator),
            region=clean(view.roster.member(party).region),
            leads=party == view.leader,
            data=party in clients,
            unmasks=party in helpers,
            witnesses=_cosigned_by(party, cosigners),
            approves=_approvers(view, party) if party in clients else "",
        )
        for party in parties
    )


def _cosigners(
    view: View, parties: Sequence[PartyName], trust: Trust | None
) -> dict[PartyName, tuple[str, ...] | None]:
    """Who cosigned the log of each party; None where that does not hold or is not there."""
    members = {view.origin(member.name): member.name for member in view.roster.members}
    keys = {**(trust.witnesses if trust is not None else {})}
    keys |= {origin: view.key(name) for origin, name in members.items()}
    found: dict[PartyName, tuple[str, ...] | None] = {}
    for party in parties:
        try:
            owner = (view.origin(party), view.key(party))
            _, times, _ = open_cosigned(view.note(party), owner, keys)
        except (Missing, TacitError):
            found[party] = None
        else:
            found[party] = tuple(members.get(name, PartyName(name)) for name in times)
    return found


def _cosigned_by(party: PartyName, cosigners: Mapping[PartyName, tuple[str, ...] | None]) -> str:
    """Whose logs a party cosigned, or what is not known of that."""
    names = [log for log, found in cosigners.items() if found is not None and party in found]
    others = len(cosigners) - 1
    if others and len(names) == others:
        return f"all {others} others"
    return _list(names) if names else "none"


def _approvers(view: View, party: PartyName) -> str:
    try:
        found = view.disclosure(party)
    except Missing:
        return "does not hold"
    return "not disclosed" if found is None else _list(found.approvers)


def bystanders(view: View) -> tuple[str, ...]:
    """Members of the federation that had no part in the run; the first ``MAX_PARTIES``."""
    try:
        parties = set(view.parties)
    except Missing:
        return ()
    others = [clean(m.name) for m in view.roster.members if m.name not in parties]
    return tuple(others[:MAX_PARTIES])


def signed(view: View, trust: Trust | None) -> tuple[Signed, ...]:
    """Whose signatures the bundle holds, over what; of the first ``MAX_PARTIES``.

    Raises:
        Missing: The bundle holds no readable offer.
    """
    manifest, parties = _manifest_signers(view), view.parties[:MAX_PARTIES]
    cosigners = _cosigners(view, parties, trust)
    return tuple(
        Signed(
            party=clean(party),
            key=view.key(party).hex()[:SHORT],
            pinned=_pinned(view, trust, party),
            manifest="not valid" if manifest is None else "yes" if party in manifest else "no",
            messages=_messages(view, party),
            log=_log(view, party, cosigners[party]),
        )
        for party in parties
    )


def _manifest_signers(view: View) -> frozenset[PartyName] | None:
    """Who signed the manifest; None if a signature does not hold."""
    note, manifest = (view.members.get(name, b"") for name in (layout.SIGNATURE, layout.MANIFEST))
    keys = {party: view.key(party) for party in view.parties}
    try:
        return check_signatures(note, manifest, view.head.federation, keys)
    except TacitError:
        return None


def _pinned(view: View, trust: Trust | None, party: PartyName) -> str:
    """Whether the trust file knows the key under which the bundle has a party."""
    if trust is None:
        return "no trust file"
    keys = {member.name: member.key for member in trust.roster.members}
    if party not in keys:
        return "unknown to it"
    return "same key" if keys[party] == view.key(party) else "ANOTHER KEY"


def _messages(view: View, party: PartyName) -> str:
    counts: dict[str, int] = {}
    for message in view.messages.values():
        if message.sender.party == party:
            kind = message.header.type
            counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} {clean(kind)}" for kind, count in sorted(counts.items())) or "none"


def _log(view: View, party: PartyName, by: tuple[str, ...] | None) -> str:
    found = view.logs[party]
    if not isinstance(found, PartyLog):
        return clean(found.message if isinstance(found, TacitError) else found)
    end = "closed" if found.closed else "not closed"
    seen = "cosignatures do not hold" if by is None else f"cosigned by {_list(by) or 'nobody'}"
    return f"{len(found.events)} events, {end}; {seen}"


def _list(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    shown = ", ".join(clean(name) for name in names[:MAX_NAMES])
    return shown + (f" and {more} more" if more > 0 else "")
