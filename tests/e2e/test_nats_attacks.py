"""Attacks on the engine while it works: by members, by the coordinator, by whoever runs the server.

Every member is a process over a real server with the shipped configuration. The attacker has what such an
attacker has: a member's own keys, or the server. Whatever it does is refused and logged, and a run that
goes on meanwhile is complete. How invitations are attacked is in tests/unit/test_service_enrol.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import nkeys
import pytest
from nats.aio.client import Client

from tacit.engine.nats.connection import connect, disconnect
from tacit.engine.nats.network import Credentials, slug
from tacit.engine.nats.parcel import FRAME, TAG, Parcel
from tacit.engine.nats.subjects import Route, stream_name
from tacit.engine.store import STATE, SqliteStore
from tacit.errors import TransportError
from tacit.ledger.log import Log, log_origin
from tacit.testing.federation import LEADER, SITES, WITHOUT_NOISE
from tacit.testing.nats import server_binary
from tacit.testing.processes import ProcessFederation, wait_until
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.sealing import HpkeSealing
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Address, Channel, Envelope, LogHead, sign_message
from tacit.wire.messages import Refusal

pytestmark = pytest.mark.skipif(
    server_binary() is None or not hasattr(os, "memfd_create"),
    reason="nats-server is not installed, or this is not Linux",
)

NAMES = SITES[:3]
EAST, NORTH = NAMES[:2]
MIB = 2**20
GROWTH = 256 * MIB
"""A process under attack may grow by so much: its limit on open messages, and the allocator's slack."""
SLOWER = 20
"""Attacker, server and all parties share the cores of this machine."""
RUN = "ab" * 32
Act = Callable[[Client], Awaitable[None]]


class Attack:
    """What an attacker does in a thread while the block lasts, over a connection of its own.

    Args:
        federation: The attacked.
        who: Whose connection keys it has.
        act: One piece of work, repeated until the block ends.
    """

    def __init__(self, federation: ProcessFederation, who: PartyName, act: Act) -> None:
        self.federation, self.who, self.act = federation, who, act
        self.done, self.errors = 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        federation = self.federation
        client = await connect(
            federation.network,
            self.who,
            federation.keys[self.who],
            on_state=lambda state, why: self.errors.append(why) if state == "error" else None,
            timeout_s=10,
        )
        while not self._stop.is_set():
            await self.act(client)
            self.done += 1
        await client.flush()
        await disconnect(client)

    def __enter__(self) -> Attack:
        self._thread.start()
        wait_until(lambda: self.done or not self._thread.is_alive(), "the attack")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.done, "nothing was attacked"


def once(federation: ProcessFederation, who: PartyName, act: Act, refusals: int = 0) -> list[str]:
    """Does something over a member's connection; what the server said against it."""
    errors: list[str] = []

    async def run() -> None:
        client = await connect(
            federation.network,
            who,
            federation.keys[who],
            on_state=lambda state, why: errors.append(why) if state == "error" else None,
            timeout_s=10,
        )
        await act(client)
        await client.flush()
        end = asyncio.get_running_loop().time() + 10
        while len(errors) < refusals and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)  # A refusal arrives in its own time.
        await disconnect(client)

    asyncio.run(run())
    return errors


def subject(federation: ProcessFederation, receiver: str, sender: str, run: str = RUN) -> str:
    party, role = receiver.split("/")
    return Route(Address(PartyName(party), role), sender, run).subject(
        slug(federation.roster.federation)
    )


async def raw(client: Client, to: str, headers: bytes, data: bytes, reply: str = "") -> None:
    """Publishes a message whose headers no library would write."""
    size = len(headers) + len(data)
    line = f"HPUB {to} {reply} {len(headers)} {size}\r\n".encode()
    await client._send_command(line + headers + data + b"\r\n")


def sealed(
    federation: ProcessFederation, receiver: str, sender: str, envelope: Envelope, run: str = RUN
) -> Parcel:
    """A parcel as a member's process would make it."""
    peer = federation.network.peers[envelope.receiver.party]
    return Parcel(
        envelope,
        subject(federation, receiver, sender, run),
        OsEntropy().draw(16),
        public_key=peer.sealing,
        sealing=HpkeSealing(),
        entropy=OsEntropy(),
    )


