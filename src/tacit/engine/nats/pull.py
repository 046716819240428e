"""Fetching from a durable consumer without a pause: the next batch is asked for before one runs out.

Reference: NATS, ADR-37 (pull consumers), ``$JS.API.CONSUMER.MSG.NEXT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Collection

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

__all__ = ["BATCH", "Pull"]

BATCH = 32
EXPIRES_S = 30.0
GRACE_S = 5.0
NANOSECONDS = 10**9
PAUSE_S = 0.5
MOST = 8 * BATCH
"""Messages that wait here at most; a server that sends more than was asked for has to send it again."""
DELIVERED = "$JS.ACK."
STATUS = "Status"
INFO_S = 5.0
MOST_RECLAIMED = 16_384
"""Places of the stream that are asked for again at once; what lies beyond comes when its time is up."""
ENDED = ("404", "408")
"""A request that ended as it should: nothing there, or time is up."""


class Pull:
    """The messages of one consumer, in the order in which they are delivered.

    Args:
        client: A connection.
        stream: Name of the stream.
        consumer: Name of the consumer.
    """

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._info = f"$JS.API.CONSUMER.INFO.{stream}.{consumer}"
        self._word = f"$JS.ACK.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._arrived: deque[Msg] = deque()
        self._something = asyncio.Event()
        self._requests: dict[str, int] = {}
        self._asked = 0
        self._asked_at = 0.0
        self._not_before = 0.0

    async def start(self) -> None:
        """Subscribes to the inbox."""
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_message)

    async def stop(self) -> list[Msg]:
        """Asks for nothing more; returns what came and nobody took."""
        if self._subscription is not None and not self._client.is_closed:
            with contextlib.suppress(Error):
                await self._subscription.unsubscribe()
        left = list(self._arrived)
        self._arrived.clear()
        return left

    @property
    def waiting(self) -> list[Msg]:
        """What has come and was not taken yet."""
        return list(self._arrived)

    async def reclaim(self, held: Collection[int]) -> None:
        """Has everything delivered again, now, that was delivered and that nobody holds any more.

        A consumer is one process's alone. What it had in hand when it was killed, or was on its way when
        the connection broke, would otherwise come again only when the server's patience is at its end.

        Args:
            held: Sequences in the stream of what is still being handled.

        Reference: NATS, ADR-15 (subjects of acknowledgements); a word about a message that waits for no
        word has no effect.
        """
        try:
            answer = await self._client.request(self._info, b"", timeout=INFO_S)
            info = json.loads(answer.data)
            if not info.get("num_ack_pending"):
                return
            first, last = (int(info[key]["stream_seq"]) for key in ("ack_floor", "delivered"))
            newest = int(info["delivered"]["consumer_seq"])
        except (Error, OSError, TimeoutError, ValueError, KeyError, TypeError):
            return  # Then it comes later.
        held = {*held, *(int(message.metadata.sequence.stream) for message in self._arrived)}
        for sequence in range(first + 1, min(last, first + MOST_RECLAIMED) + 1):
            if sequence not in held:
                with contextlib.suppress(Error, OSError):
                    await self._client.publish(f"{self._word}.1.{sequence}.{newest}.0.0", b"-NAK")

    def lost(self) -> None:
        """To be called after a reconnection: what was asked for will not come."""
        self._requests.clear()
        self._something.set()

    async def batch(self, wait_s: float) -> list[Msg]:
        """What has come, at most ``BATCH`` messages; empty after ``wait_s`` seconds without any."""
        await self._ask()
        if not self._arrived:
            self._something.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._something.wait()
            except TimeoutError:
                return []
        count = min(BATCH, len(self._arrived))
        return [self._arrived.popleft() for _ in range(count)]

    async def _ask(self) -> None:
        """Keeps at least half a batch asked for, and no more than two waiting here."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at > EXPIRES_S + GRACE_S:
            self._requests.clear()  # The server's word that they ended was lost.
        if (
            now < self._not_before
            or sum(self._requests.values()) > BATCH // 2
            or len(self._arrived) > BATCH
        ):
            return
        self._asked += 1
        reply = f"{self._inbox}.{self._asked}"
        request = {"batch": BATCH, "expires": int(EXPIRES_S * NANOSECONDS)}
        try:
            await self._client.publish(self._next, json.dumps(request).encode(), reply=reply)
        except Error:
            return  # Not connected: asked again when it is.
        self._requests[reply] = BATCH
        self._asked_at = now

    async def _on_message(self, message: Msg) -> None:
        # A message keeps the subject that it was published to, and is to be answered; the server's own
        # words come under the inbox. What a message says of itself in its headers decides nothing: its
        # sender wrote them.
        if message.subject.startswith(f"{self._inbox}."):
            self._told(message)
        elif message.reply.startswith(DELIVERED) and len(self._arrived) < MOST:
            self._arrived.append(message)
            # Which request it answers is not said, and the oldest one is served first.
            oldest = next(iter(self._requests), None)
            if oldest is not None:
                self._requests[oldest] -= 1
                if self._requests[oldest] <= 0:
                    del self._requests[oldest]
        self._something.set()

    def _told(self, message: Msg) -> None:
        """The server's word about a request."""
        status = (message.headers or {}).get(STATUS)
        if status == "100":
            return
        self._requests.pop(message.subject, None)
        if status not in ENDED:  # No such consumer, or it moves: not again at once.
            self._not_before = asyncio.get_running_loop().time() + PAUSE_S
