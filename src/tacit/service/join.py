"""Joining a federation, at the member: answer an invitation, sign the roster, install what comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tacit.engine.clock import wall_clock
from tacit.engine.nats.network import NETWORK_FILE, Credentials, Network, sign_peer
from tacit.errors import ConfigError, DecodeError, RoundAborted
from tacit.files import make_folder, read_limited, write_atomic
from tacit.service.enrol import IDENTITY, own_entry
from tacit.service.invitation import (
    Invitation,
    RosterSignature,
    SiteRequest,
    read_paper,
    write_paper,
)
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import LABEL, NAME, Roster, sign_roster
from tacit.types import Milliseconds, PartyName

__all__ = ["install", "join", "sign"]

ROSTER_LIMIT = 4 * 1024 * 1024
Clock = Callable[[], Milliseconds]

SERVICE = """# How this party's process is run; docs/reference/configuration.md lists every key.
version = 1
# listen = "127.0.0.1:7979"    # /healthz, /readyz and /metrics
"""

SITE = """version = 1
name = "{name}"
operator = "{operator}"
region = "{region}"

[budget]
# Lifetime limits of each population of your contracts; decide on them before the first run.
epsilon = 2.0
delta = 1e-5

# Who approves rules, contracts and tests: 'tacit policy key NAME --site .' prints what belongs here.
# [policy]
# approvals = 1
# [policy.approvers]
# NAME = "..."
"""

README = """# {name}, a member of {federation}

Made by `tacit federation join`. The keys in `keys/` were made here and never leave this machine; back them
up. Next:

