"""What the leader sees of one site: the update itself in a plain run, noise in a masked one.

The demonstration plays every party, so it can keep what the parties of a real run erase: the private
halves of the round keys. With them it opens a recorded upload as the leader did, and then does what no
coalition short of all helpers can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.special import chdtrc  # type: ignore[import-untyped]

from tacit.algebra.encoding import decode
from tacit.algebra.ring import Ring, RingVector
from tacit.attack.transcript import helper_keys_of, opened_vector
from tacit.privacy.plan import Plan
from tacit.secagg.masked import mask_sum, open_seeds, unmask
from tacit.show import table
from tacit.trust.roster import Roster
from tacit.types import Digest, Opener, PartyName
from tacit.wire.envelope import Address, Envelope, open_message
from tacit.wire.messages import RoundStart, Upload

__all__ = [
    "Glimpse",
    "LeaderView",
    "Recorder",
    "Recording",
    "Seen",
    "leader_view",
    "leader_view_table",
    "remove_masks",
    "uniformity",
    "uploads_seen",
]

BYTE_VALUES = 256
LEAST_EXPECTED = 5
"""Expected count per cell that makes the chi-square law a good approximation."""

SHOWN_NUMBERS = 4
SHOWN_BYTES = 12


@dataclass(slots=True)
class Recorder:
    """A tap: copies what the leader receives, and what it sends to one site."""

    site: PartyName
    envelopes: list[Envelope] = field(default_factory=list)

    def __call__(self, envelope: Envelope) -> Envelope:
        """Notes an envelope and passes it on as it is."""
        if envelope.receiver.role == "leader" or envelope.receiver == Address(self.site, "client"):
            self.envelopes.append(envelope)
        return envelope


@dataclass(frozen=True, slots=True)
class Seen:
    """One upload of the site, decrypted with the leader's round key, and the round's helper keys."""

    round: int
    upload: Upload
    vector: RingVector
    helper_keys: tuple[tuple[PartyName, bytes], ...]


def uploads_seen(
    recorder: Recorder, roster: Roster, kept: Mapping[bytes, Opener], ring: Ring
) -> list[Seen]:
    """Every upload that the leader received from the recorded site, as the leader decrypted it."""
    starts: dict[int, RoundStart] = {}
    seen: list[Seen] = []
    for envelope in recorder.envelopes:
        message = open_message(envelope.message, roster.authenticate)
        body = message.body
        if isinstance(body, RoundStart):
            starts[message.round] = body
        elif isinstance(body, Upload) and message.sender == Address(recorder.site, "client"):
            start = starts[message.round]
            vector = opened_vector(message, envelope, kept[start.leader_key], ring)
            seen.append(Seen(message.round, body, vector, helper_keys_of(start, roster)))
    return seen


def remove_masks(
    seen: Seen,
    ring: Ring,
    site: PartyName,
    kept: Mapping[bytes, Opener],
    without: PartyName | None = None,
) -> RingVector:
    """The upload less the masks of every helper but ``without``, in the ring."""
    sealed = {seed.helper: seed.sealed for seed in seen.upload.seeds}
    sums = []
    for helper, key in seen.helper_keys:
        if helper != without:
            streams = open_seeds(
                [(site, sealed[helper])],
                context=Digest(seen.upload.context),
                helper=helper,
                opener=kept[key],
            )
            sums.append(mask_sum(streams, ring, len(seen.vector)))
    return unmask([seen.vector], sums, ring)


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


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished run with what was recorded of it."""

    recorder: Recorder
    kept: Mapping[bytes, Opener]
    roster: Roster
    plan: Plan

    def seen(self) -> list[Seen]:
        """The recorded site's uploads."""
        return uploads_seen(self.recorder, self.roster, self.kept, self.ring)

    @property
    def ring(self) -> Ring:
        """The ring of the run's vectors."""
        return Ring(self.plan.ring_bits)


def leader_view(plain: Recording, masked: Recording) -> LeaderView:
    """Puts a plain and a masked run of the same site side by side."""
    site = masked.recorder.site
    shown, hidden = plain.seen(), masked.seen()
    update = decode(plain.ring.centred(shown[0].vector), plain.plan.grid)
    weight = float(update[-1])  # FedAvg's last element: share of the job's expected records
    ring = masked.ring
    opened = [remove_masks(seen, ring, site, masked.kept) for seen in hidden]
    first = decode(ring.centred(opened[0]), masked.plan.grid)
    uploads = [seen.vector for seen in hidden]
    glimpses = {
        "plain": _glimpse(
            "plain FedAvg: the update",
            [seen.vector for seen in shown],
            _numbers(update[:-1] / weight),
        ),
        "masked": _glimpse("Tacit: masked bytes", uploads),
        "opened": _glimpse("  with every helper's key", opened, _numbers(first)),
    }
    for helper, _ in hidden[0].helper_keys:
        rest = [remove_masks(seen, ring, site, masked.kept, helper) for seen in hidden]
        glimpses[f"without {helper}"] = _glimpse(f"  with all keys but {helper}'s", rest)
    return LeaderView(
        site=site,
        rounds=len(hidden),
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
