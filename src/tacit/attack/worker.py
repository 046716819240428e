"""A worker process of the attack suite: ``python -m tacit.attack.worker``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from tacit.attack.recipe import Recipe, digest_of
from tacit.attack.registry import Cell, Entry, attacks_of
from tacit.attack.suite import run_cell
from tacit.attack.workbench import Workbench
from tacit.errors import TacitError

__all__ = ["work"]

Answer = Callable[[dict[str, Any]], None]
SECONDS_BETWEEN = 0.2


def work(tasks: Iterable[str], answer: Answer) -> None:
    """Reads tasks as JSON, one a line, and answers each with shares of its work, then with its result."""
    benches: dict[str, Workbench] = {}
    for line in tasks:
        task = json.loads(line)
        try:
            bench = benches.get(task["digest"]) or _open(task)
            benches = {task["digest"]: bench}
            cell = _cell(task)
        except TacitError as error:
            answer({"lost": error.message})
            continue
        answer({"result": run_cell(bench, cell, _Paced(answer)).record()})


class _Paced:
    """Tells how far an attack is, a few times a second at most."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._last = 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN:
            self._last = now
            self._answer({"share": float(share)})


def _open(task: dict[str, Any]) -> Workbench:
    recipe = Recipe.from_record(task["recipe"])
    bench = recipe.open()
    if digest_of(bench, recipe.modules).hex() != task["digest"]:
        raise TacitError("attack.changed", "job, code or data were changed while the suite ran")
    return bench


def _cell(task: dict[str, Any]) -> Cell:
    for attack in attacks_of(task["module"]):
        if attack.name == task["attack"] and task["defence"] in attack.defences:
            return Cell(Entry(task["module"], attack), task["defence"])
    raise TacitError(
        "attack.changed", f"{task['module']} has no attack {task['attack']!r} any more"
    )


def _serve() -> None:
    # What an attack prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value, allow_nan=False), file=answers, flush=True)

    work(sys.stdin, answer)


if __name__ == "__main__":
    # Left alone: the process that asked says what there is to say.
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        _serve()
