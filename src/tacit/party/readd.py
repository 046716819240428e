"""Adding up again: a site checks that an aggregate is the sum of what its cohort uploaded.

It fetches every kept upload and answer, one at a time, and compares their sum with the vector that the
leader published. The leader learns that a site looks only after it has published.
"""

from __future__ import annotations

from typing import Literal

from tacit.errors import DecodeError, RemoteProtocolError
from tacit.party.base import Party
from tacit.party.contribute import chunk_info
from tacit.party.terms import Terms
from tacit.secagg.masked import RunningSum
from tacit.types import Digest, Milliseconds, Opener
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import Envelope, Received, check_chunks, digest, split_chunks
from tacit.wire.messages import Aggregate, Kept, KeptRequest, MaskSum, Upload

__all__ = ["Looks", "Readd", "Resum", "part_of"]

Resum = Literal["never", "sampled", "always"]


class Readd:
    """One aggregate, added up in the memory of one vector.

    Args:
        party: The site.
        terms: The run.
        start: The start of the round that waits for the result.
        aggregate: What is added up again.
        context: What every upload and every answer behind it must name.

    Guarantee: against a malicious leader and any helpers: ``exact`` is true only if the published
    vector is the sum of uploads that the clients of its cohort signed, minus the answers that its
    helpers signed. Checked by
    ``tests/unit/test_party_readd.py::test_a_leader_that_publishes_another_sum_is_convicted``.
    """

    def __init__(
        self, party: Party, terms: Terms, start: Received, aggregate: Aggregate, context: Digest
    ) -> None:
        self.start = start
        self.aggregate = aggregate
        self._context = context
        self._party = party
        self._terms = terms
        self._opener: Opener = party.ports.sealing.generate()
        self.failures = 0
        self._next = 0
        self._sum = RunningSum(terms.ring, terms.manifest.length)

    @property
    def exact(self) -> bool:
        """Whether everything was fetched and the sum is the published one."""
        if self._next < self._count:
            return False
        vector, _ = split_chunks(self._sum.to_bytes(), self._terms.manifest.length)
        return vector == self.aggregate.vector

    @property
    def _count(self) -> int:
        return len(self.aggregate.cohort) + len(self.aggregate.answers)

    def request(self) -> Envelope:
        """Asks for the next vector; asking again gives the same answer."""
        body = KeptRequest(index=self._next, key=self._opener.public_key)
        return self._party.send(
            self._terms,
            self._party.leader(self._terms),
            body,
            round_number=self.aggregate.round,
        )

    def again(self) -> Readd:
        """The same check from its beginning; the key stays, so that what is under way can be used."""
        fresh = Readd(self._party, self._terms, self.start, self.aggregate, self._context)
        fresh.failures = self.failures + 1
        fresh._opener = self._opener
        return fresh

    def expects(self, message: Received) -> bool:
        """Whether a message is the answer to the last request."""
        return message.round == self.aggregate.round and message.body.index == self._next

    def take(self, message: Received) -> bool:
        """Adds one vector; true when it was the last one.

        Raises:
            DecodeError: A chunk does not open, or is not what its owner signed.
            RemoteProtocolError: It is not the message that the aggregate names.
        """
        body: Kept = message.body
        upload = self._next < len(self.aggregate.cohort)
        owner = open_part(self._party, self._terms, self.aggregate, (self._next, body.message))
        if owner.body.context != self._context:
            raise RemoteProtocolError(
                "readd.context",
                f"{owner.sender} signed for another context than the aggregate's",
                party=self._terms.manifest.leader,
            )
        length, ring = self._terms.manifest.length, self._terms.ring
        opened = (
            self._opener.open(chunk, chunk_info(owner.digest, index))
            for index, chunk in enumerate(message.chunks)
        )
        # A wrong chunk ends the whole check, so that a sum of half a vector is never looked at.
        apply = self._sum.add_chunk if upload else self._sum.subtract_chunk
        for start, chunk in check_chunks(owner.body.vector, opened, length, ring.item_bytes):
            apply(start, chunk)
        self._next += 1
        if self._next < self._count:
            return False
        self._opener.erase()
        return True


