"""The messages of protocol version 1, each a frozen dataclass whose fields carry their limits.

Numbers that are not integers travel as decimal text. Vectors do not travel inside messages: they follow
as chunks whose digests stand in the signed message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tacit.wire.codec import Size

__all__ = [
    "MESSAGES",
    "Accept",
    "Aggregate",
    "CatchUp",
    "CatchUpRequest",
    "CohortMember",
    "Cosigned",
    "Finish",
    "HelperKey",
    "Kept",
    "KeptRequest",
    "KeyRequest",
    "LogState",
    "Manifest",
    "MaskRequest",
    "MaskSum",
    "Offer",
    "Proof",
    "Record",
    "Refusal",
    "RoundAbort",
    "RoundStart",
    "Seal",
    "Sealed",
    "SealedSeed",
    "Upload",
    "Vector",
    "WitnessAnswer",
    "WitnessRequest",
]

MAX_PARTIES = 10_000
MAX_HELPERS = 64
MAX_CHUNKS = 8_192
MAX_LENGTH = 2**32 - 1
MAX_SIGNED = 2 * 1024 * 1024
MAX_HEADS = 64
MAX_PATH = 64
"""Hashes of a Merkle proof: one for every bit of a size."""
MAX_PROOFS = 64
MAX_NOTE = 4096
MAX_LINE = 512
MAX_LOG = 2**53 - 1
MAX_EVIDENCE = 16 * 1024 * 1024

Hash = Annotated[bytes, Size.exactly(32)]
Name = Annotated[str, Size(1, 64)]
Code = Annotated[str, Size(1, 64)]
Count = Annotated[int, Size(0, 2**32 - 1)]
SealingKey = Annotated[bytes, Size(32, 4096)]
Signed = Annotated[bytes, Size(1, MAX_SIGNED)]


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector that follows in chunks: its length in elements and the SHA-256 of every chunk."""

    length: Annotated[int, Size(0, MAX_LENGTH)]
    digests: Annotated[tuple[Hash, ...], Size(0, MAX_CHUNKS)]


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows that a log at size ``old`` is a prefix of the log at a later size.

    Reference: RFC 9162 section 2.1.4.
    """

    old: Annotated[int, Size(0, MAX_LOG)]
    path: Annotated[tuple[Hash, ...], Size(0, MAX_PATH)]


@dataclass(frozen=True, slots=True)
class LogState:
    """The signed checkpoint of a log, with proofs from the sizes that its witnesses hold.

    Reference: C2SP tlog-checkpoint.
    """

    note: Annotated[bytes, Size(1, MAX_NOTE)]
    proofs: Annotated[tuple[Proof, ...], Size(0, MAX_PROOFS)]


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What a witness says of a log: its signature line, or a code and an empty line.

    ``log`` and ``witness`` are names in the roster; ``size`` is that of the head that the witness holds.

    Reference: C2SP tlog-cosignature.
    """

    log: Name
    witness: Name
    size: Annotated[int, Size(0, MAX_LOG)]
    line: Annotated[str, Size(0, MAX_LINE)]
    code: Annotated[str, Size(0, 64)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that defines a run; its digest is the run id."""

    protocol: Annotated[str, Size(1, 32)]
    nonce: Hash
    job: Hash
    schema: Hash
    code: Hash
    layout: Hash
    roster: Hash
    plan: Annotated[bytes, Size(2, 16_384)]
    ring_bits: Annotated[int, Size(16, 32)]
    dimension: Annotated[int, Size(1, MAX_LENGTH)]
    length: Annotated[int, Size(1, MAX_LENGTH)]
    rounds: Annotated[int, Size(1, 1_000_000)]
    leader: Name
    clients: Annotated[tuple[Name, ...], Size(1, MAX_PARTIES)]
    helpers: Annotated[tuple[Name, ...], Size(0, MAX_HELPERS)]
    min_cohort: Annotated[int, Size(1, MAX_PARTIES)]
    max_colluding: Annotated[int, Size(0, MAX_HELPERS)]
    own_noise: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """Leader -> all: the run, with the job and the public schema that its manifest names by digest."""

    manifest: Manifest
    job: Annotated[bytes, Size(2, 256 * 1024)]
    schema: Annotated[bytes, Size(2, 1024 * 1024)]


@dataclass(frozen=True, slots=True)
class Accept:
    """Client -> leader: takes part, under this policy and contract; the nonce seeds the first model.

    ``policy`` is the digest of the site's ``policy.lock``: of its rules, contracts and policy tests.
    ``reservations`` counts those that the client's budget ever made, this run's included; ``heads`` are
    the digests of its journal after each of the last ones, oldest first, for peers to remember;
    ``released`` are the numbers of those among them that were closed before anything left.
    """

    nonce: Hash
    policy: Hash
    contract: Hash
    reservations: Count
    heads: Annotated[tuple[Hash, ...], Size(0, MAX_HEADS)]
    released: Annotated[tuple[Count, ...], Size(0, MAX_HEADS)]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Any -> leader: will not go on; only the code leaves the party. ``culprit`` may be empty."""

    code: Code
    culprit: Annotated[str, Size(0, 64)]


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Leader -> helper: asks for a key of the round in the header, and says why."""

    reason: Code


@dataclass(frozen=True, slots=True)
class HelperKey:
    """Helper -> leader: a fresh sealing key for the round in the header."""

    key: SealingKey


@dataclass(frozen=True, slots=True)
class CohortMember:
    """A client whose upload is in the sum, with the digest of its signed upload message."""

    client: Name
    upload: Hash


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The result of a round: who is in it, what every helper signed, and the vector that follows.

    ``keys`` are the signed ``HelperKey`` of every helper present: with the model they give the context
    that every upload and every answer of the round must name.
    """

    round: Count
    keys: Annotated[tuple[Signed, ...], Size(0, MAX_HELPERS)]
    cohort: Annotated[tuple[CohortMember, ...], Size(1, MAX_PARTIES)]
    answers: Annotated[tuple[Signed, ...], Size(0, MAX_HELPERS)]
    vector: Vector


@dataclass(frozen=True, slots=True)
class RoundStart:
    """Leader -> client: model digest, signed helper keys, previous aggregate (its vector in chunks).

    ``accepts`` holds the signed ``Accept`` of every client while no aggregate exists, so that each
    client can derive the first model itself. ``leader_key`` is the leader's fresh sealing key of this
    round: uploads travel encrypted to it.
    """

    model: Hash
    leader_key: SealingKey
    keys: Annotated[tuple[Signed, ...], Size(0, MAX_HELPERS)]
    accepts: Annotated[tuple[Signed, ...], Size(0, MAX_PARTIES)]
    previous: Aggregate | None


@dataclass(frozen=True, slots=True)
class SealedSeed:
    """A mask seed, sealed to one helper's key of this round."""

    helper: Name
    sealed: Annotated[bytes, Size(1, 8192)]


@dataclass(frozen=True, slots=True)
class Upload:
    """Client -> leader: one contribution; digests are of the vector's chunks before transport encryption."""

    context: Hash
    seeds: Annotated[tuple[SealedSeed, ...], Size(0, MAX_HELPERS)]
    vector: Vector


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """Leader -> helper: the signed upload messages of the cohort, and what their context follows from."""

    model: Hash
    keys: Annotated[tuple[Signed, ...], Size(1, MAX_HELPERS)]
    uploads: Annotated[tuple[Signed, ...], Size(1, MAX_PARTIES)]


@dataclass(frozen=True, slots=True)
class MaskSum:
    """Helper -> leader: the one answer of this round; ``cohort`` is the digest of the uploads summed."""

    context: Hash
    cohort: Hash
    vector: Vector


@dataclass(frozen=True, slots=True)
class CatchUpRequest:
    """Client -> leader: cannot follow the round in the header; the last aggregate that it applied."""

    applied: Count


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Leader -> client: the server state on which a round was trained, with its proof.

    The proof is the signed uploads of the round's cohort: their context follows from the state's
    digest, so that a client need not believe the leader. ``accepts`` holds the signed ``Accept`` of
    every client, which one that missed the beginning has not seen. The bytes of the state follow in
    chunks, then the vector of the aggregate.
    """

    accepts: Annotated[tuple[Signed, ...], Size(1, MAX_PARTIES)]
    uploads: Annotated[tuple[Signed, ...], Size(1, MAX_PARTIES)]
    aggregate: Aggregate
    state: Vector


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """Client -> leader: asks for one vector of the aggregate of the round in the header.

    ``index`` counts the cohort first, in its order, then the answers; ``key`` is a one-time sealing key.
    """

    index: Annotated[int, Size(0, MAX_PARTIES + MAX_HELPERS)]
    key: SealingKey


@dataclass(frozen=True, slots=True)
class Kept:
    """Leader -> client: a kept upload or answer; its vector follows, each chunk sealed to the asker."""

    index: Annotated[int, Size(0, MAX_PARTIES + MAX_HELPERS)]
    message: Signed


@dataclass(frozen=True, slots=True)
class RoundAbort:
    """Leader -> client: the round ends without a result."""

    code: Code


@dataclass(frozen=True, slots=True)
class Finish:
    """Leader -> all: the run ends; settle, close, and send the record."""

    complete: bool
    model: Hash
    previous: Aggregate | None


@dataclass(frozen=True, slots=True)
class Record:
    """Any -> leader: what the party's log says of this run, under its signed checkpoint.

    The events follow as JSON lines in chunks; ``proof`` leads from them to the checkpoint's root and
    ``proofs`` from the sizes that witnesses hold to its size. ``policy`` is what the party discloses of
    its policy, empty for nothing.
    """

    checkpoint: Annotated[bytes, Size(1, MAX_NOTE)]
    events: Vector
    proof: Annotated[bytes, Size(2, MAX_EVIDENCE)]
    proofs: Annotated[tuple[Proof, ...], Size(0, MAX_PROOFS)]
    policy: Annotated[bytes, Size(0, MAX_EVIDENCE)]


@dataclass(frozen=True, slots=True)
class WitnessRequest:
    """Leader -> any: logs of others to cosign, and what others said of the receiver's own log."""

    logs: Annotated[tuple[LogState, ...], Size(0, MAX_PARTIES)]
    cosigned: Annotated[tuple[Cosigned, ...], Size(0, MAX_PARTIES)]


@dataclass(frozen=True, slots=True)
class WitnessAnswer:
    """Any -> leader: the party's own log now, and what it says of the logs of others."""

    log: LogState | None
    cosigned: Annotated[tuple[Cosigned, ...], Size(0, MAX_PARTIES)]


@dataclass(frozen=True, slots=True)
class Seal:
    """Leader -> any: the manifest of the bundle, for the party's signature."""

    manifest: Annotated[bytes, Size(1, MAX_EVIDENCE)]


@dataclass(frozen=True, slots=True)
class Sealed:
    """Any -> leader: the party's signature line of the manifest's note."""

    line: Annotated[str, Size(1, MAX_LINE)]


MESSAGES: dict[str, type] = {
    "offer": Offer,
    "accept": Accept,
    "refusal": Refusal,
    "key-request": KeyRequest,
    "helper-key": HelperKey,
    "round-start": RoundStart,
    "upload": Upload,
    "mask-request": MaskRequest,
    "mask-sum": MaskSum,
    "catch-up-request": CatchUpRequest,
    "catch-up": CatchUp,
    "kept-request": KeptRequest,
    "kept": Kept,
    "round-abort": RoundAbort,
    "finish": Finish,
    "record": Record,
    "witness-request": WitnessRequest,
    "witness-answer": WitnessAnswer,
    "seal": Seal,
    "sealed": Sealed,
}
"""Message type on the wire -> class."""
