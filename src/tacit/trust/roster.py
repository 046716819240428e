"""The roster: who is in the federation, in which roles and with which key, as every operator signed it.

The file ``federation.toml`` holds the members, each with its operator's signature over the canonical
form of all of them. The digest is that of the validated content, never of the file's bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import rfc8785
from pydantic import Field

from tacit.config import Table, load_toml
from tacit.errors import ConfigError, DecodeError, LocalProtocolError, SignatureError
from tacit.files import write_atomic
from tacit.trust.identity import verify
from tacit.types import Digest, PartyName, Role, Signer
from tacit.wire.envelope import Address

__all__ = [
    "Member",
    "MemberTable",
    "Roster",
    "RosterFile",
    "sign_roster",
    "verify_roster",
    "write_roster",
    "write_signed_roster",
]

VERSION = 1
DOMAIN = b"tacit roster v1\x00"
MAX_MEMBERS = 10_000
KEY_BYTES = 32

NAME = re.compile(r"[a-z0-9-]{1,64}")
"""Party and operator names; ASCII lower case only, so that no two of them look alike."""
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
"""Federation and region."""


class MemberTable(Table):
    """One party of the federation."""

    name: str = Field(description="Name of the party: 1 to 64 characters of a-z, 0-9 and -.")
    operator: str = Field(
        description="Who runs the party, written like a party name; cohorts count operators."
    )
    region: str = Field(description="Where the party runs; policies decide on it.")
    roles: tuple[Role, ...] = Field(
        description="What the party may act as; one party is the leader."
    )
    key: str = Field(description="Ed25519 public key, 64 hexadecimal digits.")
    signature: str = Field(
        description="This operator's signature over the whole roster, 128 hexadecimal digits."
    )


class RosterFile(Table):
    """``federation.toml``: the roster, signed by each operator."""

    version: Literal[1] = Field(description="Version of the file format.")
    federation: str = Field(description="Name of the federation.")
    member: tuple[MemberTable, ...] = Field(description="Every party.")


@dataclass(frozen=True, slots=True)
class Member:
    """A party: its operator, region, roles and raw Ed25519 public key (32 bytes)."""

    name: PartyName
    operator: str
    region: str
    roles: tuple[Role, ...]
    key: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(sorted(self.roles)))


@dataclass(frozen=True)
class Roster:
    """The members of a federation; held in order of their names, whatever order they came in.

    Args:
        federation: Name of the federation.
        members: 1 to 10,000 parties with distinct names and distinct keys.

    Raises:
        ConfigError: A malformed, empty or duplicate entry; names the party.
    """

    federation: str
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not LABEL.fullmatch(self.federation):
            raise _refuse("federation", "the name of the federation is malformed")
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            raise _refuse("members", f"a roster has 1 to {MAX_MEMBERS} members")
        for member in self.members:
            _check_member(member)
        _check_distinct("name", self.members, lambda member: member.name)
        _check_distinct("key", self.members, lambda member: member.key)
        ordered = tuple(sorted(self.members, key=lambda member: member.name))
        object.__setattr__(self, "members", ordered)

    @classmethod
    def load(cls, path: Path) -> Roster:
        """Reads ``federation.toml`` and checks the signature of every member's operator.

        Raises:
            ConfigError: Missing or malformed file, or a malformed or duplicate member.
            SignatureError: A member's signature does not cover exactly this roster; names it.

        Guarantee: an adversary without the identity keys cannot make this return a roster that one of
        its members' operators did not sign as a whole. Checked by
        ``tests/unit/test_trust_roster.py::test_every_changed_value_is_refused``.
        """
        file = load_toml(path, RosterFile)
        members = tuple(
            Member(
                PartyName(entry.name),
                entry.operator,
                entry.region,
                entry.roles,
                _unhex(entry.key, KEY_BYTES, entry.name, path),
            )
            for entry in file.member
        )
        roster = cls(file.federation, members)
        for entry in file.member:
            signature = _unhex(entry.signature, 64, entry.name, path)
            try:
                verify_roster(roster, PartyName(entry.name), signature)
            except SignatureError as error:
                error.message = f"{path}: {error.message}"
                error.details["file"] = str(path)
                raise
        return roster

    @classmethod
    def from_canonical(cls, data: bytes) -> Roster:
        """Reads what ``canonical`` returned.

        Raises:
            DecodeError: Anything else.
        """
        try:
            content: Any = json.loads(data)
            roster = cls(
                content["federation"],
                tuple(
                    Member(
                        PartyName(entry["name"]),
                        entry["operator"],
                        entry["region"],
                        tuple(entry["roles"]),
                        bytes.fromhex(entry["key"]),
                    )
                    for entry in content["members"]
                ),
            )
        except (ConfigError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DecodeError("trust.roster", "not a roster") from error
        if roster.canonical != data:
            raise DecodeError("trust.roster", "not the canonical form of a roster")
        return roster

    @cached_property
    def canonical(self) -> bytes:
        """The one form that is digested and signed: RFC 8785 JSON, members in order of their names."""
        return rfc8785.dumps(
            {
                "version": VERSION,
                "federation": self.federation,
                "members": [
                    {
                        "name": member.name,
                        "operator": member.operator,
                        "region": member.region,
                        "roles": list(member.roles),
                        "key": member.key.hex(),
                    }
                    for member in self.members
                ],
            }
        )

    @cached_property
    def digest(self) -> Digest:
        """SHA-256 of ``canonical``."""
        return Digest(hashlib.sha256(self.canonical).digest())

    def member(self, name: PartyName) -> Member:
        """The member called ``name``.

        Raises:
            ConfigError: Nobody is.
        """
        found = self._by_name.get(name)
        if found is None:
            raise ConfigError(
                "trust.unknown-member",
                f"'{name}' is not in the roster of {self.federation}",
                remedy=f"members: {', '.join(sorted(self._by_name))}",
            )
        return found

    def with_role(self, role: Role) -> tuple[Member, ...]:
        """The members that may act in ``role``, in order of their names."""
        return tuple(member for member in self.members if role in member.roles)

    def operators(self, names: Iterable[PartyName]) -> frozenset[str]:
        """The distinct operators of ``names``: parties of one operator count once.

        Raises:
            ConfigError: A name is not in the roster.
        """
        return frozenset(self.member(name).operator for name in names)

    def authenticate(self, sender: Address, data: bytes, signature: bytes) -> None:
        """Checks that ``sender`` is a member, may act in that role, and signed ``data``.

        Raises:
            SignatureError: Otherwise; says which.

        Guarantee: only the holder of a member's identity key speaks for it, and only in the roles
        that every operator signed. Checked by
        ``tests/unit/test_trust_roster.py::test_authenticate_refuses_all_others``.
        """
        member = self._by_name.get(sender.party)
        if member is None:
            raise SignatureError("trust.unknown-party", f"{sender.party} is not in the roster")
        if sender.role not in member.roles:
            raise SignatureError("trust.role", f"{sender.party} is not a {sender.role}")
        verify(member.key, signature, data)

    @cached_property
    def _by_name(self) -> dict[PartyName, Member]:
        return {member.name: member for member in self.members}


def sign_roster(roster: Roster, signer: Signer) -> bytes:
    """The signature of one member's operator over the whole roster: each signs alone."""
    return signer.sign(DOMAIN + roster.canonical)


