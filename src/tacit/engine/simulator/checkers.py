"""The rules of ``masked``, each a named checker over everything that honest parties said.

A party that was restored from an old backup has broken its own promises; what the others promised,
and what follows from its erased keys, must hold all the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from tacit.engine.simulator.core import Simulation, Violation
from tacit.engine.simulator.oracle import keystream
from tacit.errors import TacitError
from tacit.ledger.log import log_origin
from tacit.ledger.note import open_cosigned
from tacit.secagg.masked import cohort_digest
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Received
from tacit.wire.messages import Aggregate, Finish, MaskSum, RoundStart, Upload, WitnessAnswer

__all__ = [
    "BudgetHeads",
    "Budgets",
    "CohortSize",
    "Ending",
    "FreshSeeds",
    "Logs",
    "MaskSumExact",
    "OneAnswer",
    "OneContext",
    "OneSumPerUpload",
    "OneUpload",
    "PersistedBeforeSent",
    "Progress",
    "RequiredHelpers",
    "Rule",
    "SumExact",
    "UploadExact",
    "Witnesses",
]


class Rule:
    """A checker that looks at nothing unless a method is overridden."""

    name = "rule"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """An honest party sent a message."""

    def acted(self, simulation: Simulation, party: PartyName) -> None:
        """An honest party has handled something."""

    def ended(self, simulation: Simulation) -> None:
        """The run is over."""

    def require(self, holds: bool, text: str) -> None:
        """Raises unless the rule holds.

        Raises:
            Violation: With this checker's name.
        """
        if not holds:
            raise Violation(self.name, text)


class OneUpload(Rule):
    """No client sends two different uploads for one round, nor one for an earlier round."""

    name = "one-upload"

    def __init__(self) -> None:
        self._seen: dict[tuple[PartyName, int], Digest] = {}
        self._last: dict[PartyName, int] = defaultdict(int)

    def sent(self, simulation: Simulation, message: Received) -> None:
        """The first upload of a round is the only one."""
        name = message.sender.party
        if not isinstance(message.body, Upload) or name in simulation.rolled_back:
            return
        first = self._seen.setdefault((name, message.round), message.digest)
        self.require(first == message.digest, f"{name} sent two uploads in round {message.round}")
        self.require(message.round >= self._last[name], f"{name} went back to {message.round}")
        self._last[name] = message.round


class OneAnswer(Rule):
    """No helper gives two different answers in one round."""

    name = "one-answer"

    def __init__(self) -> None:
        self._seen: dict[tuple[PartyName, int], Digest] = {}

    def sent(self, simulation: Simulation, message: Received) -> None:
        """The first answer of a round is the only one."""
        name = message.sender.party
        if not isinstance(message.body, MaskSum) or name in simulation.rolled_back:
            return
        first = self._seen.setdefault((name, message.round), message.digest)
        self.require(first == message.digest, f"{name} gave two answers in round {message.round}")


class OneSumPerUpload(Rule):
    """No upload is in two different answers of one helper, not even of one restored from a backup."""

    name = "one-sum-per-upload"

    def __init__(self) -> None:
        self._seen: dict[tuple[PartyName, Digest], Digest] = {}

    def sent(self, simulation: Simulation, message: Received) -> None:
        """Each upload of an answer was in no other answer."""
        answer = simulation.history.answers.get(message.digest)
        if answer is None:
            return
        for upload in answer.cohort:
            first = self._seen.setdefault((answer.helper, upload), message.digest)
            self.require(
                first == message.digest,
                f"{answer.helper} put one upload into two answers of round {answer.round}",
            )


class CohortSize(Rule):
    """No helper answers for fewer than ``min_cohort`` distinct operators, or for a stranger."""

    name = "cohort-size"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """Counts the operators of an answer."""
        answer = simulation.history.answers.get(message.digest)
        if answer is None:
            return
        manifest = simulation.cluster.terms.manifest
        uploads = simulation.history.uploads
        names = [uploads[digest].client for digest in answer.cohort]
        operators = simulation.cluster.roster.operators(names)
        self.require(
            len(operators) >= manifest.min_cohort and len(set(names)) == len(names),
            f"{answer.helper} answered for {names}, the least is {manifest.min_cohort} operators",
        )


class OneContext(Rule):
    """No sum mixes rounds, contexts or models."""

    name = "one-context"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """Compares what honest clients of one answer trained on."""
        answer = simulation.history.answers.get(message.digest)
        if answer is None:
            return
        uploads = [simulation.history.uploads[digest] for digest in answer.cohort]
        honest = [upload for upload in uploads if upload.genuine]
        self.require(
            {(u.body.context, u.round) for u in uploads} == {(answer.body.context, answer.round)},
            f"{answer.helper} mixed contexts in round {answer.round}",
        )
        self.require(
            len({upload.model for upload in honest}) <= 1,
            f"{answer.helper} mixed models in round {answer.round}",
        )


class UploadExact(Rule):
    """Under the masks of an honest upload lies what its client computed, to the bit."""

    name = "upload-exact"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """Takes the masks off by the oracle and looks for the result among the contributions."""
        if not isinstance(message.body, Upload):
            return
        upload, fields = simulation.history.uploads[message.digest], simulation.history.fields
        inner = upload.inner
        self.require(
            inner is not None
            and any(
                party == upload.client and fields.equal(vector, inner)
                for party, vector in simulation.vault.contributions
            ),
            f"under the masks of {upload.client} is not what it computed",
        )


class MaskSumExact(Rule):
    """An honest answer is the sum of the masks of its cohort minus one noise share, to the bit."""

    name = "mask-sum-exact"

    def __init__(self) -> None:
        self._seen: set[Digest] = set()

    def sent(self, simulation: Simulation, message: Received) -> None:
        """Adds the masks up again, by the oracle."""
        answer = simulation.history.answers.get(message.digest)
        if answer is None or answer.digest in self._seen:
            return
        self._seen.add(answer.digest)
        history = simulation.history
        self.require(
            answer.body.cohort == cohort_digest(answer.cohort),
            f"{answer.helper} signed another cohort than it was asked about",
        )
        total = np.zeros(history.fields.length, dtype=np.int64)
        for digest in answer.cohort:
            streams = {mask.helper: mask.stream for mask in history.uploads[digest].masks}
            stream = streams.get(answer.helper, b"")
            if not stream:
                self.require(
                    not history.uploads[digest].genuine,
                    f"{answer.helper} answered without a seed of {history.uploads[digest].client}",
                )
                return
            total += keystream(stream, history.fields)
        total -= simulation.vault.share
        self.require(
            history.fields.equal(total, answer.vector),
            f"the answer of {answer.helper} in round {answer.round} is not its cohort's mask sum",
        )


class SumExact(Rule):
    """A published sum is the sum of what exactly its cohort contributed, and one share per helper."""

    name = "sum-exact"

    def __init__(self) -> None:
        self._seen: set[tuple[int, bytes]] = set()

    def sent(self, simulation: Simulation, message: Received) -> None:
        """Looks at every aggregate when an honest leader first publishes it."""
        if not isinstance(message.body, RoundStart | Finish) or message.body.previous is None:
            return
        aggregate: Aggregate = message.body.previous
        key = (aggregate.round, b"".join(aggregate.vector.digests))
        if key in self._seen or self._lies(simulation):
            return
        self._seen.add(key)
        self._check(simulation, aggregate, message.chunks)

    def _lies(self, simulation: Simulation) -> bool:
        """A corrupt helper can shift the sum: that is not promised, and named in the threat model."""
        return simulation.intruder is not None and simulation.intruder.shifted

    def _check(self, simulation: Simulation, aggregate: Aggregate, chunks: Sequence[bytes]) -> None:
        history, manifest = simulation.history, simulation.cluster.terms.manifest
        members = [Digest(member.upload) for member in aggregate.cohort]
        names = [PartyName(member.client) for member in aggregate.cohort]
        self.require(
            len(simulation.cluster.roster.operators(names)) >= manifest.min_cohort,
            f"the aggregate of round {aggregate.round} has too few operators",
        )
        total = np.zeros(history.fields.length, dtype=np.int64)
        total += len(aggregate.answers) * simulation.vault.share
        for digest in members:
            upload = history.uploads.get(digest)
            self.require(upload is not None, "the aggregate names an upload that nobody sent")
            assert upload is not None
            if upload.inner is None:
                return
            total += upload.inner
        vector = history.fields.read(b"".join(chunks))
        self.require(
            history.fields.equal(total, vector),
            f"the aggregate of round {aggregate.round} is not the sum over its cohort",
        )


class FreshSeeds(Rule):
    """No mask seed is used twice, and no keystream either."""

    name = "fresh-seeds"

    def ended(self, simulation: Simulation) -> None:
        """Compares the seeds of all uploads of honest clients."""
        seeds: dict[bytes, str] = {}
        for upload in simulation.history.uploads.values():
            if not upload.genuine:
                continue
            for mask in upload.masks:
                place = f"{upload.client}, round {upload.round}, helper {mask.helper}"
                other = seeds.setdefault(mask.seed, place)
                self.require(
                    other == place or not mask.seed, f"one seed for two masks: {other}; {place}"
                )
            self.require(
                len({mask.seed for mask in upload.masks}) == len(upload.masks),
                f"{upload.client} used a seed twice in round {upload.round}",
            )


class PersistedBeforeSent(Rule):
    """What must never be computed twice lies on the disk before it leaves."""

    name = "persisted-before-sent"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """An upload or answer that leaves is found in the committed state of its sender."""
        if not isinstance(message.body, Upload | MaskSum):
            return
        dump = simulation.cluster.stores[message.sender.party].dump()
        self.require(
            any(message.raw in value for value in dump),
            f"{message.sender} sent what it had not stored in round {message.round}",
        )


class RequiredHelpers(Rule):
    """No site uploads in a round without the helpers that it insists on, or without enough of them."""

    name = "required-helpers"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """The seeds of an upload name its helpers."""
        terms = simulation.cluster.terms
        if not isinstance(message.body, Upload) or not terms.masked:
            return
        name = message.sender.party
        present = {PartyName(seed.helper) for seed in message.body.seeds}
        self.require(
            simulation.cluster.required(name) <= present,
            f"{name} uploaded with the helpers {sorted(present)} only",
        )
        operators = simulation.cluster.roster.operators(present)
        self.require(
            len(operators) >= terms.plan.min_helpers,
            f"{name} uploaded with {len(operators)} helpers, the plan needs more",
        )


class Budgets(Rule):
    """What a site has spent never decreases, and every upload was charged before it left."""

    name = "budget"

    def __init__(self) -> None:
        self._spent: dict[PartyName, Decimal] = defaultdict(Decimal)
        self._raw: dict[PartyName, tuple[tuple[str, bytes], ...]] = {}

    def acted(self, simulation: Simulation, party: PartyName) -> None:
        """Compares with the last look; a site rolled back by its own administrator is not covered."""
        site = simulation.cluster.sites.get(party)
        if site is None or party in simulation.rolled_back:
            return
        raw = tuple(site.ports.store.items("budget"))
        if raw == self._raw.get(party):
            return
        self._raw[party] = raw
        spent = sum((entry.charged for entry in site.budget.entries()), Decimal(0))
        self.require(spent >= self._spent[party], f"the budget of {party} went back")
        self._spent[party] = spent

    def sent(self, simulation: Simulation, message: Received) -> None:
        """The charge of an upload's round is committed."""
        terms = simulation.cluster.terms
        if not isinstance(message.body, Upload) or terms.plan.unit == "none":
            return
        site = simulation.cluster.sites[message.sender.party]
        entry = site.budget.find(terms.run_id)
        self.require(
            entry is not None
            and entry.round_number >= message.round
            and 0 < entry.charged <= entry.epsilon,
            f"{message.sender} sent an upload of round {message.round} that it had not charged",
        )


