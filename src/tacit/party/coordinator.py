"""The coordinator: leads a run, adds masked vectors, and is trusted with nothing else.

Phases: ``offered`` (accepts, helper keys), ``collecting`` (uploads), ``unmasking`` (mask sums),
``recording`` (logs for the bundle), ``witnessing`` (their cosignatures), ``closed``; then ``sealing``
(signatures of the bundle) and ``closed`` again. A round that fails costs its number and its charge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tacit.errors import (
    DecodeError,
    LocalProtocolError,
    RemoteProtocolError,
    RoundAborted,
    TacitError,
    TransportError,
)
from tacit.learn.server import ServerState
from tacit.party import failures
from tacit.party.base import Party, Ports
from tacit.party.chain import ModelChain
from tacit.party.circulation import Circulation
from tacit.party.context import upload_context
from tacit.party.contribute import NOT_SAMPLED
from tacit.party.desk import Desk
from tacit.party.ending import Ending, addresses_of
from tacit.party.heads import PeerHeads, note_spent
from tacit.party.kept import KeptRounds
from tacit.party.presence import Presence
from tacit.party.round_sum import RoundSum
from tacit.party.terms import Terms
from tacit.party.transcript import Transcript
from tacit.party.workload import Workload
from tacit.trust.roster import Roster
from tacit.types import Milliseconds, PartyName
from tacit.wire.envelope import Address, Envelope, Received, digest
from tacit.wire.messages import (
    Accept,
    Aggregate,
    CatchUpRequest,
    CohortMember,
    HelperKey,
    KeptRequest,
    KeyRequest,
    MaskRequest,
    MaskSum,
    Offer,
    Record,
    Refusal,
    RoundAbort,
    RoundStart,
    Sealed,
    Upload,
    WitnessAnswer,
)

__all__ = ["Coordinator", "Phase"]

Phase = Literal[
    "offered", "collecting", "unmasking", "recording", "witnessing", "sealing", "closed"
]
ENDED = ("recording", "witnessing", "sealing", "closed")
MAX_FAILED_ROUNDS = 3


class Coordinator(Party):
    """Leads one run.

    Args:
        name: Its name in the roster.
        roster: The pinned roster.
        ports: The world.
        terms: The run.
        workload: The computation, for the model chain.
    """

    def __init__(
        self, name: PartyName, roster: Roster, ports: Ports, terms: Terms, workload: Workload
    ) -> None:
        super().__init__(Address(name, "leader"), roster, ports)
        self.terms = terms
        self.phase: Phase = "offered"
        self.failure: TacitError | None = None
        self.deadline = Milliseconds(0)
        self.durable = self.state(terms.run_id)
        self.chain = ModelChain(self, terms, workload, self.durable)
        self.transcript = Transcript(self.durable)
        self._kept = KeptRounds(self, terms)
        self._heads = PeerHeads(self)
        self._accepts: dict[PartyName, Received] = {}
        self._helpers = Presence(terms, ports.sealing)
        self._circulation = Circulation(self, terms)
        self._ending = Ending(self, terms, self.chain, self.transcript, self._circulation)
        self._work: RoundSum | None = None
        self._desk: Desk | None = None
        self._failed_rounds = 0
        self._excluded: set[PartyName] = set()

    # --- what an engine calls ----------------------------------------------------------------

    def start(self, offer: Offer, now: Milliseconds) -> list[Envelope]:
        """Offers the run to every client and helper."""
        self.note_start(now)
        offers = [self._to(address, offer) for address in addresses_of(self.terms)]
        with self.ports.store.transaction():
            self.transcript.put("offer.msg", offers[0].message)
            self._circulation.begin()
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
        if self.durable.number("concluded"):
            closed = f"run {run} is closed; its budget is settled"
            raise RoundAborted("run.closed", closed, retryable=False, remedy="start a new run")
        self.note_start(now)
        if not self.durable.number("closed"):
            with self.ports.store.transaction():
                self.log(self.terms, now, "run.resumed", round=self.durable.number("round"))
        if ending is not None:
            return self._finish(bool(int(ending)), now)  # Stopped before all logs were cosigned.
        raw = self.transcript.matching("accept-")
        self._accepts = {m.sender.party: m for m in map(self.open, raw)}
        if set(self._accepts) != set(self.terms.clients):
            self.failure = failures.not_begun(run)
            return self._finish(False, now)  # So that sites release what they reserved.
        return self._abort_round("leader-restarted", self.durable.number("round"), now)

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; the answers may be sent once this returns.

        Raises:
            DecodeError, SignatureError: The bytes prove no sender; nothing was changed.
        """
        message = self.open(envelope.message, envelope.chunks)
        header, manifest = message.header, self.terms.manifest
        known = (self.terms.run, manifest.job, manifest.roster)
        if (header.run, header.job, header.roster) != known:
            return []
        return self._guarded(lambda: self._handle(message, now), now)

    def tick(self, now: Milliseconds) -> list[Envelope]:
        """To be called when time passes: ends a phase whose deadline is over."""
        if now < self.deadline or self.phase == "closed":
            return []
        match self.phase:
            case "offered":
                return self._wait_over(now)
            case "collecting":
                return self._guarded(lambda: self._fix_cohort(now), now)
            case "unmasking":
                work = self._round
                self._helpers.miss(set(work.present) - set(work.answers))
                return self._fail_round("helper-timeout", now)
            case "recording":
                return self._close(now)
            case _:
                return self._conclude()

    def interrupt(self, now: Milliseconds) -> list[Envelope]:
        """Ends the run early, on the operator's wish; sites settle their budgets."""
        if self.phase in ENDED:
            return []
        self.failure = failures.interrupted()
        return self._finish(False, now)

    @property
    def model(self) -> ServerState | None:
        """The server state after the last closed round."""
        return self.chain.current

    @property
    def awaited(self) -> tuple[PartyName, ...]:
        """Without whom the phase lasts until its deadline, by name."""
        clients, names = set(self.terms.clients), set[PartyName]()
        match self.phase:
            case "offered":
                late = self._helpers.awaited(self.durable.number("round") + 1)
                names = clients - set(self._accepts) | set(late)
            case "collecting":
                names = clients - set(self._round.uploads) - self._round.dropped
            case "unmasking":
                names = set(self._round.present) - set(self._round.answers)
            case "recording" | "sealing":
                names = self._ending.awaited(sealing=self.phase == "sealing")
        return tuple(sorted(names))

    # --- dispatch ----------------------------------------------------------------------------

    def _guarded(self, act: Callable[[], list[Envelope]], now: Milliseconds) -> list[Envelope]:
        """What acting gives; an error costs the round."""
        try:
            return act()
        except TransportError:
            raise  # The leader's own disk; no other round would fare better.
        except TacitError as error:
            return self._blame(error, now)

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
            case CatchUpRequest() | KeptRequest() if client and self.phase == "collecting":
                serve = self._serve
            case Refusal() if client or helper:
                serve = self._refused
            case Record() | WitnessAnswer() | Sealed() if client or helper:
                serve = self._end
        # Anything else is late, repeated or out of place: nothing to do.
        return serve(message, now) if serve is not None else []

    # --- before the first round --------------------------------------------------------------

    def _accept(self, message: Received, now: Milliseconds) -> list[Envelope]:
        name = message.sender.party
        if name not in self._accepts:
            with self.ports.store.transaction():
                self._heads.observe(self.terms, [message], now)
                self.transcript.put(f"accept-{name}.msg", message.raw)
            self._accepts[name] = message
        return self._maybe_begin(now)

    def _helper_key(self, message: Received, now: Milliseconds) -> list[Envelope]:
        wanted = self.durable.number("round") + 1
        if message.round > min(self.terms.manifest.rounds + 1, wanted + MAX_FAILED_ROUNDS):
            return []
        self._helpers.take(message, wanted)
        later = self._helpers.move_on(wanted) if self.phase == "offered" else None
        if later is None:
            return self._maybe_begin(now)
        # Too many lost their keys of an earlier round: all go on with one that they have.
        self._failed_rounds += later - wanted
        if self._failed_rounds >= MAX_FAILED_ROUNDS:
            self.failure = failures.helper_restarted(message.sender.party, wanted)
            return self._finish(False, now)
        return self._abort_round("helper-restarted", later - 1, now)

    def _maybe_begin(self, now: Milliseconds) -> list[Envelope]:
        """Starts the next round once every client accepted and every awaited helper's key is here."""
        number = self.durable.number("round") + 1
        if self.phase != "offered" or set(self._accepts) != set(self.terms.clients):
            return []
        if number > self.terms.manifest.rounds or self.chain.stopped:
            return self._finish(True, now)
        if self._helpers.awaited(number) or not self._helpers.enough(number):
            return []
        return self._begin_round(number, now)

    def _begin_round(self, number: int, now: Milliseconds) -> list[Envelope]:
        opener = self.ports.sealing.generate()
        accepts = tuple(self._accepts[name].raw for name in self.terms.clients)
        present = self._helpers.ready(number)
        with self.ports.store.transaction():
            model = self.chain.current
            if model is None:
                model = self.chain.begin(list(self._accepts.values()))
                self.transcript.put("model-initial", model.theta.astype("<f8").tobytes())
            self.durable.put_number("round", number)
            self.log(self.terms, now, "round.started", round=number, model=model.digest.hex())
            for key in present:
                self.transcript.put_round(number, f"key-{key.sender.party}.msg", key.raw)
        previous, chunks = self.transcript.last_aggregate()
        body = RoundStart(
            model=model.digest,
            leader_key=opener.public_key,
            keys=tuple(key.raw for key in present),
            accepts=() if previous is not None else accepts,
            previous=previous,
        )
        self.phase = "collecting"
        keys = [(key.sender.party, key.body.key) for key in present]
        context = upload_context(self.terms, number, model.digest, keys)
        self._work = RoundSum(self, self.terms, number, context, opener, keys)
        self._work.dropped = set(self._excluded)
        self._desk = Desk(self, self.terms, self.transcript, (body, chunks))
        self._wait(now)
        asked = [name for name in self.terms.clients if name not in self._excluded]
        return [
            *self._invite(number + 1),
            *(self._to(Address(name, "client"), body, number, chunks) for name in asked),
            *self._circulation.requests(number),
        ]

    def _invite(self, number: int) -> list[Envelope]:
        """Asks silent helpers to join at a later round; one that was away may not know the run."""
        offer = self.open_copy(self.transcript.get("offer.msg")).body
        return [
            sent
            for name in self._helpers.silent(number - 1)
            for sent in (
                self._to(Address(name, "helper"), offer),
                self._ask_key(name, number, "rejoin"),
            )
        ]

    def _ask_key(self, helper: PartyName, number: int, reason: str) -> Envelope:
        return self._to(Address(helper, "helper"), KeyRequest(reason=reason), number)

    @property
    def _round(self) -> RoundSum:
        """The round in progress."""
        assert self._work is not None
        return self._work

    # --- a round -----------------------------------------------------------------------------

    def _upload(self, message: Received, now: Milliseconds) -> list[Envelope]:
        work, name = self._round, message.sender.party
        if message.round != work.number or name in work.uploads or name in self._excluded:
            return []
        if not work.names_context(message.body):
            return self._exclude(name, "an upload for another context", now)
        try:
            work.take_upload(message)
            work.dropped.discard(name)
        except DecodeError as error:
            # One damaged upload costs that client the round, not everybody.
            self.failure = error
            return self._drop(name, now)
        return self._maybe_fix_cohort(now)

    def _serve(self, message: Received, now: Milliseconds) -> list[Envelope]:
        """Helps a client that missed something, or that adds up again, as long as it can be in time."""
        assert self._desk is not None
        try:
            return self._desk.serve(message, self._round.number)
        except LocalProtocolError:
            return self._drop(message.sender.party, now)

    def _drop(self, name: PartyName, now: Milliseconds) -> list[Envelope]:
        """Goes on without a client in this round."""
        self._round.dropped.add(name)
        return self._maybe_fix_cohort(now)

    def _maybe_fix_cohort(self, now: Milliseconds) -> list[Envelope]:
        work = self._round
        if set(work.uploads) | work.dropped >= set(self.terms.clients):
            return self._fix_cohort(now)
        return []

    def _fix_cohort(self, now: Milliseconds) -> list[Envelope]:
        work = self._round
        work.opener.erase()
        operators = self.roster.operators(tuple(work.uploads))
        if len(operators) < self.terms.manifest.min_cohort:
            return self._fail_round("cohort-too-small", now)
        uploads = work.cohort
        with self.ports.store.transaction():
            note_spent(self, self.terms, uploads)
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
        if not work.present:
            return self._aggregate(now)
        self.phase = "unmasking"
        self._wait(now)
        assert self._desk is not None
        start, raw = self._desk.start, tuple(upload.raw for upload in uploads)
        request = MaskRequest(model=start.model, keys=start.keys, uploads=raw)
        return [self._to(Address(name, "helper"), request, work.number) for name in work.present]

    def _mask_sum(self, message: Received, now: Milliseconds) -> list[Envelope]:
        work, name = self._round, message.sender.party
        if message.round != work.number or name not in work.present or name in work.answers:
            return []
        work.take_answer(message)
        return self._aggregate(now) if set(work.answers) == set(work.present) else []

    def _aggregate(self, now: Milliseconds) -> list[Envelope]:
        """Publishes the sum, and takes the server step through the same checks as every site."""
        work = self._round
        vector, chunks = work.result()
        answers = [work.answers[name] for name in work.present]
        assert self._desk is not None
        aggregate = Aggregate(
            round=work.number,
            keys=self._desk.start.keys,
            cohort=tuple(CohortMember(u.sender.party, u.digest) for u in work.cohort),
            answers=tuple(answer.raw for answer in answers),
            vector=vector,
        )
        with self.ports.store.transaction():
            self.log(
                self.terms,
                now,
                "aggregate.computed",
                round=work.number,
                cohort=work.cohort_digest.hex(),
                sum=digest(b"".join(chunks)).hex(),
            )
            for answer in answers:
                name = f"mask-sum-{answer.sender.party}.msg"
                self.transcript.put_round(work.number, name, answer.raw)
            self.transcript.put_aggregate(aggregate, chunks)
            self.chain.apply(aggregate, chunks)
            self._kept.prune()
        self._failed_rounds = 0
        self.failure = None
        self.phase = "offered"
        self._wait(now)
        return self._maybe_begin(now)

    # --- failures ----------------------------------------------------------------------------

    def _refused(self, message: Received, now: Milliseconds) -> list[Envelope]:
        """A party will not go on. Before round 1 that ends the run, later it costs a client the round.

        A helper that refuses costs everybody the round.
        """
        refusal: Refusal = message.body
        client = message.sender.role == "client"
        before = self.phase == "offered" and not self.durable.number("round")
        serving = ("collecting",) if client else ("collecting", "unmasking")
        if not before and (self.phase not in serving or message.round != self._round.number):
            return []  # Too late to matter.
        if client and not before and refusal.code == NOT_SAMPLED:
            return self._drop(message.sender.party, now)
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
            return self._drop(message.sender.party, now)
        if refusal.culprit in self.terms.clients:
            # Its word against the client's; but without it there is no sum with that client.
            # A round that convicts somebody new is no sign that rounds cannot succeed.
            self._failed_rounds -= refusal.culprit not in self._excluded
            self._excluded.add(PartyName(refusal.culprit))
        return self._fail_round("helper-refused", now)

    def _exclude(self, name: PartyName, why: str, now: Milliseconds) -> list[Envelope]:
        """Leaves a client that broke the protocol out of this and all later rounds."""
        self.failure = RemoteProtocolError("leader.excluded", f"{name} sent {why}", party=name)
        self._excluded.add(name)
        return self._drop(name, now)

    def _wait_over(self, now: Milliseconds) -> list[Envelope]:
        """Goes on without the helpers that are late, if enough are here."""
        number = self.durable.number("round") + 1
        missing = sorted(set(self.terms.clients) - set(self._accepts))
        late = self._helpers.awaited(number)
        if not missing and late and self._helpers.enough(number):
            self._helpers.miss(late)
            return self._maybe_begin(now)
        here = {key.sender.party for key in self._helpers.ready(number)}
        absent = [name for name in self.terms.helpers if name not in here]
        self.failure = failures.no_answer([*missing, *absent])
        return self._finish(False, now)

    def _blame(self, error: TacitError, now: Milliseconds) -> list[Envelope]:
        """A misbehaving party costs the round, never the leader or an end that was reached."""
        if self.phase in ENDED:
            return []
        self.failure = error
        return self._fail_round(error.code, now)

    def _fail_round(self, code: str, now: Milliseconds) -> list[Envelope]:
        """Ends the round without a result; the run goes on unless rounds keep failing."""
        self._failed_rounds += 1
        if self.phase in ("offered", "recording") or self._failed_rounds >= MAX_FAILED_ROUNDS:
            if self.failure is None:
                self.failure = failures.rounds_failed(self._failed_rounds, code)
            return self._finish(False, now)
        return self._abort_round(code, self._round.number, now)

    def _abort_round(self, code: str, number: int, now: Milliseconds) -> list[Envelope]:
        self.phase = "offered"
        self._helpers.forget(number)
        lost = number > self.chain.applied
        with self.ports.store.transaction():
            self.durable.put_number("round", max(number, self.durable.number("round")))
            if lost:
                self._kept.drop(number)
                self.log(self.terms, now, "round.aborted", round=number, code=code)
        self._wait(now)
        body, after = RoundAbort(code=code), self.durable.number("round") + 1
        told = self.terms.clients if lost else ()
        return [
            *(self._ask_key(name, after, code) for name in self.terms.helpers),
            *(self._to(Address(name, "client"), body, number) for name in told),
            *self._maybe_begin(now),
        ]

    # --- the end -----------------------------------------------------------------------------

    def _finish(self, complete: bool, now: Milliseconds) -> list[Envelope]:
        complete = complete and bool(self.chain.applied)
        if not complete and self.failure is None:
            self.failure = failures.no_result()
        self.phase = "recording"
        self._wait(now)
        return self._ending.finish(complete=complete)

    def _end(self, message: Received, now: Milliseconds) -> list[Envelope]:
        """Records, cosignatures and signatures, each in its phase."""
        match message.body:
            case Record() if self.phase == "recording":
                return self._close(now) if self._ending.take_record(message) else []
            case WitnessAnswer() if self.phase not in ENDED:
                self._circulation.take(message, now)
            case WitnessAnswer() if self.phase == "witnessing":
                return self._conclude() if self._circulation.take_last(message) else []
            case Sealed() if self.phase == "sealing":
                return self._conclude() if self._ending.take_seal(message) else []
        return []

    def _close(self, now: Milliseconds) -> list[Envelope]:
        """Closes the leader's own log, and asks everybody to cosign what all logs have become."""
        complete = bool(self.durable.number("complete"))
        requests = self._ending.close(complete=complete, now=now)
        self.phase = "witnessing"
        self._wait(now)
        return requests or self._conclude()

    def seal(self, manifest: bytes, now: Milliseconds) -> list[Envelope]:
        """Asks every party to sign the manifest of the bundle, once the run is closed.

        Args:
            manifest: ``manifest.json`` of the bundle.
            now: The time.
        """
        self.phase = "sealing"
        self._wait(now)
        return self._ending.seal(manifest) or self._conclude()

    def signatures(self) -> tuple[str, ...]:
        """The signature lines of the manifest that the others have made, in order of names."""
        return self._ending.signatures

    def _conclude(self) -> list[Envelope]:
        """What came until now is all that the bundle will hold."""
        if self.phase == "witnessing":
            self._ending.conclude()
        self.phase = "closed"
        return []

    def _to(
        self,
        receiver: Address,
        body: object,
        round_number: int = 0,
        chunks: tuple[bytes, ...] = (),
    ) -> Envelope:
        return self.send(self.terms, receiver, body, round_number=round_number, chunks=chunks)

    def _wait(self, now: Milliseconds) -> None:
        self.deadline = Milliseconds(now + self.terms.phase)
