"""What corrupt parties do: each function takes one message of theirs and returns what leaves instead.

A misdeed that does not apply to a message returns None, and the next one gets its chance.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence

from tacit.engine.simulator.intruder import Adversary, Misdeed
from tacit.engine.simulator.oracle import seal_info
from tacit.party.workload import first_model_seed
from tacit.types import PartyName
from tacit.wire.envelope import Address, Envelope, Received, digest
from tacit.wire.messages import (
    Accept,
    Aggregate,
    CatchUp,
    Finish,
    HelperKey,
    Kept,
    KeyRequest,
    MaskRequest,
    MaskSum,
    Offer,
    Refusal,
    RoundAbort,
    RoundStart,
    Upload,
    Vector,
)

__all__ = ["ABSENCE", "CLIENT", "EARS", "HELPER", "LEADER"]

Out = Sequence[Envelope] | None


# --- a corrupt leader ----------------------------------------------------------------------------


def equivocate_cohorts(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Every helper is asked about another cohort."""
    body = message.body
    if not isinstance(body, MaskRequest) or len(body.uploads) < 2:
        return None
    left_out = adversary.random.randrange(len(body.uploads))
    rest = tuple(raw for i, raw in enumerate(body.uploads) if i != left_out)
    return [adversary.again(envelope, message, uploads=rest)]


