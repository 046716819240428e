"""``tacit helper``: a party that is only a helper, as a process: an identity, a state, and no data."""

from __future__ import annotations

from pathlib import Path

from tacit.engine.folder import World, party_ports
from tacit.errors import ConfigError
from tacit.party.helper import Helper
from tacit.service.config import ServiceConfig, only_process
from tacit.service.member import Member
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.types import PartyName

__all__ = ["serve"]

KEY = Path("keys") / "identity.key"


def serve(
    folder: Path,
    world: World | None = None,
    *,
    federation: Path | None = None,
    network: Path | None = None,
    as_json: bool = False,
) -> int:
    """Serves a helper until SIGTERM or SIGINT.

    Args:
        folder: Its folder, with ``keys``, ``state`` and perhaps ``service.toml``.
        world: Entropy, sealing and the time; the real ones by default.
        federation: ``federation.toml``, whatever ``service.toml`` says.
        network: ``network.toml``, in the same way.
        as_json: Whether the line that says that it serves is JSON.

    Returns:
        The exit code.

    Raises:
        ConfigError: A file is wrong, or another process serves the folder.
        LedgerError: The log was tampered with.
        TransportError: The server refuses this member.
    """
    world = world or World.real()
    config = ServiceConfig.load(folder, federation=federation, network=network)
    with only_process(folder):
        roster = Roster.load(config.federation)
        name = _name(folder, roster)
        member = Member(config, name, roster, world, as_json)
        member.require_role("helper")
        ports = party_ports(folder, name, roster, world)
        helper = Helper(name, roster, ports)
        helper.note_start(world.clock())
        return member.serve([helper])


def _name(folder: Path, roster: Roster) -> PartyName:
    """Whose folder this is: a helper has no other file that says so than its key."""
    if not (folder / KEY).exists():
        raise ConfigError(
            "site.identity",
            f"{folder / KEY} is missing",
            remedy="restore the helper's identity key, or pass the folder that holds it",
            file=str(folder / KEY),
        )
    public = Identity.load(folder / KEY).public_key
    found = next((member.name for member in roster.members if member.key == public), None)
    if found is None:
        raise ConfigError(
            "site.identity",
            f"{folder / KEY} is no key that the roster lists",
            remedy="restore the key, or have every operator sign a new federation.toml",
            file=str(folder / KEY),
        )
    return found
