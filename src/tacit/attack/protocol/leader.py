"""A leader that lies, inside a real run: it signs with its own key, and hears what honest parties answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.attack.scratch import LEADER, ScratchFederation
from tacit.engine.clock import wall_clock
from tacit.errors import DecodeError, RemoteProtocolError, SignatureError, TacitError
from tacit.learn.code import LoadedModel
from tacit.party.base import log_head
from tacit.party.job import JobSpec
from tacit.types import Digest, PartyName, Role
from tacit.wire.envelope import (
    Address,
    Channel,
    Envelope,
    Received,
    open_message,
    sign_message,
    split_chunks,
)
from tacit.wire.messages import (
    Accept,
    CatchUpRequest,
    HelperKey,
    MaskSum,
    Refusal,
    RoundStart,
    Upload,
    Vector,
)

__all__ = ["Attempt", "Forge", "MaliciousLeader", "Outcome", "Watch"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt.

    Args:
        name: Of the attempt.
        accepted: Whether an honest party gave what it should not have.
        by: Who refused, or gave in.
        code: Of the refusal; empty if it gave in or said nothing.
        trained: Whether the site had computed on its data by then.
    """

    name: str
    accepted: bool
    by: str
    code: str
    trained: bool = False

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


class Watch:
    """Counts how often a site's model computes on data.

    Args:
        load: Loads the job's own model.
    """

    COMPUTES = ("gradients", "gradient_parts", "mean_gradient", "factors")

    def __init__(self, load: Callable[[JobSpec], LoadedModel]) -> None:
        self.count = 0
        self._load = load

    def __call__(self, job: JobSpec) -> LoadedModel:
        """The model, watched."""
        loaded = self._load(job)
        return dataclasses.replace(loaded, model=_Watched(loaded.model, self))


