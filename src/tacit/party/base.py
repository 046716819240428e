"""What all parties share: ports, log, signing and opening of messages, and durable state of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tacit.errors import RemoteProtocolError
from tacit.ledger.log import Log, log_origin
from tacit.party.terms import Terms
from tacit.trust.roster import Roster
from tacit.types import (
    Digest,
    Entropy,
    Milliseconds,
    ParallelMap,
    PartyName,
    Role,
    Sealing,
    Signer,
    Store,
)
from tacit.wire.codec import encode
from tacit.wire.envelope import (
    Address,
    Channel,
    Envelope,
    LogHead,
    Received,
    digest,
    open_message,
    sign_message,
)
from tacit.wire.messages import MAX_SIGNED, Offer

__all__ = [
    "Party",
    "Ports",
    "RunState",
    "drop_envelope",
    "keep_envelope",
    "kept_envelope",
    "log_head",
]

MAX_REFUSED = 1024
"""Refused messages that a party remembers, so that a replay of one costs nothing."""
MAX_TERMS = 64
"""Runs whose terms stay in memory; older ones are read again from the store."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a party needs from the world."""

    entropy: Entropy
    signer: Signer
    sealing: Sealing
    store: Store
    log: Log
    parallel: ParallelMap = map

    @classmethod
    def of(
        cls,
        party: PartyName,
        roster: Roster,
        *,
        entropy: Entropy,
        signer: Signer,
        sealing: Sealing,
        store: Store,
        parallel: ParallelMap = map,
    ) -> Ports:
        """Ports with the party's log over its store; ``parallel`` may use several cores.

        Raises:
            LedgerError: The stored log was tampered with.
        """
        log = Log(store, log_origin(roster.federation, party), signer)
        return cls(
            entropy=entropy,
            signer=signer,
            sealing=sealing,
            store=store,
            log=log,
            parallel=parallel,
        )


class RunState:
    """The durable values of one run at one party: small typed reads and writes over the store."""

    def __init__(self, store: Store, role: Role, run: str) -> None:
        self._store = store
        self._space = f"{role}/{run}"

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        return self._store.get(self._space, key)

    def put(self, key: str, value: bytes) -> None:
        """Writes a value, inside a transaction."""
        self._store.put(self._space, key, value)

    def delete(self, key: str) -> None:
        """Removes a value, inside a transaction."""
        self._store.delete(self._space, key)

    def number(self, key: str) -> int:
        """An integer; 0 when absent."""
        value = self.get(key)
        return int(value) if value is not None else 0

    def put_number(self, key: str, value: int) -> None:
        """Writes an integer, inside a transaction."""
        self.put(key, str(value).encode())

    def items(self, prefix: str) -> list[tuple[str, bytes]]:
        """All pairs whose key begins with ``prefix``, without it, in key order."""
        return [
            (key.removeprefix(prefix), value)
            for key, value in self._store.items(self._space, prefix)
        ]


