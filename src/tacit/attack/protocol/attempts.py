"""The lies: each takes an honest message of the leader and returns what a malicious one would send."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from tacit.attack.protocol.leader import Attempt, MaliciousLeader
from tacit.learn.server import ServerState
from tacit.party.workload import first_model_seed
from tacit.types import PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import Address, Envelope, Received, digest
from tacit.wire.messages import HelperKey, Offer, RoundStart, Upload

__all__ = ["ATTEMPTS", "crafted_state", "equivocated_start", "forged_sum", "no_aggregate"]


def crafted_state(leader: MaliciousLeader, state: ServerState) -> ServerState:
    """A model of the leader's choice: the honest one with every parameter moved."""
    return dataclasses.replace(state, theta=state.theta + 1.0)


def crafted_first_model(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """Round 1 on a model of the leader's choice."""
    state = leader.scratch.leader.model
    assert state is not None
    return leader.again(envelope, message, model=crafted_state(leader, state).digest)


def crafted_later_model(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """A later round on a model of the leader's choice, beside the true sum."""
    return crafted_first_model(leader, envelope, message)


def no_aggregate(leader: MaliciousLeader, envelope: Envelope, message: Received) -> Envelope | None:
    """A later round on the first model, as if the round before had been lost."""
    first: RoundStart = leader.starts(1).body
    accepts, model = first.accepts, first.model
    return leader.again(envelope, message, chunks=(), accepts=accepts, previous=None, model=model)


def forged_sum(
    leader: MaliciousLeader, envelope: Envelope, message: Received, reach: float
) -> Envelope | None:
    """A made-up sum of ``reach`` times the norm bound, and the model that follows from it."""
    body: RoundStart = message.body
    workload, plan = leader.scratch.workload, leader.scratch.terms.plan
    length = leader.scratch.terms.manifest.length
    before = leader.scratch.leader.durable.get("model-before")
    if body.previous is None or before is None:
        return None
    size = reach * plan.aggregate_norm_bound(length) / np.sqrt(length)
    total = np.full(length, round(size), dtype=np.int64)
    vector, chunks = leader.vector(total)
    state = workload.step(ServerState.from_bytes(before), total, plan)
    previous = dataclasses.replace(body.previous, vector=vector)
    return leader.again(envelope, message, chunks=chunks, previous=previous, model=state.digest)


def sum_beyond_bound(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """A made-up sum that is too large to be honest."""
    return forged_sum(leader, envelope, message, 1.01)


def sum_without_answer(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The sum without one helper's signed answer."""
    body: RoundStart = message.body
    if body.previous is None or not body.previous.answers:
        return None
    return leader.again(
        envelope,
        message,
        previous=dataclasses.replace(body.previous, answers=body.previous.answers[1:]),
    )


def sum_without_member(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The sum under the names of all but one of its cohort."""
    body: RoundStart = message.body
    if body.previous is None:
        return None
    rest = tuple(one for one in body.previous.cohort if one.client != leader.victim)
    return leader.again(envelope, message, previous=dataclasses.replace(body.previous, cohort=rest))


def replayed_round(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """Round 1 once more, for a second upload on the same model."""
    opener = leader.scratch.leader.ports.sealing.generate()
    first: RoundStart = leader.starts(1).body
    body = dataclasses.replace(first, leader_key=opener.public_key)
    return leader.speak(envelope.receiver, body, number=1)


def stale_helper_keys(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The helpers' keys of the round before."""
    body: RoundStart = message.body
    return leader.again(envelope, message, keys=leader.starts(1).body.keys) if body.keys else None


def own_helper_keys(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """Keys in the helpers' names whose private halves the leader holds."""
    body: RoundStart = message.body
    if not body.keys:
        return None
    keys = []
    for raw in body.keys:
        key = leader.opened(raw)
        receiver = Address.parse(key.header.receiver)
        keys.append(leader.key_of(key.sender.party, key.round, receiver))
    return leader.again(envelope, message, keys=tuple(keys))


def colluding_helpers_only(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """All helpers are said to be absent but those that the leader controls."""
    body: RoundStart = message.body
    ours = tuple(raw for raw in body.keys if leader.opened(raw).sender.party in leader.colluding)
    return leader.again(envelope, message, keys=ours) if body.keys else None


def no_helpers(leader: MaliciousLeader, envelope: Envelope, message: Received) -> Envelope | None:
    """No helper at all: the upload would come in the clear."""
    return leader.again(envelope, message, keys=()) if message.body.keys else None


def victim_without_helper(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The victim's own helper is said to be absent."""
    body: RoundStart = message.body
    others = tuple(raw for raw in body.keys if leader.opened(raw).sender.party != leader.victim)
    return leader.again(envelope, message, keys=others) if body.keys else None


def smaller_offer(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The run once more, with cohorts of one."""
    offer: Offer = leader.scratch.offer
    manifest = dataclasses.replace(offer.manifest, min_cohort=1, nonce=bytes(32))
    return leader.speak(
        envelope.receiver,
        dataclasses.replace(offer, manifest=manifest),
        number=0,
        run=digest(encode(manifest)),
    )


# --- to a helper ---------------------------------------------------------------------------------


def cohort_of_one(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The victim's masks alone."""
    return leader.again(envelope, message, uploads=(_upload(leader, message, leader.victim),))


def cohort_too_small(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """One upload less than the smallest cohort."""
    least = leader.scratch.terms.manifest.min_cohort
    return leader.again(envelope, message, uploads=message.body.uploads[: least - 1])


def repeated_upload(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The victim's upload stands for everybody's."""
    own = _upload(leader, message, leader.victim)
    return leader.again(envelope, message, uploads=(own,) * len(message.body.uploads))


def sybils(leader: MaliciousLeader, envelope: Envelope, message: Received) -> Envelope | None:
    """Beside the victim's upload some of clients that the roster does not know."""
    own = _upload(leader, message, leader.victim)
    body: Upload = leader.opened(own).body
    receiver = leader.scratch.leader.address
    made = tuple(
        leader.speak(
            receiver, body, number=message.round, sender=Address(PartyName(name), "client")
        ).message
        for name in ("sybil-1", "sybil-2", "sybil-3")
    )
    return leader.again(envelope, message, uploads=(own, *made))


def impersonated_clients(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """Beside the victim's upload some in honest clients' names, signed by the leader."""
    made = []
    for raw in message.body.uploads:
        one = leader.opened(raw)
        if one.sender.party == leader.victim:
            made.append(raw)
            continue
        receiver = Address.parse(one.header.receiver)
        forged = leader.speak(receiver, one.body, number=message.round, sender=one.sender)
        made.append(forged.message)
    return leader.again(envelope, message, uploads=tuple(made))


def upload_of_last_round(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The victim's upload of the round before, for a second sum that it is in."""
    old = [one.raw for one in leader.bodies(Upload, 1) if one.sender.party == leader.victim]
    rest = tuple(
        raw for raw in message.body.uploads if leader.opened(raw).sender.party != leader.victim
    )
    return leader.again(envelope, message, uploads=(*old, *rest)) if old else None


def copied_seeds(leader: MaliciousLeader, envelope: Envelope, message: Received) -> Envelope | None:
    """The victim's sealed seeds in a colluding client's upload, so that its masks count twice."""
    bad = min(leader.colluding)
    victim = leader.opened(_upload(leader, message, leader.victim))
    own = leader.opened(_upload(leader, message, bad))
    forged = leader.speak(
        Address.parse(own.header.receiver),
        dataclasses.replace(own.body, seeds=victim.body.seeds),
        number=message.round,
        sender=own.sender,
        signer=bad,
    )
    uploads = tuple(forged.message if raw == own.raw else raw for raw in message.body.uploads)
    return leader.again(envelope, message, uploads=uploads)


def other_model_named(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """Another model than the uploads were made for."""
    return leader.again(envelope, message, model=hashlib.sha256(message.body.model).digest())


def other_keys_named(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """The helper's key of the round before among the keys."""
    old = {one.sender.party: one.raw for one in leader.bodies(HelperKey, 1)}
    keys = tuple(old.get(leader.opened(raw).sender.party, raw) for raw in message.body.keys)
    return leader.again(envelope, message, keys=keys)


def asked_twice(leader: MaliciousLeader, envelope: Envelope, message: Received) -> Envelope | None:
    """After the whole cohort, the same without the victim: the difference would be its masks."""
    rest = tuple(
        raw for raw in message.body.uploads if leader.opened(raw).sender.party != leader.victim
    )
    return leader.again(envelope, message, uploads=rest)


def _upload(leader: MaliciousLeader, message: Received, name: PartyName) -> bytes:
    (found,) = [raw for raw in message.body.uploads if leader.opened(raw).sender.party == name]
    return bytes(found)


def equivocated_start(
    leader: MaliciousLeader, envelope: Envelope, message: Received
) -> Envelope | None:
    """To the victim alone: a colluding client's second acceptance, so that it derives another first model.

    None where the model does not depend on acceptances.
    """
    body: RoundStart = message.body
    accepts, nonces = [], []
    for raw in body.accepts:
        one = leader.opened(raw)
        content, signed = one.body, raw
        if one.sender.party in leader.colluding:
            content = dataclasses.replace(content, nonce=bytes(32))
            signed = leader.speak(
                Address.parse(one.header.receiver),
                content,
                number=0,
                sender=one.sender,
                signer=one.sender.party,
            ).message
        accepts.append(signed)
        nonces.append((one.sender.party, content.nonce))
    model = leader.scratch.workload.first(first_model_seed(nonces)).digest
    if model == body.model:
        return None
    return leader.again(envelope, message, accepts=tuple(accepts), model=model)


_SITE = {
    1: (crafted_first_model, own_helper_keys, colluding_helpers_only, no_helpers, smaller_offer),
    2: (
        crafted_later_model, sum_beyond_bound, sum_without_answer,
        sum_without_member, replayed_round, stale_helper_keys, victim_without_helper,
    ),
}  # fmt: skip
_HELPER = (
    cohort_of_one, cohort_too_small, repeated_upload, sybils, impersonated_clients,
    upload_of_last_round, copied_seeds, other_model_named, other_keys_named,
)  # fmt: skip


def _name(forge: object) -> str:
    return getattr(forge, "__name__", "").replace("_", "-")


ATTEMPTS: tuple[Attempt, ...] = (
    *(
        Attempt(_name(forge), "client", number, forge)
        for number, group in _SITE.items()
        for forge in group
    ),
    *(Attempt(_name(forge), "helper", 2, forge) for forge in _HELPER),
    Attempt(_name(asked_twice), "helper", 2, asked_twice, after=True),
)
