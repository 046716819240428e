"""What the verifier says: one status and reason per claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["CLAIMS", "Claim", "Findings", "Report", "Status", "default_required"]

CLAIMS = (
    "authenticity",
    "integrity",
    "log-inclusion",
    "witness",
    "same-job",
    "cohort",
    "one-sum-per-upload",
    "policy",
    "receipts",
    "residency",
    "epsilon",
    "budget",
    "model-chain",
    "statements",
)
"""Stable ids of all claims, in the order of a report."""

MAX_REASONS = 3


class Status(Enum):
    """What is known about a claim."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    NOT_PROVEN = "NOT PROVEN"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, its status and why."""

    id: str
    status: Status
    reason: str


def default_required(*, masked: bool, private: bool, disclosed: bool = True) -> tuple[str, ...]:
    """The claims that a complete run of this kind proves.

    Args:
        masked: Whether contributions are masked.
        private: Whether there is differential privacy.
        disclosed: Whether every site discloses its policy and contract.
    """
    without = {"epsilon", "budget"} if not private else set()
    if not masked:
        without.add("one-sum-per-upload")
    if not disclosed:
        without.add("residency")
    return tuple(claim for claim in CLAIMS if claim not in without)


class Findings:
    """Collects what speaks against one claim."""

    def __init__(self, claim: str) -> None:
        self.claim = claim
        self._failed: list[str] = []
        self._unproven: list[str] = []

    def fail(self, reason: str) -> None:
        """The evidence contradicts the claim."""
        self._failed.append(reason)

    def unproven(self, reason: str) -> None:
        """The evidence does not reach."""
        self._unproven.append(reason)

    def require(self, condition: bool, reason: str) -> bool:
        """Fails with ``reason`` unless ``condition``; returns ``condition``."""
        if not condition:
            self.fail(reason)
        return condition

    def conclude(self, passed: str | Callable[[], str]) -> Claim:
        """FAIL before NOT PROVEN before PASS."""
        if self._failed:
            return Claim(self.claim, Status.FAIL, _summary(self._failed))
        if self._unproven:
            return Claim(self.claim, Status.NOT_PROVEN, _summary(self._unproven))
        return Claim(self.claim, Status.PASS, passed if isinstance(passed, str) else passed())


def _summary(reasons: list[str]) -> str:
    distinct = list(dict.fromkeys(reasons))
    more = len(distinct) - MAX_REASONS
    return "; ".join(distinct[:MAX_REASONS]) + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Report:
    """The verifier's result.

    Args:
        bundle: SHA-256 of the bundle in hexadecimal.
        federation: As the bundle says; empty if it is unreadable.
        run: Run id in hexadecimal, likewise.
        status: ``complete`` or ``partial``, likewise.
        simulated: What in the run was not real.
        claims: Every claim of ``CLAIMS``, in order.
        required: The claims that the trust file requires; none without one.
    """

    bundle: str
    federation: str
    run: str
    status: str
    simulated: tuple[str, ...]
    claims: tuple[Claim, ...]
    required: frozenset[str] = field(default_factory=frozenset)

    def claim(self, name: str) -> Claim:
        """The claim with this id."""
        return next(claim for claim in self.claims if claim.id == name)

    @property
    def exit_code(self) -> int:
        """1 on any FAIL, 2 when a required claim is NOT PROVEN, else 0."""
        if any(claim.status is Status.FAIL for claim in self.claims):
            return 1
        missing = any(
            claim.status is Status.NOT_PROVEN and claim.id in self.required for claim in self.claims
        )
        return 2 if missing else 0

    def to_record(self) -> dict[str, object]:
        """For scripts."""
        return {
            "version": 1,
            "bundle": self.bundle,
            "federation": self.federation,
            "run": self.run,
            "status": self.status,
            "simulated": list(self.simulated),
            "claims": [
                {
                    "id": claim.id,
                    "status": claim.status.value,
                    "reason": claim.reason,
                    "required": claim.id in self.required,
                }
                for claim in self.claims
            ],
            "exit_code": self.exit_code,
        }

    def to_json(self) -> str:
        """``to_record`` as JSON text."""
        return json.dumps(self.to_record(), indent=2)

    def __str__(self) -> str:
        width = max(len(claim.id) for claim in self.claims)
        return "\n".join(
            f"{claim.id:{width}}  {claim.status.value:10}  {claim.reason}" for claim in self.claims
        )
