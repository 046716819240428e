"""The parts of a round, each against the plainest code that moves the same bytes."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from support import protocol
from support.machine import Row, cores, interleaved_s, load, median_s, ratio, row, say, wall
from tacit.algebra.ring import Ring
from tacit.privacy.noise import COMPILED_DRAWS, discrete_gaussian
from tacit.secagg.masked import RunningSum, mask_sum, open_seeds
from tacit.trust.identity import OsEntropy
from tacit.trust.sealing import HpkeSealing
from tacit.wire.envelope import check_chunks, split_chunks

WIDTHS = (16, 32)
KEYSTREAM_BLOCK = 2**17
"""Bytes; among the fastest block sizes for the bare keystream on the machines seen."""
POOL_BYTES = 2**28
"""Vectors to be summed repeat beyond this, far more than any cache holds."""


def keystream(size: int, count: int = 1) -> Callable[[], None]:
    """The physical limit: ``count`` AES-256-CTR keystreams of ``size`` bytes, into a cached block."""
    zeros, sink = bytes(KEYSTREAM_BLOCK), bytearray(KEYSTREAM_BLOCK + 16)

    def generate() -> None:
        for number in range(count):
            key = number.to_bytes(32, "big")
            update_into = (
                Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update_into
            )
            for _ in range(size // KEYSTREAM_BLOCK):
                update_into(zeros, sink)
            update_into(zeros[: size % KEYSTREAM_BLOCK], sink)

    return generate


def whole_keystream(size: int) -> Callable[[], None]:
    """One AES-256-CTR keystream of ``size`` bytes into memory that was written before."""
    zeros, sink = bytes(size), bytearray(size + 16)

    def generate() -> None:
        cipher = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16)))
        cipher.encryptor().update_into(zeros, sink)

    return generate


def masks(sizes: tuple[int, ...]) -> Iterator[Row]:
    """Client and helper against the keystreams that they need."""
    for bits in WIDTHS:
        for size in sizes:
            yield from _masks(Ring(bits), size)


def _masks(ring: Ring, size: int) -> Iterator[Row]:
    say(f"b = {ring.bits}, d = {size:.0e}")
    vector = protocol.random_vector(ring, size)
    clients = 10
    keys = protocol.streams(clients)
    unsealed = protocol.Unsealed()
    own, bare, cached, helped = interleaved_s(
        [
            lambda: protocol.hide(vector, ring, 0, sealing=unsealed),
            whole_keystream(ring.item_bytes * size),
            keystream(ring.item_bytes * size),
            lambda: mask_sum(keys, ring, size),
        ],
        repeats=11 if size <= 10**6 else 5,
    )
    limit = statistics.median(bare)
    for side, times, count in (
        ("client: mask", own, protocol.HELPERS),
        ("helper: mask sum", helped, clients),
    ):
        per = statistics.median(times) / size / count * 1e9
        what = f"{count} {'helpers' if times is own else 'clients'}, HPKE in rows of its own"
        how = (
            f"{per:.2f} ns/parameter; keystream alone {limit / size * 1e9:.2f}, and "
            f"{statistics.median(cached) / size * 1e9:.2f} where it never leaves the cache; {what}"
        )
        name = f"{side}, b={ring.bits}, d={size:.0e}"
        yield row(name, ratio(times, bare) / count, "x AES-256-CTR", how, "<= 1.3")


def two_cores(size: int) -> Iterator[Row]:
    """A helper's mask sum with a pool's map against the builtin one, in wall time."""
    for bits in WIDTHS:
        ring, keys = Ring(bits), protocol.streams(10)
        limit = keystream(ring.item_bytes * size)
        with ThreadPoolExecutor(2) as pool:
            one, two, bare_one, bare_two = interleaved_s(
                [
                    lambda r=ring, k=keys: mask_sum(k, r, size),
                    lambda r=ring, k=keys, p=pool: mask_sum(k, r, size, run=p.map),
                    lambda once=limit: [once(), once()],
                    lambda once=limit, p=pool: list(p.map(lambda _: once(), range(2))),
                ],
                repeats=7,
                clock=wall,
            )
        how = (
            f"10 clients, d = {size:.0e}, two threads on {cores()} cores, load {load()}, wall time; "
            f"two bare keystreams gain {ratio(bare_one, bare_two):.2f}x"
        )
        target = ">= 1.6" if cores() >= 2 else None
        yield row(f"helper: two cores, b={bits}", ratio(one, two), "x one core", how, target)


def encoding(size: int) -> Iterator[Row]:
    """From a client's update to ring elements of bounded norm."""
    for bits in (16, 24, 32):
        plan = protocol.plan(bits, size)
        values = protocol.update(size)
        taken = median_s(lambda v=values, p=plan: protocol.clip_and_encode(v, p))
        how, name = f"one update of {size:,} parameters", f"client: clip and encode, b={bits}"
        yield row(name, taken / size * 1e9, "ns/parameter", how, "<= 6")
        if plan.rotated:
            taken = median_s(lambda v=values, p=plan: protocol.encode(v, p))
            how += ", with block-Hadamard rotation and conditional stochastic rounding"
            yield row(
                f"client: rotate, round and encode, b={bits}",
                taken / size * 1e9,
                "ns/parameter",
                how,
            )


def noise(sizes: tuple[int, ...]) -> Iterator[Row]:
    """A helper's noise share as two plans choose it, taken off its mask sum."""
    for size in sizes:
        for bits, std in protocol.NOISE.items():
            ring = Ring(bits)
            total = ring.zeros(size)
            taken = median_s(lambda t=total, r=ring, s=std: protocol.subtract_noise(t, r, s), 5)
            how = f"standard deviation {std:,}, whatever n; loading and compiling not counted"
            name = f"helper: noise share, b={bits}, d={size:.0e}"
            yield row(name, taken / size * 1e9, "ns/parameter", how, "<= 20")


