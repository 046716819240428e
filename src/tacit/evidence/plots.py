"""The page's figures as SVG, drawn by matplotlib, which is imported here alone and only when needed."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tacit.errors import ConfigError
from tacit.evidence.page_figures import Charges, Participation

__all__ = [
    "INK",
    "LINES",
    "PALE",
    "as_svg",
    "draw_charges",
    "draw_participation",
    "missing",
    "new_figure",
]

INK, PALE = "#1c2733", "#c9d1d9"
BLUE, ORANGE, GREY = "#1f6fb2", "#d9822b", "#8a949e"
LINES = (BLUE, "#b5562b", "#3b8455", "#7a4fa3", GREY, "#a3457a")
CELLS = {"absent": "#eef1f4", "open": GREY, "out": ORANGE, "in": BLUE}
MEANING = {
    "in": "uploaded, in the sum",
    "out": "uploaded, not in a sum",
    "open": "uploaded; what became of it is not known",
    "absent": "no upload",
}
DARK = {
    "#ffffff": "#14191f",
    INK: "#e6e9ec",
    PALE: "#48525c",
    BLUE: "#5aa7e6",
    "#eef1f4": "#2a333c",
}
MAX_LEGEND = 6
MAX_NAMES = 4
MAX_GAPS = 120
"""Columns that are still wide enough to be told apart by the gaps between them."""
MAX_SHAPES = 4000
"""Cells that are drawn one by one; more become one picture inside the drawing."""
WIDTH = 7.4


def missing(package: str) -> ConfigError:
    """The error for an absent package of the extra ``report``."""
    return ConfigError(
        "report.extra",
        f"the HTML page needs {package}, which is not installed",
        remedy="pip install 'tacit[report]'",
    )


def draw_charges(charges: Charges) -> str:
    """Epsilon over rounds as a ``data:`` address of an SVG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure, axes = new_figure(3.1)
    for index, (sites, line) in enumerate(charges.lines):
        rounds, epsilons = zip(*line, strict=True)
        colour, label = LINES[index % len(LINES)], _label(charges, index, sites)
        axes.step(rounds, epsilons, where="post", color=colour, linewidth=1.8, label=label)
        axes.plot(rounds[-1:], epsilons[-1:], "o", color=colour, markersize=4)
    _limits(axes, charges)
    axes.set_xlabel("round")
    axes.set_ylabel("epsilon, as charged")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    legend = axes.legend(frameon=False, fontsize=8.5, loc="lower right", labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return as_svg(figure, "charges")


def _limits(axes: Any, charges: Charges) -> None:
    """What the charges may come to: the plan's epsilon, and what the budgets set aside for it."""
    reserved = charges.reserved
    if reserved is not None and math.isclose(reserved, charges.plan, rel_tol=1e-3):
        reserved = None
        label = "whole plan, reserved in the budgets"
    else:
        label = "whole plan"
    if math.isfinite(charges.plan):
        axes.axhline(charges.plan, color=INK, linestyle="--", linewidth=1.1, label=label)
    if reserved is not None:
        style = {"color": ORANGE, "linestyle": ":", "linewidth": 1.6}
        axes.axhline(reserved, label="reserved in the budgets", **style)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def draw_participation(participation: Participation) -> str:
    """Sites by rounds as a ``data:`` address of an SVG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    sites, rounds = participation.sites, participation.rounds
    figure, axes = new_figure(1.3 + 0.22 * len(sites))
    kinds = list(CELLS)
    grid = [[kinds.index(cell) for cell in row] for row in participation.cells]
    colours = _import("matplotlib.colors").ListedColormap(list(CELLS.values()))
    axes.pcolormesh(
        [number + 0.5 for number in range(-1, len(rounds))],
        [number + 0.5 for number in range(-1, len(sites))],
        grid,
        cmap=colours,
        vmin=-0.5,
        vmax=len(kinds) - 0.5,
        edgecolors="#ffffff" if len(rounds) <= MAX_GAPS else "none",
        linewidth=0.8,
        rasterized=len(sites) * len(rounds) > MAX_SHAPES,
    )
    beside = [
        (column, row)
        for row, cells in enumerate(participation.cells)
        for column, cell in enumerate(cells)
        if cell == "out"
    ]
    if beside and len(rounds) <= MAX_GAPS:  # Not by colour alone.
        axes.plot(*zip(*beside, strict=True), "o", color="#ffffff", markersize=2.5)
    marks = [index for index, number in enumerate(rounds) if number in participation.aborted]
    if marks:
        axes.plot(marks, [-0.95] * len(marks), "x", color=INK, markersize=5, clip_on=False)
    axes.set_yticks(range(len(sites)), sites, parse_math=False)
    step = max(1, -(-len(rounds) // 12))
    ticks = range(0, len(rounds), step)
    axes.set_xticks(ticks, [str(rounds[index]) for index in ticks])
    axes.set_ylim(len(sites) - 0.5, -1.4 if marks else -0.5)
    axes.set_xlabel("round")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _legend(figure, participation, marked=bool(marks))
    return as_svg(figure, "participation")


def _legend(figure: Any, participation: Participation, *, marked: bool) -> None:
    shown = {cell for row in participation.cells for cell in row}
    patch = _import("matplotlib.patches").Patch
    handles = [
        patch(facecolor=CELLS[kind], edgecolor=PALE, label=text)
        for kind, text in MEANING.items()
        if kind in shown or kind == "in"
    ]
    if marked:
        line = _import("matplotlib.lines").Line2D
        style = {"marker": "x", "linestyle": "none", "color": INK}
        handles.append(line([], [], label="round ended without a sum", **style))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2 if len(handles) > 3 else len(handles),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )


def _label(charges: Charges, index: int, sites: Sequence[str]) -> str:
    """A line's name in the legend; a leading underscore keeps it out."""
    more = len(charges.lines) - MAX_LEGEND
    if index >= MAX_LEGEND:
        return "_"
    return _names(sites) + (f" ({more} more lines)" if more > 0 and index == MAX_LEGEND - 1 else "")


def _names(sites: Sequence[str]) -> str:
    more = len(sites) - MAX_NAMES
    return ", ".join(sites[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise missing("matplotlib") from error


def new_figure(height: float) -> tuple[Any, Any]:
    """A figure of its own, apart from anybody's pyplot, and its axes."""
    figure = _import("matplotlib.figure").Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def as_svg(figure: Any, name: str) -> str:
    """The same bytes every time; texts stay texts, colours follow the reader's light or dark."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    written = io.StringIO()
    with _import("matplotlib").rc_context(settings):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", dpi=200, transparent=True, metadata=metadata)
    before, rest = written.getvalue().split("<defs>", 1)
    image = f"{before}<defs>\n<style>{_dark()}</style>{rest}"
    return "data:image/svg+xml;base64," + base64.b64encode(image.encode()).decode()


def _dark() -> str:
    """Rules that turn the colours of ``DARK`` where the reader prefers dark; never on paper."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme: dark){{{rules}}}"
