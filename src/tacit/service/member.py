"""What the processes of sites and helpers share: connection, host, log, health, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from tacit.engine.folder import STATE, World
from tacit.engine.nats.connection import connect
from tacit.engine.nats.courier import Courier
from tacit.engine.nats.host import Host
from tacit.engine.nats.network import Credentials, Network
from tacit.engine.nats.spool import Spool
from tacit.errors import ConfigError, TacitError
from tacit.service.config import ServiceConfig
from tacit.service.guard import guard_memory
from tacit.service.health import Health, HealthServer, writable
from tacit.service.logs import ServiceLog
from tacit.trust.roster import Roster
from tacit.types import Milliseconds, PartyName, Role
from tacit.wire.envelope import Address, Envelope

__all__ = ["Member", "Served"]

SPOOL = STATE.parent / "spool"
BEAT_S = 1.0


class Served(Protocol):
    """A party that a process serves."""

    @property
    def address(self) -> Address:
        """Who it is, in which role."""
        ...

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message."""
        ...


@dataclass(slots=True)
class Member:
    """One process of the federation: a member's folder, and everything around its parties.

    Args:
        config: Its ``service.toml``.
        name: The member.
        roster: The pinned roster.
        world: Entropy, sealing and the time.
        as_json: Whether the line that says that it serves is JSON.
    """

    config: ServiceConfig
    name: PartyName
    roster: Roster
    world: World
    as_json: bool = False
    log: ServiceLog = field(init=False)
    health: Health = field(init=False)
    _host: Host | None = field(default=None, init=False)
    _connected: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.log = ServiceLog(self.name, self.config.file.log.level, clock=self.world.clock)
        self.health = Health()

    def released(self) -> AbstractContextManager[None]:
        """Gives the lock of the process's parties back; nothing to give before they are served."""
        return contextlib.nullcontext() if self._host is None else self._host.released()

    def require_role(self, role: Role) -> None:
        """Whether the roster lists this member in a role.

        Raises:
            ConfigError: It does not.
        """
        if role not in self.roster.member(self.name).roles:
            raise ConfigError(
                "service.role",
                f"the roster does not list '{self.name}' as {role}",
                remedy="start what the roster lists, or have every operator sign a new federation.toml",
                file=str(self.config.federation),
            )

    def serve(self, parties: Sequence[Served], stopping: Callable[[], None] = lambda: None) -> int:
        """Serves until a signal says otherwise; returns the exit code.

        Args:
            parties: What to serve.
            stopping: Called when what is in hand takes longer than ``[limits] stop_seconds``.

        Raises:
            ConfigError: The network file or a key is wrong.
            TransportError: The server refuses this member.
        """
        guard_memory()
        network = Network.load(self.config.network, self.roster)
        credentials = Credentials.load(self.config.folder)
        if network.peers.get(self.name) != credentials.peer:
            raise ConfigError(
                "service.keys",
                f"{self.config.network} lists other connection keys for '{self.name}' than "
                f"{self.config.folder}/keys holds",
                remedy="restore the keys, or have the coordinator's operator add the new ones to "
                "network.toml",
                file=str(self.config.network),
            )
        self.log.info("service.starting", servers=list(network.servers))
        asyncio.run(self._serve(parties, network, credentials, stopping))
        self.log.info("service.stopped")
        return 0

    async def _serve(
        self,
        parties: Sequence[Served],
        network: Network,
        credentials: Credentials,
        stopping: Callable[[], None],
    ) -> None:
        stop = asyncio.Event()
        with _signals(stop), self._telling():
            connecting = asyncio.create_task(
                connect(network, self.name, credentials, on_state=self._on_state)
            )
            halted = asyncio.create_task(stop.wait())
            await asyncio.wait({connecting, halted}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                return
            client = await connecting
            try:
                spool = Spool(self.config.folder / SPOOL, clock=self.world.clock)
                courier = Courier(
                    client,
                    network,
                    self.name,
                    opener=credentials.opener,
                    spool=spool,
                    events=self.log,
                )
                host = Host(
                    courier, clock=self.world.clock, events=self.log, on_error=self._on_error
                )
                for party in parties:
                    host.add(party)
                self._host = host
                await self._until(host, courier, halted, stopping)
            finally:
                await client.close()

    async def _until(
        self,
        host: Host,
        courier: Courier,
        halted: asyncio.Task[bool],
        stopping: Callable[[], None],
    ) -> None:
        """Runs the host until it is told to stop, and a while longer."""
        running = asyncio.create_task(host.run())
        beating = asyncio.create_task(self._beat(host, courier))
        self._say_ready()
        try:
            await asyncio.wait({running, halted}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                self.log.info("service.stopping")
                await host.stop()
                seconds = self.config.file.limits.stop_seconds
                done, _ = await asyncio.wait({running}, timeout=seconds)
                if not done:
                    stopping()
            await running
        finally:
            beating.cancel()

    async def _beat(self, host: Host, courier: Courier) -> None:
        """Says that the loop is alive, and brings the counters of others along."""
        seen: dict[str, int] = {}
        while True:
            self.health.beat()
            for prefix, counters in (("host", host.counters), ("courier", courier.counters)):
                for name, value in counters.items():
                    key = f"{prefix}_{name}"
                    self.health.count(key, value - seen.get(key, 0))
                    seen[key] = value
            await asyncio.sleep(BEAT_S)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Health over HTTP, where ``service.toml`` wants it."""
        self.health.check("connected", lambda: "" if self._connected else "no connection")
        self.health.check("state", writable((self.config.folder / STATE).parent))
        address = self.config.address
        if address is None:
            yield
            return
        with HealthServer(self.health, address) as server:
            self.log.info("service.listening", url=server.url)
            yield

    def _say_ready(self) -> None:
        """One line on standard output for a person or a script; the rest is in the log."""
        folder = str(self.config.folder)
        if self.as_json:
            print(json.dumps({"serving": self.name, "folder": folder}), flush=True)
        else:
            print(f"{self.name} serves {folder}; stop it with Ctrl-C or SIGTERM", flush=True)
        self.log.info("service.started", folder=folder)

    def _on_state(self, state: str, what: str) -> None:
        self._connected = state == "connected" or (state == "error" and self._connected)
        if state == "connected":
            self.log.info("nats.connected", server=what)
        else:
            self.log.warning(f"nats.{state}", why=what)

    def _on_error(self, address: Address, run: str, error: TacitError) -> None:
        """The party's own words: they stay in its log, the leader is told a code."""
        self.health.count("refusals")
        self.log.warning(
            "party.refused",
            run=run,
            role=address.role,
            code=error.code,
            message=error.message,
            remedy=error.remedy,
        )


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask for an orderly end; a second one is as rude as ever."""
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT)

    def once() -> None:
        stop.set()
        for number in handled:
            loop.remove_signal_handler(number)

    for number in handled:
        loop.add_signal_handler(number, once)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