def sampler(variances: Sequence[int], size: int) -> Iterator[Row]:
    """The discrete Gaussian sampler by variance, compiled and as its NumPy reference draws."""
    entropy = OsEntropy()
    reference = min(size, COMPILED_DRAWS // 2)
    for variance in variances:
        for count, label, target in ((size, "", "<= 20"), (reference, ", NumPy reference", None)):
            taken = median_s(lambda v=variance, n=count: discrete_gaussian(v, n, entropy))
            how = f"{count:,} draws; loading and compiling not counted"
            name = f"noise, variance {variance:.0e}{label}"
            yield row(name, taken / count * 1e9, "ns/draw", how, target)


def combine(size: int, counts: tuple[int, ...], drop: float = 0.3) -> Iterator[Row]:
    """The leader's whole combine against a float32 sum of as many vectors."""
    for bits in WIDTHS:
        ring = Ring(bits)
        pool = max(2, min(max(counts), POOL_BYTES // (4 * size)))
        chunked = [
            split_chunks(ring.to_bytes(protocol.random_vector(ring, size, seed)), size)[1]
            for seed in range(pool)
        ]
        floats = [np.full(size, seed, dtype=np.float32) for seed in range(pool)]
        for count in counts:
            yield _combined(ring, chunked, floats, count, f"n={count}")
        count = counts[-2]
        kept = round(count * (1 - drop))
        yield _combined(ring, chunked, floats, kept, f"n={count}, {drop:.0%} dropped out")


def _combined(
    ring: Ring,
    chunked: list[tuple[bytes, ...]],
    floats: list[NDArray[np.float32]],
    count: int,
    label: str,
) -> Row:
    size = len(floats[0])

    def ours() -> None:
        total = RunningSum(ring, size)
        for number in range(count):
            total.add(chunked[number % len(chunked)])
        for number in range(protocol.HELPERS):
            total.subtract(chunked[number % len(chunked)])
        total.to_bytes()

    def plain() -> None:
        total = np.zeros(size, dtype=np.float32)
        for number in range(count):
            np.add(total, floats[number % len(floats)], out=total)

    own, bare = interleaved_s([ours, plain], repeats=11 if count <= 100 else 5)
    how = (
        f"{count} uploads and {protocol.HELPERS} mask sums of {size:,} parameters in "
        f"{statistics.median(own) * 1e3:.1f} ms; float32 sum {statistics.median(bare) * 1e3:.1f} ms"
    )
    name = f"leader: combine, b={ring.bits}, {label}"
    return row(name, ratio(own, bare), "x float32 sum", how, "<= 1.5")


def digests(size: int) -> Iterator[Row]:
    """Checking an upload's chunks against SHA-256 of the same bytes."""
    for bits in WIDTHS:
        ring = Ring(bits)
        data = bytes(ring.to_bytes(protocol.random_vector(ring, size)))
        vector, chunks = split_chunks(data, size)
        own, bare = interleaved_s(
            [
                lambda v=vector, c=chunks, i=ring.item_bytes: list(check_chunks(v, c, size, i)),
                lambda d=data: hashlib.sha256(d).digest(),
            ],
            repeats=9,
        )
        speed = len(data) / statistics.median(bare) / 1e9
        how = f"{size:,} parameters in {len(chunks)} chunks; bare SHA-256 {speed:.2f} GB/s"
        yield row(f"leader: check digests, b={bits}", ratio(own, bare), "x SHA-256", how, "<= 1.1")


def seeds(clients: int, repeats: int = 5) -> Iterator[Row]:
    """What HPKE costs: a client seals one seed per helper, a helper opens one per client."""
    ring, keys = Ring(16), protocol.helpers()
    tiny = ring.zeros(1)
    sealed = median_s(lambda: protocol.hide(tiny, ring, 0), repeats=51)
    how = f"{protocol.HELPERS} helpers, ML-KEM-768 with X25519, vector of one element"
    yield row("client: seal its seeds", sealed * 1e3, "ms", how)
    say(f"sealing the seeds of {clients} clients")
    name, opener = keys.names[0], keys.openers[0]
    held = [
        (protocol.client_name(number), protocol.hide(tiny, ring, number).seeds[0].sealed)
        for number in range(clients)
    ]
    taken = median_s(
        lambda: open_seeds(held, context=protocol.CONTEXT, helper=name, opener=opener), repeats
    )
    how = (
        f"{clients} clients, {taken / clients * 1e6:.0f} us each, one core, key derivation included"
    )
    yield row("helper: open sealed seeds", taken, "s", how, "<= 0.2")


def bytes_up(size: int) -> Iterator[Row]:
    """A real upload as it travels, against the same parameters as float32."""
    leader = HpkeSealing().generate()
    for bits, target in ((16, "<= 0.51"), (24, None), (32, "<= 1.01")):
        plan, ring = protocol.plan(bits, size), Ring(bits)
        vector = protocol.encode(protocol.update(size), plan)
        envelope = protocol.upload(protocol.hide(vector, ring, 0), ring, 0)
        sent = protocol.transported(envelope, leader.public_key).size
        how = (
            f"{sent:,} bytes for {size:,} parameters: signed message, {protocol.HELPERS} sealed "
            f"seeds, {len(envelope.chunks)} chunks encrypted to the leader"
        )
        yield row(f"client: bytes up, b={bits}", sent / (4 * size), "x float32", how, target)