def head(parcel: str, index: int, count: int) -> bytes:
    return f"NATS/1.0\r\nTacit-Frame: {parcel} {index} {count}\r\n\r\n".encode()


def malformed(federation: ProcessFederation, receiver: str, sender: PartyName) -> Act:
    """A thousand messages a second that are no parcels, some of them as large as the server permits."""
    to, count = subject(federation, receiver, sender), 0
    address = Address(*receiver.split("/"))
    nonsense = sealed(federation, receiver, sender, Envelope(address, b"nonsense"))
    frame = next(nonsense.frames())
    kinds = [
        (b"NATS/1.0\r\n\r\n", b"x"),
        (b"N", b""),
        (b"NATS/1.0\r\nStatus: 503\r\n\r\n", b""),
        (head("00" * 32, 1, 2), b"short"),
        (head("00" * 32, 2**70, 2**80), b"x" * 100),
        (b"NATS/1.0\r\nTacit-Frame: " + b"9" * 5000 + b"\r\n\r\n", b"x"),
        (b"NATS/1.0 \xff\xff", b""),
    ]

    async def act(client: Client) -> None:
        nonlocal count
        for _ in range(7):
            for headers, data in kinds:
                await raw(client, to, headers, data)
        await client.publish(to, frame.data, headers=frame.head.headers())
        count += 1
        if count % 10 == 0:
            await raw(client, to, head("00" * 32, 1, 3), bytes(1000 * 1024))
        await client.flush()
        await asyncio.sleep(0.05)

    return act


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> Iterator[tuple[ProcessFederation, float]]:
    """A federation that works, and the seconds of an undisturbed run."""
    folder = tmp_path_factory.mktemp("attacked")
    with ProcessFederation(folder, names=NAMES, job=WITHOUT_NOISE) as federation:
        federation.start_server()
        federation.start()
        assert federation.run()[0]["status"] == "complete"
        state, seconds = federation.run()
        assert state["status"] == "complete"
        yield federation, seconds


def run_under(quiet, attack: Attack, watched: PartyName, record) -> None:
    """A run is complete while an attack goes on, and the attacked process stays small."""
    federation, seconds = quiet
    before = federation.rss(watched)
    with attack:
        state, took = federation.run()
    assert state["status"] == "complete", state["failure"]
    record("duration_ratio", round(took / seconds, 2))
    assert took < max(SLOWER * seconds, 60)
    assert federation.rss(watched) - before < GROWTH
    assert all(process.poll() is None for process in federation.processes.values())


def refused(federation: ProcessFederation, name: PartyName, code: str, since: int = 0) -> bool:
    events = federation.events(name)[since:]
    return any(event.get("code") == code for event in events)


# --- keys ---------------------------------------------------------------------------------------


def test_another_connection_key_is_refused_by_the_server(quiet, tmp_path):
    federation, _ = quiet

    async def attempt() -> None:
        keys = Credentials.generate(tmp_path / "stranger")
        await connect(federation.network, NORTH, keys, on_state=lambda *_: None, timeout_s=10)

    with pytest.raises(TransportError) as caught:
        asyncio.run(attempt())
    assert caught.value.code == "nats.authorization"


