"""A federation's logs without the federation: a signed roster, and a log for each of its parties."""

from __future__ import annotations

from pathlib import Path

from tacit.ledger.log import Log, log_origin
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster, write_roster
from tacit.types import Milliseconds, PartyName

__all__ = ["PartyLog", "write_federation"]


class PartyLog:
    """The log of one party, which can be grown, restored as it once was, and shown in two versions.

    Args:
        federation: Name of the federation.
        party: Name of the party; its key follows from both.
        store: Where the log is; a new one by default.
    """

    def __init__(self, federation: str, party: str, store: MemoryStore | None = None) -> None:
        self.federation, self.party = federation, party
        self.identity = Identity.generate(SeededEntropy(f"{federation}/{party}"))
        self.origin = log_origin(federation, PartyName(party))
        self.store = store if store is not None else MemoryStore()
        self.log = Log(self.store, self.origin, self.identity)

    def grow(self, count: int, kind: str = "test.event") -> PartyLog:
        """Appends ``count`` events."""
        with self.store.transaction():
            for _ in range(count):
                self.log.append({"type": kind}, Milliseconds(1))
        return self

    def copy(self) -> PartyLog:
        """The log as it is now, under the same key, to be grown in another way."""
        return PartyLog(self.federation, self.party, self.store.crash())


def write_federation(path: Path, *logs: PartyLog) -> Path:
    """Writes the ``federation.toml`` of the parties of these logs, which are of one federation."""
    members = tuple(
        Member(PartyName(log.party), log.party, "EU", ("client",), log.identity.public_key)
        for log in logs
    )
    roster = Roster(logs[0].federation, members)
    write_roster(path, roster, {PartyName(log.party): log.identity for log in logs})
    return path
