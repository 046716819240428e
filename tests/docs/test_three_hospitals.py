"""The page "three hospitals, three machines" to the letter: four machines, a network, TLS, a verified run.

A machine is a network namespace with a cable to the office where this process may make one (root on
Linux), and an address of the loopback interface elsewhere. Commands that end in ``&`` go on as processes
of their machine until the page ends.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from tacit.testing.nats import server_binary

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "three-hospitals-three-machines.md"
HOST, PORT = "nats.example.org", 4222
HOSPITALS = ("north", "south", "east")
HEALTH = "127.0.0.1:7979"
DEADLINE_S = 60.0
JOINING_S = 60.0
"""Of a hospital's own commands together; its operator has five minutes, with the telephone call."""
JOINING = re.compile(r"tacit (federation (join|roster sign|install)|site) ")
LISTENS = "0A"
READY = {"nats-server": "Server is ready", "coordinator": "is ready", "site": " serves "}


def _pages() -> ModuleType:
    path = Path(__file__).with_name("test_docs_run.py")
    spec = importlib.util.spec_from_file_location("docs_run", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


docs_run = _pages()


@dataclass(frozen=True)
class Machine:
    """How a command is run on a machine, and what its page's text says there."""

    prefix: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)

    def text(self, line: str) -> str:
        for said, meant in self.words.items():
            line = line.replace(said, meant)
        return line


def namespaces(stack: ExitStack, folder: Path) -> dict[str, Machine] | None:
    """Machines whose only cable leads to the office; None where this process may make none."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return None
    names = {name: f"tacit-{os.getpid()}-{name}" for name in ("office", *HOSPITALS)}
    made: dict[str, Machine] = {}
    for space in names.values():
        if _ip("netns", "add", space) != 0:
            return None
        stack.callback(_ip, "netns", "delete", space)
        _ip("-n", space, "link", "set", "lo", "up")
    for number, name in enumerate(HOSPITALS, 1):
        near, far = f"to-{name}", names[name]
        ends = ("type", "veth", "peer", "name", "eth0", "netns", far)
        if _ip("-n", names["office"], "link", "add", near, *ends) != 0:
            return None
        for space, link, last in ((names["office"], near, 1), (far, "eth0", 2)):
            _ip("-n", space, "address", "add", f"10.77.{number}.{last}/24", "dev", link)
            _ip("-n", space, "link", "set", link, "up")
    for number, name in enumerate(("office", *HOSPITALS)):
        hosts = folder / f"{name}.hosts"
        address = f"10.77.{number}.1" if number else "127.0.0.1"
        hosts.write_text(f"127.0.0.1 localhost\n{address} {HOST}\n")
        enter = f'mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec "$@"'
        made[name] = Machine(("ip", "netns", "exec", names[name], "sh", "-c", enter, "sh"))
    probe = [*made["north"].prefix, "grep", "-q", HOST, "/etc/hosts"]
    return made if subprocess.run(probe, check=False, capture_output=True).returncode == 0 else None


def _ip(*arguments: str) -> int:
    return subprocess.run(["ip", *arguments], check=False, capture_output=True).returncode


def addresses() -> dict[str, Machine]:
    """Machines that are addresses of this one; the office's server has a port of its own."""
    with ExitStack() as held:
        ports = []
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
            free = held.enter_context(socket.socket())
            free.bind((address, 0))
            ports.append(f"{address}:{free.getsockname()[1]}")
    port = ports[0].rpartition(":")[2]
    made = {"office": Machine(words={f"--host {HOST}": f"--host 127.0.0.1 --port {port}"})}
    for name, at in zip(HOSPITALS, ports[1:], strict=True):
        made[name] = Machine(words={HEALTH: at})
    return made


