"""The embedded engine: all parties in this process, no server, no threads.

It moves envelopes from a queue to the objects that they name. Nothing here is asynchronous, so a run
also works inside a running event loop, for example in a notebook.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tacit.engine.clock import wall_clock
from tacit.errors import DecodeError, RemoteProtocolError, SignatureError, TacitError
from tacit.party.coordinator import Coordinator
from tacit.party.helper import Helper
from tacit.party.site import Site
from tacit.types import Milliseconds, PartyName
from tacit.wire.envelope import Address, Envelope

__all__ = ["LocalEngine", "Tap", "Traffic", "wall_clock"]

Clock = Callable[[], Milliseconds]
Tap = Callable[[Envelope], Envelope | None]
"""Sees every envelope; may replace it, or drop it by returning None. For demonstrations and faults."""


def _pass_on(envelope: Envelope) -> Envelope | None:
    return envelope


@dataclass(slots=True)
class Traffic:
    """Bytes by party: what it sent and what it received."""

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    rejected: int = 0


class LocalEngine:
    """Runs one coordinator, its sites and its helpers to the end.

    Args:
        coordinator: Leads the run.
        sites: By name.
        helpers: By name.
        on_progress: Called after every closed or failed round with the number of the round.
        clock: The time that parties see.
        tap: Sees every envelope.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        sites: Mapping[PartyName, Site],
        helpers: Mapping[PartyName, Helper],
        *,
        on_progress: Callable[[int], None] = lambda _: None,
        clock: Clock = wall_clock,
        tap: Tap = _pass_on,
    ) -> None:
        self.coordinator = coordinator
        self.traffic = Traffic()
        self.refusals: dict[PartyName, TacitError] = {}
        self._parties: dict[Address, Coordinator | Site | Helper] = {
            coordinator.address: coordinator,
            **{site.address: site for site in sites.values()},
            **{helper.address: helper for helper in helpers.values()},
        }
        self._helpers = tuple(helpers.values())
        self._on_progress = on_progress
        self._clock = clock
        self._tap = tap
        self._stop = False

    def now(self) -> Milliseconds:
        """The time that parties see."""
        return self._clock()

    def stop(self) -> None:
        """Asks for an early, orderly end; safe to call from a signal handler."""
        self._stop = True

    def run(self, first: Iterable[Envelope]) -> None:
        """Delivers envelopes until the coordinator has closed the run."""
        queue = deque(self._sent(self.coordinator.address.party, first))
        coordinator, leader = self.coordinator, self.coordinator.address.party
        closed = coordinator.durable.number("round")
        while coordinator.phase != "closed":
            if self._stop:
                self._stop = False
                ending = self._sent(leader, coordinator.interrupt(self._clock()))
                if ending:  # What was not delivered yet never will be: the round is aborted.
                    queue = deque(ending)
            elif queue:
                queue.extend(self._deliver(queue.popleft()))
            else:
                # Nobody has anything left to say: every deadline would pass in silence.
                for helper in self._helpers:
                    helper.tick(self._clock())
                queue.extend(self._sent(leader, coordinator.tick(coordinator.deadline)))
            started = coordinator.durable.number("round")
            if started != closed:
                self._on_progress(started - 1)
                closed = started
        self._on_progress(coordinator.durable.number("round"))

    def _deliver(self, envelope: Envelope) -> list[Envelope]:
        passed = self._tap(envelope)
        if passed is None:
            return []
        party = self._parties.get(passed.receiver)
        if party is None:
            return []
        self.traffic.received[passed.receiver.party] += passed.size
        try:
            answers = party.receive(passed, self._clock())
        except (DecodeError, SignatureError, RemoteProtocolError):
            self.traffic.rejected += 1
            return []
        if not isinstance(party, Coordinator) and party.last_error is not None:
            self.refusals.setdefault(party.address.party, party.last_error)
        return self._sent(party.address.party, answers)

    def _sent(self, party: PartyName, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """Counts what a party sends."""
        sent = list(envelopes)
        self.traffic.sent[party] += sum(envelope.size for envelope in sent)
        return sent