def open_part(
    party: Party, terms: Terms, aggregate: Aggregate, part: tuple[int, bytes]
) -> Received:
    """One signed message behind an aggregate: what it names, of whom it names, of its round.

    Args:
        party: Who checks.
        terms: The run.
        aggregate: The aggregate.
        part: Index (uploads first, then answers) and signed message.

    Raises:
        DecodeError, SignatureError: Not a message, or there is no such part.
        RemoteProtocolError: Another message, sender or round than the aggregate names.
    """
    index, raw = part
    upload = index < len(aggregate.cohort)
    owner = party.open_signed(
        raw, terms, Upload if upload else MaskSum, "client" if upload else "helper"
    )
    named = not upload or owner.sender.party == aggregate.cohort[index].client
    same = owner.digest == part_of(aggregate, index) and owner.round == aggregate.round
    if not (named and same):
        raise RemoteProtocolError(
            "readd.message",
            f"the leader kept another message of {owner.sender} than the aggregate names",
            party=terms.manifest.leader,
        )
    return owner


def part_of(aggregate: Aggregate, index: int) -> Digest:
    """The digest of the signed message behind one vector of an aggregate: uploads, then answers.

    Raises:
        DecodeError: There is no such vector.
    """
    uploads = len(aggregate.cohort)
    if index < uploads:
        return Digest(aggregate.cohort[index].upload)
    if index - uploads < len(aggregate.answers):
        return digest(aggregate.answers[index - uploads])
    raise DecodeError("readd.index", "the aggregate has no such vector")


class Looks:
    """What a site owes a look, and what it found.

    Args:
        party: The site.
    """

    def __init__(self, party: Party) -> None:
        self._party = party

    def owed(
        self, terms: Terms, aggregate: Aggregate | None, wish: Resum, now: Milliseconds
    ) -> tuple[Aggregate, Digest] | None:
        """The aggregate that must be added up before the site trains on it: drawn once for each.

        What is owed stays owed until it was done, whatever is published meanwhile.

        Args:
            terms: The run.
            aggregate: What the leader published last; None before the first.
            wish: ``limits.resum`` of the site.
            now: The time to record.
        """
        state = self._party.state(terms.run_id)
        owed = state.get("readd-owed")
        if owed is not None:
            context = Digest(state.get("readd-context") or b"")
            return decode(Aggregate, owed, len(owed)), context
        if aggregate is None or wish == "never" or state.number("readd") >= aggregate.round:
            return None
        # A private coin: the leader must publish before it can know who looks.
        operators = len(self._party.roster.operators(terms.clients))
        coin = int.from_bytes(self._party.ports.entropy.draw(8), "big") * operators
        due = wish == "always" or coin < 2**64
        context = Digest(state.get("aggregate-context") or b"")
        with self._party.ports.store.transaction():
            state.put_number("readd", aggregate.round)
            if due:
                state.put("readd-owed", encode(aggregate))
                state.put("readd-context", context)
                self._party.log(terms, now, "aggregate.owed", round=aggregate.round)
        return (aggregate, context) if due else None

    def conclude(self, terms: Terms, readd: Readd, now: Milliseconds) -> None:
        """Records what adding up has shown.

        Raises:
            RemoteProtocolError: The aggregate is false.
        """
        state, number = self._party.state(terms.run_id), readd.aggregate.round
        if not readd.exact:
            with self._party.ports.store.transaction():
                state.put_number("convicted", number)
                state.put("conviction", readd.start.raw)
                self._party.log(terms, now, "aggregate.refuted", round=number)
            self.require_honest(terms)
        with self._party.ports.store.transaction():
            state.delete("readd-owed")
            self._party.log(terms, now, "aggregate.verified", round=number)

    def require_honest(self, terms: Terms) -> None:
        """Refuses a run in which a sum was once found false.

        Raises:
            RemoteProtocolError: One was.
        """
        number = self._party.state(terms.run_id).number("convicted")
        if number:
            raise RemoteProtocolError(
                "round.refuted",
                f"the aggregate of round {number} is not the sum of its uploads and answers",
                remedy="the leader lied, or its store is damaged: run 'tacit audit' there",
                party=terms.manifest.leader,
            )
