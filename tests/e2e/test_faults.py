"""Faults against real processes: whatever is killed, a run ends, budgets count once, and the next run completes."""

from __future__ import annotations

import os
import secrets
import time
from random import Random

import pytest

from tacit.testing.cluster import TRUSTEE, Cluster, has_server
from tacit.testing.cluster_checks import check_end, check_run, read_books
from tacit.testing.federation import LEADER
from tacit.types import PartyName

pytestmark = pytest.mark.skipif(
    not has_server(), reason="no nats-server program on this machine, or not Linux"
)

NORTH, SOUTH = PartyName("north"), PartyName("south")
SERVER = PartyName("nats-server")
VICTIMS = (LEADER, SOUTH, TRUSTEE, SERVER)
END_S = 150
SEED = "TACIT_FAULTS_SEED"
"""Environment variable that repeats a failed test's random points."""


def seed() -> int:
    chosen = int(os.environ.get(SEED) or secrets.randbits(32))
    print(f"{SEED}={chosen}")
    return chosen


def fresh_run(cluster: Cluster) -> None:
    """Nothing is stuck: a further run completes; a machine too busy for its first phase gets two more tries."""
    for _ in range(3):
        run = cluster.submit()
        told = cluster.wait_ended(run, END_S)
        check_run(cluster, run, told)
        if told["status"] == "complete":
            return
        assert told["failure"]["code"] == "run.no-answer", told["failure"]
    raise AssertionError(cluster.last_words())


def strike(cluster: Cluster, victim: PartyName, random: Random) -> float:
    """Kills somebody and starts it again, perhaps after a while; returns when, as time of day."""
    down = random.choice((0.0, 0.0, random.uniform(0, 3)))
    if victim == SERVER:
        cluster.servers[0].kill()
        time.sleep(down)
        cluster.servers[0].start()
        return time.time()
    cluster.kill(victim)
    time.sleep(down)
    return cluster.start(victim)


def kill_and_go_on(cluster: Cluster, victim: PartyName, random: Random, record) -> None:
    """One run in which somebody is killed at a random point."""
    before = {name: read_books(cluster, name) for name in cluster.layout.names}
    run = cluster.submit()
    cluster.wait_round(run, random.randrange(4), END_S)
    time.sleep(random.uniform(0, 0.8))  # The point is random: nothing is waited for.
    since = strike(cluster, victim, random)
    told = cluster.wait_ended(run, END_S)
    recovery = cluster.recovery(run, since)
    code = (told["failure"] or {}).get("code")
    record(f"{victim}: {told['status']} {code or ''} recovery {recovery and round(recovery, 2)} s")
    if victim != SERVER:
        cluster.wait_ready(victim)
    check_run(cluster, run, told)
    check_end(cluster, before, END_S)


def kills(folder, count: int, random: Random, every: int) -> None:
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(count)]
    random.shuffle(victims)
    with Cluster(folder / "c", seed=random.randrange(2**32)) as cluster:
        for number, victim in enumerate(victims, 1):
            kill_and_go_on(cluster, victim, random, print)
            if number % every == 0 or number == count:
                fresh_run(cluster)


def test_whoever_is_killed_the_run_ends_and_counts_once(tmp_path):
    kills(tmp_path, 5, Random(seed()), every=5)


@pytest.mark.slow
def test_fifty_kills_at_random_points(tmp_path):
    kills(tmp_path, 50, Random(seed()), every=10)