class Party:
    """Signing, opening and logging under one address.

    Args:
        address: Who this is, in which role.
        roster: The pinned roster.
        ports: The world.
    """

    def __init__(self, address: Address, roster: Roster, ports: Ports) -> None:
        self.address = address
        self.roster = roster
        self.ports = ports
        self._terms: dict[str, Terms] = {}
        self._seen: dict[Digest, None] = {}

    def state(self, run: str) -> RunState:
        """The durable values of a run in this role."""
        return RunState(self.ports.store, self.address.role, run)

    def known_terms(self, run: str) -> Terms | None:
        """The terms of a run whose offer this party stored; None for an unknown run."""
        terms = self._terms.get(run)
        if terms is None:
            raw = self.state(run).get("offer")
            if raw is None:
                return None
            terms = Terms.of(self.open(raw).body, self.roster)
            while len(self._terms) >= MAX_TERMS:
                del self._terms[next(iter(self._terms))]
            self._terms[run] = terms
        return terms

    def open(self, raw: bytes, chunks: Sequence[bytes] = (), *, limit: int = 0) -> Received:
        """Opens a message that must be addressed to this party.

        Raises:
            DecodeError: Not a valid message.
            SignatureError: Not signed by the sender that it names.
            RemoteProtocolError: Addressed to somebody else.
        """
        received = self.open_copy(raw, chunks, limit=limit)
        if received.header.receiver != str(self.address):
            raise RemoteProtocolError(
                "message.receiver",
                f"{received.sender} sent {self.address} a message for {received.header.receiver}",
                party=received.sender.party,
            )
        return received

    def open_copy(self, raw: bytes, chunks: Sequence[bytes] = (), *, limit: int = 0) -> Received:
        """Opens a signed message whoever it is addressed to."""
        if limit:
            return open_message(raw, self.roster.authenticate, limit=limit, chunks=chunks)
        return open_message(raw, self.roster.authenticate, chunks=chunks)

    def seen_before(self, message: Received) -> bool:
        """Whether this very message was refused before; the last ones only, in memory."""
        if message.digest in self._seen:
            return True
        while len(self._seen) >= MAX_REFUSED:
            del self._seen[next(iter(self._seen))]
        self._seen[message.digest] = None
        return False

    def leads(self, message: Received, terms: Terms) -> bool:
        """Whether a message is the run's leader's own; anybody else's is not worth an answer."""
        header = message.header
        return message.sender == self.leader(terms) and (
            header.run,
            header.job,
            header.roster,
        ) == (terms.run, terms.manifest.job, terms.manifest.roster)

    def offered(self, message: Received) -> Terms | None:
        """The terms of an offer; None when it is not its leader's own, before any work is spent.

        Raises:
            RemoteProtocolError: The offer is inconsistent or unsafe.
        """
        offer: Offer = message.body
        leader = Address(PartyName(offer.manifest.leader), "leader")
        if message.sender != leader or message.header.run != digest(encode(offer.manifest)):
            return None
        terms = Terms.of(offer, self.roster)
        return terms if self.leads(message, terms) else None

    def open_signed(self, raw: bytes, terms: Terms, kind: type, role: Role) -> Received:
        """Opens a message that another one carries; it must belong to the same run.

        Raises:
            DecodeError, SignatureError: As ``open``.
            RemoteProtocolError: Another run, job, kind of message or role.
        """
        received = self.open_copy(raw, limit=MAX_SIGNED)
        header = received.header
        expected = (terms.run, terms.manifest.roster, terms.manifest.job)
        if (
            (header.run, header.roster, header.job) != expected
            or not isinstance(received.body, kind)
            or received.sender.role != role
        ):
            raise RemoteProtocolError(
                "message.carried",
                f"a message of {received.sender} was carried into another place than it was made for",
                party=received.sender.party,
            )
        return received

    def send(
        self,
        terms: Terms,
        receiver: Address,
        body: Any,
        *,
        round_number: int = 0,
        chunks: Sequence[bytes] = (),
    ) -> Envelope:
        """Signs ``body`` for ``receiver``, and the head of this party's log with it."""
        channel = Channel(
            run=terms.run,
            roster=Digest(terms.manifest.roster),
            job=Digest(terms.manifest.job),
            sender=self.address,
            signer=self.ports.signer,
            log=log_head(self.ports.log),
        )
        return sign_message(channel, receiver, body, round_number=round_number, chunks=chunks)

    def leader(self, terms: Terms) -> Address:
        """The address of the run's leader."""
        return Address(PartyName(terms.manifest.leader), "leader")

    def log(self, terms: Terms, now: Milliseconds, kind: str, **fields: Any) -> None:
        """Appends an event of the run, inside a transaction."""
        event = {"type": kind, "role": self.address.role, "run": terms.run_id, **fields}
        self.ports.log.append(event, now)

    def act(self, now: Milliseconds, kind: str, **fields: Any) -> None:
        """Appends an event of the party's own, which belongs to no run, inside a transaction."""
        self.ports.log.append({"type": kind, "role": self.address.role, **fields}, now)

    def note_start(self, now: Milliseconds) -> None:
        """Logs that a party with a history goes on: what was only in memory is lost."""
        if len(self.ports.log):
            with self.ports.store.transaction():
                self.act(now, "party.restarted")


def log_head(log: Log) -> LogHead:
    """What a party's messages say of its log now."""
    head = log.head()
    return LogHead(head.size, head.root)


def keep_envelope(state: RunState, key: str, envelope: Envelope) -> None:
    """Stores an envelope under ``key``, chunk by chunk, inside a transaction."""
    state.put(key, envelope.message)
    state.put_number(f"{key}/chunks", len(envelope.chunks))
    for index, chunk in enumerate(envelope.chunks):
        state.put(f"{key}/chunk/{index}", chunk)


def kept_envelope(state: RunState, key: str, receiver: Address) -> Envelope | None:
    """The envelope that was stored under ``key``, byte for byte; None if there is none."""
    message = state.get(key)
    if message is None:
        return None
    count = state.number(f"{key}/chunks")
    chunks = [state.get(f"{key}/chunk/{index}") or b"" for index in range(count)]
    return Envelope(receiver=receiver, message=message, chunks=tuple(chunks))


def drop_envelope(state: RunState, key: str) -> None:
    """Removes what ``keep_envelope`` stored, inside a transaction."""
    for index in range(state.number(f"{key}/chunks")):
        state.delete(f"{key}/chunk/{index}")
    state.delete(f"{key}/chunks")
    state.delete(key)