@dataclass
class Operators(docs_run.Reader):  # type: ignore[name-defined, misc]
    """Those who follow the page, each on their own machine.

    Args:
        machines: The machines by name; a machine's folder has the same name.
    """

    machines: Mapping[str, Machine] = field(default_factory=dict)
    serving: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)
    starting: list[Callable[[], None]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def _bash(self, text: str, expected: int) -> None:
        super()._bash(text, expected)
        self.printed += self._capture(self._look)

    def _look(self) -> None:
        """Looks at what was started, until it says that it serves."""
        waits, self.starting = self.starting, []
        for wait in waits:
            wait()

    def _line(self, line: str) -> int:
        here = Path.cwd().name
        machine = self.machines.get(here, Machine())
        line = machine.text(line)
        began = time.monotonic()
        if line.endswith("&"):
            code = self._start(line.removesuffix("&"), here, machine)
        elif line.startswith(("tacit ", "cd ")) and "|" not in line:
            code = super()._line(line)
        else:
            if line.startswith("curl "):
                self._look()  # an operator asks once the processes have said that they serve
            words = [*machine.prefix, "bash", "-c", line]
            done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
            print(done.stdout + done.stderr)
            code = done.returncode
        if JOINING.match(line):
            self.seconds[here] = self.seconds.get(here, 0.0) + time.monotonic() - began
        return code

    def _start(self, line: str, here: str, machine: Machine) -> int:
        """Starts a process of a machine."""
        said = Path(f"said-{len(self.serving.get(here, []))}").absolute()
        words = [*machine.prefix, "bash", "-c", f"exec {line}"]
        with said.open("wb") as sink:
            process = subprocess.Popen(words, stdout=sink, stderr=subprocess.STDOUT)
        self.serving.setdefault(here, []).append(process)
        told = re.search(r"2> (\S+)", line)
        files = [said, *([Path(told[1]).absolute()] if told else [])]
        wanted = READY["nats-server" if line.startswith("nats") else line.split()[1]]

        def wait() -> None:
            until(
                lambda: any(wanted in _read(file) for file in files) or process.poll() is not None
            )
            assert process.poll() is None, "\n".join(map(_read, files))
            print(_read(said))

        self.starting.append(wait)
        return 0

    def stop(self) -> None:
        """Ends what goes on, everything at once."""
        started = [process for processes in self.serving.values() for process in processes]
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _read(file: Path) -> str:
    return file.read_text("utf-8", errors="replace") if file.exists() else ""


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def listening(process: int) -> Iterator[str]:
    """Addresses that a process listens on, as /proc has them in hexadecimal: little-endian words."""
    sockets = set()
    for handle in Path(f"/proc/{process}/fd").iterdir():
        if (target := str(handle.readlink())).startswith("socket:["):
            sockets.add(target[8:-1])
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == LISTENS and fields[9] in sockets:
                yield fields[1].partition(":")[0]


def is_loopback(address: str) -> bool:
    return address.endswith("7F") and len(address) == 8


def private_parts(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every private key of a machine's folder: all bytes, or of a text the longest word."""
    found = [*folder.rglob("keys/**/*"), *folder.rglob("nats/*.key")]
    for path in sorted(path for path in found if path.is_file()):
        data = path.read_bytes()
        yield path, max(data.split(), key=len) if data.isascii() else data


def holders(secret: bytes, base: Path) -> set[str]:
    """Machines with a file that holds some bytes."""
    return {
        machine
        for machine in ("office", *HOSPITALS)
        for path in (base / machine).rglob("*")
        if path.is_file() and secret in path.read_bytes()
    }


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operators]:
    """Everything on the page was done; what it started still serves."""
    if server_binary() is None or shutil.which("curl") is None or sys.platform != "linux":
        pytest.skip("nats-server or curl is not installed, or this is not Linux")
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with ExitStack() as stack:
        inner = stack.enter_context(ExitStack())
        machines = namespaces(inner, tmp_path)
        if machines is None:
            inner.close()
            machines = addresses()
        reader = Operators(docs_run.run_tacit, machines=machines)
        stack.callback(reader.stop)
        for block in docs_run.blocks(PAGE.read_text("utf-8")):
            try:
                reader.follow(block)
            except Exception as error:
                raise AssertionError(f"line {block.line}: {error}") from error
        yield reader


def test_three_hospitals_get_through(followed: Operators, tmp_path: Path) -> None:
    """From nothing to a verified run; no port but of loopback, no key on another machine, in minutes."""
    assert set(followed.serving) == {"office", *HOSPITALS}
    for name in HOSPITALS:
        (site,) = followed.serving[name]
        ports = list(listening(site.pid))
        assert ports and all(map(is_loopback, ports)), (name, ports)
        assert 0 < followed.seconds[name] < JOINING_S, followed.seconds
    _, coordinator = followed.serving["office"]
    assert not list(listening(coordinator.pid))  # its commands come through a Unix socket
    assert not all(map(is_loopback, listening(followed.serving["office"][0].pid)))

    kept = {name: list(private_parts(tmp_path / name)) for name in ("office", *HOSPITALS)}
    assert {name: len(found) for name, found in kept.items()} == {
        "office": 5,  # identity, connection, sealing; those of authority and server
        **dict.fromkeys(HOSPITALS, 5),  # the same three; an approver's, and that of tokens
    }
    for name, found in kept.items():
        for path, secret in found:
            assert len(secret) >= 32, path
            assert holders(secret, tmp_path) == {name}, path
