"""A real NATS server for tests: one account, one NKey user for each member, permissions as in production."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tacit.engine.nats.network import Credentials, Network, slug
from tacit.engine.nats.subjects import inbox_prefix, stream_name
from tacit.types import PartyName

__all__ = ["NatsServer", "Place", "running_server", "server_binary"]

START_S = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """A network of members for tests, with everybody's private keys."""

    network: Network
    credentials: Mapping[PartyName, Credentials]


def server_binary() -> str | None:
    """Where ``nats-server`` is; None if it is not installed."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


class NatsServer:
    """One server process over a folder; can be killed and started again on the same port.

    Args:
        folder: Where its configuration and messages lie.
        federation: Name of the federation.
        leader: Who may make streams.
        credentials: The members' keys.
    """

    def __init__(
        self,
        folder: Path,
        federation: str,
        leader: PartyName,
        credentials: Mapping[PartyName, Credentials],
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        peers = {name: one.peer for name, one in credentials.items()}
        self.network = Network(federation, (f"nats://127.0.0.1:{self.port}",), "", peers)
        users = [
            {
                "nkey": peer.nkey,
                "permissions": permissions(slug(federation), name, leader),
            }
            for name, peer in peers.items()
        ]
        config = {
            "listen": f"127.0.0.1:{self.port}",
            "max_payload": 1024 * 1024,
            "jetstream": {"store_dir": str(folder / "store")},
            "accounts": {"TACIT": {"jetstream": "enabled", "users": users}},
        }
        (folder / "server.conf").write_text(json.dumps(config))

    def start(self) -> None:
        """Starts it and waits until it listens."""
        binary = server_binary()
        assert binary is not None
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [binary, "-c", str(self._folder / "server.conf")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "server.log").read_text())
            time.sleep(0.01)

    def stop(self, *, kill: bool = False) -> None:
        """Ends it, politely or not, and waits for the end."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait()
            self._process = None


def permissions(federation: str, name: PartyName, leader: PartyName) -> dict[str, object]:
    """What a member may publish and subscribe."""
    stream, base = stream_name(federation), f"tacit.{federation}.to"
    publish = [
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}",
        f"$JS.API.CONSUMER.INFO.{stream}.{name}",
        f"$JS.ACK.{stream}.{name}.>",
    ]
    if name == leader:
        publish += [f"{base}.*.client.{name}.>", f"{base}.*.helper.{name}.>"]
        publish += ["$JS.API.INFO", "$JS.API.STREAM.>", "$JS.API.CONSUMER.>"]
    else:
        publish.append(f"{base}.{leader}.leader.{name}.>")
    return {
        "publish": {"allow": publish},
        "subscribe": {"allow": [f"{inbox_prefix(name)}.>"]},
    }


@contextlib.contextmanager
def running_server(
    folder: Path, members: Iterable[PartyName], *, leader: PartyName, federation: str = "test"
) -> Iterator[tuple[NatsServer, Place]]:
    """A server with fresh keys for everybody, stopped in the end."""
    credentials = {name: Credentials.generate(folder / "members" / name) for name in members}
    server = NatsServer(folder / "nats", federation, leader, credentials)
    server.start()
    try:
        yield server, Place(server.network, credentials)
    finally:
        server.stop(kill=True)
