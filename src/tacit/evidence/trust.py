"""``trust.json``: whom an auditor trusts and what a run must prove. Lies outside the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from tacit.errors import ConfigError
from tacit.evidence.head import HEX_DIGEST
from tacit.evidence.report import CLAIMS
from tacit.files import read_limited, write_atomic
from tacit.trust.roster import Member, Roster
from tacit.types import PartyName

__all__ = ["Trust"]

FILE_LIMIT = 16 * 1024 * 1024
VERSION = 1
ALWAYS = ("authenticity", "integrity")
"""Without these no other claim means anything."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The roster that an auditor pins, and the claims that every bundle must prove.

    Args:
        roster: The federation's members.
        required: Claims.
        run: Run id in hexadecimal; a bundle of another run is refused. Empty: any run.
    """

    roster: Roster
    required: frozenset[str]
    run: str = ""

    @classmethod
    def of(cls, roster: Roster, required: Iterable[str] = CLAIMS, run: str = "") -> Trust:
        """Trusts the members of ``roster``; requires every claim by default.

        Raises:
            ConfigError: Not a claim, authenticity or integrity is not required, or no run id.
        """
        chosen = frozenset(required)
        for name in sorted(chosen - set(CLAIMS)):
            raise ConfigError(
                "evidence.trust", f"'{name}' is not a claim", remedy=f"claims: {', '.join(CLAIMS)}"
            )
        for name in ALWAYS:
            if name not in chosen:
                raise ConfigError(
                    "evidence.trust",
                    f"'{name}' is not required",
                    remedy=f"always require {' and '.join(ALWAYS)}",
                )
        if run and HEX_DIGEST.fullmatch(run) is None:
            raise ConfigError(
                "evidence.trust",
                "'run' is not a run id",
                remedy="64 hexadecimal digits, or leave it out",
            )
        return cls(roster=roster, required=chosen, run=run)

    def write(self, path: Path) -> None:
        """Writes ``trust.json``.

        Raises:
            TransportError: The disk refuses the write; nothing is left behind.
        """
        write_atomic(path, self.canonical())

    @classmethod
    def load(cls, path: Path) -> Trust:
        """Reads ``trust.json``.

        Raises:
            ConfigError: Missing, malformed, or its members do not have its roster digest.
        """
        data = read_limited(path, FILE_LIMIT)
        try:
            record = json.loads(data)
            trust = cls.of(_roster(record), record["required"], record.get("run", ""))
            # Byte for byte: a key that stands twice would be read differently by another reader.
            identical = trust.canonical() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _malformed(path) from error
        except ConfigError as error:
            raise ConfigError(
                error.code, f"{path}: {error.message}", remedy=error.remedy, file=str(path)
            ) from error
        if not identical:
            raise _malformed(path)
        return trust

    def canonical(self) -> bytes:
        """The bytes of ``trust.json``."""
        return rfc8785.dumps(self.to_record()) + b"\n"

    def to_record(self) -> dict[str, Any]:
        """Content of ``trust.json``."""
        run = {"run": self.run} if self.run else {}
        return run | {
            "version": VERSION,
            "federation": self.roster.federation,
            "roster": self.roster.digest.hex(),
            "members": {
                str(member.name): {
                    "key": member.key.hex(),
                    "roles": list(member.roles),
                    "operator": member.operator,
                    "region": member.region,
                }
                for member in self.roster.members
            },
            "required": [claim for claim in CLAIMS if claim in self.required],
        }


def _roster(record: Any) -> Roster:
    members = tuple(
        Member(
            PartyName(name),
            entry["operator"],
            entry["region"],
            tuple(entry["roles"]),
            bytes.fromhex(entry["key"]),
        )
        for name, entry in record["members"].items()
    )
    return Roster(record["federation"], members)


def _malformed(path: Path) -> ConfigError:
    return ConfigError(
        "evidence.trust",
        f"{path} is not a trust file, or its members do not match its roster digest",
        remedy="use the trust.json that was written when the run began, or ask the federation",
        file=str(path),
    )
