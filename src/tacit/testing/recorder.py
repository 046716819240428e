"""Somebody on the server who records every frame and publishes it again: twice, late, in another order."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Self

from tacit.engine.nats.connection import connect, disconnect
from tacit.engine.nats.parcel import MESSAGE_ID
from tacit.testing.cluster import Cluster
from tacit.types import PartyName

__all__ = ["Recorder"]

WAIT_S = 30.0
Recorded = tuple[str, bytes, dict[str, str]]


class Recorder:
    """Records while the block lasts.

    Args:
        cluster: A federation with an observer.

    Attributes:
        frames: Subject, data and headers of all that was published, but by the recorder itself.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.frames: list[Recorded] = []
        self._cluster = cluster
        self._client: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._own: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(disconnect(self._client))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def again(self, frames: Sequence[Recorded]) -> None:
        """Publishes frames under ids that the server does not know, in the given order."""
        self._do(self._publish(frames))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    async def _open(self) -> None:
        self._client = await connect(
            self._cluster.network,
            PartyName("observer"),
            self._cluster.observer,
            on_state=lambda *_: None,
            timeout_s=WAIT_S,
        )
        await self._client.subscribe("tacit.>", cb=self._seen)
        await self._client.flush()

    async def _seen(self, message: Any) -> None:
        headers = dict(message.headers or {})
        if headers.get(MESSAGE_ID) not in self._own:
            self.frames.append((message.subject, message.data, headers))

    async def _publish(self, frames: Sequence[Recorded]) -> None:
        for subject, data, headers in frames:
            name = secrets.token_hex(16)
            self._own.add(name)
            await self._client.publish(subject, data, headers={**headers, MESSAGE_ID: name})
        await self._client.flush()
