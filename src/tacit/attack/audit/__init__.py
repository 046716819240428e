"""Audits: what scratch runs prove about epsilon, and whether every protection is really there."""

from __future__ import annotations

from tacit.attack.audit.epsilon import audit_epsilon
from tacit.attack.audit.protocol import PARTS, Part, audit_protocol
from tacit.attack.defences import DEFENCES, Defence
from tacit.attack.findings import Attack, Findings, OnProgress
from tacit.attack.workbench import Workbench

__all__ = ["ATTACKS", "PARTS", "Part", "audit", "audit_epsilon", "audit_protocol"]

ATTACKS: tuple[Attack, ...] = (
    Attack("formal-epsilon", "audit-epsilon", audit_epsilon, DEFENCES),
    Attack("formal-epsilon", "audit-protocol", audit_protocol, DEFENCES, alike=True),
)


def audit(
    bench: Workbench, defence: Defence = "tacit", on_progress: OnProgress = lambda _: None
) -> Findings:
    """All audits of one column in one: the claim, what was found of it, and every alarm.

    Args:
        bench: The job under attack.
        defence: The column.
        on_progress: Called with the share done.
    """
    formal = audit_epsilon(bench, defence, lambda share: on_progress(share / 2.0))
    protocol = audit_protocol(bench, defence, lambda share: on_progress((1.0 + share) / 2.0))
    return Findings(
        adversary=formal.adversary,
        measured={**formal.measured, **protocol.measured},
        notes=(*formal.notes, *protocol.notes),
        alarms=(*formal.alarms, *protocol.alarms),
        details=formal.details,
    )
