"""Putting a federation together, at the coordinator: invitations, requests, the roster, what is sent out.

Until all have signed, everything is a draft in ``coordinator/enrolment``: one file that is replaced as a
whole, and a log of what was done and refused. What the federation runs on (``federation.toml``,
``network.toml``, ``nats/nats-server.conf``) is written only when every member's signature is there.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tacit.config import Table
from tacit.engine.clock import wall_clock
from tacit.engine.nats.certificates import Authority, server_names
from tacit.engine.nats.network import (
    NETWORK_FILE,
    Credentials,
    Network,
    Peer,
    check_servers,
    sign_peer,
    verify_peer,
    write_network,
)
from tacit.engine.nats.server import Account, ServerOptions, server_config
from tacit.errors import ConfigError, TacitError
from tacit.files import make_folder, write_atomic
from tacit.service.invitation import (
    Invitation,
    RosterSignature,
    SiteRequest,
    read_paper,
    write_paper,
)
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import (
    LABEL,
    NAME,
    Member,
    Roster,
    sign_roster,
    verify_roster,
    write_signed_roster,
)
from tacit.types import Milliseconds, PartyName, Role

__all__ = ["DAY", "DRAFT", "Draft", "DraftMember", "Enrolment", "Setup", "own_entry"]

LEADER = PartyName("coordinator")
IDENTITY = Path("keys") / "identity.key"
DRAFT = Path("enrolment") / "draft.json"
LOG = Path("enrolment") / "log.jsonl"
NATS = "nats"
DAY = 24 * 3600 * 1000
"""Milliseconds."""
MAX_DAYS = 90
Clock = Callable[[], Milliseconds]


class DraftMember(Table):
    """A member as it asked to be."""

    operator: str
    region: str
    roles: tuple[Role, ...]
    key: str
    nkey: str
    sealing: str
    connection: str

    def member(self, name: str) -> Member:
        """The entry of the roster."""
        key = bytes.fromhex(self.key)
        return Member(PartyName(name), self.operator, self.region, self.roles, key)

    @property
    def peer(self) -> Peer:
        """The connection keys."""
        return Peer(self.nkey, bytes.fromhex(self.sealing))


class Issued(Table):
    """An invitation that was sent; ``used`` is the digest of the request that answered it."""

    name: str
    operator: str
    roles: tuple[Role, ...]
    digest: str
    expires: Milliseconds
    used: str = ""


class Draft(Table):
    """``enrolment/draft.json``: the federation before it is signed."""

    version: Literal[1]
    federation: str
    hosts: tuple[str, ...]
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool
    members: dict[str, DraftMember]
    invitations: dict[str, Issued]

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of the servers."""
        scheme = "tls" if self.tls else "nats"
        shown = (f"[{host}]" if ":" in host else host for host in self.hosts)
        return tuple(f"{scheme}://{host}:{self.port}" for host in shown)

    @property
    def roster(self) -> Roster:
        """The roster that all are to sign."""
        return Roster(
            self.federation, tuple(entry.member(name) for name, entry in self.members.items())
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """What a new federation is told.

    Args:
        name: Name of the federation.
        hosts: Names or addresses that members reach the server by.
        port: The server's port.
        operator: Who operates the coordinator.
        region: Where it runs.
        plaintext: Without TLS, on this machine only.
    """

    name: str
    hosts: tuple[str, ...]
    port: int = 4222
    operator: str = "coordinator"
    region: str = "unspecified"
    plaintext: bool = False


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The coordinator's side of joining.

    Args:
        folder: The coordinator's folder; what is sent out is written beside it.
        clock: The time; invitations expire by it.
    """

    folder: Path
    clock: Clock = wall_clock

    @classmethod
    def init(cls, base: Path, setup: Setup, clock: Clock = wall_clock) -> Enrolment:
        """Makes ``coordinator`` with all keys, ``nats`` with the authority, and a draft with the leader.

        Raises:
            ConfigError: The folders exist, or a name or host is malformed.
            TransportError: The disk refuses a write.
        """
        server_names(setup.hosts)
        for key, text, pattern in (
            ("name", setup.name, LABEL),
            ("operator", setup.operator, NAME),
            ("region", setup.region, LABEL),
        ):
            if pattern.fullmatch(text) is None:
                raise ConfigError(
                    "enrol.name",
                    f"the {key} '{text}' is malformed",
                    remedy="operators: 1 to 64 characters of a-z, 0-9 and -; federation and region "
                    "may have capitals, spaces, dots and underscores, too",
                    key=key,
                )
        draft = Draft(
            version=1,
            federation=setup.name,
            hosts=setup.hosts,
            port=setup.port,
            tls=not setup.plaintext,
            members={},
            invitations={},
        )
        if setup.plaintext:
            check_servers(draft.servers, "", "--host")
        folder = base / "coordinator"
        make_folder(folder)
        make_folder(base / NATS)
        made = cls(folder, clock)
        (folder / "keys").mkdir(mode=0o700)
        (folder / DRAFT).parent.mkdir(mode=0o700)
        identity = Identity.generate(OsEntropy())
        identity.save(folder / IDENTITY)
        peer = Credentials.generate(folder).peer
        if draft.tls:
            Authority.create(base / NATS, setup.name, clock()).issue(setup.hosts, clock())
        entry = DraftMember(
            operator=setup.operator,
            region=setup.region,
            roles=("leader",),
            key=identity.public_key.hex(),
            nkey=peer.nkey,
            sealing=peer.sealing.hex(),
            connection=sign_peer(identity, setup.name, LEADER, peer).hex(),
        )
        made._save(draft.model_copy(update={"members": {str(LEADER): entry}}))
        made._note("federation.begun", federation=setup.name)
        return made

    @property
    def draft(self) -> Draft:
        """The federation as it stands.

        Raises:
            ConfigError: This coordinator has none, or the file is damaged.
        """
        if not (self.folder / DRAFT).is_file():
            raise ConfigError(
                "enrol.none",
                f"{self.folder} puts no federation together",
                remedy="change to the folder that 'tacit federation init' made, or name its "
                "coordinator with --coordinator",
                file=str(self.folder),
            )
        return read_paper(self.folder / DRAFT, Draft)

    @property
    def identity(self) -> Identity:
        """The coordinator's identity, which the draft lists."""
        identity = Identity.load(self.folder / IDENTITY)
        if identity.public_key.hex() != self.draft.members[LEADER].key:
            raise ConfigError(
                "enrol.own-key",
                f"{self.folder / IDENTITY} is not the key that the draft has for the coordinator",
                remedy="restore the key",
                file=str(self.folder / IDENTITY),
            )
        return identity

    @property
    def base(self) -> Path:
        """Where the federation's files lie."""
        return self.folder.absolute().parent

    def invite(
        self, name: str, *, roles: tuple[Role, ...], operator: str = "", valid: int = 7 * DAY
    ) -> Invitation:
        """Makes an invitation, known from now on.

        Args:
            name: The newcomer's name in the roster; a member of that name is replaced when it answers.
            roles: What it may act as.
            operator: Who must operate it; empty to leave it to them.
            valid: How long it may be answered, in milliseconds.

        Raises:
            ConfigError: A malformed name, other roles than a member may have, or a time out of range.
        """
        draft = self.draft
        bad_roles = not roles or set(roles) - {"client", "helper"}
        if NAME.fullmatch(name) is None or name.startswith("-") or name == LEADER or bad_roles:
            raise ConfigError(
                "enrol.invite",
                f"'{name}' cannot be invited as {', '.join(roles) or 'nothing'}",
                remedy="use a name of a-z, 0-9 and - that is not 'coordinator', and the roles client "
                "and helper",
            )
        if not 0 < valid <= MAX_DAYS * DAY or (operator and NAME.fullmatch(operator) is None):
            raise ConfigError(
                "enrol.invite",
                f"the operator '{operator}' or the time of an invitation is malformed",
                remedy=f"operators: a-z, 0-9 and -; valid: 1m to {MAX_DAYS}d",
            )
        identity = self.identity
        made = Invitation(
            kind="tacit invitation",
            version=1,
            id=secrets.token_hex(16),
            federation=draft.federation,
            servers=draft.servers,
            ca=self._authority,
            leader=LEADER,
            leader_key=identity.public_key.hex(),
            name=name,
            operator=operator,
            roles=tuple(sorted(set(roles))),
            expires=Milliseconds(self.clock() + valid),
        ).signed(identity)
        issued = Issued(
            name=name,
            operator=operator,
            roles=made.roles,
            digest=made.digest,
            expires=made.expires,
        )
        self._save(draft.model_copy(update={"invitations": {**draft.invitations, made.id: issued}}))
        self._note("invitation.issued", invitation=made.id, name=name)
        return made

    def add(self, path: Path) -> SiteRequest:
        """Takes a newcomer's request into the draft.

        Raises:
            ConfigError, SignatureError: Refused: unknown, expired or used invitation, another name or
                other roles than invited, a key that is taken, or no proof of possession. The refusal is
                logged and changes nothing.

        Guarantee: an invitation admits one set of keys, in time, under the invited name and roles.
        Checked by ``tests/unit/test_service_enrol.py::test_requests_that_do_not_fit_are_refused``.
        """
        request = read_paper(path, SiteRequest)
        draft = self.draft
        try:
            issued = self._admissible(draft, request)
        except TacitError as error:
            self._note("request.refused", name=request.name, code=error.code, key=request.key)
            raise
        entry = DraftMember(
            operator=request.operator,
            region=request.region,
            roles=request.roles,
            key=request.key,
            nkey=request.nkey,
            sealing=request.sealing,
            connection=request.connection,
        )
        used = issued.model_copy(update={"used": request.digest})
        self._save(
            draft.model_copy(
                update={
                    "members": {**draft.members, request.name: entry},
                    "invitations": {**draft.invitations, request.invitation: used},
                }
            )
        )
        self._note("member.added", name=request.name, key=request.key)
        return request

    def _admissible(self, draft: Draft, request: SiteRequest) -> Issued:
        request.check()
        issued = draft.invitations.get(request.invitation)
        if issued is None or request.invitation_digest != issued.digest:
            raise _refused("enrol.unknown", "it answers no invitation of this coordinator")
        if issued.used not in ("", request.digest):
            raise _refused("enrol.used", "its invitation has been used")
        if not issued.used and self.clock() >= issued.expires:
            raise _refused("enrol.expired", "its invitation has expired")
        wanted = (draft.federation, issued.name, issued.roles)
        if (request.federation, request.name, request.roles) != wanted or (
            issued.operator not in ("", request.operator)
        ):
            raise _refused(
                "enrol.differs",
                "federation, name, operator or roles are not those of the invitation",
            )
        others = [entry for name, entry in draft.members.items() if name != request.name]
        if any(
            request.key == entry.key
            or request.nkey == entry.nkey
            or request.sealing == entry.sealing
            for entry in others
        ):
            raise _refused("enrol.taken", "one of its keys is another member's")
        roster = Roster(request.federation, (request.member,))
        verify_peer(
            roster, PartyName(request.name), request.peer, bytes.fromhex(request.connection)
        )
        return issued

    def remove(self, name: str) -> None:
        """Takes a member out of the draft; the roster without it must be signed by the others.

        Raises:
            ConfigError: Nobody is called that, or it is the coordinator.
        """
        draft = self.draft
        if name == LEADER or name not in draft.members:
            raise ConfigError(
                "enrol.remove",
                f"'{name}' cannot be removed",
                remedy=f"members: {', '.join(sorted(set(draft.members) - {LEADER})) or 'none'}",
            )
        members = {key: entry for key, entry in draft.members.items() if key != name}
        self._save(draft.model_copy(update={"members": members}))
        self._note("member.removed", name=name)

    def propose(self) -> Path:
        """Writes ``NAME.proposal``, the roster that every member is to review and sign."""
        roster = self.draft.roster
        path = self.base / f"{_file_name(roster.federation)}.proposal"
        write_atomic(path, roster.canonical)
        self._note("roster.proposed", roster=roster.digest.hex())
        return path

    def finish(self, signatures: Sequence[Path]) -> tuple[Path, Path, Path]:
        """Writes what the federation runs on, once every member has signed the roster.

        The coordinator signs here. A file that was written stays valid if a later one fails: run it
        again. ``federation.toml`` comes last.

        Args:
            signatures: What ``tacit federation roster sign`` wrote at the members.

        Returns:
            ``federation.toml``, ``network.toml`` and the server's configuration.

        Raises:
            ConfigError: A signature is missing or of another roster.
            SignatureError: A signature is not its member's.
            TransportError: The disk refuses a write.
        """
        draft = self.draft
        roster = draft.roster
        given = {LEADER: sign_roster(roster, self.identity)}
        for path in signatures:
            paper = read_paper(path, RosterSignature)
            if paper.roster != roster.digest.hex():
                raise ConfigError(
                    "enrol.other-roster",
                    f"{path}: {paper.name} signed another roster than the one of now",
                    remedy="send the last proposal to every member, and have all sign that",
                    file=str(path),
                    party=paper.name,
                )
            verify_roster(roster, PartyName(paper.name), bytes.fromhex(paper.signature))
            given[PartyName(paper.name)] = bytes.fromhex(paper.signature)
        if missing := sorted(set(draft.members) - given.keys()):
            raise ConfigError(
                "enrol.unsigned",
                f"these members have not signed the roster: {', '.join(missing)}",
                remedy="send them the proposal, and name the .signature file of every member",
            )
        peers = {PartyName(name): entry.peer for name, entry in draft.members.items()}
        network = Network(draft.federation, draft.servers, self._authority, peers)
        keys = {PartyName(n): bytes.fromhex(e.connection) for n, e in draft.members.items()}
        write_network(self.base / NETWORK_FILE, network, keys)
        self._write_server(draft, roster, network)
        write_signed_roster(self.base / "federation.toml", roster, given)
        Network.load(self.base / NETWORK_FILE, Roster.load(self.base / "federation.toml"))
        self._note("roster.finished", roster=roster.digest.hex())
        config = self.base / NATS / "nats-server.conf"
        return self.base / "federation.toml", self.base / NETWORK_FILE, config

    def renew(self, hosts: Sequence[str] = ()) -> datetime:
        """Gives the server a new certificate, for other hosts if any are named; returns when it ends.

        Members need nothing new while the authority stays, unless the hosts change.

        Raises:
            ConfigError: The federation has no TLS, or a host is malformed.
        """
        draft = self.draft
        if not draft.tls:
            raise ConfigError(
                "enrol.plaintext",
                f"{draft.federation} has no TLS, hence no certificate",
                remedy="a federation on more than one machine is made without --plaintext",
            )
        end = Authority(self.base / NATS).issue(tuple(hosts) or draft.hosts, self.clock())
        if hosts:
            self._save(draft.model_copy(update={"hosts": tuple(hosts)}))
        self._note("certificate.issued", hosts=" ".join(hosts or draft.hosts))
        return end

    def _write_server(self, draft: Draft, roster: Roster, network: Network) -> None:
        folder = self.base / NATS
        folder.mkdir(exist_ok=True)
        options = ServerOptions(
            folder / "store",
            host="0.0.0.0" if draft.tls else "127.0.0.1",  # noqa: S104 - TLS and NKeys protect it
            port=draft.port,
            certificate=Authority(folder).server if draft.tls else None,
        )
        text = server_config([Account.of(roster, network)], options)
        write_atomic(folder / "nats-server.conf", text.encode())

    @property
    def _authority(self) -> str:
        return Authority(self.base / NATS).certificate if self.draft.tls else ""

    def _save(self, draft: Draft) -> None:
        write_paper(self.folder / DRAFT, draft, private=True)

    def _note(self, event: str, **fields: str) -> None:
        """One line in the coordinator's log of enrolment, on disk before anything else is said."""
        line = json.dumps({"time": self.clock(), "event": event, **fields})
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def own_entry(folder: Path, roster: Roster) -> Member:
    """The member whose keys and entry lie in a folder, once the roster is shown to list just that.

    Args:
        folder: The folder of a site, a helper or the coordinator.
        roster: The roster, signed or proposed.

    Raises:
        ConfigError: The roster lists another entry, other keys, or another coordinator than the one
            that invited.
    """
    public = Identity.load(folder / IDENTITY).public_key
    found = next((member for member in roster.members if member.key == public), None)
    if found is None:
        raise _differs(folder, "no member has the key of this folder")
    if (folder / DRAFT).is_file():
        known: Mapping[str, DraftMember] = read_paper(folder / DRAFT, Draft).members
        if known[LEADER].member(LEADER) != found:
            raise _differs(folder, f"it lists '{found.name}' otherwise than it was set up")
    asked = folder / "enrolment" / "request.json"
    if asked.is_file():
        if read_paper(asked, SiteRequest).member != found:
            raise _differs(folder, f"it lists '{found.name}' otherwise than it asked for")
        invitation = read_paper(asked.with_name("invitation.json"), Invitation)
        leaders = {member.key.hex() for member in roster.with_role("leader")}
        if leaders != {invitation.leader_key} or roster.federation != invitation.federation:
            raise _differs(folder, "federation or coordinator are not those of the invitation")
    return found


def _file_name(federation: str) -> str:
    return federation.replace(" ", "-")


def _refused(code: str, reason: str) -> ConfigError:
    return ConfigError(
        code,
        f"the request is refused: {reason}",
        remedy="have a new invitation made with 'tacit federation invite', and answer that",
    )


def _differs(folder: Path, reason: str) -> ConfigError:
    return ConfigError(
        "enrol.own-entry",
        f"the roster does not fit {folder}: {reason}",
        remedy="do not sign or use it; ask the coordinator's operator, by telephone",
        file=str(folder),
    )