def verify_roster(roster: Roster, name: PartyName, signature: bytes) -> None:
    """Checks one member's signature over the whole roster.

    Raises:
        ConfigError: Nobody in the roster is called ``name``.
        SignatureError: It is not that member's, or of another roster.
    """
    try:
        verify(roster.member(name).key, signature, DOMAIN + roster.canonical)
    except SignatureError as error:
        raise SignatureError(
            "trust.roster-signature",
            f"the signature of {name} does not cover this roster",
            remedy=f"ask the operator of {name} to review the roster and sign it",
            party=name,
        ) from error


def write_roster(path: Path, roster: Roster, signers: Mapping[PartyName, Signer]) -> None:
    """Writes ``federation.toml`` with the signature of every member, all of whose keys are here.

    Args:
        path: Destination; an existing file is replaced.
        roster: What all operators agreed on.
        signers: The identity of every member, by name.

    Raises:
        LocalProtocolError: A member's identity is missing or is not the one in the roster.
        TransportError: The disk refuses the write.
    """
    signatures = {}
    for member in roster.members:
        signer = signers.get(member.name)
        if signer is None or signer.public_key != member.key:
            raise LocalProtocolError(
                "trust.signer", f"no identity of {member.name} that matches the roster"
            )
        signatures[member.name] = sign_roster(roster, signer)
    write_signed_roster(path, roster, signatures)


