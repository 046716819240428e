"""What a run left behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.engine.local import Traffic
from tacit.errors import ConfigError, RoundAborted, TacitError
from tacit.files import read_limited
from tacit.privacy.statement import PrivacyStatement

__all__ = ["Outcome"]

RESULT_LIMIT = 64 * 1024 * 1024


@dataclass(slots=True)
class Outcome:
    """A run's result, and what it may be said to protect.

    Args:
        run_id: Run id, 64 hexadecimal digits.
        folder: Where everything lies.
        complete: Whether the run ended as planned.
        rounds: Rounds with a result.
        privacy: What its epsilon means.
        metrics: Of the released model.
        history: Metrics by round.
        spent: Epsilon charged, by site.
        traffic: Bytes, by party.
        failure: Why it is not complete.
        own_models: Of sites with local layers: the whole model, in the site's own folder.
        unwitnessed: By independent witness, or by party and log, why a final log was not cosigned.
    """

    run_id: str
    folder: Path
    complete: bool
    rounds: int
    privacy: PrivacyStatement
    metrics: dict[str, float]
    history: list[tuple[int, dict[str, float]]]
    spent: dict[str, float]
    traffic: Traffic
    failure: TacitError | None = None
    own_models: dict[str, Path] = field(default_factory=dict)
    unwitnessed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """Reads what ``record`` wrote as ``result.json``.

        Raises:
            ConfigError: There is none, or it is none.
        """
        path = folder / "result.json"
        try:
            record = json.loads(read_limited(path, RESULT_LIMIT))
            return cls._of(record, folder)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                "run.result",
                f"{path} is not the result of a run",
                remedy="pass the folder of a run that has ended",
                file=str(path),
            ) from error

    @classmethod
    def _of(cls, record: dict[str, Any], folder: Path) -> Outcome:
        failure = record["failure"]
        error = None
        if failure is not None:
            told = (str(failure["code"]), str(failure["message"]))
            error = RoundAborted(*told, retryable=False, remedy=str(failure["remedy"]))
        return cls(
            run_id=str(record["run"]),
            folder=folder,
            complete=record["status"] == "complete",
            rounds=int(record["rounds"]),
            privacy=PrivacyStatement.from_record(record["privacy"]),
            metrics=_numbers(record["metrics"]),
            history=[
                (int(at["round"]), _numbers({k: v for k, v in at.items() if k != "round"}))
                for at in record["history"]
            ],
            spent=_numbers(record["spent"]),
            traffic=Traffic(Counter(record["bytes_sent"]), Counter(record["bytes_received"])),
            failure=error,
            own_models={site: Path(path) for site, path in record["own_models"].items()},
            unwitnessed=dict(record["unwitnessed"]),
        )

    @property
    def private(self) -> bool:
        """Whether the run has differential privacy."""
        return self.privacy.unit != "none"

    @property
    def epsilon(self) -> float | None:
        """Epsilon against whom the statement names; None without differential privacy."""
        return self.privacy.epsilon if self.private else None

    @property
    def delta(self) -> float | None:
        """Delta of the run; None without differential privacy."""
        return self.privacy.delta if self.private else None

    @property
    def coalitions(self) -> tuple[float, ...]:
        """Epsilon against 0, 1, ... helpers who pool what they know, but for all of them together."""
        return self.privacy.coalitions[:-1] if self.private else ()

    @property
    def bundle(self) -> Path:
        """The evidence bundle."""
        return self.folder / "bundle.zip"

    @property
    def model(self) -> Path:
        """The released parameters, safetensors."""
        return self.folder / "model.safetensors"

    def record(self) -> dict[str, Any]:
        """What ``result.json`` holds; decimals as text."""
        return {
            "version": 1,
            "run": self.run_id,
            "status": "complete" if self.complete else "partial",
            "rounds": self.rounds,
            "epsilon": None if self.epsilon is None else repr(self.epsilon),
            "delta": None if self.delta is None else repr(self.delta),
            "privacy": self.privacy.to_record(),
            "metrics": {name: repr(value) for name, value in self.metrics.items()},
            "history": [
                {"round": number, **{name: repr(value) for name, value in metrics.items()}}
                for number, metrics in self.history
            ],
            "spent": {site: repr(value) for site, value in self.spent.items()},
            "bytes_sent": dict(self.traffic.sent),
            "bytes_received": dict(self.traffic.received),
            "unwitnessed": dict(self.unwitnessed),
            "own_models": {site: str(path) for site, path in self.own_models.items()},
            "failure": self.failure.diagnostics() if self.failure is not None else None,
        }


def _numbers(texts: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(text) for name, text in texts.items()}
