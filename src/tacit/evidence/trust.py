"""``trust.json``: whom an auditor trusts and what a run must prove. Lies outside the bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rfc8785

from tacit.errors import ConfigError
from tacit.evidence.head import HEX_DIGEST
from tacit.evidence.report import CLAIMS
from tacit.files import read_limited, write_atomic
from tacit.ledger.log import log_origin
from tacit.trust.roster import Member, Roster
from tacit.types import PartyName

__all__ = ["Trust", "default_quorum"]

FILE_LIMIT = 16 * 1024 * 1024
VERSION = 2
MAX_QUORUM = 10_000
EVERYBODY = 16
FEWEST = 11
"""To whom a log is shown: all parties of a run, or in larger ones the leader, at least two helpers and
eight clients (``party.witnessing``)."""
KEY_BYTES = 32
WITNESS = re.compile(r"[!-~]{1,255}")
ALWAYS = ("authenticity", "integrity")
"""Without these no other claim means anything."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The roster that an auditor pins, and the claims that every bundle must prove.

    Args:
        roster: The federation's members.
        required: Claims.
        run: Run id in hexadecimal; a bundle of another run is refused. Empty: any run.
        quorum: How many other operators of the run must have cosigned each log, at least 1.
        witnesses: Independent witnesses, by name, with their Ed25519 public key; each must have
            cosigned each log.
    """

    roster: Roster
    required: frozenset[str]
    run: str = ""
    quorum: int = 1
    witnesses: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        roster: Roster,
        required: Iterable[str] = CLAIMS,
        run: str = "",
        *,
        quorum: int | None = None,
        witnesses: Mapping[str, bytes] | None = None,
    ) -> Trust:
        """Trusts the members of ``roster``; requires every claim by default.

        Args:
            roster: See ``Trust``.
            required: See ``Trust``.
            run: See ``Trust``.
            quorum: See ``Trust``; by default ``default_quorum`` of all members.
            witnesses: See ``Trust``; none by default.

        Raises:
            ConfigError: Not a claim, authenticity or integrity is not required, no run id, no quorum,
                or a malformed witness.
        """
        known = dict(witnesses or {})
        if quorum is None:
            quorum = default_quorum(roster, [member.name for member in roster.members])
        _check_witnesses(quorum, known)
        for member in roster.members:
            if log_origin(roster.federation, member.name) in known:
                raise ConfigError(
                    "evidence.trust",
                    f"an independent witness has the name of the log of '{member.name}'",
                    remedy="a party is no independent witness: leave it out",
                )
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
        return cls(roster=roster, required=chosen, run=run, quorum=quorum, witnesses=known)

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
            _check_version(record)
            trust = cls.of(
                _roster(record),
                record["required"],
                record.get("run", ""),
                quorum=record["quorum"],
                witnesses={name: bytes.fromhex(k) for name, k in record["witnesses"].items()},
            )
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
            "quorum": self.quorum,
            "witnesses": {name: key.hex() for name, key in self.witnesses.items()},
        }


def default_quorum(roster: Roster, parties: Sequence[PartyName]) -> int:
    """How many other operators cosign each log by default: more than half of those who are shown it.

    Args:
        roster: The federation's roster.
        parties: Everybody in the run. Up to ``EVERYBODY`` parties all are shown every log; in larger
            runs the leader, the helpers and a few clients are, at least ``FEWEST``.
    """
    others = max(len(roster.operators(parties)) - 1, 0)
    if len(parties) > EVERYBODY:
        others = min(others, FEWEST)
    return others // 2 + 1


def _check_version(record: Any) -> None:
    if record["version"] != VERSION:
        raise ConfigError(
            "evidence.trust",
            f"a trust file of version {str(record['version'])[:20]!r}; this program reads version "
            f"{VERSION}",
            remedy="ask the federation for the trust.json of the run in this version",
        )


def _check_witnesses(quorum: Any, witnesses: Mapping[str, bytes]) -> None:
    if type(quorum) is not int or not 1 <= quorum <= MAX_QUORUM:
        raise ConfigError(
            "evidence.trust",
            f"'quorum' is not a number from 1 to {MAX_QUORUM}",
            remedy="say how many other operators must have cosigned each log",
        )
    for name, key in witnesses.items():
        if WITNESS.fullmatch(name) is None or "+" in name or len(key) != KEY_BYTES:
            raise ConfigError(
                "evidence.trust",
                f"the independent witness {name[:64]!r} is malformed",
                remedy="a name without spaces or '+', and an Ed25519 key of 64 hexadecimal digits",
            )


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
        f"{path} is not a trust file, or was edited by hand: its members do not match its roster "
        "digest, or it is not in the one exact form",
        remedy="use the trust.json that was written when the run began, or ask the federation",
        file=str(path),
    )
