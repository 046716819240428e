"""Names of a bundle's members."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tacit.types import PartyName, Role

__all__ = [
    "FINAL",
    "INITIAL",
    "JOB",
    "MANIFEST",
    "OFFER",
    "ROSTER",
    "SCHEMA",
    "SIGNATURE",
    "Place",
    "accept",
    "aggregate",
    "checkpoint",
    "events",
    "is_known",
    "key",
    "mask_sum",
    "place",
    "upload",
]

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
ROSTER = "roster.json"
JOB = "job.json"
SCHEMA = "schema.json"
OFFER = "transcript/offer.msg"
INITIAL = "model/initial.bin"
FINAL = "model/final.safetensors"

NAMED = frozenset({MANIFEST, SIGNATURE, ROSTER, JOB, SCHEMA, OFFER, INITIAL, FINAL})
PARTY = r"(?P<party>[a-z0-9-]{1,64})"
# One name per round: no second spelling with another number of zeros.
ROUND = r"r(?P<round>(?!000000/)(?:[0-9]{6}|[1-9][0-9]{6}))"
MESSAGE = re.compile(
    rf"transcript/(?:(?P<accept>accept)-|{ROUND}/(?P<kind>key|upload|mask-sum)-){PARTY}\.msg"
)
AGGREGATE = re.compile(rf"transcript/{ROUND}/aggregate\.bin")
LOG = re.compile(rf"logs/{PARTY}\.(?:jsonl|checkpoint)")

TYPES: dict[str, tuple[str, Role]] = {
    "accept": ("accept", "client"),
    "key": ("helper-key", "helper"),
    "upload": ("upload", "client"),
    "mask-sum": ("mask-sum", "helper"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What a transcript member must be: message type, sender, its role, and the round (0 for none)."""

    type: str
    party: PartyName
    role: Role
    round: int


def accept(party: PartyName) -> str:
    """The signed ``Accept`` of a client."""
    return f"transcript/accept-{party}.msg"


def key(round_number: int, helper: PartyName) -> str:
    """The signed ``HelperKey`` of a helper for a round."""
    return f"transcript/r{round_number:06d}/key-{helper}.msg"


def upload(round_number: int, client: PartyName) -> str:
    """The signed ``Upload`` of a client in a round."""
    return f"transcript/r{round_number:06d}/upload-{client}.msg"


def mask_sum(round_number: int, helper: PartyName) -> str:
    """The signed ``MaskSum`` of a helper in a round."""
    return f"transcript/r{round_number:06d}/mask-sum-{helper}.msg"


def aggregate(round_number: int) -> str:
    """The sum of a closed round, uint32 little-endian."""
    return f"transcript/r{round_number:06d}/aggregate.bin"


def events(party: PartyName) -> str:
    """A party's events of the run, with proofs."""
    return f"logs/{party}.jsonl"


def checkpoint(party: PartyName) -> str:
    """The signed checkpoint that the proofs lead to."""
    return f"logs/{party}.checkpoint"


def place(name: str) -> Place | None:
    """What the message at ``name`` must be; None if no party's message belongs there."""
    match = MESSAGE.fullmatch(name)
    if match is None:
        return None
    kind, role = TYPES[match["accept"] or match["kind"]]
    return Place(kind, PartyName(match["party"]), role, int(match["round"] or 0))


def closed_round(name: str) -> int | None:
    """The round whose aggregate ``name`` holds."""
    match = AGGREGATE.fullmatch(name)
    return int(match["round"]) if match else None


def log_party(name: str) -> PartyName | None:
    """The party whose log or checkpoint ``name`` holds."""
    match = LOG.fullmatch(name)
    return PartyName(match["party"]) if match else None


def is_known(name: str) -> bool:
    """Whether a bundle of this version may hold ``name``."""
    return (
        name in NAMED
        or place(name) is not None
        or closed_round(name) is not None
        or log_party(name) is not None
    )
