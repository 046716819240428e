"""Messages of the engine without a run: members that answer at once, and who writes to them.

``python -m support.engine_echo BASE FOLDER NAME`` is one member as a process: real connection, courier,
host and signatures, but no training, no store and no aggregation.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tacit.engine.clock import wall_clock
from tacit.engine.nats.connection import connect
from tacit.engine.nats.courier import Courier
from tacit.engine.nats.host import Host
from tacit.engine.nats.network import NETWORK_FILE, Credentials, Network, slug
from tacit.engine.nats.spool import Spool
from tacit.engine.nats.streams import prepare_stream
from tacit.testing.federation import LEADER
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName
from tacit.wire.envelope import (
    Address,
    Channel,
    Envelope,
    LogHead,
    check_chunks,
    open_message,
    sign_message,
    split_chunks,
)
from tacit.wire.messages import KeyRequest, MaskSum, Refusal, Vector

__all__ = ["Echo", "Leader", "leading", "payload"]

ZERO = Digest(bytes(32))
ITEM_BYTES = 4
Payload = tuple[Vector, Sequence[bytes]]


def payload(elements: int) -> Payload:
    """A vector of 32-bit numbers as it follows a message."""
    block = bytes(range(256)) * 4096
    data = (block * (elements * ITEM_BYTES // len(block) + 1))[: elements * ITEM_BYTES]
    return split_chunks(data, elements)


class Echo:
    """Answers a request at once, with a vector if it asks for one, and takes vectors.

    Args:
        address: Who it is.
        identity: Signs.
        roster: Checks signatures.
    """

    last_error = None

    def __init__(self, address: Address, identity: Identity, roster: Roster) -> None:
        self.address = address
        self._roster = roster
        self._channel = Channel(ZERO, ZERO, ZERO, address, identity, LogHead(0, ZERO))
        self._payload: Payload | None = None

    def receive(self, envelope: Envelope, now: int) -> list[Envelope]:
        """Checks what came to the last byte, and answers."""
        opened = open_message(envelope.message, self._roster.authenticate, chunks=envelope.chunks)
        match opened.body:
            case MaskSum(vector=vector):
                take(vector, envelope.chunks)
            case KeyRequest(reason=reason) if reason.startswith("vector-"):
                vector, chunks = self._made(int(reason.removeprefix("vector-")))
                body = MaskSum(ZERO, ZERO, vector)
                return [self.signed(opened.sender, body, chunks)]
        return [self.signed(opened.sender, Refusal("echo", ""))]

    def signed(self, receiver: Address, body: Any, chunks: Sequence[bytes] = ()) -> Envelope:
        """A signed message."""
        return sign_message(self._channel, receiver, body, round_number=1, chunks=chunks)

    def _made(self, elements: int) -> Payload:
        if self._payload is None or self._payload[0].length != elements:
            self._payload = payload(elements)
        return self._payload


def take(vector: Vector, chunks: Sequence[bytes]) -> None:
    """Opens every chunk and compares its digest, one in memory at a time."""
    for _ in check_chunks(vector, chunks, vector.length, ITEM_BYTES):
        pass


class Leader(Echo):
    """Writes to echoes, and waits until all have answered."""

    def __init__(self, identity: Identity, roster: Roster, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(Address(LEADER, "leader"), identity, roster)
        self._loop = loop
        self._missing: set[PartyName] = set()
        self._all = asyncio.Event()

    def receive(self, envelope: Envelope, now: int) -> list[Envelope]:
        """Takes an answer."""
        opened = open_message(envelope.message, self._roster.authenticate)
        if isinstance(opened.body, MaskSum):
            take(opened.body.vector, envelope.chunks)
        self._missing.discard(opened.sender.party)
        if not self._missing:
            self._loop.call_soon_threadsafe(self._all.set)
        return []

    async def ask(
        self, host: Host, sites: Sequence[PartyName], body: Any, chunks: Sequence[bytes] = ()
    ) -> float:
        """Seconds from before the signature until the last answer was checked."""
        self._missing, self._all = set(sites), asyncio.Event()
        start = time.perf_counter()
        sent = [self.signed(Address(name, "client"), body, chunks) for name in sites]
        await host.submit(sent)
        await self._all.wait()
        return time.perf_counter() - start


@asynccontextmanager
async def _hosted(base: Path, folder: Path, name: PartyName) -> AsyncIterator[Host]:
    roster = Roster.load(base / "federation.toml")
    network = Network.load(base / ".tacit-up" / NETWORK_FILE, roster)
    keys = Credentials.load(folder)
    client = await connect(network, name, keys, on_state=lambda *_: None, timeout_s=10)
    try:
        if name == LEADER:
            members = [member.name for member in roster.members]
            await prepare_stream(client, slug(roster.federation), members)
        spool = Spool(folder / "state" / "spool", clock=wall_clock)
        courier = Courier(client, network, name, opener=keys.opener, spool=spool)
        yield Host(courier, clock=wall_clock)
    finally:
        await client.close()


@asynccontextmanager
async def leading(base: Path, folder: Path) -> AsyncIterator[tuple[Host, Leader]]:
    """The leader's end, in this process."""
    roster = Roster.load(base / "federation.toml")
    identity = Identity.load(folder / "keys" / "identity.key")
    async with _hosted(base, folder, LEADER) as host:
        leader = Leader(identity, roster, asyncio.get_running_loop())
        host.add(leader)
        running = asyncio.create_task(host.run())
        try:
            yield host, leader
        finally:
            await host.stop()
            await running


async def serve(base: Path, folder: Path, name: PartyName) -> None:
    """One member, until SIGTERM."""
    roster = Roster.load(base / "federation.toml")
    identity = Identity.load(folder / "keys" / "identity.key")
    async with _hosted(base, folder, name) as host:
        host.add(Echo(Address(name, "client"), identity, roster))
        stopping: set[asyncio.Task[None]] = set()

        def stop() -> None:
            stopping.add(asyncio.create_task(host.stop()))

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        print("serving", flush=True)
        await host.run()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2]), PartyName(sys.argv[3])))
