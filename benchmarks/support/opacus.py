"""A step of private training against Opacus: same network, records, batch, micro-batch, one thread."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from peers.environment import environment
from peers.step import CLASSES, FEATURES, NETWORKS, Setting

from support.machine import Row, ratio, row, say
from tacit.learn.torch_model import TorchModel

OPACUS, TORCH = "opacus==1.6.0", "torch==2.13.0"
AGREEMENT = 1e-3
"""Largest difference of the two sums, by norm: float32 gradients, and truncation to the grid."""


class Side:
    """A process that takes a step whenever it is asked to."""

    def __init__(self, python: Path | str, module: str, setting: Setting) -> None:
        self._module = module
        command = [str(python), "-m", module, *setting.arguments()]
        folder = Path(__file__).parents[1]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command, waits for the answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the process has no pipes")
        print(command, file=stdin, flush=True)
        line = stdout.readline()
        if not line:
            raise SystemExit(f"{self._module} stopped; its message stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def rows(*, quick: bool) -> Iterator[Row]:
    """Time and peak memory of a step, each as a share of Opacus's, for a narrow and a wide network."""
    python = environment(OPACUS, TORCH)
    sides = ((sys.executable, "support.own_step"), (python, "peers.opacus_step"))
    batch, micro_batch, repeats, fresh = (16, 8, 2, 1) if quick else (512, 64, 15, 3)
    with tempfile.TemporaryDirectory() as folder:
        for name, factory in NETWORKS.items():
            model = TorchModel(factory, features=FEATURES, classes=CLASSES)
            theta = Path(folder, f"{name}.npy")
            np.save(theta, model.initial(b"benchmark"))
            setting = Setting(name, theta, batch, micro_batch)
            say(f"against Opacus: {name} network, {model.dimension:,} parameters")
            label = f"{model.dimension:,} parameters"
            how = f"batch {batch}, micro-batch {micro_batch}, one thread, {OPACUS}"
            yield _time(sides, setting, repeats, label, how)
            yield _memory(sides, setting, fresh, label, how)


def _time(sides: Any, setting: Setting, repeats: int, label: str, how: str) -> Row:
    """CPU time of steps taken in turns, after one on either side to warm up."""
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(Side(*side, setting)) for side in sides)
        _compare(ours, theirs, setting.theta.parent)
        taken: list[list[float]] = [[], []]
        for _ in range(repeats):
            for times, side in zip(taken, (ours, theirs), strict=True):
                times.append(side.ask("step")["seconds"])
    own, other = (statistics.median(times) * 1e3 for times in taken)
    how = f"{own:.0f} ms against {other:.0f} ms, median of {repeats} in turns; {how}"
    return row(f"against Opacus: time, {label}", ratio(*taken), "x", how, "<= 1.0")


def _compare(ours: Side, theirs: Side, folder: Path) -> None:
    """One step each, which warms up; stops unless both did the same work."""
    sums = []
    for side, path in ((ours, folder / "ours.npy"), (theirs, folder / "theirs.npy")):
        side.ask("step")
        side.ask(f"sum {path}")
        sums.append(np.load(path))
    error = float(np.linalg.norm(sums[0] - sums[1]) / np.linalg.norm(sums[1]))
    if not error < AGREEMENT:
        raise SystemExit(f"opacus: the sums differ by {error}: the sides did not do the same work")


def _memory(sides: Any, setting: Setting, fresh: int, label: str, how: str) -> Row:
    """What the first step adds to the memory of a fresh process that has built its model."""
    grown: list[list[float]] = [[], []]
    for _ in range(fresh):
        for found, side in zip(grown, sides, strict=True):
            with Side(*side, setting) as process:
                found.append(float(process.ask("first")["bytes"]))
    own, other = (statistics.median(found) / 2**20 for found in grown)
    how = f"first step of a fresh process adds {own:.0f} MiB against {other:.0f} MiB, median of {fresh}; {how}"
    return row(f"against Opacus: peak memory, {label}", ratio(*grown), "x", how, "<= 1.0")
