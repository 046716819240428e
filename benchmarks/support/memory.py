"""Peak memory of every role, each in a fresh process of its own.

    python -m support.memory ROLE CLIENTS ELEMENTS BITS     (in the folder benchmarks)

prints one JSON object. Seeds, headers and chunks are real; what other parties send is made on the way,
one vector at a time, as it arrives over a network or lies in a store.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from support import protocol
from support.footprint import forget_peak, in_use, peak
from support.machine import Row, row, say
from tacit.algebra.ring import Ring
from tacit.secagg.masked import RunningSum, mask_sum, open_seeds
from tacit.trust.sealing import HpkeSealing
from tacit.wire.envelope import check_chunks, digest, split_chunks

GIB = 2**30
CONSTANT = 4 * 2**20
"""Bytes for blocks, headers and keys, whatever the length and the number of clients."""
WARM_ELEMENTS = 2**20
"""From this length on the noise sampler is compiled."""


def leader(clients: int, size: int, ring: Ring) -> None:
    """Opens, checks and adds every upload; subtracts the answers; cuts the result into chunks."""
    opener, total = HpkeSealing().generate(), RunningSum(ring, size)
    known, first = split_chunks(ring.to_bytes(ring.zeros(size)), size)
    last = len(first) - 1
    pattern = {len(chunk): chunk for chunk in (first[0], first[last])}
    del first
    info = digest(b"upload")
    lengths = [len(pattern[max(pattern)])] * last + [len(pattern[min(pattern)])]
    for _ in range(clients):
        arrived = [HpkeSealing().seal(pattern[n], opener.public_key, info) for n in lengths]
        opened = (opener.open(chunk, info) for chunk in arrived)
        for start, chunk in check_chunks(known, opened, size, ring.item_bytes):
            total.add_chunk(start, chunk)
        del arrived, opened
    for _ in range(protocol.HELPERS):
        arrived = [bytes(bytearray(pattern[n])) for n in lengths]
        for start, chunk in check_chunks(known, arrived, size, ring.item_bytes):
            total.subtract_chunk(start, chunk)
        del arrived
    split_chunks(total.to_bytes(), size)


def helper(clients: int, size: int, ring: Ring) -> None:
    """Opens its seeds, adds the masks, takes its noise share off, cuts the answer into chunks."""
    names, openers = protocol.helpers().names, protocol.helpers().openers
    sealed = [
        (protocol.client_name(n), protocol.hide(ring.zeros(1), ring, n).seeds[0].sealed)
        for n in range(clients)
    ]
    keys = open_seeds(sealed, context=protocol.CONTEXT, helper=names[0], opener=openers[0])
    total = mask_sum(keys, ring, size)
    if ring.bits in protocol.NOISE:
        protocol.subtract_noise(total, ring, protocol.NOISE[ring.bits])
    split_chunks(ring.to_bytes(total), size)


def client(clients: int, size: int, ring: Ring) -> None:
    """Clips, encodes, masks, signs and encrypts its update; ``clients`` plays no part."""
    plan = protocol.plan(ring.bits, size)
    vector = protocol.encode(protocol.update(size), plan)
    masked = protocol.hide(vector, ring, 0)
    del vector
    envelope = protocol.upload(masked, ring, 0)
    del masked
    protocol.transported(envelope, HpkeSealing().generate().public_key)


ROLES: dict[str, Callable[[int, int, Ring], None]] = {
    "leader": leader,
    "helper": helper,
    "client": client,
}


def _measure(role: str, clients: int, size: int, bits: int) -> dict[str, int]:
    """Bytes that the role needs at its peak, beyond the interpreter, and those of the interpreter."""
    ring = Ring(bits)
    ROLES[role](2, min(size, WARM_ELEMENTS), ring)  # whatever is loaded or compiled once
    gc.collect()
    forget_peak()
    before = in_use()
    ROLES[role](clients, size, ring)
    return {"needed": peak() - before, "before": before}


def _run(role: str, clients: int, size: int, bits: int, *, all_of_it: bool = False) -> int:
    say(f"memory of the {role}: n = {clients}, d = {size:.0e}, b = {bits}")
    command = [sys.executable, "-m", "support.memory", role, str(clients), str(size), str(bits)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found["needed"] + (found["before"] if all_of_it else 0)


def roles(size: int, few: int, many: int, widths: tuple[int, ...] = (16, 24, 32)) -> Iterator[Row]:
    """Leader and helper: how many vectors they hold at their peak, whatever the number of clients."""
    for role in ("leader", "helper"):
        for bits in widths:
            for count in (few, many) if bits != 24 else (few,):
                vector = Ring(bits).item_bytes * size
                needed = _run(role, count, size, bits)
                how = (
                    f"peak of {needed / 1e6:.1f} MB beyond the interpreter's, less a constant of "
                    f"{CONSTANT / 2**20:.0f} MiB, in vectors of {vector / 1e6:.1f} MB"
                )
                held = (needed - CONSTANT) / vector
                yield row(f"{role}: memory, b={bits}, n={count}", held, "vectors", how, "<= 3")


def whole_round(size: int, clients: int, widths: tuple[int, ...] = (16, 32)) -> Iterator[Row]:
    """A long round: the most that any of its processes holds, interpreter and libraries included."""
    for bits in widths:
        peaks = {role: _run(role, clients, size, bits, all_of_it=True) / GIB for role in ROLES}
        each = ", ".join(f"{role} {held:.2f}" for role, held in peaks.items())
        how = (
            f"one process per role, float64 update of d = {size:.0e}, {clients} clients; {each} GiB"
        )
        name = f"round of {clients} clients, d={size:.0e}, b={bits}"
        yield row(f"memory: {name}", max(peaks.values()), "GiB", how, "<= 3")


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], *(int(text) for text in sys.argv[2:5]))))
