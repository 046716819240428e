"""The connection of one member to the federation's server: NKey login, TLS with the pinned authority."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from nats.aio import client as nats_client
from nats.aio.client import Client
from nats.errors import Error

from tacit.engine.nats.network import NETWORK_FILE, Credentials, Network, check_servers
from tacit.engine.nats.subjects import inbox_prefix
from tacit.errors import TransportError
from tacit.types import PartyName

__all__ = ["OnState", "connect", "disconnect"]

OnState = Callable[[str, str], None]
"""Called with ``connected``, ``disconnected`` or ``error``, and what is known about it."""

RECONNECT_WAIT_S = 1
CONNECT_TIMEOUT_S = 10
PING_INTERVAL_S = 10
PENDING_BYTES = 32 * 1024 * 1024
READ_BYTES = 1024 * 1024
# The client reads 32 KiB at a time, which makes a frame of 512 KiB sixteen reads. It has no option for
# that; where it has no such constant any more, this changes nothing.
nats_client.DEFAULT_BUFFER_SIZE = READ_BYTES


class _Client(Client):
    """A client that never goes on in plaintext where TLS was asked for, and reads what it cannot parse.

    Headers are whatever their sender wrote: the server checks none. Those that the library stumbles over
    would end its reading for good, so such a message counts as one without headers, and is refused.
    """

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except Exception:  # noqa: BLE001 (whatever it is, it costs one message)
            return None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        secure = self.options.get("tls") is not None
        if secure and not info.get("tls_required"):
            raise Error("nats: the server, or somebody before it, offers no TLS")
        if not secure:  # Of a loopback server's friends nobody knows whether they are on loopback.
            info = {key: value for key, value in info.items() if key != "connect_urls"}
        await super()._process_info(info, initial_connection)


def _tls(network: Network) -> ssl.SSLContext | None:
    """TLS that trusts the federation's own authority alone; None on loopback without any.

    Raises:
        ConfigError: Plaintext to another machine, or a damaged certificate.
    """
    check_servers(network.servers, network.ca, NETWORK_FILE)
    if not any(urlsplit(server).scheme == "tls" for server in network.servers):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=network.ca)
    return context


class _Watch:
    """What the client tells of its connection."""

    def __init__(self, on_state: OnState) -> None:
        self.refused = asyncio.Event()
        self.last = ""
        self._on_state = on_state

    async def error(self, error: Exception) -> None:
        self.last = str(error) or type(error).__name__
        if "authorization violation" in self.last.lower():
            self.refused.set()
        self._on_state("error", self.last)

    async def lost(self) -> None:
        self._on_state("disconnected", self.last)

    async def connected(self) -> None:
        self._on_state("connected", "")


async def connect(
    network: Network,
    name: PartyName,
    credentials: Credentials,
    *,
    on_state: OnState,
    timeout_s: float | None = None,
) -> Client:
    """Connects a member, and stays connected: lost connections are made again without end.

    Args:
        network: Servers and their authority.
        name: The member.
        credentials: Its private keys.
        on_state: Told of every change.
        timeout_s: How long to try at first, seconds; None for ever.

    Raises:
        ConfigError: Plaintext to another machine, or no valid authority.
        TransportError: ``nats.authorization``: the server refuses the key; ``nats.connect``: nobody
            answered in time.

    Guarantee: a server that cannot show a certificate of the pinned authority gets neither the login
        nor a message. Checked by tests/unit/test_nats_connection.py::test_tls_is_not_given_up.
    """
    context, watch, client = _tls(network), _Watch(on_state), _Client()
    options: dict[str, Any] = {} if context is None else {"tls": context}
    connecting = asyncio.create_task(
        client.connect(
            servers=list(network.servers),
            name=name,
            nkeys_seed_str=credentials.nkey_seed.decode(),
            inbox_prefix=inbox_prefix(name),
            error_cb=watch.error,
            disconnected_cb=watch.lost,
            reconnected_cb=watch.connected,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=3,
            pending_size=PENDING_BYTES,
            **options,
        )
    )
    refusal = asyncio.create_task(watch.refused.wait())
    try:
        await asyncio.wait(
            {connecting, refusal}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if connecting.done():
            await connecting
            await watch.connected()
            return client
    except (OSError, Error) as error:
        watch.last = str(error) or type(error).__name__
    finally:
        refusal.cancel()
        connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await disconnect(client)
    raise _failure(network, name, watch.last, refused=watch.refused.is_set())


async def disconnect(client: Client) -> None:
    """Ends a connection for good, also one that is lost."""
    with contextlib.suppress(Error, OSError):
        await client.close()


def _failure(network: Network, name: PartyName, last: str, *, refused: bool) -> TransportError:
    servers = ", ".join(network.servers)
    if refused:
        return TransportError(
            "nats.authorization",
            f"{servers} does not accept the connection key of '{name}'",
            remedy="the server's configuration must list the key that network.toml lists for it",
            party=name,
        )
    return TransportError(
        "nats.connect",
        f"no connection to {servers}: {last or 'no answer in time'}",
        remedy="check that the server runs, its address and its certificate, then try again",
    )