class _Watched:
    def __init__(self, model: object, watch: Watch) -> None:
        self._model = model
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name not in Watch.COMPUTES:
            return found

        def counted(*args: Any, **options: Any) -> Any:
            self._watch.count += 1
            return found(*args, **options)

        return counted


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lie, told to the victim before the honest message is.

    Args:
        name: For the report.
        role: Whom it is told: the victim as a client or as a helper.
        round: Before which round's honest message.
        forge: What is said instead, from the honest message; None where the lie does not apply.
        after: Whether the honest message is delivered first.
    """

    name: str
    role: Role
    round: int
    forge: Forge
    after: bool = False


Forge = Callable[["MaliciousLeader", Envelope, Received], Envelope | None]
"""From the honest message to the lie; None where it does not apply."""


class MaliciousLeader:
    """A tap that tells the victim lies, and passes the honest message on when they were refused.

    Args:
        scratch: The federation; of its keys the leader's and those of ``colluding`` sites are used.
        victim: An honest site, and helper.
        colluding: Sites that the leader controls too.
        attempts: What to try; an attempt that succeeds changes the run, so that those after it wait for
            another run.
        watch: Counts the victim's computations.

    Attributes:
        seen: All messages that went by, opened.
        outcomes: Of the attempts that were made.
        pending: Attempts that were not.
    """

    def __init__(
        self,
        scratch: ScratchFederation,
        victim: PartyName,
        colluding: Sequence[PartyName],
        attempts: Sequence[Attempt],
        watch: Watch | None = None,
    ) -> None:
        self.scratch = scratch
        self.victim = victim
        self.colluding = frozenset(colluding)
        self.pending = list(attempts)
        self.seen: list[tuple[Received, Envelope]] = []
        self.outcomes: list[Outcome] = []
        self._watch = watch
        self._spoilt = False

    def __call__(self, envelope: Envelope) -> Envelope | None:
        """The tap."""
        message = self.open(envelope)
        if message is None:
            return envelope
        self.seen.append((message, envelope))
        due = [one for one in self.pending if self._matches(one, envelope, message)]
        for attempt in due:
            if not self._spoilt:
                self._try(attempt, envelope, message)
        return envelope

    def _matches(self, attempt: Attempt, envelope: Envelope, message: Received) -> bool:
        kind = "round-start" if attempt.role == "client" else "mask-request"
        to_victim = envelope.receiver == Address(self.victim, attempt.role)
        honest = message.sender.party == LEADER and message.header.type == kind
        return honest and to_victim and message.round == attempt.round

    def _try(self, attempt: Attempt, envelope: Envelope, message: Received) -> None:
        self.pending.remove(attempt)
        forged = attempt.forge(self, envelope, message)
        if forged is None:
            return
        before = self.computed
        first = self.deliver(envelope) if attempt.after else []
        answers, error = self.told(forged)
        gave = [one for one in answers if isinstance(one.body, Upload | MaskSum | Accept)]
        new = {one.digest for one in gave} - {one.digest for one in first}
        refused = [one.body.code for one in answers if isinstance(one.body, Refusal)]
        code = "" if new else (refused[0] if refused else error)
        if not new and not code and gave:
            code = "the stored answer, again"
        self._spoilt = bool(new)
        self.outcomes.append(
            Outcome(attempt.name, bool(new), str(forged.receiver), code, self.computed > before)
        )

    @property
    def computed(self) -> int:
        """How often the victim has computed on its data."""
        return self._watch.count if self._watch is not None else 0

    # --- speaking and hearing ------------------------------------------------------------------

    def open(self, envelope: Envelope) -> Received | None:
        """The message in an envelope, whoever it is for; None if nobody's signature holds."""
        try:
            return open_message(envelope.message, self.scratch.roster.authenticate)
        except (DecodeError, SignatureError):
            return None

    def opened(self, raw: bytes) -> Received:
        """A signed message inside another one."""
        return open_message(raw, self.scratch.roster.authenticate)

    def told(self, envelope: Envelope) -> tuple[list[Received], str]:
        """What a party answers, and the code of its last error; a site that asks for proof is asked again."""
        party = self._party(envelope.receiver)
        party.last_error = None
        answers = self.deliver(envelope)
        if any(isinstance(one.body, CatchUpRequest) for one in answers):
            answers = self.deliver(envelope)
        error: TacitError | None = party.last_error
        return answers, error.code if error is not None else ""

    def deliver(self, envelope: Envelope) -> list[Received]:
        """Hands a message to its receiver; the answers reach nobody but this leader."""
        party = self._party(envelope.receiver)
        try:
            answers = party.receive(envelope, wall_clock())
        except (DecodeError, SignatureError, RemoteProtocolError) as error:
            party.last_error = error
            return []
        return [one for answer in answers if (one := self.open(answer)) is not None]

    def _party(self, address: Address) -> Any:
        parties: dict[Role, Any] = {"client": self.scratch.sites, "helper": self.scratch.helpers}
        return parties[address.role][address.party]

    def speak(
        self,
        receiver: Address,
        body: Any,
        *,
        number: int,
        chunks: Sequence[bytes] = (),
        sender: Address | None = None,
        signer: PartyName = LEADER,
        run: Digest | None = None,
    ) -> Envelope:
        """A message in anybody's name, signed with a key that this leader has."""
        if signer != LEADER and signer not in self.colluding:
            raise ValueError("the leader has no such key")
        terms, scratch = self.scratch.terms, self.scratch
        machine: Any = scratch.leader if signer == LEADER else scratch.sites[signer]
        channel = Channel(
            run=terms.run if run is None else run,
            roster=Digest(terms.manifest.roster),
            job=Digest(terms.manifest.job),
            sender=sender or scratch.leader.address,
            signer=scratch.identities[signer],
            log=log_head(machine.ports.log),
        )
        return sign_message(channel, receiver, body, round_number=number, chunks=chunks)

    def again(
        self,
        envelope: Envelope,
        message: Received,
        *,
        chunks: Sequence[bytes] | None = None,
        number: int | None = None,
        **changes: Any,
    ) -> Envelope:
        """The leader's message with other fields."""
        return self.speak(
            envelope.receiver,
            dataclasses.replace(message.body, **changes),
            number=message.round if number is None else number,
            chunks=envelope.chunks if chunks is None else chunks,
        )

    def bodies(self, kind: type, number: int) -> list[Received]:
        """Messages of a kind and round that went by, each once."""
        found = {
            m.digest: m for m, _ in self.seen if isinstance(m.body, kind) and m.round == number
        }
        return list(found.values())

    def vector(self, integers: NDArray[np.int64]) -> tuple[Vector, tuple[bytes, ...]]:
        """Integers as a vector on the wire."""
        ring = self.scratch.terms.ring
        return split_chunks(ring.to_bytes(ring.from_integers(integers)), len(integers))

    def key_of(self, helper: PartyName, number: int, receiver: Address) -> bytes:
        """A key whose private half the leader holds, said to be a helper's, signed by the leader."""
        opener = self.scratch.leader.ports.sealing.generate()
        forged = self.speak(
            receiver, HelperKey(opener.public_key), number=number, sender=Address(helper, "helper")
        )
        return forged.message

    def starts(self, number: int) -> Received:
        """The victim's start of a round."""
        (found,) = [
            m
            for m, e in self.seen
            if isinstance(m.body, RoundStart)
            and m.round == number
            and e.receiver == Address(self.victim, "client")
        ][:1]
        return found
