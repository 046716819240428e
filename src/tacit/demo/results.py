"""What a demonstration leaves behind: its folder, all its figures, and a picture of them."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tacit import __version__
from tacit.demo.scoreboard import Row
from tacit.files import make_folder, write_atomic

__all__ = ["command", "machine", "results_folder", "write_plot", "write_results"]


def results_folder(out: Path | None) -> Path:
    """Makes the folder of a demonstration: ``out``, by default a new one below ``runs``.

    Raises:
        ConfigError: It exists already.
    """
    if out is None:
        stamp = Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
        out, number = stamp, 1
        while out.exists():
            number += 1
            out = stamp.with_name(f"{stamp.name}-{number}")
    make_folder(out)
    return out


def machine() -> dict[str, Any]:
    """Where the figures were measured."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tacit": __version__,
    }


def command() -> str:
    """How to call Tacit from this folder: by name, or by the path that it was started with."""
    started = Path(sys.argv[0])
    return "tacit" if shutil.which("tacit") or started.name != "tacit" else str(started)


def write_results(folder: Path, record: dict[str, Any]) -> Path:
    """Writes ``results.json``.

    Raises:
        TransportError: The disk refuses a write.
    """
    path = folder / "results.json"
    write_atomic(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    return path


def write_plot(
    folder: Path, rows: Sequence[Row], coalitions: Sequence[tuple[str, Sequence[float]]]
) -> Path | None:
    """Draws ``demo.png``: AUC of every split by row, epsilon by coalition.

    Returns:
        Its path; None when matplotlib is not installed.
    """
    try:
        backend = import_module("matplotlib.backends.backend_agg")
        figures = import_module("matplotlib.figure")
    except ImportError:
        return None
    figure = figures.Figure(figsize=(11, 4), layout="constrained")
    backend.FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_scores(left, rows)
    _draw_coalitions(right, coalitions)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=144)
    path = folder / "demo.png"
    write_atomic(path, image.getvalue())
    return path


def _draw_scores(axes: Any, rows: Sequence[Row]) -> None:
    for height, row in enumerate(rows):
        values = row.values("auc")
        axes.plot(values, [height] * len(values), "o", color="C0", alpha=0.4, clip_on=False)
        axes.plot(row.mean("auc"), height, "|", color="C3", markersize=22, markeredgewidth=2.5)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("AUC: a point per split, a bar at the mean")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_coalitions(axes: Any, coalitions: Sequence[tuple[str, Sequence[float]]]) -> None:
    for title, values in coalitions:
        axes.plot(range(len(values)), values, "o-", label=title)
    axes.set_xticks(range(len(coalitions[0][1])))
    axes.set_xlabel("colluding sites")
    axes.set_ylabel("epsilon")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
