"""A whole round against Flower's SecAgg+: both sides, all phases, keys included."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from peers import flower

from support import protocol
from support.machine import Row, median_s, row, say, seconds
from tacit.algebra.ring import Ring
from tacit.privacy.plan import Plan
from tacit.secagg.masked import RunningSum, mask_sum, open_seeds
from tacit.trust.identity import verify
from tacit.trust.sealing import HpkeSealing
from tacit.types import PartyName
from tacit.wire.envelope import (
    Address,
    Channel,
    Envelope,
    Received,
    check_chunks,
    open_message,
    sign_message,
    split_chunks,
)
from tacit.wire.messages import MaskSum

REPEATS = 3


class Server:
    """Leader and helpers of one round, with the seconds of each of their steps."""

    def __init__(self, plan: Plan, size: int, length: int) -> None:
        self.size = size
        self.plan = plan
        self.ring = Ring(plan.ring_bits)
        self.length = length
        self.taken: dict[str, float] = {}

    def _timed(self, step: str, call: Any) -> Any:
        found: list[Any] = []
        self.taken[step] = self.taken.get(step, 0.0) + seconds(lambda: found.append(call()))
        return found[0]

    def round(self, uploads: list[Envelope]) -> None:
        """The server side of one round: from arrived uploads to the sum of real numbers."""
        self.taken = {}
        total = self._timed("sum", lambda: RunningSum(self.ring, self.length))
        for envelope in uploads:
            message = self._timed("signatures", lambda e=envelope: _opened(e))
            self._timed("digests", lambda m=message: self._check(m))
            self._timed("sum", lambda m=message: total.add(m.chunks))
        for number in range(protocol.HELPERS):
            answer = self._answer(number, uploads)
            message = self._timed("signatures", lambda a=answer: _opened(a))
            self._timed("digests", lambda m=message: self._check(m))
            self._timed("sum", lambda m=message: total.subtract(m.chunks))
        self._timed("sum", lambda: self._decoded(total))

    def _decoded(self, total: RunningSum) -> Any:
        vector = self.ring.from_bytes(total.to_bytes(), self.length)
        return protocol.decoded(vector, self.plan, self.size)

    def _check(self, message: Received) -> None:
        list(check_chunks(message.body.vector, message.chunks, self.length, self.ring.item_bytes))

    def _answer(self, number: int, uploads: list[Envelope]) -> Envelope:
        """One helper's work: key of the round, signatures, seeds, masks, noise, signed answer."""
        who = protocol.helpers()
        name = who.names[number]
        opener = who.openers[number]
        self._timed("keys", lambda: HpkeSealing().generate())
        messages = self._timed("signatures", lambda: [_opened(upload) for upload in uploads])
        sealed = [(m.sender.party, m.body.seeds[number].sealed) for m in messages]
        keys = self._timed(
            "seeds",
            lambda: open_seeds(sealed, context=protocol.CONTEXT, helper=name, opener=opener),
        )
        total = self._timed("masks", lambda: mask_sum(keys, self.ring, self.length))
        self._timed("noise", lambda: self._noise(total))
        return self._timed("digests", lambda: self._signed(name, total))

    def _noise(self, total: Any) -> None:
        """Where the encoding leaves room for it."""
        if self.ring.bits in protocol.NOISE:
            protocol.subtract_noise(total, self.ring, protocol.NOISE[self.ring.bits])

    def _signed(self, name: PartyName, total: Any) -> Envelope:
        vector, chunks = split_chunks(self.ring.to_bytes(total), self.length)
        sender = Address(name, "helper")
        run, roster, job = protocol.RUN, protocol.ROSTER, protocol.JOB
        channel = Channel(run, roster, job, sender, protocol.identity(name), protocol.LOG)
        body = MaskSum(context=protocol.CONTEXT, cohort=protocol.RUN, vector=vector)
        return sign_message(
            channel, protocol.LEADER, body, round_number=protocol.ROUND, chunks=chunks
        )


def _authenticate(sender: Address, message: bytes, signature: bytes) -> None:
    verify(protocol.identity(sender.party).public_key, signature, message)


def _opened(envelope: Envelope) -> Received:
    return open_message(envelope.message, _authenticate, chunks=envelope.chunks)


