"""A leader that lies about the model, over the real protocol: which sites train on what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring
from tacit.attack.scratch import LEADER, ScratchFederation
from tacit.errors import DecodeError, SignatureError
from tacit.learn.server import ServerState
from tacit.types import Digest, PartyName
from tacit.wire.envelope import (
    Address,
    Channel,
    Envelope,
    Received,
    digest,
    join_chunks,
    open_message,
    sign_message,
)
from tacit.wire.messages import RoundStart, Upload, Vector

__all__ = ["Lie", "Outcome", "another_model", "forged_sum", "tell"]

Floats = NDArray[np.float64]

Lie = Callable[[ScratchFederation, Received, Envelope], Envelope | None]
"""Another round start than the leader's own, signed with its key; None where the lie does not apply."""


@dataclass(slots=True)
class Outcome:
    """What came of a lie.

    Args:
        told: Sites that were told it.
        trained: Sites that uploaded in that round after they were told.
        codes: Error codes of those that refused, by site.
    """

    told: set[PartyName] = field(default_factory=set)
    trained: set[PartyName] = field(default_factory=set)
    codes: dict[PartyName, str] = field(default_factory=dict)


def tell(scratch: ScratchFederation, lie: Lie, round_number: int) -> Outcome:
    """Runs up to a round and lies to every site in it.

    Args:
        scratch: A fresh federation.
        lie: What to tell.
        round_number: Where to.
    """
    outcome = Outcome()

    def tap(envelope: Envelope) -> Envelope | None:
        try:
            message = open_message(envelope.message, scratch.roster.authenticate)
        except (DecodeError, SignatureError):
            return envelope
        if message.round != round_number:
            return envelope if message.round < round_number else None
        if isinstance(message.body, Upload):
            if message.sender.party in outcome.told:
                outcome.trained.add(message.sender.party)
            return envelope
        if not isinstance(message.body, RoundStart):
            return envelope
        told = lie(scratch, message, envelope)
        if told is not None:
            outcome.told.add(envelope.receiver.party)
        return envelope if told is None else told

    transcript = scratch.run(tap, rounds=round_number)
    outcome.codes = {name: error.code for name, error in transcript.refusals.items()}
    return outcome


def another_model(crafted: Floats) -> Lie:
    """The round trains, it says, on the crafted weights."""
    zero = np.zeros_like(crafted)
    state = ServerState(crafted, zero, zero, zero, averaged=0, steps=0)

    def lie(scratch: ScratchFederation, message: Received, envelope: Envelope) -> Envelope:
        body = dataclasses.replace(message.body, model=state.digest)
        return _signed(scratch, message, envelope.receiver, body, envelope.chunks)

    return lie


def forged_sum(crafted: Floats, *, within_bound: bool) -> Lie:
    """The last sum was, it says, one that leads to the crafted weights, or as far there as the norm allows.

    Every digest and the next model are made to fit; only what the helpers signed cannot be.

    Args:
        crafted: Weights, ``float64[d]``.
        within_bound: Keep below the largest norm that a site accepts, and steer only part of the way.
    """

    def lie(scratch: ScratchFederation, message: Received, envelope: Envelope) -> Envelope | None:
        body: RoundStart = message.body
        if body.previous is None or scratch.leader.model is None:
            return None
        plan, workload = scratch.terms.plan, scratch.workload
        ring, length = scratch.terms.ring, scratch.terms.manifest.length
        before = scratch.recorder.states.get(message.round - 1)
        if before is None:
            return None
        units = (before.theta - crafted) / scratch.job.training.learning_rate
        wanted = np.zeros(length)
        wanted[: workload.dimension] = units * plan.divisor / plan.grid
        bound = plan.aggregate_norm_bound(length)
        norm = float(np.linalg.norm(wanted))
        reach = float(2 ** (scratch.terms.plan.ring_bits - 2))
        largest = max(float(np.abs(wanted).max()), 1e-300)
        factor = min(1.0, reach / largest)
        if within_bound:
            factor = min(factor, 0.9 * bound / max(norm, 1e-300))
        total = np.rint(wanted * factor).astype(np.int64)
        vector, chunks = _chunked(ring, total, body.previous.vector, envelope.chunks)
        after = workload.step(before, total, plan)
        previous = dataclasses.replace(body.previous, vector=vector)
        made = dataclasses.replace(body, previous=previous, model=after.digest)
        return _signed(scratch, message, envelope.receiver, made, chunks)

    return lie


def _chunked(
    ring: Ring, total: NDArray[np.int64], like: Vector, chunks: Sequence[bytes]
) -> tuple[Vector, tuple[bytes, ...]]:
    """A vector cut as the one it replaces."""
    data = bytes(ring.to_bytes(ring.from_integers(total)))
    assert len(data) == len(join_chunks(like, chunks, like.length, ring.item_bytes))
    parts, start = [], 0
    for chunk in chunks:
        parts.append(data[start : start + len(chunk)])
        start += len(chunk)
    return Vector(like.length, tuple(digest(part) for part in parts)), tuple(parts)


def _signed(
    scratch: ScratchFederation,
    message: Received,
    receiver: Address,
    body: RoundStart,
    chunks: Sequence[bytes],
) -> Envelope:
    header = message.header
    channel = Channel(
        run=Digest(header.run),
        roster=Digest(header.roster),
        job=Digest(header.job),
        sender=message.sender,
        signer=scratch.identities[LEADER],
        log=header.log,
    )
    return sign_message(channel, receiver, body, round_number=message.round, chunks=chunks)
