"""What a run of the protocol leaves behind, message by message, and what each adversary sees of it.

A scratch federation keeps what the parties of a real run erase: the private halves of the round keys. With
them a recorded run is opened exactly as far as an adversary's keys would reach, and no further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.encoding import decode
from tacit.algebra.ring import Ring, RingVector
from tacit.errors import DecodeError, LocalProtocolError, SignatureError, TacitError
from tacit.learn.server import ServerState
from tacit.party.contribute import chunk_info
from tacit.party.terms import Terms
from tacit.party.workload import Workload
from tacit.privacy.plan import Plan
from tacit.secagg.masked import mask_sum, open_seeds
from tacit.trust.roster import Roster
from tacit.trust.sealing import HpkeSealing
from tacit.types import Digest, Opener, PartyName
from tacit.wire.envelope import Envelope, Received, join_chunks, open_message
from tacit.wire.messages import Aggregate, HelperKey, MaskSum, RoundStart, Upload

__all__ = [
    "KeepingSealing",
    "Packet",
    "Recorder",
    "Round",
    "Transcript",
    "helper_keys_of",
    "opened_vector",
]

Integers = NDArray[np.int64]


class KeepingSealing:
    """HPKE that keeps a copy of every private key: for scratch federations, never for a real party.

    Args:
        kept: Openers by public key, filled as keys are made.
    """

    def __init__(self, kept: dict[bytes, Opener]) -> None:
        self._inner = HpkeSealing()
        self._kept = kept

    def generate(self) -> Opener:
        """A fresh key pair; the party that asked can erase its half, the copy stays."""
        opener = self._inner.generate()
        self._kept[opener.public_key] = opener
        return _Borrowed(opener)

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        """Encrypts as ``HpkeSealing`` does."""
        return self._inner.seal(plaintext, public_key, info)


class _Borrowed:
    """A key as its party sees it: gone once erased."""

    def __init__(self, opener: Opener) -> None:
        self._public_key = opener.public_key
        self._opener: Opener | None = opener

    @property
    def public_key(self) -> bytes:
        return self._public_key

    def open(self, sealed: bytes, info: bytes) -> bytes:
        if self._opener is None:
            raise LocalProtocolError("trust.erased", "the sealing key of this round was erased")
        return self._opener.open(sealed, info)

    def erase(self) -> None:
        self._opener = None


@dataclass(frozen=True, slots=True)
class Packet:
    """One message as the network sees it: who, to whom, how many bytes; ``kind`` it can only guess."""

    sender: PartyName
    receiver: PartyName
    size: int
    round: int
    kind: str


@dataclass(slots=True)
class Round:
    """One round that was started.

    Args:
        number: From 1.
        state: The server state on which it trained.
        helper_keys: The round's helpers with their public keys, in order.
        uploads: What the leader received of each site, decrypted with its own key: still masked.
        sealed: The sealed seeds of each site, by helper.
        context: What the uploads named.
        answers: Each helper's answer: its masks' sum less its share of the noise.
        cohort: The sites in the sum.
        total: The published sum, centred; None for a round that was lost.
    """

    number: int
    state: ServerState
    helper_keys: tuple[tuple[PartyName, bytes], ...] = ()
    uploads: dict[PartyName, RingVector] = field(default_factory=dict)
    sealed: dict[PartyName, dict[PartyName, bytes]] = field(default_factory=dict)
    context: Digest | None = None
    answers: dict[PartyName, RingVector] = field(default_factory=dict)
    cohort: tuple[PartyName, ...] = ()
    total: Integers | None = None


class Recorder:
    """A tap: copies every envelope.

    Args:
        roster: Whose signatures count.
        model: The coordinator's present model.
    """

    def __init__(self, roster: Roster, model: Callable[[], ServerState | None]) -> None:
        self._roster = roster
        self._model = model
        self._seen: list[tuple[Received, Envelope]] = []
        self._states: dict[int, ServerState] = {}
        self._last: ServerState | None = None

    def __call__(self, envelope: Envelope) -> Envelope:
        """Notes an envelope and passes it on as it is."""
        try:
            message = open_message(envelope.message, self._roster.authenticate)
        except (DecodeError, SignatureError):
            return envelope
        self._last = self._model()
        if isinstance(message.body, RoundStart) and self._last is not None:
            self._states.setdefault(message.round, self._last)
        self._seen.append((message, envelope))
        return envelope

    @property
    def states(self) -> Mapping[int, ServerState]:
        """The leader's model by round, as far as rounds were started."""
        return self._states

    def transcript(
        self,
        terms: Terms,
        workload: Workload,
        openers: Mapping[bytes, Opener],
        refusals: Mapping[PartyName, TacitError],
    ) -> Transcript:
        """What was recorded, opened with the leader's keys."""
        rounds = {number: Round(number, state) for number, state in sorted(self._states.items())}
        starts: dict[int, RoundStart] = {}
        for message, envelope in self._seen:
            kept = rounds.get(message.round)
            body = message.body
            if isinstance(body, RoundStart) and kept is not None:
                starts[message.round] = body
                kept.helper_keys = helper_keys_of(body, self._roster)
                previous = body.previous
                if previous is not None and previous.round in rounds:
                    _note_aggregate(rounds[previous.round], previous, envelope, terms)
            elif isinstance(body, Upload) and kept is not None:
                key = starts[message.round].leader_key
                _note_upload(kept, message, envelope, openers[key], terms)
            elif isinstance(body, MaskSum) and kept is not None:
                data = join_chunks(
                    body.vector, envelope.chunks, body.vector.length, terms.ring.item_bytes
                )
                kept.answers[message.sender.party] = terms.ring.from_bytes(data, body.vector.length)
        self._close_last(rounds, terms)
        return Transcript(
            terms=terms,
            workload=workload,
            rounds=tuple(rounds.values()),
            final=self._model() or self._last,
            packets=tuple(_packet(message, envelope) for message, envelope in self._seen),
            refusals=dict(refusals),
            openers=openers,
        )

    def _close_last(self, rounds: dict[int, Round], terms: Terms) -> None:
        """No round start follows the last sum: it is what uploads and answers add up to."""
        for number in sorted(rounds, reverse=True)[:1]:
            last = rounds[number]
            names = {name for name, _ in last.helper_keys}
            whole = last.uploads and (not terms.masked or names == set(last.answers))
            after = self._model()
            if last.total is None and whole and after is not None and after is not last.state:
                uploads = [last.uploads[name] for name in sorted(last.uploads)]
                total = terms.ring.sum(uploads, len(uploads[0]))
                last.total = terms.ring.centred(_less(total, last.answers.values(), terms.ring))
                last.cohort = tuple(sorted(last.uploads))


