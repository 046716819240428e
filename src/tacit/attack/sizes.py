"""Whether messages are longer, or more, at clients that were sampled in secret: kind by kind, exactly.

Sizes follow from the protocol and are no matter of chance, so that a difference of one byte that stands
between the two classes every time is a leak, however few clients there are. Only which clients were sampled
is chance, and that decides how often a difference must repeat.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tacit.attack.transcript import Packet
from tacit.types import PartyName

__all__ = ["LOTS", "Client", "Difference", "clients_of", "differences", "reach"]

LOTS = frozenset({"kept-request", "kept", "witness-answer"})
"""Kinds whose sizes depend on lots: who adds a sum up again asks for messages, and its log grows."""

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """What the network shows of one client in one round.

    Args:
        sampled: The truth, which it does not show.
        sizes: By direction and kind the sizes of all messages, in rising order.
        lots: Rounds up to this one whose sum the client added up again.
    """

    sampled: bool
    sizes: Mapping[str, Sizes]
    lots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A kind of message that tells sampled clients from others wherever both could be compared.

    Args:
        kind: Direction and kind.
        times: In how many groups of clients.
        p_value: Of so many by chance, for all kinds that vary together; see ``differences``.
    """

    kind: str
    times: int
    p_value: float

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def clients_of(
    packets: Iterable[Packet], number: int, sampled: Mapping[PartyName, bool]
) -> list[Client]:
    """The clients of a round.

    Args:
        packets: Of the whole run.
        number: The round.
        sampled: Who was, of the cohort.
    """
    sizes: dict[PartyName, dict[str, list[int]]] = {name: defaultdict(list) for name in sampled}
    lots: dict[PartyName, set[int]] = {name: set() for name in sampled}
    for one in packets:
        for name, way in ((one.sender, "sent"), (one.receiver, "received")):
            if name in sampled and one.round == number:
                sizes[name][f"{way} {one.kind}"].append(one.size)
        if one.sender in sampled and one.kind == "kept-request" and one.round <= number:
            lots[one.sender].add(one.round)
    return [
        Client(
            sampled[name],
            {kind: tuple(sorted(found)) for kind, found in sizes[name].items()},
            tuple(sorted(lots[name])),
        )
        for name in sampled
    ]


def differences(rounds: Sequence[Sequence[Client]]) -> tuple[Difference, ...]:
    """The kinds of messages by which sampled clients differ from the others of their round, every time.

    Every time: in each group that holds both, all sampled clients have one multiset of sizes and all others
    another one, always the larger or always the smaller. Of kinds that depend on lots a group is those of a
    round with the same lots.

    Guarantee: equal sizes never differ, whoever is sampled; in a system whose sizes vary, but not with who
    is sampled, some kind has a ``p_value`` below p with probability p at most. Checked by
    ``tests/attack/test_metadata.py::test_sizes_that_do_not_depend_on_sampling_raise_no_alarm``.

    Reference:
        Fisher 1935, permutation tests: within a group every choice of the sampled ones is as likely as any
        other of that many. The p-value counts both directions and all kinds that vary (Bonferroni).
    """
    kinds = sorted({kind for one in rounds for client in one for kind in client.sizes})
    varying = [kind for kind in kinds if _varies(rounds, kind)]
    found = []
    for kind in varying:
        groups = _groups(rounds, kind)
        signs = {_sign(group, kind) for group in groups}
        if signs in ({1}, {-1}):
            chance = min(1.0, 2.0 * len(varying) * _chance(groups))
            found.append(Difference(kind, len(groups), chance))
    return tuple(found)


def reach(rounds: Sequence[Sequence[Client]], kind: str) -> float:
    """The smallest p-value that a difference of one kind alone can have in these rounds."""
    return min(1.0, 2.0 * _chance(_groups(rounds, kind)))


def _groups(rounds: Sequence[Sequence[Client]], kind: str) -> list[list[Client]]:
    """Clients that would be alike if sampling did not show, as far as there are some of both classes.

    Those of a round without any such message show nothing.
    """
    by_lots = kind.partition(" ")[2] in LOTS
    found = []
    for one in rounds:
        groups: dict[tuple[int, ...], list[Client]] = defaultdict(list)
        for client in one:
            groups[client.lots if by_lots else ()].append(client)
        found += [
            group
            for group in groups.values()
            if len({client.sampled for client in group}) == 2
            and any(kind in client.sizes for client in group)
        ]
    return found


def _varies(rounds: Sequence[Sequence[Client]], kind: str) -> bool:
    return any(len({c.sizes.get(kind, ()) for c in g}) > 1 for g in _groups(rounds, kind))


def _sign(group: Sequence[Client], kind: str) -> int:
    """1 if all sampled clients have one multiset and all others a smaller one, -1 the other way, else 0."""
    yes, no = (
        {c.sizes.get(kind, ()) for c in group if c.sampled is is_in} for is_in in (True, False)
    )
    if len(yes) != 1 or len(no) != 1 or yes == no:
        return 0
    (more,), (less,) = yes, no
    return 1 if (sum(more), more) > (sum(less), less) else -1


def _chance(groups: Iterable[Sequence[Client]]) -> float:
    return math.prod(1.0 / math.comb(len(g), sum(c.sampled for c in g)) for g in groups)
