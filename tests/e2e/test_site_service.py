"""Sites as processes: a run over a real server, what a child has of a real site, starts and stops."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tacit import cli
from tacit.engine.clock import wall_clock
from tacit.engine.folder import SiteFolder
from tacit.engine.nats.connection import connect
from tacit.engine.nats.courier import Courier
from tacit.engine.nats.host import Host
from tacit.engine.nats.network import Credentials, sign_peer, slug, write_network
from tacit.engine.nats.spool import Spool
from tacit.engine.nats.streams import prepare_stream
from tacit.errors import ConfigError
from tacit.files import read_limited
from tacit.service import helper as helper_service
from tacit.service import site as site_service
from tacit.service.config import only_process
from tacit.testing.federation import (
    LEADER,
    SmallFederation,
    seeded_world,
    write_small_federation,
)
from tacit.testing.nats import NatsServer, server_binary
from tacit.trust.identity import Identity
from tacit.types import PartyName

needs_server = pytest.mark.skipif(
    server_binary() is None or not hasattr(os, "memfd_create"),
    reason="nats-server is not installed, or this is not Linux",
)

NAMES = tuple(PartyName(name) for name in ("north", "south", "west"))
DEADLINE_S = 60


class Place:
    """A federation on disk with its network file and a server."""

    def __init__(self, folder: Path) -> None:
        write_small_federation(folder, names=NAMES)
        shutil.copytree(folder, folder.parent / "copy")
        self.folder = folder
        self.small = SmallFederation(folder)
        folders = {LEADER: folder / "coordinator", **{n: self.site(n) for n in NAMES}}
        keys = {name: Credentials.generate(path) for name, path in folders.items()}
        federation = self.small.roster.federation
        self.server = NatsServer(folder.parent / "nats", federation, LEADER, keys)
        self.credentials, self.network = keys, self.server.network
        signatures = {
            name: sign_peer(
                Identity.load(path / "keys" / "identity.key"),
                federation,
                name,
                self.network.peers[name],
            )
            for name, path in folders.items()
        }
        write_network(folder / "network.toml", self.network, signatures)

    def site(self, name: PartyName) -> Path:
        return self.folder / "sites" / name

    def start(self, name: PartyName) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tacit.testing.party", "--seed", name, "site"]
        return subprocess.Popen(
            [*command, str(self.site(name))],
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"{name}.log").open("w"),
            text=True,
        )

    def events(self, name: PartyName) -> list[dict[str, object]]:
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def expected(self) -> np.ndarray:
        """The model of the same run on the local engine, over a copy of the same folders."""
        small = SmallFederation(self.folder.parent / "copy")
        for name in NAMES:
            opened = SiteFolder.load(small.folder / "sites" / name)
            pair = opened.parties(small.roster, small.load_model, seeded_world(name))
            small.sites[name], small.helpers[name] = pair
        small.run()
        return small.leader.model.theta

    async def lead(self, look) -> None:
        """Leads the run from here."""
        client = await connect(
            self.network, LEADER, self.credentials[LEADER], on_state=lambda *_: None, timeout_s=10
        )
        await prepare_stream(client, slug(self.network.federation), self.credentials)
        closed = asyncio.Event()
        leader = self.small.leader

        def handled(*_: object) -> None:
            look(leader)
            if leader.phase == "closed":
                closed.set()

        courier = Courier(
            client,
            self.network,
            LEADER,
            opener=self.credentials[LEADER].opener,
            spool=Spool(self.folder / "spool", clock=wall_clock),
        )
        host = Host(courier, clock=self.small.clock, on_handled=handled)
        host.add(leader, self.small.terms.run_id)
        running = asyncio.create_task(host.run())
        await host.submit(self.small.start())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await closed.wait()
        finally:
            await host.stop()
            await running
            await client.close()


def children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


@needs_server
def test_a_run_of_sites_as_processes_is_the_run_of_the_local_engine(tmp_path):
    place = Place(tmp_path / "f")
    (place.site(NAMES[0]) / "service.toml").write_text('version = 1\nlisten = "127.0.0.1:0"\n')
    place.server.start()
    processes: dict[PartyName, subprocess.Popen[str]] = {}
    seen: dict[int, tuple[bytes, set[str]]] = {}

    def look(leader) -> None:
        """While a run goes on every site has one child; it holds nothing of the site."""
        if leader.durable.number("round") != 2 or seen:
            return
        for process in processes.values():
            for pid in children(process):
                proc = Path(f"/proc/{pid}")
                known = (
                    proc.joinpath("environ").read_bytes() + proc.joinpath("cmdline").read_bytes()
                )
                files = {str(entry.readlink()) for entry in proc.joinpath("fd").iterdir()}
                seen[pid] = (known, files)

    try:
        processes |= {name: place.start(name) for name in NAMES}
        asyncio.run(place.lead(look))
        assert np.array_equal(place.small.leader.model.theta, place.expected())
        assert len(seen) == len(NAMES), "one child for every site"
        for known, files in seen.values():
            assert str(place.folder).encode() not in known
            assert {file.split(":")[0] for file in files} <= {"/dev/null", "socket", "/memfd"}
        first = processes[NAMES[0]]
        assert "serves" in first.stdout.readline()
        url = next(e["url"] for e in place.events(NAMES[0]) if e["event"] == "service.listening")
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            assert json.load(answer)["ready"]
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            metrics = json.load(answer)
        assert metrics["runs_ended"] == 1
        assert metrics["epsilon_limit/everyone"] == 1.2
        assert not any(children(process) for process in processes.values())
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        assert [process.wait(DEADLINE_S) for process in processes.values()] == [0, 0, 0]
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            process.stdout.close()
        place.server.stop(kill=True)
    for name in NAMES:
        events = [event["event"] for event in place.events(name)]
        assert events.count("run.ended") == 1
        assert events[-1] == "service.stopped"
        assert "party.refused" not in events
        text = (place.folder / f"{name}.log").read_text()
        for key in (place.site(name) / "keys").glob("*.key"):
            assert read_limited(key, 10_000).hex() not in text


@needs_server
def test_a_site_stops_before_it_ever_connected(tmp_path):
    place = Place(tmp_path / "f")
    process = place.start(NAMES[0])
    try:
        path = place.folder / f"{NAMES[0]}.log"
        end = time.monotonic() + DEADLINE_S
        while "nats.error" not in path.read_text() and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        (starting,) = [e for e in place.events(NAMES[0]) if e["event"] == "service.starting"]
        assert starting["servers"] == list(place.network.servers)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("services") / "f")


def refusal(call) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value.code


def test_a_site_without_its_lock_does_not_start(place):
    lock = place.site(NAMES[0]) / "policy.lock"
    text = lock.read_bytes()
    lock.unlink()
    try:
        assert refusal(lambda: site_service.serve(place.site(NAMES[0]))) == "policy.unlocked"
    finally:
        lock.write_bytes(text)


def test_a_folder_is_served_once(place):
    with only_process(place.site(NAMES[0])):
        assert refusal(lambda: site_service.serve(place.site(NAMES[0]))) == "service.taken"


def test_keys_that_the_network_does_not_list_are_refused(place):
    key = place.site(NAMES[0]) / "keys" / "connection.key"
    text = key.read_bytes()
    key.unlink()
    try:
        Credentials.generate(place.site(NAMES[0]))
        assert refusal(lambda: site_service.serve(place.site(NAMES[0]))) == "service.keys"
    finally:
        key.write_bytes(text)


def test_a_helper_must_be_listed_as_one(place):
    assert refusal(lambda: helper_service.serve(place.folder / "coordinator")) == "service.role"
    assert refusal(lambda: helper_service.serve(place.folder / "evaluation")) == "site.identity"


def options(parser: argparse.ArgumentParser, name: str = "") -> dict[str, set[str]]:
    found = {name: {text for action in parser._actions for text in action.option_strings}}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner, sub in action.choices.items():
                found |= options(sub, f"{name} {inner}".strip())
    return found


def test_no_shipped_command_takes_a_seed(capsys):
    """But that of attacks, whose seed is the attacker's own."""
    found = options(cli._parser())
    assert {"site", "helper"} <= set(found)
    seeded = {name for name, texts in found.items() if any("seed" in t for t in texts)}
    assert seeded == {"attack"}
    assert not [name for name, texts in found.items() if any("entropy" in t for t in texts)]
    for role in ("site", "helper"):
        with pytest.raises(SystemExit) as caught:
            cli.main([role, "nowhere", "--seed", "1"])
        assert caught.value.code == 64
    sources = Path(cli.__file__).parent.rglob("*.py")
    lines = [
        line
        for source in sources
        if "testing" not in source.parts
        for line in source.read_text().splitlines()
        if "environ" in line or "getenv" in line
    ]
    assert not [line for line in lines if "seed" in line.lower() or "entropy" in line.lower()]