def rows(clients: int, size: int, *, refresh: bool) -> Iterator[Row]:
    """Client, server side and bytes, at 32 bits with noise and at 16 bits without."""
    peer = flower.cost(clients, size, refresh=refresh)
    machine = peer["machine"]
    yield row(
        "Flower: client",
        peer["client_total_cpu_s"],
        "s",
        f"flwr {peer['flwr']}, {_parts(peer['client_cpu_s'])}, wall "
        f"{peer['client_total_wall_s']:.3g}; n = {clients}, d = {size:.0e}, "
        f"{peer['dropped']} dropped, {peer['shares']} shares, threshold {peer['threshold']}",
    )
    yield row(
        "Flower: server",
        peer["server_total_cpu_s"],
        "s",
        f"{_parts(peer['server_cpu_s'])}, wall {peer['server_total_wall_s']:.3g}; measured {machine['date']} on {machine['cores']} cores, "
        f"{machine['processor']}, load {machine['load_at_start']} to {machine['load_at_end']}",
    )
    for bits, fraction in ((32, 1 / 2), (16, 1 / 3.9)):
        plan = protocol.plan(bits, size)
        yield from _against(plan, peer, clients, size, fraction)


def _against(
    plan: Plan, peer: dict[str, Any], clients: int, size: int, fraction: float
) -> Iterator[Row]:
    ring, values = Ring(plan.ring_bits), protocol.update(size)
    label = f"b={plan.ring_bits}"
    vector = protocol.encode(values, plan)
    encoded = median_s(lambda: protocol.encode(values, plan))
    masked = protocol.hide(vector, ring, 0)
    hidden = median_s(lambda: protocol.hide(vector, ring, 0))
    signed = median_s(lambda: protocol.upload(masked, ring, 0))
    key = HpkeSealing().generate().public_key
    envelope = protocol.upload(masked, ring, 0)
    encrypted = median_s(lambda: protocol.transported(envelope, key))
    own = encoded + hidden + signed
    how = (
        f"{own * 1e3:.1f} ms: clip and encode {encoded * 1e3:.1f}, mask and seal "
        f"{hidden * 1e3:.1f}, digests and signature {signed * 1e3:.1f}; transport encryption, "
        f"{encrypted * 1e3:.1f} ms more, is counted on neither side"
    )
    yield row(
        f"against Flower: client, {label}", peer["client_total_cpu_s"] / own, "x", how, ">= 100"
    )
    sent = protocol.transported(envelope, key).size
    how = f"{sent:,} bytes, transport encryption included, to {peer['bytes_up_total']:,}"
    name = f"against Flower: bytes up, {label}"
    yield row(name, sent / peer["bytes_up_total"], "x", how, f"<= {fraction:.4g}")
    kept = clients - peer["dropped"]
    say(f"server side of {kept} uploads, {label}")
    uploads = [protocol.upload(protocol.hide(vector, ring, n), ring, n) for n in range(kept)]
    yield from _server(plan, uploads, peer["server_total_cpu_s"], label, (size, len(vector)))


def _server(
    plan: Plan, uploads: list[Envelope], peer_s: float, label: str, sizes: tuple[int, int]
) -> Iterator[Row]:
    size, length = sizes
    server, totals, steps = Server(plan, size, length), [], []
    for _ in range(REPEATS + 1):
        totals.append(seconds(lambda: server.round(uploads)))
        steps.append(server.taken)
    middle = {step: statistics.median(taken[step] for taken in steps[1:]) for step in steps[0]}
    total = statistics.median(totals[1:])
    how = f"{total * 1e3:.0f} ms on one core: {_parts(middle, 1e3, 'ms')}"
    yield row(f"against Flower: server side, {label}", peer_s / total, "x", how, ">= 300")
    like = total - middle["digests"] - middle["signatures"] - middle["noise"]
    how = f"{like * 1e3:.0f} ms without digests, signatures and noise, none of which Flower has"
    yield row(f"against Flower: server side, like for like, {label}", peer_s / like, "x", how)


def _parts(taken: dict[str, float], scale: float = 1.0, unit: str = "s") -> str:
    return ", ".join(f"{step} {value * scale:.3g}" for step, value in taken.items()) + f" {unit}"
