"""What made-up sites disclose of their policy: small, signed, and changeable part by part."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from tacit.evidence.disclosed import DOMAIN
from tacit.trust.identity import Identity
from tacit.types import Digest, Entropy

__all__ = ["SiteDisclosure"]

RULE = {"effect": "permit", "conditions": [], "annotations": {"id": "allow"}}
LOCKED_AT = "2026-11-26T23:50:15Z"


@dataclass
class SiteDisclosure:
    """The record of a site, and its approver's key.

    Args:
        site: The site.
        approver: Who approved its policy.
        record: Content of ``policy/SITE.json``.
    """

    site: str
    approver: Identity
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, site: str, entropy: Entropy, allowed_regions: tuple[str, ...] | None
    ) -> SiteDisclosure:
        """An approved policy with one rule, and a contract."""
        approver = Identity.generate(entropy)
        regions = None if allowed_regions is None else list(allowed_regions)
        contract = {
            "apiVersion": "v3.1.0",
            "kind": "DataContract",
            "name": "synthetic",
            "description": f"records of {site}",
            "allowed_regions": regions,
        }
        policies = {"allow.cedar": [RULE]}
        parts = {
            "version": 1,
            "policy": hashlib.sha256(b"policy").hexdigest(),
            "policies": {name: _rules_digest(rules) for name, rules in policies.items()},
            "contracts": {"synthetic": _digest(contract)},
            "tests": {"cases.toml": hashlib.sha256(b"cases").hexdigest()},
        }
        made = cls(
            site,
            approver,
            {
                "version": 1,
                "site": site,
                "approvals": 1,
                "approvers": {"officer": approver.public_key.hex()},
                "lock": {"locked_at": LOCKED_AT, "parts": parts, "signatures": {}},
                "policies": policies,
                "contract": contract,
            },
        )
        made.approve()
        return made

    def approve(self) -> None:
        """The approver signs the lock as it is now."""
        lock = self.record["lock"]
        statement = {
            "version": 1,
            "site": self.site,
            "digest": self.policy_digest.hex(),
            "locked_at": lock["locked_at"],
        }
        signed = DOMAIN + rfc8785.dumps(statement)
        lock["signatures"] = {"officer": self.approver.sign(signed).hex()}

    @property
    def policy_digest(self) -> Digest:
        """Digest of the lock, which the site accepts under."""
        parts = self.record["lock"]["parts"]
        return Digest(bytes.fromhex(_digest({"site": self.site, **parts})))

    @property
    def contract_digest(self) -> Digest:
        """Digest of the contract, likewise."""
        return Digest(bytes.fromhex(_digest(self.record["contract"])))

    def canonical(self) -> bytes:
        """RFC 8785 bytes of the record."""
        return rfc8785.dumps(self.record)

    def copy(self) -> SiteDisclosure:
        """A copy to change."""
        return SiteDisclosure(self.site, self.approver, copy.deepcopy(self.record))


def _rules_digest(rules: list[Any]) -> str:
    return _digest([rule.decode() for rule in sorted(map(rfc8785.dumps, rules))])


def _digest(content: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()
