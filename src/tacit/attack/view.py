"""Who looks: each adversary's view of a recorded run, and nothing beyond it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.attack.transcript import Integers, Packet, Transcript
from tacit.types import PartyName

__all__ = ["Adversary", "Seen", "View", "look"]


@dataclass(frozen=True, slots=True)
class Adversary:
    """Who pools what.

    Args:
        name: In words, for the table.
        leader: Whether it runs the leader: it then sees every upload, as far as its helpers unmask it.
        helpers: Helpers whose keys and noise shares it holds.
        clients: Sites whose contributions it knows, because they are its own.
        released_only: It sees the released model alone.
        network: It sees packets alone.
    """

    name: str
    leader: bool = False
    helpers: frozenset[PartyName] = frozenset()
    clients: frozenset[PartyName] = frozenset()
    released_only: bool = False
    network: bool = False

    @classmethod
    def observer(cls) -> Adversary:
        """Reads the network: addresses, sizes, order; never a byte of content."""
        return cls("network observer", network=True)

    @classmethod
    def released(cls) -> Adversary:
        """Holds the released model."""
        return cls("released model", released_only=True)

    @classmethod
    def client(cls, site: PartyName, *, helper: bool = True) -> Adversary:
        """One site: every model and sum, its own contribution, and as a helper its own noise."""
        own = frozenset({site})
        return cls("client", clients=own, helpers=own if helper else frozenset())

    @classmethod
    def helper(cls, name: PartyName) -> Adversary:
        """One helper alone: every sum is public to it, its own noise is known."""
        return cls("helper", helpers=frozenset({name}))

    @classmethod
    def leads(
        cls,
        helpers: Iterable[PartyName] = (),
        own: Iterable[PartyName] = (),
        *,
        pooled: bool = False,
    ) -> Adversary:
        """The leader, with so many helpers, and with sites that tell it what they contributed.

        Args:
            helpers: Who collude by their keys and noise.
            own: Sites whose contributions it knows.
            pooled: Whether these are all sites but the target.
        """
        held, known = frozenset(helpers), frozenset(own)
        name = f"leader + {len(held)} helper{'s' if len(held) > 1 else ''}" if held else "leader"
        if pooled:
            name += " + all other sites"
        elif known:
            name += ", who are sites and know what they contributed"
        return cls(name, leader=True, helpers=held, clients=known)


@dataclass(frozen=True, slots=True)
class Seen:
    """One round as an adversary sees it, in the units of gradients.

    Args:
        number: The round.
        theta: The model on which the round trained, ``float64[d]``.
        total: The sum, ``float64[length]``, less the noise and contributions that the adversary knows.
        cohort: The sites in the sum.
        unknown: Those whose contributions are still in ``total``.
        contributions: Single contributions, ``float64[length]`` by site: only where nothing masks them.
        uploads: What the leader received, ring elements by site, less the masks that the adversary can
            remove; nothing if it is not the leader.
        noise_std: Standard deviation of the noise still in every coordinate of ``total``.
    """

    number: int
    theta: NDArray[np.float64]
    total: NDArray[np.float64]
    cohort: tuple[PartyName, ...]
    unknown: tuple[PartyName, ...]
    contributions: dict[PartyName, NDArray[np.float64]]
    uploads: dict[PartyName, NDArray[np.unsignedinteger]]
    noise_std: float


@dataclass(frozen=True, slots=True)
class View:
    """What an adversary has.

    Args:
        adversary: Who it is.
        models: Every model, first to last, ``float64[d]`` each; the released one alone, or none.
        released: The released parameters.
        rounds: Sums, and what else it sees of each round.
        packets: What the network shows, to whoever is in its way: leader and observer.
    """

    adversary: Adversary
    models: tuple[NDArray[np.float64], ...]
    released: NDArray[np.float64] | None
    rounds: tuple[Seen, ...]
    packets: tuple[Packet, ...]


def look(transcript: Transcript, adversary: Adversary) -> View:
    """The view of an adversary.

    Guarantee:
        A single contribution appears only if the protocol is ``plain``, the adversary holds every helper of
        the round, or every other contribution of its cohort is the adversary's own. Checked by
        ``tests/attack/test_view.py::test_an_adversary_sees_no_more_than_its_keys_open``.
    """
    if adversary.network:
        return View(adversary, (), None, (), transcript.packets)
    if adversary.released_only:
        released = transcript.released
        return View(adversary, (released,) if released is not None else (), released, (), ())
    rounds = tuple(_seen(transcript, adversary, index) for index in range(len(transcript.closed)))
    models = tuple(state.theta for state in transcript.states)
    packets = transcript.packets if adversary.leader else ()
    return View(adversary, models, transcript.released, rounds, packets)


def _seen(transcript: Transcript, adversary: Adversary, index: int) -> Seen:
    one = transcript.closed[index]
    assert one.total is not None
    names = [name for name, _ in one.helper_keys]
    held = [name for name in names if name in adversary.helpers]
    known: Integers = np.zeros_like(one.total)
    variance = 0
    if transcript.plan.private:
        for helper in held:
            known += transcript.noise_share(one, helper)
        variance = (len(names) - len(held)) * transcript.plan.share_variance(len(names))
    own = [site for site in one.cohort if site in adversary.clients]
    for site in own:
        known += transcript.contribution(one, site)
    opened = adversary.leader and len(held) == len(names)
    contributions, uploads = {}, {}
    if adversary.leader:
        for site in one.cohort:
            uploads[site] = transcript.less_masks(one, site, held)
            if opened:
                centred = transcript.terms.ring.centred(uploads[site])
                contributions[site] = transcript.values(centred)
    return Seen(
        number=one.number,
        theta=one.state.theta,
        total=transcript.values(one.total - known),
        cohort=one.cohort,
        unknown=tuple(site for site in one.cohort if site not in own),
        contributions=contributions,
        uploads=uploads,
        noise_std=float(np.sqrt(variance)) * transcript.plan.grid,
    )
