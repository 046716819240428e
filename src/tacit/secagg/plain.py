"""The baseline ``plain``: the leader sees every contribution. No protection at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tacit.algebra.ring import WIDTHS, Ring, RingVector
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
    bits: Annotated[int, Size(16, 32)]


def plain_context(*, run: Digest, round_number: int, model: Digest, bits: int) -> Digest:
    """The digest that ties an upload to run, round, model and width; no helper has a part in it.

    Raises:
        LocalProtocolError: A field is outside its limits.
    """
    if bits not in WIDTHS:
        raise LocalProtocolError("secagg.bits", f"a ring has 16, 24 or 32 bits, not {bits}")
    context = _Context(protocol=PROTOCOL, run=run, round=round_number, model=model, bits=bits)
    return Digest(hashlib.sha256(encode(context)).digest())


def plain_sum(uploads: Sequence[RingVector], ring: Ring) -> RingVector:
    """The sum of the clients' vectors.

    Args:
        uploads: At least one vector of d elements.
        ring: Of all vectors.

    Returns:
        d elements.

    Raises:
        LocalProtocolError: Nothing to sum.
    """
    if not uploads:
        raise LocalProtocolError("secagg.empty", "a sum needs at least one upload")
    return ring.sum(uploads, len(uploads[0]))
