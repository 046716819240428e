"""The control socket: commands, errors over the wire, whose it is, long paths, stale sockets."""

from __future__ import annotations

import io
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.engine.folder import World, party_ports
from tacit.errors import ConfigError, TransportError
from tacit.federation import leader_of
from tacit.service.config import LimitsTable
from tacit.service.control import SOCKET, Control, ControlServer
from tacit.service.logs import ServiceLog
from tacit.service.runs import Place, Runs
from tacit.service.watch import follow, log_line, show_state, show_states, wait
from tacit.testing.carrier import LocalCarrier
from tacit.testing.clock import FixedClock
from tacit.testing.federation import seeded_world, write_small_federation
from tacit.trust.roster import Roster


class Served:
    """A coordinator whose control socket is served; messages move when the test says so."""

    def __init__(self, base: Path) -> None:
        write_small_federation(base)
        self.job, self.folder, clock = base / "job.toml", base / "coordinator", FixedClock()
        world = seeded_world(0)
        roster = Roster.load(base / "federation.toml")
        chosen = World(world.entropy, world.sealing, clock=clock)
        ports = party_ports(self.folder, leader_of(roster), roster, chosen)
        self.carrier = LocalCarrier(base, seeded_world("sites"), clock, base)
        place = Place(self.folder, base / "federation.toml", roster, ports, chosen)
        log = ServiceLog("coordinator", "debug", io.StringIO(), clock)
        self.runs = Runs(place, self.carrier, LimitsTable(runs=1), log)
        self.runs.open()
        self.server = ControlServer(self.runs, self.folder / SOCKET)
        self.server.start()
        self.control = Control(self.folder)

    def finish(self, _: float = 0) -> None:
        self.runs.settle()
        self.carrier.pump()
        self.runs.settle()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "f")
    yield made
    made.server.stop()


def test_a_run_is_submitted_followed_and_shown(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.job.parent)
    told = served.control.submit(Path("job.toml"), ["east", "north", "south"])
    assert (told["status"], told["clients"]) == ("waiting", ["east", "north", "south"])
    ended = wait(served.control, told["run"][:12], sleep=served.finish)
    assert ended["status"] == "complete"
    assert served.control.runs() == [ended]
    events = list(follow(served.control, told["run"], forever=True))
    assert [events[0]["event"], events[-1]["event"]] == ["run.submitted", "run.ended"]
    assert "round.over" in log_line(events[-2]) + "".join(map(log_line, events))
    show_states([ended])
    show_state(ended)
    assert told["run"][:12] in capsys.readouterr().out


def test_errors_arrive_as_they_were_raised(served: Served) -> None:
    with pytest.raises(ConfigError) as caught:
        served.control.submit(served.job.parent / "nowhere.toml")
    assert caught.value.code == "submit.missing"
    assert caught.value.remedy
    assert str(caught.value.details["file"]).endswith("nowhere.toml")
    for ask in (served.control.run, served.control.cancel):
        with pytest.raises(ConfigError) as caught:
            ask("../../etc")
        assert caught.value.code == "run.name"


def test_a_waiting_run_is_cancelled(served: Served) -> None:
    told = served.control.submit(served.job)
    ended = served.control.cancel(told["run"])
    assert ended["status"] == "failed"
    assert ended["failure"]["code"] == "run.interrupted"
    with pytest.raises(ConfigError) as caught:
        served.control.cancel(told["run"])
    assert caught.value.code == "run.over"


def raw(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(10)
        made.connect(str(path))
        made.sendall(data)
        made.shutdown(socket.SHUT_WR)
        return made.makefile("rb").read()


@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("POST /runs", b"{}", 422),
        ("POST /runs", b"[" * 100_000, 422),
        ("POST /runs", b'{"job": 1}', 422),
        ("POST /runs", b'{"job": "x", "clients": [1]}', 422),
        ("GET /nothing", b"", 404),
        ("POST /runs/abcd", b"", 404),
        ("DELETE /runs", b"", 501),
    ],
)
def test_bad_requests_are_refused(
    served: Served, request_line: str, body: bytes, status: int
) -> None:
    head = f"{request_line} HTTP/1.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    answer = raw(served.folder / SOCKET, head.encode() + body)
    assert answer.split()[1] == str(status).encode()
    assert served.control.runs() == []


def test_the_socket_is_its_owners(served: Served) -> None:
    mode = (served.folder / SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_file_is_not(served: Served, tmp_path: Path) -> None:
    stale = tmp_path / SOCKET
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    server = ControlServer(served.runs, stale)
    server.start()
    assert Control(tmp_path).runs() == []
    server.stop()
    assert not stale.exists()
    stale.write_text("precious")
    with pytest.raises(ConfigError) as caught:
        ControlServer(served.runs, stale)
    assert caught.value.code == "control.taken"
    assert stale.read_text() == "precious"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc on this system")  # noqa: PTH112
def test_a_long_path_is_served_too(served: Served, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    server = ControlServer(served.runs, deep / SOCKET)
    server.start()
    assert Control(deep).runs() == []
    server.stop()
    assert list(deep.iterdir()) == []


def test_without_a_coordinator_the_remedy_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(TransportError) as caught:
        Control(tmp_path).runs()
    assert caught.value.code == "control.unreachable"
    assert "tacit coordinator" in caught.value.remedy
