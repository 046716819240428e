"""The site: owns data, policy, budget and training, and has the last word."""

from __future__ import annotations

from collections.abc import Callable

from tacit.errors import (
    DecodeError,
    LocalProtocolError,
    RemoteProtocolError,
    TacitError,
    TransportError,
)
from tacit.learn.server import ServerState
from tacit.party.admission import KEY_BYTES, Admission, DataSource, Examination, SiteSetup, guarded
from tacit.party.base import Party, Ports, RunState, drop_envelope, keep_envelope, kept_envelope
from tacit.party.chain import BEHIND, ModelChain
from tacit.party.context import helper_keys
from tacit.party.contribute import Contribution, contribute
from tacit.party.data import RunData
from tacit.party.heads import PeerHeads
from tacit.party.live import Live, require_past
from tacit.party.price import charged_epsilon, public_code, settled_epsilon
from tacit.party.readd import Looks, Readd
from tacit.party.sealing import seal
from tacit.party.terms import Terms
from tacit.party.witnessing import Bystander, log_witnessed, show_record
from tacit.party.workload import Carried, Floats, TrainingData
from tacit.policy.permission import Permission
from tacit.privacy.budget import Budget
from tacit.trust.roster import Roster
from tacit.types import Milliseconds, PartyName
from tacit.wire.envelope import Address, Envelope, Received, digest
from tacit.wire.messages import (
    CatchUp,
    CatchUpRequest,
    Finish,
    Kept,
    Offer,
    Refusal,
    RoundAbort,
    RoundStart,
    Seal,
    WitnessRequest,
)

__all__ = ["Site"]

MAX_DAMAGED = 5
"""Kept vectors that may arrive damaged before a site gives up the round."""


