"""The model chain: a party's own derivation of every model of a run from public, signed inputs.

Leader and sites hold one each. It accepts an aggregate only if every helper that was present signed an
answer for exactly its cohort and for the very model that this party holds, and only then applies the
server step. A party that missed an aggregate takes the server state that a later cohort trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.errors import RemoteProtocolError
from tacit.learn.early_stop import losses_from_bytes, losses_to_bytes, should_stop
from tacit.learn.server import ServerState
from tacit.party.base import Party, RunState
from tacit.party.computation import Computation
from tacit.party.context import helper_keys, upload_context
from tacit.party.terms import Terms
from tacit.party.workload import first_model_seed
from tacit.secagg.masked import cohort_digest
from tacit.types import Digest, PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import Received, digest, join_chunks
from tacit.wire.messages import Accept, Aggregate, CatchUp, MaskSum, Upload

__all__ = ["BEHIND", "ModelChain"]

BEHIND = "chain.behind"
"""Code of the error that an aggregate does not rest on the model that this party holds."""


ComputationT_co = TypeVar("ComputationT_co", bound=Computation, covariant=True)


@dataclass(frozen=True, slots=True)
class ModelChain(Generic[ComputationT_co]):
    """The chain of one run at one party; its durable state lives in ``state``."""

    party: Party
    terms: Terms
    workload: ComputationT_co
    state: RunState

    @property
    def applied(self) -> int:
        """The last round whose aggregate was applied; 0 before the first."""
        return self.state.number("applied")

    @property
    def completed(self) -> int:
        """How many aggregates the run has had, as far as this party knows."""
        current = self.current
        return current.steps if current is not None else 0

    @property
    def included(self) -> int:
        """How many applied aggregates hold this party's own upload."""
        return self.state.number("included")

    @property
    def stopped(self) -> bool:
        """Whether the held-out losses say that the run should end (``evaluation.patience``)."""
        return bool(self.state.number("stopped"))

    @property
    def current(self) -> ServerState | None:
        """The server state after ``applied``; None before the first model is known."""
        stored = self.state.get("model")
        return ServerState.from_bytes(stored) if stored is not None else None

    def open_accepts(self, accepts: Sequence[bytes]) -> list[Received]:
        """Opens the signed ``Accept`` of every client.

        Raises:
            RemoteProtocolError: One is missing, repeated or from somebody else.
        """
        opened = [self.party.open_signed(raw, self.terms, Accept, "client") for raw in accepts]
        names = [accept.sender.party for accept in opened]
        if sorted(names) != sorted(self.terms.clients):
            raise self._fault("chain.accepts", "these are not the acceptances of every client")
        return opened

    def first(self, accepts: Sequence[Received]) -> ServerState:
        """Derives the first model from what ``open_accepts`` gave: runs model code, changes nothing."""
        return self.workload.first(
            first_model_seed([(a.sender.party, a.body.nonce) for a in accepts])
        )

    def begin(self, accepts: Sequence[Received], first: ServerState | None = None) -> ServerState:
        """Takes the first model, inside a transaction.

        Args:
            accepts: What ``open_accepts`` gave.
            first: What ``first`` made of them; by default it is derived here.
        """
        first = self.first(accepts) if first is None else first
        self.state.put("model", first.to_bytes())
        return first

    def apply(self, aggregate: Aggregate, chunks: Sequence[bytes]) -> ServerState:
        """Checks an aggregate and takes the server step, inside a transaction.

        A repeat of the last applied aggregate changes nothing.

        Raises:
            RemoteProtocolError: It is not the next one, not signed by every helper present for exactly
                its cohort, too small a cohort, or beyond the norm that the plan allows. The code is
                ``BEHIND`` when it rests on another model than this party holds.
            DecodeError: Its vector does not match its digests.

        Guarantee: whatever the leader sends, a sum over uploads for another model, run, round or set
        of helpers than this party's own is never applied. Checked by
        ``tests/unit/test_party_chain.py::test_an_aggregate_of_another_model_is_not_applied``.
        """
        known = digest(encode(aggregate))
        current = self.current
        if current is None:
            raise self._fault(BEHIND, "an aggregate came before the first model")
        if aggregate.round == self.applied and self.applied:
            if known != self.state.get("aggregate"):
                raise self._fault(
                    "chain.equivocation", f"two different aggregates of round {aggregate.round}"
                )
            return current
        if aggregate.round <= self.applied:
            raise self._fault("chain.order", "an aggregate of an earlier round came again")
        self._check_cohort(aggregate)
        context = self._context(aggregate, current.digest)
        self._check_answers(aggregate, context)
        total = self._checked_sum(aggregate, chunks)
        after = self.workload.step(current, total, self.terms.plan)
        self._watch(current, total, len(aggregate.answers))
        self.state.put("model-before", current.to_bytes())
        self.state.put("model", after.to_bytes())
        self.state.put_number("applied", aggregate.round)
        self.state.put("aggregate", known)
        self.state.put("aggregate-context", context)
        return after

    def catch_up(self, proof: CatchUp, chunks: Sequence[bytes]) -> ServerState:
        """Takes over the state that the last cohort trained on, and its aggregate, inside a transaction.

        Raises:
            RemoteProtocolError: The aggregate is not newer than what was applied, or its cohort did not
                train on this state.
            DecodeError: State or vector do not match their digests.

        Guarantee: against a malicious leader: the state is one for which every client of a cohort of
        at least ``min_cohort`` operators signed an upload, so that it is the honest one unless they
        all lie. Checked by
        ``tests/unit/test_party_late.py::test_a_state_that_the_cohort_did_not_train_on_is_refused``.
        """
        aggregate = proof.aggregate
        if aggregate.round <= self.applied:
            raise self._fault("chain.order", "a late joiner was sent an old aggregate")
        parts = len(proof.state.digests)
        data = join_chunks(proof.state, chunks[:parts], proof.state.length, 1)
        state = ServerState.from_bytes(data)
        known = self.current
        least = known.steps if known is not None else 0
        if (
            len(state.theta) != self.workload.dimension
            or not least <= state.steps < aggregate.round
        ):
            raise self._fault("chain.state", "the state is of another model, or of another time")
        opened = [
            self.party.open_signed(raw, self.terms, Upload, "client") for raw in proof.uploads
        ]
        members = [(upload.sender.party, upload.digest) for upload in opened]
        if members != [(member.client, member.upload) for member in aggregate.cohort]:
            raise self._fault("chain.proof", "the proof is not of the aggregate's cohort")
        context = self._context(aggregate, state.digest)
        if any(upload.body.context != context for upload in opened):
            raise self._fault("chain.proof", "the cohort did not train on the state that was sent")
        self.state.put("model", state.to_bytes())
        return self.apply(aggregate, chunks[parts:])

    def _watch(self, model: ServerState, total: NDArray[np.int64], helpers: int) -> None:
        """Notes the held-out loss of a round, where the job may stop on it."""
        patience = self.terms.job.evaluation.patience
        if not patience:
            return
        found = self.workload.metrics(model, total, self.terms.plan, helpers)
        losses = losses_from_bytes(self.state.get("losses") or b"")
        losses.append(found.get("held_out_loss", math.nan))
        self.state.put("losses", losses_to_bytes(losses))
        if should_stop(losses, patience):
            self.state.put_number("stopped", 1)

    def _context(self, aggregate: Aggregate, model: Digest) -> Digest:
        keys = helper_keys(self.party, self.terms, aggregate.round, aggregate.keys)
        return upload_context(self.terms, aggregate.round, model, keys)

    def metrics(self, aggregate: Aggregate, chunks: Sequence[bytes]) -> dict[str, float]:
        """The training metrics inside the last applied aggregate; see ``Workload.metrics``."""
        before = self.state.get("model-before")
        if before is None:
            return {}
        total, terms = self._checked_sum(aggregate, chunks), self.terms
        state = ServerState.from_bytes(before)
        return self.workload.metrics(state, total, terms.plan, len(aggregate.answers))

    def _checked_sum(self, aggregate: Aggregate, chunks: Sequence[bytes]) -> NDArray[np.int64]:
        length, ring = self.terms.manifest.length, self.terms.ring
        data = join_chunks(aggregate.vector, chunks, length, ring.item_bytes)
        total = ring.centred(ring.from_bytes(data, length))
        norm = float(np.linalg.norm(total.astype(np.float64)))
        if norm > self.terms.plan.aggregate_norm_bound(length):
            raise self._fault(
                "chain.norm", f"the aggregate of round {aggregate.round} is too large to be honest"
            )
        return total

    def _check_cohort(self, aggregate: Aggregate) -> None:
        manifest = self.terms.manifest
        names = [PartyName(member.client) for member in aggregate.cohort]
        if len(set(names)) != len(names) or not set(names) <= set(self.terms.clients):
            raise self._fault("chain.cohort", "the cohort holds a stranger or a repeat")
        if len(self.party.roster.operators(names)) < manifest.min_cohort:
            raise self._fault(
                "chain.cohort-too-small",
                f"the cohort of round {aggregate.round} has fewer than "
                f"{manifest.min_cohort} operators",
            )
        if self.terms.plan.unit == "none":
            first = self.state.get("first-cohort")
            members = "\n".join(sorted(names)).encode()
            if first is not None and first != members:
                raise self._fault(
                    "chain.cohort-changed", "without noise every sum must have the same cohort"
                )
            self.state.put("first-cohort", members)

    def _check_own_part(self, aggregate: Aggregate, contexts: set[bytes]) -> None:
        """A party that uploaded in this round knows its upload and the round's context."""
        own = self.state.get("upload-digest")
        if own is None or self.state.number("round") != aggregate.round:
            return
        name = self.party.address.party
        mine = [m.upload for m in aggregate.cohort if name == m.client or own == m.upload]
        if mine == [own] and not self.state.number(f"included/{aggregate.round}"):
            self.state.put_number(f"included/{aggregate.round}", 1)
            self.state.put_number("included", self.included + 1)
        if own in mine and name not in [m.client for m in aggregate.cohort if m.upload == own]:
            raise self._fault("chain.own-upload", "the sum names this upload as somebody else's")
        if mine not in ([], [own]):
            raise self._fault("chain.own-upload", "the sum holds another upload than was sent")
        if mine and contexts != {self.state.get("context")}:
            raise self._fault("chain.context", "the helpers answered for another context")

    def _check_answers(self, aggregate: Aggregate, context: Digest) -> None:
        """Every helper present answered for exactly this cohort, in this party's own context."""
        answers = [
            self.party.open_signed(raw, self.terms, MaskSum, "helper") for raw in aggregate.answers
        ]
        keys = helper_keys(self.party, self.terms, aggregate.round, aggregate.keys)
        if [answer.sender.party for answer in answers] != [name for name, _ in keys]:
            raise self._fault(
                "chain.helpers", f"not every helper answered for round {aggregate.round}"
            )
        cohort = cohort_digest([Digest(member.upload) for member in aggregate.cohort])
        for answer in answers:
            if answer.round != aggregate.round or answer.body.cohort != cohort:
                raise self._fault(
                    "chain.answer",
                    f"{answer.sender.party} answered for another cohort or round",
                )
        contexts = {answer.body.context for answer in answers}
        self._check_own_part(aggregate, contexts or {context})
        if len(contexts) > 1:
            raise self._fault("chain.context", "the helpers answered for different contexts")
        if contexts not in (set(), {context}):
            raise self._fault(
                BEHIND,
                f"the helpers of round {aggregate.round} answered for another model than this one",
            )

    def _fault(self, code: str, message: str) -> RemoteProtocolError:
        return RemoteProtocolError(code, message, party=self.terms.manifest.leader)
