"""Couriers over a real server: at least once, in order, whatever is killed or forged."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.engine.clock import wall_clock
from tacit.engine.nats import courier as couriers
from tacit.engine.nats import pull as pulls
from tacit.engine.nats.connection import connect, disconnect
from tacit.engine.nats.courier import Courier, attempt_of
from tacit.engine.nats.network import slug
from tacit.engine.nats.parcel import Parcel
from tacit.engine.nats.spool import Spool
from tacit.engine.nats.streams import StreamOptions, prepare_stream
from tacit.engine.nats.subjects import Route
from tacit.errors import LocalProtocolError, TransportError
from tacit.testing.nats import running_server, server_binary
from tacit.trust.identity import OsEntropy
from tacit.trust.sealing import HpkeSealing
from tacit.types import PartyName
from tacit.wire.envelope import Address, Envelope

pytestmark = pytest.mark.skipif(server_binary() is None, reason="nats-server is not installed")

LEADER, NORTH, SOUTH = PartyName("lead"), PartyName("north"), PartyName("south")
NAMES = (LEADER, NORTH, SOUTH)
RUN = "ab" * 32
DEADLINE_S = 60
TO_NORTH = Address(NORTH, "client")
MIB = 2**20


class Members:
    """Couriers of all members, made and lost at will."""

    def __init__(self, folder, server, place):
        self.folder, self.server, self.place = folder, server, place
        self.open = {}

    async def join(self, name):
        place = self.place
        client = await connect(
            place.network, name, place.credentials[name], on_state=lambda *_: None, timeout_s=10
        )
        if name == LEADER:
            options = StreamOptions(ack_wait_s=1)
            await prepare_stream(client, slug(place.network.federation), NAMES, options)
        spool = Spool(self.folder / name, clock=wall_clock)
        opener = place.credentials[name].opener
        made = Courier(client, place.network, name, opener=opener, spool=spool)
        await made.start()
        self.open[name] = (client, made)
        return made

    async def kill(self, name):
        """What the server sees of a killed process: a connection that ends."""
        client, made = self.open.pop(name)
        for task in made._tasks:
            task.cancel()
        await disconnect(client)

    async def close(self):
        for name in list(self.open):
            client, made = self.open.pop(name)
            await made.close()
            await disconnect(client)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nats")
    with running_server(folder, NAMES, leader=LEADER) as (server, place):
        yield server, place


@pytest.fixture
def together(running, tmp_path):
    """Runs a test with members; whatever it left in the stream is purged before."""

    def run(test):
        async def wrapped():
            members = Members(tmp_path, *running)
            async with asyncio.timeout(DEADLINE_S):
                try:
                    lead = await members.join(LEADER)
                    stream = f"T-{slug(members.place.network.federation)}"
                    await members.open[LEADER][0].jetstream().purge_stream(stream)
                    return await test(members, lead)
                finally:
                    await members.close()

        return asyncio.run(wrapped())

    return run


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def small(index=0):
    return Envelope(TO_NORTH, b"message %d" % index, (b"chunk",))


def large(mib=3):
    return Envelope(TO_NORTH, b"large", tuple(bytes([i]) * MIB for i in range(mib)))


def test_envelopes_arrive_whole_and_in_order(together):
    async def test(members, lead):
        north = await members.join(NORTH)
        sent = [small(0), large(), small(1), Envelope(TO_NORTH, b"x" * MIB), small(2)]
        for one in sent:
            await lead.send(one, RUN)
        arrived = north.deliveries()
        for one in sent:
            got = await anext(arrived)
            assert (got.envelope.message, tuple(got.envelope.chunks)) == (one.message, one.chunks)
            assert (got.sender, got.run, got.receiver) == (LEADER, RUN, TO_NORTH)
            await got.done()
        await members.open[NORTH][0].flush()
        assert list((members.folder / NORTH).iterdir()) == []
        stream, context = couriers.stream_name(slug("test")), members.open[LEADER][0].jetstream()
        async with asyncio.timeout(
            DEADLINE_S
        ):  # The server drops what was acknowledged when it can.
            while (await context.stream_info(stream)).state.messages:
                await asyncio.sleep(0.01)

    together(test)


def test_an_attempt_that_is_repeated_is_kept_once(together):
    async def test(members, lead):
        north = await members.join(NORTH)
        for _ in range(2):  # As after a redelivery of what caused it.
            await lead.send(small(), RUN, attempt_of(7))
        await lead.send(small(), RUN, attempt_of(8))
        arrived = north.deliveries()
        first, second = await anext(arrived), await anext(arrived)
        assert first.sequence < second.sequence
        assert lead.counters["frames_repeated"] == 1
        assert north.counters["parcels_received"] == 2

    together(test)


@pytest.mark.parametrize("envelope", [small(), large()], ids=["small", "large"])
def test_a_killed_receiver_gets_it_again(together, envelope):
    async def test(members, lead):
        north = await members.join(NORTH)
        await lead.send(envelope, RUN)
        first = await anext(north.deliveries())
        await members.kill(NORTH)
        again = await members.join(NORTH)
        second = await anext(again.deliveries())
        assert second.sequence == first.sequence  # So answers have the same ids.
        assert tuple(second.envelope.chunks) == envelope.chunks
        await second.done()

    together(test)


def test_a_restarted_receiver_need_not_wait(together):
    """What a killed process had in hand comes at once, not when the server's patience ends."""

    async def test(members, lead):
        options = StreamOptions(ack_wait_s=10 * DEADLINE_S)
        name = slug(members.place.network.federation)
        await prepare_stream(members.open[LEADER][0], name, NAMES, options)
        north = await members.join(NORTH)
        for index in range(3):
            await lead.send(small(index), RUN)
        arrived = north.deliveries()
        first = [await anext(arrived) for _ in range(3)]
        await first[1].done()
        await members.open[NORTH][0].flush()
        await members.kill(NORTH)
        again = (await members.join(NORTH)).deliveries()
        second = [await anext(again) for _ in range(2)]
        assert [one.sequence for one in second] == [first[0].sequence, first[2].sequence]
        for one in second:
            await one.done()

    together(test)