def _packet(message: Received, envelope: Envelope) -> Packet:
    return Packet(
        message.sender.party,
        envelope.receiver.party,
        envelope.size,
        int(message.round),
        message.header.type,
    )


def _note_aggregate(kept: Round, aggregate: Aggregate, envelope: Envelope, terms: Terms) -> None:
    if kept.total is not None:
        return
    length = aggregate.vector.length
    data = join_chunks(aggregate.vector, envelope.chunks, length, terms.ring.item_bytes)
    kept.total = terms.ring.centred(terms.ring.from_bytes(data, length))
    kept.cohort = tuple(sorted(PartyName(member.client) for member in aggregate.cohort))


def _note_upload(
    kept: Round, message: Received, envelope: Envelope, opener: Opener, terms: Terms
) -> None:
    body: Upload = message.body
    name = message.sender.party
    kept.uploads[name] = opened_vector(message, envelope, opener, terms.ring)
    kept.sealed[name] = {PartyName(seed.helper): seed.sealed for seed in body.seeds}
    kept.context = Digest(body.context)


def _less(total: RingVector, masks: Iterable[RingVector], ring: Ring) -> RingVector:
    for mask in masks:
        ring.subtract_into(total, mask)
    ring.reduce(total)
    return total


def opened_vector(message: Received, envelope: Envelope, opener: Opener, ring: Ring) -> RingVector:
    """The vector of an upload, decrypted as the leader does."""
    body: Upload = message.body
    chunks = tuple(
        opener.open(chunk, chunk_info(message.digest, index))
        for index, chunk in enumerate(envelope.chunks)
    )
    length = body.vector.length
    return ring.from_bytes(join_chunks(body.vector, chunks, length, ring.item_bytes), length)


