"""What is told of a run, while it waits, goes on, and after it ended; ``state.json`` in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tacit.errors import ConfigError, RoundAborted, TacitError
from tacit.files import read_limited, write_atomic

__all__ = ["ENDED", "STATE_FILE", "RunState", "Status", "failure_of"]

Status = Literal["waiting", "running", "complete", "partial", "failed"]
ENDED: tuple[Status, ...] = ("complete", "partial", "failed")
STATE_FILE = "state.json"
STATE_LIMIT = 64 * 1024 * 1024
LATEST = 100
"""Rounds whose seconds are kept."""


@dataclass(slots=True)
class RunState:
    """One run.

    Args:
        run: Run id, 64 hexadecimal digits.
        job: Name of the job.
        source: The job file that was submitted.
        folder: Of the run.
        clients: Who is asked to train.
        rounds: Of the plan.
        epsilon: Of the plan against whom the job names, as decimal text; None without privacy.
        submitted: When, in milliseconds since 1970; ``started`` and ``ended`` in the same way, or 0.
        status: ``complete`` and ``partial`` have a bundle; ``failed`` has none: no round began.
        phase: What the coordinator does.
        round: The last round that began.
        metrics: The latest ones, of public data.
        history: Metrics by round.
        awaited: Without whom the phase lasts until its deadline.
        failure: Why it is not complete: code, message, remedy.
        seconds: Of the latest rounds.
        recovered: Seconds from the last restart of the coordinator until the next round began.
    """

    run: str
    job: str
    source: str
    folder: str
    clients: list[str]
    rounds: int
    epsilon: str | None
    submitted: int
    status: Status = "waiting"
    phase: str = ""
    round: int = 0
    started: int = 0
    ended: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    awaited: list[str] = field(default_factory=list)
    failure: dict[str, str | int] | None = None
    seconds: list[float] = field(default_factory=list)
    recovered: float | None = None

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)

    def took(self, seconds: float) -> None:
        """Notes how long a round lasted."""
        self.seconds = [*self.seconds[1 - LATEST :], round(seconds, 4)]

    def fail(self, error: TacitError) -> None:
        """Notes why the run is not complete."""
        self.failure = error.diagnostics()

    @property
    def error(self) -> RoundAborted | None:
        """Why the run is not complete, as an error."""
        return failure_of(self.record())

    def write(self) -> None:
        """Writes ``state.json``.

        Raises:
            TransportError: The disk refuses the write.
        """
        data = json.dumps(self.record(), indent=1, allow_nan=True).encode()
        write_atomic(Path(self.folder) / STATE_FILE, data)

    @classmethod
    def read(cls, folder: Path) -> RunState:
        """Reads what ``write`` wrote; the folder may have been moved since.

        Raises:
            ConfigError: Not the folder of a run of this coordinator.
        """
        try:
            record = json.loads(read_limited(folder / STATE_FILE, STATE_LIMIT))
            history = [(int(number), dict(metrics)) for number, metrics in record.pop("history")]
            return cls(**{**record, "folder": str(folder), "history": history})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                "run.state",
                f"{folder}/{STATE_FILE} is not the state of a run",
                remedy="restore the file from a backup, or move the folder away",
                file=str(folder / STATE_FILE),
            ) from error


def failure_of(record: Mapping[str, Any]) -> RoundAborted | None:
    """Why a run is not complete, as an error, from what ``RunState.record`` returned."""
    failure = record["failure"]
    if failure is None:
        return None
    code, message = str(failure["code"]), str(failure["message"])
    remedy = str(failure.get("remedy", ""))
    return RoundAborted(code, message, retryable=False, remedy=remedy)
