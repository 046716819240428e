"""Faults of machines and networks: lost servers, cut cables, full disks, wrong clocks, messages that come twice."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from tacit.demo import layout
from tacit.engine.clock import wall_clock
from tacit.engine.nats.connection import connect, disconnect
from tacit.engine.nats.network import slug
from tacit.testing.cluster import TRUSTEE, Cluster, Layout, has_server
from tacit.testing.cluster_checks import check_end, check_run, read_books
from tacit.testing.federation import LEADER, SITES
from tacit.testing.namespaces import Namespace, has_namespaces
from tacit.testing.recorder import Recorder
from tacit.types import PartyName

pytestmark = [
    pytest.mark.skipif(
        not has_server(), reason="no nats-server program on this machine, or not Linux"
    ),
    pytest.mark.slow,
]

NORTH, SOUTH = PartyName("north"), PartyName("south")
END_S = 150
HOUR_MS = 3_600_000


def books(cluster: Cluster):
    return {name: read_books(cluster, name) for name in cluster.layout.names}


def ended(cluster: Cluster, run: str, what: str, since: float | None = None):
    """A run that ended as it may; tells how long it took from a time of day until it went on."""
    told = cluster.wait_ended(run, END_S)
    recovery = None if since is None else cluster.recovery(run, since)
    code = (told["failure"] or {}).get("code")
    print(f"{what}: {told['status']} {code or ''} recovery {recovery and round(recovery, 2)} s")
    check_run(cluster, run, told)
    return told


def complete(cluster: Cluster, what: str) -> None:
    """A further run completes; a machine too busy for its first phase gets two more tries."""
    for _ in range(3):
        told = ended(cluster, cluster.submit(), what, time.time())
        if told["status"] == "complete":
            return
        assert told["failure"]["code"] == "run.no-answer", told["failure"]
    raise AssertionError(cluster.last_words())


def stream_leader(cluster: Cluster) -> int:
    """Which server leads the stream."""

    async def ask() -> str:
        client = await connect(
            cluster.network,
            LEADER,
            cluster.credentials[LEADER],
            on_state=lambda *_: None,
            timeout_s=20,
        )
        try:
            stream = f"T-{slug(cluster.roster.federation)}"
            return (await client.jetstream().stream_info(stream)).cluster.leader
        finally:
            await disconnect(client)

    return int(asyncio.run(ask())[1:])


def test_a_cluster_of_servers_loses_its_leader(tmp_path):
    with Cluster(tmp_path / "c", seed=1, layout=Layout(servers=3)) as cluster:
        before = books(cluster)
        run = cluster.begin(1, END_S)
        lost = cluster.servers[stream_leader(cluster)]
        lost.kill()
        since = time.time()
        told = ended(cluster, run, "one server of three lost", since)
        assert told["status"] == "complete", (told["failure"], cluster.last_words())
        check_end(cluster, before, END_S)
        complete(cluster, "with two servers")
        lost.start()
        complete(cluster, "with three again")


def test_all_servers_start_again_over_their_store(tmp_path):
    with Cluster(tmp_path / "c", seed=2) as cluster:
        before = books(cluster)
        run = cluster.begin(2, END_S)
        cluster.servers[0].kill()
        cluster.kill(SOUTH)  # What it was sent lies in the store, and nowhere else.
        cluster.servers[0].start()
        since = cluster.start(SOUTH)
        told = ended(cluster, run, "server and a site", since)
        assert told["status"] == "complete", (told["failure"], cluster.last_words())
        check_end(cluster, before, END_S)


@pytest.mark.skipif(not has_namespaces(), reason="needs root, ip(8) and network namespaces")
def test_a_cut_cable_is_mended(tmp_path):
    with Namespace() as room:
        roomy = Layout(host=room.host, inside={NORTH: room.words})
        with Cluster(tmp_path / "c", seed=3, layout=roomy) as cluster:
            before = books(cluster)
            run = cluster.begin(2, END_S)
            room.cut()
            time.sleep(12)  # Longer than a phase may be noticed by pings, shorter than the phase.
            room.mend()
            ended(cluster, run, "cut for 12 s", time.time())
            check_end(cluster, before, END_S)
            run = cluster.begin(1, END_S)
            room.cut()
            told = ended(cluster, run, "cut for the rest of the run")
            assert told["status"] in ("partial", "failed")
            room.mend()
            check_end(cluster, before, END_S)
            complete(cluster, "after the cable was mended")


def test_a_full_disk_is_emptied(tmp_path):
    with Cluster(tmp_path / "c", seed=4) as cluster:
        before = books(cluster)
        run = cluster.begin(1, END_S)
        cluster.limit_files(SOUTH, 4096)
        cluster.wait_for(
            lambda: (
                any(event.get("code") == "store.io" for event in cluster.events(SOUTH))
                or cluster.told(run)["status"] not in ("waiting", "running")
                or cluster.processes[SOUTH].poll() is not None
            ),
            "a refused write",
            END_S,
        )
        assert cluster.processes[SOUTH].poll() is None, cluster.last_words()
        cluster.limit_files(SOUTH, None)
        ended(cluster, run, "full disk", time.time())
        check_end(cluster, before, END_S)
        complete(cluster, "after the disk was emptied")


def test_clocks_that_are_an_hour_apart(tmp_path, monkeypatch):
    # A site refuses a policy that was approved in its future, so the approvals are older here.
    monkeypatch.setattr(layout, "wall_clock", lambda: wall_clock() - 2 * HOUR_MS)
    apart = Layout(
        skew={NORTH: HOUR_MS, SOUTH: -HOUR_MS}, job={"aggregation": {"phase_seconds": 60}}
    )
    with Cluster(tmp_path / "c", seed=5, layout=apart) as cluster:
        before = books(cluster)
        complete(cluster, "an hour ahead and behind")
        check_end(cluster, before, END_S)


def test_messages_twice_late_and_in_another_order(tmp_path):
    random = Random(6)
    seen = Layout(observer=True, job={"rounds": 8})
    with Cluster(tmp_path / "c", seed=6, layout=seen) as cluster, Recorder(cluster) as recorder:
        before = books(cluster)
        run = cluster.submit()
        for number in range(1, 8):
            cluster.wait_round(run, number, END_S)
            frames = list(recorder.frames)
            recorder.again(frames[-12:])
            recorder.again(random.sample(frames, min(24, len(frames))))
        told = ended(cluster, run, "frames again", time.time())
        assert told["status"] == "complete", (told["failure"], cluster.last_words())
        after = check_end(cluster, before, END_S)
        frames = list(recorder.frames)
        assert len(frames) > 50
        random.shuffle(frames)
        recorder.again(frames)  # All of it, after the end.
        complete(cluster, "after all was published again")
        for name, found in check_end(cluster, after, END_S).items():
            assert found.charges[run] == after[name].charges[run]


@pytest.mark.parametrize("helps", [False, True])
def test_a_site_that_never_answers(tmp_path, helps):
    """Without its masks the run completes; where it must help the run ends, and the next one completes."""
    names = SITES if helps else [name for name in SITES if name != NORTH]
    four = Layout(names=SITES, job={"aggregation": {"helpers": [*names, TRUSTEE]}})
    made = Cluster(tmp_path / "c", seed=7, layout=four)
    with (made.folders[NORTH] / "site.toml").open("a") as file:
        file.write("\n[limits]\nrequire_own_helper = false\n")
    with made as cluster:
        before = books(cluster)
        run = cluster.begin(2, END_S)
        cluster.halt(NORTH)
        told = ended(cluster, run, "halted", time.time())
        assert told["status"] in (("partial", "failed") if helps else ("complete",)), told
        cluster.go_on(NORTH)
        check_end(cluster, before, END_S)
        complete(cluster, "after it went on")
