"""Names of a bundle's members."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tacit.types import PartyName, Role

__all__ = [
    "DERIVED",
    "FINAL",
    "INITIAL",
    "JOB",
    "MANIFEST",
    "OFFER",
    "REPORTED",
    "ROSTER",
    "SBOM",
    "SCHEMA",
    "SIGNATURE",
    "Place",
    "accept",
    "aggregate",
    "checkpoint",
    "events",
    "in_transcript",
    "is_known",
    "key",
    "mask_sum",
    "place",
    "policy",
    "policy_site",
    "proof",
    "statement",
    "statement_name",
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
SBOM = "sbom.cdx.json"

NAMED = frozenset({MANIFEST, SIGNATURE, ROSTER, JOB, SCHEMA, OFFER, INITIAL, FINAL, SBOM})
INPUTS = frozenset({ROSTER, JOB, SCHEMA, INITIAL})
"""What the transcript begins from; with every ``transcript/`` member it makes the run's digest."""

DERIVED = ("run", "privacy-budget", "aggregation", "model", "policy-approvals")
"""Statements that follow from the other members, and that the verifier derives again."""

REPORTED = ("attack-report", "attestation")
"""Statements that somebody adds: signed by a party and about this run, otherwise not judged."""

PARTY = r"(?P<party>[a-z0-9-]{1,64})"
# One name per round: no second spelling with another number of zeros.
ROUND = r"r(?P<round>(?!000000/)(?:[0-9]{6}|[1-9][0-9]{6}))"
MESSAGE = re.compile(
    rf"transcript/(?:(?P<accept>accept)-|{ROUND}/(?P<kind>key|upload|mask-sum)-){PARTY}\.msg"
)
AGGREGATE = re.compile(rf"transcript/{ROUND}/aggregate\.bin")
LOG = re.compile(rf"logs/{PARTY}\.(?:jsonl|proof|checkpoint)")
POLICY = re.compile(rf"policy/{PARTY}\.json")
STATEMENTS = {f"statements/{name}.dsse.json": name for name in (*DERIVED, *REPORTED)}

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
    """A party's events of the run, one a line."""
    return f"logs/{party}.jsonl"


def proof(party: PartyName) -> str:
    """What shows, with the events, that they are all of the run and lead to the checkpoint."""
    return f"logs/{party}.proof"


def checkpoint(party: PartyName) -> str:
    """The checkpoint that the record leads to, signed by the party and cosigned by others."""
    return f"logs/{party}.checkpoint"


def policy(site: PartyName) -> str:
    """What a site discloses of its policy and contract."""
    return f"policy/{site}.json"


def statement(name: str) -> str:
    """The signed statement of this name."""
    return f"statements/{name}.dsse.json"


@lru_cache(maxsize=2**16)
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
    """The party whose log, proof or checkpoint ``name`` holds."""
    match = LOG.fullmatch(name)
    return PartyName(match["party"]) if match else None


def policy_site(name: str) -> PartyName | None:
    """The site whose policy ``name`` discloses."""
    match = POLICY.fullmatch(name)
    return PartyName(match["party"]) if match else None


def statement_name(name: str) -> str | None:
    """The name of the statement that ``name`` holds."""
    return STATEMENTS.get(name)


def in_transcript(name: str) -> bool:
    """Whether ``name`` counts into the digest of the transcript."""
    return name in INPUTS or name.startswith("transcript/")


def is_known(name: str) -> bool:
    """Whether a bundle of this version may hold ``name``."""
    return (
        name in NAMED
        or place(name) is not None
        or closed_round(name) is not None
        or log_party(name) is not None
        or policy_site(name) is not None
        or statement_name(name) is not None
    )
