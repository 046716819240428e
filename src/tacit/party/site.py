"""The site: owns data, policy, budget and training, and has the last word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tacit.connect import Receipt, SanitisedBatch
from tacit.errors import (
    BudgetExhausted,
    ConfigError,
    LocalProtocolError,
    PolicyDenied,
    RemoteProtocolError,
    RoundAborted,
    TacitError,
    TransportError,
)
from tacit.learn.code import LoadedModel
from tacit.learn.server import ServerState
from tacit.party.base import Party, Ports, RunState, pack, unpack
from tacit.party.chain import ModelChain
from tacit.party.config import SiteConfig
from tacit.party.contribute import Contribution, contribute
from tacit.party.job import JobSpec
from tacit.party.price import (
    charged_epsilon,
    policy_request,
    public_code,
    settled_epsilon,
)
from tacit.party.terms import Terms
from tacit.party.workload import TrainingData, Workload
from tacit.policy.cedar import Decision, Policy, Request
from tacit.policy.contract import Contract
from tacit.policy.schema import Schema, schema_difference
from tacit.privacy.budget import Budget
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.envelope import Address, Envelope, Received, digest
from tacit.wire.messages import Accept, Finish, Offer, Refusal, RoundAbort, RoundStart

__all__ = ["DataSource", "Examination", "Site", "SiteSetup"]


class DataSource(Protocol):
    """One data set of a site: its contract, and the only way to its rows."""

    @property
    def contract(self) -> Contract:
        """What the data set is and what may leave it."""
        ...

    def read(self) -> SanitisedBatch:
        """All rows, redacted and checked.

        Raises:
            ConfigError: Names file, row and column of what the contract does not allow.
        """
        ...


MIN_HONEST = 2
"""Fewest honest contributions in a sum without noise: with one, the sum is that contribution."""


@dataclass(frozen=True, slots=True)
class SiteSetup:
    """What a site operator brings: configuration, policy, data sets and approved code."""

    config: SiteConfig
    policy: Policy
    sources: Mapping[str, DataSource]
    load_model: Callable[[JobSpec, Schema, Digest], LoadedModel]
    code_pinned: bool = True


@dataclass(frozen=True, slots=True)
class Examination:
    """What a site would say to an offer, for its operator."""

    decision: Decision
    receipt: Receipt


@dataclass(slots=True)
class Live:
    """A run in memory; rebuilt from the store and the data after a restart."""

    terms: Terms
    chain: ModelChain
    workload: Workload
    data: TrainingData | None = None


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
        limit = setup.config.budget
        self.budget = Budget(ports.store, limit.epsilon, limit.delta)
        self._runs: dict[str, Live] = {}
        self.last_error: TacitError | None = None

    def spent_on(self, run: str) -> float:
        """Epsilon that a run has charged or, once settled, spent here."""
        entries = [entry for entry in self.budget.entries() if entry.run == run]
        return float(entries[0].charged) if entries else 0.0

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
            self._settle(terms, 0.0)
            state.put_number("closed", 1)
            self.log(terms, now, "run.released")

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
            return [self.record(terms)] if isinstance(message.body, Finish) else []
        match message.body:
            case Offer():
                return self._consider(message, terms, now)
            case RoundStart():
                return self._train(message, terms, now)
            case RoundAbort():
                return self._note_abort(message, terms, now)
            case Finish():
                return self._close(message, terms, now)
            case _:
                raise RemoteProtocolError("message.kind", "a client does not serve this message")

    # --- the offer ---------------------------------------------------------------------------

    def _consider(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        """Decides on an offer: policy first, then budget, then data."""
        state = self.state(terms.run_id)
        if state.get("offer") is not None:
            return []  # A run is never accepted twice.
        with self.ports.store.transaction():
            state.put("offer", message.raw)
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

    def _accept(self, terms: Terms, state: RunState, now: Milliseconds) -> list[Envelope]:
        self._check_limits(terms)
        source = self._source(terms)
        self._decide(terms, source.contract, now)
        workload = self._workload(terms, source.contract)  # Runs model code: only after the policy.
        self._reserve(terms, now)
        chain = ModelChain(self, terms, workload, state)
        try:
            batch = source.read()
        except TacitError:
            self._settle(terms, 0.0)  # Nothing left the site.
            raise
        live = Live(terms=terms, chain=chain, workload=workload, data=workload.prepare(batch))
        salt, nonce = self.ports.entropy.draw(32), self.ports.entropy.draw(32)
        accept = Accept(
            nonce=nonce, policy=self._setup.policy.digest, contract=source.contract.digest
        )
        answer = self.send(terms, self.leader(terms), accept)
        with self.ports.store.transaction():
            state.put_number("accepted", 1)
            state.put("receipt-salt", salt)
            state.put("receipt", batch.receipt.commitment(salt))
            self.log(
                terms,
                now,
                "receipt.issued",
                receipt=batch.receipt.commitment(salt).hex(),
                contract=source.contract.digest.hex(),
                plan=batch.receipt.plan.hex(),
                schema=terms.manifest.schema.hex(),
            )
            self.log(terms, now, "offer.accepted", accept=digest(answer.message).hex())
        self._runs[terms.run_id] = live
        return [answer]

    def _check_limits(self, terms: Terms) -> None:
        limits = self._setup.config.limits
        name = self.address.party
        if name not in terms.clients:
            raise RemoteProtocolError("offer.client", f"{name} is not a client of this run")
        if not terms.masked:
            return  # Only the policy can permit the baseline.
        if limits.require_own_helper and name not in terms.helpers:
            raise PolicyDenied(
                "limits.own-helper",
                f"site {name} takes part only where it is a helper itself",
                remedy="add it to aggregation.helpers, or set limits.require_own_helper = false "
                "in site.toml",
            )
        if len(terms.helpers) <= limits.max_colluding_helpers:
            raise PolicyDenied(
                "limits.colluding-helpers",
                f"{len(terms.helpers)} helpers cannot outnumber the "
                f"{limits.max_colluding_helpers} that site {name} expects to collude",
                remedy="name more helpers in aggregation.helpers",
            )
        if (
            terms.plan.unit == "none"
            and terms.manifest.min_cohort - limits.max_colluding_helpers < MIN_HONEST
        ):
            raise PolicyDenied(
                "limits.cohort",
                f"sums of {terms.manifest.min_cohort} without noise are too small for site {name}, "
                f"which expects up to {limits.max_colluding_helpers} to collude",
                remedy="raise aggregation.min_cohort in the job",
            )
        if terms.plan.unit != "none" and terms.plan.max_colluding < limits.max_colluding_helpers:
            raise PolicyDenied(
                "limits.noise-margin",
                f"the run's noise allows for {terms.plan.max_colluding} colluding helper(s), site "
                f"{name} expects up to {limits.max_colluding_helpers}",
                remedy="raise privacy.max_colluding in the job, or set privacy.noise = 'own'",
            )

    def _source(self, terms: Terms) -> DataSource:
        wanted = terms.job.data.contract
        source = self._setup.sources.get(wanted)
        if source is None:
            offered = ", ".join(sorted(self._setup.sources)) or "none"
            raise ConfigError(
                "site.contract",
                f"site {self.address.party} has no contract named '{wanted}' (it has: {offered})",
                remedy="correct data.contract in the job, or add the contract at the site",
                key="data.contract",
            )
        return source

    def _workload(self, terms: Terms, contract: Contract) -> Workload:
        difference = schema_difference(contract.schema(), terms.schema)
        if difference:
            raise ConfigError(
                "site.schema",
                f"contract '{contract.name}' of site {self.address.party} (here) differs "
                f"from the run's public schema (there): {difference}",
                remedy="agree on one schema: every site and the evaluation set must share it",
            )
        code = Digest(terms.manifest.code)
        model = self._setup.load_model(terms.job, terms.schema, code)
        if model.code != terms.manifest.code or model.model.dimension != terms.manifest.dimension:
            raise PolicyDenied(
                "site.code",
                f"site {self.address.party} holds other model code than the run names",
                remedy="every site must review and install the same model file",
            )
        return Workload.build(terms.job, model)

    def _request(self, terms: Terms, contract: Contract) -> Request:
        setup = self._setup
        return policy_request(
            terms, self.roster, site=setup.config, contract=contract, pinned=setup.code_pinned
        )

    def _decide(self, terms: Terms, contract: Contract, now: Milliseconds) -> None:
        request = self._request(terms, contract)
        decision = self._setup.policy.decide(request)
        with self.ports.store.transaction():
            self.log(
                terms,
                now,
                "policy.decided",
                policy=self._setup.policy.digest.hex(),
                contract=contract.digest.hex(),
                allowed=decision.allowed,
                rules=list(decision.rules),
                epsilon_milli=str(request.epsilon_milli),
            )
        decision.require()

    def _require_budget(self, terms: Terms) -> None:
        """Refuses a run without differential privacy, unless the operator allows such runs."""
        if terms.plan.unit != "none" or self._setup.config.budget.allow_without_dp:
            return
        spent = self.budget.spent()
        raise BudgetExhausted(
            "budget.without-dp",
            "the run has no differential privacy, its epsilon is infinite; the lifetime limit of "
            f"site {self.address.party} is {spent.epsilon_limit}",
            remedy="set privacy.unit = 'record' in the job, or, for public data only, "
            "budget.allow_without_dp = true in site.toml",
            spent=str(spent.epsilon),
            limit=str(spent.epsilon_limit),
        )

    def _reserve(self, terms: Terms, now: Milliseconds) -> None:
        self._require_budget(terms)
        if terms.plan.unit == "none":
            return
        epsilon = terms.plan.epsilon()
        with self.ports.store.transaction():
            self.budget.reserve(terms.run_id, epsilon, terms.plan.delta)
            self.log(
                terms,
                now,
                "budget.reserved",
                epsilon=repr(epsilon),
                delta=repr(terms.plan.delta),
            )

    def examine(self, terms: Terms) -> Examination:
        """What this site would answer to an offer; nothing is recorded, reserved or sent.

        Raises:
            ConfigError, RemoteProtocolError: Contract, schema, code or data do not fit.
            PolicyDenied: The policy, or the limits in ``site.toml``, do not allow it.
            BudgetExhausted: The budget does not cover it.
        """
        self._check_limits(terms)
        source = self._source(terms)
        decision = self._setup.policy.decide(self._request(terms, source.contract))
        decision.require()
        workload = self._workload(terms, source.contract)
        self._require_budget(terms)
        if terms.plan.unit != "none":
            self.budget.check(terms.plan.epsilon(), terms.plan.delta)
        batch = source.read()
        workload.prepare(batch)
        return Examination(decision=decision, receipt=batch.receipt)

    # --- a round -----------------------------------------------------------------------------

    def _train(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        if not state.number("accepted"):
            raise RemoteProtocolError(
                "round.not-accepted",
                "a round was started of a run that this site did not accept",
                party=message.sender.party,
            )
        accepted = state.number("round")
        if message.digest == state.get(f"start/{message.round}"):
            stored = state.get("upload") if message.round == accepted else None
            return [unpack(stored, self.leader(terms))] if stored is not None else []
        if not accepted < message.round <= terms.manifest.rounds:
            return self._conflict(message, terms, now)
        live = self._live(terms)
        if live.data is None:
            live.data = self._reload(terms, live, now)
        with self.ports.store.transaction():
            model = self._advance(live, message)
            self._check_uncompleted(terms, live.chain)
        # Training may take long: no transaction is open meanwhile, and nothing has left yet.
        made = contribute(self, terms, message, model, (live.workload, live.data))
        with self.ports.store.transaction():
            self._commit_upload(terms, message, made, now)
        return [made.envelope]

    def _reload(self, terms: Terms, live: Live, now: Milliseconds) -> TrainingData:
        """The data after a restart: under the policy as it is now, and exactly what was accepted.

        Raises:
            PolicyDenied: The policy has changed its mind.
            ConfigError: Contract or data have changed since the site accepted the run.
        """
        state, source = self.state(terms.run_id), self._source(terms)
        self._decide(terms, source.contract, now)
        batch = source.read()
        if batch.receipt.commitment(state.get("receipt-salt") or b"") != state.get("receipt"):
            raise ConfigError(
                "site.changed",
                f"contract or data of site {self.address.party} have changed since it accepted "
                "the run",
                remedy="restore them, or start a new run with the data as it is now",
            )
        return live.workload.prepare(batch)

    def _conflict(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        """A leader that asks twice for one round, differently, convicts itself: the first is kept."""
        state = self.state(terms.run_id)
        if state.get("conflict") is not None:
            return []
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
        return []

    def _advance(self, live: Live, message: Received) -> ServerState:
        """Brings the model chain to the round's model, which must be the one that the leader names."""
        body: RoundStart = message.body
        chain = live.chain
        if body.previous is not None:
            model = chain.apply(body.previous, message.chunks)
        elif chain.applied:
            raise RemoteProtocolError("round.aggregate", "the previous aggregate is missing")
        else:
            model = chain.current or chain.begin(body.accepts)
        if model.digest != body.model:
            raise RemoteProtocolError(
                "round.model",
                f"the model of round {message.round} does not follow from the aggregates",
                party=message.sender.party,
            )
        return model

    def _check_uncompleted(self, terms: Terms, chain: ModelChain) -> None:
        state = self.state(terms.run_id)
        uncompleted = state.number("uploads") - chain.completed
        limit = self._setup.config.limits.max_uncompleted_rounds
        if uncompleted > limit:
            raise RoundAborted(
                "site.uncompleted-rounds",
                f"{uncompleted} charged rounds of this run gave no result; the limit is {limit}",
                retryable=False,
                remedy="find out why rounds fail before spending more budget",
            )

    def _commit_upload(
        self, terms: Terms, message: Received, made: Contribution, now: Milliseconds
    ) -> None:
        """Charges and stores; only after this commit may the upload leave."""
        state = self.state(terms.run_id)
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
            self.budget.charge(terms.run_id, message.round, epsilon)
            self.log(terms, now, "budget.charged", round=message.round, epsilon=repr(epsilon))
        state.put_number("uploads", uploads)
        state.put_number("round", message.round)
        state.put(f"start/{message.round}", message.digest)
        state.put("upload", pack(made.envelope))
        state.put("upload-digest", digest(made.envelope.message))
        state.put("context", made.context)
        self.log(
            terms,
            now,
            "upload.sent",
            round=message.round,
            context=made.context.hex(),
            upload=digest(made.envelope.message).hex(),
        )

    # --- the end -----------------------------------------------------------------------------

    def _close(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        uploads = state.number("uploads")
        epsilon = settled_epsilon(terms, uploads)
        with self.ports.store.transaction():
            if uploads and message.body.previous is not None:
                self._follow(message, terms, now)
            if self._settle(terms, epsilon):
                self.log(terms, now, "run.settled", rounds=uploads, epsilon=repr(epsilon))
            state.delete("upload")
            state.put_number("closed", 1)
            model = self._released(terms)
            self.log(terms, now, "run.closed", complete=message.body.complete, model=model)
        self._runs.pop(terms.run_id, None)
        return [self.record(terms)]

    def _follow(self, message: Received, terms: Terms, now: Milliseconds) -> None:
        """Takes the last aggregate. One that does not fit is recorded, and the run settled all the same."""
        try:
            with self.ports.store.transaction():
                model = self._live(terms).chain.apply(message.body.previous, message.chunks)
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

    def _released(self, terms: Terms) -> str:
        """Digest of the model that this site derived, so that nobody can release another one."""
        if self.state(terms.run_id).get("model") is None:
            return ""
        live = self._live(terms)
        model = live.chain.current
        assert model is not None
        return digest(live.workload.released(model).astype("<f8").tobytes()).hex()

    def _settle(self, terms: Terms, epsilon: float) -> bool:
        """Settles the run's reservation; false where there is none: refused, or without DP."""
        reserved = any(entry.run == terms.run_id for entry in self.budget.entries())
        if reserved:
            self.budget.settle(terms.run_id, epsilon)
        return reserved

    def _refuse(
        self, terms: Terms, message: Received, error: TacitError, now: Milliseconds
    ) -> list[Envelope]:
        """Tells the leader the code only; message and remedy stay here."""
        self.last_error = error
        code = public_code(error)
        with self.ports.store.transaction():
            self.log(terms, now, "round.refused", round=message.round, code=code)
        refusal = Refusal(code=code, culprit="")
        return [self.send(terms, self.leader(terms), refusal, round_number=message.round)]

    def _live(self, terms: Terms) -> Live:
        """The run in memory, rebuilt after a restart."""
        live = self._runs.get(terms.run_id)
        if live is None:
            workload = self._workload(terms, self._source(terms).contract)
            chain = ModelChain(self, terms, workload, self.state(terms.run_id))
            live = self._runs[terms.run_id] = Live(terms=terms, chain=chain, workload=workload)
        return live
