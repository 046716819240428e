"""Lies that take a whole run: what the leader says to one party depends on what others have said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from tacit.attack.defences import Defence, job_for
from tacit.attack.protocol.attempts import ATTEMPTS, equivocated_start, forged_sum, no_aggregate
from tacit.attack.protocol.leader import Attempt, Forge, MaliciousLeader, Outcome, Watch
from tacit.attack.scratch import ScratchFederation, site_names
from tacit.attack.transcript import Transcript
from tacit.attack.workbench import Workbench
from tacit.party.job import JobSpec
from tacit.privacy.plan import tail
from tacit.types import PartyName
from tacit.wire.envelope import Address, Envelope, Received
from tacit.wire.messages import MaskRequest, MaskSum, Refusal, RoundAbort, RoundStart, Upload

__all__ = ["Stage", "Sybils", "opens", "told_lies"]

SITES = 4
MANY = 9
"""Sites of a federation in which not every site is a helper."""
RECORDS_EACH = 4
UNLIKELY = 1e-9


class Sybils(ScratchFederation):
    """A federation in which all sites from the fourth on, which are no helpers, belong to one operator."""

    def operator_of(self, name: PartyName) -> str:
        """The first three are on their own, the leader too."""
        return "operator-of-many" if name in site_names(99)[3:] else super().operator_of(name)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where lies are told: one job under one defence, with few records at each site.

    Args:
        bench: Job and data.
        defence: The column.
        privacy: Changes to ``[privacy]``.
        records: Of each site.
    """

    bench: Workbench
    defence: Defence
    privacy: dict[str, Any]
    records: int = RECORDS_EACH

    @property
    def victim(self) -> PartyName:
        """The honest site that the lies are for."""
        return site_names(1)[0]

    @property
    def masked(self) -> bool:
        """Whether a run of the job under this column has helpers."""
        if self.defence in ("plain", "clipping"):
            return False
        return self.defence == "masking" or self.bench.job.aggregation.protocol == "masked"

    @property
    def seeded(self) -> bool:
        """Whether the first model depends on what clients say when they accept."""
        first = self.federation().workload.first
        return first(bytes(32)).digest != first(b"\x01" * 32).digest

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
        count = self.records * sites
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

    def equivocated_models(self) -> tuple[Outcome, ...]:
        """The victim is put on another model than the others, and its upload beside theirs.

        In round 1 by two acceptances of a colluding client, where the first model depends on them; in round 2
        by the word that round 1 was lost.
        """
        made = (
            self._equivocated("two-first-models", 1, equivocated_start),
            self._equivocated("round-called-lost", 2, no_aggregate),
        )
        return tuple(one for one in made if one is not None)

    def _equivocated(self, name: str, number: int, forge: Forge) -> Outcome | None:
        scratch = self.federation(rounds=number)
        colluding = tuple(scratch.sites)[-1:]
        leader = MaliciousLeader(scratch, self.victim, colluding, ())
        told, mixed = list[Envelope](), list[Outcome]()

        def tap(envelope: Envelope) -> Envelope | None:
            message = leader.open(envelope)
            passed = leader(envelope)
            if message is None or message.round != number:
                return passed
            if _to(message, envelope, RoundStart, Address(self.victim, "client")):
                forged = forge(leader, envelope, message)
                told.extend([forged] if forged is not None else [])
                return forged or passed
            uploads = leader.bodies(Upload, number)
            if isinstance(message.body, Upload) and len(uploads) == SITES and told:
                mixed.append(self._mixed(name, leader, uploads))
            return passed

        scratch.run(tap)
        if mixed or not told:
            return mixed[0] if mixed else None
        refused = [m.body.code for m in leader.bodies(Refusal, number)]
        return Outcome(name, False, str(self.victim), refused[0] if refused else "no sum")

    def _mixed(self, name: str, leader: MaliciousLeader, uploads: list[Received]) -> Outcome:
        if not leader.scratch.terms.masked:
            return Outcome(name, True, "leader", "", trained=True)
        start = leader.starts(uploads[0].round).body
        body = MaskRequest(
            model=start.model, keys=start.keys, uploads=tuple(one.raw for one in uploads)
        )
        receiver = Address(self.victim, "helper")
        answers, error = leader.told(leader.speak(receiver, body, number=uploads[0].round))
        gave = any(isinstance(one.body, MaskSum) for one in answers)
        return Outcome(name, gave, str(receiver), "" if gave else error, trained=True)

    def equivocated_cohorts(self) -> Outcome | None:
        """Half of the helpers are asked about the cohort without the victim; accepted if a sum opens."""
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
        opened = opens(transcript, self.victim)
        code = "" if opened else "no sum opens"
        return Outcome("equivocated-cohorts", opened, "helpers", code, trained=True)

    # --- sums ----------------------------------------------------------------------------------

    def dropout_game(self) -> tuple[Outcome, dict[str, float]]:
        """One round with the victim and one in which it is said to have dropped out."""
        scratch = self.federation(rounds=3)
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
        two = scratch.leader.chain.completed > 1 and self.victim not in transcript.closed[1].cohort
        by = "helpers" if scratch.terms.masked else "sites"
        if not two:
            codes = [
                m.body.code for m, _ in leader.seen if isinstance(m.body, Refusal | RoundAbort)
            ]
            code = codes[0] if codes else "no sum"
            return Outcome("dropout-game", False, by, code, trained=True), {}
        if not transcript.plan.private:
            return Outcome("dropout-game", True, by, "", trained=True), {}
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
            for one, _ in leader.seen:
                if isinstance(one.body, Refusal):
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


