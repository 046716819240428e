"""One split of the main demonstration, trained in every way; several of them side by side.

Splits are independent, so this process shares them with a worker process, which reads tasks and
answers with progress and results as lines of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tacit.attack.transcript import KeepingSealing, Recorder, Transcript
from tacit.demo import hospitals
from tacit.demo.baselines import central_training, pool, pooled_regression
from tacit.demo.federated import Trained, evaluation_batch, holdings, prepare, train
from tacit.demo.layout import Variant
from tacit.demo.leader_view import LeaderView, leader_view
from tacit.demo.scoreboard import Score
from tacit.engine.folder import World
from tacit.errors import RoundAborted, TacitError
from tacit.trust.identity import OsEntropy
from tacit.types import Opener, PartyName

__all__ = ["CONTRACT", "ROWS", "SplitResult", "SplitTask", "run_split", "run_splits", "work"]

CONTRACT = "diagnosis"
WATCHED = PartyName("north")

ROWS = {
    "pooled": "pooled records",
    "plain": "plain FedAvg",
    "central": "central DP-SGD",
    "shared": "Tacit",
    "own": "Tacit, own noise",
}
"""The ways to train, in the order of the table."""

WORK: dict[Variant, int] = {"plain": 1, "shared": 4, "own": 4}
"""How long a run takes, roughly, relative to the others."""

OnProgress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and what is being done."""


