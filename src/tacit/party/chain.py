"""The model chain: a party's own derivation of every model of a run from public, signed inputs.

Leader and sites hold one each. It accepts an aggregate only if every helper signed an answer for
exactly its cohort, and only then applies the server step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import centred
from tacit.errors import RemoteProtocolError
from tacit.learn.server import ServerState
from tacit.party.base import Party, RunState
from tacit.party.terms import Terms
from tacit.party.workload import Workload, first_model_seed
from tacit.secagg.masked import cohort_digest
from tacit.types import Digest, PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import Received, digest, join_chunks
from tacit.wire.messages import Accept, Aggregate, MaskSum

__all__ = ["ModelChain"]


@dataclass(frozen=True, slots=True)
class ModelChain:
    """The chain of one run at one party; its durable state lives in ``state``."""

    party: Party
    terms: Terms
    workload: Workload
    state: RunState

    @property
    def applied(self) -> int:
        """The last round whose aggregate was applied; 0 before the first."""
        return self.state.number("applied")

    @property
    def completed(self) -> int:
        """How many aggregates were applied."""
        return self.state.number("completed")

    @property
    def current(self) -> ServerState | None:
        """The server state after ``applied``; None before the first model is known."""
        stored = self.state.get("model")
        return ServerState.from_bytes(stored) if stored is not None else None

    def begin(self, accepts: tuple[bytes, ...]) -> ServerState:
        """Derives the first model from the signed ``Accept`` of every client, inside a transaction.

        Raises:
            RemoteProtocolError: One is missing, repeated or from somebody else.
        """
        opened: list[Received] = [
            self.party.open_signed(raw, self.terms, Accept, "client") for raw in accepts
        ]
        names = [accept.sender.party for accept in opened]
        if sorted(names) != sorted(self.terms.clients):
            raise self._fault("chain.accepts", "the first model does not rest on every client")
        seed = first_model_seed([(a.sender.party, a.body.nonce) for a in opened])
        first = self.workload.first(seed)
        self.state.put("model", first.to_bytes())
        return first

    def apply(self, aggregate: Aggregate, chunks: tuple[bytes, ...]) -> ServerState:
        """Checks an aggregate and takes the server step, inside a transaction.

        A repeat of the last applied aggregate changes nothing.

        Raises:
            RemoteProtocolError: It is not the next one, not signed by every helper for exactly its
                cohort, too small a cohort, or beyond the norm that the plan allows.
            DecodeError: Its vector does not match its digests.
        """
        known = digest(encode(aggregate))
        current = self.current
        if current is None:
            raise self._fault("chain.order", "an aggregate came before the first model")
        if aggregate.round == self.applied and self.applied:
            if known != self.state.get("aggregate"):
                raise self._fault(
                    "chain.equivocation", f"two different aggregates of round {aggregate.round}"
                )
            return current
        if aggregate.round <= self.applied:
            raise self._fault("chain.order", "an aggregate of an earlier round came again")
        self._check_cohort(aggregate)
        total = self._checked_sum(aggregate, chunks)
        after = self.workload.step(current, total, self.terms.plan)
        self.state.put("model", after.to_bytes())
        self.state.put_number("applied", aggregate.round)
        self.state.put_number("completed", self.completed + 1)
        self.state.put("aggregate", known)
        return after

    def _checked_sum(self, aggregate: Aggregate, chunks: tuple[bytes, ...]) -> NDArray[np.int64]:
        length = self.terms.manifest.length
        total = centred(join_chunks(aggregate.vector, chunks, length))
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
        if not self.terms.plan.share_variance:
            first = self.state.get("first-cohort")
            members = "\n".join(sorted(names)).encode()
            if first is not None and first != members:
                raise self._fault(
                    "chain.cohort-changed", "without noise every sum must have the same cohort"
                )
            self.state.put("first-cohort", members)
        self._check_answers(aggregate)

    def _check_own_part(self, aggregate: Aggregate, contexts: set[bytes]) -> None:
        """A party that uploaded in this round knows its upload and the round's context."""
        own = self.state.get("upload-digest")
        if own is None or self.state.number("round") != aggregate.round:
            return
        mine = [m.upload for m in aggregate.cohort if m.client == self.party.address.party]
        if mine not in ([], [own]):
            raise self._fault("chain.own-upload", "the sum holds another upload than was sent")
        if mine and contexts and contexts != {self.state.get("context")}:
            raise self._fault("chain.context", "the helpers answered for another context")

    def _check_answers(self, aggregate: Aggregate) -> None:
        answers = [
            self.party.open_signed(raw, self.terms, MaskSum, "helper") for raw in aggregate.answers
        ]
        helpers = [answer.sender.party for answer in answers]
        if sorted(helpers) != sorted(self.terms.helpers):
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
        if len(contexts) > 1:
            raise self._fault("chain.context", "the helpers answered for different contexts")
        self._check_own_part(aggregate, contexts)

    def _fault(self, code: str, message: str) -> RemoteProtocolError:
        return RemoteProtocolError(code, message, party=self.terms.manifest.leader)
