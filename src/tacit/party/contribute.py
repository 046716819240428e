"""One round at a site: from the model to a signed upload, encrypted to the leader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import RemoteProtocolError
from tacit.learn.server import ServerState
from tacit.party.base import Party
from tacit.party.terms import Terms
from tacit.party.workload import TrainingData, Workload
from tacit.secagg.masked import Masked, mask, round_context
from tacit.secagg.plain import plain_context
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Envelope, Received, digest, split_chunks
from tacit.wire.messages import HelperKey, RoundStart, Upload

__all__ = ["Contribution", "chunk_info", "contribute", "helper_keys", "upload_context"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """An upload that may leave once it is charged and stored."""

    envelope: Envelope
    context: Digest
    model: Digest


def contribute(
    party: Party,
    terms: Terms,
    message: Received,
    model: ServerState,
    training: tuple[Workload, TrainingData],
) -> Contribution:
    """Computes, masks and signs the contribution of one round.

    Raises:
        RemoteProtocolError: A helper key is missing, repeated, stale or not signed by its helper.
    """
    body: RoundStart = message.body
    keys = helper_keys(party, terms, message.round, body.keys)
    workload, data = training
    vector = workload.contribution(model, data, terms.plan, party.ports.entropy)
    context = upload_context(terms, message.round, model.digest, keys)
    hidden = _masked(party, context, keys, vector) if terms.masked else Masked(vector, ())
    reference, chunks = split_chunks(hidden.vector.astype("<u4", copy=False).tobytes(), len(vector))
    upload = Upload(context=context, seeds=hidden.seeds, vector=reference)
    signed = party.send(terms, party.leader(terms), upload, round_number=message.round)
    sealed = tuple(
        party.ports.sealing.seal(chunk, body.leader_key, chunk_info(digest(signed.message), index))
        for index, chunk in enumerate(chunks)
    )
    envelope = Envelope(receiver=signed.receiver, message=signed.message, chunks=sealed)
    return Contribution(envelope=envelope, context=context, model=model.digest)


Keys = Sequence[tuple[PartyName, bytes]]


def upload_context(terms: Terms, round_number: int, model: Digest, keys: Keys) -> Digest:
    """What every honest upload of a round names, and every honest answer too."""
    if not terms.masked:
        return plain_context(run=terms.run, round_number=round_number, model=model)
    return round_context(
        run=terms.run,
        round_number=round_number,
        roster=Digest(terms.manifest.roster),
        job=Digest(terms.manifest.job),
        model=model,
        plan=terms.manifest.plan,
        keys=keys,
    )


def _masked(party: Party, context: Digest, keys: Keys, vector: NDArray[np.uint32]) -> Masked:
    return mask(
        vector,
        context=context,
        client=party.address.party,
        keys=keys,
        sealing=party.ports.sealing,
        entropy=party.ports.entropy,
    )


def helper_keys(party: Party, terms: Terms, round_number: int, signed: Sequence[bytes]) -> Keys:
    """The round's helper keys in the manifest's order, each checked against its helper's signature.

    Raises:
        RemoteProtocolError: The keys are not exactly those of the run's helpers for this round.
    """
    opened = [party.open_signed(raw, terms, HelperKey, "helper") for raw in signed]
    keys = {message.sender.party: message for message in opened}
    if len(keys) != len(opened) or set(keys) != set(terms.helpers):
        raise RemoteProtocolError(
            "round.helper-keys",
            "the round's keys are not those of the run's helpers",
            party=terms.manifest.leader,
        )
    stale = [name for name, message in keys.items() if message.round != round_number]
    if stale:
        raise RemoteProtocolError(
            "round.stale-key",
            f"the key of helper {stale[0]} is not of round {round_number}",
            party=terms.manifest.leader,
        )
    return [(name, keys[name].body.key) for name in terms.helpers]


def chunk_info(upload: Digest, index: int) -> bytes:
    """What an encrypted chunk is bound to: its signed upload message and its place."""
    return b"tacit upload chunk v1\x00" + upload + index.to_bytes(8, "big")
