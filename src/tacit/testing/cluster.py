"""A whole federation as real processes over real NATS servers, for tests that break it.

Folders, keys and ``network.toml`` are written once. Any process can be killed, halted and started again,
runs are submitted over the control socket, and every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from tacit.engine.clock import wall_clock
from tacit.engine.nats import server as nats
from tacit.engine.nats.certificates import Authority
from tacit.engine.nats.connection import connect, disconnect
from tacit.engine.nats.network import (
    NETWORK_FILE,
    Credentials,
    Network,
    sign_peer,
    slug,
    write_network,
)
from tacit.engine.nats.streams import StreamOptions, prepare_stream
from tacit.errors import ConfigError, TransportError
from tacit.service.control import Control
from tacit.service.state import ENDED
from tacit.service.up import party_folders
from tacit.testing.federation import LEADER, write_small_federation
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import Member, Roster, write_roster
from tacit.types import PartyName

__all__ = ["CLIENTS", "TRUSTEE", "Cluster", "Layout", "Server", "has_server"]

CLIENTS = tuple(PartyName(name) for name in ("north", "south", "west"))
TRUSTEE = PartyName("trustee")
"""A helper that has no data."""

OBSERVER = "observer"
START_S = 60.0
POLL_S = 0.02
LAST_WORDS = 2_000
JOB: dict[str, Any] = {
    "rounds": 4,
    "privacy": {"epsilon": 0.5, "delta": 1e-6},
    "aggregation": {"min_cohort": 3, "phase_seconds": 20},
}
"""Short phases: a party that is gone for good costs seconds."""


def has_server() -> bool:
    """Whether there is a ``nats-server`` on this machine."""
    try:
        nats.find_server()
    except ConfigError:
        return False
    return sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a cluster is made of.

    Args:
        names: The sites.
        servers: How many NATS servers; three are a cluster that keeps three copies.
        host: Where they listen; with TLS on any address but 127.0.0.1, and in a cluster.
        job: Changes to the job.
        observer: Whether a user sees and may publish everything on the server.
        inside: Words before a member's command, for example ``ip netns exec NAME``.
        skew: Milliseconds by which a member's clock is ahead.
    """

    names: tuple[PartyName, ...] = CLIENTS
    servers: int = 1
    host: str = "127.0.0.1"
    job: Mapping[str, Any] = field(default_factory=dict)
    observer: bool = False
    inside: Mapping[PartyName, tuple[str, ...]] = field(default_factory=dict)
    skew: Mapping[PartyName, int] = field(default_factory=dict)

    @property
    def secure(self) -> bool:
        """Whether the servers speak TLS."""
        return self.servers > 1 or self.host != "127.0.0.1"


@dataclass(slots=True)
class Server:
    """One NATS server whose store outlives its process."""

    config: Path
    running: nats.NatsServer | None = None

    def start(self) -> None:
        """Starts it; returns when it listens."""
        self.running = nats.start_server(self.config)

    def kill(self) -> None:
        """Ends it at once."""
        if self.running is not None:
            self.running.process.kill()
            self.running.process.wait()
            self.running = None


