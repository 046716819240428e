"""Worker processes of the suite: each reads tasks and answers with progress and results as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tacit.attack.cells import CellResult, Failure
from tacit.attack.findings import OnProgress
from tacit.attack.recipe import Recipe
from tacit.attack.registry import Cell
from tacit.errors import DecodeError, TransportError

__all__ = ["Crew", "Worker"]

THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "VECLIB_MAXIMUM_THREADS",
)
GRACE = 5.0


class Crew:
    """All workers of one run of the suite; they end with it, whatever happens.

    Args:
        recipe: What they attack.
        digest: What they must find it to be.
        log: File that gets what they print.
    """

    def __init__(self, recipe: Recipe, digest: str, log: Path) -> None:
        self.recipe = recipe
        self.digest = digest
        self.stopped = False
        self._path = log
        self._log: IO[bytes] | None = None
        self._running: set[subprocess.Popen[str]] = set()

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._path.open("ab")
        except OSError as error:
            raise _broken(self._path, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()
        if self._log is not None:
            self._log.close()
        with contextlib.suppress(
            OSError
        ):  # another suite in the same folder may have tidied up before
            if self._path.stat().st_size == 0:
                self._path.unlink()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker, started when it is first needed."""
        made = Worker(self)
        try:
            yield made
        finally:
            made.end()

    def start(self) -> subprocess.Popen[str]:
        """A process that serves tasks; away from the terminal, so that Ctrl-C reaches the suite alone."""
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "tacit.attack.worker"],
                stdin=pipe,
                stdout=pipe,
                stderr=self._log,
                text=True,
                env={**os.environ, **dict.fromkeys(THREADS, "1")},
                start_new_session=True,
            )
        except OSError as error:
            raise _broken(Path(sys.executable), error) from error
        self._running.add(process)
        if self.stopped:  # between the two lines above
            process.kill()
        return process

    def ended(self, process: subprocess.Popen[str]) -> None:
        """Lets go of a process, and makes sure that it ends."""
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._running.discard(process)

    def stop(self) -> None:
        """Ends all of them at once."""
        self.stopped = True
        for process in list(self._running):
            process.kill()


@dataclass(slots=True)
class Worker:
    """One process after the other: a cell that takes its process down does not take the suite along."""

    crew: Crew
    _process: subprocess.Popen[str] | None = field(default=None)

    def run(self, cell: Cell, on_progress: OnProgress) -> CellResult | None:
        """The result of a cell; None if the crew was stopped."""
        began = time.monotonic()
        try:
            answer = self._ask(cell, on_progress)
        except (BrokenPipeError, ValueError) as error:
            answer = {"lost": f"its process does not answer in words: {error}"}
        if self.crew.stopped:
            return None
        attack = cell.entry.attack
        if "result" in answer:
            try:
                result = CellResult.from_record(answer["result"])
            except DecodeError as error:
                answer = {"lost": error.message}
            else:
                return result
        else:
            self.end()
        seconds = round(time.monotonic() - began, 3)
        failure = Failure(str(answer["lost"]))
        return CellResult(attack.name, attack.row, cell.defence, seconds, failure)

    def end(self) -> None:
        """Ends its process."""
        if self._process is not None:
            process, self._process = self._process, None
            self.crew.ended(process)

    def _ask(self, cell: Cell, on_progress: OnProgress) -> dict[str, Any]:
        if self._process is None:
            self._process = self.crew.start()
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        task = {
            "recipe": self.crew.recipe.record(),
            "digest": self.crew.digest,
            "module": cell.entry.module,
            "attack": cell.entry.attack.name,
            "defence": cell.defence,
        }
        print(json.dumps(task), file=process.stdin, flush=True)
        for line in process.stdout:
            answer = json.loads(line)
            if "share" not in answer:
                return dict(answer)
            on_progress(float(answer["share"]))
        code = process.wait()
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        return {"lost": f"its process ended without a result ({why}); see workers.log"}


def _broken(path: Path, error: OSError) -> TransportError:
    return TransportError(
        "attack.worker",
        f"cannot start a worker process ({path}): {error.strerror}",
        remedy="check free space, memory and permissions, or pass --jobs 1; what is done is kept",
        file=str(path),
    )
