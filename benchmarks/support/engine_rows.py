"""The engine's rows: tasks, bulk, memory, a long job, many sites."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from support import engine_raw
from support.engine_echo import leading, payload
from support.engine_place import (
    Place,
    names,
    pss_mb,
    rss_mb,
    run_empty,
    scratch,
    serving,
    small,
    start_echoes,
    wired,
)
from support.machine import Row, row, say
from tacit.demo.hospitals import split, write_federation
from tacit.party.job import JobSpec
from tacit.session import Session
from tacit.testing.federation import LEADER
from tacit.wire.messages import KeyRequest, MaskSum

ZERO = bytes(32)
FLOWER_TASK = {4: "9.4 s", 10: "23.2 s"}
FLOWER_DOWN, FLOWER_UP = "30 MB/s", "20 MB/s"


def tasks(counts: tuple[int, ...], repeats: int, rounds: int) -> Iterator[Row]:
    """An empty task and its reply, the server's own request and reply, and an empty round."""
    for count in counts:
        with scratch() as folder:
            small(folder / "f", count)
            with wired(folder / "f") as place:
                ours, raw = asyncio.run(_tasks(place, repeats))
        flower = FLOWER_TASK.get(count)
        beside = f"; Flower 1.41 needed {flower} on such a machine" if flower else ""
        yield row(
            f"empty signed task and reply, {count} sites",
            1e3 * statistics.median(ours),
            "ms",
            f"median of {repeats}: {count} site processes, signed and sealed both ways, until the last "
            f"answer is checked; a bare request to the server took {raw:.2f} ms{beside}",
            "<= 20",
        )
        taken = run_empty(count, rounds + 1)
        yield row(
            f"empty masked round, {count} sites",
            1e3 * statistics.median(taken),
            "ms",
            f"median of {len(taken)} rounds of 'tacit coordinator' and {count} 'tacit site': every "
            "message of the protocol, durable state, training children, evaluation; tiny model",
        )


async def _tasks(place: Place, repeats: int) -> tuple[list[float], float]:
    async with leading(place.base, place.folders[LEADER]) as (host, leader):
        start_echoes(place)
        sites = place.sites()
        for _ in range(5):
            await leader.ask(host, sites, KeyRequest("empty"))
        ours = [await leader.ask(host, sites, KeyRequest("empty")) for _ in range(repeats)]
        client = await engine_raw.client_of(place, LEADER)
        raw = await engine_raw.stream_request_ms(client, repeats)
        await client.close()
    return ours, raw


def bulk(megabytes: int, repeats: int) -> Iterator[Row]:
    """A large vector to four sites, and one from each of them."""
    with scratch() as folder:
        small(folder / "f", 4)
        with wired(folder / "f") as place:
            down, up, raw, memory = asyncio.run(_bulk(place, megabytes, repeats))
    total = 4 * megabytes
    bare = statistics.median(raw)
    for way, taken, flower in (("down", down, FLOWER_DOWN), ("up", up, FLOWER_UP)):
        yield row(
            f"{megabytes} MB {way}, 4 sites together",
            total / statistics.median(taken),
            "MB/s",
            f"median of {repeats}: signed, sealed, durable at the receiver, every digest checked; "
            f"the same bytes bare through JetStream, sent and fetched in one process, {bare:.0f} MB/s "
            f"in the same run; Flower 1.41 {flower}",
            ">= 250",
        )
    for who, value in memory.items():
        yield row(
            f"peak memory at {megabytes} MB per site: {who}",
            value,
            "MB",
            "highest resident set of the process over the transfers both ways; the vector itself counts "
            "where it is made",
        )


