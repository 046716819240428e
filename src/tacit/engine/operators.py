"""What the operator of a party does to its state from outside a run, each logged before it is done."""

from __future__ import annotations

from pathlib import Path

from tacit.engine.folder import STATE, World, party_ports
from tacit.engine.local import wall_clock
from tacit.engine.store import SqliteStore
from tacit.errors import ConfigError, LocalProtocolError
from tacit.party.base import Party, RunState
from tacit.party.data import RECEIPTS, erase_receipts
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.wire.envelope import Address

__all__ = ["erase_run_receipts", "log_key_erased", "open_party"]

PENDING = "receipts-erasing"
"""Runs whose receipts are gone from the state, but maybe not yet from the file."""


def open_party(path: Path) -> Party:
    """The party whose identity key lies in a folder, in its first role.

    Raises:
        ConfigError: Not the folder of a site or of the coordinator.
        LedgerError: Its log was tampered with.
    """
    if not (path / "keys" / "identity.key").exists():
        raise ConfigError(
            "party.missing",
            f"{path} is neither the folder of a site nor that of the coordinator",
            remedy="pass folders that hold keys/identity.key, for example 'coordinator sites/*'",
            file=str(path),
        )
    public = Identity.load(path / "keys" / "identity.key").public_key
    roster = Roster.load(_roster_file(path))
    member = next((member for member in roster.members if member.key == public), None)
    if member is None:
        raise ConfigError(
            "site.identity",
            f"{path}/keys/identity.key is no key that the roster lists",
            remedy="restore the key, or have every operator sign a new federation.toml",
            file=str(path / "keys" / "identity.key"),
        )
    address = Address(member.name, member.roles[0])
    return Party(address, roster, party_ports(path, member.name, roster, World.real()))


def _roster_file(path: Path) -> Path:
    own, outer = path.resolve(), path.resolve().parent.parent
    places = (own, own.parent, outer)
    place = next((base for base in places if (base / "federation.toml").exists()), outer)
    return place / "federation.toml"


def log_key_erased(path: Path, purpose: str, period: str) -> None:
    """Logs that the operator of a site destroys a token key, before it is destroyed.

    A folder that has taken part in nothing has no log, and gets none.

    Raises:
        ConfigError: The identity key is not that of the roster.
        LedgerError: The log was tampered with.
    """
    if not (path / STATE).exists():
        return
    party = open_party(path)
    with party.ports.store.transaction():
        party.act(wall_clock(), "operator.key-erased", purpose=purpose, period=period)


def erase_run_receipts(path: Path, run: str) -> str:
    """Destroys salt and receipts of a run at a site for good, and logs that; returns the run id.

    Args:
        path: The site's folder.
        run: The run id, or the first digits of it.

    Raises:
        ConfigError: Not a site folder, or no run or several begin with these digits.
        LocalProtocolError: The site has not closed the run: after a restart it needs the salt.
        TransportError: Another process holds the file.

    Guarantee:
        Against whoever gets the site's files, log and the bundle afterwards: a guess of a receipt can
        not be tested any more; the bundle verifies as before
        (test: ``tests/unit/test_engine_operators.py::test_after_erasure_no_guess_can_be_tested``).
    """
    party = open_party(path)
    store = party.ports.store
    assert isinstance(store, SqliteStore)
    known = {*(name for name, _ in store.items(RECEIPTS)), *(n for n, _ in store.items(PENDING))}
    matching = [name for name in known if name.startswith(run)]
    if not run or len(matching) != 1:
        raise ConfigError(
            "receipts.run",
            f"{len(matching)} runs at {path} begin with '{run}'",
            remedy=f"its runs are: {', '.join(sorted(name[:12] for name in known)) or 'none'}",
            file=str(path),
        )
    (chosen,) = matching
    state = RunState(store, "client", chosen)
    if not state.number("closed"):
        raise LocalProtocolError(
            "receipts.open",
            f"run {chosen[:12]} is not closed at this site: after a restart it needs its receipts",
            remedy="wait for the run's end, or release it with 'tacit budget release'",
        )
    with store.transaction():
        if store.get(RECEIPTS, chosen) is not None:
            party.act(wall_clock(), "operator.receipts-erased", about=chosen)
        store.put(PENDING, chosen, b"")
        erase_receipts(store, state, chosen)
    store.scrub()
    with store.transaction():
        store.delete(PENDING, chosen)
    return chosen
