"""The table of results: a row per way to train, a score per split."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tacit.show import table

__all__ = ["Row", "Score", "coalitions", "gap", "gap_line", "scoreboard"]

TARGET = 1.0
"""Points of AUC that privacy may cost."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one way to train gave on one split.

    Args:
        accuracy: On the public evaluation set.
        auc: On the public evaluation set.
        epsilon: What each site spent; None without differential privacy.
        traffic: Bytes that a site sent and received, mean over the sites; None when its records moved.
        seconds: Wall time.
    """

    accuracy: float
    auc: float
    epsilon: float | None
    traffic: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train.

    Args:
        key: Stable name.
        title: Name for people.
        scores: One per split, at least one.
    """

    key: str
    title: str
    scores: tuple[Score, ...]

    def values(self, name: str) -> list[float]:
        """One figure of every split that has it."""
        found = [getattr(score, name) for score in self.scores]
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float:
        """Mean over the splits."""
        return statistics.fmean(self.values(name))

    def spread(self, name: str) -> float | None:
        """Standard deviation over the splits; None for a single one."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None

    def record(self) -> dict[str, Any]:
        """For scripts."""
        summary = {
            name: {"mean": self.mean(name), "spread": self.spread(name)}
            for name in ("accuracy", "auc", "seconds")
        }
        return {
            "row": self.key,
            "title": self.title,
            **summary,
            "splits": [asdict(score) for score in self.scores],
        }


def scoreboard(rows: Sequence[Row]) -> Table:
    """The table for people; narrow enough for 80 columns."""
    columns = ("trained by", "accuracy", "AUC", "epsilon", "MB", "time")
    cells = [
        (
            row.title,
            _figure(row, "accuracy", 3),
            _figure(row, "auc", 4),
            _or("none", row.values("epsilon"), "{:.3f}", 1.0),
            _or("records", row.values("traffic"), "{:.2f}", 1e-6),
            f"{row.mean('seconds'):.1f} s",
        )
        for row in rows
    ]
    return table("", columns, cells)


def _figure(row: Row, name: str, digits: int) -> str:
    spread = row.spread(name)
    mean = f"{row.mean(name):.{digits}f}"
    return mean if spread is None else f"{mean} ± {spread:.3f}"


def _or(nothing: str, values: list[float], form: str, scale: float) -> str:
    return form.format(scale * max(values)) if values else nothing


def gap(private: Row, pooled: Row) -> float:
    """Points of mean AUC that ``private`` lies below ``pooled``."""
    return 100 * (pooled.mean("auc") - private.mean("auc"))


def gap_line(private: Row, pooled: Row) -> str:
    """The gap against the target, in words and rich markup."""
    points = gap(private, pooled)
    verdict = "[bold green]met[/]" if points <= TARGET else "[bold red]MISSED[/]"
    where = "below" if points >= 0 else "above"
    return (
        f"{private.title}: AUC {abs(points):.2f} points {where} {pooled.title}, which has no privacy "
        f"(target: at most {TARGET:.0f} point below): {verdict}"
    )


def coalitions(rows: Sequence[tuple[str, Sequence[float]]]) -> Table:
    """Epsilon by how many sites pool what they know, with the leader and everybody outside.

    Args:
        rows: A run's title and its epsilon against 0, 1, ... colluding sites.
    """
    columns = ("sites that collude", *(str(size) for size in range(len(rows[0][1]))))
    return table("", columns, [(title, *(f"{e:.3f}" for e in values)) for title, values in rows])