def helper_keys_of(start: RoundStart, roster: Roster) -> tuple[tuple[PartyName, bytes], ...]:
    """The helpers that a round's start names, with their public keys."""
    messages = [open_message(raw, roster.authenticate) for raw in start.keys]
    keys: list[tuple[PartyName, HelperKey]] = [(m.sender.party, m.body) for m in messages]
    return tuple((name, key.key) for name, key in keys)


@dataclass(frozen=True)
class Transcript:
    """A recorded run, and the keys to open it as far as an adversary could.

    Attributes:
        terms: The run.
        workload: Its computation, which everybody knows.
        rounds: Every round that was started.
        final: The server state after the last closed round.
        packets: Every message, as the network sees it.
        refusals: What sites and helpers refused, and why.
        openers: Every private key; ``streams`` uses those that the adversary holds.
    """

    terms: Terms
    workload: Workload
    rounds: tuple[Round, ...]
    final: ServerState | None
    packets: tuple[Packet, ...]
    refusals: Mapping[PartyName, TacitError]
    openers: Mapping[bytes, Opener] = field(repr=False)

    @property
    def plan(self) -> Plan:
        """The run's privacy plan."""
        return self.terms.plan

    @property
    def closed(self) -> tuple[Round, ...]:
        """Rounds that published a sum."""
        return tuple(one for one in self.rounds if one.total is not None)

    @property
    def states(self) -> tuple[ServerState, ...]:
        """Every model in order, from the first to the last one."""
        states = [one.state for one in self.rounds]
        if self.final is not None and (not states or self.final is not states[-1]):
            states.append(self.final)
        return tuple(states)

    @cached_property
    def released(self) -> NDArray[np.float64] | None:
        """The parameters that the run releases, ``float64[d]``."""
        return None if self.final is None else self.workload.released(self.final)

    def values(self, integers: Integers) -> NDArray[np.float64]:
        """Centred integers in the units of gradients (``float64``, same shape)."""
        return decode(integers, self.plan.grid)

    def masks(self, one: Round, site: PartyName, helpers: Iterable[PartyName]) -> list[RingVector]:
        """The masks that a site added for these helpers, in the order of the round's keys."""
        wanted, keys = set(helpers), dict(one.helper_keys)
        assert one.context is not None
        ring, length = self.terms.ring, len(one.uploads[site])
        found = []
        for helper in keys:
            if helper in wanted:
                seeds = [(site, one.sealed[site][helper])]
                streams = open_seeds(
                    seeds, context=one.context, helper=helper, opener=self.openers[keys[helper]]
                )
                found.append(mask_sum(streams, ring, length))
        return found

    def less_masks(self, one: Round, site: PartyName, helpers: Iterable[PartyName]) -> RingVector:
        """A site's upload less the masks for these helpers, in the ring."""
        masks = self.masks(one, site, helpers)
        return _less(one.uploads[site].copy(), masks, self.terms.ring)

    def contribution(self, one: Round, site: PartyName) -> Integers:
        """What a site contributed, ``int64[length]``: what a leader with every helper's key sees."""
        names = [name for name, _ in one.helper_keys]
        return self.terms.ring.centred(self.less_masks(one, site, names))

    def noise_share(self, one: Round, helper: PartyName) -> Integers:
        """The noise that a helper added to a round's sum, which it knows: ``int64[length]``."""
        masks = [self.masks(one, site, [helper])[0] for site in one.cohort]
        ring = self.terms.ring
        total = ring.sum(masks, len(masks[0]))
        return ring.centred(_less(total, [one.answers[helper]], ring))
