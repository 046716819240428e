"""How the time and the bytes of a round grow with the number of sites, as a figure."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from support.engine_echo import leading
from support.engine_place import Place, names, scratch, serving, small, start_echoes, wired
from support.machine import Row, row, say
from tacit.testing.federation import LEADER
from tacit.wire.messages import KeyRequest

__all__ = ["rows"]


def rows(
    counts: Sequence[int], repeats: int, rounds: int, figure: Path | None, machine: Any
) -> Iterator[Row]:
    """Measures all sizes; draws them if asked."""
    found: dict[str, list[float]] = {"task": [], "round": [], "bytes": []}
    for count in counts:
        with scratch() as folder:
            small(folder / "f", count)
            with wired(folder / "f") as place:
                found["task"].append(asyncio.run(_task(place, repeats)))
        with scratch() as folder:
            helpers = [str(name) for name in names(3)]
            rules = {"min_cohort": 3, "helpers": helpers}
            job = small(folder / "f", count, rounds=rounds + 1, aggregation=rules)
            with serving(folder / "f") as place:
                told = place.run(job)
                result = json.loads((Path(told["folder"]) / "result.json").read_text())
                found["round"].append(statistics.median(told["seconds"]))
                found["bytes"].append(_bytes(result) / (rounds + 1))
        say(f"scaling: {count} sites: " + ", ".join(f"{k} {v[-1]:.4g}" for k, v in found.items()))
    for name, unit in (("task", "s"), ("round", "s"), ("bytes", "B")):
        exponent, r_squared, constant, slope = fitted(counts, found[name])
        yield row(
            f"scaling over sites: {LABELS[name]}",
            exponent,
            "exponent",
            f"slope in logarithms over {', '.join(map(str, counts))} sites; the line "
            f"{constant:.4g} + {slope:.4g} n {unit} has R² = {r_squared:.4f}; measured "
            f"{', '.join(f'{value:.4g}' for value in found[name])} {unit}",
        )
    if figure is not None:
        _draw(counts, found, figure)
        content = {"machine": machine, "sites": list(counts), "series": found}
        figure.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


LABELS = {
    "task": "empty task and reply",
    "round": "empty masked round",
    "bytes": "bytes of a round",
}


async def _task(place: Place, repeats: int) -> float:
    async with leading(place.base, place.folders[LEADER]) as (host, leader):
        start_echoes(place)
        sites, body = place.sites(), KeyRequest("empty")
        for _ in range(5):
            await leader.ask(host, sites, body)
        return statistics.median([await leader.ask(host, sites, body) for _ in range(repeats)])


def _bytes(result: dict[str, Any]) -> float:
    """What all parties sent, by the coordinator's count."""
    return float(sum(result["bytes_sent"].values()))


def fitted(x: Sequence[int], y: Sequence[float]) -> tuple[float, float, float, float]:
    """Exponent of the power law; R², constant and slope of the line of least squares."""
    xs, ys = np.array(x, dtype=float), np.array(y)
    exponent = float(np.polyfit(np.log(xs), np.log(ys), 1)[0])
    slope, constant = np.polyfit(xs, ys, 1)
    rest = ys - (constant + slope * xs)
    r_squared = 1.0 - float(rest @ rest) / float(((ys - ys.mean()) ** 2).sum())
    return exponent, r_squared, float(constant), float(slope)


def _draw(counts: Sequence[int], found: dict[str, list[float]], path: Path) -> None:
    drawing = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(drawing)
    panels: Any = drawing.subplots(1, 3)
    scales = {"task": (1e3, "milliseconds"), "round": (1.0, "seconds"), "bytes": (1e-6, "MB")}
    for panel, (name, (scale, unit)) in zip(panels, scales.items(), strict=True):
        exponent, r_squared, constant, slope = fitted(counts, found[name])
        xs = np.linspace(0, max(counts), 50)
        panel.plot(counts, np.array(found[name]) * scale, "o", color="#0b6e99")
        label = f"line, R² = {r_squared:.3f}; exponent {exponent:.2f}"
        panel.plot(xs, (constant + slope * xs) * scale, color="#b3541e", label=label)
        panel.set(xlabel="sites", ylabel=unit, title=LABELS[name], xlim=(0, None), ylim=(0, None))
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize=8)
    drawing.suptitle("One process per site on one machine, over NATS; 3 helpers")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)