class Cluster:
    """The processes of one federation, ended with the block.

    Args:
        folder: Where everything is written; must not exist.
        seed: What every process's entropy follows from, with the number of its start.
        layout: What it is made of.

    Attributes:
        base: The federation's folder.
        folders: Folder of every member.
        roster: The federation.
        network: As in ``network.toml``.
        servers: The NATS servers.
        processes: What runs, by member.
        halted: Members that are stopped by a signal.
    """

    def __init__(self, folder: Path, *, seed: int | str = 0, layout: Layout | None = None) -> None:
        self.layout = layout or Layout()
        self.seed = seed
        self.logs = folder / "logs"
        self.base = folder / "federation"
        self.processes: dict[PartyName, subprocess.Popen[bytes]] = {}
        self.halted: set[PartyName] = set()
        self._starts = 0
        folder.mkdir(parents=True)
        self.logs.mkdir()
        names = self.layout.names
        helpers = {"aggregation": {"helpers": [*names, TRUSTEE]}}
        job = _merged(_merged(JOB, helpers), self.layout.job)
        self.job = write_small_federation(self.base, names=names, job=job)
        self.roster = _with_trustee(self.base)
        for site in (self.base / "sites").iterdir():
            path = site / "site.toml"
            text = path.read_text().replace("epsilon = 1.2", "epsilon = 1000.0")
            path.write_text(text.replace("delta = 1e-4", "delta = 0.1"))
        self.folders = party_folders(self.base, self.roster)
        self.credentials = {name: Credentials.generate(at) for name, at in self.folders.items()}
        self.servers, self.network, self.observer = self._write_servers(folder)
        replicas = 3 if self.layout.servers > 1 else 1
        settings = f"version = 1\n\n[limits]\nreplicas = {replicas}\nstream_gib = 1\n"
        (self.folders[LEADER] / "service.toml").write_text(settings)

    # --- writing ------------------------------------------------------------------------------

    def _write_servers(self, folder: Path) -> tuple[list[Server], Network, Credentials]:
        layout = self.layout
        peers, signatures = {}, {}
        for name, credentials in self.credentials.items():
            peers[name] = credentials.peer
            signer = Identity.load(self.folders[name] / "keys" / "identity.key")
            signatures[name] = sign_peer(signer, self.roster.federation, name, peers[name])
        ports = _free_ports(2 * layout.servers)
        hosts, routes = ports[: layout.servers], ports[layout.servers :]
        authority = None
        if layout.secure:
            (folder / "ca").mkdir()
            authority = Authority.create(folder / "ca", self.roster.federation, wall_clock())
            authority.issue([layout.host, "127.0.0.1"], wall_clock())
        scheme = "tls" if layout.secure else "nats"
        network = Network(
            self.roster.federation,
            tuple(f"{scheme}://{layout.host}:{port}" for port in hosts),
            authority.certificate if authority is not None else "",
            peers,
        )
        write_network(self.base / NETWORK_FILE, network, signatures)
        account = nats.Account.of(self.roster, network)
        observer = Credentials.generate(folder / OBSERVER)
        urls = tuple(f"nats-route://127.0.0.1:{port}" for port in routes)
        made = []
        for number, port in enumerate(hosts):
            at = folder / f"nats-{number}"
            at.mkdir()
            options = nats.ServerOptions(
                at / "store",
                host=layout.host,
                port=port,
                certificate=authority.server if authority is not None else None,
                authority=authority.file if authority is not None else None,
                cluster=nats.Cluster("tacit", f"n{number}", urls[number][13:], urls)
                if layout.servers > 1
                else None,
            )
            text = nats.server_config([account], options)
            if layout.observer:
                user = f"users: [\n      {{ nkey: {observer.peer.nkey} }}"
                text = text.replace("users: [", user)
            (at / "nats-server.conf").write_text(text)
            made.append(Server(at / "nats-server.conf"))
        return made, network, observer

    # --- processes ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            if len(self.servers) > 1:
                self.wait_for(self._has_stream, "servers that agree", START_S)
            for name in self.folders:
                self.start(name)
            for name in self.folders:
                self.wait_ready(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _has_stream(self) -> bool:
        """Whether the servers have found each other, so that the stream can be made."""

        async def make() -> None:
            client = await connect(
                self.network,
                LEADER,
                self.credentials[LEADER],
                on_state=lambda *_: None,
                timeout_s=START_S,
            )
            try:
                name = slug(self.roster.federation)
                options = StreamOptions(replicas=3, max_bytes=2**30)
                await prepare_stream(client, name, self.folders, options)
            finally:
                await disconnect(client)

        with contextlib.suppress(TransportError):
            asyncio.run(make())
            return True
        return False

    def stop(self) -> None:
        """Ends everything; harmless when repeated."""
        for name in list(self.processes):
            self.kill(name)
        for server in self.servers:
            server.kill()

    def start(self, name: PartyName) -> float:
        """Starts a member's process; returns the time of day in seconds."""
        roles = self.roster.member(name).roles
        role = "coordinator" if "leader" in roles else "site" if "client" in roles else "helper"
        self._starts += 1
        command = [
            *self.layout.inside.get(name, ()),
            *(sys.executable, "-m", "tacit.testing.party"),
            *("--seed", f"{self.seed}/{self._starts}"),
            *("--skew", str(self.layout.skew.get(name, 0))),
            *(role, str(self.folders[name])),
            *("--federation", str(self.base / "federation.toml")),
            *("--network", str(self.base / NETWORK_FILE)),
        ]
        with (self.logs / f"{name}-{self._starts}.log").open("wb") as sink:
            self.processes[name] = subprocess.Popen(  # noqa: S603 - this Python, with arguments of ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                preexec_fn=nats.die_with_parent(),  # noqa: PLW1509 - prctl only, no lock is taken
            )
        return time.time()

    def wait_ready(self, name: PartyName) -> None:
        """Waits until the newest process of a member serves.

        Raises:
            TransportError: It ended, or took too long.
        """
        ready = {"service.ready", "service.started"}
        newest = max(
            self.logs.glob(f"{name}-*.log"), key=lambda path: int(path.stem.split("-")[-1])
        )

        def serves() -> bool:
            if self.processes[name].poll() is not None:
                raise TransportError("cluster.ended", f"{name}: {newest.read_text()[-LAST_WORDS:]}")
            return any(event.get("event") in ready for event in read_events(newest))

        self.wait_for(serves, f"{name} to serve", START_S)

    def kill(self, name: PartyName) -> None:
        """Ends a process at once."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()
        self.halted.discard(name)

    def halt(self, name: PartyName) -> None:
        """Stops a process where it is; it keeps its connection."""
        self.processes[name].send_signal(signal.SIGSTOP)
        self.halted.add(name)

    def go_on(self, name: PartyName) -> None:
        """Lets a halted process go on."""
        self.processes[name].send_signal(signal.SIGCONT)
        self.halted.discard(name)

    def limit_files(self, name: PartyName, size: int | None) -> None:
        """Lets no file of a process grow beyond ``size`` bytes, as a full disk would; None for any size."""
        limit = resource.RLIM_INFINITY if size is None else size
        both = (limit, resource.RLIM_INFINITY)
        resource.prlimit(self.processes[name].pid, resource.RLIMIT_FSIZE, both)

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Waits for a condition.

        Raises:
            TransportError: It did not come true in time; quotes the logs.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TransportError(
                    "cluster.deadline", f"waited {seconds} s for {what}; {self.last_words()}"
                )
            time.sleep(POLL_S)

    def events(self, name: PartyName) -> list[dict[str, Any]]:
        """What a member's processes have logged, in order."""
        paths = self.logs.glob(f"{name}-*.log")
        ordered = sorted(paths, key=lambda path: int(path.stem.split("-")[-1]))
        return [event for path in ordered for event in read_events(path)]

    def last_words(self) -> str:
        """The newest events of everybody, for a failed test."""
        lines = []
        for name in self.folders:
            lines += [json.dumps(event) for event in self.events(name)[-12:]]
        return "\n".join(["the seed was " + str(self.seed), *lines])

    # --- runs ---------------------------------------------------------------------------------

    @property
    def control(self) -> Control:
        """The coordinator's control socket."""
        return Control(self.folders[LEADER])

    def submit(self, job: Path | None = None) -> str:
        """Hands in the job, as often as it takes for a coordinator to answer; returns the run's id."""
        run: list[str] = []

        def taken() -> bool:
            with contextlib.suppress(TransportError):
                run.append(str(self.control.submit(job or self.job)["run"]))
            return bool(run)

        self.wait_for(taken, "a coordinator that takes the job", START_S)
        return run[0]

    def told(self, run: str) -> dict[str, Any]:
        """What the coordinator tells of a run; empty while it does not answer."""
        try:
            return self.control.run(run)
        except TransportError:
            return {}

    def wait_round(self, run: str, number: int, seconds: float) -> None:
        """Waits until a round has begun, or the run has ended."""

        def begun() -> bool:
            told = self.told(run)
            return bool(told) and (told["round"] >= number or told["status"] in ENDED)

        self.wait_for(begun, f"round {number}", seconds)

    def begin(self, number: int, seconds: float) -> str:
        """A run in which a round has begun and that goes on; a machine too busy to begin gets two more tries.

        Raises:
            TransportError: No run came that far.
        """
        for _ in range(3):
            run = self.submit()
            self.wait_round(run, number, seconds)
            if self.told(run)["status"] not in ENDED:
                return run
        raise TransportError("cluster.busy", f"no run came to round {number}; {self.last_words()}")

    def wait_ended(self, run: str, seconds: float) -> dict[str, Any]:
        """What is told of a run once it has ended."""
        self.wait_for(lambda: self.told(run).get("status") in ENDED, f"the end of {run}", seconds)
        return self.told(run)

    def run_folder(self, run: str) -> Path:
        """Where the coordinator keeps a run."""
        return Path(self.told(run)["folder"])

    def recovery(self, run: str, since: float) -> float | None:
        """Seconds from a time of day until the next round was over, or the run; None if it was over before."""
        told = self.told(run)
        path, found = Path(told["folder"]) / "log.jsonl", []
        if told["status"] in ENDED and told["ended"] / 1000 < since:
            return None

        def gone_on() -> bool:
            for event in read_events(path):
                at = datetime.fromisoformat(event["time"]).timestamp()
                if event["event"] in ("round.over", "run.ended") and at >= since:
                    found.append(at - since)
            return bool(found)

        self.wait_for(gone_on, "the run to go on", START_S)
        return found[0]


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events in a log; a line that is not whole yet, or none of ours, is left out."""
    found = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                found.append(event)
    return found


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for key, value in second.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
    return merged


def _with_trustee(base: Path) -> Roster:
    """Adds a member that is a helper only; everybody signs the roster anew."""
    path = base / "federation.toml"
    roster = Roster.load(path)
    keys = base / TRUSTEE / "keys"
    keys.mkdir(parents=True, mode=0o700)
    Identity.generate(OsEntropy()).save(keys / "identity.key")
    folders = party_folders(base, roster)
    signers = {
        name: Identity.load(folder / "keys" / "identity.key") for name, folder in folders.items()
    }
    signers[TRUSTEE] = Identity.load(keys / "identity.key")
    member = Member(TRUSTEE, "trust-office", "eu", ("helper",), signers[TRUSTEE].public_key)
    made = dataclasses.replace(roster, members=(*roster.members, member))
    write_roster(path, made, signers)
    return made


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            one = held.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            ports.append(int(one.getsockname()[1]))
        return ports