1. Send `{name}.request` to the coordinator's operator, and read each other the fingerprints over the telephone.
{site}{last}. When a proposed roster arrives: `tacit federation roster sign NAME.proposal --as .`, after reading it,
   and send the `.signature` file back.
{then}. When `federation.toml` and `network.toml` arrive:
   `tacit federation install federation.toml network.toml --in .`
{start}. Start the party: `tacit {role} .`
"""

SITE_STEPS = """2. Write a contract for your data in `contracts/`, rules in `policies/`, cases in `tests/`.
3. Make an approver's key (`tacit policy key NAME --site .`), put it into `site.toml`, approve: `tacit policy lock .`
"""


def join(
    paper: Path,
    folder: Path | None,
    *,
    region: str,
    operator: str = "",
    clock: Clock = wall_clock,
) -> tuple[SiteRequest, Invitation, Path]:
    """Makes a member's folder and keys, and writes ``NAME.request`` beside the folder.

    Args:
        paper: The invitation.
        folder: Destination (default: the invited name); must not exist.
        region: Where data and training stay.
        operator: Who operates the member (default: what the invitation says).
        clock: The time.

    Returns:
        Request, invitation and the request's file.

    Raises:
        ConfigError: Expired, malformed, or the folder exists: keys are never replaced.
        SignatureError: The invitation was changed.
    """
    invitation = read_paper(paper, Invitation)
    invitation.check(clock())
    runs = operator or invitation.operator
    if invitation.operator not in ("", runs):
        raise ConfigError(
            "enrol.differs",
            f"the invitation is for operator '{invitation.operator}', not '{runs}'",
            remedy="leave --operator out, or ask for another invitation",
        )
    if NAME.fullmatch(runs) is None or LABEL.fullmatch(region) is None:
        raise ConfigError(
            "enrol.name",
            f"operator '{runs}' or region '{region}' is malformed",
            remedy="pass --operator NAME of a-z, 0-9 and -, and --region",
        )
    folder = Path(invitation.name) if folder is None else folder
    make_folder(folder)
    _skeleton(folder, invitation, runs, region)
    identity = Identity.generate(OsEntropy())
    identity.save(folder / IDENTITY)
    peer = Credentials.generate(folder).peer
    name = PartyName(invitation.name)
    request = SiteRequest(
        kind="tacit request",
        version=1,
        federation=invitation.federation,
        invitation=invitation.id,
        invitation_digest=invitation.digest,
        name=name,
        operator=runs,
        region=region,
        roles=invitation.roles,
        key=identity.public_key.hex(),
        nkey=peer.nkey,
        sealing=peer.sealing.hex(),
        connection=sign_peer(identity, invitation.federation, name, peer).hex(),
    ).signed(identity)
    (folder / "enrolment").mkdir(mode=0o700)
    write_paper(folder / "enrolment" / "invitation.json", invitation)
    write_paper(folder / "enrolment" / "request.json", request)
    sent = folder.absolute().parent / f"{name}.request"
    write_paper(sent, request)
    return request, invitation, sent


def _skeleton(folder: Path, invitation: Invitation, operator: str, region: str) -> None:
    """The files that the operator goes on with."""
    site = "client" in invitation.roles
    (folder / "keys").mkdir(mode=0o700)
    (folder / "state").mkdir(mode=0o700)
    write_atomic(folder / "service.toml", SERVICE.encode())
    if site:
        for inner in ("contracts", "policies", "tests"):
            (folder / inner).mkdir()
        text = SITE.format(name=invitation.name, operator=operator, region=region)
        write_atomic(folder / "site.toml", text.encode())
    last = 4 if site else 2
    readme = README.format(
        name=invitation.name,
        federation=invitation.federation,
        site=SITE_STEPS if site else "",
        last=last,
        then=last + 1,
        start=last + 2,
        role="site" if site else "helper",
    )
    write_atomic(folder / "README.md", readme.encode())


def read_proposal(path: Path) -> Roster:
    """The roster in a proposal.

    Raises:
        ConfigError: It holds none.
    """
    try:
        return Roster.from_canonical(read_limited(path, ROSTER_LIMIT))
    except DecodeError as error:
        raise ConfigError(
            "enrol.proposal",
            f"{path} is not a proposed roster",
            remedy="ask for the .proposal file that 'tacit federation roster propose' wrote",
            file=str(path),
        ) from error


def sign(proposal: Path, folder: Path, confirm: Callable[[Roster, PartyName], bool]) -> Path:
    """Signs a proposed roster as the member of a folder, and writes ``NAME.signature`` here.

    Args:
        proposal: What ``tacit federation roster propose`` wrote.
        folder: The member's folder.
        confirm: Shows the roster to the operator, and says whether they agree.

    Returns:
        The file to send back.

    Raises:
        ConfigError: The roster lists this member otherwise than its folder has it.
        RoundAborted: The operator does not agree.

    Guarantee: a member signs no roster that lists it under other keys, another name, operator, region
    or other roles than it asked for, or another coordinator than the one that invited it. Checked by
    ``tests/unit/test_service_enrol.py::test_a_member_signs_no_roster_that_lists_it_otherwise``.
    """
    roster = read_proposal(proposal)
    own = own_entry(folder, roster)
    if not confirm(roster, own.name):
        raise RoundAborted(
            "enrol.not-signed",
            "the roster was not signed",
            retryable=True,
            remedy="talk to the coordinator's operator about what is wrong with it",
        )
    signature = sign_roster(roster, Identity.load(folder / IDENTITY))
    paper = RosterSignature(
        kind="tacit roster signature",
        version=1,
        roster=roster.digest.hex(),
        name=own.name,
        signature=signature.hex(),
    )
    path = Path(f"{own.name}.signature")
    write_paper(path, paper)
    return path


def install(
    federation: Path, network: Path, folder: Path, *, accept_servers: bool = False
) -> tuple[Roster, Network]:
    """Checks what came back and puts it into the member's folder.

    Args:
        federation: The signed roster.
        network: The network file that belongs to it.
        folder: The member's folder.
        accept_servers: Whether servers and authority may be others than those of the invitation.

    Raises:
        ConfigError: It does not fit this member's keys, entry or invitation.
        SignatureError: A member has not signed, this one included.
    """
    roster = Roster.load(federation)
    own = own_entry(folder, roster)
    found = Network.load(network, roster)
    if found.peers[own.name] != Credentials.load(folder).peer:
        raise ConfigError(
            "enrol.own-entry",
            f"{network} lists other connection keys for '{own.name}' than {folder} has",
            remedy="do not use it; ask the coordinator's operator, by telephone",
            file=str(network),
        )
    asked = folder / "enrolment" / "invitation.json"
    if asked.is_file() and not accept_servers:
        invitation = read_paper(asked, Invitation)
        if (found.servers, found.ca.strip()) != (invitation.servers, invitation.ca.strip()):
            raise ConfigError(
                "enrol.servers",
                f"{network} names other servers or another authority than the invitation did",
                remedy="ask the coordinator's operator; if they moved it, add --accept-servers",
                file=str(network),
            )
    for source, name in ((network, NETWORK_FILE), (federation, "federation.toml")):
        if source.resolve() != (folder / name).resolve():
            write_atomic(folder / name, read_limited(source, ROSTER_LIMIT * 16))
    return roster, found
