"""Connections: the right key, the right server, or nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys

import pytest

from tacit.engine.nats.connection import connect
from tacit.engine.nats.events import BURST, WINDOW_S, Silence, Sparing
from tacit.engine.nats.network import Credentials, Network
from tacit.errors import ConfigError, TransportError
from tacit.testing.nats import running_server, server_binary
from tacit.types import PartyName

LEADER, NORTH = PartyName("lead"), PartyName("north")
installed = pytest.mark.skipif(server_binary() is None, reason="nats-server is not installed")


def reach(network, credentials, states=None, timeout_s=5):
    async def attempt():
        seen = [] if states is None else states
        client = await connect(
            network,
            NORTH,
            credentials,
            on_state=lambda state, why: seen.append((state, why)),
            timeout_s=timeout_s,
        )
        await client.close()

    asyncio.run(attempt())


@installed
def test_only_the_listed_key_gets_in(tmp_path):
    stranger = Credentials.generate(tmp_path / "stranger")
    with running_server(tmp_path / "server", [LEADER, NORTH], leader=LEADER) as (_, place):
        states = []
        reach(place.network, place.credentials[NORTH], states)
        assert states[0][0] == "connected"
        with pytest.raises(TransportError) as caught:
            reach(place.network, stranger)
        assert caught.value.code == "nats.authorization"
        assert "north" in str(caught.value)
        assert stranger.nkey_seed.decode() not in repr(caught.value.diagnostics())


def test_nobody_there_is_said_in_time(tmp_path):
    credentials = Credentials.generate(tmp_path)
    network = Network("test", ("nats://127.0.0.1:1",), "", {NORTH: credentials.peer})
    with pytest.raises(TransportError) as caught:
        reach(network, credentials, timeout_s=0.2)
    assert caught.value.code == "nats.connect"
    assert "127.0.0.1:1" in str(caught.value)


def test_plaintext_to_another_machine_is_refused(tmp_path):
    credentials = Credentials.generate(tmp_path)
    for server in ("nats://192.0.2.1:4222", "nats://example.org:4222", "tls://127.0.0.1:4222"):
        network = Network("test", (server,), "", {})
        with pytest.raises(ConfigError):
            reach(network, credentials)


@installed
def test_tls_is_not_given_up(tmp_path):
    """A server, or somebody before it, that offers plaintext is told nothing."""
    with running_server(tmp_path / "server", [LEADER, NORTH], leader=LEADER) as (server, place):
        network = dataclasses.replace(
            place.network, servers=(f"tls://127.0.0.1:{server.port}",), ca=_authority()
        )
        states = []
        with pytest.raises(TransportError, match="offers no TLS"):
            reach(network, place.credentials[NORTH], states, timeout_s=0.5)
        assert "connected" not in {state for state, _ in states}


def _authority():
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def test_processes_start_without_what_only_websockets_need():
    code = (
        "import sys, tacit.service.site\n"
        "print('nats.aio.client' in sys.modules, 'aiohttp' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


class Written(Silence):
    """Notes what is written."""

    def __init__(self):
        self.lines = []

    def warning(self, event, *, run="", **fields):
        self.lines.append((event, fields))


def test_a_flood_does_not_fill_the_log():
    """And hides neither another sender nor another event, nor that it was one."""
    written, now = Written(), [0.0]
    sparing = Sparing(written, clock=lambda: now[0])
    for _ in range(1000):
        sparing.warning("poison", sender="north")
    assert len(written.lines) == BURST
    sparing.warning("poison", sender="south")
    sparing.warning("quota", sender="north")
    assert written.lines[BURST:] == [
        ("poison", {"sender": "south"}),
        ("quota", {"sender": "north"}),
    ]
    now[0] = WINDOW_S
    sparing.warning("poison", sender="north")
    assert written.lines[-1] == ("poison", {"sender": "north", "left_out": 1000 - BURST})
    for number in range(100_000):
        sparing.warning("poison", sender=str(number))
    assert len(sparing._seen) <= 256
