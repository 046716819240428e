"""The courier: carries the envelopes of one member, at least once, in order for every receiver.

What is sent is sealed, cut into frames and published until the stream has acknowledged every frame.
What arrives is acknowledged only when it is safe: a frame of a larger parcel once it is on the disk, the
last one of a parcel, and the only one of a small parcel, once the envelope was handled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar, TypeVarTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, MaxPayloadError

from tacit.engine.nats.events import Events, Silence, Sparing
from tacit.engine.nats.network import Network, slug
from tacit.engine.nats.parcel import (
    MAX_MESSAGE,
    Frame,
    FrameHead,
    Parcel,
    check_size,
    open_key,
    open_single,
    read_parcel,
)
from tacit.engine.nats.pull import Pull
from tacit.engine.nats.spool import Arrival, Entry, Spool
from tacit.engine.nats.subjects import Route, stream_name
from tacit.errors import DecodeError, LocalProtocolError, TransportError
from tacit.trust.identity import OsEntropy
from tacit.trust.sealing import HpkeSealing
from tacit.types import Opener, PartyName
from tacit.wire.envelope import Address, Envelope

__all__ = ["Courier", "Delivery", "attempt_of", "fresh_attempt"]

IN_FLIGHT = 32
SEALED_AHEAD = 8
"""Frames that are encrypted in one go, away from the loop."""
ACK_TIMEOUT_S = 60.0
"""For a window of frames on a slow line; after a lost connection nobody waits that long."""
LOST = "the connection was lost"
RETRY_S = 0.5
MAX_RETRY_S = 10.0
PROGRESS_S = 5.0
"""How often the server is told that an envelope is still being handled."""
WAIT_S = 0.5
BUSY_S = 10.0
MAX_OUTSTANDING = 256
MAX_HANDLED = 4_096
MAX_HELD = 128 * 1024 * 1024
"""Bytes of messages that are open and not handled yet; the next one waits until there is room."""
SENDER = 5
"""Place of the sender in a subject."""
THREADS = 2
_Result = TypeVar("_Result")
_Args = TypeVarTuple("_Args")
SWEEP_S = 600.0


def fresh_attempt() -> bytes:
    """An attempt of its own, for what is sent on nobody's request."""
    return OsEntropy().draw(16)


def attempt_of(sequence: int) -> bytes:
    """The attempt of an answer: the same whenever the delivery that caused it is delivered again."""
    return b"sequence " + str(sequence).encode()


@dataclass(slots=True)
class Receipt:
    """What a delivery is answered with: the message of NATS that stands for it, and its parcel."""

    message: Msg
    known: bytes
    entry: Entry | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """An envelope that arrived, and is delivered again until it is ``done`` or refused.

    Attributes:
        envelope: What arrived; its chunks are opened when they are read.
        sender: Who published it, as the server checked; the message's signature says who wrote it.
        run: The run in the subject, 64 hexadecimal digits.
        sequence: Of the stream: the same when this is delivered again.
        courier: Who delivers it.
        receipt: What the courier knows of it.
    """

    envelope: Envelope
    sender: PartyName
    run: str
    sequence: int
    courier: Courier = field(repr=False)
    receipt: Receipt = field(repr=False)

    @property
    def receiver(self) -> Address:
        """Whom it is for."""
        return self.envelope.receiver

    async def done(self) -> None:
        """Handled, and every answer is published: never to be delivered again."""
        await self.courier.finish(self, b"+ACK")

    async def progress(self) -> None:
        """Still being handled; the courier says so by itself every few seconds, too."""
        await self.courier.reply(self.receipt.message, b"+WPI")

    async def refuse(self, reason: str) -> None:
        """Not worth handling, now or ever.

        Args:
            reason: A code, for the server's log.
        """
        self.courier.counters["refused"] += 1
        await self.courier.finish(self, b"+TERM " + reason.encode("ascii", "replace"))


