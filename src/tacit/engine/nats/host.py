"""The host: runs the parties of one process over a courier.

Deliveries of one (address, run) are handled strictly in order; of different ones in the order in which
they arrived, one at a time, because all parties of a process share a store. Whoever waits for something
outside, as a site does for its training, lets the others go on meanwhile with ``released``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, runtime_checkable

from tacit.engine.clock import wall_clock
from tacit.engine.nats.courier import Courier, Delivery, attempt_of
from tacit.engine.nats.events import Events, Silence, Sparing
from tacit.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TacitError,
    TransportError,
)
from tacit.types import Milliseconds
from tacit.wire.codec import decode
from tacit.wire.envelope import Address, Envelope, Header, SignedMessage

__all__ = ["Host", "Served", "Ticking"]

THREADS = 64
"""Parties that may be at work at once, of which all but one wait in ``released``."""
TICK_S = 1.0
PAUSE_S = 5.0
LIMIT = 64 * 1024 * 1024
Key = tuple[Address, str]
Work = Callable[[], Iterable[Envelope]]


class Served(Protocol):
    """What a host needs of a party."""

    @property
    def address(self) -> Address:
        """Who it is, in which role."""
        ...

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; the answers may be sent once this returns."""
        ...


@runtime_checkable
class Ticking(Protocol):
    """A party to which the passing of time matters."""

    def tick(self, now: Milliseconds) -> list[Envelope]:
        """To be called when time passes."""
        ...


OnError = Callable[[Address, str, TacitError], None]
"""Called in the loop with the party's address, the run and its newest ``last_error``."""
OnHandled = Callable[[Address, str], None]
"""Called in the loop after every delivery, tick or act of an (address, run), once its answers left."""


