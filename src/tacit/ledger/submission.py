"""What a log sends to a witness: the size that the witness has, a proof from there, and a checkpoint.

::

    old 20852014
    <base64 hash>
    <base64 hash>

    example/north
    20852163
    <base64 root>

    — example/north <base64 of key hash and Ed25519 signature>

Reference: C2SP tlog-witness, "add-checkpoint", https://c2sp.org/tlog-witness.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from tacit.errors import DecodeError
from tacit.ledger.note import decode_base64
from tacit.types import Digest

__all__ = ["SUBMISSION_LIMIT", "Submission"]

SUBMISSION_LIMIT = 32 * 1024
"""Bytes of a submission: a proof of 63 hashes, and a checkpoint with all the signatures it may have."""
MAX_PROOF = 63
OLD = re.compile(rb"old (0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint for a witness.

    Attributes:
        old: Size of the log that the witness is taken to have.
        proof: Consistency proof from there to the checkpoint; none from 0.
        note: The signed checkpoint.
    """

    old: int
    proof: tuple[Digest, ...]
    note: bytes

    def encode(self) -> bytes:
        """The body of the request."""
        lines = (f"{base64.b64encode(node).decode()}\n" for node in self.proof)
        return f"old {self.old}\n{''.join(lines)}\n".encode() + self.note

    @classmethod
    def decode(cls, data: bytes) -> Submission:
        """Reads what ``encode`` wrote; the note itself is not looked at.

        Raises:
            DecodeError: Anything else.
        """
        head, blank, note = data.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        old = OLD.fullmatch(first)
        proof = [decode_base64(line.decode("latin-1")) for line in lines]
        if len(data) > SUBMISSION_LIMIT or len(proof) > MAX_PROOF or not blank or old is None:
            raise DecodeError("witness.submission", "not a submission to a witness")
        nodes = [Digest(node) for node in proof if node is not None and len(node) == 32]
        if len(nodes) != len(proof) or (nodes and old[1] == b"0"):
            raise DecodeError("witness.submission", "the proof of a submission is malformed")
        return cls(int(old[1]), tuple(nodes), note)
