"""The papers of joining a federation: invitation, request, signature. Each is one JSON file.

They carry public keys and signatures only, so that they may travel by e-mail. What they cannot prove by
themselves is whose keys these are: that is what fingerprints are read out over the telephone for.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import rfc8785
from pydantic import Field

from tacit.config import Table, parse_table
from tacit.engine.nats.network import Peer, check_servers, is_user_nkey
from tacit.errors import ConfigError, SignatureError
from tacit.files import read_limited, write_atomic
from tacit.trust.identity import verify
from tacit.trust.roster import Member
from tacit.types import Milliseconds, PartyName, Role, Signer

__all__ = [
    "Invitation",
    "RosterSignature",
    "SiteRequest",
    "fingerprint",
    "read_paper",
    "write_paper",
]

FILE_LIMIT = 256 * 1024
INVITATION = b"tacit invitation v1\x00"
REQUEST = b"tacit request v1\x00"

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]


class Invitation(Table):
    """What the coordinator sends to somebody who is to join; signed by its identity.

    It admits nobody by itself: a request that answers it must come in time, under its name and with its
    roles, and every member must sign the roster that has the newcomer in it.
    """

    kind: Literal["tacit invitation"]
    version: Literal[1]
    id: Hex16
    federation: Label
    servers: tuple[str, ...]
    ca: str
    leader: Name
    leader_key: Hex32
    name: Name
    operator: str
    roles: tuple[Role, ...]
    expires: Milliseconds
    signature: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the signed content, in hexadecimal."""
        return hashlib.sha256(_content(self)).hexdigest()

    def signed(self, signer: Signer) -> Invitation:
        """The invitation with the coordinator's signature."""
        return self.model_copy(update={"signature": signer.sign(INVITATION + _content(self)).hex()})

    def check(self, now: Milliseconds) -> None:
        """Checks signature, addresses and time.

        Raises:
            ConfigError: Expired, or its addresses are malformed or without TLS.
            SignatureError: The key that it names did not sign it.

        Guarantee: whoever changes an invitation on its way needs a key of their own, whose fingerprint
        is then not the coordinator's. Checked by
        ``tests/unit/test_service_enrol.py::test_a_changed_invitation_is_refused``.
        """
        _verify(self.leader_key, self.signature, INVITATION + _content(self), "invitation")
        check_servers(self.servers, self.ca, "the invitation")
        if now >= self.expires:
            raise ConfigError(
                "enrol.expired",
                f"the invitation of '{self.name}' to {self.federation} has expired",
                remedy="ask the coordinator's operator for a new one",
            )


class SiteRequest(Table):
    """What a newcomer answers: its public keys, and proof that it holds them."""

    kind: Literal["tacit request"]
    version: Literal[1]
    federation: Label
    invitation: Hex16
    invitation_digest: Hex32
    name: Name
    operator: Name
    region: Label
    roles: tuple[Role, ...]
    key: Hex32
    nkey: str
    sealing: Annotated[str, Field(pattern=r"^[0-9a-f]{2432}$")]
    connection: Hex64
    signature: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the signed content, in hexadecimal."""
        return hashlib.sha256(_content(self)).hexdigest()

    @property
    def member(self) -> Member:
        """The newcomer as the roster will list it."""
        return Member(
            PartyName(self.name), self.operator, self.region, self.roles, bytes.fromhex(self.key)
        )

    @property
    def peer(self) -> Peer:
        """Its connection keys."""
        return Peer(self.nkey, bytes.fromhex(self.sealing))

    def signed(self, signer: Signer) -> SiteRequest:
        """The request with the proof that the newcomer holds its identity key."""
        return self.model_copy(update={"signature": signer.sign(REQUEST + _content(self)).hex()})

    def check(self) -> None:
        """Checks the proof of possession, over all that the request says.

        Raises:
            ConfigError: Its NKey is malformed.
            SignatureError: The identity that it names did not sign it.
        """
        _verify(self.key, self.signature, REQUEST + _content(self), "request")
        if not is_user_nkey(self.nkey):
            raise ConfigError("enrol.nkey", f"the NKey of '{self.name}' is malformed")


class RosterSignature(Table):
    """One operator's signature over a proposed roster."""

    kind: Literal["tacit roster signature"]
    version: Literal[1]
    roster: Hex32
    name: Name
    signature: Hex64


PaperT = TypeVar("PaperT", bound=Table)


def read_paper(path: Path, kind: type[PaperT]) -> PaperT:
    """Reads one of the files.

    Raises:
        ConfigError: Missing, too large, or not of this kind.
    """
    data = read_limited(path, FILE_LIMIT)
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _not_a_paper(path, kind) from error
    if not isinstance(content, dict):
        raise _not_a_paper(path, kind)
    return parse_table(content, kind, str(path))


def write_paper(path: Path, paper: Table, *, private: bool = False) -> None:
    """Writes one of the files; an existing one is replaced."""
    text = json.dumps(paper.model_dump(mode="json"), indent=2) + "\n"
    write_atomic(path, text.encode(), private=private)


def fingerprint(key: bytes) -> str:
    """A public key for reading out: 32 hexadecimal digits of its SHA-256 in groups of four."""
    text = hashlib.sha256(key).hexdigest()[:32]
    return " ".join(text[at : at + 4] for at in range(0, 32, 4))


def _content(paper: Table) -> bytes:
    """RFC 8785 JSON of all but the signature."""
    return rfc8785.dumps(paper.model_dump(mode="json", exclude={"signature"}))


def _verify(key: str, signature: str, message: bytes, paper: str) -> None:
    try:
        verify(bytes.fromhex(key), bytes.fromhex(signature), message)
    except (SignatureError, ValueError) as error:
        raise SignatureError(
            "enrol.signature",
            f"the {paper} was changed after it was signed, or never signed",
            remedy="ask for the file again, and compare fingerprints by telephone",
        ) from error


def _not_a_paper(path: Path, kind: type[Table]) -> ConfigError:
    return ConfigError(
        "enrol.file",
        f"{path} is not valid JSON",
        remedy=f"it should be: {(kind.__doc__ or '').splitlines()[0]}",
        file=str(path),
    )
