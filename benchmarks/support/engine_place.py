"""A federation as processes of this machine, made for measuring."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.engine.nats.network import NETWORK_FILE
from tacit.service.control import Control
from tacit.service.up import COMMAND, Processes, party_folders, start_network
from tacit.testing.federation import LEADER, WITHOUT_NOISE, write_small_federation
from tacit.trust.roster import Roster
from tacit.types import PartyName

__all__ = [
    "Place",
    "environment",
    "names",
    "pss_mb",
    "rss_mb",
    "run_empty",
    "scratch",
    "serving",
    "small",
    "start_echoes",
    "wired",
]

MB = 1e6
POLL_S = 0.2
LONGEST_S = 1800.0
STARTED_AT_ONCE = 8
MOST_HELPERS = 8
"""With more sites than that, a job has to name its helpers."""
ECHO = ("-m", "support.engine_echo")


@dataclass(frozen=True)
class Place:
    """A federation whose server listens.

    Attributes:
        base: Its folder.
        roster: Its members.
        folders: Everybody's folder; the leader first.
        server: Process of the server.
        processes: The members' processes.
    """

    base: Path
    roster: Roster
    folders: Mapping[PartyName, Path]
    server: int
    processes: Processes

    @property
    def files(self) -> tuple[str, ...]:
        """The options that name the federation's files."""
        network = self.processes.logs / NETWORK_FILE
        roster = self.base / "federation.toml"
        return ("--federation", str(roster), "--network", str(network))

    def sites(self) -> list[PartyName]:
        """Everybody but the leader."""
        return [name for name in self.folders if name != LEADER]

    def pids(self) -> dict[str, int]:
        """Process ids by member."""
        return {one.name: one.process.pid for one in self.processes.started}

    def wait(self, word: str, members: Iterable[str]) -> None:
        """Waits until the log of each of these holds a word."""
        for name in members:
            log = self.processes.logs / f"{name}.log"
            self.processes.wait_for(lambda log=log: word in log.read_text("utf-8"), name)

    def run(self, job: Path) -> dict[str, Any]:
        """Submits a job and waits for its end; what the coordinator tells of it."""
        control = Control(self.folders[LEADER])
        run = control.submit(job)["run"]
        deadline = time.monotonic() + LONGEST_S
        while True:
            told = control.run(run)
            if told["ended"]:
                if told["status"] != "complete":
                    raise RuntimeError(f"the run is {told['status']}: {told['failure']}")
                return told
            self.processes.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"a run takes too long: {told}")
            time.sleep(POLL_S)


def names(count: int) -> tuple[PartyName, ...]:
    """Names of sites."""
    return tuple(PartyName(f"site-{index:03d}") for index in range(count))


def small(folder: Path, sites: int, **job: Any) -> Path:
    """Writes the tiny federation without noise; returns its job file. Three help more than eight."""
    if sites > MOST_HELPERS:
        job.setdefault("aggregation", {"helpers": [str(name) for name in names(3)]})
    changes = {**WITHOUT_NOISE, "training": {"micro_batch": 8, "average_from": 0.5}, **job}
    path = write_small_federation(folder, job=changes, names=names(sites))
    for site in (folder / "sites").iterdir():
        with (site / "site.toml").open("a") as file:  # More sites than a run may have helpers.
            file.write("\n[limits]\nrequire_own_helper = false\n")
    return path


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="tacit-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def wired(base: Path) -> Iterator[Place]:
    """A server for a written federation; no member runs yet."""
    roster = Roster.load(base / "federation.toml")
    folders = party_folders(base, roster)
    state = base / ".tacit-up"
    state.mkdir(mode=0o700)
    with start_network(state, roster, folders) as server, Processes(state) as processes:
        yield Place(base, roster, folders, server.process.pid, processes)


@contextlib.contextmanager
def serving(base: Path, command: Sequence[str] = COMMAND) -> Iterator[Place]:
    """All members as the processes that operators start."""
    with wired(base) as place:
        start = place.processes.start
        start(LEADER, [*command, "coordinator", str(place.folders[LEADER]), *place.files])
        place.wait('"service.ready"', [LEADER])
        sites = place.sites()
        for at in range(0, len(sites), STARTED_AT_ONCE):
            group = sites[at : at + STARTED_AT_ONCE]
            for name in group:
                start(name, [*command, "site", str(place.folders[name]), *place.files])
            place.wait('"service.started"', group)
        yield place


def run_empty(sites: int, rounds: int) -> list[float]:
    """Seconds of the rounds of a tiny masked run in which every message of the protocol is sent."""
    with scratch() as folder:
        job = small(folder / "f", sites, rounds=rounds)
        with serving(folder / "f") as place:
            return [float(one) for one in place.run(job)["seconds"]]


def _proc(pid: int, file: str, key: str) -> float:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / MB
    raise KeyError(key)


def rss_mb(pid: int, *, peak: bool = False) -> float:
    """Resident memory of a process in MB, now or at its highest."""
    return _proc(pid, "status", "VmHWM" if peak else "VmRSS")


def pss_mb(pid: int) -> float:
    """Its memory in MB, where what several processes share counts for each in part."""
    return _proc(pid, "smaps_rollup", "Pss")


def start_echoes(place: Place) -> None:
    """Starts members that answer messages and do nothing else."""
    for name in place.sites():
        place.processes.start(name, [*ECHO, str(place.base), str(place.folders[name]), name])
    place.wait("serving", place.sites())


def environment() -> None:
    """What every process of a measurement is told: one thread, and where ``support`` lies."""
    os.environ["OMP_NUM_THREADS"] = "1"
    known = os.environ.get("PYTHONPATH", "")
    here = str(Path(__file__).parents[1])
    if here not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, known]))
