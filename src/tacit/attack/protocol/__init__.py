"""Protocol adversaries: malicious leaders, alone and with helpers and clients."""

from tacit.attack.protocol.report import ATTACKS

__all__ = ["ATTACKS"]
