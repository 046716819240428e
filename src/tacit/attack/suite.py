"""The suite: every attack under every defence, in worker processes, each result kept as soon as it is there."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from tacit.attack.cells import CellResult, CellStore, Failure
from tacit.attack.crew import Crew
from tacit.attack.defences import Defence
from tacit.attack.findings import Findings, OnProgress
from tacit.attack.recipe import Recipe
from tacit.attack.registry import Cell, Entry
from tacit.attack.workbench import Workbench
from tacit.errors import TacitError

__all__ = [
    "MAX_JOBS",
    "Suite",
    "Watcher",
    "cells_of",
    "default_jobs",
    "mirrored",
    "run_cell",
]

MAX_JOBS = 4
"""More workers than that only by request: each holds the data and a federation in memory."""


COPIED = "findings of the column Tacit, whose run this is too: not run again"
"""What the adversary of a copied cell is said to be, too."""


def default_jobs() -> int:
    """One worker a core, at most ``MAX_JOBS``."""
    return min(MAX_JOBS, os.cpu_count() or 1)


def cells_of(entries: Sequence[Entry], columns: Collection[Defence]) -> tuple[Cell, ...]:
    """All cells to run, the longest first, so that none of them is left to run alone at the end.

    Of an attack to which ``noise`` and ``tacit`` are alike the first is left to ``mirrored``.
    """
    cells = [
        Cell(entry, defence)
        for entry in entries
        for defence in entry.attack.defences
        if defence in columns and not (defence == "noise" and _is_mirrored(entry, columns))
    ]
    return tuple(sorted(cells, key=lambda cell: (-cell.cost, cell.name)))


def mirrored(
    results: Sequence[CellResult], entries: Sequence[Entry], columns: Collection[Defence]
) -> tuple[CellResult, ...]:
    """The results, and in the column ``noise`` those that are the same as in ``tacit``, marked as copies."""
    alike = {entry.attack.name for entry in entries if _is_mirrored(entry, columns)}
    same = [one for one in results if one.attack in alike and one.defence == "tacit"]
    return (*results, *(_mirror(one) for one in same))


def _mirror(result: CellResult) -> CellResult:
    outcome = result.outcome
    if isinstance(outcome, Findings):
        outcome = replace(outcome, adversary=f"{outcome.adversary}; {COPIED}")
    return replace(result, defence="noise", seconds=0.0, outcome=outcome, mirrored=True)


def _is_mirrored(entry: Entry, columns: Collection[Defence]) -> bool:
    both = {"noise", "tacit"}
    return entry.attack.alike and both <= set(columns) and both <= set(entry.attack.defences)


def run_cell(bench: Workbench, cell: Cell, on_progress: OnProgress) -> CellResult:
    """Runs one attack under one defence, in this process; whatever goes wrong is a ``Failure``.

    Guarantee: an attack that raises, or whose findings JSON cannot hold, is never a result. Checked by
    ``tests/attack/test_suite.py::test_a_failing_attack_is_not_measured``.
    """
    attack, began = cell.entry.attack, time.monotonic()
    outcome: Findings | Failure
    try:
        outcome = attack.run(bench, cell.defence, on_progress)
        result = CellResult(attack.name, attack.row, cell.defence, 0.0, outcome)
        outcome = CellResult.from_record(result.record()).outcome  # as it will be read again
    except TacitError as error:
        outcome = Failure(f"{error.message} ({error.code})", traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - an attack's own mistake must not end the suite
        outcome = Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    seconds = round(time.monotonic() - began, 3)
    return CellResult(attack.name, attack.row, cell.defence, seconds, outcome)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told how far the suite is; called from several threads, one call at a time.

    Args:
        progress: A cell is at a share of its work, 0 to 1.
        done: A cell is done, and whether its result was kept from before.
    """

    progress: Callable[[Cell, float], None] = lambda _cell, _share: None
    done: Callable[[Cell, CellResult, bool], None] = lambda _cell, _result, _kept: None


@dataclass(slots=True)
class Suite:
    """Runs cells and keeps their results.

    Args:
        bench: What is attacked.
        cells: What to run, in order.
        store: Where results are kept.
        recipe: How a worker process gets to ``bench``; without one everything runs in this process.
        jobs: Worker processes.
        watcher: Is told.
    """

    bench: Workbench
    cells: Sequence[Cell]
    store: CellStore
    recipe: Recipe | None = None
    jobs: int = 1
    watcher: Watcher = field(default_factory=Watcher)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> tuple[CellResult, ...]:
        """All results, in the order of the cells.

        Guarantee: each result is on the disk, whole, before the next cell of its worker begins, and a cell
        whose result is there, of this very setting, is not run again. Checked by
        ``tests/attack/test_suite.py::test_an_interrupted_suite_goes_on``.

        Raises:
            KeyboardInterrupt: Stopped by the person at the keyboard; what is done is kept.
            TransportError: A result cannot be written.
        """
        results: dict[str, CellResult] = {}
        waiting: deque[Cell] = deque()
        for cell in self.cells:
            kept = self.store.read(cell)
            if kept is None:
                waiting.append(cell)
            else:
                results[cell.name] = kept
                self.watcher.done(cell, kept, True)
        if self.recipe is None:
            while waiting:
                cell = waiting.popleft()
                results[cell.name] = self._keep(
                    cell, run_cell(self.bench, cell, self._teller(cell))
                )
        elif waiting:
            self._side_by_side(self.recipe, waiting, results)
        return tuple(results[cell.name] for cell in self.cells)

    def _side_by_side(
        self, recipe: Recipe, waiting: deque[Cell], results: dict[str, CellResult]
    ) -> None:
        count = max(1, min(self.jobs, len(waiting)))
        log = self.store.folder.parent / "workers.log"
        with Crew(recipe, self.store.digest, log) as crew, ThreadPoolExecutor(count) as pool:
            try:
                tasks = [pool.submit(self._serve, crew, waiting, results) for _ in range(count)]
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            except BaseException:
                waiting.clear()
                crew.stop()
                raise

    def _serve(self, crew: Crew, waiting: deque[Cell], results: dict[str, CellResult]) -> None:
        """One thread with one worker after the other: takes waiting cells until there are none."""
        last: Cell | None = None
        with crew.worker() as worker:
            while True:
                last = cell = self._next(waiting, last)
                if cell is None:
                    return
                result = worker.run(cell, self._teller(cell))
                if result is None:  # stopped
                    return
                results[cell.name] = self._keep(cell, result)

    def _next(self, waiting: deque[Cell], last: Cell | None) -> Cell | None:
        """The next cell: of the worker's last attack if there is one, for it has calibrated that noise already."""
        with self._lock:
            known = (c for c in waiting if last is not None and c.entry is last.entry)
            cell = next(known, None) or (waiting[0] if waiting else None)
            if cell is not None:
                waiting.remove(cell)
            return cell

    def _teller(self, cell: Cell) -> OnProgress:
        def tell(share: float) -> None:
            with self._lock:
                self.watcher.progress(cell, min(1.0, max(0.0, share)))

        return tell

    def _keep(self, cell: Cell, result: CellResult) -> CellResult:
        with self._lock:
            self.store.write(result)
            self.watcher.done(cell, result, False)
        return result
