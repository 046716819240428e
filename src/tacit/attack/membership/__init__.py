"""Membership inference: from the released model, and from the updates or sums of every round."""

from __future__ import annotations

from tacit.attack.defences import DEFENCES
from tacit.attack.findings import Attack
from tacit.attack.membership.attack import run_membership

__all__ = ["ATTACKS"]

ATTACKS: tuple[Attack, ...] = (Attack("membership", "membership", run_membership, DEFENCES),)
