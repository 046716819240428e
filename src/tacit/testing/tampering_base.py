"""An honest bundle with the keys behind it, and the register of what can be done to one.

Every case takes an honest bundle and returns the bytes of another one and of a trust file. Where it
makes the attack stronger the bundle is sealed again by its leader, whose key the attacker holds; keys
of others it does not hold, so that their signatures are left out. A verifier must refuse every case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tacit.evidence.archive import pack
from tacit.evidence.trust import Trust
from tacit.ledger.note import add_signatures
from tacit.ledger.record import LogRecord
from tacit.testing.bundles import LEADER, SyntheticRun, reseal
from tacit.types import PartyName

__all__ = ["BREAKS", "CASES", "Case", "SyntheticBundle", "case", "replaced"]


@dataclass(frozen=True)
class SyntheticBundle:
    """An honest bundle, and who holds which keys.

    Args:
        run: The run; it holds everybody's keys.
        members: All members, sealed by every party.
        trust: The auditor's trust file.
        older: Records and cosigned checkpoints of every party after the first round.
    """

    run: SyntheticRun
    members: Mapping[str, bytes]
    trust: Trust
    older: Mapping[PartyName, tuple[LogRecord, bytes]]

    @classmethod
    def make(cls, **options: object) -> SyntheticBundle:
        """The bundle of a small run, other runs in the same logs.

        Args:
            options: Of ``SyntheticRun``.
        """
        run = SyntheticRun(**{"neighbours": True, **options})  # type: ignore[arg-type]
        older: dict[PartyName, tuple[LogRecord, bytes]] = {}
        run.begin().round(1)
        for party, log in run.logs.items():
            note = log.checkpoint()
            lines = [run.cosignature(note, other) for other in run.logs if other != party]
            older[party] = (log.record(run.run.hex()), add_signatures(note, lines))
        for number in range(2, run.rounds + 1):
            run.round(number)
        run.close()
        trust = Trust.of(run.roster, run=run.run.hex())
        return cls(run, MappingProxyType(run.members()), trust, older)

    @property
    def data(self) -> bytes:
        """The honest bundle."""
        return pack(self.members)

    def packed(self, members: Mapping[str, bytes], trust: Trust | None = None) -> Tampered:
        """Members as they are, in a canonical archive, and the trust file."""
        return pack(members), (trust or self.trust).canonical()

    def swapped(self, name: str, data: bytes | None) -> Tampered:
        """One member changed or, with None, left out; nothing sealed again."""
        return self.packed(_with(self.members, {name: data}))

    def resealed(self, changes: Mapping[str, bytes | None], *, restate: bool = True) -> Tampered:
        """Some members changed, and everything sealed again that the leader's key can seal."""
        members = _with(self.members, changes)
        return self.packed(reseal(self.run, members, signers=(LEADER,), restate=restate))


Tampered = tuple[bytes, bytes]
Case = Callable[[SyntheticBundle], Tampered]

_CASES: dict[str, Case] = {}
_BREAKS: dict[str, str] = {}

CASES: Mapping[str, Case] = MappingProxyType(_CASES)
"""Name -> what makes the bundle and trust file of the case."""

BREAKS: Mapping[str, str] = MappingProxyType(_BREAKS)
"""Name -> the claim that can no longer pass; ``trust`` where the trust file itself must be refused."""


def case(name: str, breaks: str) -> Callable[[Case], Case]:
    """Puts a function into the catalogue."""

    def enter(function: Case) -> Case:
        if name in _CASES:
            raise ValueError(f"there are two cases '{name}'")
        _CASES[name], _BREAKS[name] = function, breaks
        return function

    return enter


def replaced(text: bytes, old: bytes, new: bytes) -> bytes:
    """``text`` with its first ``old`` replaced, which must be there."""
    if old not in text:
        raise ValueError(f"{old[:40]!r} is not there to be changed")
    return text.replace(old, new, 1)


def _with(members: Mapping[str, bytes], changes: Mapping[str, bytes | None]) -> dict[str, bytes]:
    whole = {**members, **changes}
    return {name: data for name, data in whole.items() if data is not None}
