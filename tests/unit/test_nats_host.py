"""Parties in hosts over a real server: a whole run, and what a host does with everything odd."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from tacit.engine.clock import wall_clock
from tacit.engine.nats.connection import connect, disconnect
from tacit.engine.nats.courier import Courier
from tacit.engine.nats.host import Host
from tacit.engine.nats.network import slug
from tacit.engine.nats.spool import Spool
from tacit.engine.nats.streams import prepare_stream
from tacit.errors import TransportError
from tacit.party.base import log_head
from tacit.testing.federation import LEADER, SITES, SmallFederation, write_small_federation
from tacit.testing.nats import running_server, server_binary
from tacit.types import PartyName
from tacit.wire.envelope import Address, Envelope

pytestmark = pytest.mark.skipif(server_binary() is None, reason="nats-server is not installed")

NORTH = PartyName("north")
DEADLINE_S = 90


async def courier(place, name, folder, *, leads=False):
    client = await connect(
        place.network, name, place.credentials[name], on_state=lambda *_: None, timeout_s=10
    )
    if leads:
        await prepare_stream(client, slug(place.network.federation), place.credentials)
    spool = Spool(folder / name, clock=wall_clock)
    opener = place.credentials[name].opener
    return client, Courier(client, place.network, name, opener=opener, spool=spool)


class Hosts:
    """One host for every member of a small federation, each over a connection of its own."""

    def __init__(self, folder, place, small):
        self.folder, self.place, self.small = folder, place, small
        self.hosts, self.couriers, self.clients, self.tasks = {}, {}, {}, []
        self.closed = asyncio.Event()

    def look(self, *_):
        if self.small.leader.phase == "closed":
            self.closed.set()

    async def __aenter__(self):
        names = [LEADER, *SITES]
        for name in names:
            client, one = await courier(self.place, name, self.folder, leads=name == LEADER)
            self.clients[name], self.couriers[name] = client, one
            options = {"clock": self.small.clock, "tick_s": 0.05, "pause_s": 0.05}
            self.hosts[name] = host = Host(one, on_handled=self.look, **options)
            if name == LEADER:
                host.add(self.small.leader, self.small.terms.run_id)
            else:
                host.add(self.small.sites[name])
                host.add(self.small.helpers[name])
            self.tasks.append(asyncio.create_task(host.run()))
        await self.until(lambda: all(host._loop for host in self.hosts.values()))
        return self

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def __aexit__(self, *_):
        for host in self.hosts.values():
            await host.stop()
        await asyncio.gather(*self.tasks)
        for client in self.clients.values():
            await disconnect(client)


@pytest.fixture
def place(tmp_path):
    with running_server(tmp_path / "server", [LEADER, *SITES], leader=LEADER) as (_, place):
        yield place


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "small"
    write_small_federation(path)
    return path


def test_a_run_over_hosts_ends_with_the_model_of_the_local_engine(tmp_path, place, folder):
    expected = SmallFederation(folder)
    expected.run()
    small = SmallFederation(folder)

    async def run():
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            first = await asyncio.to_thread(small.start)
            await hosts.hosts[LEADER].submit(first)
            async with asyncio.timeout(DEADLINE_S):
                await hosts.closed.wait()
            return [host.counters for host in hosts.hosts.values()]

    counters = asyncio.run(run())
    assert small.leader.failure is None
    assert small.leader.chain.applied == 3
    assert np.array_equal(small.leader.model.theta, expected.leader.model.theta)
    assert all(not found["poison"] and not found["faults"] for found in counters)
    for name, site in small.sites.items():
        assert site.budget.spent("everyone") == expected.sites[name].budget.spent("everyone")


def test_a_delivery_waits_for_its_answers(tmp_path, place, folder):
    """The stream still holds the offer as long as the answer could not be published."""
    small = SmallFederation(folder)

    async def run():
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            courier, gate = hosts.couriers[NORTH], asyncio.Event()
            send, acked, waiting = courier.send, [], asyncio.Event()
            finish = courier.finish

            async def held_back(*arguments, **options):
                waiting.set()
                await gate.wait()
                await send(*arguments, **options)

            async def noted(delivery, word):
                acked.append(word)
                await finish(delivery, word)

            courier.send, courier.finish = held_back, noted
            await hosts.hosts[LEADER].submit(small.start())
            async with asyncio.timeout(DEADLINE_S):
                await waiting.wait()
            before = list(acked)
            gate.set()
            await hosts.until(lambda: b"+ACK" in acked)
            return before

    assert asyncio.run(run()) == []


def test_a_borrowed_message_reaches_no_party(tmp_path, place, folder):
    small = SmallFederation(folder)
    received = []

    class Ears:
        address = Address(LEADER, "leader")

        def receive(self, envelope, now):
            received.append(envelope)
            return []

    async def run():
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            leader = hosts.hosts[LEADER]
            leader.add(Ears(), small.terms.run_id)
            offer = next(e for e in small.start() if e.receiver == Address(NORTH, "client"))
            (accept,) = small.sites[NORTH].receive(offer, small.clock())
            run = small.terms.run_id
            await hosts.couriers[PartyName("east")].send(accept, run)
            await hosts.couriers[NORTH].send(accept, "00" * 32)
            await hosts.couriers[NORTH].send(Envelope(accept.receiver, b"nothing"), run)
            await hosts.until(lambda: leader.counters["poison"] + leader.counters["unserved"] >= 3)
            assert received == []
            await hosts.couriers[NORTH].send(accept, run)
            await hosts.until(lambda: received)
            return leader.counters

    counters = asyncio.run(run())
    assert (counters["poison"], counters["unserved"]) == (2, 1)


def test_a_full_disk_is_waited_for(tmp_path, place, folder):
    small = SmallFederation(folder)
    tries = []

    class Full:
        address = Address(NORTH, "client")

        def receive(self, envelope, now):
            tries.append(envelope.message)
            if len(tries) < 3:
                raise TransportError("store.io", "no space left")
            return []

    async def run():
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            host = hosts.hosts[NORTH]
            host.add(Full(), small.terms.run_id)
            offer = next(e for e in small.start() if e.receiver == Address(NORTH, "client"))
            await hosts.couriers[LEADER].send(offer, small.terms.run_id)
            await hosts.until(lambda: host.counters["handled"])
            return host.counters["retries"]

    assert asyncio.run(run()) == 2
    assert len(set(tries)) == 1


def test_others_work_while_a_party_waits(tmp_path, place, folder):
    """One run's delivery waits in ``released``; the helper of the same process answers meanwhile."""
    small = SmallFederation(folder)
    entered, leave, seen = threading.Event(), threading.Event(), []

    async def run():
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            host = hosts.hosts[NORTH]

            class Training:
                address = Address(NORTH, "client")

                def receive(self, envelope, now):
                    seen.append("begun")
                    with host.released():
                        entered.set()
                        assert leave.wait(DEADLINE_S)
                    seen.append("ended")
                    return []

            host.add(Training(), small.terms.run_id)
            offers = [e for e in small.start() if e.receiver.party == NORTH]
            (client,) = [e for e in offers if e.receiver.role == "client"]
            (helper,) = [e for e in offers if e.receiver.role == "helper"]
            await hosts.couriers[LEADER].send(client, small.terms.run_id)
            assert await asyncio.to_thread(entered.wait, DEADLINE_S)
            await hosts.couriers[LEADER].send(client, small.terms.run_id)
            await hosts.couriers[LEADER].send(helper, small.terms.run_id)
            await hosts.until(lambda: host.counters["handled"] == 1)
            assert seen == ["begun"]  # Of one run never two at a time.
            leave.set()
            await hosts.until(lambda: host.counters["handled"] == 3)

    asyncio.run(run())
    assert seen == ["begun", "ended", "begun", "ended"]


