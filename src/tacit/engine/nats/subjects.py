"""Subjects: ``tacit.FED.to.RECEIVER.ROLE.SENDER.RUN``, so that the server can check who writes to whom."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tacit.errors import DecodeError
from tacit.types import PartyName
from tacit.wire.envelope import Address

__all__ = ["Route", "all_subjects", "inbox_prefix", "stream_name", "subjects_to"]

NAME = re.compile("[a-z0-9-]{1,64}")
RUN = re.compile("[0-9a-f]{64}")


def stream_name(federation: str) -> str:
    """The stream of a federation.

    Args:
        federation: ``slug`` of its name.
    """
    return f"T-{federation}"


def all_subjects(federation: str) -> str:
    """The subjects of every message of a federation."""
    return f"tacit.{federation}.to.>"


def subjects_to(federation: str, receiver: PartyName) -> str:
    """The subjects of every message to a member."""
    return f"tacit.{federation}.to.{receiver}.>"


def inbox_prefix(member: PartyName) -> str:
    """Where a member is answered; nobody else may subscribe there."""
    return f"_INBOX-{member}"


@dataclass(frozen=True, slots=True)
class Route:
    """Whom a parcel is for, who publishes it, and the run it belongs to (64 hexadecimal digits)."""

    receiver: Address
    sender: PartyName
    run: str

    def subject(self, federation: str) -> str:
        """The subject in a federation."""
        receiver = self.receiver
        return f"tacit.{federation}.to.{receiver.party}.{receiver.role}.{self.sender}.{self.run}"

    @classmethod
    def parse(cls, federation: str, subject: str) -> Route:
        """Reads a subject.

        Raises:
            DecodeError: Not a subject of this federation.
        """
        parts = subject.split(".")
        if len(parts) != 7 or parts[:3] != ["tacit", federation, "to"]:
            raise DecodeError("parcel.subject", "a subject of another federation or form")
        _, _, _, receiver, role, sender, run = parts
        if not NAME.fullmatch(receiver) or not NAME.fullmatch(sender) or not RUN.fullmatch(run):
            raise DecodeError("parcel.subject", "a subject names no party or run")
        return cls(Address.parse(f"{receiver}/{role}"), PartyName(sender), run)