def ask_twice(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A helper is asked about a cohort, and about the same without one, in some order."""
    body = message.body
    if not isinstance(body, MaskRequest) or len(body.uploads) < 2:
        return None
    left_out = adversary.random.randrange(len(body.uploads))
    rest = tuple(raw for i, raw in enumerate(body.uploads) if i != left_out)
    both = [envelope, adversary.again(envelope, message, uploads=rest), envelope]
    adversary.random.shuffle(both)
    return both


def small_cohort(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """All helpers are asked about the same one or two uploads."""
    body = message.body
    if not isinstance(body, MaskRequest):
        return None
    size = 1 + message.round % 2
    few = tuple(sorted(body.uploads))[:size]
    return [adversary.again(envelope, message, uploads=few), envelope]


def one_operator(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """All helpers are asked about clients of as few operators as there are."""
    body = message.body
    if not isinstance(body, MaskRequest):
        return None
    roster, cohort = adversary.cluster.roster, adversary.cluster.terms.manifest.min_cohort
    sites = Counter(roster.member(name).operator for name in adversary.cluster.sites)
    names = {raw: adversary.cluster.read(Envelope(message.sender, raw)) for raw in body.uploads}
    ordered = sorted(
        body.uploads,
        key=lambda raw: -sites[roster.member(names[raw].sender.party).operator],
    )
    return [adversary.again(envelope, message, uploads=tuple(ordered[:cohort])), envelope]


def repeat_uploads(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """One upload stands for several."""
    body = message.body
    if not isinstance(body, MaskRequest):
        return None
    one = adversary.random.choice(body.uploads)
    return [adversary.again(envelope, message, uploads=(one,) * len(body.uploads))]


def swap_keys(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A helper's key is replaced by one whose private half the adversary holds, signed by itself."""
    body = message.body
    if not isinstance(body, RoundStart) or not body.keys:
        return None
    opener = adversary.cluster.leader.ports.sealing.generate()
    keys = []
    for raw in body.keys:
        key = adversary.cluster.read(Envelope(message.sender, raw))
        forged = adversary.speak(
            key.sender,
            Address.parse(key.header.receiver),
            HelperKey(opener.public_key),
            number=key.round,
        )
        keys.append(raw if key.sender.party in adversary.corrupt else forged.message)
    return [adversary.again(envelope, message, keys=tuple(keys)), envelope]


def stale_keys(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Helper keys of another round."""
    old = [m.raw for m in adversary.bodies(HelperKey) if m.round != message.round]
    body = message.body
    if not isinstance(body, RoundStart) or not old or not body.keys:
        return None
    keys = (adversary.random.choice(old), *body.keys[1:])
    return [adversary.again(envelope, message, keys=keys), envelope]


def drop_keys(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Only corrupt helpers are said to be present."""
    body = message.body
    if not isinstance(body, RoundStart):
        return None
    ours = tuple(
        raw
        for raw in body.keys
        if adversary.cluster.read(Envelope(message.sender, raw)).sender.party in adversary.corrupt
    )
    few = ours or body.keys[1:]
    return [adversary.again(envelope, message, keys=few)]


def drop_own_helper(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The client's own helper is said to be absent, to this client or to all."""
    body = message.body
    if not isinstance(body, RoundStart):
        return None
    others = tuple(
        raw
        for raw in body.keys
        if adversary.cluster.read(Envelope(message.sender, raw)).sender.party
        != envelope.receiver.party
    )
    return [adversary.again(envelope, message, keys=others), envelope]


def two_starts(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Two different starts of one round."""
    if not isinstance(message.body, RoundStart):
        return None
    opener = adversary.cluster.leader.ports.sealing.generate()
    both = [envelope, adversary.again(envelope, message, leader_key=opener.public_key)]
    adversary.random.shuffle(both)
    return both


def other_round(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A message of the round says that it is of another one."""
    if not isinstance(message.body, RoundStart | MaskRequest | RoundAbort):
        return None
    number = max(message.round + adversary.random.choice((-1, 1, 2, 2**31)), 0)
    return [adversary.again(envelope, message, number=number), envelope]


def mix_rounds(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A request holds an upload of another round."""
    old = [m.raw for m in adversary.bodies(Upload) if m.round != message.round]
    if not isinstance(message.body, MaskRequest) or not old:
        return None
    uploads = (adversary.random.choice(old), *message.body.uploads[1:])
    return [adversary.again(envelope, message, uploads=uploads), envelope]


def drop_victim(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """One site never hears of the rounds."""
    victim = min(adversary.cluster.sites)
    if not isinstance(message.body, RoundStart) or envelope.receiver.party != victim:
        return None
    return []


def left_behind(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """One honest site misses the first round and is then told to train on the first model."""
    victim = min(set(adversary.cluster.sites) - adversary.corrupt)
    body = message.body
    if not isinstance(body, RoundStart) or envelope.receiver.party != victim:
        return None
    if body.previous is None:
        return []
    known = {one.sender.party: one.raw for one in adversary.bodies(Accept)}
    accepts = tuple(known[name] for name in adversary.cluster.terms.clients if name in known)
    model = _first_model(adversary, accepts)
    return [
        adversary.again(envelope, message, chunks=(), accepts=accepts, previous=None, model=model)
    ]


def other_model(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A site is told another model, or another sum."""
    body = message.body
    if not isinstance(body, RoundStart):
        return None
    if body.previous is None or adversary.random.random() < 0.3:
        return [adversary.again(envelope, message, model=adversary.flip(body.model)), envelope]
    changed, chunks = _other_sum(adversary, body.previous, envelope.chunks)
    return [adversary.again(envelope, message, chunks=chunks, previous=changed), envelope]


def forged_aggregate(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The last sum is another one, or lacks an answer or a member."""
    body = message.body
    if not isinstance(body, RoundStart | Finish) or body.previous is None:
        return None
    previous, chunks = body.previous, envelope.chunks
    match adversary.random.randrange(3):
        case 0:
            previous = dataclasses.replace(previous, answers=previous.answers[1:])
        case 1 if len(previous.cohort) > 1:
            previous = dataclasses.replace(previous, cohort=previous.cohort[1:])
        case _:
            previous, chunks = _other_sum(adversary, previous, chunks)
    return [adversary.again(envelope, message, chunks=chunks, previous=previous), envelope]


def _other_sum(
    adversary: Adversary, previous: Aggregate, chunks: Sequence[bytes]
) -> tuple[Aggregate, tuple[bytes, ...]]:
    changed = tuple(adversary.flip(chunk) for chunk in chunks)
    vector = Vector(previous.vector.length, tuple(digest(chunk) for chunk in changed))
    return dataclasses.replace(previous, vector=vector), changed


def equivocate_accepts(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A corrupt client accepts twice, so that sites derive different first models."""
    body = message.body
    if not isinstance(body, RoundStart) or not body.accepts:
        return None
    accepts, model = [], body.model
    for raw in body.accepts:
        accept = adversary.cluster.read(Envelope(message.sender, raw))
        if accept.sender.party in adversary.corrupt:
            nonce = hashlib.sha256(envelope.receiver.party.encode()).digest()
            other = dataclasses.replace(accept.body, nonce=nonce)
            accepts.append(adversary.speak(accept.sender, message.sender, other, number=0).message)
        else:
            accepts.append(raw)
    model = _first_model(adversary, tuple(accepts))
    return [adversary.again(envelope, message, accepts=tuple(accepts), model=model)]


def _first_model(adversary: Adversary, accepts: tuple[bytes, ...]) -> bytes:
    opened = [
        adversary.cluster.read(Envelope(adversary.cluster.leader.address, a)) for a in accepts
    ]
    seed = first_model_seed([(one.sender.party, one.body.nonce) for one in opened])
    return adversary.cluster.leader.chain.workload.first(seed).digest


def copied_seeds(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A corrupt client's upload holds a victim's sealed seeds."""
    body = message.body
    if not isinstance(body, MaskRequest):
        return None
    opened = [adversary.cluster.read(Envelope(message.sender, raw)) for raw in body.uploads]
    ours = [one for one in opened if one.sender.party in adversary.corrupt]
    victims = [one for one in opened if one.sender.party not in adversary.corrupt]
    if not ours or not victims:
        return None
    copy = dataclasses.replace(ours[0].body, seeds=adversary.random.choice(victims).body.seeds)
    forged = adversary.speak(
        ours[0].sender, Address.parse(ours[0].header.receiver), copy, number=message.round
    )
    uploads = tuple(forged.message if one is ours[0] else one.raw for one in opened)
    return [adversary.again(envelope, message, uploads=uploads), envelope]


def impersonated_upload(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """An upload in an honest client's name, signed with another key, fills the cohort."""
    body = message.body
    if not isinstance(body, MaskRequest) or len(body.uploads) < 2:
        return None
    opened = [adversary.cluster.read(Envelope(message.sender, raw)) for raw in body.uploads]
    victims = [one for one in opened if one.sender.party not in adversary.corrupt]
    forged = tuple(
        adversary.speak(
            one.sender,
            Address.parse(one.header.receiver),
            _own_seeds(adversary, one),
            number=message.round,
        ).message
        for one in victims[1:]
    )
    return [adversary.again(envelope, message, uploads=(victims[0].raw, *forged)), envelope]


def _own_seeds(adversary: Adversary, upload: Received) -> Upload:
    """An upload body whose seeds the adversary sealed itself, to the round's keys."""
    number, keys = upload.round, {}
    for key in adversary.bodies(HelperKey):
        if key.round == number:
            keys[key.sender.party] = key.body.key
    ports = adversary.cluster.leader.ports
    body: Upload = upload.body
    names = [(PartyName(seed.helper), keys[PartyName(seed.helper)]) for seed in body.seeds]
    seeds = tuple(
        dataclasses.replace(
            seed,
            sealed=ports.sealing.seal(
                ports.entropy.draw(32), key, seal_info(body.context, upload.sender.party, name)
            ),
        )
        for seed, (name, key) in zip(body.seeds, names, strict=True)
    )
    return dataclasses.replace(body, seeds=seeds)


def wrong_receiver(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A message for one party is delivered to another."""
    if not isinstance(message.body, RoundStart | MaskRequest):
        return None
    other = adversary.random.choice(sorted(adversary.cluster.sites))
    address = Address(other, envelope.receiver.role)
    return [Envelope(address, envelope.message, envelope.chunks), envelope]


def early_finish(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A site is told that all is over, and then that it is not."""
    if not isinstance(message.body, RoundStart | MaskRequest):
        return None
    body = Finish(complete=True, model=bytes(32), previous=None)
    finish = adversary.speak(message.sender, envelope.receiver, body, number=0)
    return [finish, envelope]


def second_offer(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The run is offered again, as it is or with a smaller cohort."""
    offers = adversary.bodies(Offer)
    if isinstance(message.body, Offer) or not offers:
        return None
    offer: Offer = offers[0].body
    if adversary.random.random() < 0.5:
        offer = dataclasses.replace(
            offer, manifest=dataclasses.replace(offer.manifest, min_cohort=1)
        )
    return [adversary.speak(message.sender, envelope.receiver, offer, number=0), envelope]


def many_keys(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Keys are asked for that nobody needs, so that helpers issue one after the other."""
    if not isinstance(message.body, RoundStart | MaskRequest):
        return None
    helper = Address(envelope.receiver.party, "helper")
    number = message.round + adversary.random.randrange(3)
    more = adversary.speak(message.sender, helper, KeyRequest(reason="made-up"), number=number)
    return [more, envelope, more]


def no_rejoin(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Absent helpers are asked for a key no earlier than they are needed."""
    body = message.body
    return [] if isinstance(body, KeyRequest) and body.reason == "rejoin" else None


def other_request(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A request that names another model, or other keys than the cohort was told."""
    body = message.body
    if not isinstance(body, MaskRequest):
        return None
    if adversary.random.random() < 0.5:
        return [adversary.again(envelope, message, model=adversary.flip(body.model)), envelope]
    own = [m for m in adversary.bodies(HelperKey) if m.sender.party == envelope.receiver.party]
    keys = (adversary.random.choice(own).raw, *body.keys[1:]) if own else body.keys[1:]
    return [adversary.again(envelope, message, keys=keys or body.keys), envelope]


def forged_state(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A late joiner is sent another state."""
    body = message.body
    if not isinstance(body, CatchUp):
        return None
    parts = len(body.state.digests)
    state = tuple(adversary.flip(chunk) for chunk in envelope.chunks[:parts])
    vector = Vector(body.state.length, tuple(digest(chunk) for chunk in state))
    chunks = (*state, *envelope.chunks[parts:])
    return [adversary.again(envelope, message, chunks=chunks, state=vector), envelope]


def forged_kept(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A site that adds up is sent another vector, or another message than it asked for."""
    body = message.body
    if not isinstance(body, Kept):
        return None
    others = [m.raw for m in adversary.bodies(Upload) if m.raw != body.message]
    if others and adversary.random.random() < 0.5:
        return [adversary.again(envelope, message, message=adversary.random.choice(others))]
    chunks = tuple(adversary.flip(chunk) for chunk in envelope.chunks)
    return [adversary.again(envelope, message, chunks=chunks)]


def two_halves(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The machine of the leader hears one half of the helpers in a round, the other half in the next.

    In odd rounds it never hears the last answer, in even ones a victim's upload: two cohorts that differ
    by the victim, each answered by helpers who know nothing of the others.
    """
    helpers = list(adversary.cluster.terms.helpers)
    at = helpers.index(message.sender.party) if message.sender.party in helpers else 0
    odd, half = bool(message.round % 2), at < len(helpers) // 2
    swallowed = (
        (isinstance(message.body, HelperKey) and odd != half)
        or (isinstance(message.body, MaskSum) and odd and at == 0)
        or (isinstance(message.body, Upload) and not odd and at == 0)
    )
    return [] if swallowed else None


# --- anybody -------------------------------------------------------------------------------------


def silence(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Says nothing."""
    return None if isinstance(message.body, Offer) else []


def old_words(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Says once more what it said before."""
    own = [m for m in adversary.seen if m.sender == message.sender and m.raw != message.raw]
    if not own:
        return None
    old = adversary.random.choice(own)
    again = Envelope(Address.parse(old.header.receiver), old.raw, old.chunks)
    return [again, envelope]


def damaged(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A damaged chunk, or no chunk at all."""
    if not envelope.chunks:
        return None
    chunks: Sequence[bytes] = ()
    if adversary.random.random() < 0.7:
        chunks = (adversary.flip(envelope.chunks[0]), *envelope.chunks[1:])
    return [Envelope(envelope.receiver, envelope.message, chunks)]


def other_length(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A vector that is longer or shorter than the run's."""
    body = message.body
    if not isinstance(body, Upload | MaskSum):
        return None
    length = max(body.vector.length + adversary.random.choice((-1, 1, 2**20)), 0)
    vector = Vector(length, body.vector.digests)
    return [adversary.again(envelope, message, vector=vector)]


def refuse(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Refuses, and blames an honest site or nobody."""
    if not isinstance(message.body, Upload | MaskSum):
        return None
    culprit = adversary.random.choice(["", *sorted(adversary.cluster.sites), "nobody"])
    body = Refusal(code="made.up", culprit=culprit)
    return [adversary.speak(message.sender, envelope.receiver, body, number=message.round)]


# --- a corrupt helper ----------------------------------------------------------------------------


def wrong_sum(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Another vector than the mask sum."""
    if not isinstance(message.body, MaskSum):
        return None
    chunks = tuple(adversary.flip(chunk) for chunk in envelope.chunks)
    vector = Vector(message.body.vector.length, tuple(digest(chunk) for chunk in chunks))
    return [adversary.again(envelope, message, chunks=chunks, vector=vector)]


def wrong_cohort(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Signs another cohort or context."""
    if not isinstance(message.body, MaskSum):
        return None
    if adversary.random.random() < 0.5:
        return [adversary.again(envelope, message, cohort=adversary.flip(message.body.cohort))]
    return [adversary.again(envelope, message, context=adversary.flip(message.body.context))]


def two_keys(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Two keys of one round, or one of a far round."""
    if not isinstance(message.body, HelperKey):
        return None
    opener = adversary.cluster.leader.ports.sealing.generate()
    number = message.round + adversary.random.choice((0, 0, 1, 1000))
    other = adversary.again(envelope, message, number=number, key=opener.public_key)
    return [envelope, other] if adversary.random.random() < 0.5 else [other, envelope]


# --- a corrupt client ----------------------------------------------------------------------------


def bad_seeds(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A seed that does not open, or sealed for somebody else."""
    body = message.body
    if not isinstance(body, Upload) or not body.seeds:
        return None
    seeds = list(body.seeds)
    at = adversary.random.randrange(len(seeds))
    sealed = adversary.random.choice([adversary.flip(seeds[at].sealed), seeds[at - 1].sealed])
    seeds[at] = dataclasses.replace(seeds[at], sealed=sealed)
    return [adversary.again(envelope, message, seeds=tuple(seeds))]


def other_context(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """An upload that names another context."""
    if not isinstance(message.body, Upload):
        return None
    return [adversary.again(envelope, message, context=adversary.flip(message.body.context))]


def two_uploads(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Two uploads in one round, or one for the next round as well."""
    body = message.body
    if not isinstance(body, Upload) or not body.seeds:
        return None
    if adversary.random.random() < 0.5:
        return [envelope, adversary.again(envelope, message, number=message.round + 1)]
    return [envelope, adversary.again(envelope, message, seeds=body.seeds[::-1])]


def two_accepts(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Accepts twice, with different nonces."""
    if not isinstance(message.body, Accept):
        return None
    return [envelope, adversary.again(envelope, message, nonce=bytes(32))]


def in_another_name(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The same message in an honest party's name."""
    others = sorted(set(adversary.cluster.sites) - adversary.corrupt)
    if not isinstance(message.body, Upload | MaskSum | HelperKey | Accept):
        return None
    sender = Address(adversary.random.choice(others), message.sender.role)
    forged = adversary.speak(
        sender, envelope.receiver, message.body, number=message.round, chunks=envelope.chunks
    )
    return [forged, envelope]


def _named(*misdeeds: Misdeed) -> dict[str, Misdeed]:
    return {getattr(misdeed, "__name__", "").replace("_", "-"): misdeed for misdeed in misdeeds}


LEADER = _named(
    equivocate_cohorts, ask_twice, small_cohort, one_operator, repeat_uploads, swap_keys,
    stale_keys, drop_keys, drop_own_helper, two_starts, other_round, mix_rounds, drop_victim, left_behind, other_model,
    forged_aggregate, equivocate_accepts, copied_seeds, impersonated_upload, wrong_receiver,
    early_finish, second_offer, many_keys, other_request, forged_state, forged_kept, silence,
    old_words,
)  # fmt: skip
"""What a leader can do that controls some sites too."""

HELPER = _named(
    wrong_sum, wrong_cohort, two_keys, other_length, refuse, damaged, silence, old_words,
    in_another_name,
)  # fmt: skip
"""What a helper can do under an honest leader."""

CLIENT = _named(
    bad_seeds, other_context, two_uploads, two_accepts, other_length, refuse, damaged, silence,
    old_words, in_another_name,
)  # fmt: skip
"""What a client can do under an honest leader."""

ABSENCE = {**LEADER, **_named(no_rejoin)}
"""What it can do where helpers may be absent."""

EARS = _named(two_halves)
"""What the machine of a corrupt leader does not hear."""