class Host:
    """The parties of one process.

    Args:
        courier: Carries their envelopes; started and stopped by the host.
        clock: The time that parties see.
        events: Told of what happens.
        on_error: Told of every new ``last_error`` of a party.
        on_handled: Told of everything that was handled.
        pause_s: Seconds before a delivery is tried again after the party's own store refused.
        tick_s: Seconds between two ticks.

    Guarantee: an answer is published before the delivery that caused it is acknowledged; a delivery
        whose sender is not who signed it reaches no party. Checked by
        tests/unit/test_nats_host.py::test_a_delivery_waits_for_its_answers and
        ::test_a_borrowed_message_reaches_no_party.
    """

    def __init__(
        self,
        courier: Courier,
        *,
        clock: Callable[[], Milliseconds] = wall_clock,
        events: Events | None = None,
        on_error: OnError | None = None,
        on_handled: OnHandled | None = None,
        pause_s: float = PAUSE_S,
        tick_s: float = TICK_S,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._courier = courier
        self._clock = clock
        self._events: Events = events or Silence()
        self._noise = Sparing(self._events)
        self._on_error = on_error
        self._on_handled = on_handled
        self._pauses = (pause_s, tick_s)
        self._parties: dict[Key, Served] = {}
        self._told: dict[Key, TacitError] = {}
        self._lanes: dict[Key, deque[Callable[[], Awaitable[None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticks: set[Key] = set()
        self._turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(THREADS)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tacit-party")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    # --- parties -----------------------------------------------------------------------------

    def add(self, party: Served, run: str = "") -> None:
        """Serves a party, in one run only if ``run`` is given."""
        self._parties[party.address, run] = party

    def remove(self, address: Address, run: str = "") -> None:
        """Serves it no longer; what still comes for it is acknowledged unread."""
        self._parties.pop((address, run), None)
        self._told.pop((address, run), None)

    def _served(self, address: Address, run: str) -> Key | None:
        """Under which key a party serves a run; the most particular first."""
        for key in ((address, run), (address, "")):
            if key in self._parties:
                return key
        return None

    # --- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Starts the courier, and serves until ``stop``."""
        self._loop = asyncio.get_running_loop()
        await self._courier.start()
        ticking = asyncio.create_task(self._tick())
        try:
            async for delivery in self._courier.deliveries():
                key = (delivery.receiver, delivery.run)
                self._enqueue(key, partial(self._handle, delivery))
        finally:
            ticking.cancel()
            self._stopping.set()
            while self._tasks:
                await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._courier.close()
            self._pool.shutdown(wait=False)

    async def stop(self) -> None:
        """Ends ``run`` once what is in hand is finished; the rest is delivered again some day."""
        self._stopping.set()
        await self._courier.stop()

    # --- work --------------------------------------------------------------------------------

    async def submit(self, envelopes: Iterable[Envelope]) -> None:
        """Sends envelopes that nobody asked for, in turn with what their sender does in the run.

        Raises:
            DecodeError: Not a message of a party.
        """
        by_key: dict[Key, list[Envelope]] = {}
        for envelope in envelopes:
            header = _header(envelope)
            sender = Address.parse(header.sender)
            by_key.setdefault((sender, header.run.hex()), []).append(envelope)
        for (sender, run), sent in by_key.items():
            await self.act(sender, run, partial(list, sent))

    async def act(self, address: Address, run: str, work: Work) -> None:
        """Does something with a party in its turn, and sends what comes out of it.

        Args:
            address: Whose turn.
            run: In which run.
            work: Called in a thread while nobody else works; returns envelopes.

        Raises:
            TransportError: ``host.stopped``: the host was stopped before everything was sent.
            Exception: What ``work`` raises.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def step() -> None:
            try:
                if not await self._published(await self._in_turn(work), None):
                    raise TransportError(
                        "host.stopped",
                        "the process ends before everything was sent",
                        remedy="what the run needs is sent again after the next start",
                    )
            except Exception as error:  # noqa: BLE001 (handed on to the caller)
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(None)
            self._handled(address, run)

        self._enqueue((address, run), step)
        await done

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For other threads: nobody else works with the parties meanwhile."""
        self._acquire()
        try:
            yield
        finally:
            self._release()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """For a party at work that waits: others work meanwhile. No transaction may be open.

        Raises:
            LocalProtocolError: The host does not run.
        """
        self._release()
        try:
            yield
        finally:
            self._acquire()

    def _acquire(self) -> None:
        asyncio.run_coroutine_threadsafe(self._turn.acquire(), self._running()).result()

    def _release(self) -> None:
        self._running().call_soon_threadsafe(self._turn.release)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise LocalProtocolError("host.idle", "the host does not run")
        return self._loop

    # --- lanes -------------------------------------------------------------------------------

    def _enqueue(self, key: Key, step: Callable[[], Awaitable[None]]) -> None:
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append(step)
            return
        self._lanes[key] = deque([step])
        task = asyncio.get_running_loop().create_task(self._drain(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, key: Key) -> None:
        """Does the steps of one lane, one after the other."""
        lane = self._lanes[key]
        while lane:
            try:
                await lane.popleft()()
            except Exception as error:  # noqa: BLE001 (a fault in one step must not end the process)
                self.counters["faults"] += 1
                self._events.failure("host.fault", error, run=key[1])
        del self._lanes[key]

    async def _in_turn(self, work: Work) -> list[Envelope]:
        """Does something in a thread, while nobody else does."""
        async with self._slots, self._turn:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _listed, work)

    async def _handle(self, delivery: Delivery) -> None:
        """One delivery: party, answers, acknowledgement."""
        address, run = delivery.receiver, delivery.run
        if self._stopping.is_set():
            return  # Not begun and not acknowledged: delivered again after the next start.
        key = self._served(address, run)
        if key is None:
            self.counters["unserved"] += 1
            sender = delivery.sender
            self._noise.info("host.unserved", sender=sender, run=run, receiver=str(address))
            await delivery.done()
            return
        try:
            answers = await self._answers(self._parties[key], delivery)
            self._look_for_error(key, run)
            over = answers is not None and await self._published(
                answers, attempt_of(delivery.sequence)
            )
        except Exception as error:  # noqa: BLE001 (whatever it is, it costs one message)
            await self._poison(delivery, error)
            return
        if over:
            await delivery.done()
            self.counters["handled"] += 1
            self._handled(address, run)

    async def _answers(self, party: Served, delivery: Delivery) -> list[Envelope] | None:
        """What a party answers, as often as its own store refuses; None if the host stops before.

        Raises:
            DecodeError, SignatureError, RemoteProtocolError: The message is not worth handling.
        """
        while True:
            try:
                return await self._in_turn(partial(self._receive, party, delivery))
            except TransportError as error:
                self.counters["retries"] += 1
                receiver = str(delivery.receiver)
                self._events.failure("host.retry", error, run=delivery.run, receiver=receiver)
                if await self._stops_within(self._pauses[0]):
                    return None

    def _receive(self, party: Served, delivery: Delivery) -> list[Envelope]:
        """Lets the party handle a message, if it comes from who signed it.

        Raises:
            RemoteProtocolError: It was borrowed from another sender, receiver or run.
        """
        header = _header(delivery.envelope)
        sender = Address.parse(header.sender).party
        found = (sender, header.receiver, header.run.hex())
        if found != (delivery.sender, str(delivery.receiver), delivery.run):
            raise RemoteProtocolError(
                "host.borrowed",
                f"{delivery.sender} sent a message of {sender}, or of another run",
                party=delivery.sender,
            )
        return party.receive(delivery.envelope, self._clock())

    async def _poison(self, delivery: Delivery, error: Exception) -> None:
        """Refuses what no party can handle, so that it does not come again."""
        self.counters["poison"] += 1
        self._noise.failure("host.poison", error, run=delivery.run, sender=delivery.sender)
        await delivery.refuse(error.code if isinstance(error, TacitError) else "host.fault")

    def _look_for_error(self, key: Key, run: str) -> None:
        party = self._parties.get(key)
        error = getattr(party, "last_error", None)
        if party is None or not isinstance(error, TacitError) or self._told.get(key) is error:
            return
        self._told[key] = error
        if self._on_error is not None:
            self._on_error(party.address, run, error)

    def _handled(self, address: Address, run: str) -> None:
        if self._on_handled is not None:
            self._on_handled(address, run)

    # --- answers -----------------------------------------------------------------------------

    async def _published(self, envelopes: list[Envelope], attempt: bytes | None) -> bool:
        """Publishes envelopes as long as it takes; false if the host stops before."""
        if not envelopes:
            return True
        sending = asyncio.create_task(self._publish(envelopes, attempt))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not sending.done():
            # What is on its way may still go; nobody waits for a server that is gone.
            await asyncio.wait({sending}, timeout=self._pauses[0])
        if not sending.done():
            sending.cancel()
            return False
        await sending
        return True

    async def _publish(self, envelopes: list[Envelope], attempt: bytes | None) -> None:
        """Sends to different parties side by side, to each of them in order."""
        by_receiver: dict[str, list[Envelope]] = {}
        for envelope in envelopes:
            by_receiver.setdefault(envelope.receiver.party, []).append(envelope)

        async def in_order(sent: list[Envelope]) -> None:
            for envelope in sent:
                await self._courier.send(envelope, _header(envelope).run.hex(), attempt)

        try:
            async with asyncio.TaskGroup() as group:
                for sent in by_receiver.values():
                    group.create_task(in_order(sent))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    # --- time --------------------------------------------------------------------------------

    async def _stops_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _tick(self) -> None:
        """Ticks every party that wants it, each in its own turn; a late one is not ticked twice."""
        while not await self._stops_within(self._pauses[1]):
            for key, party in list(self._parties.items()):
                if isinstance(party, Ticking) and key not in self._ticks:
                    self._ticks.add(key)
                    self._enqueue(key, partial(self._tick_one, key, party))

    async def _tick_one(self, key: Key, party: Ticking) -> None:
        try:
            made = await self._in_turn(lambda: party.tick(self._clock()))
            if made and await self._published(made, None):
                self._handled(*key)
        finally:
            self._ticks.discard(key)


def _listed(work: Work) -> list[Envelope]:
    return list(work())


def _header(envelope: Envelope) -> Header:
    """What a message says of itself, before anybody checked its signature.

    Raises:
        DecodeError: Not a message.
    """
    signed = decode(SignedMessage, envelope.message, LIMIT)
    return decode(Header, signed.header, LIMIT)
