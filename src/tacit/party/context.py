"""The context of a round: what every upload and every answer of it must name."""

from __future__ import annotations

from collections.abc import Sequence

from tacit.errors import RemoteProtocolError
from tacit.party.base import Party
from tacit.party.terms import Terms
from tacit.secagg.masked import round_context
from tacit.secagg.plain import plain_context
from tacit.types import Digest, PartyName
from tacit.wire.messages import HelperKey

__all__ = ["Keys", "helper_keys", "upload_context"]

Keys = Sequence[tuple[PartyName, bytes]]
"""The helpers present in a round and their keys, in the manifest's order."""


def helper_keys(party: Party, terms: Terms, round_number: int, signed: Sequence[bytes]) -> Keys:
    """The keys of the helpers present in a round, each checked against its helper's signature.

    Args:
        party: Who checks.
        terms: The run.
        round_number: The round that every key must be of.
        signed: The signed ``HelperKey`` messages.

    Raises:
        RemoteProtocolError: A stranger, a repeat, a key of another round, another order than the
            manifest's, or fewer helpers than the plan needs.
    """
    opened = [party.open_signed(raw, terms, HelperKey, "helper") for raw in signed]
    present = [message.sender.party for message in opened]
    if present != [name for name in terms.helpers if name in present]:
        raise RemoteProtocolError(
            "round.helper-keys",
            "the round's keys are not those of helpers of the run, in its order",
            party=terms.manifest.leader,
        )
    if len(party.roster.operators(present)) < terms.plan.min_helpers:
        raise RemoteProtocolError(
            "round.helpers",
            f"the round has {len(present)} helpers, the plan needs {terms.plan.min_helpers}",
            party=terms.manifest.leader,
        )
    stale = [message.sender.party for message in opened if message.round != round_number]
    if stale:
        raise RemoteProtocolError(
            "round.stale-key",
            f"the key of helper {stale[0]} is not of round {round_number}",
            party=terms.manifest.leader,
        )
    return [(message.sender.party, message.body.key) for message in opened]


def upload_context(terms: Terms, round_number: int, model: Digest, keys: Keys) -> Digest:
    """What every honest upload of a round names, and every honest answer too."""
    if not terms.masked:
        return plain_context(
            run=terms.run, round_number=round_number, model=model, bits=terms.ring.bits
        )
    return round_context(
        run=terms.run,
        round_number=round_number,
        roster=Digest(terms.manifest.roster),
        job=Digest(terms.manifest.job),
        model=model,
        plan=terms.manifest.plan,
        bits=terms.ring.bits,
        keys=keys,
    )
