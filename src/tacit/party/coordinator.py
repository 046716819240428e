"""The coordinator: leads a run, adds masked vectors, and is trusted with nothing else.

Phases: ``offered`` (accepts and first helper keys), ``collecting`` (uploads), ``unmasking`` (mask
sums), ``recording`` (logs for the bundle), ``closed``. A round that fails costs its number; the next
one has a new number, new keys and a new charge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tacit.errors import (
    DecodeError,
    RemoteProtocolError,
    RoundAborted,
    TacitError,
    TransportError,
)
from tacit.learn.server import ServerState
from tacit.party.base import Party, Ports
from tacit.party.chain import ModelChain
from tacit.party.contribute import chunk_info, upload_context
from tacit.party.terms import Terms
from tacit.party.transcript import Transcript
from tacit.party.workload import Workload
from tacit.secagg.masked import cohort_digest, unmask
from tacit.secagg.plain import plain_sum
from tacit.trust.roster import Roster
from tacit.types import Milliseconds, Opener, PartyName
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import Address, Envelope, Received, digest, join_chunks, split_chunks
from tacit.wire.messages import (
    Accept,
    Aggregate,
    CohortMember,
    Finish,
    HelperKey,
    MaskRequest,
    MaskSum,
    Offer,
    Record,
    Refusal,
    RoundAbort,
    RoundStart,
    Upload,
)

__all__ = ["Coordinator", "Phase"]

Phase = Literal["offered", "collecting", "unmasking", "recording", "closed"]
MAX_FAILED_ROUNDS = 3
DEFAULT_TIMEOUT = 600_000


@dataclass(slots=True)
class RoundWork:
    """What the leader holds of the round in progress; lost with the process."""

    number: int
    context: bytes = b""
    opener: Opener | None = None
    uploads: dict[PartyName, Received] = field(default_factory=dict)
    dropped: set[PartyName] = field(default_factory=set)
    answers: dict[PartyName, Received] = field(default_factory=dict)


class Coordinator(Party):
    """Leads one run.

    Args:
        name: Its name in the roster.
        roster: The pinned roster.
        ports: The world.
        terms: The run.
        workload: The computation, for the model chain.
        timeout: How long a phase may last.
    """

    def __init__(
        self,
        name: PartyName,
        roster: Roster,
        ports: Ports,
        terms: Terms,
        workload: Workload,
        timeout: int = DEFAULT_TIMEOUT,
    ) -> None:
        super().__init__(Address(name, "leader"), roster, ports)
        self.terms = terms
        self.phase: Phase = "offered"
        self.failure: TacitError | None = None
        self.deadline = Milliseconds(0)
        self.durable = self.state(terms.run_id)
        self.chain = ModelChain(self, terms, workload, self.durable)
        self.transcript = Transcript(self.durable)
        self._timeout = timeout
        self._accepts: dict[PartyName, Received] = {}
        self._keys: dict[PartyName, Received] = {}
        self._records: set[PartyName] = set()
        self._work = RoundWork(number=0)
        self._failed_rounds = 0
        self._excluded: set[PartyName] = set()

    # --- what an engine calls ----------------------------------------------------------------

    def start(self, offer: Offer, now: Milliseconds) -> list[Envelope]:
        """Offers the run to every client and helper."""
        offers = [self._to(address, offer) for address in self._everyone()]
        with self.ports.store.transaction():
            self.transcript.put("offer.msg", offers[0].message)
            self.log(
                self.terms,
                now,
                "run.offered",
                job=self.terms.manifest.job.hex(),
                plan=digest(self.terms.manifest.plan).hex(),
            )
        self._wait(now)
        return offers

    def resume(self, now: Milliseconds) -> list[Envelope]:
        """Goes on after a restart, from the last closed round.

        Raises:
            RoundAborted: The run was closed.
        """
        run, ending = self.terms.run_id[:16], self.durable.get("complete")
        if self.durable.number("closed"):
            raise RoundAborted(
                "run.closed",
                f"run {run} is closed; its budget is settled",
                retryable=False,
                remedy="start a new run",
            )
        if ending is not None:
            return self._finish(bool(int(ending)), now)  # Stopped while the logs came in.
        raw = self.transcript.matching("accept-")
        self._accepts = {m.sender.party: m for m in map(self.open, raw)}
        if set(self._accepts) != set(self.terms.clients):
            self.failure = RoundAborted(
                "run.not-begun",
                f"run {run} was stopped before every site had accepted it",
                retryable=False,
                remedy="start a new run; nothing had left a site, and nothing was charged",
            )
            return self._finish(False, now)  # So that sites release what they reserved.
        return self._abort_round("leader-restarted", self.durable.number("round"), now)

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; the answers may be sent once this returns.

        Raises:
            DecodeError, SignatureError: The bytes prove no sender; nothing was changed.
        """
        message = self.open(envelope.message, envelope.chunks)
        header, manifest = message.header, self.terms.manifest
        if (header.run, header.job, header.roster) != (
            self.terms.run,
            manifest.job,
            manifest.roster,
        ):
            return []
        try:
            return self._handle(message, now)
        except TransportError:
            raise  # The leader's own disk; no other round would fare better.
        except TacitError as error:
            return self._blame(error, now)

    def tick(self, now: Milliseconds) -> list[Envelope]:
        """To be called when time passes: ends a phase whose deadline is over."""
        if now < self.deadline or self.phase == "closed":
            return []
        match self.phase:
            case "offered":
                return self._wait_over(now)
            case "collecting":
                try:
                    return self._fix_cohort(now)
                except TransportError:
                    raise
                except TacitError as error:
                    return self._blame(error, now)
            case "unmasking":
                return self._fail_round("helper-timeout", now)
            case _:
                return self._close(now)

    def interrupt(self, now: Milliseconds) -> list[Envelope]:
        """Ends the run early, on the operator's wish; sites settle their budgets."""
        if self.phase in ("recording", "closed"):
            return []
        self.failure = RoundAborted(
            "run.interrupted",
            "the run was interrupted",
            retryable=False,
            remedy="the partial bundle shows what was done; start a new run to go on",
        )
        return self._finish(False, now)

    @property
    def model(self) -> ServerState | None:
        """The server state after the last closed round."""
        return self.chain.current

    # --- dispatch ----------------------------------------------------------------------------

    def _handle(self, message: Received, now: Milliseconds) -> list[Envelope]:
        client = message.sender.role == "client" and message.sender.party in self.terms.clients
        helper = message.sender.role == "helper" and message.sender.party in self.terms.helpers
        serve: Callable[[Received, Milliseconds], list[Envelope]] | None = None
        match message.body:
            case Accept() if client and self.phase == "offered":
                serve = self._accept
            case HelperKey() if helper:
                serve = self._helper_key
            case Upload() if client and self.phase == "collecting":
                serve = self._upload
            case MaskSum() if helper and self.phase == "unmasking":
                serve = self._mask_sum
            case Refusal() if client or helper:
                serve = self._refused
            case Record() if self.phase == "recording" and (client or helper):
                serve = self._record
        # Anything else is late, repeated or out of place: nothing to do.
        return serve(message, now) if serve is not None else []

    # --- before the first round --------------------------------------------------------------

    def _accept(self, message: Received, now: Milliseconds) -> list[Envelope]:
        name = message.sender.party
        if name not in self._accepts:
            self._accepts[name] = message
            with self.ports.store.transaction():
                self.transcript.put(f"accept-{name}.msg", message.raw)
        return self._maybe_begin(now)

    def _helper_key(self, message: Received, now: Milliseconds) -> list[Envelope]:
        if message.round > self.terms.manifest.rounds + 1:
            return []
        known = self._keys.get(message.sender.party)
        if known is None or known.round < message.round:
            self._keys[message.sender.party] = message
        wanted = self.durable.number("round") + 1
        if message.round > wanted and self.phase == "offered":
            # This helper lost the key of an earlier round: all move on to the one that it has.
            return self._abort_round("helper-restarted", message.round - 1, now)
        return self._maybe_begin(now)

    def _maybe_begin(self, now: Milliseconds) -> list[Envelope]:
        """Starts the next round once every client accepted and every helper's key is here."""
        number = self.durable.number("round") + 1
        ready = {name for name, key in self._keys.items() if key.round == number}
        if self.phase != "offered" or set(self._accepts) != set(self.terms.clients):
            return []
        if number > self.terms.manifest.rounds:
            return self._finish(True, now)
        if not set(self.terms.helpers) <= ready:
            return []
        return self._begin_round(number, now)

    def _begin_round(self, number: int, now: Milliseconds) -> list[Envelope]:
        opener = self.ports.sealing.generate()
        accepts = tuple(self._accepts[name].raw for name in self.terms.clients)
        keys = tuple(self._keys[name].raw for name in self.terms.helpers)
        with self.ports.store.transaction():
            model = self.chain.current
            if model is None:
                model = self.chain.begin(accepts)
                self.transcript.put("model-initial", model.theta.astype("<f8").tobytes())
            self.durable.put_number("round", number)
            self.log(self.terms, now, "round.started", round=number, model=model.digest.hex())
            for name in self.terms.helpers:
                self.transcript.put_round(number, f"key-{name}.msg", self._keys[name].raw)
        previous, chunks = self._previous()
        body = RoundStart(
            model=model.digest,
            leader_key=opener.public_key,
            keys=keys,
            accepts=() if previous is not None else accepts,
            previous=previous,
        )
        self.phase = "collecting"
        helper_keys = [(name, self._keys[name].body.key) for name in self.terms.helpers]
        context = upload_context(self.terms, number, model.digest, helper_keys)
        self._work = RoundWork(number, context, opener, dropped=set(self._excluded))
        self._wait(now)
        asked = [name for name in self.terms.clients if name not in self._excluded]
        return [self._to(Address(name, "client"), body, number, chunks) for name in asked]

    def _previous(self) -> tuple[Aggregate | None, tuple[bytes, ...]]:
        stored = self.durable.get("previous")
        if stored is None:
            return None, ()
        aggregate = decode(Aggregate, stored, len(stored))
        data = self.transcript.get_round(aggregate.round, "aggregate.bin")
        _, chunks = split_chunks(data, aggregate.vector.length)
        return aggregate, chunks

    # --- a round -----------------------------------------------------------------------------

    def _upload(self, message: Received, now: Milliseconds) -> list[Envelope]:
        work, name = self._work, message.sender.party
        if message.round != work.number or name in work.uploads:
            return []
        opener = work.opener
        assert opener is not None
        upload: Upload = message.body
        sealed_to = [seed.helper for seed in upload.seeds]
        if upload.context != work.context or sealed_to != list(self.terms.helpers):
            return self._exclude(name, "an upload for another context", now)
        try:
            if len(message.chunks) != len(upload.vector.digests):
                raise DecodeError("wire.chunks", f"the upload of {name} came without its chunks")
            chunks = tuple(
                opener.open(chunk, chunk_info(message.digest, index))
                for index, chunk in enumerate(message.chunks)
            )
            join_chunks(message.body.vector, chunks, self.terms.manifest.length)
        except DecodeError as error:
            # One damaged upload costs that client the round, not everybody.
            self.failure = error
            work.dropped.add(name)
            return self._maybe_fix_cohort(now)
        work.uploads[name] = Received(
            header=message.header,
            sender=message.sender,
            body=message.body,
            raw=message.raw,
            chunks=chunks,
        )
        return self._maybe_fix_cohort(now)

    def _maybe_fix_cohort(self, now: Milliseconds) -> list[Envelope]:
        work = self._work
        if set(work.uploads) | work.dropped >= set(self.terms.clients):
            return self._fix_cohort(now)
        return []

    def _fix_cohort(self, now: Milliseconds) -> list[Envelope]:
        work = self._work
        if work.opener is not None:
            work.opener.erase()
        operators = self.roster.operators(tuple(work.uploads))
        if len(operators) < self.terms.manifest.min_cohort:
            return self._fail_round("cohort-too-small", now)
        uploads = self._cohort()
        with self.ports.store.transaction():
            self.log(
                self.terms,
                now,
                "cohort.fixed",
                round=work.number,
                uploads=[upload.digest.hex() for upload in uploads],
            )
            for upload in uploads:
                self.transcript.put_round(
                    work.number, f"upload-{upload.sender.party}.msg", upload.raw
                )
        if not self.terms.helpers:
            return self._aggregate(now)
        self.phase = "unmasking"
        self._wait(now)
        request = MaskRequest(uploads=tuple(upload.raw for upload in uploads))
        return [
            self._to(Address(name, "helper"), request, work.number) for name in self.terms.helpers
        ]

    def _mask_sum(self, message: Received, now: Milliseconds) -> list[Envelope]:
        work = self._work
        if message.round != work.number:
            return []
        cohort = cohort_digest([upload.digest for upload in self._cohort()])
        if (message.body.cohort, message.body.context) != (cohort, work.context):
            raise RemoteProtocolError(
                "leader.cohort",
                f"helper {message.sender.party} answered for another cohort or context",
                party=message.sender.party,
            )
        join_chunks(message.body.vector, message.chunks, self.terms.manifest.length)
        work.answers[message.sender.party] = message
        if set(work.answers) != set(self.terms.helpers):
            return []
        return self._aggregate(now)

    def _aggregate(self, now: Milliseconds) -> list[Envelope]:
        """Adds up, publishes, and takes the server step through the same checks as every site."""
        work, length = self._work, self.terms.manifest.length
        uploads = self._cohort()
        answers = [work.answers[name] for name in self.terms.helpers]
        vectors = [join_chunks(m.body.vector, m.chunks, length) for m in uploads]
        masks = [join_chunks(m.body.vector, m.chunks, length) for m in answers]
        total = unmask(vectors, masks) if masks else plain_sum(vectors)
        data = total.astype("<u4", copy=False).tobytes()
        vector, chunks = split_chunks(data, length)
        aggregate = Aggregate(
            round=work.number,
            cohort=tuple(CohortMember(u.sender.party, u.digest) for u in uploads),
            answers=tuple(answer.raw for answer in answers),
            vector=vector,
        )
        with self.ports.store.transaction():
            self.log(
                self.terms,
                now,
                "aggregate.computed",
                round=work.number,
                cohort=cohort_digest([u.digest for u in uploads]).hex(),
                sum=digest(data).hex(),
            )
            for answer in answers:
                name = f"mask-sum-{answer.sender.party}.msg"
                self.transcript.put_round(work.number, name, answer.raw)
            self.transcript.put_round(work.number, "aggregate.bin", data)
            self.durable.put("previous", encode(aggregate))
            self.chain.apply(aggregate, chunks)
        self._failed_rounds = 0
        self.failure = None
        self.phase = "offered"
        self._wait(now)
        return self._maybe_begin(now)

    def _cohort(self) -> list[Received]:
        return [self._work.uploads[name] for name in sorted(self._work.uploads)]

    # --- failures ----------------------------------------------------------------------------

    def _refused(self, message: Received, now: Milliseconds) -> list[Envelope]:
        """A party will not go on. Before round 1 that ends the run, later it costs a client the round.

        A helper that refuses costs everybody the round.
        """
        refusal: Refusal = message.body
        client = message.sender.role == "client"
        before = self.phase == "offered" and not self.durable.number("round")
        serving = ("collecting",) if client else ("collecting", "unmasking")
        if not before and (self.phase not in serving or message.round != self._work.number):
            return []  # Too late to matter.
        self.failure = RoundAborted(
            f"refused.{refusal.code}"[:64],
            f"{message.sender} refused: {refusal.code}"
            + (f" (because of {refusal.culprit})" if refusal.culprit else ""),
            retryable=False,
            remedy="its operator sees the reason in its own log",
            party=message.sender.party,
        )
        if before:
            return self._finish(False, now)
        if client:
            self._work.dropped.add(message.sender.party)
            return self._maybe_fix_cohort(now)
        if refusal.culprit in self.terms.clients:
            # Its word against the client's; but without it there is no sum with that client.
            self._excluded.add(PartyName(refusal.culprit))
        return self._fail_round("helper-refused", now)

    def _exclude(self, name: PartyName, why: str, now: Milliseconds) -> list[Envelope]:
        """Leaves a client that broke the protocol out of this and all later rounds."""
        self.failure = RemoteProtocolError("leader.excluded", f"{name} sent {why}", party=name)
        self._excluded.add(name)
        self._work.dropped.add(name)
        return self._maybe_fix_cohort(now)

    def _wait_over(self, now: Milliseconds) -> list[Envelope]:
        missing = sorted(set(self.terms.clients) - set(self._accepts))
        late = [
            name
            for name in self.terms.helpers
            if name not in self._keys or self._keys[name].round <= self.durable.number("round")
        ]
        self.failure = RoundAborted(
            "run.no-answer",
            f"no answer in time from {', '.join([*missing, *late])}",
            retryable=True,
            remedy="check that the party is running, then start again",
        )
        return self._finish(False, now)

    def _blame(self, error: TacitError, now: Milliseconds) -> list[Envelope]:
        """A misbehaving party costs the round, never the leader or an end that was reached."""
        if self.phase in ("recording", "closed"):
            return []
        self.failure = error
        return self._fail_round(error.code, now)

    def _fail_round(self, code: str, now: Milliseconds) -> list[Envelope]:
        """Ends the round without a result; the run goes on unless rounds keep failing."""
        self._failed_rounds += 1
        if self.phase in ("offered", "recording") or self._failed_rounds >= MAX_FAILED_ROUNDS:
            if self.failure is None:
                self.failure = RoundAborted(
                    f"round.{code}",
                    f"{self._failed_rounds} rounds in a row failed, the last one with '{code}'",
                    retryable=True,
                    remedy="check the sites and helpers, then start a new run",
                )
            return self._finish(False, now)
        return self._abort_round(code, self._work.number, now)

    def _abort_round(self, code: str, number: int, now: Milliseconds) -> list[Envelope]:
        self.phase = "offered"
        self._keys = {name: key for name, key in self._keys.items() if key.round > number}
        lost = number > self.chain.applied
        with self.ports.store.transaction():
            self.durable.put_number("round", max(number, self.durable.number("round")))
            if lost:
                self.log(self.terms, now, "round.aborted", round=number, code=code)
        self._wait(now)
        body = RoundAbort(code=code)
        # After a round that has its result, only the helpers are asked again: for their next keys.
        told = [address for address in self._everyone() if lost or address.role == "helper"]
        sent = [self._to(address, body, number) for address in told]
        return [*sent, *self._maybe_begin(now)]

    # --- the end -----------------------------------------------------------------------------

    def _finish(self, complete: bool, now: Milliseconds) -> list[Envelope]:
        model = self.chain.current
        previous, chunks = self._previous()
        complete = complete and previous is not None
        if not complete and self.failure is None:
            self.failure = RoundAborted(
                "run.no-result",
                "no round of the run gave a result",
                retryable=True,
                remedy="check the sites and helpers, then start a new run",
            )
        self.phase = "recording"
        self._wait(now)
        body = Finish(
            complete=complete,
            model=model.digest if model is not None else digest(b""),
            previous=previous,
        )
        with self.ports.store.transaction():
            self.durable.put_number("complete", int(complete))
        return [self._to(address, body, 0, chunks) for address in self._everyone()]

    def _record(self, message: Received, now: Milliseconds) -> list[Envelope]:
        name = message.sender.party
        events = join_chunks(
            message.body.events, message.chunks, message.body.events.length, dtype="u1"
        )
        with self.ports.store.transaction():
            self.transcript.put(f"log-{name}", events.tobytes())
            self.transcript.put(f"checkpoint-{name}", message.body.checkpoint)
        self._records.add(name)
        return self._close(now) if self._records >= self._parties() else []

    def _close(self, now: Milliseconds) -> list[Envelope]:
        """Closes the leader's own log; the bundle is complete up to what the evidence floor adds."""
        model = self.chain.current
        with self.ports.store.transaction():
            if model is not None:
                released = self.chain.workload.released(model)
                self.log(
                    self.terms,
                    now,
                    "model.released",
                    model=digest(released.astype("<f8").tobytes()).hex(),
                )
            complete = bool(self.durable.number("complete"))
            self.log(self.terms, now, "run.closed", complete=complete)
            self.durable.put_number("closed", 1)
            self.transcript.put(
                f"log-{self.address.party}", self.ports.log.record(self.terms.run_id)
            )
            self.transcript.put(f"checkpoint-{self.address.party}", self.ports.log.checkpoint())
        self.phase = "closed"
        return []

    def _parties(self) -> set[PartyName]:
        return {*self.terms.clients, *self.terms.helpers} - {self.address.party}

    def _everyone(self) -> Sequence[Address]:
        """Helpers first: a party that is both closes as a client, after it closed as a helper."""
        helpers = [Address(name, "helper") for name in self.terms.helpers]
        return [*helpers, *(Address(name, "client") for name in self.terms.clients)]

    def _to(
        self,
        receiver: Address,
        body: object,
        round_number: int = 0,
        chunks: tuple[bytes, ...] = (),
    ) -> Envelope:
        return self.send(self.terms, receiver, body, round_number=round_number, chunks=chunks)

    def _wait(self, now: Milliseconds) -> None:
        self.deadline = Milliseconds(now + self._timeout)
