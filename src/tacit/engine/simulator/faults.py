"""What can go wrong between honest parties, as rates that one seed draws."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random

from tacit.wire.envelope import Envelope

__all__ = ["Faults", "damage"]

LEVELS = (0.0, 0.0, 0.02, 0.06)
"""A fault is absent in half of the seeds, so that every combination of a few faults occurs."""

RARE = (0.0, 0.0, 0.0, 0.01, 0.03)


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities, each per delivered message.

    Args:
        drop: The message is lost.
        duplicate: It arrives a second time, later.
        reorder: It takes another time than its neighbours, within a phase.
        delay: It takes longer than a phase may last.
        replay: An old message of this run, or of another one, arrives as well.
        corrupt: One bit of it changes.
        crash: Its receiver's disk fails at some write, and the process with it.
        lose: The receiver crashes after it committed and before its answers left.
        restart: Some party restarts before the message arrives.
        rollback: Some party restarts from an old backup of its store.
        jump: Some party's clock jumps, forwards or backwards.
        partition: Some parties are cut off for a while.
        onset: Messages that arrive before the first fault: a run that never begins shows little.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    replay: float = 0.0
    corrupt: float = 0.0
    crash: float = 0.0
    lose: float = 0.0
    restart: float = 0.0
    rollback: float = 0.0
    jump: float = 0.0
    partition: float = 0.0
    onset: int = 0

    @classmethod
    def draw(cls, random: Random, *, rollback: bool = False) -> Faults:
        """Rates of one seed.

        Args:
            random: The seed's stream.
            rollback: Whether parties may restart from old backups.
        """
        rates = {name: random.choice(LEVELS) for name in ("drop", "duplicate", "replay", "corrupt")}
        rates |= {name: random.choice(RARE) for name in ("crash", "lose", "restart", "jump")}
        rates |= {name: random.choice(RARE[1:]) for name in ("delay", "partition")}
        rates["reorder"] = random.choice((0.0, 0.1, 1.0))
        rates["rollback"] = random.choice((0.01, 0.03)) if rollback else 0.0
        return cls(**rates, onset=random.choice((0, random.randrange(60), random.randrange(60))))

    @property
    def none(self) -> bool:
        """Whether nothing ever goes wrong; disorder within a phase is not wrong."""
        rates = dataclasses.asdict(self)
        harmless = ("reorder", "duplicate", "onset")
        return not any(rate for name, rate in rates.items() if name not in harmless)


def damage(envelope: Envelope, random: Random) -> Envelope:
    """The envelope with one bit changed, or cut off, or without one of its chunks."""
    parts = [envelope.message, *envelope.chunks]
    which = random.randrange(len(parts))
    part = bytearray(parts[which])
    kind = random.random()
    if kind < 0.8 and part:
        part[random.randrange(len(part))] ^= 1 << random.randrange(8)
        parts[which] = bytes(part)
    elif kind < 0.9:
        parts[which] = bytes(part[: random.randrange(len(part) + 1)])
    elif which:
        del parts[which]
    return Envelope(envelope.receiver, parts[0], tuple(parts[1:]))