def test_another_identity_does_not_start_and_is_not_believed(quiet, tmp_path):
    """A login proves a connection: whoever has it and not the identity speaks for nobody."""
    federation, _ = quiet
    stolen = tmp_path / "sites" / "north"
    shutil.copytree(federation.places[NORTH], stolen)
    forged = Identity.generate(OsEntropy())
    (stolen / "keys" / "identity.key").unlink()
    forged.save(stolen / "keys" / "identity.key")
    for name in ("federation.toml", "network.toml"):
        shutil.copy(federation.base / name, tmp_path / name)
    ended = subprocess.run(
        [sys.executable, "-m", "tacit.cli", "site", str(stolen)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode
    assert "site.identity" in ended.stderr
    run = federation.control.runs()[0]["run"]
    since = len(federation.events(LEADER))
    # The run must go on for the message to reach its leader.
    submitted = federation.submit()
    wait_until(lambda: federation.control.run(submitted)["status"] == "running", "the run")
    for signer, sender, code in (
        (forged, NORTH, "trust.signature"),
        (federation.identities[NORTH], EAST, "host.borrowed"),
    ):
        lie = message(federation, signer, sender, submitted)
        send(federation, NORTH, lie, submitted)
        wait_until(lambda code=code: refused(federation, LEADER, code, since), code, 30)
    assert federation.finish(submitted)["status"] == "complete"
    assert run != submitted


def message(federation, signer, sender: PartyName, run: str) -> Envelope:
    """A refusal that a client did not write."""
    channel = Channel(
        run=Digest(bytes.fromhex(run)),
        roster=federation.roster.digest,
        job=Digest(bytes(32)),
        sender=Address(sender, "client"),
        signer=signer,
        log=LogHead(0, bytes(32)),
    )
    return sign_message(channel, Address(LEADER, "leader"), Refusal("site.refused", ""))


def send(federation, who: PartyName, envelope: Envelope, run: str) -> None:
    parcel = sealed(federation, str(envelope.receiver), who, envelope, run)

    async def act(client: Client) -> None:
        for frame in parcel.frames():
            to = subject(federation, str(envelope.receiver), who, run)
            await client.publish(to, frame.data, headers=frame.head.headers())

    once(federation, who, act)


def test_no_core_file_holds_keys(quiet):
    federation, _ = quiet
    for process in federation.processes.values():
        limits = Path(f"/proc/{process.pid}/limits").read_text("ascii").splitlines()
        core = next(line for line in limits if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


# --- members ------------------------------------------------------------------------------------


def test_nobody_publishes_for_others_reads_their_mail_or_manages_the_stream(quiet):
    federation, _ = quiet
    fed = slug(federation.roster.federation)
    stream = stream_name(fed)
    forbidden = [
        subject(federation, f"{LEADER}/leader", EAST),
        subject(federation, f"{EAST}/client", NORTH),
        subject(federation, f"{EAST}/client", LEADER),
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{EAST}",
        f"$JS.ACK.{stream}.{EAST}.1.1.1.1.0",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.STREAM.PURGE.{stream}",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        "$JS.API.INFO",
        "$SYS.REQ.USER.INFO",
        "$SYS.REQ.SERVER.PING",
        f"_INBOX-{EAST}.1",
    ]
    listened = [">", "$JS.EVENT.ADVISORY.>", "$SYS.>", f"_INBOX-{EAST}.>", f"tacit.{fed}.to.>"]

    async def act(client: Client) -> None:
        for one in forbidden:
            await client.publish(one, b"{}")
        for one in listened:
            await client.subscribe(one)

    refusals = len(forbidden) + len(listened)
    errors = [error.lower() for error in once(federation, NORTH, act, refusals)]
    for one in forbidden:
        assert any(f'publish to "{one.lower()}"' in error for error in errors), one
    for one in listened:
        assert any(f'subscription to "{one.lower()}"' in error for error in errors), one


def test_what_the_server_is_made_to_answer_into_another_inbox_is_refused(quiet):
    """A server answers wherever a request says, but with words of its own, which are no parcel."""
    federation, _ = quiet
    fed, since = slug(federation.roster.federation), len(federation.events(EAST))

    async def act(client: Client) -> None:
        await client.publish(
            f"$JS.API.CONSUMER.INFO.{stream_name(fed)}.{NORTH}",
            b"",
            reply=subject(federation, f"{EAST}/client", LEADER),
        )

    once(federation, NORTH, act)
    wait_until(lambda: refused(federation, EAST, "parcel.head", since), "the refusal", 30)
    assert federation.run()[0]["status"] == "complete"


def test_a_member_that_floods_the_coordinator_stops_no_run(quiet, record_property):
    federation, _ = quiet
    attack = Attack(federation, NORTH, malformed(federation, f"{LEADER}/leader", NORTH))
    run_under(quiet, attack, LEADER, record_property)
    assert refused(federation, LEADER, "parcel.head")
    assert refused(federation, LEADER, "parcel.size")
    poison = [e for e in federation.events(LEADER, "courier.poison") if e["sender"] == NORTH]
    assert attack.done * 40 > len(poison) > 0, "a flood must not fill the log"


def test_a_coordinator_that_floods_a_site_stops_no_run(quiet, record_property):
    federation, _ = quiet
    attack = Attack(federation, LEADER, malformed(federation, f"{EAST}/client", LEADER))
    run_under(quiet, attack, EAST, record_property)
    assert refused(federation, EAST, "parcel.head")
    poison = [e for e in federation.events(EAST, "host.poison") if e["sender"] == LEADER]
    assert all(event["code"].startswith("wire.") for event in poison)


def test_parcels_that_never_end_fill_no_disk(quiet, record_property):
    federation, _ = quiet
    to, frame = subject(federation, f"{LEADER}/leader", NORTH), bytes(FRAME + TAG)

    async def act(client: Client) -> None:
        name = OsEntropy().draw(32).hex()
        await raw(client, to, head(name, 1, 8000), frame)
        await client.flush()
        await asyncio.sleep(0.1)

    attack = Attack(federation, NORTH, act)
    run_under(quiet, attack, LEADER, record_property)
    spool = federation.places[LEADER] / "state" / "spool"
    assert attack.done > 3
    # 8000 frames are announced each time, and 10 GiB may be: two parcels at most are kept.
    wait_until(lambda: 1 <= len(list(spool.glob("*.data"))) <= 2, "the spool to be swept", 30)


# --- whoever runs the server --------------------------------------------------------------------


class Operator:
    """Somebody with the server's configuration: a user of its own that may read and write everything."""

    def __init__(self, federation: ProcessFederation) -> None:
        self.federation = federation
        keys = Credentials.generate(federation.base.parent / "operator")
        self.seed = keys.nkey_seed
        assert nkeys.from_seed(bytearray(self.seed)).public_key.decode() == keys.peer.nkey
        path = federation.nats / "nats-server.conf"
        user = f'    users: [\n      {{ nkey: {keys.peer.nkey}, permissions: {{ publish: ">", subscribe: ">" }} }}'
        path.write_text(path.read_text().replace("    users: [", user, 1))
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    async def _connect(self) -> Client:
        client = Client()
        await client.connect(
            f"nats://127.0.0.1:{self.federation.port}", nkeys_seed_str=self.seed.decode()
        )
        return client

    @contextlib.contextmanager
    def reading(self, on_parcel: Callable[..., Awaitable[None]] | None = None) -> Iterator[None]:
        """Reads everything that passes while the block lasts."""
        stop, ready = threading.Event(), threading.Event()

        async def run() -> None:
            client = await self._connect()

            async def note(one) -> None:
                self.seen.append((one.subject, one.reply, dict(one.headers or {}), one.data))
                if on_parcel is not None and one.subject.startswith("tacit."):
                    await on_parcel(client, one)

            await client.subscribe(">", cb=note)
            await client.flush()
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.05)
            await client.flush()
            await client.close()

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        assert ready.wait(20)
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def parcels(self) -> list[tuple[str, dict[str, str], bytes]]:
        """What was published to members, each once."""
        found = [(to, headers, data) for to, _, headers, data in self.seen if to[:6] == "tacit."]
        return [one for one in found if "Tacit-Frame" in one[1]]

    def publish(self, parcels) -> None:
        """Publishes messages again."""

        async def run() -> None:
            client = await self._connect()
            for to, headers, data in parcels:
                await client.publish(to, data, headers=headers)
            await client.flush()
            await client.close()

        asyncio.run(run())


def plaintext(folder: Path) -> dict[str, bytes]:
    """What nobody but the members may know of a run, by what it is."""
    with zipfile.ZipFile(folder / "bundle.zip") as bundle:
        final = bundle.read("model/final.safetensors")
        needles = {
            "purpose": b"research",
            "column": b"weight",
            "label": b"answer",
            "aggregate": bundle.read("transcript/r000001/aggregate.bin"),
            "first model": bundle.read("model/initial.bin")[-24:],
            "model": final[-24:],
            "job": bundle.read("job.json")[:64],
            "offer": bundle.read("transcript/offer.msg")[:64],
        }
        known = bundle.read("job.json") + bundle.read("schema.json")
    assert all(needles[name] in known for name in ("purpose", "column", "label"))
    assert all(len(needle) > 5 for needle in needles.values())
    return needles


@pytest.mark.slow
def test_whoever_runs_the_server_learns_and_changes_nothing(tmp_path):
    """It reads all, sends every message twice, out of order, and replays a whole run to a restarted federation."""
    with ProcessFederation(tmp_path / "f", names=NAMES) as federation:
        operator = Operator(federation)
        federation.start_server()
        federation.start()

        kept: list[tuple[str, dict[str, str], bytes]] = []

        async def again(client: Client, one) -> None:
            """Every message a second time, under no id; every other one only after the next."""
            if "Tacit-Frame" not in (one.headers or {}) or "Again" in one.headers:
                return
            headers = {k: v for k, v in one.headers.items() if k in ("Tacit-Frame", "Tacit-Key")}
            kept.append((one.subject, {**headers, "Again": "1"}, one.data))
            if len(kept) % 2 == 0:
                for to, marked, data in reversed(kept[-2:]):
                    await client.publish(to, data, headers=marked)

        with operator.reading(again):
            state, _ = federation.run()
        assert state["status"] == "complete", state["failure"]
        assert len(kept) > 20
        run = state["run"]
        needles = plaintext(Path(state["folder"]))
        stored = b"".join(
            path.read_bytes() for path in (federation.nats / "store").rglob("*") if path.is_file()
        )
        passed = b"".join(
            json.dumps([to, reply, headers]).encode() + data
            for to, reply, headers, data in operator.seen
        )
        assert run.encode() in passed, "who talks to whom in which run is no secret"
        for name, needle in needles.items():
            assert needle not in passed, f"the {name} was readable on its way"
            assert needle not in stored, f"the {name} is readable in the server's files"
        for name in federation.places:
            assert not federation.events(name, "host.fault"), name
        for name in NAMES:
            assert len(federation.events(name, "run.ended")) == 1, "a copy ended a run again"
        replayed(federation, operator, kept, run)


def replayed(federation, operator, kept, run) -> None:
    """Everything again to a restarted federation whose server has forgotten it."""
    federation.stop()
    federation.stop_server()
    before = history(federation, run)
    federation.start_server(fresh=True)
    federation.start()
    operator.publish([(to, {k: v for k, v in h.items() if k != "Again"}, d) for to, h, d in kept])
    wait_until(lambda: federation.events(LEADER, "host.unserved"), "the replay to arrive", 60)
    state, _ = federation.run()
    assert state["status"] == "complete", state["failure"]
    assert state["run"] != run
    assert [event["run"] for event in federation.events(LEADER, "run.ended")] == [state["run"]]
    for name in NAMES:
        # Told that the old run is over, a site says so again, once; it does nothing else again.
        ended = [event["run"] for event in federation.events(name, "run.ended")]
        assert sorted(ended) in (sorted([run, state["run"]]), [state["run"]])
        assert not federation.events(name, "host.fault")
    federation.stop()
    assert history(federation, run) == before, "the replay changed what members know of the old run"


def history(federation: ProcessFederation, run: str) -> dict[PartyName, list[bytes]]:
    """What every member's own signed log says of a run: what it did, and what its budget was charged."""
    found = {}
    for name, place in federation.places.items():
        store = SqliteStore(place / STATE)
        origin = log_origin(federation.roster.federation, name)
        log = Log(store, origin, federation.identities[name])
        log.verify()
        found[name] = [event for _, event in log.events(run)]
        assert found[name]
        store.close()
    return found
