"""What one attack found under one defence: figures, and what is drawn of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tacit.attack.defences import Defence
from tacit.attack.measure import Estimate
from tacit.attack.workbench import Workbench

__all__ = ["Attack", "Curve", "Findings", "OnProgress", "Picture", "Roc"]

OnProgress = Callable[[float], None]
"""Called with the share done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An original beside what an adversary made of it.

    Args:
        original: Grey levels 0 to 1, row by row; of a table the values of one record, scaled to 0 to 1.
        found: The same of the reconstruction.
        shape: Rows and columns; of a table 1 and the number of columns.
        caption: One line, plain text.
    """

    original: tuple[float, ...]
    found: tuple[float, ...]
    shape: tuple[int, int]
    caption: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure over something: rounds, or the size of the cohort.

    Args:
        metric: Which figure.
        over: Name of the horizontal axis.
        points: Place and estimate, in order.
    """

    metric: str
    over: str
    points: tuple[tuple[float, Estimate], ...]


@dataclass(frozen=True, slots=True)
class Roc:
    """Points of a ROC curve, false positive rate and true positive rate, in rising order."""

    attack: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """One cell of the report.

    Args:
        adversary: Who looked, in words.
        measured: Estimates by metric, the one for the table first.
        notes: Plain sentences: what was refused and by whom, what did not apply. Nothing in them may say more
            than the intervals do.
        alarms: Names of protections that were found broken; none in a sound system.
        pictures: For the page.
        curves: For the page.
        rocs: For the page.
    """

    adversary: str
    measured: Mapping[str, Estimate]
    notes: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    curves: tuple[Curve, ...] = ()
    rocs: tuple[Roc, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """More figures, as plain JSON."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack of the suite.

    Args:
        row: Row of the report: ``reconstruction``, ``inversion``, ``membership``, ``property``,
            ``malicious-server``, ``poisoning``, ``metadata`` or ``formal-epsilon``.
        name: Unique; what a progress bar and a file of results call it.
        run: Runs it against one defence. Deterministic under the workbench's seed but for the randomness of the
            protocol itself.
        defences: Columns that it applies to.
        alike: Whether who looks makes no difference to it: then ``noise`` and ``tacit``, which are one run, are
            attacked once, and the findings stand in both columns.
    """

    row: str
    name: str
    run: Callable[[Workbench, Defence, OnProgress], Findings]
    defences: tuple[Defence, ...]
    alike: bool = False
