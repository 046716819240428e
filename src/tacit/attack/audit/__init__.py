"""Audits: what scratch runs prove about epsilon, and whether every protection is really there."""

from __future__ import annotations

from tacit.attack.audit.epsilon import audit_epsilon
from tacit.attack.audit.protocol import PARTS, Part, audit_protocol
from tacit.attack.defences import DEFENCES
from tacit.attack.findings import Attack

__all__ = ["ATTACKS", "PARTS", "Part", "audit_epsilon", "audit_protocol"]

ATTACKS: tuple[Attack, ...] = (
    Attack("formal-epsilon", "audit-epsilon", audit_epsilon, DEFENCES),
    Attack("formal-epsilon", "audit-protocol", audit_protocol, DEFENCES),
)
