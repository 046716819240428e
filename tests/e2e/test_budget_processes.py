"""Budgets on a real disk: several processes at once, processes that are killed, a disk that is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from tacit.engine.store import SqliteStore
from tacit.errors import TransportError
from tacit.party.heads import compare_heads
from tacit.privacy.budget import Account, Budget, BudgetLimits, Heads, Limit
from tacit.types import Digest, Milliseconds, PartyName

SOURCE = Path(__file__).parents[2] / "src"
NOW = Milliseconds(1_700_000_000_000)
PEOPLE = Account("everyone", "research", "record")
KILLS = 20

COMMON = """
import sys
import time
from pathlib import Path
from tacit.engine.store import SqliteStore
from tacit.errors import BudgetExhausted
from tacit.privacy.budget import Account, Budget, BudgetLimits, Limit

path, name, limit = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
budget = Budget(SqliteStore(path), BudgetLimits(Limit(limit, 1.0)))
people = Account("everyone", "research", "record")

def say(*words):
    print(*words, flush=True)
"""

RESERVE = (
    COMMON
    + """
say("ready")
sys.stdin.readline()  # both at once
for number in range(30):
    time.sleep(0.002)  # or one of them might keep the other waiting until it is done
    try:
        budget.reserve(f"{name}-{number}", people, 0.1, 1e-6, 0)
    except BudgetExhausted:
        say("refused", number)
        continue
    say("reserved", number)
    budget.charge(f"{name}-{number}", 1, 0.05, 0)
"""
)

LIVE = (
    COMMON
    + """
for number in range(10**6):
    run = f"{name}-{number}"
    budget.reserve(run, people, 0.01, 1e-9, number)
    heads = budget.heads()
    say("reserve", run, 0, heads.count, heads.digests[-1].hex())
    for at, epsilon in enumerate((0.001, 0.002, 0.004), 1):
        budget.charge(run, at, epsilon, number)
        say("charge", run, epsilon)
    budget.settle(run, 0.01 if number % 2 else 0.004, number)
    say("settle", run, 0.01 if number % 2 else 0.004)
"""
)


def limits(epsilon: float) -> BudgetLimits:
    return BudgetLimits(Limit(epsilon, 1.0))


@contextmanager
def child(script: str, path: Path, name: str, limit: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), name, str(limit)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_two_processes_never_overspend(tmp_path):
    path, limit = tmp_path / "state" / "tacit.db", 2.0
    Budget(SqliteStore(path), limits(limit)).entries()
    with child(RESERVE, path, "a", limit) as one, child(RESERVE, path, "b", limit) as two:
        assert [process.stdout.readline() for process in (one, two)] == ["ready\n"] * 2
        for process in (one, two):
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60)[0].splitlines() for process in (one, two)]
        assert [process.returncode for process in (one, two)] == [0, 0]
    reserved = [sum(line.startswith("reserved") for line in lines) for lines in said]
    assert sum(reserved) == 20
    assert all(reserved)
    budget = Budget(SqliteStore(path), limits(limit))
    spent = budget.spent("everyone")
    assert spent.epsilon + spent.reserved_epsilon == Decimal("2.0")
    assert spent.epsilon == Decimal("1.00")
    assert budget.heads().count == 20


class Seen:
    """What a parent saw acknowledged, as a peer would have."""

    def __init__(self) -> None:
        self.charged: dict[str, Decimal] = {}
        self.settled: dict[str, Decimal] = {}
        self.heads: Heads | None = None

    def hear(self, line: str) -> None:
        kind, run, amount, *head = line.split()
        self.charged[run] = Decimal(amount)
        if kind == "settle":
            self.settled[run] = Decimal(amount)
        if kind == "reserve":
            count = int(head[0])
            digests = () if self.heads is None else self.heads.digests
            kept = (*digests, Digest(bytes.fromhex(head[1])))[-64:]
            self.heads = Heads(count, kept)

    def check(self, budget: Budget) -> None:
        found = {entry.run: entry for entry in budget.entries()}
        for run, charged in self.charged.items():
            entry = found[run]
            assert entry.charged >= charged
            if run in self.settled:
                assert (entry.charged, entry.open) == (self.settled[run], False)
        spent = budget.spent("everyone")
        assert spent.epsilon >= sum(self.charged.values())
        if self.heads is not None:
            assert compare_heads(PartyName("site"), self.heads, budget.heads()) == "continued"


def test_a_killed_process_never_undercounts(tmp_path):
    """SIGKILL at any moment: what it had acknowledged is there, and peers see the same journal go on."""
    path, random, seen = tmp_path / "state" / "tacit.db", Random(7), Seen()
    heard = 0
    for number in range(KILLS):
        with child(LIVE, path, f"child{number}", 1000.0) as process:
            seen.hear(process.stdout.readline())
            time.sleep(random.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            rest, _ = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
            # A line that was cut off was not heard.
            lines = rest.splitlines(keepends=True)
            for line in lines:
                if line.endswith("\n"):
                    seen.hear(line)
                    heard += 1
        store = SqliteStore(path)
        seen.check(Budget(store, limits(1000.0)))
        store.close()
    assert heard > KILLS  # they were killed at work, not before


def test_a_full_disk_is_a_typed_error_and_frees_nothing(tmp_path):
    store = SqliteStore(tmp_path / "state" / "tacit.db")
    budget = Budget(store, limits(1000.0))
    budget.reserve("first", PEOPLE, 1.0, 1e-6, NOW)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    acknowledged = 0
    with pytest.raises(TransportError, match="full") as caught:
        for number in range(1, 10_000):
            budget.charge("first", number, min(number / 10_000, 1.0), NOW)
            acknowledged = number
    assert caught.value.code == "store.io"
    assert caught.value.remedy
    assert acknowledged > 0
    for one in (budget, Budget(SqliteStore(tmp_path / "state" / "tacit.db"), limits(1000.0))):
        (entry,) = one.entries()
        assert entry.round_number == acknowledged
        assert one.heads().count == 1
    store._db.execute("PRAGMA max_page_count = 1000000")
    budget.charge("first", acknowledged + 1, 1.0, NOW)
    assert budget.spent("everyone").epsilon == 1
