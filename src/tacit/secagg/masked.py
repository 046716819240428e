"""The protocol ``masked``, version 1: one seed per client and helper hides a contribution.

A client adds one keystream per helper to its vector and seals the seed of each to that helper's key of
the round. A helper returns the sum of its keystreams over the cohort, once. The leader subtracts the
helpers' sums from the sum of the uploads; nobody can do so for one upload unless every helper takes
part. Pure functions: keys, entropy and sealing are arguments, state is the caller's.

Reference: RFC 5869 (HKDF), RFC 9180 (HPKE), NIST SP 800-38A (CTR).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.algebra.prg import COUNTER_BYTES, KEY_BYTES, add_keystream_into
from tacit.algebra.ring import Ring, ring_sum, subtract_into
from tacit.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from tacit.types import Digest, Entropy, Opener, PartyName, Sealing
from tacit.wire.codec import Size, encode
from tacit.wire.messages import SealedSeed

__all__ = ["Masked", "cohort_digest", "mask", "mask_sum", "round_context", "unmask"]

PROTOCOL = "tacit masked v1"
SEED_BYTES = 32

_Text = Annotated[str, Size(1, 64)]
_Hash = Annotated[bytes, Size.exactly(32)]


@dataclass(frozen=True, slots=True)
class Masked:
    """What a client uploads: its masked vector, uint32[d], and one sealed seed per helper."""

    vector: Ring
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
    keys: Annotated[tuple[_Key, ...], Size(1, 64)]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Where a seed belongs; ``use`` keeps the sealing of a seed and its expansion apart."""

    use: _Text
    context: _Hash
    client: _Text
    helper: _Text


@dataclass(frozen=True, slots=True)
class _Cohort:
    protocol: _Text
    uploads: Annotated[tuple[_Hash, ...], Size(1, 10_000)]


def round_context(
    *,
    run: Digest,
    round_number: int,
    roster: Digest,
    job: Digest,
    model: Digest,
    plan: bytes,
    keys: Sequence[tuple[PartyName, bytes]],
) -> Digest:
    """The digest that ties every seed of a round to run, round, roster, job, model, plan and keys.

    Args:
        run: Run id.
        round_number: 1 or higher.
        roster: Digest of the roster.
        job: Digest of the job.
        model: Digest of the model that the clients train on.
        plan: Canonical bytes of the privacy plan, which fix the encoding too.
        keys: Helpers and their public keys of this round, in the order that all parties use.

    Raises:
        LocalProtocolError: No helper, a helper twice, or a field outside its limits.

    Guarantee: a leader that tells two clients different fields gets two contexts, whose seeds no
    helper sums together. Checked by
    ``tests/property/test_secagg_masked.py::test_every_field_changes_the_context``.
    """
    context = _Context(
        protocol=PROTOCOL,
        run=run,
        round=round_number,
        roster=roster,
        job=job,
        model=model,
        plan=plan,
        keys=tuple(_Key(helper, key) for helper, key in _distinct(keys)),
    )
    return Digest(hashlib.sha256(encode(context)).digest())


def mask(
    vector: Ring,
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
        vector: uint32[d], the client's contribution; left as it is.
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
    hidden = vector.copy()
    seeds: list[SealedSeed] = []
    for helper, key in _distinct(keys):
        seed = entropy.draw(SEED_BYTES)
        try:
            sealed = sealing.seal(seed, key, _info("seal", context, client, helper))
        except DecodeError as error:
            raise RemoteProtocolError(
                "secagg.helper-key", f"the key of helper {helper} is malformed", party=helper
            ) from error
        seeds.append(SealedSeed(helper=helper, sealed=sealed))
        add_keystream_into(hidden, *_expansion(seed, context, client, helper))
    return Masked(vector=hidden, seeds=tuple(seeds))


def mask_sum(
    seeds: Sequence[tuple[PartyName, bytes]],
    *,
    context: Digest,
    helper: PartyName,
    opener: Opener,
    length: int,
) -> Ring:
    """One helper's sum of masks over the cohort.

    The caller subtracts its noise share, answers once and erases the key.

    Args:
        seeds: Clients of the cohort and the seeds that they sealed to this helper.
        context: What every client of the cohort signed as its context. A seed opens under the very
            context that its client sealed it for, so a context that the leader made up opens none.
        helper: Whose key ``opener`` is.
        opener: The private key of the round.
        length: Number of elements of the vectors.

    Returns:
        uint32[length].

    Raises:
        LocalProtocolError: No client, a client twice, or the key was erased.
        RemoteProtocolError: A seed was not sealed by this client to this key under this context;
            names the client. Nothing was expanded then.

    Guarantee: a seed that was sealed for another client, helper, round, model, job or run never
    enters the sum. Checked by ``tests/property/test_secagg_masked.py::test_tampered_seed_is_named``
    and ``::test_seed_of_another_context_is_refused``.
    """
    opened = [
        (client, _open_seed(sealed, context, client, helper, opener))
        for client, sealed in _distinct(seeds)
    ]
    total = ring_sum((), length)
    for client, seed in opened:
        add_keystream_into(total, *_expansion(seed, context, client, helper))
    return total


def unmask(uploads: Sequence[Ring], mask_sums: Sequence[Ring]) -> Ring:
    """The sum of the cohort's vectors and the helpers' noise: uploads minus mask sums.

    Args:
        uploads: Masked vectors of the cohort, each uint32[d].
        mask_sums: One answer of every helper for that cohort, each uint32[d].

    Returns:
        uint32[d].

    Raises:
        LocalProtocolError: Nothing to sum, or no helper answered.

    Guarantee: exact for every cohort when all answers are honest; with an answer missing the result
    is uniform. Checked by ``tests/property/test_secagg_masked.py::test_sum_is_exact`` and
    ``::test_uniform_without_one_helper``.
    """
    if not uploads or not mask_sums:
        raise LocalProtocolError("secagg.empty", "a sum needs uploads and the helpers' mask sums")
    total = ring_sum(uploads, len(uploads[0]))
    for answer in mask_sums:
        subtract_into(total, answer)
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
    return encode(_Pair(use=use, context=context, client=client, helper=helper))


def _expansion(
    seed: bytes, context: Digest, client: PartyName, helper: PartyName
) -> tuple[bytes, bytes]:
    """AES key and first counter block of one mask."""
    size = KEY_BYTES + COUNTER_BYTES
    info = _info("expand", context, client, helper)
    material = HKDF(algorithm=SHA256(), length=size, salt=context, info=info).derive(seed)
    return material[:KEY_BYTES], material[KEY_BYTES:]


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
