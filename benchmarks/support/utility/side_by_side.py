"""Independent trials in several processes, each with one thread for its matrix products."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

PROCESSES = 2
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@contextmanager
def processes() -> Iterator[ProcessPoolExecutor]:
    """Processes to train in; they start with the first trial, and nothing waits for what is left."""
    os.environ |= ONE_THREAD  # read when a new process loads its libraries
    pool = ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def side_by_side(
    pool: ProcessPoolExecutor, call: Callable[[TaskT], ResultT], tasks: Sequence[TaskT]
) -> Iterator[tuple[int, ResultT]]:
    """Every task's number, from 0, and its result, in the order in which they end.

    Args:
        pool: From ``processes``.
        call: A function of a module; runs in another process.
        tasks: Values that can be sent there.
    """
    numbers = {pool.submit(call, task): number for number, task in enumerate(tasks)}
    for done in as_completed(numbers):
        yield numbers[done], done.result()
