"""The budget against a model, over random histories with crashes."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tacit.errors import BudgetExhausted, LocalProtocolError, TransportError
from tacit.privacy.budget import Budget
from tacit.testing.store import MemoryStore

RUNS = st.sampled_from(["a", "b", "c", "d"])
TENTHS = st.integers(0, 12)
LIMIT = 2.0


class BudgetMachine(RuleBasedStateMachine):
    """Whatever is asked, charges never shrink, and the limit holds."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.budget = Budget(self.store, LIMIT, 1.0)
        self.charged: dict[str, Decimal] = {}
        self.reserved: dict[str, Decimal] = {}

    def attempt(self, call) -> bool:
        try:
            call()
        except (BudgetExhausted, LocalProtocolError, TransportError):
            return False
        return True

    @rule(run=RUNS, tenths=TENTHS)
    def reserve(self, run, tenths):
        known = run in self.charged
        total = sum(self.reserved.values()) + sum(
            amount for name, amount in self.charged.items() if name not in self.reserved
        )
        wanted = Decimal(tenths) / 10
        fits = total + wanted <= Decimal(LIMIT)
        done = self.attempt(lambda: self.budget.reserve(run, tenths / 10, 0.01))
        if known:
            assert done == (self.reserved.get(run) == wanted)
        else:
            assert done == fits
        if done and not known:
            self.reserved[run], self.charged[run] = wanted, Decimal(0)

    @rule(run=RUNS, number=st.integers(1, 4), tenths=TENTHS)
    def charge(self, run, number, tenths):
        if self.attempt(lambda: self.budget.charge(run, number, tenths / 10)):
            assert run in self.reserved
            assert Decimal(tenths) / 10 >= self.charged[run]
            self.charged[run] = Decimal(tenths) / 10

    @rule(run=RUNS, tenths=TENTHS)
    def settle(self, run, tenths):
        if self.attempt(lambda: self.budget.settle(run, tenths / 10)):
            if run in self.reserved:
                del self.reserved[run]
                self.charged[run] = max(self.charged[run], Decimal(tenths) / 10)
            assert run in self.charged

    @rule(steps=st.integers(0, 3))
    def disk_will_fail(self, steps):
        probe = self.store.crash()
        probe.fail_after = steps
        failing = Budget(probe, LIMIT, 1.0)
        for run in "abcd":
            self.attempt(lambda run=run: failing.charge(run, 5, 1.2))
        for entry in Budget(probe.crash(), LIMIT, 1.0).entries():
            assert entry.charged >= self.charged[entry.run]

    @rule()
    def crash(self):
        self.store = self.store.crash()
        self.budget = Budget(self.store, LIMIT, 1.0)

    @invariant()
    def counts(self):
        spent = self.budget.spent()
        assert spent.epsilon == sum(self.charged.values())
        assert spent.epsilon + spent.reserved_epsilon <= Decimal(LIMIT)
        open_amount = sum(self.reserved[run] - self.charged[run] for run in self.reserved)
        assert spent.reserved_epsilon == open_amount


BudgetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
test_budget_against_a_model = BudgetMachine.TestCase
