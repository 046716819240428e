"""Accuracy against epsilon: a panel for every task, with the anchors."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from support.utility.study import UNITS, Series, Study

COLOURS = {
    "Tacit": "#0b6e99",
    "central DP-SGD": "#4f7a28",
    "Flower's accounting": "#b3541e",
    "local DP": "#8a5a9e",
    "no privacy": "#777777",
}
COLUMNS = 3


def draw(study: Study, path: Path, machine: dict[str, Any]) -> None:
    """Draws every task and metric, and writes all values beside it as JSON."""
    panels = list(dict.fromkeys((one.task, one.metric) for one in study.series))
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // across)
    drawing = Figure(figsize=(4.6 * across, 3.9 * down), layout="constrained")
    FigureCanvasAgg(drawing)
    grid = drawing.subplots(down, across, squeeze=False).ravel()
    for axes, (task, metric) in zip(grid, panels, strict=False):
        _panel(axes, [one for one in study.series if (one.task, one.metric) == (task, metric)])
        _anchors(axes, study, task)
        axes.set_title(task, fontsize=9)
        axes.set(xlabel="epsilon", ylabel=f"{metric}, {UNITS[metric]}")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    drawing.suptitle("mean and standard deviation over seeds or splits; delta 1e-5", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)
    content = {"machine": machine, "series": [_record(one) for one in study.series]}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def _panel(axes: Any, found: list[Series]) -> None:
    for method, colour in COLOURS.items():
        line = sorted((one for one in found if one.method == method), key=lambda s: s.epsilon)
        if not line:
            continue
        if math.isinf(line[0].epsilon):
            axes.axhline(line[0].mean, color=colour, linestyle="--", label=method)
            continue
        x, y = [one.epsilon for one in line], [one.mean for one in line]
        axes.errorbar(
            x, y, [one.spread for one in line], color=colour, marker="o", capsize=3, label=method
        )
        axes.set_xticks(x)


def _anchors(axes: Any, study: Study, task: str) -> None:
    points: dict[str, list[tuple[float, float]]] = {}
    for (name, epsilon), anchors in study.anchors.items():
        for origin, value in anchors.items() if name == task else ():
            points.setdefault(origin, []).append((epsilon, value))
    for marker, (origin, found) in zip("*Dv", points.items(), strict=False):
        x, y = zip(*found, strict=True)
        axes.plot(x, y, marker, color="black", markersize=7, label=f"central trust, {origin}")


def _record(one: Series) -> dict[str, Any]:
    epsilon = None if math.isinf(one.epsilon) else one.epsilon
    return {**asdict(one), "epsilon": epsilon}