@dataclass(frozen=True, slots=True)
class SplitTask:
    """What to do; every value is plain JSON.

    Args:
        folder: Of the split; its federations are made below it.
        seed: Of the split.
        variants: The federated runs to make; with ``shared`` come the baselines.
        rounds: Other than the jobs say; None for what they say.
        watched: Whether to show what the leader sees; needs ``plain`` and ``shared``.
    """

    folder: str
    seed: int
    variants: Sequence[Variant]
    rounds: int | None = None
    watched: bool = False

    def federation(self, variant: Variant) -> Path:
        """Folder of one of the split's federations."""
        return Path(self.folder) / variant


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What came out; every value is plain JSON.

    Args:
        scores: By key of ``ROWS``.
        coalitions: Epsilon against 0, 1, ... colluding hospitals, by key, of the private runs.
        view: What the leader saw, in a watched split.
    """

    scores: Mapping[str, Score]
    coalitions: Mapping[str, Sequence[float]]
    view: LeaderView | None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SplitResult:
        """Reads what ``dataclasses.asdict`` made."""
        view = record["view"]
        return cls(
            scores={key: Score(**score) for key, score in record["scores"].items()},
            coalitions=record["coalitions"],
            view=LeaderView.from_record(view) if view is not None else None,
        )


def run_split(task: SplitTask, on_progress: OnProgress) -> SplitResult:
    """Trains one split, in this process.

    Raises:
        KeyboardInterrupt: Stopped by the person at the keyboard.
        TacitError: A run gave no result.
    """
    scores: dict[str, Score] = {}
    coalitions: dict[str, Sequence[float]] = {}
    recorded: dict[str, Transcript | None] = {}
    done, total = 0, sum(WORK[variant] for variant in task.variants)
    for variant in task.variants:
        report = partial(_report, on_progress, ROWS[variant], (done, WORK[variant], total))
        report(0.0)
        trained, recorded[variant] = _train(variant, task, report)
        scores[variant] = trained.score
        if trained.outcome.coalitions:
            coalitions[variant] = trained.outcome.coalitions
        if variant == "shared":
            scores |= _baselines(trained)
        done += WORK[variant]
    plain, masked = recorded.get("plain"), recorded.get("shared")
    view = leader_view(WATCHED, plain, masked) if plain and masked else None
    on_progress(1.0, "done")
    return SplitResult(scores, coalitions, view)


def _report(on_progress: OnProgress, label: str, work: tuple[int, int, int], share: float) -> None:
    before, own, total = work
    on_progress((before + share * own) / total, label)


def _train(
    variant: Variant, task: SplitTask, on_progress: Callable[[float], None]
) -> tuple[Trained, Transcript | None]:
    federation = task.federation(variant)
    if not federation.exists():
        hospitals.write_federation(federation, hospitals.split(task.seed), variant=variant)
    job = federation / "job.toml"
    if not task.watched:
        return train(prepare(job, rounds=task.rounds), on_progress), None
    kept: dict[bytes, Opener] = {}
    world = World(entropy=lambda _: OsEntropy(), sealing=lambda _: KeepingSealing(kept))
    prepared = prepare(job, rounds=task.rounds, world=world)
    coordinator = prepared.session.coordinator
    recorder = Recorder(coordinator.roster, lambda: coordinator.model)
    trained = train(prepared, on_progress, recorder)
    workload = coordinator.chain.workload
    return trained, recorder.transcript(coordinator.terms, workload, kept, {})


def _baselines(trained: Trained) -> dict[str, Score]:
    """The two ways that need one place for all records, on the very records of the federation."""
    batches = [holding.batch for holding in holdings(trained.federation, CONTRACT)]
    coordinator = trained.session.coordinator
    workload = coordinator.chain.workload
    return {
        "pooled": pooled_regression(batches, evaluation_batch(trained.federation)),
        "central": central_training(
            workload,
            coordinator.terms.plan,
            pool([workload.prepare(batch) for batch in batches]),
            trained.session.lead.evaluation,
            OsEntropy(),
        ),
    }


# --- side by side --------------------------------------------------------------------------------


def run_splits(
    tasks: Sequence[SplitTask], on_progress: Callable[[int, float, str], None]
) -> list[SplitResult]:
    """Trains all splits; with more than one task and core a worker process takes its part of them.

    Args:
        tasks: What to do.
        on_progress: Called with the number of the task, from 0, the share done and the step.

    Raises:
        KeyboardInterrupt: Stopped by the person at the keyboard; so is the worker.
        TacitError: A run gave no result.
    """
    waiting = deque(enumerate(tasks))
    results: dict[int, SplitResult] = {}
    number, task = waiting.popleft()
    helped = bool(waiting) and (os.cpu_count() or 1) > 1
    with ThreadPoolExecutor(1) as pool, _worker() if helped else nullcontext() as worker:
        rest = pool.submit(_hand_out, waiting, worker, on_progress) if worker else None
        while True:
            results[number] = run_split(task, partial(on_progress, number))
            try:
                number, task = waiting.popleft()
            except IndexError:
                break
        results |= rest.result() if rest is not None else {}
    return [results[number] for number in range(len(tasks))]


@contextmanager
def _worker() -> Iterator[subprocess.Popen[str]]:
    """A process that serves ``work`` and ends, whatever happens, with this block."""
    command = [sys.executable, "-m", "tacit.demo.worker"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603 - this very interpreter
        try:
            yield process
        except BaseException:
            process.terminate()
            raise


def _hand_out(
    waiting: deque[tuple[int, SplitTask]],
    worker: subprocess.Popen[str],
    on_progress: Callable[[int, float, str], None],
) -> dict[int, SplitResult]:
    """Gives the worker one waiting task after the other; ``popleft`` is atomic."""
    assert worker.stdin is not None and worker.stdout is not None
    results: dict[int, SplitResult] = {}
    while waiting:
        try:
            number, task = waiting.popleft()
        except IndexError:
            break
        print(json.dumps(asdict(task)), file=worker.stdin, flush=True)
        for line in worker.stdout:
            answer = json.loads(line)
            if "share" not in answer:
                break
            on_progress(number, answer["share"], answer["label"])
        else:
            answer = {"error": {"message": "its process ended without a result"}}
        results[number] = _result(answer, task)
    worker.stdin.close()
    return results


def _result(answer: Mapping[str, Any], task: SplitTask) -> SplitResult:
    if "result" in answer:
        return SplitResult.from_record(answer["result"])
    error = answer["error"]
    raise RoundAborted(
        str(error.get("code", "demo.worker")),
        f"split {task.seed}: {error['message']}",
        retryable=True,
        remedy=str(error.get("remedy", "")) or "run the demonstration again",
    )


def work(tasks: Iterable[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """What a worker does: reads tasks as JSON, one a line, and answers each with JSON values."""
    for line in tasks:
        try:
            result = run_split(
                SplitTask(**json.loads(line)),
                lambda share, label: answer({"share": share, "label": label}),
            )
        except TacitError as error:
            answer({"error": error.diagnostics()})
        else:
            answer({"result": asdict(result)})
