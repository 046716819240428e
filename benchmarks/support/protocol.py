"""One round of ``masked`` in the small: parties, keys and uploads for the benchmarks to time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.encoding import decode
from tacit.algebra.ring import Ring, RingVector
from tacit.privacy.calibration import make_plan
from tacit.privacy.integers import encode_row
from tacit.privacy.noise import noise_blocks
from tacit.privacy.plan import Plan
from tacit.privacy.rotated import decode_rotated, encode_rotated
from tacit.secagg.masked import Masked, mask_in_place
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.sealing import HpkeOpener, HpkeSealing
from tacit.types import Digest, PartyName
from tacit.wire.envelope import (
    Address,
    Channel,
    Envelope,
    LogHead,
    digest,
    sign_message,
    split_chunks,
)
from tacit.wire.messages import Upload

HELPERS = 3
ROUND = 1
UNITS = 100
NOISE = {24: 10_306, 32: 2_638_320}
"""Standard deviations of a share at both widths, as plans choose them: unit record, epsilon 8 over 20
rounds with one per cent of 10,000 records each, three helpers of whom one may collude."""
LEADER = Address(PartyName("leader"), "leader")
CONTEXT = Digest(bytes(range(32)))
ROTATION = bytes(32)
RUN, ROSTER, JOB = (Digest(bytes([number]) * 32) for number in (1, 2, 3))
LOG = LogHead(1, RUN)


class Unsealed:
    """A ``Sealing`` that hides nothing: leaves out HPKE, which costs the same at every length."""

    def generate(self) -> Any:
        """A key pair; nothing here is sealed to it."""
        return HpkeSealing().generate()

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        """The plaintext."""
        return plaintext


@dataclass(frozen=True)
class Helpers:
    """The helpers of a round and their private keys."""

    names: tuple[PartyName, ...]
    openers: tuple[HpkeOpener, ...]

    @property
    def keys(self) -> list[tuple[PartyName, bytes]]:
        """What clients know of them."""
        pairs = zip(self.names, self.openers, strict=True)
        return [(name, opener.public_key) for name, opener in pairs]


@cache
def helpers(count: int = HELPERS) -> Helpers:
    """The same helpers for all benchmarks."""
    names = tuple(PartyName(f"helper-{number}") for number in range(count))
    return Helpers(names, tuple(HpkeSealing().generate() for _ in names))


@cache
def identity(name: str) -> Identity:
    """A party's signing key; reproducible, because nothing here is secret."""
    return Identity.generate(SeededEntropy(name))


def client_name(number: int) -> PartyName:
    """Of client ``number``."""
    return PartyName(f"client-{number}")


def hide(vector: RingVector, ring: Ring, number: int, *, sealing: Any = None) -> Masked:
    """Masks ``vector`` in its own memory, as a site does, for client ``number`` and all helpers."""
    return mask_in_place(
        vector,
        ring,
        context=CONTEXT,
        client=client_name(number),
        keys=helpers().keys,
        sealing=HpkeSealing() if sealing is None else sealing,
        entropy=OsEntropy(),
    )


def upload(masked: Masked, ring: Ring, number: int) -> Envelope:
    """The signed upload of client ``number`` with its chunks, before transport encryption."""
    vector, chunks = split_chunks(ring.to_bytes(masked.vector), len(masked.vector))
    name = client_name(number)
    channel = Channel(RUN, ROSTER, JOB, Address(name, "client"), identity(name), LOG)
    body = Upload(context=CONTEXT, seeds=masked.seeds, vector=vector)
    return sign_message(channel, LEADER, body, round_number=ROUND, chunks=chunks)


def transported(envelope: Envelope, leader_key: bytes) -> Envelope:
    """The upload as it travels: every chunk sealed to the leader's key of the round."""
    info = digest(envelope.message)
    sealed = tuple(
        HpkeSealing().seal(chunk, leader_key, info + index.to_bytes(4, "big"))
        for index, chunk in enumerate(envelope.chunks)
    )
    return Envelope(receiver=envelope.receiver, message=envelope.message, chunks=sealed)


def random_vector(ring: Ring, length: int, seed: int = 0) -> RingVector:
    """A reproducible ring vector; what it holds does not matter to the time taken."""
    data = np.random.default_rng(seed).bytes(length * ring.dtype.itemsize)
    vector: RingVector = np.frombuffer(data, dtype=ring.dtype).copy()
    return vector


def update(length: int, seed: int = 0) -> NDArray[np.float64]:
    """A client's update, float64[length]."""
    return np.random.default_rng(seed).standard_normal(length) * 0.05


def streams(count: int, seed: int = 0) -> list[tuple[bytes, bytes]]:
    """Keystream keys as a helper holds them once it has opened the seeds of ``count`` clients."""
    draw = SeededEntropy(seed).draw
    return [(draw(32), draw(16)) for _ in range(count)]


def encode(values: NDArray[np.float64], plan: Plan) -> RingVector:
    """Clips and encodes a client's update, as a workload does."""
    if plan.rotated:
        integers = encode_rotated(
            values,
            clip_norm=plan.clip_norm,
            grid=plan.grid,
            coordinate_bound=plan.coordinate_bound,
            seed=ROTATION,
            entropy=OsEntropy(),
        )
        return integers.view(np.uint16)
    return clip_and_encode(values, plan)


def clip_and_encode(values: NDArray[np.float64], plan: Plan) -> RingVector:
    """Clips and encodes without a rotation."""
    ring = Ring(plan.ring_bits)
    vector: RingVector = np.empty(len(values), dtype=ring.dtype)
    signed = np.dtype(f"i{vector.itemsize}")
    encode_row(values, plan.clip_norm, plan.grid, vector.view(signed))
    ring.reduce(vector)
    return vector


def decoded(total: RingVector, plan: Plan, length: int) -> NDArray[np.float64]:
    """The real numbers behind a sum of ``length`` parameters, as the server step reads them."""
    integers = Ring(plan.ring_bits).centred(total)
    if plan.rotated:
        return decode_rotated(integers, plan.grid, ROTATION, length)
    return decode(integers, plan.grid)


def subtract_noise(total: RingVector, ring: Ring, standard_deviation: int) -> None:
    """A helper's noise share, taken off its mask sum block by block, as a helper does."""
    start = 0
    for block in noise_blocks(standard_deviation**2, len(total), OsEntropy()):
        ring.subtract_into(total[start : start + len(block)], ring.from_integers(block))
        start += len(block)


@cache
def plan(bits: int, dimension: int) -> Plan:
    """The plan of a job over 100 clients without noise; it fixes the encoding."""
    return make_plan(
        unit="none",
        epsilon=1.0,
        delta=1e-6,
        clip_norm=1.0,
        sampling_rate=1.0,
        expected_units=UNITS,
        rounds=20,
        helpers=HELPERS,
        max_colluding=1,
        own_noise=False,
        dimension=dimension,
        ring_bits=bits,
        units_bound=UNITS,
    )