def test_what_is_being_handled_is_not_delivered_again(together, monkeypatch):
    monkeypatch.setattr(couriers, "PROGRESS_S", 0.2)

    async def test(members, lead):
        north = await members.join(NORTH)
        arrived = north.deliveries()
        await lead.send(large(), RUN)
        held = await anext(arrived)
        frames = north.counters["frames_received"]
        await asyncio.sleep(1.5)  # Longer than the time to acknowledge.
        assert north.counters["frames_received"] == frames
        await held.done()

    together(test)


def test_a_repeat_of_what_was_handled_is_acknowledged(together, monkeypatch):
    async def test(members, lead):
        north = await members.join(NORTH)
        arrived = north.deliveries()
        words = []

        async def lost(message, word):
            words.append(word)

        with monkeypatch.context() as patched:
            patched.setattr(north, "reply", lost)
            await lead.send(large(), RUN)
            await (await anext(arrived)).done()
        assert b"+ACK" in words
        await until(lambda: north.counters["repeats"] >= len(words))
        assert north.counters["parcels_received"] == 1

    together(test)


async def forge(members, *, subject=None, mend=lambda frame: None, headers=None):
    """Publishes the frames of a parcel, changed, as the leader."""
    route = Route(TO_NORTH, LEADER, RUN).subject(slug("test"))
    parcel = Parcel(
        large(1),
        route,
        b"forged",
        public_key=members.place.network.peers[NORTH].sealing,
        sealing=HpkeSealing(),
        entropy=OsEntropy(),
    )
    for frame in parcel.frames():
        data = bytearray(frame.data)
        mend(data)
        await members.open[LEADER][0].request(
            subject or route,
            bytes(data),
            headers=frame.head.headers() if headers is None else headers,
            timeout=5,
        )


def test_poison_is_refused_and_stops_nothing(together):
    async def test(members, lead):
        north = await members.join(NORTH)

        def flip(data):
            data[0] ^= 1

        def cut(data):
            del data[10:]

        odd_run = Route(TO_NORTH, LEADER, RUN).subject(slug("test"))[:-1]
        for change in ({"mend": flip}, {"mend": cut}, {"headers": {}}, {"subject": odd_run}):
            await forge(members, **change)
        await lead.send(small(), RUN)
        got = await anext(north.deliveries())
        assert got.envelope == small()
        await got.done()
        assert north.counters["poison"] == 10
        assert north.counters["parcels_received"] == 1
        assert list((members.folder / NORTH).glob("*")) == []

    together(test)


@pytest.mark.parametrize(
    "headers",
    [b"", b"N", b"NATS/1.0", b"NATS/1.0 \xff\xff", b"NATS/1.0\r\nStatus: 503\r\n\r\n", b"garbage"],
)
def test_headers_decide_nothing(together, headers):
    """Neither do they end a member's reading, nor does a message pass for the server's own word."""

    async def test(members, lead):
        north = await members.join(NORTH)
        client, _ = members.open[LEADER]
        subject = Route(TO_NORTH, LEADER, RUN).subject(slug("test"))
        line = f"HPUB {subject} {len(headers)} {len(headers)}\r\n".encode()
        for _ in range(3):
            await client._send_command(line + headers + b"\r\n")
        await lead.send(small(), RUN)
        got = await anext(north.deliveries())
        assert got.envelope == small()
        await got.done()
        assert north.counters["poison"] == 3

    together(test)