def test_time_ends_a_phase(tmp_path, place, folder):
    """Ticks reach the coordinator, and what it then says leaves."""
    small = SmallFederation(folder)

    class Deaf:
        address = Address(NORTH, "client")

        def receive(self, envelope, now):
            return []

    async def run():
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            hosts.hosts[NORTH].add(Deaf(), small.terms.run_id)
            await hosts.hosts[LEADER].submit(await asyncio.to_thread(small.start))
            await hosts.until(lambda: len(small.leader._accepts) == len(SITES) - 1)
            small.clock.advance(small.terms.phase + 1)
            await hosts.until(lambda: small.leader.phase != "offered")
            return small.leader.failure.code

    assert asyncio.run(run()) == "run.no-answer"
    assert log_head(small.leader.ports.log).size > 0


def test_a_host_stops_although_the_server_is_gone(tmp_path, folder):
    """What could not be sent is said, and nobody waits for the server."""
    small = SmallFederation(folder)

    async def run(server, place):
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            server.stop(kill=True)
            sending = asyncio.create_task(hosts.hosts[LEADER].submit(small.start()))
            await hosts.until(lambda: not hosts.clients[LEADER].is_connected)
            await hosts.hosts[LEADER].stop()
            with pytest.raises(TransportError) as caught:
                await sending
            return caught.value.code

    with running_server(tmp_path / "server", [LEADER, *SITES], leader=LEADER) as (server, place):
        assert asyncio.run(run(server, place)) == "host.stopped"


def test_what_is_not_begun_when_a_host_stops_comes_again(tmp_path, place, folder):
    small = SmallFederation(folder)
    handled = []

    class Slow:
        address = Address(NORTH, "client")

        def __init__(self, hold):
            self.hold = hold

        def receive(self, envelope, now):
            handled.append(envelope.message)
            if self.hold is not None:
                entered.set()
                assert self.hold.wait(DEADLINE_S)
            return []

    entered, hold = threading.Event(), threading.Event()

    async def run():
        async with Hosts(tmp_path / "spool", place, small) as hosts:
            hosts.hosts[NORTH].add(Slow(hold), small.terms.run_id)
            (offer, *_) = [e for e in small.start() if e.receiver == Address(NORTH, "client")]
            again = [
                small.leader.send(small.terms, offer.receiver, small.offer, round_number=number)
                for number in (1, 2)
            ]
            for one in again:
                await hosts.couriers[LEADER].send(one, small.terms.run_id)
            assert await asyncio.to_thread(entered.wait, DEADLINE_S)
            await hosts.until(lambda: hosts.couriers[NORTH].counters["parcels_received"] == 2)
            stopping = asyncio.create_task(hosts.hosts[NORTH].stop())
            await hosts.until(hosts.hosts[NORTH]._stopping.is_set)
            hold.set()
            await stopping
            await hosts.until(lambda: hosts.hosts[NORTH].counters["handled"] == 1)
            assert handled == [again[0].message]
            await hosts.clients[NORTH].flush()  # The acknowledgement is there, too.
            client = hosts.clients[LEADER]
            stream = f"T-{slug(place.network.federation)}"
            info = await client.jetstream().stream_info(stream)
            return info.state.messages

    assert asyncio.run(run()) == 1
