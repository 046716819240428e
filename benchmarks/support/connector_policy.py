"""How often and how fast a policy decides, counted in Cedar itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cedarpy
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from support.machine import Row, median_s, row
from tacit.api import Job, train
from tacit.connect import Reading
from tacit.demo import hospitals
from tacit.policy import Contract, Policy
from tacit.testing.policies import READ, REQUEST, TRAIN, small_contract
from tacit.types import Digest

LOCK = Digest(bytes(range(32)))
MORE = """
@id("night")
forbid(principal, action == Action::"train", resource) when { context.region == "us" };
@id("plain")
forbid(principal, action == Action::"train", resource) when { context.aggregation == "plain" };
"""


@contextmanager
def counted() -> Iterator[list[int]]:
    """Counts the full evaluations that Cedar is asked for meanwhile."""
    real, count = cedarpy.is_authorized, [0]

    def counting(*arguments: object) -> object:
        count[0] += 1
        return real(*arguments)

    cedarpy.is_authorized = counting
    try:
        yield count
    finally:
        cedarpy.is_authorized = real


def _policy(folder: Path) -> Policy:
    rules = folder / "policies"
    rules.mkdir()
    (rules / "rules.cedar").write_text(TRAIN + READ + MORE)
    return Policy.load(rules, [_contract()])


def _contract() -> Contract:
    server = {"type": "local", "path": "records.parquet", "format": "parquet"}
    return small_contract({"consent": "boolean"}, server=server)


def rate(count: int) -> Iterator[Row]:
    """Decisions on prepared rules, and whole permissions with their row filter."""
    with tempfile.TemporaryDirectory() as name:
        policy, ours = _policy(Path(name)), _contract()
        how = f"{len(policy.rules)} rules, one core, median of 7"
        taken = median_s(lambda: [policy.decide(REQUEST) for _ in range(count)])
        yield row("policy decisions", count / taken, "decisions/s", how, ">= 10000")
        few = max(1, count // 10)
        taken = median_s(lambda: [policy.permit(REQUEST, ours, LOCK) for _ in range(few)])
        yield row("permissions with a row filter", few / taken, "permissions/s", how)


def per_reading(rows: int) -> Iterator[Row]:
    """Decisions for one data set that is read in many batches under a row rule."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        consent = pa.array([True, False] * (rows // 2))
        content = {
            "consent": consent,
            "size": pa.array([0.5] * len(consent)),
            "answer": pa.array(["yes", "no"] * (len(consent) // 2)),
        }
        parquet.write_table(pa.table(content), folder / "records.parquet")
        policy, ours = _policy(folder), _contract()
        with counted() as decisions:
            reading = Reading(ours, folder, policy.permit(REQUEST, ours, LOCK))
            used = sum(len(batch) for batch in reading)
    batches = len(reading.receipts)
    how = f"{batches} batches, {len(consent):,} rows of which the policy let {used:,} be used"
    yield row("policy decisions for one data set", decisions[0], "decisions", how, "<= 1")


def per_run() -> Iterator[Row]:
    """Decisions of a site in a whole run of the breast-cancer job."""
    with tempfile.TemporaryDirectory() as name:
        job = Job.load(hospitals.write_federation(Path(name, "run"), hospitals.split(0)))
        with counted() as decisions:
            run = train(job, quiet=True)
        sites = len(list(Path(name, "run").rglob("policy.lock")))
    how = f"{sites} sites, {run.outcome.rounds} rounds: {decisions[0]} decisions in all"
    yield row("policy decisions per site and run", decisions[0] / sites, "decisions", how, "<= 1")