async def _bulk(
    place: Place, megabytes: int, repeats: int
) -> tuple[list[float], list[float], list[float], dict[str, float]]:
    elements = megabytes * 10**6 // 4
    async with leading(place.base, place.folders[LEADER]) as (host, leader):
        start_echoes(place)
        sites = place.sites()
        vector, chunks = payload(elements)
        down, up = [], []
        asked = KeyRequest(f"vector-{elements}")
        for index in range(repeats + 1):
            down.append(await leader.ask(host, sites, MaskSum(ZERO, ZERO, vector), chunks))
            if not index:
                received = max(rss_mb(place.pids()[name], peak=True) for name in sites)
            up.append(await leader.ask(host, sites, asked))
            say(f"down {4 * megabytes / down[-1]:.0f} MB/s, up {4 * megabytes / up[-1]:.0f} MB/s")
        memory = {
            "site that receives": received,
            "site that made and sent": max(rss_mb(place.pids()[name], peak=True) for name in sites),
            "server": rss_mb(place.server, peak=True),
        }
    for process in place.processes.started:
        process.process.terminate()
        process.process.wait()
    place.processes.started.clear()
    raw = [await engine_raw.bulk_mb_s(place, 4 * megabytes) for _ in range(repeats)]
    return down[1:], up[1:], raw, memory


def idle() -> Iterator[Row]:
    """Memory of a site that waits for work."""
    with scratch() as folder:
        small(folder / "f", 4)
        with serving(folder / "f") as place:
            pids = [place.pids()[name] for name in place.sites()]
            resident = statistics.median(map(rss_mb, pids))
            shared = statistics.median(map(pss_mb, pids))
            loaded = any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
            leader = rss_mb(place.pids()[LEADER])
    how = f"median of 4 'tacit site', {'with' if loaded else 'without'} torch, before any job"
    yield row("idle memory of a site, resident", resident, "MB", how, "<= 200")
    yield row("idle memory of a site, proportional", shared, "MB", f"{how}; shared pages in part")
    yield row("idle memory of the coordinator", leader, "MB", "resident, before any job")


def long_job(rounds: int) -> Iterator[Row]:
    """The hospitals' job, on the local engine and as processes."""
    with scratch() as folder:
        local, served = _hospitals(folder / "local", rounds), _hospitals(folder / "served", rounds)
        with serving(served.parent) as place:
            start = time.perf_counter()
            place.run(served)
            processes = time.perf_counter() - start
        base = local.parent
        sites = sorted((base / "sites").iterdir())
        start = time.perf_counter()
        Session.begin(JobSpec.load(local), base, sites).execute()
        alone = time.perf_counter() - start
    how = f"{rounds} rounds of breast cancer, 4 hospitals, from submission to the sealed bundle"
    yield row(f"{rounds} rounds, as processes", processes, "s", how)
    yield row(f"{rounds} rounds, local engine", alone, "s", f"{how}; one process")
    yield row(
        f"{rounds} rounds, processes over local engine",
        processes / alone,
        "ratio",
        f"{how}; the same job in the same run, one measurement each",
        "<= 2",
    )


def _hospitals(folder: Path, rounds: int) -> Path:
    job = write_federation(folder, split(0))
    text, changed = re.subn(r"(?m)^rounds = \d+$", f"rounds = {rounds}", job.read_text())
    assert changed == 1
    job.write_text(text)
    return job


def many(count: int, rounds: int) -> Iterator[Row]:
    """A round of many sites on one machine."""
    with scratch() as folder:
        rules = {"min_cohort": count, "helpers": [str(name) for name in names(3)]}
        job = small(folder / "f", count, rounds=rounds + 1, aggregation=rules)
        start = time.perf_counter()
        with serving(folder / "f") as place:
            started = time.perf_counter() - start
            pids = [place.pids()[name] for name in place.sites()]
            taken = place.run(job)["seconds"]
            resident, shared = sum(map(rss_mb, pids)) / 1e3, sum(map(pss_mb, pids)) / 1e3
    yield row(
        f"a round of {count} sites on one machine",
        statistics.median(taken),
        "s",
        f"median of {len(taken)} masked rounds of logistic regression, 3 helpers; {count} 'tacit site' with a "
        f"training child each, {resident:.1f} GB resident together ({shared:.1f} GB without counting "
        f"shared pages twice); all served {started:.0f} s after the first was started",
    )
