"""The 18 identifiers of the HIPAA Safe Harbor method, in the order of the rule."""

from __future__ import annotations

from typing import Literal

__all__ = ["HipaaIdentifier"]

HipaaIdentifier = Literal[
    "name",
    "geography",
    "date",
    "telephone",
    "fax",
    "email",
    "social-security-number",
    "medical-record-number",
    "health-plan-number",
    "account-number",
    "licence-number",
    "vehicle",
    "device",
    "url",
    "ip-address",
    "biometric",
    "photograph",
    "other",
]
"""45 CFR 164.514(b)(2)(i)(A) to (R)."""
