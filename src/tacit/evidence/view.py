"""A bundle, opened once: every part decoded, what is wrong remembered, what is missing named."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tacit.errors import DecodeError, RemoteProtocolError, TacitError
from tacit.evidence import layout
from tacit.evidence.accountant import Accountant
from tacit.evidence.disclosed import Disclosure, check_disclosure
from tacit.evidence.head import Head
from tacit.evidence.records import PartyLog, read_log
from tacit.evidence.signatures import Signatures
from tacit.ledger.log import log_origin
from tacit.ledger.note import note_text, open_checkpoint, parse_checkpoint
from tacit.ledger.record import LogRecord
from tacit.party.job import JobSpec
from tacit.party.terms import PROTOCOLS, Terms
from tacit.privacy.plan import Plan
from tacit.secagg.masked import round_context
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName
from tacit.wire.envelope import LogHead, Received
from tacit.wire.messages import Accept, Manifest, Offer

__all__ = ["Missing", "RoundView", "View"]

WITNESSED = b'log.witnessed"'
MANY = 1000
"""Messages that take so long to check that the accountant had better load meanwhile, elsewhere."""


class Missing(Exception):
    """The bundle does not hold what a claim needs."""


@dataclass(frozen=True, slots=True)
class RoundView:
    """The messages of one round, by sender."""

    number: int
    keys: Mapping[PartyName, Received]
    uploads: Mapping[PartyName, Received]
    mask_sums: Mapping[PartyName, Received]
    aggregate: bytes | None


class View:
    """Members of a bundle, decoded.

    Args:
        members: From ``archive.unpack``.
        priced: Whether the plan's price will be asked for: beside many messages the accountant begins
            to load at once.

    Raises:
        DecodeError: Without a readable manifest and roster nothing can be said.
    """

    def __init__(self, members: Mapping[str, bytes], *, priced: bool = False) -> None:
        self.members = members
        if layout.MANIFEST not in members:
            raise DecodeError("evidence.manifest", "the bundle holds no manifest.json")
        self.head = Head.from_canonical(members[layout.MANIFEST])
        self.roster = Roster.from_canonical(members.get(layout.ROSTER, b""))
        self.messages: dict[str, Received] = {}
        self._accountant: Accountant | None = None
        self._priced = priced
        faults = self._open_messages()
        self.faults = [f"{name}: {faults[name]}" for name in members if name in faults]

    def _open_messages(self) -> dict[str, str]:
        """Opens every message; what is wrong with which."""
        names = [n for n in self.members if n == layout.OFFER or layout.place(n) is not None]
        signatures, faults = Signatures(self.roster), {}
        for name in sorted(names, key=lambda name: name != layout.OFFER):
            try:
                self.messages[name] = signatures.open(name, self.members[name])
                body, many = self.messages[name].body, len(names) >= MANY
                if name == layout.OFFER and self._priced and many and isinstance(body, Offer):
                    self._begin_pricing(body)
            except TacitError as error:
                faults[name] = error.message
        forged = signatures.check()
        for name in forged:
            self.messages.pop(name, None)
        return {**faults, **forged}

    def _begin_pricing(self, offer: Offer) -> None:
        """Lets the accountant load for what may be the plan; the offer is not authentic yet."""
        with contextlib.suppress(ValueError, RecursionError, DecodeError):
            plan = Plan.from_record(json.loads(offer.manifest.plan))
            self._accountant = Accountant(plan, beside=True)

    def cost(self, rounds: int | None = None) -> float | None:
        """What so many rounds cost by the exact accountant, all by default; None if there is none."""
        if self._accountant is None or self._accountant.plan != self.plan:
            self.close()
            self._accountant = Accountant(self.plan)
        return self._accountant.charge(rounds)

    def close(self) -> None:
        """Lets go of the accountant."""
        if self._accountant is not None:
            self._accountant.close()

    @property
    def complete(self) -> bool:
        """Whether the leader says that the run ended as planned."""
        return self.head.status == "complete"

    @cached_property
    def offer(self) -> Offer:
        """The offer of the run."""
        message = self.messages.get(layout.OFFER)
        if message is None or not isinstance(message.body, Offer):
            raise Missing("the bundle holds no readable offer")
        return message.body

    @property
    def manifest(self) -> Manifest:
        """What defines the run."""
        return self.offer.manifest

    @property
    def masked(self) -> bool:
        """Whether contributions were masked."""
        return self.manifest.protocol == PROTOCOLS["masked"]

    @cached_property
    def terms(self) -> Terms:
        """The offer's terms, checked as every party of the run checks them, but for the price.

        Raises:
            RemoteProtocolError: They are inconsistent.
        """
        return Terms.of(self.offer, self.roster, priced=False)

    @property
    def plan(self) -> Plan:
        """The privacy plan."""
        return self._consistent_terms().plan

    @property
    def job(self) -> JobSpec:
        """The job."""
        return self._consistent_terms().job

    def _consistent_terms(self) -> Terms:
        try:
            return self.terms
        except RemoteProtocolError as error:
            raise Missing("the offer's terms are inconsistent, see same-job") from error

    @cached_property
    def clients(self) -> tuple[PartyName, ...]:
        """The clients in protocol order."""
        return tuple(PartyName(name) for name in self.manifest.clients)

    @cached_property
    def helpers(self) -> tuple[PartyName, ...]:
        """The helpers in protocol order."""
        return tuple(PartyName(name) for name in self.manifest.helpers)

    @property
    def leader(self) -> PartyName:
        """The leader of the run."""
        return PartyName(self.manifest.leader)

    @cached_property
    def parties(self) -> tuple[PartyName, ...]:
        """Everyone who must have kept a log."""
        return tuple(dict.fromkeys([self.leader, *self.clients, *self.helpers]))

    def accept(self, client: PartyName) -> Received:
        """A client's acceptance.

        Raises:
            Missing: It is not there.
        """
        message = self.messages.get(layout.accept(client))
        if message is None or not isinstance(message.body, Accept):
            raise Missing(f"the acceptance of {client} is not in the bundle")
        return message

    @cached_property
    def uploaders(self) -> tuple[PartyName, ...]:
        """The clients whose uploads the transcript shows, in protocol order."""
        found = {client for round_view in self.rounds for client in round_view.uploads}
        return tuple(client for client in self.clients if client in found)

    @cached_property
    def disclosures(self) -> Mapping[PartyName, Disclosure | Missing | TacitError]:
        """What sites disclose of their policy, checked against their acceptance, or what is wrong."""
        found: dict[PartyName, Disclosure | Missing | TacitError] = {}
        for name, data in self.members.items():
            site = layout.policy_site(name)
            if site is None:
                continue
            try:
                if site not in self.clients:
                    raise DecodeError("evidence.policy", f"{name} is of a stranger to this run")
                accept = self.accept(site).body
                found[site] = check_disclosure(data, site, accept.policy, accept.contract)
            except (Missing, TacitError) as error:
                found[site] = error
        return found

    def disclosure(self, site: PartyName) -> Disclosure | None:
        """What a site discloses of its policy and contract; None if it discloses nothing.

        Raises:
            Missing: What is there does not hold, see ``policy``.
        """
        found = self.disclosures.get(site)
        if isinstance(found, Missing):
            raise found
        if isinstance(found, TacitError):
            raise Missing(f"what {site} discloses of its policy does not hold, see policy")
        return found

    @cached_property
    def rounds(self) -> tuple[RoundView, ...]:
        """All rounds of the transcript, in order."""
        found: dict[int, dict[str, dict[PartyName, Received]]] = {}
        for name in self.members:
            place, closed = layout.place(name), layout.closed_round(name)
            if closed is not None:
                found.setdefault(closed, {})
            if place is None or not place.round:
                continue
            kinds = found.setdefault(place.round, {})
            message = self.messages.get(name)
            # A message in the wrong place is a fault of its own; it must not count here.
            if message is not None and _belongs(message, place):
                kinds.setdefault(place.type, {})[place.party] = message
        return tuple(self._round(number, found[number]) for number in sorted(found))

    @property
    def closed_rounds(self) -> tuple[RoundView, ...]:
        """The rounds whose sum was published."""
        return tuple(view for view in self.rounds if view.aggregate is not None)

    def _round(self, number: int, found: dict[str, dict[PartyName, Received]]) -> RoundView:
        return RoundView(
            number=number,
            keys=found.get("helper-key", {}),
            uploads=found.get("upload", {}),
            mask_sums=found.get("mask-sum", {}),
            aggregate=self.members.get(layout.aggregate(number)),
        )

    def origin(self, party: PartyName) -> str:
        """The name of a party's log, and of its key."""
        return log_origin(self.roster.federation, party)

    def key(self, party: PartyName) -> bytes:
        """A party's public key."""
        return self.roster.member(party).key

    def note(self, party: PartyName) -> bytes:
        """A party's signed checkpoint, with the cosignatures of others."""
        note = self.members.get(layout.checkpoint(party))
        if note is None:
            raise Missing(f"the bundle holds no checkpoint of {party}")
        return note

    @cached_property
    def heads(self) -> Mapping[PartyName, Mapping[str, LogHead]]:
        """What every signed message says of its sender's log, by sender and member."""
        heads: dict[PartyName, dict[str, LogHead]] = {}
        for name, message in self.messages.items():
            heads.setdefault(message.sender.party, {})[name] = message.header.log
        return heads

    @cached_property
    def _witnessed(self) -> Mapping[str, set[int]]:
        """By log, the sizes at which others say to have cosigned it; not believed, they only ask."""
        sizes: dict[str, set[int]] = {}
        lines = (
            line
            for party in self.parties
            for line in self.members.get(layout.events(party), b"").split(b"\n")
            if WITNESSED in line
        )
        for line in lines:
            with contextlib.suppress(
                ValueError, LookupError, TypeError, AttributeError, RecursionError, TacitError
            ):
                fields = json.loads(line)
                size = parse_checkpoint(note_text(fields["note"].encode())).size
                sizes.setdefault(fields["log"], set()).add(size)
        return sizes

    def _read_log(self, party: PartyName) -> PartyLog:
        events = self.members.get(layout.events(party))
        proof = self.members.get(layout.proof(party))
        if events is None or proof is None or layout.checkpoint(party) not in self.members:
            raise Missing(f"the bundle holds no log of {party}")
        origin = self.origin(party)
        opened = open_checkpoint(self.note(party), {origin: self.key(party)})
        if opened.origin != origin:
            raise DecodeError("evidence.log", f"log of {party}: the checkpoint is of another log")
        sizes = {head.size for head in self.heads.get(party, {}).values()}
        sizes |= self._witnessed.get(party, set())
        return read_log(party, self.head.run, LogRecord(events, proof), opened, sizes)

    @cached_property
    def logs(self) -> Mapping[PartyName, PartyLog | Missing | TacitError]:
        """Every party's log with all proofs checked, or why there is none."""
        logs: dict[PartyName, PartyLog | Missing | TacitError] = {}
        for party in self.parties:
            try:
                logs[party] = self._read_log(party)
            except (Missing, TacitError) as error:
                logs[party] = error
        return logs

    def log(self, party: PartyName) -> PartyLog:
        """A party's events of the run.

        Raises:
            Missing: There is no log of this party, or it does not hold (see ``log-inclusion``).
        """
        found = self.logs.get(party)
        if found is None:
            raise Missing(f"{party} is not in the run, see same-job")
        if isinstance(found, Missing):
            raise found
        if isinstance(found, TacitError):
            raise Missing(f"the log of {party} does not hold, see log-inclusion")
        return found

    def logged_cohort(self, number: int) -> tuple[bytes, ...]:
        """The upload digests that the leader logged as the cohort of a round."""
        events = self.log(self.leader).in_round("cohort.fixed", number)
        if len(events) != 1:
            raise Missing(f"the leader logged {len(events)} cohorts for round {number}")
        return events[0].digests("uploads")

    def logged_model(self, number: int) -> Digest:
        """The digest of the model that the leader logged for a round."""
        events = self.log(self.leader).in_round("round.started", number)
        if not events:
            raise Missing(f"the leader logged no start of round {number}")
        return Digest(events[0].digest("model"))

    def context(self, view: RoundView, model: Digest) -> Digest:
        """The context of a round, recomputed from the present helpers' signed keys and a model."""
        present = self.present(view)
        if len(present) < self.plan.min_helpers:
            raise Missing(f"keys of round {view.number} are not there, or too few helpers had one")
        return round_context(
            run=Digest(bytes.fromhex(self.head.run)),
            round_number=view.number,
            roster=self.roster.digest,
            job=Digest(self.manifest.job),
            model=model,
            plan=self.manifest.plan,
            bits=self.plan.ring_bits,
            keys=[(name, view.keys[name].body.key) for name in present],
        )

    def present(self, view: RoundView) -> tuple[PartyName, ...]:
        """The helpers that a round was started with, in protocol order."""
        return tuple(name for name in self.helpers if name in view.keys)


def _belongs(message: Received, place: layout.Place) -> bool:
    return (
        message.header.type == place.type
        and message.sender.party == place.party
        and message.sender.role == place.role
        and message.round == place.round
    )


def inconsistency(view: View) -> str | None:
    """What is wrong with the offer's terms, if anything."""
    try:
        _ = view.terms
    except RemoteProtocolError as error:
        return error.message
    return None
