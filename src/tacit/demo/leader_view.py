"""What the leader sees of one site: the update itself in a plain run, noise in a masked one.

The demonstration plays every party, so it can keep what the parties of a real run erase: the private
halves of the round keys. With them it opens a recorded upload as the leader did, and then does what no
coalition short of all helpers can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.special import chdtrc  # type: ignore[import-untyped]

from tacit.algebra.ring import RingVector
from tacit.attack.transcript import Transcript
from tacit.show import table
from tacit.types import PartyName

__all__ = ["Glimpse", "LeaderView", "leader_view", "leader_view_table", "uniformity"]

BYTE_VALUES = 256
LEAST_EXPECTED = 5
"""Expected count per cell that makes the chi-square law a good approximation."""

SHOWN_NUMBERS = 4
SHOWN_BYTES = 12


def uniformity(data: bytes) -> float:
    """p-value of Pearson's chi-square test that bytes are uniform, 255 degrees of freedom.

    Args:
        data: At least 1280 bytes, so that every value is expected five times.
    """
    if len(data) < LEAST_EXPECTED * BYTE_VALUES:
        raise ValueError("too few bytes for a chi-square test")
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=BYTE_VALUES)
    expected = len(data) / BYTE_VALUES
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return float(chdtrc(BYTE_VALUES - 1, statistic))


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One thing to look at.

    Args:
        what: In words.
        sample: How it begins in round 1, as numbers or hexadecimal bytes.
        p: Whether the bytes of all rounds look uniform.
    """

    what: str
    sample: str
    p: float


@dataclass(frozen=True, slots=True)
class LeaderView:
    """A plain and a masked run of one site, side by side; every value is plain JSON.

    Args:
        site: Whose uploads these are.
        rounds: How many of them.
        size: Bytes of the masked uploads together.
        plain_records: The site's number of records, which the plain update tells as well.
        opened_norm: L2 norm of the first masked update once every mask is removed.
        glimpses: ``plain``, ``masked``, ``opened`` and ``without NAME``, in this order.
    """

    site: str
    rounds: int
    size: int
    plain_records: int
    opened_norm: float
    glimpses: Mapping[str, Glimpse]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LeaderView:
        """Reads what ``dataclasses.asdict`` made."""
        glimpses = {key: Glimpse(**glimpse) for key, glimpse in record["glimpses"].items()}
        return cls(**{**record, "glimpses": glimpses})


def leader_view(site: PartyName, plain: Transcript, masked: Transcript) -> LeaderView:
    """Puts a plain and a masked run of the same site side by side."""
    shown = [one.uploads[site] for one in plain.closed]
    update = plain.values(plain.terms.ring.centred(shown[0]))
    weight = float(update[-1])  # FedAvg's last element: share of the job's expected records
    uploads = [one.uploads[site] for one in masked.closed]
    helpers = [name for name, _ in masked.closed[0].helper_keys]
    opened = [masked.less_masks(one, site, helpers) for one in masked.closed]
    first = masked.values(masked.terms.ring.centred(opened[0]))
    glimpses = {
        "plain": _glimpse("plain FedAvg: the update", shown, _numbers(update[:-1] / weight)),
        "masked": _glimpse("Tacit: masked bytes", uploads),
        "opened": _glimpse("  with every helper's key", opened, _numbers(first)),
    }
    for helper in helpers:
        others = [name for name in helpers if name != helper]
        rest = [masked.less_masks(one, site, others) for one in masked.closed]
        glimpses[f"without {helper}"] = _glimpse(f"  with all keys but {helper}'s", rest)
    return LeaderView(
        site=site,
        rounds=len(uploads),
        size=sum(vector.nbytes for vector in uploads),
        plain_records=round(weight * plain.plan.expected_units),
        opened_norm=float(np.linalg.norm(first)),
        glimpses=glimpses,
    )


def leader_view_table(view: LeaderView) -> Table:
    """The comparison for people."""
    rows = [(glimpse.what, glimpse.sample, _p(glimpse.p)) for glimpse in view.glimpses.values()]
    return table("", (f"of {view.site}, in round 1", "begins with", "p"), rows)


def _glimpse(what: str, vectors: list[RingVector], sample: str = "") -> Glimpse:
    data = b"".join(
        vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes() for vector in vectors
    )
    return Glimpse(what, sample or data[:SHOWN_BYTES].hex(" "), uniformity(data))


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:+.4f}" for value in values[:SHOWN_NUMBERS])


def _p(value: float) -> str:
    if value >= 0.0005:
        return f"{value:.3f}"
    return f"< 1e{math.floor(math.log10(value)) + 1}" if value > 1e-300 else "< 1e-300"
