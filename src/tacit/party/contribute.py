"""One round at a site: from the model to a signed upload, encrypted to the leader."""

from __future__ import annotations

from dataclasses import dataclass, field

from tacit.errors import DecodeError, RemoteProtocolError
from tacit.learn.server import ServerState
from tacit.party.base import Party
from tacit.party.computation import Computation
from tacit.party.context import Keys, helper_keys, upload_context
from tacit.party.terms import Terms
from tacit.party.workload import Carried, TrainingData
from tacit.secagg.masked import Masked, mask_in_place
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Envelope, Received, digest, split_chunks
from tacit.wire.messages import Refusal, RoundStart, Upload

KEY_CHECK = b"tacit key check v1\x00"

NOT_SAMPLED = "client.not-sampled"
"""Said instead of an upload by a client of a run whose sampling leader and helpers may see."""

__all__ = ["NOT_SAMPLED", "Contribution", "chunk_info", "contribute"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What may leave once it is stored, and what the site keeps of the round.

    Args:
        envelope: The upload, to be charged; or word that the client was not sampled, which costs nothing.
        context: What the upload names.
        model: The model that the round trains on.
        carried: For the next round.
        uploads: Whether it is an upload.
    """

    envelope: Envelope
    context: Digest
    model: Digest
    carried: Carried = field(repr=False)
    uploads: bool


def contribute(
    party: Party,
    terms: Terms,
    message: Received,
    model: ServerState,
    training: tuple[Computation, TrainingData, Carried],
) -> Contribution:
    """Computes, masks and signs the contribution of one round.

    Args:
        party: The site.
        terms: The run.
        message: The round's start.
        model: The model that it starts from.
        training: Computation, data, and what was carried of the last round.

    Raises:
        RemoteProtocolError: A helper key is missing, repeated, stale or not signed by its helper.
    """
    body: RoundStart = message.body
    keys = helper_keys(party, terms, message.round, body.keys)
    _check_keys(party, terms, [*keys, (PartyName(terms.manifest.leader), body.leader_key)])
    workload, data, before = training
    made = workload.contribution(model, data, terms.plan, party.ports.entropy, before)
    vector = made.vector
    context = upload_context(terms, message.round, model.digest, keys)
    if terms.plan.visible_sampling and not made.sampled:
        word = Refusal(code=NOT_SAMPLED, culprit="")
        envelope = party.send(terms, party.leader(terms), word, round_number=message.round)
        return Contribution(envelope, context, model.digest, made.carried, uploads=False)
    hidden = Masked(vector, ())
    if terms.masked:
        hidden = mask_in_place(
            vector,
            terms.ring,
            context=context,
            client=party.address.party,
            keys=keys,
            sealing=party.ports.sealing,
            entropy=party.ports.entropy,
        )
    reference, chunks = split_chunks(terms.ring.to_bytes(hidden.vector), len(vector))
    upload = Upload(context=context, seeds=hidden.seeds, vector=reference)
    signed = party.send(terms, party.leader(terms), upload, round_number=message.round)
    sealed = tuple(
        party.ports.sealing.seal(chunk, body.leader_key, chunk_info(digest(signed.message), index))
        for index, chunk in enumerate(chunks)
    )
    envelope = Envelope(receiver=signed.receiver, message=signed.message, chunks=sealed)
    return Contribution(envelope, context, model.digest, made.carried, uploads=True)


def _check_keys(party: Party, terms: Terms, keys: Keys) -> None:
    """Nothing is computed on data for a round whose upload could not be sealed in the end."""
    for name, key in keys:
        try:
            party.ports.sealing.seal(b"", key, KEY_CHECK)
        except DecodeError as error:
            raise RemoteProtocolError(
                "round.key", f"the key of {name} is malformed", party=terms.manifest.leader
            ) from error


def chunk_info(message: Digest, index: int) -> bytes:
    """What an encrypted chunk is bound to: the signed message that names it, and its place."""
    return b"tacit chunk v1\x00" + message + index.to_bytes(8, "big")
