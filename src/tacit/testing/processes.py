"""A small federation as processes over a real server with the shipped configuration, for tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tacit.engine.nats.network import Credentials, Network, sign_peer, write_network
from tacit.engine.nats.server import (
    Account,
    NatsServer,
    ServerOptions,
    server_config,
    start_server,
)
from tacit.service.control import Control
from tacit.testing.federation import LEADER, SITES, write_small_federation
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.types import PartyName

__all__ = ["ProcessFederation", "wait_until"]

DEADLINE_S = 90.0
ENDED = ("complete", "partial", "failed")
MAX_STORE = 2**31


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """What ``condition`` returns once it is true.

    Raises:
        TimeoutError: It never was; names ``what``.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.02)
    return found


class ProcessFederation:
    """A coordinator, sites and a server as processes; a context manager that ends them all.

    Args:
        folder: Where everything lies; made.
        names: The sites.
        job: Changes to the job of ``write_small_federation``.
        seed: What all entropy of first starts follows from; later starts have another.
        records: Records of every site.
    """

    def __init__(
        self,
        folder: Path,
        *,
        names: Iterable[PartyName] = SITES,
        job: Mapping[str, Any] | None = None,
        seed: str = "0",
        records: int = 12,
    ) -> None:
        self.base, self.names = folder / "federation", tuple(names)
        self.job = write_small_federation(self.base, names=self.names, job=job, records=records)
        self.roster = Roster.load(self.base / "federation.toml")
        self.places = {LEADER: self.base / "coordinator"} | {
            name: self.base / "sites" / name for name in self.names
        }
        self.keys = {name: Credentials.generate(path) for name, path in self.places.items()}
        self.identities = {
            name: Identity.load(path / "keys" / "identity.key")
            for name, path in self.places.items()
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.nats = folder / "nats"
        self.nats.mkdir()
        self.network = self.reach(self.port)
        account = Account.of(self.roster, self.network)
        options = ServerOptions(
            self.nats / "store", host="127.0.0.1", port=self.port, max_store=MAX_STORE
        )
        (self.nats / "nats-server.conf").write_text(server_config([account], options))
        self.server: NatsServer | None = None
        self.processes: dict[PartyName, subprocess.Popen[bytes]] = {}
        self._seed, self._starts = seed, 0

    def reach(self, port: int, name: str = "network.toml") -> Network:
        """Writes the network file for a server's port, and returns what it says."""
        federation = self.roster.federation
        peers = {name: keys.peer for name, keys in self.keys.items()}
        network = Network(federation, (f"nats://127.0.0.1:{port}",), "", peers)
        signatures = {
            name: sign_peer(self.identities[name], federation, name, peer)
            for name, peer in peers.items()
        }
        write_network(self.base / name, network, signatures)
        return network

    # --- life --------------------------------------------------------------------------------

    def __enter__(self) -> ProcessFederation:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.stop_server()

    def start_server(self, *, fresh: bool = False) -> None:
        """Starts the server; ``fresh`` loses all that it kept."""
        if fresh:
            shutil.rmtree(self.nats / "store", ignore_errors=True)
        self.server = start_server(self.nats / "nats-server.conf")

    def stop_server(self) -> None:
        """Ends the server."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def start(self, *names: PartyName) -> None:
        """Starts the processes of the named members, by default of all, and waits until they serve."""
        chosen = names or (LEADER, *self.names)
        seed = self._seed if not self._starts else f"{self._seed}/{self._starts}"
        self._starts += 1
        for name in chosen:
            role = "coordinator" if name == LEADER else "site"
            command = ["-m", "tacit.testing.party", "--seed", seed, role, str(self.places[name])]
            with self.log(name).open("ab") as sink:
                self.processes[name] = subprocess.Popen(  # noqa: S603
                    [sys.executable, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=sink,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            if name == LEADER:
                self.wait_for(name, "service.ready")
        for name in chosen:
            if name != LEADER:
                self.wait_for(name, "service.started")

    def stop(self) -> None:
        """Ends the parties' processes in order, and in any case."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for name in self.places:
            if self.log(name).exists():
                self.log(name).rename(self.log(name).with_suffix(f".{self._starts}.log"))

    # --- what is told ------------------------------------------------------------------------

    def log(self, name: PartyName) -> Path:
        """The log of a member's newest process."""
        return self.base / f"{name}.log"

    def events(self, name: PartyName, event: str = "") -> list[dict[str, Any]]:
        """Events of a process, oldest first; only those of one kind if it is named."""
        if not self.log(name).exists():
            return []
        whole = self.log(name).read_text("utf-8").rpartition("\n")[0].splitlines()
        found = [json.loads(line) for line in whole if line.startswith("{")]
        return [one for one in found if event in ("", one["event"])]

    def wait_for(self, name: PartyName, event: str) -> dict[str, Any]:
        """The first event of a kind, which may still come."""

        def first() -> dict[str, Any] | None:
            if self.processes[name].poll() is not None:
                raise RuntimeError(f"{name} ended: {self.log(name).read_text('utf-8')[-2000:]}")
            return next(iter(self.events(name, event)), None)

        found: dict[str, Any] = wait_until(first, f"{event} of {name}")
        return found

    def rss(self, name: PartyName) -> int:
        """Bytes of memory that a process holds now."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    # --- runs --------------------------------------------------------------------------------

    @property
    def control(self) -> Control:
        """Commands the coordinator."""
        return Control(self.places[LEADER])

    def submit(self) -> str:
        """Hands in the job; the id of its run."""
        return str(self.control.submit(self.job)["run"])

    def finish(self, run: str, seconds: float = DEADLINE_S) -> dict[str, Any]:
        """What is told of a run that is over; waits for that."""

        def over() -> dict[str, Any] | None:
            state = self.control.run(run)
            return state if state["status"] in ENDED else None

        found: dict[str, Any] = wait_until(over, f"the end of run {run[:12]}", seconds)
        return found

    def run(self) -> tuple[dict[str, Any], float]:
        """Submits the job and waits; what is told of the run, and the seconds that it took."""
        begun = time.monotonic()
        state = self.finish(self.submit())
        return state, time.monotonic() - begun
