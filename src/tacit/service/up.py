"""``tacit up``: the whole federation of a job on this machine, as real processes over a real server.

It is what an operator tries before there are several machines: one NATS server, one coordinator, one
process per site and per helper, each with its own folder and keys. What only this needs lies in
``.tacit-up`` beside the job, so that a federation's own ``network.toml`` and server stay as they are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tacit.engine.nats.network import (
    NETWORK_FILE,
    Credentials,
    Network,
    sign_peer,
    write_network,
)
from tacit.engine.nats.server import (
    Account,
    NatsServer,
    ServerOptions,
    die_with_parent,
    server_config,
    start_server,
)
from tacit.errors import ConfigError, TransportError
from tacit.files import hold
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.types import PartyName

__all__ = ["COMMAND", "FOLDER", "Processes", "party_folders", "start_network", "up"]

COMMAND = ("-m", "tacit.cli")
"""How this Python is told to run the ``tacit`` command."""
FOLDER = ".tacit-up"
CONTROL = "control.sock"
IDENTITY = Path("keys") / "identity.key"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
LAST_WORDS = 300
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Started:
    """A party's process and the file that it writes its log to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(slots=True)
class Processes:
    """Processes that end with this one, whatever happens; stopped in the reverse order of their start.

    Args:
        logs: Folder of their logs, one file a process.

    Guarantee: none of them outlives the block, an exception in it, or (on Linux) this process's death.
    Checked by ``tests/unit/test_service_up.py::test_no_process_outlives_its_block`` and
    ``::test_no_process_outlives_a_killed_parent``.
    """

    logs: Path
    started: list[Started] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str]) -> Started:
        """Starts a process whose output goes to ``NAME.log``."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 - this Python, with arguments of ours
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                # Ctrl-C is for this process alone, which then stops the others in order.
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - prctl only, no lock is taken
            )
        made = Started(name, process, log)
        self.started.append(made)
        return made

    def check(self) -> None:
        """Tells of a process that has ended.

        Raises:
            TransportError: One has; names it and quotes its last words.
        """
        for one in self.started:
            code = one.process.poll()
            if code is not None:
                said = " ".join(one.log.read_text("utf-8", errors="replace").split())
                raise TransportError(
                    "up.ended",
                    f"the process of {one.name} has ended with {code}: "
                    f"{said[-LAST_WORDS:] or 'it said nothing'}",
                    remedy=f"see {one.log}",
                    file=str(one.log),
                    party=one.name,
                )

    def wait_for(self, ready: Callable[[], bool], what: str) -> None:
        """Waits until ``ready``, and meanwhile for none to end.

        Raises:
            TransportError: One ended, or it took too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise TransportError(
                    "up.start",
                    f"{what} was not ready after {START_SECONDS:.0f} seconds",
                    remedy=f"see the logs in {self.logs}",
                    file=str(self.logs),
                )
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Asks each to end, last one first, and ends those that do not; harmless when repeated."""
        for one in reversed(self.started):
            if one.process.poll() is None:
                one.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for one in reversed(self.started):
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def up(
    job: Path,
    *,
    keep: bool = False,
    as_json: bool = False,
    party_command: Sequence[str] = COMMAND,
) -> int:
    """Runs a job with all parties as processes of this machine; returns the exit code of the run.

    Args:
        job: The job file; its folder holds ``federation.toml``, ``coordinator`` and ``sites``.
        keep: Whether everything goes on running after the job, until it is interrupted.
        as_json: Whether the result is one JSON object.
        party_command: How this Python is told to run a party: ``coordinator|site|helper DIR`` follows.

    Raises:
        ConfigError: A file is missing or wrong, or there is no NATS server.
        TransportError: A process did not start, or ended before its time.
    """
    if not job.is_file():
        raise ConfigError(
            "job.missing",
            f"there is no job file {str(job)!r} here",
            remedy="change to the folder of a federation, name the job file, or run 'tacit init'",
            file=str(job),
        )
    base = job.absolute().parent
    roster = Roster.load(base / "federation.toml")
    folders = party_folders(base, roster)
    state = base / FOLDER
    state.mkdir(mode=0o700, exist_ok=True)
    if not as_json:
        others = len(folders) - 1
        sys.stderr.write(
            f"starting a NATS server, the coordinator and {others} members; logs in {state}\n"
        )
    with (
        _signals(),
        _alone(state),
        start_network(state, roster, folders),
        Processes(state) as processes,
    ):
        files = (
            *("--federation", str(base / "federation.toml")),
            *("--network", str(state / NETWORK_FILE)),
        )
        leader = roster.with_role("leader")[0].name
        if _accepts(folders[leader]):
            raise _taken(f"a coordinator serves {folders[leader]}", folders[leader])
        processes.start(leader, [*party_command, "coordinator", str(folders[leader]), *files])
        processes.wait_for(lambda: _accepts(folders[leader]), "the coordinator")
        for name, folder in folders.items():
            if name != leader:
                role = "site" if "client" in roster.member(name).roles else "helper"
                processes.start(name, [*party_command, role, str(folder), *files])
        code = _submit(processes, job, folders[leader], as_json=as_json)
        if keep:
            _stay(processes, state)
        return code


def party_folders(base: Path, roster: Roster) -> Mapping[PartyName, Path]:
    """The folder of every member, by its identity key; the leader first.

    Raises:
        ConfigError: A member has no folder on this machine.
    """
    places = [base / "coordinator", *sorted((base / "sites").glob("*")), *sorted(base.glob("*"))]
    keys = {
        Identity.load(place / IDENTITY).public_key: place
        for place in reversed(places)
        if (place / IDENTITY).is_file()
    }
    found: dict[PartyName, Path] = {}
    for member in sorted(roster.members, key=lambda member: "leader" not in member.roles):
        folder = keys.get(member.key)
        if folder is None:
            raise ConfigError(
                "up.folder",
                f"no folder below {base} holds the identity key of '{member.name}'",
                remedy="'tacit up' is for federations that are on this machine as a whole; elsewhere "
                "every member starts its own process",
                party=member.name,
            )
        found[member.name] = folder
    return found


@contextlib.contextmanager
def start_network(
    state: Path, roster: Roster, folders: Mapping[PartyName, Path]
) -> Iterator[NatsServer]:
    """A server for this machine alone, with a ``network.toml`` for the time that it runs.

    Connection keys that are missing in the members' folders are made there.

    Args:
        state: Folder for configuration, log and network file.
        roster: The federation.
        folders: The folder of every member.
    """
    peers, signatures = {}, {}
    for name, folder in folders.items():
        peers[name] = Credentials.generate(folder).peer
        signer = Identity.load(folder / IDENTITY)
        signatures[name] = sign_peer(signer, roster.federation, name, peers[name])
    shutil.rmtree(state / "store", ignore_errors=True)
    draft = Network(roster.federation, (), "", peers)
    options = ServerOptions(state / "store", host="127.0.0.1", port=-1)
    config = state / "nats-server.conf"
    config.write_text(server_config([Account.of(roster, draft)], options), "utf-8")
    with start_server(config) as server:
        network = Network(roster.federation, (server.url,), "", peers)
        write_network(state / NETWORK_FILE, network, signatures)
        yield server


def _submit(processes: Processes, job: Path, leader: Path, *, as_json: bool) -> int:
    """Submits the job as an operator would, and shows what that shows."""
    command = [sys.executable, *COMMAND, "submit", str(job), "--coordinator", str(leader), "--wait"]
    with subprocess.Popen(  # noqa: S603 - this Python, with arguments of ours
        [*command, *(["--json"] if as_json else [])],
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - prctl only, no lock is taken
    ) as submitted:
        try:
            while submitted.poll() is None:
                processes.check()
                time.sleep(POLL_SECONDS)
        except BaseException:
            submitted.terminate()
            raise
        return submitted.returncode


def _stay(processes: Processes, state: Path) -> None:
    """Keeps everything running until it is interrupted."""
    print(f"everything keeps running; logs in {state}; Ctrl-C ends it", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            processes.check()
            time.sleep(1)


def _accepts(folder: Path) -> bool:
    """Whether the coordinator answers at its control socket.

    It is reached through a descriptor of the folder, because a path to a socket may have 107 bytes.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        near = Path(f"/proc/self/fd/{handle}")
        path = (near if near.exists() else folder) / CONTROL
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Holds the folder, so that a second ``tacit up`` does not take the server's store away."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold(state / "lock"))
        except BlockingIOError as error:
            raise _taken(f"another 'tacit up' runs in {state.parent}", state) from error
        except OSError as error:
            raise TransportError(
                "up.lock",
                f"cannot hold {state / 'lock'}: {error.strerror}",
                remedy="check the folder's permissions, and that its file system knows locks",
                file=str(state),
            ) from error
        yield


def _taken(message: str, file: Path) -> ConfigError:
    return ConfigError("up.taken", message, remedy="wait for it, or stop it", file=str(file))


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turns requests to end into ``KeyboardInterrupt``, so that everything is stopped in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
