"""What the leader keeps of the last rounds, so that anybody may add them up again.

Vectors lie apart from the transcript: they are large, and they are dropped when the job's audit window
has passed. A kept vector is masked; without every helper's answer it tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tacit.errors import DecodeError, LocalProtocolError, RemoteProtocolError, SignatureError
from tacit.party.base import Party, RunState
from tacit.party.contribute import chunk_info
from tacit.party.readd import open_part, part_of
from tacit.party.terms import Terms
from tacit.secagg.masked import RunningSum, cohort_digest
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Envelope, Received, check_chunks, split_chunks
from tacit.wire.messages import Aggregate, Kept, KeptRequest, MaskSum

__all__ = ["KeptRounds", "Verdict", "add_up"]

SPACE = "kept"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What adding a kept round up again showed; ``culprits`` is empty when everything agrees."""

    round: int
    uploads: int
    answers: int
    exact: bool
    culprits: tuple[tuple[PartyName, str], ...]


class KeptRounds:
    """The kept uploads and answers of one run, in the leader's store.

    Args:
        party: The leader, or who audits it over its store.
        terms: The run.
    """

    def __init__(self, party: Party, terms: Terms) -> None:
        self.terms = terms
        self._party = party
        self._state = RunState(party.ports.store, "leader", f"{terms.run_id}/{SPACE}")

    @property
    def rounds(self) -> list[int]:
        """The rounds of which anything is kept, in order."""
        return sorted({int(key.split("/")[0]) for key, _ in self._state.items("index/")})

    def keep(self, number: int, message: Received, count: int) -> None:
        """Stores a signed message whose vector has ``count`` chunks, inside a transaction."""
        if self._keeps:
            name = _name(message)
            self._state.put(f"{number}/{name}", message.raw)
            self._state.put_number(f"index/{number:06d}/{name}", count)

    def keep_chunk(self, number: int, message: Received, at: int, chunk: bytes) -> None:
        """Stores one chunk of a message's vector, inside a transaction."""
        if self._keeps:
            self._state.put(f"{number}/{_name(message)}/{at}", bytes(chunk))

    @property
    def _keeps(self) -> bool:
        return self.terms.job.aggregation.audit_rounds > 0

    def drop(self, number: int) -> None:
        """Forgets a round, inside a transaction."""
        place = f"index/{number:06d}/"
        for name, count in self._state.items(place):
            self._state.delete(f"{number}/{name}")
            for at in range(int(count)):
                self._state.delete(f"{number}/{name}/{at}")
            self._state.delete(place + name)

    def prune(self) -> None:
        """Forgets what lies before the audit window, inside a transaction."""
        for number in self.rounds[: -self.terms.job.aggregation.audit_rounds or None]:
            self.drop(number)

    def read(self, number: int, name: str) -> tuple[bytes, list[bytes]]:
        """A signed message and its chunks.

        Raises:
            LocalProtocolError: Nothing of that name is kept.
        """
        message = self._state.get(f"{number}/{name}")
        if message is None:
            raise LocalProtocolError("kept.missing", f"nothing is kept of {name} in round {number}")
        count = self._state.number(f"index/{number:06d}/{name}")
        return message, [self._state.get(f"{number}/{name}/{at}") or b"" for at in range(count)]

    def part(self, aggregate: Aggregate, index: int) -> tuple[Received, list[bytes]]:
        """One signed message behind an aggregate and its vector, checked against each other.

        Raises:
            DecodeError, SignatureError, RemoteProtocolError: They are not what was signed.
            LocalProtocolError: The round is not kept.
        """
        message, chunks = self.read(aggregate.round, self._owner(aggregate, index))
        opened = open_part(self._party, self.terms, aggregate, (index, message))
        length, ring = self.terms.manifest.length, self.terms.ring
        checked = check_chunks(opened.body.vector, chunks, length, ring.item_bytes)
        return opened, [chunk for _, chunk in checked]

    def serve(self, request: Received, aggregate: Aggregate) -> Envelope:
        """Answers a site that adds up again.

        Raises:
            DecodeError: The request names no vector of the aggregate, or its key is no key.
            LocalProtocolError: The round is not kept any more.
        """
        body: KeptRequest = request.body
        owner = self._owner(aggregate, body.index)
        message, chunks = self.read(aggregate.round, owner)
        known = part_of(aggregate, body.index)
        seal = self._party.ports.sealing.seal
        sealed = tuple(
            seal(chunk, body.key, chunk_info(known, index)) for index, chunk in enumerate(chunks)
        )
        return self._party.send(
            self.terms,
            request.sender,
            Kept(index=body.index, message=message),
            round_number=request.round,
            chunks=sealed,
        )

    def _owner(self, aggregate: Aggregate, index: int) -> str:
        part_of(aggregate, index)  # refuses an index that the aggregate does not have
        uploads = len(aggregate.cohort)
        if index < uploads:
            return f"client-{aggregate.cohort[index].client}"
        answer = self._party.open_copy(aggregate.answers[index - uploads])
        return _name(answer)


def add_up(kept: KeptRounds, aggregate: Aggregate, context: Digest) -> Verdict:
    """Adds a kept round up again and says what the leader has to answer for.

    The leader alone decides which uploads and answers it takes, and tells everybody for which model,
    keys and cohort they sign: whatever does not fit together in its store is its own doing. A helper
    or a client that sent wrong numbers, correctly signed, cannot be told from the others: they are
    inside the sum, and nobody holds the keys any more.

    Args:
        kept: The kept rounds.
        aggregate: What was published; the vector's chunk digests stand in it.
        context: The context that uploads and answers of the round must name.

    Raises:
        LocalProtocolError: The round is not kept.
    """
    found: list[str] = []
    total = RunningSum(kept.terms.ring, kept.terms.manifest.length)
    cohort = cohort_digest([Digest(member.upload) for member in aggregate.cohort])
    for index in range(len(aggregate.cohort) + len(aggregate.answers)):
        try:
            owner, chunks = kept.part(aggregate, index)
        except (DecodeError, SignatureError, RemoteProtocolError) as error:
            found.append(f"keeps something else than was signed: {error.message}")
            continue
        answer = isinstance(owner.body, MaskSum)
        if owner.body.context != context or (answer and owner.body.cohort != cohort):
            found.append(
                f"took what {owner.sender} signed for another cohort, model or set of keys"
            )
        (total.subtract if answer else total.add)(chunks)
    vector, _ = split_chunks(total.to_bytes(), kept.terms.manifest.length)
    exact = vector == aggregate.vector
    if not exact and not found:
        found.append("published another vector than the sum of what it keeps")
    leader = PartyName(kept.terms.manifest.leader)
    return Verdict(
        round=aggregate.round,
        uploads=len(aggregate.cohort),
        answers=len(aggregate.answers),
        exact=exact,
        culprits=tuple((leader, reason) for reason in found),
    )


def _name(message: Received) -> str:
    return f"{message.sender.role}-{message.sender.party}"