class BudgetHeads(Rule):
    """Nobody uploads beside a site that began with an older state of its budget than it had shown."""

    name = "budget-heads"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """A party that was itself put back has forgotten what it knew, and is not covered."""
        restored = simulation.cluster.restored
        party = message.sender.party
        if not isinstance(message.body, Upload) or party in restored | simulation.rolled_back:
            return
        self.require(
            not restored, f"{party} uploaded beside {sorted(restored)}, whose budget went back"
        )


class Ending(Rule):
    """A run ends complete, with a model, or with a typed reason and a remedy."""

    name = "ending"

    def ended(self, simulation: Simulation) -> None:
        """Looks at how the leader closed, and at the model that the sites derived."""
        leader = simulation.cluster.leader
        if simulation.ended is not None:
            self.require(bool(simulation.ended.remedy), "an end without a remedy")
            return
        complete = bool(leader.durable.number("complete"))
        if complete:
            self.require(leader.chain.completed > 0, "complete without a single aggregate")
            return
        self.require(
            isinstance(leader.failure, TacitError) and bool(leader.failure.code),
            f"the run failed without a typed reason: {leader.failure!r}",
        )


class Logs(Rule):
    """No party's own log tells of two answers or two uploads in a round, or of rounds going back."""

    name = "log"

    def ended(self, simulation: Simulation) -> None:
        """Reads the log of every honest site."""
        for name in simulation.honest_sites:
            if name in simulation.rolled_back:
                continue
            log = simulation.cluster.sites[name].ports.log
            told: dict[str, list[int]] = {"mask-sum.answered": [], "upload.sent": []}
            for _, event in log.events(simulation.cluster.terms.run_id):
                record = json.loads(event)
                if record["type"] in told:
                    told[record["type"]].append(record["round"])
            for kind, rounds in told.items():
                self.require(
                    rounds == sorted(set(rounds)), f"the log of {name} tells of {kind} in {rounds}"
                )


