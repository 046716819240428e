"""The simulation itself: a queue of envelopes on a virtual clock, between parties that may break."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Protocol

from tacit.engine.simulator.faults import Faults, damage
from tacit.engine.simulator.history import History
from tacit.engine.simulator.oracle import Fields
from tacit.engine.simulator.vault import Vault
from tacit.errors import (
    DecodeError,
    RemoteProtocolError,
    RoundAborted,
    SignatureError,
    TacitError,
    TransportError,
)
from tacit.party.coordinator import Coordinator
from tacit.party.helper import Helper
from tacit.party.site import Site
from tacit.party.terms import Terms
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, PartyName, Signer
from tacit.wire.envelope import Address, Envelope, Received
from tacit.wire.messages import MaskRequest, MaskSum, Upload

__all__ = ["Checker", "Cluster", "Disk", "Intruder", "Simulation", "Violation"]

MAX_STEPS = 4_000
"""An honest run of the largest cluster delivers fewer than 300 messages."""

AFTERLIFE = 300
START = 1_700_000_000_000
YEAR = 365 * 86_400_000

UNTYPED = (
    TacitError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What must not leave a party: a ``TacitError`` that its engine does not expect, or a bug."""

Call = Callable[[], list[Envelope]]


class Violation(AssertionError):
    """A checker found a broken rule."""

    def __init__(self, checker: str, text: str) -> None:
        super().__init__(f"[{checker}] {text}")
        self.checker = checker


class Disk(Protocol):
    """A store that can break, be backed up and be stolen."""

    fail_after: int | None

    def crash(self) -> Any:
        """What survives, on a medium that works; also a backup."""
        ...

    def dump(self) -> list[bytes]:
        """Every committed byte string."""
        ...


class Cluster(Protocol):
    """A federation in one process whose parties can be killed and restarted.

    ``stores`` may be assigned before ``restart``: that is a restore from a backup. ``restored`` are the
    sites that began with an older state than the one that the others saw in an earlier run.
    """

    restored: frozenset[PartyName]
    roster: Roster
    terms: Terms
    leader: Coordinator
    sites: dict[PartyName, Site]
    helpers: dict[PartyName, Helper]

    @property
    def stores(self) -> dict[PartyName, Any]:
        """The durable state of every party, by name; each is a ``Disk``."""
        ...

    def start(self) -> list[Envelope]:
        """The leader's first messages."""
        ...

    def party(self, address: Address) -> Coordinator | Site | Helper:
        """Who serves an address; KeyError for nobody."""
        ...

    def restart(self, name: PartyName) -> None:
        """Memory is lost, what was committed is not."""
        ...

    def read(self, envelope: Envelope) -> Received:
        """The message in an envelope, whoever it is addressed to."""
        ...

    def identity(self, name: PartyName) -> Signer:
        """The signing key of a party."""
        ...

    def required(self, name: PartyName) -> frozenset[PartyName]:
        """The helpers without which a site takes part in no round."""
        ...


class Intruder(Protocol):
    """Who controls the corrupt parties: sees what they receive, decides what they send."""

    corrupt: frozenset[PartyName]

    @property
    def shifted(self) -> bool:
        """Whether a corrupt helper has answered with another vector, which shifts the sum."""
        ...

    def observe(self, envelope: Envelope) -> bool:
        """A message reached a corrupt party; whether its machine hears of it."""
        ...

    def rewrite(self, envelope: Envelope) -> Sequence[Envelope]:
        """What leaves instead of a message that a corrupt party's machine made."""
        ...


class Checker(Protocol):
    """A named rule. Each method raises ``Violation`` with that name."""

    name: str

    def sent(self, simulation: Simulation, message: Received) -> None:
        """An honest party sent a message."""
        ...

    def acted(self, simulation: Simulation, party: PartyName) -> None:
        """An honest party has handled something."""
        ...

    def ended(self, simulation: Simulation) -> None:
        """The run is over, and so is what came after."""
        ...