class Courier:
    """Sends and receives the envelopes of one member.

    Args:
        client: Its connection; see ``connect``.
        network: The public keys of all members.
        name: The member.
        opener: The private half of its transport key.
        spool: Where unfinished parcels lie.
        events: Told of what is dropped, refused or retried.

    Attributes:
        counters: What was sent, received, repeated, refused and dropped, by kind.

    Guarantee: an envelope that ``send`` took is handed out at its receiver at least once, also when
        either process is killed, as long as the stream keeps it; frames that nobody can read never
        stop what follows. Checked by
        tests/unit/test_nats_courier.py::test_a_killed_receiver_gets_it_again and
        ::test_poison_is_refused_and_stops_nothing.
    """

    def __init__(
        self,
        client: Client,
        network: Network,
        name: PartyName,
        *,
        opener: Opener,
        spool: Spool,
        events: Events | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.name = name
        self._client = client
        self._network = network
        self._federation = slug(network.federation)
        self._opener = opener
        self._spool = spool
        self._events: Events = events or Silence()
        self._noise = Sparing(self._events)
        self._pull = Pull(client, stream_name(self._federation), name)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tacit-courier")
        self._sending: dict[PartyName, asyncio.Lock] = {}
        self._window = asyncio.Semaphore(IN_FLIGHT)
        self._ready: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._outstanding: dict[bytes, Delivery] = {}
        self._handled: OrderedDict[bytes, None] = OrderedDict()
        self._held = 0
        self._room = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to fetch."""
        await self._pull.start()
        await self._pull.reclaim(())
        self._tasks = [
            asyncio.create_task(self._fetch()),
            asyncio.create_task(self._keep_alive()),
        ]

    async def stop(self) -> None:
        """Fetches nothing more; ``deliveries`` ends after what was handed out already."""
        if self._stopping:
            return
        self._stopping = True
        self._room.set()
        self._pull.lost()
        await asyncio.gather(*self._tasks[:1], return_exceptions=True)
        for message in await self._pull.stop():
            await self.reply(message, b"-NAK")
        self._ready.put_nowait(None)

    async def close(self) -> None:
        """Stops, and lets go of everything; what was not handled is delivered again some day."""
        await self.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Error, OSError, TimeoutError):
            if self._client.is_connected:
                await self._client.flush(timeout=2)
        self._pool.shutdown(wait=False)

    # --- sending -----------------------------------------------------------------------------

    async def send(
        self,
        envelope: Envelope,
        run: str,
        attempt: bytes | None = None,
        *,
        deadline_s: float | None = None,
    ) -> None:
        """Publishes an envelope; once this returns, the stream keeps it.

        Args:
            envelope: What to send.
            run: Its run, 64 hexadecimal digits.
            attempt: Tells repeats apart; see ``attempt_of``. A fresh one by default.
            deadline_s: Seconds after which this gives up; None for never.

        Raises:
            TransportError: Not acknowledged in time.
            LocalProtocolError: The receiver is not in the network, or the envelope is too large.
        """
        receiver = envelope.receiver
        peer = self._network.peers.get(receiver.party)
        if peer is None:
            raise LocalProtocolError(
                "courier.receiver", f"network.toml lists no member '{receiver.party}'"
            )
        subject = Route(receiver, self.name, run).subject(self._federation)
        lock = self._sending.setdefault(receiver.party, asyncio.Lock())
        try:
            async with lock, asyncio.timeout(deadline_s):
                parcel = Parcel(
                    envelope,
                    subject,
                    fresh_attempt() if attempt is None else attempt,
                    public_key=peer.sealing,
                    sealing=HpkeSealing(),
                    entropy=OsEntropy(),
                )
                if parcel.count == 1:
                    await self._publish(subject, next(parcel.frames()))
                else:
                    await self._publish_all(subject, parcel)
        except TimeoutError as error:
            raise TransportError(
                "courier.deadline",
                f"a message to {receiver} was not acknowledged within {deadline_s} s",
                remedy="check the server, its space and the connection; it will be sent again",
                party=receiver.party,
            ) from error
        self.counters["parcels_sent"] += 1
        self.counters["bytes_sent"] += parcel.size

    async def _publish_all(self, subject: str, parcel: Parcel) -> None:
        """Encrypts some frames ahead in a thread while earlier ones are on their way."""
        loop, frames = asyncio.get_running_loop(), parcel.frames()

        def some() -> list[Frame]:
            return list(islice(frames, SEALED_AHEAD))

        try:
            async with asyncio.TaskGroup() as group:
                while part := await loop.run_in_executor(self._pool, some):
                    for frame in part:
                        await self._window.acquire()
                        task = group.create_task(self._publish(subject, frame))
                        task.add_done_callback(lambda _: self._window.release())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _publish(self, subject: str, frame: Frame) -> None:
        """Publishes a frame under its id until the stream acknowledges it."""
        headers, pause = frame.head.headers(), RETRY_S
        while True:
            try:
                answer = json.loads(await self._request(subject, frame.data, headers))
                if "error" not in answer:
                    self.counters["frames_sent"] += 1
                    self.counters["frames_repeated"] += bool(answer.get("duplicate"))
                    return
                why = str(answer["error"].get("description", "refused"))
            except MaxPayloadError as error:
                raise TransportError(
                    "courier.payload",
                    "the server takes no messages as large as a frame",
                    remedy="set max_payload to 1 MiB in the server's configuration",
                ) from error
            except (Error, OSError, TimeoutError, ValueError, TypeError, AttributeError) as error:
                why = str(error) or type(error).__name__
            if why == LOST:
                continue
            self.counters["publish_retries"] += 1
            self._events.warning("courier.retry", subject=subject, why=why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_S)

    async def _request(self, subject: str, data: bytes, headers: dict[str, str]) -> bytes:
        """The server's answer; ``LOST`` as an error when the connection was made again meanwhile."""
        lost = self._lost
        asking = asyncio.ensure_future(
            self._client.request(subject, data, timeout=ACK_TIMEOUT_S, headers=headers)
        )
        try:
            both: set[asyncio.Future[Any]] = {asking, lost}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise OSError(LOST)
            return bytes(asking.result().data)
        finally:
            asking.cancel()

    # --- receiving ---------------------------------------------------------------------------

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """The envelopes that arrive, in order; ends after ``stop``."""
        while (delivery := await self._ready.get()) is not None:
            yield delivery

    async def finish(self, delivery: Delivery, word: bytes) -> None:
        """Tells the server that a delivery is over, and forgets the parcel."""
        receipt = delivery.receipt
        known, entry = receipt.known, receipt.entry
        if self._outstanding.pop(known, None) is not None:
            self._held -= receipt.size
        self._room.set()
        self._handled[known] = None
        while len(self._handled) > MAX_HANDLED:
            self._handled.popitem(last=False)
        # The word first: a parcel that is gone from the disk could not be handed out again.
        await self.reply(receipt.message, word)
        if entry is not None:
            try:
                await self._in_thread(self._spool.drop, entry)
            except TransportError as error:
                self._events.failure("courier.spool", error)

    async def reply(self, message: Msg, word: bytes) -> None:
        """Answers the server about a message; a lost answer only means another delivery."""
        with contextlib.suppress(Error, OSError):
            await self._client.publish(message.reply, word)

    async def _fetch(self) -> None:
        connections = 0
        while not self._stopping:
            if self._client.stats["reconnects"] != connections:
                connections = self._client.stats["reconnects"]
                self._pull.lost()
                self._lost.set_result(None)
                self._lost = asyncio.get_running_loop().create_future()
                # What is in hand here is not asked for again.
                held = [_sequence(one.receipt.message) for one in self._outstanding.values()]
                await self._pull.reclaim(held)
            if len(self._outstanding) >= MAX_OUTSTANDING:
                self._room.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WAIT_S):
                        await self._room.wait()
                continue
            try:
                batch = await self._pull.batch(WAIT_S)
                if batch:
                    await self._take(batch)
            except (Error, OSError) as error:
                self._events.warning("courier.fetch", why=str(error))
                await asyncio.sleep(RETRY_S)

    async def _keep_alive(self) -> None:
        """Tells the server of everything that is still being handled."""
        loop = asyncio.get_running_loop()
        swept = loop.time()
        while True:
            await asyncio.sleep(PROGRESS_S)
            for delivery in list(self._outstanding.values()):
                await delivery.progress()
            for message in self._pull.waiting:
                await self.reply(message, b"+WPI")
            if loop.time() - swept > SWEEP_S:
                swept = loop.time()
                for entry in await self._in_thread(self._spool.sweep):
                    self._events.warning("courier.stale", sender=entry.sender)

    async def _take(self, batch: list[Msg]) -> None:
        """Reads, stores and hands out a batch, in its order."""
        arrivals: list[tuple[Msg, Arrival]] = []
        for message in batch:
            try:
                arrivals.append((message, self._arrival(message)))
            except DecodeError as error:
                await self._refuse(message, error)
        stored = [pair for pair in arrivals if pair[1].frame.head.count > 1]
        waiting = await self._store(stored) if stored else set()
        for message, arrival in arrivals:
            if id(message) in waiting:
                continue
            try:
                await self._arrived(message, arrival)
            except DecodeError as error:
                await self._refuse(message, error)
            except TransportError as error:
                self._events.failure("courier.spool", error)
                await self.reply(message, _later(BUSY_S))

    def _arrival(self, message: Msg) -> Arrival:
        """The frame in a message.

        Raises:
            DecodeError: Not a frame for this member.
        """
        route = Route.parse(self._federation, message.subject)
        if route.receiver.party != self.name:
            raise DecodeError("parcel.subject", "a parcel for another member")
        head = FrameHead.parse(message.headers or {})
        check_size(head, len(message.data))
        self.counters["frames_received"] += 1
        self.counters["bytes_received"] += len(message.data)
        frame = Frame(head, message.data)
        return Arrival(route.sender, message.subject, frame, _sequence(message))

    async def _store(self, stored: list[tuple[Msg, Arrival]]) -> set[int]:
        """Puts the frames of larger parcels on the disk; returns which messages come again later."""
        waiting: set[int] = set()
        admitted = []
        for message, arrival in stored:
            if self._known(arrival) in self._handled:
                continue
            try:
                entry = self._spool.admit(arrival)
            except DecodeError as error:
                await self._refuse(message, error)
            except TransportError as error:
                self._events.failure("courier.spool", error)
                await self.reply(message, _later(BUSY_S))
            else:
                if entry is not None:
                    admitted.append(arrival)
                    continue
                self._noise.warning("courier.quota", sender=arrival.sender)
                await self.reply(message, _later(BUSY_S))
            waiting.add(id(message))
        try:
            await self._in_thread(self._spool.write, admitted)
        except TransportError as error:
            self._events.failure("courier.spool", error)
            for message, _ in stored:
                if id(message) not in waiting:
                    waiting.add(id(message))
                    await self.reply(message, _later(BUSY_S))
        return waiting

    async def _arrived(self, message: Msg, arrival: Arrival) -> None:
        """Acknowledges a frame that is safe, or hands out the parcel that it completes."""
        known, head = self._known(arrival), arrival.frame.head
        if known in self._handled:
            self.counters["repeats"] += 1
            await self.reply(message, b"+ACK")
            return
        running = self._outstanding.get(known)
        if running is not None:
            self.counters["repeats"] += 1
            if _sequence(running.receipt.message) == arrival.sequence:
                running.receipt.message = message  # Its word must answer the newest delivery.
            else:
                await self.reply(message, b"+ACK")
            return
        route = Route.parse(self._federation, arrival.subject)
        if head.count == 1:
            opened = open_single(route.receiver, arrival.frame, arrival.subject, self._opener)
            self._hand_out(opened, route, arrival.sequence, Receipt(message, known))
            return
        entry = self._spool.find(arrival.subject, head.parcel)
        if entry is None or not entry.complete:
            await self.reply(message, b"+ACK")
            return
        entry.held = True
        await self._until_room(entry)
        try:
            envelope = await self._in_thread(self._open, entry, route)
        except DecodeError:
            await self._in_thread(self._spool.drop, entry)
            raise
        self._hand_out(envelope, route, entry.sequence, Receipt(message, known, entry))

    async def _until_room(self, entry: Entry) -> None:
        """Waits while what is open already and the message of a parcel are too much for memory."""
        size = min(entry.size, MAX_MESSAGE)
        while self._held and self._held + size > MAX_HELD and not self._stopping:
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self._room.wait()

    def _open(self, entry: Entry, route: Route) -> Envelope:
        key = open_key(entry.parcel, entry.key, entry.subject, self._opener)
        named = (entry.parcel, entry.count, entry.subject)
        return read_parcel(route.receiver, key, named, self._spool.reader(entry), entry.size)

    def _hand_out(self, opened: Envelope, route: Route, sequence: int, receipt: Receipt) -> None:
        self.counters["parcels_received"] += 1
        receipt.size = len(opened.message)
        self._held += receipt.size
        delivery = Delivery(opened, route.sender, route.run, sequence, self, receipt)
        self._outstanding[receipt.known] = delivery
        self._ready.put_nowait(delivery)

    def _known(self, arrival: Arrival) -> bytes:
        """What names a parcel here: a small one that is published anew is another delivery."""
        head = arrival.frame.head
        name = arrival.subject.encode() + b"\x00" + head.parcel
        if head.count == 1:
            name += arrival.sequence.to_bytes(8, "big")
        return hashlib.sha256(name).digest()

    async def _refuse(self, message: Msg, error: DecodeError) -> None:
        self.counters["poison"] += 1
        sender = _sender(message.subject)
        self._noise.failure("courier.poison", error, sender=sender, subject=message.subject)
        await self.reply(message, b"+TERM " + error.code.encode())

    async def _in_thread(self, call: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)


def _sender(subject: str) -> str:
    """Who may publish to a subject; nobody if it is malformed."""
    parts = subject.split(".")
    return parts[SENDER] if len(parts) > SENDER else ""


def _sequence(message: Msg) -> int:
    """Sequence in the stream of a message that a consumer delivered."""
    return int(message.metadata.sequence.stream)


def _later(seconds: float) -> bytes:
    """The word for: deliver this again after a while."""
    return b"-NAK " + json.dumps({"delay": int(seconds * 1e9)}).encode()
