"""What corrupt parties do to witnessing and sealing: other histories, forged lines, other manifests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tacit.engine.simulator.intruder import Adversary, Misdeed
from tacit.ledger.log import log_origin
from tacit.ledger.note import cosign, sign_checkpoint
from tacit.types import PartyName
from tacit.wire.envelope import Envelope, Received
from tacit.wire.messages import Record, Seal, WitnessAnswer, WitnessRequest

__all__ = ["LEADER_LOGS", "MEMBER_LOGS"]

Out = Sequence[Envelope] | None


def _note(adversary: Adversary, name: PartyName, size: int) -> bytes:
    """A head that a corrupt party's log never had."""
    origin = log_origin(adversary.cluster.roster.federation, name)
    root = bytes(adversary.random.randrange(256) for _ in range(32))
    return sign_checkpoint(origin, size, root, adversary.cluster.identity(name), origin)


def forked_log(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """One party is shown another history of the sender's own log."""
    body, name = message.body, message.sender.party
    note = _note(adversary, name, message.header.log.size)
    if isinstance(body, WitnessAnswer) and body.log is not None:
        changed = dataclasses.replace(body.log, note=note)
        return [adversary.again(envelope, message, log=changed)]
    if isinstance(body, Record):
        return [adversary.again(envelope, message, checkpoint=note)]
    if isinstance(body, WitnessRequest) and body.logs:
        first = dataclasses.replace(body.logs[-1], note=note)
        return [adversary.again(envelope, message, logs=(*body.logs[:-1], first))]
    return None


def rolled_back_log(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The sender's log has fewer events than it had."""
    body, size = message.body, message.header.log.size // 2
    note = _note(adversary, message.sender.party, size)
    if isinstance(body, WitnessAnswer) and body.log is not None:
        changed = dataclasses.replace(body.log, note=note, proofs=())
        return [adversary.again(envelope, message, log=changed)]
    return None


def forged_cosignature(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Lines in everybody's name with the sender's key, and of other witnesses."""
    body = message.body
    if not isinstance(body, WitnessAnswer) or not body.cosigned:
        return None
    cluster, key = adversary.cluster, adversary.cluster.identity(message.sender.party)
    names = sorted(cluster.stores)
    forged = []
    for one in body.cosigned:
        name = adversary.random.choice(names)
        origin = log_origin(cluster.roster.federation, name)
        note = _note(adversary, message.sender.party, one.size)
        line = cosign(note, key, origin, 1)
        forged.append(dataclasses.replace(one, witness=name, line=line))
    return [adversary.again(envelope, message, cosigned=tuple(forged)), envelope]


def withheld_checkpoints(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """Nobody is shown anybody's log, or without the proofs."""
    body = message.body
    if not isinstance(body, WitnessRequest):
        return None
    bare = tuple(dataclasses.replace(one, proofs=()) for one in body.logs)
    kept = bare if adversary.random.random() < 0.5 else ()
    return [adversary.again(envelope, message, logs=kept)]


def changed_proofs(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The logs of others travel with proofs that do not verify."""
    body = message.body
    if not isinstance(body, WitnessRequest):
        return None
    broken = tuple(
        dataclasses.replace(
            one, proofs=tuple(dataclasses.replace(p, path=(bytes(32),)) for p in one.proofs)
        )
        for one in body.logs
    )
    return [adversary.again(envelope, message, logs=broken)]


def old_logs(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """The oldest heads that were ever shown, once more and as if they were new."""
    body, seen = message.body, adversary.bodies(WitnessAnswer)
    if not isinstance(body, WitnessRequest):
        return None
    old = tuple(one.body.log for one in seen[:4] if one.body.log is not None)
    return [adversary.again(envelope, message, logs=(*old, *body.logs))]


def other_manifest(adversary: Adversary, envelope: Envelope, message: Received) -> Out:
    """A party is asked to sign another bundle, also before the run has ended."""
    if isinstance(message.body, WitnessRequest):
        seal = Seal(manifest=b'{"files":{},"run":"","version":2}')
        made = adversary.speak(message.sender, envelope.receiver, seal, number=0)
        return [made, envelope]
    return None


def _named(*misdeeds: Misdeed) -> dict[str, Misdeed]:
    return {getattr(misdeed, "__name__", "").replace("_", "-"): misdeed for misdeed in misdeeds}


LEADER_LOGS = _named(forked_log, withheld_checkpoints, changed_proofs, old_logs, other_manifest)
"""What a leader can do to witnessing."""

MEMBER_LOGS = _named(forked_log, rolled_back_log, forged_cosignature)
"""What a site can do to witnessing under an honest leader."""