class Simulation:
    """One run of a cluster under faults and, maybe, an intruder.

    Args:
        cluster: The parties.
        vault: Remembers what the parties' sealing and training do.
        random: The seed's stream; everything follows from it.
        faults: How often things break.
        checkers: The rules.
        intruder: Controls the corrupt parties.
        foreign: Envelopes of other runs of the same federation, for replays.

    Attributes:
        ended: The typed reason, when the leader could not be resumed.
        rolled_back: Parties that were restored from an old backup.
        trace: Hexadecimal digest of all that was sent, in order.
    """

    def __init__(
        self,
        cluster: Cluster,
        vault: Vault,
        random: Random,
        faults: Faults,
        *,
        checkers: Iterable[Checker] = (),
        intruder: Intruder | None = None,
        foreign: Sequence[Envelope] = (),
    ) -> None:
        self.cluster = cluster
        self.vault = vault
        self.random = random
        self.faults = faults
        self.checkers = tuple(checkers)
        self.intruder = intruder
        self.history = History(
            vault, Fields(cluster.terms.manifest.length, cluster.terms.manifest.ring_bits)
        )
        self.now = START
        self.steps = 0
        self.arrived = 0
        self.ended: RoundAborted | None = None
        self.rolled_back: set[PartyName] = set()
        self._queue: list[tuple[int, int, Envelope]] = []
        self._sequence = 0
        self._phase = cluster.terms.phase
        self._old: list[Envelope] = list(foreign)
        self._clock: dict[PartyName, int] = dict.fromkeys(cluster.stores, 0)
        self._backups: dict[PartyName, list[Any]] = {name: [] for name in cluster.stores}
        self._cut: frozenset[PartyName] = frozenset()
        self._cut_until = 0
        self._trace = hashlib.sha256()

    @property
    def leader(self) -> PartyName:
        """The leader's name."""
        return self.cluster.leader.address.party

    @property
    def corrupt(self) -> frozenset[PartyName]:
        """Whose messages the intruder makes."""
        return self.intruder.corrupt if self.intruder is not None else frozenset()

    @property
    def honest_sites(self) -> list[PartyName]:
        """Sites that follow the protocol, in order of their names."""
        return sorted(set(self.cluster.sites) - self.corrupt)

    @property
    def trace(self) -> str:
        """What tells two executions apart."""
        return self._trace.hexdigest()

    # --- the run -----------------------------------------------------------------------------

    def run(self) -> Simulation:
        """Runs to the end, lets late messages arrive, and lets every checker look back.

        Raises:
            Violation: Names the checker.
        """
        self._act(self.leader, self.cluster.start)
        late = 0
        while not self._over or (self._queue and late < AFTERLIFE):
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise Violation("termination", f"no end after {MAX_STEPS} steps")
            if self._over:
                late += 1
                self._arrive()
            else:  # Also when a leader that had closed came back from an old backup.
                self._step()
        self._replay_requests()
        for checker in self.checkers:
            checker.ended(self)
        return self

    @property
    def _over(self) -> bool:
        return self.ended is not None or self.cluster.leader.phase == "closed"

    def _step(self) -> None:
        leader = self.cluster.leader
        due = leader.deadline - self._clock[self.leader]
        if not self._queue or max(due, self.now) < self._queue[0][0]:
            # Nothing arrives before the leader's patience ends.
            self.now = max(self.now, due)
            self._tick_helpers()
            self._act(self.leader, lambda: leader.tick(self.local(self.leader)))
        else:
            self._arrive()

    def _tick_helpers(self) -> None:
        for name, helper in list(self.cluster.helpers.items()):
            tick = getattr(helper, "tick", None)
            if tick is not None:
                self._act(name, lambda tick=tick, name=name: tick(self.local(name)))  # type: ignore[misc]

    def _arrive(self) -> None:
        due, _, envelope = heapq.heappop(self._queue)
        self.now = max(self.now, due)
        self.arrived += 1
        self._disturb()
        if self._cut_off(envelope):
            return
        if self.happens("drop"):
            return
        if self.happens("duplicate"):
            self._schedule(envelope)
        if self.happens("corrupt"):
            envelope = damage(envelope, self.random)
        self.deliver(envelope)

    def deliver(self, envelope: Envelope) -> None:
        """Hands one envelope to its receiver, who may crash over it."""
        name = envelope.receiver.party
        try:
            party = self.cluster.party(envelope.receiver)
        except KeyError:
            return
        if name in self.corrupt and self.intruder and not self.intruder.observe(envelope):
            return
        if self.happens("crash"):
            self.cluster.stores[name].fail_after = self.random.randrange(14)
        lost = self.happens("lose")
        self._act(name, lambda: party.receive(envelope, self.local(name)), envelope, lost=lost)
        self.cluster.stores[name].fail_after = None

    def _replay_requests(self) -> None:
        """Old requests reach the parties once more, when all is over."""
        requests = [
            one
            for one in self._old
            if one.receiver.role != "leader" and one.receiver.party not in self.corrupt
        ]
        for envelope in self.random.sample(requests, min(3, len(requests))):
            self.deliver(envelope)

    # --- time and faults ---------------------------------------------------------------------

    def local(self, name: PartyName) -> Milliseconds:
        """The time that a party sees."""
        return Milliseconds(max(self.now + self._clock[name], 0))

    def happens(self, fault: str) -> bool:
        """Draws whether a fault strikes now."""
        rate: float = getattr(self.faults, fault)
        return bool(rate) and self.arrived >= self.faults.onset and self.random.random() < rate

    def _schedule(self, envelope: Envelope) -> None:
        latency = 1
        if self.happens("reorder"):
            latency = self.random.randrange(1, 100)
        if self.happens("delay"):
            latency = self.random.randrange(self._phase // 2, 2 * self._phase)
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + latency, self._sequence, envelope))

    def _disturb(self) -> None:
        """What happens to the world before a message arrives."""
        names = list(self.cluster.stores)
        if self.happens("jump"):
            step = self.random.choice((-1, 1)) * self.random.choice((1_000, self._phase, YEAR))
            self._clock[self.random.choice(names)] += step
        if self.happens("partition"):
            cut = self.random.sample(names, self.random.randrange(1, len(names)))
            self._cut, self._cut_until = (
                frozenset(cut),
                self.now + self.random.randrange(2 * self._phase),
            )
        if self.happens("replay") and self._old:
            self._schedule(self.random.choice(self._old))
        if self.happens("restart"):
            self.restart(self.random.choice(names))
        if self.faults.rollback:
            self._roll(names)

    def _roll(self, names: list[PartyName]) -> None:
        if self.random.random() < 0.1:
            name = self.random.choice(names)
            self._backups[name].append(self.cluster.stores[name].crash())
        name = self.random.choice(names)
        if self._backups[name] and self.happens("rollback"):
            self.cluster.stores[name] = self.random.choice(self._backups[name])
            self.rolled_back.add(name)
            self.restart(name)

    def _cut_off(self, envelope: Envelope) -> bool:
        """Whether a partition stops a message; half of these arrive once it has healed."""
        if self.now >= self._cut_until:
            return False
        sender = self._sender(envelope)
        if sender is None or (sender in self._cut) == (envelope.receiver.party in self._cut):
            return False
        if self.random.random() < 0.5:
            self._sequence += 1
            heapq.heappush(self._queue, (self._cut_until, self._sequence, envelope))
        return True

    def _sender(self, envelope: Envelope) -> PartyName | None:
        try:
            return self.cluster.read(envelope).sender.party
        except (DecodeError, SignatureError):
            return None

    def restart(self, name: PartyName) -> None:
        """Kills a party and starts it again; the leader goes on with its run."""
        self.cluster.restart(name)
        if name == self.leader:
            if self.happens("crash"):
                self.cluster.stores[name].fail_after = self.random.randrange(14)
            self._act(name, lambda: self.cluster.leader.resume(self.local(name)))
            self.cluster.stores[name].fail_after = None

    # --- what parties do ---------------------------------------------------------------------

    def _act(
        self,
        name: PartyName,
        call: Call,
        request: Envelope | None = None,
        *,
        lost: bool = False,
    ) -> None:
        """Lets a party act; what it says is checked and sent, unless it dies first."""
        self.vault.current = name
        try:
            made = call()
        except (DecodeError, SignatureError, RemoteProtocolError):
            return
        except TransportError as error:
            if self.cluster.stores[name].fail_after is None:
                raise Violation("typed-errors", f"{name}: {error!r}") from error
            self.restart(name)
            return
        except RoundAborted as error:
            self.ended = error
            return
        except UNTYPED as error:
            raise Violation("typed-errors", f"{name}: {error!r}") from error
        if lost:
            self.restart(name)
            return
        for envelope in made:
            self._send(name, envelope, request)
        if name not in self.corrupt:
            for checker in self.checkers:
                checker.acted(self, name)

    def _send(self, name: PartyName, envelope: Envelope, request: Envelope | None) -> None:
        honest = name not in self.corrupt
        leaving: Sequence[Envelope] = [envelope]
        if self.intruder is not None and not honest:
            leaving = self.intruder.rewrite(envelope)
        for one in leaving:
            self._note(one, request, honest=honest)
            self._trace.update(one.message)
            self._old.append(one)
            self.history.sent.append(one)
            self._schedule(one)

    def _note(self, envelope: Envelope, request: Envelope | None, *, honest: bool) -> None:
        try:
            message = self.cluster.read(envelope)
        except (DecodeError, SignatureError):
            if honest:
                raise
            return
        if message.header.run != self.cluster.terms.run:
            return  # An offer of another run was replayed; it is that run's simulation's matter.
        if isinstance(message.body, Upload):
            site = self.cluster.sites.get(message.sender.party)
            self.history.upload(message, _model(site, self.cluster.terms.run_id), genuine=honest)
        if isinstance(message.body, MaskSum) and honest:
            self.history.answer(message, self._asked(request))
        if honest:
            for checker in self.checkers:
                checker.sent(self, message)

    def _asked(self, request: Envelope | None) -> tuple[Digest, ...]:
        """The uploads that a helper was asked about, as far as they are messages."""
        body = self.cluster.read(request).body if request is not None else None
        if not isinstance(body, MaskRequest):
            return ()
        found = []
        for raw in body.uploads:
            try:
                copy = self.cluster.read(Envelope(self.cluster.leader.address, raw))
            except (DecodeError, SignatureError):
                continue
            self.history.upload(copy, b"", genuine=False)
            found.append(copy.digest)
        return tuple(found)


def _model(site: Site | None, run: str) -> bytes:
    """The digest of the model that a site holds, on which it has just trained."""
    return (site.state(run).get("model") or b"") if site is not None else b""
