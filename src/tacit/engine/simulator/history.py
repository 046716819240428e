"""What was said in a simulated run, in the terms in which the checkers think."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.engine.simulator.oracle import Fields, keystream, stream_name
from tacit.engine.simulator.vault import Vault
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Envelope, Received
from tacit.wire.messages import MaskSum, Upload

__all__ = ["AnswerSeen", "History", "Mask", "UploadSeen"]


@dataclass(frozen=True, slots=True)
class Mask:
    """One keystream of an upload: for which helper, to which key its seed went, and its name.

    ``stream`` is empty when the sealed bytes are nobody's: a corrupt client made them up.
    """

    helper: PartyName
    public_key: bytes
    seed: bytes
    stream: bytes


@dataclass(frozen=True, slots=True)
class UploadSeen:
    """An upload that left its client, with what only the vault knows of it.

    ``inner`` is its vector without the masks, not reduced; None when nobody can tell. ``genuine`` says
    that an honest client made it.
    """

    client: PartyName
    round: int
    digest: Digest
    body: Upload
    message: bytes
    masks: tuple[Mask, ...]
    inner: NDArray[np.int64] | None
    model: bytes
    genuine: bool


@dataclass(frozen=True, slots=True)
class AnswerSeen:
    """A mask sum that left its helper, with the uploads that it was asked about."""

    helper: PartyName
    round: int
    digest: Digest
    body: MaskSum
    message: bytes
    vector: NDArray[np.int64]
    cohort: tuple[Digest, ...]


@dataclass
class History:
    """Uploads and answers by digest, in the order in which they first left."""

    vault: Vault
    fields: Fields
    uploads: dict[Digest, UploadSeen] = field(default_factory=dict)
    answers: dict[Digest, AnswerSeen] = field(default_factory=dict)
    sent: list[Envelope] = field(default_factory=list)

    def upload(self, message: Received, model: bytes, *, genuine: bool) -> UploadSeen:
        """Notes an upload; ``model`` is what its client trained on, as far as is known."""
        seen = self.uploads.get(message.digest)
        if seen is None:
            body: Upload = message.body
            client = message.sender.party
            masks = tuple(
                self._mask(PartyName(seed.helper), seed.sealed, body.context, client)
                for seed in body.seeds
            )
            seen = UploadSeen(
                client=client,
                round=message.round,
                digest=message.digest,
                body=body,
                message=message.raw,
                masks=masks,
                inner=self._inner(message.chunks, masks),
                model=model,
                genuine=genuine,
            )
            self.uploads[message.digest] = seen
        return seen

    def answer(self, message: Received, cohort: tuple[Digest, ...]) -> AnswerSeen:
        """Notes a mask sum; ``cohort`` are the uploads of the request that it answers."""
        seen = self.answers.get(message.digest)
        if seen is None:
            seen = AnswerSeen(
                helper=message.sender.party,
                round=message.round,
                digest=message.digest,
                body=message.body,
                message=message.raw,
                vector=self.fields.read(b"".join(message.chunks)),
                cohort=cohort,
            )
            self.answers[message.digest] = seen
        return seen

    def _mask(self, helper: PartyName, sealed: bytes, context: bytes, client: PartyName) -> Mask:
        inside = self.vault.sealed.get(sealed)
        if inside is None or len(inside.plaintext) != 32:
            return Mask(helper, b"", b"", b"")
        stream = stream_name(inside.plaintext, context, client, helper)
        return Mask(helper, inside.public_key, inside.plaintext, stream)

    def _inner(self, chunks: Sequence[bytes], masks: tuple[Mask, ...]) -> NDArray[np.int64] | None:
        inside = [self.vault.sealed.get(chunk) for chunk in chunks]
        if not all(mask.stream for mask in masks):
            return None
        try:
            data = b"".join(one.plaintext for one in inside if one is not None)
            total = self.fields.read(data)
        except ValueError:
            return None
        for mask in masks:
            total = total - keystream(mask.stream, self.fields)
        return total
