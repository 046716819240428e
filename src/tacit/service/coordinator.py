"""``tacit coordinator``: the process that leads all runs of a federation."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from tacit.engine.folder import World, party_ports
from tacit.engine.nats.connection import connect
from tacit.engine.nats.courier import Courier
from tacit.engine.nats.host import Host
from tacit.engine.nats.network import Credentials, Network, slug
from tacit.engine.nats.spool import Spool
from tacit.engine.nats.streams import StreamOptions, prepare_stream
from tacit.errors import TransportError
from tacit.federation import leader_of
from tacit.service.config import ServiceConfig, only_process
from tacit.service.control import SOCKET, ControlServer
from tacit.service.guard import guard_memory
from tacit.service.health import Health, HealthServer, writable
from tacit.service.led import LedRun
from tacit.service.logs import ServiceLog
from tacit.service.runs import Place, Runs
from tacit.trust.roster import Roster
from tacit.types import PartyName
from tacit.wire.envelope import Envelope

__all__ = ["HostCarrier", "serve"]

BEAT_S = 1.0
PAUSE_S = 2.0
SPOOL = Path("state") / "spool"
GIB = 1024**3

OnReady = Callable[[dict[str, str]], None]
"""Told once where the process can be reached."""


class HostCarrier:
    """Lets a host move the messages of runs.

    Args:
        host: It.
        loop: The loop that it runs in.
        log: Where events go.
    """

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop, log: ServiceLog) -> None:
        self._host = host
        self._loop = loop
        self._log = log
        self._sending: set[asyncio.Task[None]] = set()

    def locked(self) -> AbstractContextManager[object]:
        """See ``Carrier``."""
        return self._host.held()

    def attach(self, run: LedRun) -> None:
        """See ``Carrier``."""
        self._loop.call_soon_threadsafe(self._host.add, run, run.run)

    def detach(self, run: LedRun) -> None:
        """See ``Carrier``."""
        self._loop.call_soon_threadsafe(self._host.remove, run.address, run.run)

    def post(self, run: LedRun, envelopes: Sequence[Envelope]) -> None:
        """See ``Carrier``; sent in the background, as often as it takes."""
        if envelopes:
            self._loop.call_soon_threadsafe(self._begin, run.run, list(envelopes))

    def _begin(self, run: str, envelopes: list[Envelope]) -> None:
        task = self._loop.create_task(self._send(run, envelopes))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, run: str, envelopes: list[Envelope]) -> None:
        while True:
            try:
                await self._host.submit(envelopes)
            except TransportError as error:
                self._log.failure("send.delayed", error, run=run)
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def close(self) -> None:
        """Gives up what is still to be sent; a resumed run sends it again."""
        for task in list(self._sending):
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def serve(
    folder: Path,
    world: World | None = None,
    *,
    federation: Path | None = None,
    network: Path | None = None,
    on_ready: OnReady = lambda _: None,
) -> int:
    """Leads runs until SIGTERM or SIGINT.

    Args:
        folder: The coordinator's folder.
        world: Entropy, sealing and time; the real ones by default.
        federation: ``federation.toml``, whatever ``service.toml`` says.
        network: ``network.toml``, in the same way.
        on_ready: Told once where the process can be reached.

    Returns:
        The exit code: 0 after an orderly end.

    Raises:
        ConfigError: A file is missing or wrong, or another process serves the folder.
        SignatureError: Roster or network are not signed as they are.
        LedgerError: The coordinator's log was tampered with.
        TransportError: The server refuses the connection, or the disk a write.
    """
    config = ServiceConfig.load(folder, federation=federation, network=network)
    chosen = world or World.real()
    roster = Roster.load(config.federation)
    leader = leader_of(roster)
    log = ServiceLog(leader, config.file.log.level, clock=chosen.clock)
    with only_process(folder):
        guard_memory()
        ports = party_ports(folder, leader, roster, chosen)
        place = Place(folder, config.federation, roster, ports, chosen)
        keys = Network.load(config.network, roster), Credentials.load(folder)
        asyncio.run(_Process(config, place, leader, log, on_ready).run(*keys))
    return 0


class _Process:
    """One life of the process.

    Args:
        config: How it is run.
        place: Where the coordinator lives.
        leader: Its name.
        log: Where events go.
        on_ready: Told once where the process can be reached.
    """

    def __init__(
        self,
        config: ServiceConfig,
        place: Place,
        leader: PartyName,
        log: ServiceLog,
        on_ready: OnReady,
    ) -> None:
        self._config = config
        self._place = place
        self._leader = leader
        self._log = log
        self._on_ready = on_ready
        self._health = Health()
        self._stopped = asyncio.Event()

    async def run(self, network: Network, credentials: Credentials) -> None:
        """Connects, serves, stops."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self._stopped.set)
        self._log.info("service.starting", role="coordinator", servers=list(network.servers))
        connecting = asyncio.create_task(
            connect(network, self._leader, credentials, on_state=self._on_state)
        )
        if not await self._unless_stopped(connecting):
            return
        client = await connecting
        try:
            await self._prepare(client)
            await self._serve(client, network, credentials)
        finally:
            await client.close()
            self._log.info("service.stopped")

    async def _unless_stopped(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task is done before the process is told to stop."""
        stopping = asyncio.create_task(self._stopped.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        return True

    async def _prepare(self, client: Any) -> None:
        limits, roster = self._config.file.limits, self._place.roster
        options = StreamOptions(replicas=limits.replicas, max_bytes=limits.stream_gib * GIB)
        names = [member.name for member in roster.members]
        await prepare_stream(client, slug(roster.federation), names, options)

    async def _serve(self, client: Any, network: Network, credentials: Credentials) -> None:
        folder, clock = self._place.folder, self._place.world.clock
        spool = Spool(folder / SPOOL, clock=clock)
        courier = Courier(
            client,
            network,
            self._leader,
            opener=credentials.opener,
            spool=spool,
            events=self._log,
        )
        host = Host(courier, clock=clock, events=self._log)
        carrier = HostCarrier(host, asyncio.get_running_loop(), self._log)
        runs = Runs(self._place, carrier, self._config.file.limits, self._log)
        runs.open()
        self._watch(client, (courier, host), runs)
        serving = asyncio.create_task(host.run())
        await asyncio.sleep(0)  # From here on the host has a loop, which others may wait for.
        control = ControlServer(runs, folder / SOCKET)
        with self._listening() as url:
            runs.start()
            control.start()
            where = {"control": str(folder / SOCKET), "health": url}
            self._log.info("service.ready", **where)
            self._on_ready(where)
            beating = asyncio.create_task(self._beat())
            await self._unless_stopped(serving)
            self._log.info("service.stopping")
            await asyncio.to_thread(control.stop)
            await asyncio.to_thread(runs.stop)
            await carrier.close()
            await host.stop()
            beating.cancel()
        await asyncio.gather(serving, return_exceptions=self._stopped.is_set())

    def _watch(self, client: Any, counted: Sequence[Any], runs: Runs) -> None:
        health = self._health
        health.check("connection", lambda: "" if client.is_connected else "not connected")
        health.check("state", writable(self._place.folder / "state"))
        health.gauges("runs", runs.counts)
        for owner in counted:
            health.gauges(type(owner).__name__.lower(), partial(_counters, owner))

    @contextlib.contextmanager
    def _listening(self) -> Iterator[str]:
        """Where health is served; empty when it is not."""
        address = self._config.address
        if address is None:
            yield ""
            return
        with HealthServer(self._health, address) as server:
            yield server.url

    async def _beat(self) -> None:
        while True:
            self._health.beat()
            await asyncio.sleep(BEAT_S)

    def _on_state(self, state: str, detail: str) -> None:
        self._health.count(f"connection_{state}")
        write = self._log.info if state == "connected" else self._log.warning
        write(f"connection.{state}", detail=detail)


def _counters(owner: Any) -> dict[str, float]:
    return dict(owner.counters)