class Witnesses(Rule):
    """No honest log is called rewritten, no witness cosigns backwards, and cosignatures verify."""

    name = "witness"

    def __init__(self) -> None:
        self._sizes: dict[tuple[PartyName, str], int] = {}

    def sent(self, simulation: Simulation, message: Received) -> None:
        """What a witness cosigns of a log never gets smaller."""
        witness = message.sender.party
        if not isinstance(message.body, WitnessAnswer) or witness in simulation.rolled_back:
            return
        for one in message.body.cosigned:
            if one.line:
                before = self._sizes.get((witness, one.log), 0)
                self._sizes[witness, one.log] = one.size
                self.require(
                    before <= one.size,
                    f"{witness} cosigned {one.size} leaves of {one.log} after {before}",
                )

    def ended(self, simulation: Simulation) -> None:
        """Reads every honest log, and what an honest leader has kept."""
        cluster = simulation.cluster
        excused = {*simulation.corrupt, *simulation.rolled_back, *cluster.restored}
        honest = [cluster.sites[name] for name in simulation.honest_sites]
        parties = honest if simulation.leader in excused else [*honest, cluster.leader]
        for party in parties:
            events = [json.loads(event) for _, event in party.ports.log.events()]
            if any(
                event.get("run", cluster.terms.run_id) != cluster.terms.run_id for event in events
            ):
                continue  # A replay of another federation's run: there all logs were others.
            for record in events:
                named = record.get("log") if record["type"] == "witness.refused" else None
                self.require(
                    named is None or named in excused or bool(cluster.restored),
                    f"{party.address} calls the log of {named} {record.get('code')}",
                )
        if simulation.leader not in excused:
            self._check_kept(simulation, excused)

    def _check_kept(self, simulation: Simulation, excused: set[PartyName]) -> None:
        roster, items = simulation.cluster.roster, simulation.cluster.leader.transcript.items()
        keys = {log_origin(roster.federation, one.name): one.key for one in roster.members}
        for name, note in items.items():
            owner = PartyName(name.removeprefix("checkpoint-"))
            if name.startswith("checkpoint-") and owner not in excused:
                origin = log_origin(roster.federation, owner)
                _, _, unknown = open_cosigned(note, (origin, keys[origin]), keys)
                self.require(not unknown, f"strangers cosigned the log of {owner}")


class Progress(Rule):
    """Where nothing goes wrong, every round closes."""

    name = "progress"

    def ended(self, simulation: Simulation) -> None:
        """A quiet run completes all its rounds."""
        undisturbed = simulation.faults.none and simulation.intruder is None
        if not undisturbed or simulation.cluster.restored:
            return
        leader, rounds = simulation.cluster.leader, simulation.cluster.terms.manifest.rounds
        self.require(
            bool(leader.durable.number("complete")) and leader.chain.completed == rounds,
            f"{leader.chain.completed} of {rounds} rounds closed; {leader.failure!r}",
        )
