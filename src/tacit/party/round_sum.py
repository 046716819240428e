"""A round at the leader: uploads are checked, kept and added as they come; answers are subtracted.

Memory holds one running sum, however many clients there are. It is lost with the process, and then the
round is too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from tacit.errors import DecodeError, RemoteProtocolError, TacitError
from tacit.party.base import Party
from tacit.party.context import Keys
from tacit.party.contribute import chunk_info
from tacit.party.kept import KeptRounds
from tacit.party.terms import Terms
from tacit.secagg.masked import SEED_BYTES, RunningSum, cohort_digest
from tacit.types import Digest, Opener, PartyName
from tacit.wire.envelope import Received, check_chunks, split_chunks
from tacit.wire.messages import MaskSum, Upload, Vector

__all__ = ["RoundSum"]

_Operation = Callable[[int, bytes], None]


class RoundSum:
    """What the leader holds of one round.

    Args:
        party: The leader.
        terms: The run.
        number: The round.
        context: What every upload and answer must name.
        opener: The leader's key of the round.
        keys: The helpers present.
    """

    def __init__(
        self,
        party: Party,
        terms: Terms,
        number: int,
        context: Digest,
        opener: Opener,
        keys: Keys,
    ) -> None:
        self.number = number
        self.context = context
        self.opener = opener
        self.present: tuple[PartyName, ...] = tuple(name for name, _ in keys)
        self.uploads: dict[PartyName, Received] = {}
        self.dropped: set[PartyName] = set()
        self.answers: dict[PartyName, Received] = {}
        self._party = party
        self._terms = terms
        self._kept = KeptRounds(party, terms)
        sealed = [party.ports.sealing.seal(bytes(SEED_BYTES), key, b"") for _, key in keys[:1]]
        self._sealed_bytes = len(sealed[0]) if sealed else 0
        self._sum = RunningSum(terms.ring, terms.manifest.length)

    @property
    def cohort(self) -> list[Received]:
        """The uploads so far, in the order of their clients' names; without their vectors."""
        return [self.uploads[name] for name in sorted(self.uploads)]

    @property
    def cohort_digest(self) -> Digest:
        """The name of the cohort."""
        return cohort_digest([upload.digest for upload in self.cohort])

    def names_context(self, upload: Upload) -> bool:
        """Whether an upload was made for this round's context and sealed for its helpers."""
        sealed_to = tuple(seed.helper for seed in upload.seeds)
        right_size = all(len(seed.sealed) == self._sealed_bytes for seed in upload.seeds)
        return upload.context == self.context and sealed_to == self.present and right_size

    def take_upload(self, message: Received) -> None:
        """Opens, checks, keeps and adds one upload.

        Raises:
            DecodeError: A chunk does not open, or is not what the client signed; nothing was added.
        """
        if not message.chunks:
            raise DecodeError("wire.chunks", "an upload came without its chunks")
        self._take(message, self._opened, (self._sum.add_chunk, self._sum.subtract_chunk))
        self.uploads[message.sender.party] = dataclasses.replace(message, chunks=())

    def _opened(self, message: Received) -> Iterator[bytes]:
        for index, chunk in enumerate(message.chunks):
            yield self.opener.open(chunk, chunk_info(message.digest, index))

    def take_answer(self, message: Received) -> None:
        """Checks, keeps and subtracts one helper's answer.

        Raises:
            DecodeError: The chunks are not what the helper signed; nothing was subtracted.
            RemoteProtocolError: It is for another cohort or context.
        """
        body: MaskSum = message.body
        if (body.cohort, body.context) != (self.cohort_digest, self.context):
            raise RemoteProtocolError(
                "leader.cohort",
                f"helper {message.sender.party} answered for another cohort or context",
                party=message.sender.party,
            )
        self._take(message, _as_sent, (self._sum.subtract_chunk, self._sum.add_chunk))
        self.answers[message.sender.party] = dataclasses.replace(message, chunks=())

    def result(self) -> tuple[Vector, tuple[bytes, ...]]:
        """The sum, once every helper present has answered."""
        return split_chunks(self._sum.to_bytes(), self._terms.manifest.length)

    def _take(
        self,
        message: Received,
        chunks_of: Callable[[Received], Iterator[bytes]],
        operations: tuple[_Operation, _Operation],
    ) -> None:
        """Checks, keeps and applies one chunk after the other; undoes all of it if one is wrong.

        One chunk is in memory besides the message and the sum, and the sum changes only for good.
        """
        length, item_bytes = self._terms.manifest.length, self._terms.ring.item_bytes
        apply, undo = operations
        vector: Vector = message.body.vector
        done: list[int] = []
        try:
            with self._party.ports.store.transaction():
                for start, chunk in check_chunks(vector, chunks_of(message), length, item_bytes):
                    self._kept.keep_chunk(self.number, message, len(done), chunk)
                    apply(start, chunk)
                    done.append(start)
                self._kept.keep(self.number, message, len(done))
        except TacitError:
            for start, chunk in zip(done, chunks_of(message), strict=False):
                undo(start, chunk)
            raise


def _as_sent(message: Received) -> Iterator[bytes]:
    return iter(message.chunks)