def write_signed_roster(path: Path, roster: Roster, signatures: Mapping[PartyName, bytes]) -> None:
    """Writes ``federation.toml`` with signatures that were made elsewhere.

    Args:
        path: Destination; an existing file is replaced.
        roster: What all operators agreed on.
        signatures: What ``sign_roster`` returned at every member.

    Raises:
        LocalProtocolError: A member has not signed.
        SignatureError: A signature is not the member's, or of another roster.
        TransportError: The disk refuses the write.
    """
    lines = [f"version = {VERSION}", f"federation = {_quote(roster.federation)}"]
    for member in roster.members:
        signature = signatures.get(member.name)
        if signature is None:
            raise LocalProtocolError("trust.signer", f"{member.name} has not signed the roster")
        verify_roster(roster, member.name, signature)
        lines += [
            "",
            "[[member]]",
            f"name = {_quote(member.name)}",
            f"operator = {_quote(member.operator)}",
            f"region = {_quote(member.region)}",
            f"roles = [{', '.join(_quote(role) for role in member.roles)}]",
            f"key = {_quote(member.key.hex())}",
            f"signature = {_quote(signature.hex())}",
        ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _quote(text: str) -> str:
    """A TOML basic string; names and labels need no escapes."""
    return f'"{text}"'


def _unhex(text: str, size: int, name: str, path: Path) -> bytes:
    if re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text) is None:
        raise ConfigError(
            "trust.hex",
            f"{path}: a key or signature of member '{name}' is not {2 * size} hexadecimal digits",
            remedy="copy it again, in lower case and in full",
            file=str(path),
            party=name,
        )
    return bytes.fromhex(text)


def _check_member(member: Member) -> None:
    if not NAME.fullmatch(member.name):
        raise _refuse("name", f"'{member.name}' is not a party name")
    if not NAME.fullmatch(member.operator):
        raise _refuse("operator", f"the operator of '{member.name}' is malformed")
    if not LABEL.fullmatch(member.region):
        raise _refuse("region", f"the region of '{member.name}' is malformed")
    known = set(get_args(Role))
    if not member.roles or len(set(member.roles)) != len(member.roles) or set(member.roles) - known:
        raise _refuse("roles", f"'{member.name}' needs distinct roles out of {sorted(known)}")
    if type(member.key) is not bytes or len(member.key) != KEY_BYTES:
        raise _refuse("key", f"the key of '{member.name}' is not {KEY_BYTES} bytes")


def _check_distinct(
    key: str, members: tuple[Member, ...], value: Callable[[Member], str | bytes]
) -> None:
    seen: dict[str | bytes, PartyName] = {}
    for member in members:
        other = seen.get(value(member))
        if other is not None:
            raise _refuse(key, f"'{member.name}' and '{other}' have the same {key}")
        seen[value(member)] = member.name


def _refuse(key: str, message: str) -> ConfigError:
    return ConfigError(
        "trust.roster",
        f"the roster is not valid: {message}",
        remedy="names and operators: 1 to 64 characters of a-z, 0-9 and -; see federation.toml",
        key=key,
    )
