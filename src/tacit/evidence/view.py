"""A bundle, opened once: every part decoded, what is wrong remembered, what is missing named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tacit.errors import DecodeError, RemoteProtocolError, TacitError
from tacit.evidence import layout
from tacit.evidence.head import Head
from tacit.evidence.records import PartyLog, read_log
from tacit.ledger.log import log_origin
from tacit.ledger.note import open_checkpoint
from tacit.party.job import JobSpec
from tacit.party.terms import PROTOCOLS, Terms
from tacit.privacy.plan import Plan
from tacit.secagg.masked import round_context
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Received, open_message
from tacit.wire.messages import Manifest, Offer

__all__ = ["Missing", "RoundView", "View"]


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

    Raises:
        DecodeError: Without a readable manifest and roster nothing can be said.
    """

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self.members = members
        self.head = Head.from_canonical(members.get(layout.MANIFEST, b""))
        self.roster = Roster.from_canonical(members.get(layout.ROSTER, b""))
        self.messages: dict[str, Received] = {}
        self.faults: list[str] = []
        for name in members:
            if name == layout.OFFER or layout.place(name) is not None:
                self._open(name)

    def _open(self, name: str) -> None:
        try:
            self.messages[name] = open_message(self.members[name], self.roster.authenticate)
        except TacitError as error:
            self.faults.append(f"{name}: {error.message}")

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
        """The offer's terms, checked as every party of the run checks them.

        Raises:
            RemoteProtocolError: They are inconsistent.
        """
        return Terms.of(self.offer, self.roster)

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

    @property
    def clients(self) -> tuple[PartyName, ...]:
        """The clients in protocol order."""
        return tuple(PartyName(name) for name in self.manifest.clients)

    @property
    def helpers(self) -> tuple[PartyName, ...]:
        """The helpers in protocol order."""
        return tuple(PartyName(name) for name in self.manifest.helpers)

    @property
    def leader(self) -> PartyName:
        """The leader of the run."""
        return PartyName(self.manifest.leader)

    @property
    def parties(self) -> tuple[PartyName, ...]:
        """Everyone who must have kept a log."""
        return tuple(dict.fromkeys([self.leader, *self.clients, *self.helpers]))

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

    def _read_log(self, party: PartyName) -> PartyLog:
        events = self.members.get(layout.events(party))
        checkpoint = self.members.get(layout.checkpoint(party))
        if events is None or checkpoint is None:
            raise Missing(f"the bundle holds no log of {party}")
        origin = log_origin(self.roster.federation, party)
        opened = open_checkpoint(checkpoint, {origin: self.roster.member(party).key})
        if opened.origin != origin:
            raise DecodeError("evidence.log", f"log of {party}: the checkpoint is of another log")
        return read_log(party, self.head.run, events, opened)

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
        found = self.logs[party]
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
