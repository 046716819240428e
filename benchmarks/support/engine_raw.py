"""What the server and its client do without the engine: request and reply, and bulk through a stream."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from nats.aio.client import Client

from support.engine_place import Place
from tacit.engine.nats.connection import connect
from tacit.engine.nats.network import NETWORK_FILE, Credentials, Network, slug
from tacit.engine.nats.pull import Pull
from tacit.engine.nats.subjects import stream_name
from tacit.testing.federation import LEADER

__all__ = ["bulk_mb_s", "stream_request_ms"]

FRAME = 512 * 1024
IN_FLIGHT = 32


async def client_of(place: Place, name: Any) -> Client:
    """A member's connection."""
    network = Network.load(place.processes.logs / NETWORK_FILE, place.roster)
    keys = Credentials.load(place.folders[name])
    return await connect(network, name, keys, on_state=lambda *_: None, timeout_s=10)


async def stream_request_ms(client: Client, repeats: int) -> float:
    """Median of a request that the server itself answers, milliseconds."""
    taken = []
    for _index in range(repeats):
        start = time.perf_counter()
        await client.request("$JS.API.INFO", b"", timeout=10)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


async def bulk_mb_s(place: Place, megabytes: int) -> float:
    """MB/s of frames published to a stream while they are fetched; one process as both ends."""
    site = place.sites()[0]
    sender, receiver = await client_of(place, LEADER), await client_of(place, site)
    federation = slug(place.roster.federation)
    subject = f"tacit.{federation}.to.{site}.client.{LEADER}.{'0' * 64}"
    count, frame = -(-megabytes * 10**6 // FRAME), bytes(FRAME)
    window = asyncio.Semaphore(IN_FLIGHT)
    pull = Pull(receiver, stream_name(federation), site)

    async def publish() -> None:
        async with window:
            await sender.request(subject, frame, timeout=60)

    async def fetch() -> None:
        got = 0
        while got < count:
            batch = await pull.batch(5.0)
            for message in batch:
                await receiver.publish(message.reply, b"+ACK")
            got += len(batch)

    try:
        await pull.start()
        start = time.perf_counter()
        await asyncio.gather(fetch(), *(publish() for _ in range(count)))
        taken = time.perf_counter() - start
        await pull.stop()
        await receiver.flush()
    finally:
        await sender.close()
        await receiver.close()
    return count * FRAME / 1e6 / taken