class Site(Party):
    """One site of a federation; serves any number of runs.

    Args:
        name: Its name in the roster.
        roster: The pinned roster.
        ports: The world.
        setup: What the operator brings.

    Guarantee:
        Against a malicious leader: nothing leaves before policy, contract and budget allow the run
        (test: ``tests/unit/test_party_site.py::test_nothing_leaves_when_the_policy_denies``); every
        upload is charged before it leaves, once
        (test: ``tests/unit/test_party_site.py::test_upload_is_charged_before_it_leaves``); no round
        number is answered twice with different bytes
        (test: ``tests/unit/test_party_site.py::test_one_upload_per_round``).
    """

    def __init__(self, name: PartyName, roster: Roster, ports: Ports, setup: SiteSetup) -> None:
        super().__init__(Address(name, "client"), roster, ports)
        self._setup = setup
        self.budget = Budget(ports.store, setup.config.budget.limits())
        self._admission = Admission(self, setup, self.budget)
        self._data = RunData(self)
        self._looks = Looks(self)
        self._heads = PeerHeads(self)
        self._bystander = Bystander(self)
        self._runs: dict[str, Live] = {}
        self.last_error: TacitError | None = None
        self.ended: list[str] = []
        """Runs of which the leader has told the end, once for every time that it did; may be emptied."""

    def close(self) -> None:
        """Ends the computations of all runs; they begin again when they are needed."""
        for run in list(self._runs):
            self._drop(run)

    def spent_on(self, run: str) -> float:
        """Epsilon that a run has charged or, once settled, spent here."""
        entry = self.budget.find(run)
        return float(entry.charged) if entry is not None else 0.0

    def release(self, run: str, now: Milliseconds) -> None:
        """Frees the reservation of a run for which nothing left; the site takes no part in it any more.

        For a leader that made an offer and never came back.

        Args:
            run: Run id, 64 hexadecimal digits.
            now: The time to record.

        Raises:
            LocalProtocolError: The site does not know the run, has closed it, or has uploaded for it.
        """
        terms, state = self.known_terms(run), self.state(run)
        if terms is None or state.number("closed") or state.number("uploads"):
            raise LocalProtocolError(
                "site.release",
                f"run {run[:12]} is unknown here, closed, or has spent what it reserved",
                remedy="only a run for which nothing has left the site can be released",
            )
        with self.ports.store.transaction():
            self._settle(terms, 0.0, now)
            state.put_number("closed", 1)
            self.act(now, "operator.budget-released", about=run)
            self.log(terms, now, "run.released")

    def own_model(self, run: str) -> Floats | None:
        """The released parameters with this site's local layers in place; None if it has none.

        Local layers never leave the site: this is for its operator.
        """
        terms, local = self.known_terms(run), self.state(run).get("local")
        if terms is None or local is None:
            return None
        workload, model = self._live(terms).workload, self._live(terms).chain.current
        try:
            return None if model is None else workload.complete(workload.released(model), local)
        finally:
            if self.state(run).number("closed"):
                self._drop(run)

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; the answers may be sent once this returns.

        Raises:
            DecodeError, SignatureError: The bytes prove no sender; nothing was changed.
        """
        message = self.open(envelope.message, envelope.chunks)
        try:
            if isinstance(message.body, Offer):
                terms = self.offered(message)
            else:
                terms = self.known_terms(message.header.run.hex())
        except RemoteProtocolError as error:
            self.last_error = error
            return []  # Without consistent terms there is no run to answer in.
        if terms is None or not self.leads(message, terms):
            return []  # Only the run's own leader is worth an answer.
        try:
            return self._handle(message, terms, now)
        except TacitError as error:
            return self._refuse(terms, message, error, now)

    def _handle(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        if self.state(terms.run_id).number("closed"):
            return self._handle_closed(message, terms, now)
        serve: Callable[[Received, Terms, Milliseconds], list[Envelope]]
        match message.body:
            case Offer():
                serve = self._consider
            case RoundStart():
                serve = self._start_round
            case CatchUp():
                serve = self._catch_up
            case Kept():
                serve = self._readd
            case RoundAbort():
                serve = self._note_abort
            case WitnessRequest():
                serve = self._witness
            case Finish():
                serve = self._close
            case _:
                raise RemoteProtocolError("message.kind", "a client does not serve this message")
        return serve(message, terms, now)

    def _handle_closed(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        match message.body:
            case Finish():
                self.ended.append(terms.run_id)
                return [self._record(terms)]
            case WitnessRequest():
                return self._bystander.serve(message, terms, now)
            case Seal():
                return seal(self, message, terms)
        return []

    # --- the offer ---------------------------------------------------------------------------

    def _consider(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        """Decides on an offer: policy first, then budget, then data."""
        state = self.state(terms.run_id)
        if state.get("offer") is not None:
            return self._repeat(message, terms, now)
        with self.ports.store.transaction():
            state.put("offer", message.raw)
            self._bystander.begin(terms)
            self.log(
                terms,
                now,
                "offer.received",
                job=terms.manifest.job.hex(),
                schema=terms.manifest.schema.hex(),
                code=terms.manifest.code.hex(),
                roster=terms.manifest.roster.hex(),
                leader=terms.manifest.leader,
            )
        return self._accept(terms, state, now)

    def _repeat(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        """A run is never accepted twice; a repeated offer gets the stored answer.

        There is none if this site was killed before it had decided.
        """
        state = self.state(terms.run_id)
        if state.get("offer") != message.raw:
            return []
        stored = kept_envelope(state, "offer-answer", self.leader(terms))
        return [stored] if stored is not None else self._accept(terms, state, now)

    def _accept(self, terms: Terms, state: RunState, now: Milliseconds) -> list[Envelope]:
        admission = self._admission
        admission.check_limits(terms)
        source = admission.source(terms)
        permission = admission.decide(terms, source.contract, now)
        admission.check_data(terms, source.contract)
        workload = admission.workload(terms, source.contract)  # Model code: only after the policy.
        live = Live(terms, ModelChain(self, terms, workload, state), workload)
        try:
            answer = self._commit_accept(live, source, permission, now)
        except TacitError:
            workload.close()
            raise
        self._runs[terms.run_id] = live
        return [answer]

    def _commit_accept(
        self, live: Live, source: DataSource, permission: Permission, now: Milliseconds
    ) -> Envelope:
        """Reserves the budget, reads the data and stores what was accepted."""
        terms, admission, state = live.terms, self._admission, self.state(live.terms.run_id)
        heads = admission.reserve(terms, source.contract, now)
        key = self.ports.entropy.draw(KEY_BYTES)
        try:
            batch = source.read(permission, now)
            with guarded(self.address.party):
                live.data = live.workload.prepare_private(batch, key)
        except TacitError:
            self._settle(terms, 0.0, now)  # Nothing left the site.
            raise
        accept = admission.acceptance(source.contract, heads)
        answer = self.send(terms, self.leader(terms), accept)
        with self.ports.store.transaction():
            state.put_number("accepted", 1)
            state.put("accept", digest(answer.message))
            keep_envelope(state, "offer-answer", answer)
            admission.keep_cohort(terms)
            state.put("holdout-key", key)
            self._data.keep(terms, state, batch, now)
            admission.keep_disclosure(terms, source.contract)
            self.log(
                terms,
                now,
                "offer.accepted",
                accept=digest(answer.message).hex(),
                required_helpers=admission.wanted_helpers(terms),
                max_colluding_helpers=self._setup.config.limits.max_colluding_helpers,
            )
        return answer

    def examine(self, terms: Terms, now: Milliseconds) -> Examination:
        """What this site would answer to an offer; see ``Admission.examine``."""
        return self._admission.examine(terms, now)

    # --- a round -----------------------------------------------------------------------------

    def _start_round(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        if not state.number("accepted"):
            raise RemoteProtocolError(
                "round.not-accepted",
                "a round was started of a run that this site did not accept",
                party=message.sender.party,
            )
        self._looks.require_honest(terms)
        self._heads.require(terms)
        accepted = state.number("round")
        if message.digest == state.get(f"start/{message.round}"):
            leader = self.leader(terms)
            stored = kept_envelope(state, "upload", leader) if message.round == accepted else None
            return [stored] if stored is not None else []
        if not accepted < message.round <= terms.manifest.rounds:
            return self._conflict(message, terms, now)
        if message.round <= state.number("aborted"):
            return []  # Whatever it cost would be for nothing.
        return self._join_round(message, self._live(terms), now)

    def _join_round(self, message: Received, live: Live, now: Milliseconds) -> list[Envelope]:
        """A new round: checks helpers and model, asks for what is missing, and trains."""
        terms = live.terms
        if live.readd is not None and live.readd.start.digest == message.digest:
            return [live.readd.request()]
        live.readd = None
        present = helper_keys(self, terms, message.round, message.body.keys)
        self._admission.check_helpers([name for name, _ in present], terms)
        if live.data is None:
            live.data = self._reload(terms, live, now)
        first = self._first(live, message)
        try:
            with self.ports.store.transaction():
                model = self._advance(live, message, now, first)
                self._admission.check_uncompleted(terms, live.chain.included)
        except RemoteProtocolError as error:
            late = message.body.previous is not None and error.code in (BEHIND, "round.model")
            if not late or live.asked == message.round:
                raise
            live.asked, live.caught_up = message.round, False
            return [self._ask(terms, message.round, CatchUpRequest(applied=live.chain.applied))]
        return self._verify_or_train(message, live, model, now)

    def _verify_or_train(
        self, message: Received, live: Live, model: ServerState, now: Milliseconds
    ) -> list[Envelope]:
        """Adds up first what this site owes a look; a leader cannot outwait it."""
        wish = self._setup.config.limits.resum
        owed = self._looks.owed(live.terms, message.body.previous, wish, now)
        if owed is None:
            return self._train(message, live, model, now)
        live.readd = Readd(self, live.terms, message, *owed)
        return [live.readd.request()]

    def _train(
        self, message: Received, live: Live, model: ServerState, now: Milliseconds
    ) -> list[Envelope]:
        """Computes and sends the contribution to a round that passed every check."""
        terms, data = live.terms, live.data
        assert data is not None
        state = self.state(terms.run_id)
        carried = Carried(state.get("local"), state.number("participations"))
        # Training may take long: no transaction is open meanwhile, and nothing has left yet.
        with guarded(self.address.party):
            made = contribute(self, terms, message, model, (live.workload, data, carried))
        with self.ports.store.transaction():
            self._commit_upload(terms, message, made, now)
        return [made.envelope]

    def _ask(self, terms: Terms, round_number: int, body: object) -> Envelope:
        return self.send(terms, self.leader(terms), body, round_number=round_number)

    def _catch_up(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        """Takes over what this site missed, if the last cohort vouches for it."""
        live = self._live(terms)
        wanted = live.asked == message.round and not live.caught_up
        if not self.state(terms.run_id).number("accepted") or not wanted:
            return []  # Not asked for, or a repeat.
        require_past(message, message.body.aggregate)
        with self.ports.store.transaction():
            if live.chain.current is None:
                self._heads.meet(live.chain, message.body.accepts, now)
            live.chain.catch_up(message.body, message.chunks)
            live.caught_up = True
            self.log(terms, now, "model.caught-up", round=message.body.aggregate.round)
        return []  # The leader starts the round again.

    # --- adding up what the leader published ---------------------------------------------------

    def _readd(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        live = self._live(terms)
        readd = live.readd
        if readd is None or not readd.expects(message):
            return []
        live.readd = None
        try:
            complete = readd.take(message)
        except DecodeError as error:
            if readd.failures >= MAX_DAMAGED:
                raise
            self.last_error = error  # Damaged or replayed on its way: from the beginning.
            live.readd = readd.again()
            return [live.readd.request()]
        if not complete:
            live.readd = readd
            return [readd.request()]
        self._looks.conclude(terms, readd, now)
        model = live.chain.current
        if model is None or model.digest != readd.start.body.model:
            return []  # Something newer came meanwhile.
        return self._verify_or_train(readd.start, live, model, now)

    def _reload(self, terms: Terms, live: Live, now: Milliseconds) -> TrainingData:
        """The data after a restart: under the policy as it is now, and exactly what was accepted.

        Raises:
            PolicyDenied: The policy has changed its mind.
            ConfigError: Contract, policy or data have changed since the site accepted the run.
        """
        state, source = self.state(terms.run_id), self._admission.source(terms)
        permission = self._admission.decide(terms, source.contract, now)
        batch = self._data.again(state, source, permission)
        return live.workload.prepare_private(batch, state.get("holdout-key") or b"")

    def _conflict(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        """A leader that asks twice for one round, differently, convicts itself: the first is kept."""
        state = self.state(terms.run_id)
        unseen = message.round <= terms.manifest.rounds and not state.get(f"start/{message.round}")
        if unseen or state.get("conflict") is not None:
            return []  # Late, which proves nothing; or known already.
        with self.ports.store.transaction():
            state.put("conflict", message.raw)
        raise RemoteProtocolError(
            "round.not-new",
            f"round {message.round} was offered after round {state.number('round')}",
            party=message.sender.party,
        )

    def _note_abort(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        if state.number("aborted") < message.round <= terms.manifest.rounds:
            with self.ports.store.transaction():
                state.put_number("aborted", message.round)
                self.log(terms, now, "round.aborted", round=message.round, code=message.body.code)
            if terms.run_id in self._runs:
                self._runs[terms.run_id].readd = None
        return []

    def _first(self, live: Live, message: Received) -> ServerState | None:
        """The first model, where the round starts from it: model code runs while no transaction is open."""
        if message.body.previous is not None or live.chain.current is not None:
            return None
        with guarded(self.address.party):
            return live.chain.first(live.chain.open_accepts(message.body.accepts))

    def _advance(
        self, live: Live, message: Received, now: Milliseconds, first: ServerState | None
    ) -> ServerState:
        """Brings the model chain to the round's model, which must be the one that the leader names."""
        body: RoundStart = message.body
        chain = live.chain
        if body.previous is not None:
            require_past(message, body.previous)
            model = chain.apply(body.previous, message.chunks)
        elif chain.applied:
            raise RemoteProtocolError("round.aggregate", "the previous aggregate is missing")
        else:
            model = chain.current or chain.begin(self._heads.meet(chain, body.accepts, now), first)
        if model.digest != body.model:
            raise RemoteProtocolError(
                "round.model",
                f"the model of round {message.round} does not follow from the aggregates",
                party=message.sender.party,
            )
        return model

    def _commit_upload(
        self, terms: Terms, message: Received, made: Contribution, now: Milliseconds
    ) -> None:
        """Charges and stores; only after this commit may the upload leave."""
        state = self.state(terms.run_id)
        state.put_number("round", message.round)
        state.put(f"start/{message.round}", message.digest)
        drop_envelope(state, "upload")
        keep_envelope(state, "upload", made.envelope)
        state.put_number("participations", made.carried.participations)
        if made.carried.local is not None:
            state.put("local", made.carried.local)
        if not made.uploads:
            state.delete("upload-digest")
            return
        uploads = state.number("uploads") + 1
        self.log(
            terms,
            now,
            "model.checked",
            round=message.round,
            model=made.model.hex(),
            aggregate_round=state.number("applied"),
        )
        if terms.plan.unit != "none":
            epsilon = charged_epsilon(terms, uploads)
            self.budget.charge(terms.run_id, message.round, epsilon, now)
            self.log(terms, now, "budget.charged", round=message.round, epsilon=repr(epsilon))
        state.put_number("uploads", uploads)
        state.put("upload-digest", digest(made.envelope.message))
        state.put("context", made.context)
        self.log(
            terms,
            now,
            "upload.sent",
            round=message.round,
            context=made.context.hex(),
            upload=digest(made.envelope.message).hex(),
            policy=self._setup.lock.hex(),
        )

    # --- the end -----------------------------------------------------------------------------

    def _close(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        uploads = state.number("uploads")
        epsilon = settled_epsilon(terms, uploads)
        live = self._known(terms) if state.get("model") is not None else None  # May run code.
        with self.ports.store.transaction():
            if live is not None and state.number("round") and message.body.previous is not None:
                self._follow(message, terms, live, now)
            if self._settle(terms, epsilon, now):
                self.log(terms, now, "run.settled", rounds=uploads, epsilon=repr(epsilon))
            drop_envelope(state, "upload")
            state.put_number("closed", 1)
            log_witnessed(self, terms, now)
            model = (
                live.released if isinstance(live, Live) else ""
            )  # Empty when this site cannot tell any more.
            self.log(terms, now, "run.closed", complete=message.body.complete, model=model)
        self._drop(terms.run_id)
        self.ended.append(terms.run_id)
        return [self._record(terms)]

    def _record(self, terms: Terms) -> Envelope:
        """This site's part of the evidence."""
        with self.ports.store.transaction():
            policy = self.state(terms.run_id).get("policy") or b""
            return show_record(self, terms, policy)

    def _witness(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        accepted = self.state(terms.run_id).number("accepted")
        return self._bystander.serve(message, terms, now) if accepted else []

    def _follow(
        self, message: Received, terms: Terms, live: Live | TacitError, now: Milliseconds
    ) -> None:
        """Takes the last aggregate. One that does not fit is recorded, and the run settled all the same."""
        try:
            if isinstance(live, TacitError):
                raise live
            with self.ports.store.transaction():
                model = live.chain.apply(message.body.previous, message.chunks)
                if model.digest != message.body.model:
                    raise RemoteProtocolError(
                        "finish.model",
                        "the released model does not follow from the aggregates",
                        party=message.sender.party,
                    )
        except TransportError:
            raise
        except TacitError as error:
            self.last_error = error
            self.log(terms, now, "round.refused", round=message.round, code=error.code)

    def _known(self, terms: Terms) -> Live | TacitError:
        """The run, or why not: where code or contract were changed it is settled and closed all the same."""
        try:
            return self._live(terms)
        except TacitError as error:
            self.last_error = error
            return error

    def _settle(self, terms: Terms, epsilon: float, now: Milliseconds) -> bool:
        """Settles the run's reservation; false where there is none: refused, or without DP."""
        reserved = self.budget.find(terms.run_id) is not None
        if reserved:
            self.budget.settle(terms.run_id, epsilon, now)
        return reserved

    def _refuse(
        self, terms: Terms, message: Received, error: TacitError, now: Milliseconds
    ) -> list[Envelope]:
        """Tells the leader the code only; message and remedy stay here."""
        self.last_error = error
        if self.seen_before(message):
            return []  # A replay costs neither a signature nor a line in the log.
        code = public_code(error)
        refusal = Refusal(code=code, culprit="")
        with self.ports.store.transaction():
            self._heads.note(terms, error)
            self.log(terms, now, "round.refused", round=message.round, code=code)
            answer = self.send(terms, self.leader(terms), refusal, round_number=message.round)
            if isinstance(message.body, Offer):
                keep_envelope(self.state(terms.run_id), "offer-answer", answer)
        return [answer]

    def _live(self, terms: Terms) -> Live:
        """The run in memory, rebuilt after a restart."""
        live = self._runs.get(terms.run_id)
        if live is None:
            admission = self._admission
            workload = admission.workload(terms, admission.source(terms).contract)
            chain = ModelChain(self, terms, workload, self.state(terms.run_id))
            live = self._runs[terms.run_id] = Live(terms=terms, chain=chain, workload=workload)
        return live

    def _drop(self, run: str) -> None:
        """Forgets what is in memory of a run, and ends its computation."""
        live = self._runs.pop(run, None)
        if live is not None:
            live.workload.close()
