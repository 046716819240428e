"""The baseline ``plain``: the leader sees every contribution. No protection at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tacit.algebra.ring import Ring, ring_sum
from tacit.errors import LocalProtocolError
from tacit.types import Digest
from tacit.wire.codec import Size, encode

__all__ = ["plain_context", "plain_sum"]

PROTOCOL = "tacit plain v1"

_Hash = Annotated[bytes, Size.exactly(32)]


@dataclass(frozen=True, slots=True)
class _Context:
    protocol: Annotated[str, Size(1, 64)]
    run: _Hash
    round: Annotated[int, Size(1, 2**32 - 1)]
    model: _Hash


def plain_context(*, run: Digest, round_number: int, model: Digest) -> Digest:
    """The digest that ties an upload to run, round and model; no helper has a part in it.

    Raises:
        LocalProtocolError: A field is outside its limits.
    """
    context = _Context(protocol=PROTOCOL, run=run, round=round_number, model=model)
    return Digest(hashlib.sha256(encode(context)).digest())


def plain_sum(uploads: Sequence[Ring]) -> Ring:
    """The sum of the clients' vectors.

    Args:
        uploads: At least one uint32[d].

    Returns:
        uint32[d].

    Raises:
        LocalProtocolError: Nothing to sum.
    """
    if not uploads:
        raise LocalProtocolError("secagg.empty", "a sum needs at least one upload")
    return ring_sum(uploads, len(uploads[0]))
