"""Poisoning: malicious clients inside the real protocol."""

from tacit.attack.poisoning.report import ATTACKS

__all__ = ["ATTACKS"]
