"""Figures of the report's page as ``data:`` addresses: pictures, ROC curves, figures over something."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import DEFENCES, TITLES, Defence
from tacit.attack.findings import Curve, Roc
from tacit.attack.measure import Ceiling
from tacit.evidence.plots import INK, LINES, PALE, as_svg, new_figure

__all__ = ["draw_curves", "draw_picture", "draw_rocs"]

MARKS = ("o", "s", "^", "D", "v")
LEAST_RATE = 1e-4
MOST_START = 0.01
"""Where a curve begins whose own points do not tell."""
SHIFT = 0.006
"""Lines at the same place are drawn beside each other: part of the axis that one is moved by."""


def draw_picture(levels: Sequence[float], shape: tuple[int, int]) -> str:
    """Grey levels, 0 to 1, as a PNG with one pixel each; what lies outside is cut off."""
    height, width = shape
    grey = np.clip(np.nan_to_num(np.asarray(levels, np.float64)), 0.0, 1.0)
    rows = np.rint(grey * 255.0).astype(np.uint8).reshape(height, width)
    lines = np.hstack([np.zeros((height, 1), np.uint8), rows])
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def draw_rocs(rocs: Sequence[tuple[Defence, Roc]], ceiling: Ceiling) -> str:
    """ROC curves of one attack, one line a column, on logarithmic axes, with chance and the bound.

    Args:
        rocs: By column.
        ceiling: Of the job; drawn if it bounds anything.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure, axes = new_figure(4.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    rates = np.geomspace(LEAST_RATE, 1.0, 200)
    axes.plot(rates, rates, color=INK, linestyle=":", linewidth=1.2, label="chance")
    if math.isfinite(ceiling.epsilon):
        bounds = [ceiling.true_positives(rate) for rate in rates]
        label = "bound of DP on the job"
        axes.plot(rates, bounds, color=INK, linestyle="--", linewidth=1.2, label=label)
    finest = min((_finest(roc) for _, roc in rocs), default=1.0)
    for column, roc in rocs:
        x, y = np.maximum(_seen(roc, finest), LEAST_RATE).T
        style = {"where": "post", "linewidth": 1.8, "color": _colour(column)}
        axes.step(x, y, label=TITLES[column], **style)
    axes.set_xlim(LEAST_RATE, 1.0)
    axes.set_ylim(LEAST_RATE, 1.3)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.grid(color=PALE, linewidth=0.5)
    _legend(figure, axes)
    return as_svg(figure, "roc")


def _finest(roc: Roc) -> float:
    """The smallest false positive rate that was told from none at all."""
    return min((x for x, _ in roc.points if LEAST_RATE < x < 1.0), default=1.0)


def _seen(roc: Roc, finest: float) -> NDArray[np.float64]:
    """The points of a curve from where it was measured: a rate of one in a thousand needs a thousand trials."""
    own = _finest(roc)
    start = own if own < 1.0 else min(finest, MOST_START)
    first = max((y for x, y in roc.points if x <= start), default=0.0)
    rest = [(x, y) for x, y in roc.points if x > start]
    return np.asarray([(start, first), *rest, (1.0, 1.0)], np.float64)


def draw_curves(curves: Sequence[tuple[Defence, Curve]]) -> str:
    """One figure over rounds, cohort size or the like, one line a column, with 95% intervals.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure, axes = new_figure(3.9)
    places = [at for _, curve in curves for at, _ in curve.points]
    span = (max(places) - min(places)) or 1.0
    for index, (column, curve) in enumerate(curves):
        x = [at + (index - (len(curves) - 1) / 2) * SHIFT * span for at, _ in curve.points]
        y = [of.value for _, of in curve.points]
        errors = [
            [_reach(of.value - of.low) for _, of in curve.points],
            [_reach(of.high - of.value) for _, of in curve.points],
        ]
        style = {"color": _colour(column), "linewidth": 1.6, "elinewidth": 1.0, "capsize": 2.5}
        mark = {"marker": MARKS[DEFENCES.index(column)], "markersize": 4}
        axes.errorbar(x, y, yerr=errors, label=TITLES[column], **style, **mark)
    nulls = sorted(
        {(at, of.null) for _, curve in curves for at, of in curve.points if of.null is not None}
    )
    if nulls:
        axes.plot(
            *zip(*nulls, strict=True), color=INK, linestyle=":", linewidth=1.2, label="chance"
        )
    first = curves[0][1]
    axes.set_xlabel(first.over, parse_math=False)
    axes.set_ylabel(first.metric, parse_math=False)
    if len(set(places)) <= 8:
        axes.set_xticks(sorted(set(places)), [f"{at:g}" for at in sorted(set(places))])
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    _legend(figure, axes)
    return as_svg(figure, "curve")


def _reach(length: float) -> float:
    """Of an error bar: none towards infinity, which no axis could show beside the values."""
    return length if math.isfinite(length) else 0.0


def _colour(column: Defence) -> str:
    """Tacit in the house's blue, the others in the colours that follow."""
    return LINES[(len(DEFENCES) - 1 - DEFENCES.index(column)) % len(LINES)]


def _legend(figure: Any, axes: Any) -> None:
    """Below the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 3, "frameon": False}
    legend = figure.legend(handles, labels, fontsize=8.5, labelcolor=INK, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)
