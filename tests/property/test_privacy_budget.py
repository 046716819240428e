"""The budget against a model, over random histories with crashes."""

from __future__ import annotations

import contextlib
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tacit.errors import BudgetExhausted, LocalProtocolError, TransportError
from tacit.privacy.budget import Account, Budget, BudgetLimits, Limit
from tacit.testing.store import MemoryStore
from tacit.types import Milliseconds

RUNS = st.sampled_from(["a", "b", "c", "d"])
TENTHS = st.integers(0, 12)
TIMES = st.integers(-(10**6), 10**6).map(Milliseconds)
LIMIT, PURPOSE_LIMIT = 2.0, 1.5
LIMITS = BudgetLimits(Limit(LIMIT, 1.0), purposes={"narrow": PURPOSE_LIMIT})
ACCOUNTS = {
    "a": Account("here", "narrow", "record"),
    "b": Account("here", "wide", "record"),
    "c": Account("here", "narrow", "record"),
    "d": Account("there", "wide", "entity"),
}


def limit_of(population, purpose):
    return PURPOSE_LIMIT if purpose == "narrow" else LIMIT


class BudgetMachine(RuleBasedStateMachine):
    """Whatever is asked, charges never shrink, the limits hold, and the heads only grow."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.budget = Budget(self.store, LIMITS)
        self.other = Budget(self.store, LIMITS)
        self.charged: dict[str, Decimal] = {}
        self.reserved: dict[str, Decimal] = {}
        self.heads = self.budget.heads()

    def attempt(self, call) -> bool:
        try:
            call()
        except (BudgetExhausted, LocalProtocolError, TransportError):
            return False
        return True

    def held(self, population, purpose=""):
        """What counts against a limit."""
        return sum(
            self.reserved.get(name, amount)
            for name, amount in self.charged.items()
            if ACCOUNTS[name].population == population and purpose in ("", ACCOUNTS[name].purpose)
        )

    @rule(run=RUNS, tenths=TENTHS, now=TIMES)
    def reserve(self, run, tenths, now):
        known, account = run in self.charged, ACCOUNTS[run]
        wanted = Decimal(tenths) / 10
        population, purpose = account.population, account.purpose
        fits = self.held(population) + wanted <= Decimal(LIMIT)
        fits &= self.held(population, purpose) + wanted <= Decimal(limit_of(population, purpose))
        done = self.attempt(lambda: self.budget.reserve(run, account, tenths / 10, 0.01, now))
        if known:
            assert done == (self.reserved.get(run) == wanted)
        else:
            assert done == fits
        if done and not known:
            self.reserved[run], self.charged[run] = wanted, Decimal(0)

    @rule(run=RUNS, number=st.integers(1, 4), tenths=TENTHS, now=TIMES)
    def charge(self, run, number, tenths, now):
        if self.attempt(lambda: self.budget.charge(run, number, tenths / 10, now)):
            assert run in self.reserved
            assert Decimal(tenths) / 10 >= self.charged[run]
            self.charged[run] = Decimal(tenths) / 10

    @rule(run=RUNS, tenths=TENTHS, now=TIMES)
    def settle(self, run, tenths, now):
        if self.attempt(lambda: self.budget.settle(run, tenths / 10, now)):
            if run in self.reserved:
                del self.reserved[run]
                self.charged[run] = max(self.charged[run], Decimal(tenths) / 10)
            assert run in self.charged

    @rule(steps=st.integers(0, 3))
    def disk_will_fail(self, steps):
        probe = self.store.crash()
        probe.fail_after = steps
        failing = Budget(probe, LIMITS)
        for run in "abcd":
            self.attempt(lambda run=run: failing.charge(run, 5, 1.2, Milliseconds(0)))
        survived = Budget(probe.crash(), LIMITS).entries()
        assert {entry.run for entry in survived} == set(self.charged)
        for entry in survived:
            assert entry.charged >= self.charged[entry.run]

    @rule()
    def crash(self):
        self.store = self.store.crash()
        self.budget = Budget(self.store, LIMITS)
        self.other = Budget(self.store, LIMITS)

    @rule()
    def another_process_goes_on(self):
        """It has read what this one wrote, and this one shall read what it writes."""
        self.budget, self.other = self.other, self.budget

    @rule()
    def an_outer_transaction_fails(self):
        """What a site charges in a transaction that is undone was never charged."""
        with contextlib.suppress(TransportError), self.store.transaction():
            for run in "abcd":
                self.attempt(lambda run=run: self.budget.charge(run, 5, 1.2, Milliseconds(0)))
            raise TransportError("test.undone", "on purpose")

    @invariant()
    def counts(self):
        for population, purpose in (("here", ""), ("here", "narrow"), ("there", "")):
            spent = self.budget.spent(population, purpose)
            held = self.held(population, purpose)
            assert spent.epsilon + spent.reserved_epsilon == held
            assert held <= Decimal(limit_of(population, purpose))
        assert sum(entry.charged for entry in self.budget.entries()) == sum(self.charged.values())

    @invariant()
    def heads_continue(self):
        heads = self.budget.heads()
        assert heads.count == len(self.charged)
        assert heads.digests[: self.heads.count] == self.heads.digests
        self.heads = heads


BudgetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
test_budget_against_a_model = BudgetMachine.TestCase
