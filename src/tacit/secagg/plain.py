"""The baseline ``plain``: the leader sees every contribution. No protection at all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from tacit.algebra.ring import WIDTHS
from tacit.errors import LocalProtocolError
from tacit.types import Digest
from tacit.wire.codec import Size, encode

__all__ = ["plain_context"]

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
