"""The protocol ``masked``, version 1: one seed per client and helper hides a contribution.

A client adds one keystream per helper to its vector and seals the seed of each to that helper's key of
the round. A helper returns the sum of its keystreams over the cohort, once. The leader subtracts the
helpers' sums from the sum of the uploads; nobody can do so for one upload unless every helper takes
part. Pure functions: keys, entropy and sealing are arguments, state is the caller's.

Reference: RFC 5869 (HKDF), RFC 9180 (HPKE), NIST SP 800-38A (CTR).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import cbor2
import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.algebra.prg import ALIGNMENT, COUNTER_BYTES, KEY_BYTES, Stream, add_keystreams
from tacit.algebra.ring import WIDTHS, Bytes, Ring, RingVector
from tacit.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from tacit.types import Digest, Entropy, Opener, ParallelMap, PartyName, Sealing
from tacit.wire.codec import Size, encode
from tacit.wire.messages import SealedSeed

__all__ = [
    "Masked",
    "RunningSum",
    "cohort_digest",
    "mask",
    "mask_in_place",
    "mask_sum",
    "open_seeds",
    "round_context",
    "unmask",
]

PROTOCOL = "tacit masked v1"
SEED_BYTES = 32
# Long enough to open the ciphers of a range in a hundredth of the time that they then run.
RANGE_ELEMENTS = 2**18
RANGES = 16

_Text = Annotated[str, Size(1, 64)]
_Hash = Annotated[bytes, Size.exactly(32)]
_Operation: TypeAlias = Callable[[RingVector, RingVector], None]


@dataclass(frozen=True, slots=True)
class Masked:
    """What a client uploads: its masked vector of d elements, and one sealed seed per helper."""

    vector: RingVector
    seeds: tuple[SealedSeed, ...]


@dataclass(frozen=True, slots=True)
class _Key:
    helper: _Text
    key: Annotated[bytes, Size(1, 4096)]


@dataclass(frozen=True, slots=True)
class _Context:
    protocol: _Text
    run: _Hash
    round: Annotated[int, Size(1, 2**32 - 1)]
    roster: _Hash
    job: _Hash
    model: _Hash
    plan: Annotated[bytes, Size(0, 16_384)]
    bits: Annotated[int, Size(16, 32)]
    keys: Annotated[tuple[_Key, ...], Size(1, 64)]


@dataclass(frozen=True, slots=True)
class _Cohort:
    protocol: _Text
    uploads: Annotated[tuple[_Hash, ...], Size(1, 10_000)]


def round_context(  # noqa: PLR0913
    *,
    run: Digest,
    round_number: int,
    roster: Digest,
    job: Digest,
    model: Digest,
    plan: bytes,
    bits: int,
    keys: Sequence[tuple[PartyName, bytes]],
) -> Digest:
    """The digest that ties a seed to run, round, roster, job, model, plan, width and helper keys.

    Args:
        run: Run id.
        round_number: 1 or higher.
        roster: Digest of the roster.
        job: Digest of the job.
        model: Digest of the model that the clients train on.
        plan: Canonical bytes of the privacy plan, which fix the encoding too.
        bits: Width of a ring element: 16, 24 or 32.
        keys: Helpers that are present and their public keys of this round, in the manifest's order.

    Raises:
        LocalProtocolError: No helper, a helper twice, or a field outside its limits.

    Guarantee: a leader that tells two clients different fields gets two contexts, whose seeds no
    helper sums together. Checked by
    ``tests/property/test_secagg_masked.py::test_every_field_changes_the_context``.
    """
    if bits not in WIDTHS:
        raise LocalProtocolError("secagg.bits", f"a ring has 16, 24 or 32 bits, not {bits}")
    context = _Context(
        protocol=PROTOCOL,
        run=run,
        round=round_number,
        roster=roster,
        job=job,
        model=model,
        plan=plan,
        bits=bits,
        keys=tuple(_Key(helper, key) for helper, key in _distinct(keys)),
    )
    return Digest(hashlib.sha256(encode(context)).digest())


def mask(
    vector: RingVector,
    ring: Ring,
    *,
    context: Digest,
    client: PartyName,
    keys: Sequence[tuple[PartyName, bytes]],
    sealing: Sealing,
    entropy: Entropy,
) -> Masked:
    """Hides ``vector`` under one fresh keystream per helper.

    Call it once per contribution and store the result: a retry sends the stored bytes, because two
    uploads of one client could otherwise end up in two sums.

    Args:
        vector: d elements of ``ring``, the client's contribution; left as it is.
        ring: Of the vector; ``context`` names its width.
        context: From ``round_context``, over the same ``keys``.
        client: Who masks.
        keys: Helpers and their public keys of this round.
        sealing: Seals the seeds.
        entropy: Draws 32 bytes per helper.

    Raises:
        LocalProtocolError: No helper, or a helper twice.
        RemoteProtocolError: A helper's key is not a key; names the helper.

    Guarantee: an adversary with every helper's key but one sees a uniform vector, independent of
    ``vector``, as far as HPKE, HKDF-SHA256 and AES-256 hold. Checked by
    ``tests/property/test_secagg_masked.py::test_uniform_without_one_helper``.
    """
    seeds, streams = _seal_seeds(context, client, keys, sealing, entropy)
    hidden = np.empty_like(vector)
    add_keystreams(vector, streams, ring, out=hidden)
    return Masked(vector=hidden, seeds=seeds)


def mask_in_place(
    vector: RingVector,
    ring: Ring,
    *,
    context: Digest,
    client: PartyName,
    keys: Sequence[tuple[PartyName, bytes]],
    sealing: Sealing,
    entropy: Entropy,
) -> Masked:
    """``mask`` in the memory of ``vector``, which then holds the contribution no more.

    It needs no second vector and no fresh memory. Takes, raises and guarantees what ``mask`` does;
    after an error ``vector`` is as it was. Checked by
    ``tests/unit/test_secagg_masked.py::test_masking_in_place_gives_the_same_upload``.
    """
    seeds, streams = _seal_seeds(context, client, keys, sealing, entropy)
    add_keystreams(vector, streams, ring, out=vector)
    return Masked(vector=vector, seeds=seeds)


def open_seeds(
    seeds: Sequence[tuple[PartyName, bytes]],
    *,
    context: Digest,
    helper: PartyName,
    opener: Opener,
) -> list[Stream]:
    """The keystreams behind the seeds that a cohort sealed to one helper; none is expanded yet.

    Args:
        seeds: Clients of the cohort and the seeds that they sealed to this helper.
        context: What every client of the cohort signed as its context. A seed opens under the very
            context that its client sealed it for, so a context that the leader made up opens none.
        helper: Whose key ``opener`` is.
        opener: The private key of the round.

    Returns:
        One stream per client, for ``mask_sum``; as secret as the clients' vectors.

    Raises:
        LocalProtocolError: No client, a client twice, or the key was erased.
        RemoteProtocolError: A seed was not sealed by this client to this key under this context;
            names the client.

    Guarantee: a seed that was sealed for another client, helper, round, model, job or run never
    enters a sum. Checked by ``tests/property/test_secagg_masked.py::test_tampered_seed_is_named``
    and ``::test_seed_of_another_context_is_refused``.
    """
    opened = [
        (client, _open_seed(sealed, context, client, helper, opener))
        for client, sealed in _distinct(seeds)
    ]
    return [_expansion(seed, context, client, helper) for client, seed in opened]


def mask_sum(
    streams: Sequence[tuple[bytes, bytes]], ring: Ring, length: int, run: ParallelMap = map
) -> RingVector:
    """One helper's sum of masks over the cohort.

    The caller subtracts its noise share, answers once and erases the key.

    Args:
        streams: From ``open_seeds``.
        ring: Of the vectors.
        length: Number of elements of the vectors.
        run: Calls a function for every range of the vector: ``map``, or the ``map`` of a pool of
            threads, which share memory. The result does not depend on it.

    Returns:
        ``length`` elements.

    Raises:
        LocalProtocolError: No stream, or one twice.

    Guarantee: equals the sum of the masks that ``mask`` added for these seeds, whatever ``run``
    does. Checked by ``tests/property/test_secagg_masked.py::test_sum_is_exact`` and
    ``::test_ranges_in_any_order_give_the_same_sum``.
    """
    if not streams:
        raise LocalProtocolError("secagg.empty", "a sum of masks needs at least one client")
    if len(set(streams)) != len(streams):
        raise LocalProtocolError("secagg.duplicate", "a mask is in the sum twice")
    total: RingVector = np.empty(length, dtype=ring.dtype)

    def fill(part: range) -> None:
        add_keystreams(None, streams, ring, out=total[part.start : part.stop], start=part.start)

    for _ in run(fill, _ranges(length)):
        pass
    return total


class RunningSum:
    """The leader's sum of uploads minus mask sums, in the memory of one vector.

    Vectors arrive as chunks of serialised elements, whose digests the caller has checked.

    Args:
        ring: Of the vectors.
        length: Number of elements.

    Guarantee: equals ``unmask`` of what was added and subtracted, in any order and any chunks.
    Checked by ``tests/property/test_secagg_masked.py::test_running_sum_is_unmask``.
    """

    __slots__ = ("_ring", "_total")

    def __init__(self, ring: Ring, length: int) -> None:
        self._ring = ring
        self._total = ring.zeros(length)

    def add(self, chunks: Sequence[Bytes]) -> None:
        """Adds a whole vector.

        Raises:
            ValueError: The chunks are not whole elements or not the whole vector; the sum is as it
                was.
        """
        self._combine(self._ring.add_into, chunks)

    def subtract(self, chunks: Sequence[Bytes]) -> None:
        """Subtracts a whole vector; raises like ``add``."""
        self._combine(self._ring.subtract_into, chunks)

    def add_chunk(self, offset: int, chunk: Bytes) -> None:
        """Adds the elements from ``offset`` on of a vector.

        Raises:
            ValueError: The chunk is not whole elements or leaves the vector; the sum is as it was.
        """
        self._combine_chunk(self._ring.add_into, offset, chunk)

    def subtract_chunk(self, offset: int, chunk: Bytes) -> None:
        """Subtracts the elements from ``offset`` on of a vector; raises like ``add_chunk``."""
        self._combine_chunk(self._ring.subtract_into, offset, chunk)

    def vector(self) -> RingVector:
        """The sum so far: a read-only view that the next vector changes."""
        self._ring.reduce(self._total)
        view = self._total[:]
        view.flags.writeable = False
        return view

    def to_bytes(self) -> bytes | memoryview:
        """The sum so far, serialised; may be a view that the next vector changes."""
        return self._ring.to_bytes(self._total)

    def _combine(self, operation: _Operation, chunks: Sequence[Bytes]) -> None:
        sizes = [self._elements(chunk) for chunk in chunks]
        if sum(sizes) != len(self._total):
            raise ValueError(f"lengths differ: {len(self._total)} and {sum(sizes)}")
        offset = 0
        for size, chunk in zip(sizes, chunks, strict=True):
            self._combine_chunk(operation, offset, chunk)
            offset += size

    def _combine_chunk(self, operation: _Operation, offset: int, chunk: Bytes) -> None:
        size = self._elements(chunk)
        if not 0 <= offset <= len(self._total) - size:
            raise ValueError(f"a chunk of {size} elements at {offset} leaves the vector")
        part = self._total[offset : offset + size]
        operation(part, self._ring.from_bytes(chunk, size))

    def _elements(self, chunk: Bytes) -> int:
        size, rest = divmod(memoryview(chunk).nbytes, self._ring.item_bytes)
        if rest:
            raise ValueError(f"a chunk is not whole elements of {self._ring.item_bytes} bytes")
        return size


def unmask(
    uploads: Sequence[RingVector], mask_sums: Sequence[RingVector], ring: Ring
) -> RingVector:
    """The sum of the cohort's vectors and the helpers' noise: uploads minus mask sums.

    Args:
        uploads: Masked vectors of the cohort, d elements each.
        mask_sums: One answer of every helper for that cohort, d elements each.
        ring: Of all vectors.

    Returns:
        d elements.

    Raises:
        LocalProtocolError: Nothing to sum, or no helper answered.

    Guarantee: exact for every cohort when all answers are honest; with an answer missing the result
    is uniform. Checked by ``tests/property/test_secagg_masked.py::test_sum_is_exact`` and
    ``::test_uniform_without_one_helper``.
    """
    if not uploads or not mask_sums:
        raise LocalProtocolError("secagg.empty", "a sum needs uploads and the helpers' mask sums")
    total = ring.sum(uploads, len(uploads[0]))
    for answer in mask_sums:
        ring.subtract_into(total, answer)
    ring.reduce(total)
    return total


def cohort_digest(uploads: Sequence[Digest]) -> Digest:
    """A name for a set of uploads that does not depend on their order.

    Args:
        uploads: Digests of the signed upload messages.

    Raises:
        LocalProtocolError: No upload, or one twice.
    """
    if len(set(uploads)) != len(uploads):
        raise LocalProtocolError("secagg.duplicate", "an upload is in the cohort twice")
    cohort = _Cohort(protocol=PROTOCOL, uploads=tuple(sorted(uploads)))
    return Digest(hashlib.sha256(encode(cohort)).digest())


def _seal_seeds(
    context: Digest,
    client: PartyName,
    keys: Sequence[tuple[PartyName, bytes]],
    sealing: Sealing,
    entropy: Entropy,
) -> tuple[tuple[SealedSeed, ...], list[Stream]]:
    """A fresh seed per helper: sealed to its key, and the keystream that it stands for."""
    seeds: list[SealedSeed] = []
    streams: list[Stream] = []
    for helper, key in _distinct(keys):
        seed = entropy.draw(SEED_BYTES)
        try:
            sealed = sealing.seal(seed, key, _info("seal", context, client, helper))
        except DecodeError as error:
            raise RemoteProtocolError(
                "secagg.helper-key", f"the key of helper {helper} is malformed", party=helper
            ) from error
        seeds.append(SealedSeed(helper=helper, sealed=sealed))
        streams.append(_expansion(seed, context, client, helper))
    return tuple(seeds), streams


def _open_seed(
    sealed: bytes, context: Digest, client: PartyName, helper: PartyName, opener: Opener
) -> bytes:
    try:
        seed = opener.open(sealed, _info("seal", context, client, helper))
    except DecodeError as error:
        raise _bad_seed(client) from error
    if len(seed) != SEED_BYTES:
        raise _bad_seed(client)
    return seed


def _bad_seed(client: PartyName) -> RemoteProtocolError:
    return RemoteProtocolError(
        "secagg.seed", f"the seed of client {client} does not open in this round", party=client
    )


def _info(use: str, context: Digest, client: PartyName, helper: PartyName) -> bytes:
    """Where a seed belongs; ``use`` keeps the sealing of a seed and its expansion apart.

    The format is that of the wire. A helper makes two of these per client: its codec, which would
    check the limits of names that were checked when they arrived, costs a tenth of opening a seed.
    """
    pair = {"use": use, "context": context, "client": client, "helper": helper}
    return cbor2.dumps(pair, canonical=True)


def _expansion(seed: bytes, context: Digest, client: PartyName, helper: PartyName) -> Stream:
    """AES key and first counter block of one mask."""
    size = KEY_BYTES + COUNTER_BYTES
    info = _info("expand", context, client, helper)
    material = HKDF(algorithm=SHA256(), length=size, salt=context, info=info).derive(seed)
    return Stream(key=material[:KEY_BYTES], counter=material[KEY_BYTES:])


def _ranges(length: int) -> Iterable[range]:
    """Disjoint ranges that cover a vector: few enough to be long, enough to share out evenly."""
    step = max(RANGE_ELEMENTS, -(-length // RANGES))
    step += -step % ALIGNMENT
    return (range(start, min(start + step, length)) for start in range(0, length, step))


def _distinct(
    pairs: Sequence[tuple[PartyName, bytes]],
) -> Sequence[tuple[PartyName, bytes]]:
    """``pairs``, of which there is at least one and none names a party twice.

    Without this check a client that is told of no helper would upload its vector in the clear.
    """
    if not pairs:
        raise LocalProtocolError("secagg.empty", "masking needs at least one helper and one client")
    if len({name for name, _ in pairs}) != len(pairs):
        raise LocalProtocolError("secagg.duplicate", "a party is named twice")
    return pairs
