"""Deterministic simulation: one seed drives losses, repeats, disorder, damage and restarts.

Whatever happens, a run ends complete or with a typed reason, every published sum is exact over its
cohort, no helper answers twice in a round, no client uploads twice in one, and no budget goes back.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict

import numpy as np
import pytest

from tacit.algebra.ring import centred, ring_sum
from tacit.errors import DecodeError, RemoteProtocolError, RoundAborted, SignatureError, TacitError
from tacit.party import helper as helper_module
from tacit.party.workload import first_model_seed
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import (
    LEADER,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.wire.envelope import Envelope, open_message
from tacit.wire.messages import Accept, MaskSum, Upload

MAX_STEPS = 5_000
CHANGING = {"privacy": {"sampling_rate": 1.0}}
"""Noise is planned, so that cohorts may change, but the test replaces it by zeros."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("federations")
    for name, job in (("fixed", WITHOUT_NOISE), ("changing", CHANGING)):
        write_small_federation(base / name, job={**job, "rounds": 3})
    return base


@pytest.fixture(autouse=True)
def _no_noise(monkeypatch):
    monkeypatch.setattr(
        helper_module, "discrete_gaussian", lambda _v, size, _e: np.zeros(size, dtype=np.int64)
    )


class Simulation:
    """One run under faults; ``check`` raises at the first step that breaks a rule."""

    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.small = SmallFederation(folder, seed=seed)
        self.rates = {
            fault: self.random.choice([0.0, 0.01, 0.05])
            for fault in ("drop", "repeat", "corrupt", "restart", "reorder")
        }
        self.queue = []
        self.seen = defaultdict(set)
        self.spent = dict.fromkeys(SITES, 0)
        self.ended = None

    def run(self):
        self.queue += self.small.start()
        for _ in range(MAX_STEPS):
            leader = self.small.leader
            if leader.phase == "closed" or self.ended is not None:
                return
            if self.queue:
                self.step()
            else:
                self.queue += leader.tick(leader.deadline)
            self.check_budgets()
        raise AssertionError("the run never ended")

    def step(self):
        if self.happens("restart"):
            self.restart(self.random.choice((LEADER, *SITES)))
            if not self.queue:
                return
        at = self.random.randrange(len(self.queue)) if self.happens("reorder") else 0
        envelope = self.queue.pop(at)
        if self.happens("drop"):
            return
        if self.happens("repeat"):
            self.queue.insert(self.random.randrange(len(self.queue) + 1), envelope)
        if self.happens("corrupt"):
            envelope = self.corrupt(envelope)
        try:
            answers = self.small.party(envelope.receiver).receive(envelope, self.small.clock())
        except (DecodeError, SignatureError, RemoteProtocolError):
            return
        for answer in answers:
            self.check_sent(answer)
        self.queue += answers

    def happens(self, fault):
        return self.random.random() < self.rates[fault]

    def restart(self, name):
        self.small.restart(name)
        if name == LEADER:
            try:
                self.queue += self.small.leader.resume(self.small.clock())
            except RoundAborted as error:
                self.ended = error

    def corrupt(self, envelope):
        parts = [envelope.message, *envelope.chunks]
        which = self.random.randrange(len(parts))
        part = bytearray(parts[which])
        if part:
            part[self.random.randrange(len(part))] ^= 1 << self.random.randrange(8)
        parts[which] = bytes(part)
        return Envelope(envelope.receiver, parts[0], tuple(parts[1:]))

    # --- checkers ---

    def check_sent(self, envelope):
        message = self.small.read(envelope)
        if not isinstance(message.body, Upload | MaskSum):
            return
        digests = self.seen[message.sender, message.round]
        digests.add(message.digest)
        assert len(digests) == 1, f"{message.sender} spoke twice in round {message.round}"
        if isinstance(message.body, Upload) and self.small.terms.plan.unit == "record":
            (entry,) = self.small.sites[message.sender.party].budget.entries()
            assert entry.round_number >= message.round
            assert entry.charged > 0

    def check_budgets(self):
        for name, site in self.small.sites.items():
            spent = site.budget.spent().epsilon
            assert spent >= self.spent[name]
            self.spent[name] = spent

    def check_end(self):
        leader = self.small.leader
        if self.ended is not None:
            assert self.ended.code in ("run.not-begun", "run.closed")
            assert self.ended.remedy
            return
        complete = bool(leader.durable.number("complete"))
        assert complete or isinstance(leader.failure, TacitError)
        assert not complete or leader.chain.completed
        self.check_sums()
        self.check_logs()

    def check_sums(self):
        """Every published sum against the contributions of exactly its cohort."""
        small, items = self.small, self.small.leader.transcript.items()
        workload, plan = small.workload, small.terms.plan
        if small.leader.model is None:
            return
        accepts = [
            open_message(raw, small.roster.authenticate)
            for name, raw in items.items()
            if name.startswith("accept-")
        ]
        assert all(isinstance(accept.body, Accept) for accept in accepts)
        state = workload.first(first_model_seed([(a.sender.party, a.body.nonce) for a in accepts]))
        data = {
            name: workload.prepare(folder.sources["small"].read())
            for name, folder in small.folders.items()
        }
        for name in sorted(items):
            if not name.endswith("/aggregate.bin"):
                continue
            place = name.removesuffix("aggregate.bin") + "upload-"
            cohort = [n for n in SITES if f"{place}{n}.msg" in items]
            parts = [workload.contribution(state, data[n], plan, SeededEntropy(0)) for n in cohort]
            total = ring_sum(parts, small.terms.manifest.length)
            assert len(cohort) >= small.terms.manifest.min_cohort
            assert total.astype("<u4").tobytes() == items[name]
            state = workload.step(state, centred(total), plan)
        assert small.leader.model.digest == state.digest

    def check_logs(self):
        """No party's own log tells of two answers or two uploads in a round."""
        for name in SITES:
            log = self.small.sites[name].ports.log.events(self.small.terms.run_id)
            events = [json.loads(event) for _, event in log]
            for kind in ("mask-sum.answered", "upload.sent"):
                rounds = [event["round"] for event in events if event["type"] == kind]
                assert len(set(rounds)) == len(rounds)
                assert rounds == sorted(rounds)


def simulate(folders, seed):
    name = ("fixed", "changing")[seed % 2]
    simulation = Simulation(folders / name, seed)
    simulation.run()
    simulation.check_end()
    return simulation


@pytest.mark.parametrize("block", range(4))
def test_every_run_ends_and_every_sum_is_exact(folders, block):
    for seed in range(7 * block, 7 * block + 7):
        simulate(folders, seed)


@pytest.mark.slow
def test_five_hundred_runs(folders):
    endings = [simulate(folders, seed) for seed in range(1_000, 1_500)]
    completed = sum(bool(one.small.leader.durable.number("complete")) for one in endings)
    assert 100 < completed < 500  # the faults neither prevent every run nor do nothing


def test_a_seed_repeats_its_run(folders):
    first, second = simulate(folders, 3), simulate(folders, 3)
    assert first.seen == second.seen
    assert first.spent == second.spent


def test_without_faults_every_round_closes(folders):
    simulation = Simulation(folders / "changing", 0)
    simulation.rates = dict.fromkeys(simulation.rates, 0.0)
    simulation.run()
    simulation.check_end()
    assert simulation.small.leader.chain.completed == 3
