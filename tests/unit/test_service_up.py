"""``tacit up``: keys, server and processes; every one of them ends with it."""

import asyncio
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from tacit.engine.nats.network import Credentials, Network
from tacit.engine.nats.server import find_server
from tacit.errors import ConfigError, TransportError
from tacit.service import up as up_module
from tacit.service.up import Processes, party_folders, start_network, up
from tacit.testing.federation import SITES, write_small_federation
from tacit.trust.roster import Roster

nats = pytest.importorskip("nats")


def _has_server():
    try:
        find_server()
    except ConfigError:
        return False
    return True


needs_server = pytest.mark.skipif(
    not _has_server(), reason="no nats-server program on this machine"
)
needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs prctl(2) and pidfd_open(2)"
)

PARTY = """
import os, socket, sys, time
role, folder = sys.argv[1], sys.argv[2]
assert sys.argv[3::2] == ["--federation", "--network"] and all(map(os.path.isfile, sys.argv[4::2]))
if role == "site" and os.path.basename(folder) == os.environ.get("FAILING"):
    sys.exit("the policy lock does not fit")
if role == "coordinator":
    os.chdir(folder)
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists("control.sock"):
        os.unlink("control.sock")
    listener.bind("control.sock")
    listener.listen()
print("up", role, os.getpid(), flush=True)
time.sleep(600)
"""
"""A party that takes the arguments of one, and does nothing."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_small_federation(tmp_path_factory.mktemp("up") / "federation")


@pytest.fixture
def party(tmp_path):
    (tmp_path / "party.py").write_text(PARTY)
    return (str(tmp_path / "party.py"),)


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """What stands in for the command that submits a job: a few lines of Python."""

    def become(code):
        (tmp_path / "submit.py").write_text(code)
        monkeypatch.setattr(up_module, "COMMAND", (str(tmp_path / "submit.py"),))

    return become


def gone(pid):
    """Whether a process ends within ten seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 10)[0])
    finally:
        os.close(handle)


def pids(folder):
    return {
        path.stem: int(path.read_text().split()[2])
        for path in folder.glob("*.log")
        if path.read_text().startswith("up ")
    }


def test_every_member_is_found_by_its_key(written):
    roster = Roster.load(written.parent / "federation.toml")
    folders = party_folders(written.parent, roster)
    assert list(folders) == ["coordinator", *sorted(SITES)]
    assert folders["east"] == written.parent / "sites" / "east"


def test_a_member_elsewhere_is_told(written, tmp_path):
    roster = Roster.load(written.parent / "federation.toml")
    with pytest.raises(ConfigError) as refused:
        party_folders(tmp_path, roster)
    assert refused.value.code == "up.folder"


@needs_server
def test_the_network_is_made_and_every_member_connects(written, tmp_path):
    roster = Roster.load(written.parent / "federation.toml")
    folders = party_folders(written.parent, roster)
    mine = written.parent / "network.toml"
    mine.write_text("the operator's own")

    async def connect(url, seed):
        client = await nats.connect(url, nkeys_seed_str=seed.decode(), allow_reconnect=False)
        await client.close()

    with start_network(tmp_path, roster, folders) as server:
        network = Network.load(tmp_path / "network.toml", roster)
        assert network.servers == (server.url,)
        for folder in folders.values():
            asyncio.run(connect(server.url, Credentials.load(folder).nkey_seed))
    assert server.process.poll() is not None
    assert mine.read_text() == "the operator's own"


@needs_server
@needs_linux
@pytest.mark.parametrize("code", [0, 3])
def test_the_job_decides_the_exit_code(written, party, submit, code, capsys):
    submit(f"import sys; assert sys.argv[1] == 'submit' and '--wait' in sys.argv; sys.exit({code})")
    assert up(written, party_command=party) == code
    state = written.parent / ".tacit-up"
    told = f"a NATS server, the coordinator and {len(pids(state)) - 1} members; logs in {state}"
    assert told in capsys.readouterr().err
    started = pids(written.parent / ".tacit-up")
    assert "coordinator" in started
    assert all(gone(pid) for pid in started.values())


@needs_server
@needs_linux
def test_a_party_that_ends_ends_all(written, party, submit, monkeypatch):
    monkeypatch.setenv("FAILING", "south")
    submit("import time; time.sleep(600)")
    with pytest.raises(TransportError, match="the policy lock does not fit") as failed:
        up(written, party_command=party)
    assert failed.value.details["party"] == "south"
    assert all(gone(pid) for pid in pids(written.parent / ".tacit-up").values())


@needs_linux
def test_no_process_outlives_its_block(tmp_path):
    (tmp_path / "deaf.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(600)\n"
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(up_module, "STOP_SECONDS", 0.2)
        with Processes(tmp_path) as processes:
            deaf = processes.start("deaf", [str(tmp_path / "deaf.py")])
            processes.wait_for(lambda: b"deaf" in deaf.log.read_bytes(), "the deaf one")
            raise KeyError
    assert deaf.process.returncode == -signal.SIGKILL


@needs_linux
def test_no_process_outlives_a_killed_parent(tmp_path):
    code = (
        "import sys, time, pathlib; from tacit.service.up import Processes\n"
        "made = Processes(pathlib.Path(sys.argv[1])).start('x', ['-c', 'import time; time.sleep(600)'])\n"
        "print(made.process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    assert gone(child)


@needs_server
@needs_linux
def test_a_request_to_end_stops_everything(written, party, submit, tmp_path):
    submit("import time; time.sleep(600)")
    code = (
        "import sys, pathlib; from tacit.service import up\n"
        "up.COMMAND = (sys.argv[2],)\nup.up(pathlib.Path(sys.argv[1]), party_command=(sys.argv[3],))"
    )
    state = written.parent / ".tacit-up"
    for old in state.glob("*.log"):
        old.unlink()
    command = [sys.executable, "-c", code, str(written), str(tmp_path / "submit.py"), *party]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        Processes(tmp_path).wait_for(lambda: len(pids(state)) == 5, "every party")
        process.terminate()
        process.wait(20)
    assert process.returncode != 0
    assert all(gone(pid) for pid in pids(state).values())


def test_only_one_at_a_time(written):
    state = written.parent / ".tacit-up"
    state.mkdir(exist_ok=True)
    with (state / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as refused:
            up(written)
    assert refused.value.code == "up.taken"


@needs_server
def test_a_coordinator_that_serves_already_is_left_alone(written, monkeypatch):
    folder = written.parent / "coordinator"
    monkeypatch.chdir(folder)
    (folder / "control.sock").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("control.sock")
        listener.listen()
        with pytest.raises(ConfigError) as refused:
            up(written)
    assert refused.value.code == "up.taken"
    (folder / "control.sock").unlink()


def test_a_missing_job_is_told(tmp_path):
    with pytest.raises(ConfigError) as refused:
        up(tmp_path / "job.toml")
    assert refused.value.code == "job.missing"