def opens(transcript: Transcript, victim: PartyName) -> bool:
    """Whether all answers are of one cohort, with or without the victim: then uploads less answers are a sum.

    An answer is of a cohort if it differs from its masks by what can be noise.
    """
    ring, plan, one = transcript.terms.ring, transcript.plan, transcript.rounds[0]
    names = [name for name, _ in one.helper_keys]
    most = tail(plan.share_variance(len(names))) if plan.private else 0
    if set(one.answers) != set(names):
        return False
    for left_out in ((), (victim,)):
        cohort = [name for name in one.uploads if name not in left_out]
        small = True
        for helper in names:
            masks = [transcript.masks(one, site, [helper])[0] for site in cohort]
            share = ring.sum(masks, len(masks[0]))
            ring.subtract_into(share, one.answers[helper])
            ring.reduce(share)
            small &= int(np.abs(ring.centred(share)).max()) <= most
        if small:
            return True
    return False


def _fresh_noise(transcript: Transcript) -> tuple[Outcome, dict[str, float]]:
    """Whether the two sums of a dropout game hold two independent noises of the planned variance."""
    noises = []
    for one in transcript.closed[:2]:
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
    names = {leader.victim, *site_names(99)[3:]}
    few = tuple(raw for raw in message.body.uploads if leader.opened(raw).sender.party in names)
    return leader.again(envelope, message, uploads=few)


def told_lies(
    stage: Stage, attempts: Sequence[Attempt] = ATTEMPTS, *, helpers: bool = True
) -> tuple[tuple[Outcome, ...], dict[str, Any]]:
    """All attempts of a column, and figures beside them.

    Args:
        stage: Where they are made.
        attempts: Single lies.
        helpers: Whether helpers are lied to; a leader that holds their keys need not.
    """
    told = [one for one in attempts if helpers or one.role == "client"]
    outcomes = [stage.single_contribution(), *stage.lies(told)]
    if not helpers:
        return tuple(outcomes), {}
    outcomes += stage.equivocated_models()
    found = stage.equivocated_cohorts()
    outcomes += [found] if found is not None else []
    game, figures = stage.dropout_game()
    outcomes.append(game)
    sybils = Attempt("sybils-of-one-operator", "helper", 2, sybil_cohort)
    outcomes += stage.lies((sybils,), sites=MANY, kind=Sybils)
    return tuple(outcomes), {"dropout_game": figures}
