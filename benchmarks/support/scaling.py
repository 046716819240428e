"""How the time of client, helper and leader grows with clients and parameters, as a figure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from support import protocol
from support.machine import Row, row, say, seconds
from tacit.algebra.ring import Ring
from tacit.secagg.masked import RunningSum, mask_sum, open_seeds
from tacit.wire.envelope import check_chunks, split_chunks

BITS = 16
FIXED_CLIENTS = 10
FIXED_LENGTH = 10_000


@dataclass(frozen=True)
class Series:
    """Times of one role over one quantity, and the line ``constant + slope * x`` through them."""

    role: str
    over: str
    fixed: str
    x: list[int]
    seconds: list[float]
    constant: float
    slope: float
    r_squared: float
    worst: float

    @property
    def label(self) -> str:
        """For the figure's legend."""
        if self.slope == 0.0:
            return f"{self.role}: does not grow"
        per = f"{self.slope * 1e9:.3g} ns per parameter"
        if self.over == "n":
            per = f"{self.slope * 1e6:.3g} µs per client"
        return f"{self.role}: {per}, R² = {self.r_squared:.4f}"


def fit(x: list[int], taken: list[float]) -> tuple[float, float, float, float]:
    """The line of least relative error, neither of whose parts is negative.

    Returns:
        Constant, slope, R² of the relative errors, the largest relative error.
    """
    xs, ys = np.array(x, dtype=float), np.array(taken)
    weights = 1.0 / ys
    design = np.stack([weights, xs * weights], axis=1)
    (constant, slope), *_ = np.linalg.lstsq(design, np.ones_like(ys), rcond=None)
    if constant < 0.0:
        constant, slope = 0.0, float(1.0 / np.mean(xs * weights))
    if slope < 0.0:
        constant, slope = float(1.0 / np.mean(weights)), 0.0
    relative = (constant + slope * xs) / ys - 1.0
    logs = np.log(ys)
    residual = np.log1p(relative)
    spread = float(np.sum((logs - logs.mean()) ** 2))
    r_squared = 1.0 - float(np.sum(residual**2)) / spread if slope > 0.0 else 0.0
    return float(constant), float(slope), r_squared, float(np.abs(relative).max())


def _client(clients: int, size: int) -> Callable[[], object]:
    ring, plan = Ring(BITS), protocol.plan(BITS, size)
    values = protocol.update(size)
    return lambda: protocol.hide(protocol.encode(values, plan), ring, 0)


def _helper(clients: int, size: int) -> Callable[[], object]:
    ring, who = Ring(BITS), protocol.helpers()
    sealed = [
        (protocol.client_name(n), protocol.hide(ring.zeros(1), ring, n).seeds[0].sealed)
        for n in range(clients)
    ]

    def answer() -> None:
        keys = open_seeds(
            sealed, context=protocol.CONTEXT, helper=who.names[0], opener=who.openers[0]
        )
        mask_sum(keys, ring, size)

    return answer


def _leader(clients: int, size: int) -> Callable[[], object]:
    ring = Ring(BITS)
    vector, chunks = split_chunks(ring.to_bytes(protocol.random_vector(ring, size)), size)

    def combine() -> None:
        total = RunningSum(ring, size)
        for _ in range(clients):
            for start, chunk in check_chunks(vector, chunks, size, ring.item_bytes):
                total.add_chunk(start, chunk)
        for _ in range(protocol.HELPERS):
            for start, chunk in check_chunks(vector, chunks, size, ring.item_bytes):
                total.subtract_chunk(start, chunk)

    return combine


WORK: dict[str, Callable[[int, int], Callable[[], object]]] = {
    "client": _client,
    "helper": _helper,
    "leader": _leader,
}


def _timed(role: str, clients: int, size: int) -> float:
    say(f"scaling: {role}, n = {clients}, d = {size:.0e}")
    call = WORK[role](clients, size)
    first = seconds(call)
    repeats = 1 if first > 5 else 3 if first > 0.2 else 9
    return statistics.median(seconds(call) for _ in range(repeats))


def _series(role: str, over: str, values: list[int]) -> Series:
    if over == "d":
        fixed = "one client, 3 helpers" if role == "client" else f"n = {FIXED_CLIENTS}"
        taken = [_timed(role, FIXED_CLIENTS, value) for value in values]
    else:
        fixed = f"d = {FIXED_LENGTH:,}"
        taken = [_timed(role, value, FIXED_LENGTH) for value in values]
    constant, slope, r_squared, worst = fit(values, taken)
    return Series(role, over, fixed, values, taken, constant, slope, r_squared, worst)


def rows(sizes: list[int], counts: list[int], figure: Path | None, machine: Any) -> Iterator[Row]:
    """Measures all series; draws them if asked."""
    found = [
        *(_series(role, "d", sizes) for role in WORK),
        *(_series(role, "n", counts) for role in WORK),
    ]
    if figure is not None:
        _draw(found, figure)
        content = {"machine": machine, "bits": BITS, "series": [asdict(one) for one in found]}
        figure.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    for one in found:
        unit = "parameter" if one.over == "d" else "client"
        per = one.slope * (1e9 if one.over == "d" else 1e6)
        how = (
            f"line through {one.over} = {one.x[0]:,} to {one.x[-1]:,}, {one.fixed}, b = {BITS}: "
            f"{one.constant * 1e3:.2f} ms at 0, R² = {one.r_squared:.4f}, "
            f"largest error {one.worst:.0%}"
        )
        name = f"scaling: {one.role} over {one.over}"
        yield row(name, per, f"{'ns' if one.over == 'd' else 'us'}/{unit}", how)


def _draw(found: list[Series], path: Path) -> None:
    drawing = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(drawing)
    panels: Any = drawing.subplots(1, 2)
    titles = {"d": "parameters d", "n": "clients n"}
    for panel, over in zip(panels, titles, strict=True):
        chosen = [one for one in found if one.over == over]
        for one, colour in zip(chosen, ("#0b6e99", "#b3541e", "#4f7a28"), strict=False):
            xs = np.geomspace(one.x[0], one.x[-1], 100)
            panel.plot(one.x, one.seconds, "o", color=colour)
            panel.plot(xs, one.constant + one.slope * xs, color=colour, label=one.label)
        panel.set(xscale="log", yscale="log", xlabel=titles[over], ylabel="seconds on one core")
        fixed = sorted({f"{one.role}: {one.fixed}" for one in chosen})
        panel.set_title("; ".join(fixed), fontsize=8)
        panel.grid(visible=True, which="major", alpha=0.3)
        panel.legend(fontsize=8, title="linear fits", title_fontsize=8)
    drawing.suptitle(f"masked, b = {BITS}: client encodes, masks and seals; helper opens and adds")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)
