"""Lies that take a whole run: what the leader says to one party depends on what others have said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from tacit.attack.defences import Defence, job_for
from tacit.attack.protocol.attempts import ATTEMPTS, equivocated_start, forged_sum
from tacit.attack.protocol.leader import Attempt, MaliciousLeader, Outcome, Watch
from tacit.attack.scratch import ScratchFederation, site_names
from tacit.attack.transcript import Transcript
from tacit.attack.workbench import Workbench
from tacit.errors import TacitError
from tacit.party.job import JobSpec
from tacit.types import PartyName
from tacit.wire.envelope import Address, Envelope, Received
from tacit.wire.messages import MaskRequest, MaskSum, Refusal, RoundStart, Upload

__all__ = ["Stage", "Sybils", "told_lies"]

SITES = 4
RECORDS_EACH = 4
UNLIKELY = 1e-9


class Sybils(ScratchFederation):
    """A federation in which all sites from the third one on belong to one operator."""

    def operator_of(self, name: PartyName) -> str:
        """The first two are on their own, the leader too."""
        return "operator-of-many" if name in site_names(99)[2:] else super().operator_of(name)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where lies are told: one job under one defence, with few records at each site.

    Args:
        bench: Job and data.
        defence: The column.
        privacy: Changes to ``[privacy]``.
    """

    bench: Workbench
    defence: Defence
    privacy: dict[str, Any]

    @property
    def victim(self) -> PartyName:
        """The honest site that the lies are for."""
        return site_names(1)[0]

    def federation(
        self,
        *,
        rounds: int = 2,
        sites: int = SITES,
        resum: str = "never",
        code: dict[PartyName, Any] | None = None,
        kind: type[ScratchFederation] = ScratchFederation,
    ) -> ScratchFederation:
        """A fresh one; cohorts may lack one site, so that there is something to play with."""
        count = RECORDS_EACH * sites
        job = job_for(
            self.bench.job,
            self.defence,
            sites=sites,
            units=count,
            rounds=rounds,
            privacy=self.privacy,
        )
        least = 3 if kind is Sybils else sites - 1
        aggregation = job.aggregation.model_copy(update={"min_cohort": least})
        made = JobSpec.model_validate(
            job.model_copy(update={"aggregation": aggregation}).model_dump()
        )
        order = self.bench.generator("protocol").permutation(len(self.bench.data))[:count]
        return kind(
            made,
            self.bench.base,
            self.bench.data,
            np.array_split(order.astype(np.int64), sites),
            code=code,
            limits={"resum": resum},
        )

    def lies(self, attempts: Sequence[Attempt], **options: Any) -> tuple[Outcome, ...]:
        """Makes every attempt; after one that succeeds, the others are made in a new run."""
        pending, outcomes = list(attempts), list[Outcome]()
        while pending:
            watch = Watch(self.federation(**options).load_model)
            scratch = self.federation(code={self.victim: watch}, **options)
            colluding = tuple(scratch.sites)[-1:]
            leader = MaliciousLeader(scratch, self.victim, colluding, pending, watch)
            scratch.run(leader)
            outcomes += leader.outcomes
            if len(leader.pending) == len(pending):
                break
            pending = leader.pending
        return tuple(outcomes)

    # --- single contributions ------------------------------------------------------------------

    def single_contribution(self) -> Outcome:
        """Whether the column's adversary reads the victim's contribution in an honest run."""
        transcript = self.federation(rounds=1).run()
        view = self.bench.view(self.defence, transcript)
        read = any(self.victim in one.contributions for one in view.rounds)
        return Outcome("single-contribution", read, view.adversary.name, "" if read else "masked")

    # --- equivocation --------------------------------------------------------------------------

    def equivocated_first_model(self) -> Outcome | None:
        """Another first model for the victim, whose upload is then put to its helper beside the others'.

        None where the first model is the same whatever clients say, or nothing is masked.
        """
        scratch = self.federation(rounds=1)
        colluding = tuple(scratch.sites)[-1:]
        leader = MaliciousLeader(scratch, self.victim, colluding, ())
        told, requests = list[Envelope](), list[Outcome]()

        def tap(envelope: Envelope) -> Envelope | None:
            message = leader.open(envelope)
            passed = leader(envelope)
            if message is None:
                return passed
            if _to(message, envelope, RoundStart, Address(self.victim, "client")):
                forged = equivocated_start(leader, envelope, message)
                told.extend([forged] if forged is not None else [])
                return forged or passed
            uploads = leader.bodies(Upload, 1)
            if isinstance(message.body, Upload) and len(uploads) == SITES and told:
                requests.append(self._mixed_request(leader, uploads))
            return passed

        scratch.run(tap)
        if requests:
            return requests[0]
        if not told:
            return None
        refused = [m.body.code for m, _ in leader.seen if isinstance(m.body, Refusal)]
        code = refused[0] if refused else "no sum"
        return Outcome("equivocated-first-model", False, str(self.victim), code)

    def _mixed_request(self, leader: MaliciousLeader, uploads: list[Received]) -> Outcome:
        start = leader.starts(1).body
        body = MaskRequest(
            model=start.model, keys=start.keys, uploads=tuple(one.raw for one in uploads)
        )
        receiver = Address(self.victim, "helper")
        answers, error = leader.told(leader.speak(receiver, body, number=1))
        gave = any(isinstance(one.body, MaskSum) for one in answers)
        return Outcome("equivocated-first-model", gave, str(receiver), error, trained=True)

    def equivocated_cohorts(self) -> Outcome | None:
        """Half of the helpers are asked about the cohort without the victim: do the answers open a sum?"""
        scratch = self.federation(rounds=1)
        if not scratch.terms.masked:
            return None
        leader = MaliciousLeader(scratch, self.victim, tuple(scratch.sites)[-1:], ())
        names = tuple(scratch.helpers)[SITES // 2 :]

        def tap(envelope: Envelope) -> Envelope | None:
            message = leader.open(envelope)
            passed = leader(envelope)
            asked = message is not None and isinstance(message.body, MaskRequest)
            if message is None or not asked or envelope.receiver.party not in names:
                return passed
            rest = tuple(
                raw
                for raw in message.body.uploads
                if leader.opened(raw).sender.party != self.victim
            )
            return leader.again(envelope, message, uploads=rest)

        transcript = scratch.run(tap)
        opened = _opens(transcript, self.victim)
        failure = scratch.leader.failure
        code = "no sum opens" if failure is None else failure.code
        return Outcome("equivocated-cohorts", opened, "helpers", "" if opened else code)

    # --- sums ----------------------------------------------------------------------------------

    def dropout_game(self) -> tuple[Outcome, dict[str, float]]:
        """One round with the victim and one in which it is said to have dropped out."""
        scratch = self.federation(rounds=2)
        leader = MaliciousLeader(scratch, self.victim, tuple(scratch.sites)[-1:], ())

        def tap(envelope: Envelope) -> Envelope | None:
            message = leader.open(envelope)
            dropped = (
                message is not None
                and isinstance(message.body, Upload)
                and message.round == 2
                and message.sender.party == self.victim
            )
            return None if dropped else leader(envelope)

        transcript = scratch.run(tap)
        two = scratch.leader.chain.completed == 2 and len(transcript.closed) == 2
        refused = [m.body.code for m, _ in leader.seen if isinstance(m.body, Refusal)]
        failure = scratch.leader.failure
        if not two:
            code = refused[0] if refused else (failure.code if failure is not None else "no sum")
            return Outcome("dropout-game", False, "helpers", code), {}
        if not transcript.plan.private:
            return Outcome("dropout-game", True, "helpers", "", trained=True), {}
        return _fresh_noise(transcript)

    def forged_sums(self, runs: int) -> tuple[int, int, dict[str, int]]:
        """Made-up sums within the norm bound, to all sites under their default limits.

        Returns:
            How many sites trained on one, of how many, and the codes of those that did not.
        """
        trained, told, codes = 0, 0, dict[str, int]()
        for _ in range(runs):
            scratch = self.federation(rounds=2, resum="sampled")
            leader = MaliciousLeader(scratch, self.victim, tuple(scratch.sites)[-1:], ())
            scratch.run(_forging(leader))
            told += SITES
            trained += len(leader.bodies(Upload, 2))
            for one in leader.bodies(Refusal, 2):
                codes[one.body.code] = codes.get(one.body.code, 0) + 1
        return trained, told, codes


def _forging(leader: MaliciousLeader) -> Callable[[Envelope], Envelope | None]:
    def tap(envelope: Envelope) -> Envelope | None:
        message = leader.open(envelope)
        passed = leader(envelope)
        if message is not None and isinstance(message.body, RoundStart) and message.round == 2:
            return forged_sum(leader, envelope, message, 0.5) or passed
        return passed

    return tap


def _to(message: Received, envelope: Envelope, kind: type, receiver: Address) -> bool:
    return isinstance(message.body, kind) and envelope.receiver == receiver


def _opens(transcript: Transcript, victim: PartyName) -> bool:
    """Whether uploads less answers are a plausible sum, for the cohort with or without the victim."""
    ring, plan = transcript.terms.ring, transcript.plan
    one = transcript.rounds[0]
    for left_out in ((), (victim,)):
        uploads = [vector for name, vector in one.uploads.items() if name not in left_out]
        length = len(uploads[0])
        total = ring.sum(uploads, length)
        for answer in one.answers.values():
            ring.subtract_into(total, answer)
        ring.reduce(total)
        norm = float(np.linalg.norm(ring.centred(total).astype(np.float64)))
        if norm <= plan.aggregate_norm_bound(length):
            return True
    return False


def _fresh_noise(transcript: Transcript) -> tuple[Outcome, dict[str, float]]:
    """Whether the two sums of a dropout game hold two independent noises of the planned variance."""
    noises = []
    for one in transcript.closed:
        assert one.total is not None
        known = sum(transcript.contribution(one, site) for site in one.cohort)
        noises.append((one.total - known).astype(np.float64))
    plan = transcript.plan
    expected = 2.0 * plan.total_variance(len(transcript.closed[0].helper_keys))
    squares = float(np.square(noises[0] - noises[1]).sum())
    chance = float(stats.chi2.cdf(squares / expected, len(noises[0])))
    figures = {"ratio_of_variances": squares / expected / len(noises[0]), "p_value": chance}
    weak = chance < UNLIKELY
    code = "" if weak else "fresh noise in each sum"
    return Outcome("dropout-game", weak, "helpers", code, trained=True), figures


def sybil_cohort(leader: MaliciousLeader, envelope: Envelope, message: Received) -> Envelope | None:
    """The victim among clients that all belong to one operator."""
    names = {leader.victim, *site_names(99)[2:]}
    few = tuple(raw for raw in message.body.uploads if leader.opened(raw).sender.party in names)
    return leader.again(envelope, message, uploads=few)


def told_lies(
    stage: Stage, attempts: Sequence[Attempt] = ATTEMPTS
) -> tuple[tuple[Outcome, ...], dict[str, Any]]:
    """All attempts of a column, and figures beside them."""
    outcomes = [stage.single_contribution(), *stage.lies(attempts)]
    for scenario in (stage.equivocated_first_model, stage.equivocated_cohorts):
        found = scenario()
        outcomes += [found] if found is not None else []
    game, figures = stage.dropout_game()
    outcomes.append(game)
    sybils = Attempt("sybils-of-one-operator", "helper", 2, sybil_cohort)
    try:
        outcomes += stage.lies((sybils,), sites=SITES + 1, kind=Sybils)
    except TacitError as error:
        outcomes.append(Outcome("sybils-of-one-operator", False, "sites", error.code))
    return tuple(outcomes), {"dropout_game": figures}
