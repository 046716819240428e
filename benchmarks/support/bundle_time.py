"""Verifying one large bundle as an auditor does: whole processes, from the shell's call to the verdict."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.machine import Row, row, say, seconds, wall
from tacit.evidence.archive import unpack
from tacit.evidence.trust import Trust
from tacit.testing.bundles import SyntheticRun

ROOT = Path(__file__).parents[2]
REPEATS = 5


def verifying(rounds: int = 800, repeats: int = REPEATS) -> Iterator[Row]:
    """A bundle of four sites that are helpers too, each logging what it logs in a real run."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, trust = Path(folder, "bundle.zip"), Path(folder, "trust.json")
        say(f"play {rounds} rounds")
        run = SyntheticRun(rounds=rounds, real_sizes=True).play_long()
        run.write(bundle)
        Trust.of(run.roster, run=run.run.hex()).write(trust)
        members = unpack(bundle.read_bytes())
        events = sum(data.count(b"\n") for name, data in members.items() if name.endswith(".jsonl"))
        messages = sum(name.endswith(".msg") for name in members)
        size = f"{events:,} events, {messages:,} messages, {bundle.stat().st_size / 1e6:.0f} MB"
        arguments = [str(bundle), "--trust", str(trust), "--json"]
        library = [sys.executable, "-m", "tacit.cli", "verify", *arguments]
        alone = [sys.executable, "-I", str(ROOT / "verifier" / "verify.py"), *arguments]
        for name, command in (("tacit verify", library), ("verify.py", alone)):
            say(f"{name}, {repeats} times")
            taken = [_verify(command) for _ in range(repeats + 1)][1:]
            how = f"whole process by the clock, median of {repeats}; {size}"
            yield row(f"{name}, {events:,} events", statistics.median(taken), "s", how, "<= 2")


def _verify(command: Sequence[str]) -> float:
    """Seconds of one process, which must not find a fault."""
    found: list[subprocess.CompletedProcess[str]] = []
    taken = seconds(
        lambda: found.append(subprocess.run(command, capture_output=True, text=True, check=False)),
        wall,
    )
    statuses = {claim["id"]: claim["status"] for claim in json.loads(found[0].stdout)["claims"]}
    wrong = {name: status for name, status in statuses.items() if status != "PASS"}
    # The single file has no exact accountant: it may leave epsilon open, nothing else.
    if wrong not in ({}, {"epsilon": "NOT PROVEN"}):
        raise RuntimeError(f"{command[:3]} says {wrong}")
    return taken