def test_open_messages_are_bounded(together, monkeypatch):
    """What is open and not handled yet takes no more than so much; the rest waits on the disk."""
    monkeypatch.setattr(couriers, "MAX_HELD", 5 * MIB)

    async def test(members, lead):
        north = await members.join(NORTH)
        sent = [Envelope(TO_NORTH, bytes([index]) * 2 * MIB) for index in range(4)]
        for one in sent:
            await lead.send(one, RUN)
        spooled = members.folder / NORTH
        await until(lambda: north._ready.qsize() == 2 and len(list(spooled.glob("*.index"))) >= 3)
        assert north._held == 4 * MIB
        arrived = north.deliveries()
        for one in sent:
            got = await anext(arrived)
            assert got.envelope.message == one.message
            assert north._held <= 5 * MIB
            await got.done()
        assert north._held == 0

    together(test)


def test_a_server_cannot_fill_a_members_memory(together):
    """What was not asked for, or is no delivery, is left where it is."""

    async def test(members, lead):
        north = await members.join(NORTH)
        pull = north._pull
        message = couriers.Msg(_client=members.open[NORTH][0], subject="x", reply="$JS.ACK.x")
        pull._arrived.clear()
        for _ in range(10_000):
            await pull._on_message(message)
        await pull._on_message(couriers.Msg(_client=message._client, subject="x", reply=""))
        assert len(pull._arrived) == pulls.MOST
        pull._arrived.clear()

    together(test)


def test_a_refused_delivery_does_not_come_again(together):
    async def test(members, lead):
        north = await members.join(NORTH)
        arrived = north.deliveries()
        await lead.send(small(), RUN)
        await (await anext(arrived)).refuse("not.mine")
        client = members.open[LEADER][0]
        await members.open[NORTH][0].flush()
        info = await client.jetstream().stream_info(couriers.stream_name(slug("test")))
        assert info.state.messages == 0

    together(test)


def test_a_server_that_restarts_loses_nothing(together, running):
    async def test(members, lead):
        north = await members.join(NORTH)
        arrived = north.deliveries()
        await lead.send(small(0), RUN)
        await (await anext(arrived)).done()
        await members.open[NORTH][0].flush()
        running[0].stop()
        sending = asyncio.create_task(lead.send(small(1), RUN))
        await until(lambda: not members.open[LEADER][0].is_connected)
        running[0].start()
        await sending
        got = await anext(arrived)
        assert got.envelope == small(1)
        await got.done()

    together(test)


def test_nobody_waits_for_ever_who_does_not_want_to(together, running):
    async def test(members, lead):
        running[0].stop(kill=True)
        try:
            with pytest.raises(TransportError, match="not acknowledged"):
                await lead.send(large(), RUN, deadline_s=0.2)
        finally:
            running[0].start()
        with pytest.raises(LocalProtocolError, match="no member"):
            await lead.send(Envelope(Address(PartyName("nobody"), "client"), b"m"), RUN)

    together(test)


def test_members_cannot_speak_for_others_or_read_their_mail(together, running):
    async def test(members, lead):
        await members.join(SOUTH)
        client, _ = members.open[SOUTH]
        fed = slug("test")
        stream = couriers.stream_name(fed)
        for subject in (
            Route(Address(LEADER, "leader"), NORTH, RUN).subject(fed),
            Route(TO_NORTH, SOUTH, RUN).subject(fed),
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{NORTH}",
            f"$JS.API.STREAM.DELETE.{stream}",
            f"$JS.API.STREAM.INFO.{stream}",
        ):
            with pytest.raises((asyncio.TimeoutError, TimeoutError)):
                await client.request(subject, b"{}", timeout=0.1)

    together(test)


MEMORY = """
import asyncio, resource, sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_nats_courier as t

async def main():
    with t.running_server(Path({folder!r}), t.NAMES, leader=t.LEADER) as (server, place):
        members = t.Members(Path({folder!r}) / "spool", server, place)
        lead, north = await members.join(t.LEADER), await members.join(t.NORTH)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chunk = bytes(t.MIB)
        await lead.send(t.Envelope(t.TO_NORTH, b"large", (chunk,) * 100), t.RUN)
        got = await anext(north.deliveries())
        assert sum(len(one) for one in got.envelope.chunks) == 100 * t.MIB
        await got.done()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        await members.close()

asyncio.run(main())
"""


def test_a_parcel_of_100_mib_needs_little_memory(tmp_path):
    """Sender and receiver together, in a process of its own: the chunk is one object, sent 100 times."""
    path = [str(Path(__file__).parent), *sys.path]
    program = MEMORY.format(path=path, folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 90


def test_the_stream_is_as_large_as_the_server_permits(together):
    async def test(members, lead):
        client = members.open[LEADER][0]
        federation = slug("test")
        with contextlib.suppress(Exception):
            await client.jetstream().delete_stream(couriers.stream_name(federation))
        options = StreamOptions(max_bytes=2**50)
        await prepare_stream(client, federation, NAMES[:2], options)
        info = await client.jetstream().stream_info(couriers.stream_name(federation))
        assert 2**20 < info.config.max_bytes < 2**50
        await prepare_stream(client, federation, NAMES)  # Repeating is safe.
        consumers = await client.jetstream().consumers_info(couriers.stream_name(federation))
        assert {one.name for one in consumers} == set(NAMES)

    together(test)
