"""The budget: nothing is overspent, nothing is freed by a crash."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from tacit.errors import BudgetExhausted, LocalProtocolError, TransportError, VerificationError
from tacit.privacy.budget import Budget
from tacit.testing.store import MemoryStore

DELTA = 1e-5


def budget(store: MemoryStore | None = None, epsilon: float = 3.0, delta: float = 1e-4) -> Budget:
    return Budget(store or MemoryStore(), epsilon, delta)


def counted(b: Budget) -> Decimal:
    spent = b.spent()
    return spent.epsilon + spent.reserved_epsilon


def test_overspending_is_refused_with_spent_and_limit():
    b = budget()
    b.reserve("a", 2.0, DELTA)
    with pytest.raises(BudgetExhausted) as caught:
        b.reserve("b", 1.1, DELTA)
    details = caught.value.diagnostics()
    assert (details["spent"], details["limit"], details["requested"]) == ("2.0", "3.0", "1.1")
    assert [entry.run for entry in b.entries()] == ["a"]
    b.reserve("b", 1.0, DELTA)


def test_delta_is_limited_too():
    b = budget(delta=1.5e-5)
    b.reserve("a", 0.1, DELTA)
    with pytest.raises(BudgetExhausted, match="delta"):
        b.reserve("b", 0.1, DELTA)


def test_an_open_reservation_counts_in_full():
    b = budget()
    b.reserve("a", 2.0, DELTA)
    b.charge("a", 1, 0.25)
    spent = b.spent()
    assert (spent.epsilon, spent.reserved_epsilon) == (Decimal("0.25"), Decimal("1.75"))
    assert (spent.delta, spent.reserved_delta) == (Decimal("1e-5"), Decimal(0))
    with pytest.raises(BudgetExhausted):
        b.reserve("b", 1.5, DELTA)


def test_decimals_do_not_drift():
    b = budget(epsilon=0.3)
    for run in "abc":
        b.reserve(run, 0.1, DELTA)  # 0.1 + 0.1 + 0.1 > 0.3 in float64
    assert counted(b) == Decimal("0.3")


def test_a_repeated_charge_is_not_new():
    store = MemoryStore()
    b = budget(store)
    b.reserve("a", 1.0, DELTA)
    b.charge("a", 1, 0.2)
    commits = store.commits
    b.charge("a", 1, 0.2)
    b.reserve("a", 1.0, DELTA)
    assert store.commits == commits
    assert b.spent().epsilon == Decimal("0.2")


@pytest.mark.parametrize(("number", "amount"), [(2, 0.1), (2, 0.3), (1, 0.3), (3, 0.1)])
def test_charges_never_go_back(number, amount):
    b = budget()
    b.reserve("a", 1.0, DELTA)
    b.charge("a", 1, 0.1)
    b.charge("a", 2, 0.2)
    with pytest.raises(LocalProtocolError):
        b.charge("a", number, amount)
    assert b.spent().epsilon == Decimal("0.2")


def test_a_charge_needs_a_reservation_that_covers_it():
    b = budget()
    with pytest.raises(LocalProtocolError):
        b.charge("a", 1, 0.1)
    b.reserve("a", 1.0, DELTA)
    with pytest.raises(BudgetExhausted):
        b.charge("a", 1, 1.01)
    with pytest.raises(BudgetExhausted):
        b.settle("a", 1.01)
    with pytest.raises(ValueError, match="round"):
        b.charge("a", 0, 0.1)


def test_settling_frees_what_was_not_charged():
    b = budget()
    b.reserve("a", 2.0, DELTA)
    b.charge("a", 3, 0.5)
    b.settle("a", 0.5)
    b.settle("a", 0.5)
    assert counted(b) == Decimal("0.5")
    assert b.spent().delta == Decimal("1e-5")
    b.reserve("b", 2.5, DELTA)


def test_settling_never_goes_below_the_charges():
    b = budget()
    b.reserve("a", 2.0, DELTA)
    b.charge("a", 3, 0.5)
    b.settle("a", 0.0)
    assert counted(b) == Decimal("0.5")
    with pytest.raises(LocalProtocolError):
        b.settle("a", 0.6)


def test_an_unused_reservation_is_free_again_with_its_delta():
    b = budget()
    b.reserve("a", 3.0, 1e-4)
    b.settle("a", 0.0)
    assert (counted(b), b.spent().delta) == (0, 0)
    with pytest.raises(LocalProtocolError):
        b.reserve("a", 3.0, 1e-4)  # a run id is never used twice
    b.reserve("b", 3.0, 1e-4)


def test_another_reservation_of_the_same_run_is_refused():
    b = budget()
    b.reserve("a", 1.0, DELTA)
    with pytest.raises(LocalProtocolError):
        b.reserve("a", 0.5, DELTA)
    assert counted(b) == Decimal("1.0")


@pytest.mark.parametrize("amount", [-0.1, math.nan])
def test_nonsense_amounts_are_refused(amount):
    b = budget()
    b.reserve("a", 1.0, DELTA)
    for call in (
        lambda: b.reserve("b", amount, DELTA),
        lambda: b.reserve("b", 1.0, amount),
        lambda: b.charge("a", 1, amount),
        lambda: b.settle("a", amount),
        lambda: budget(epsilon=amount),
    ):
        with pytest.raises(ValueError, match="amount"):
            call()


def test_an_infinite_epsilon_is_covered_by_no_limit():
    with pytest.raises(BudgetExhausted):
        budget(epsilon=math.inf).reserve("a", math.inf, DELTA)


def test_every_crash_keeps_the_charge():
    """Whichever write fails: what a restarted site finds is before or after the step, never less."""
    script = (
        lambda b: b.reserve("a", 1.0, DELTA),
        lambda b: b.charge("a", 1, 0.2),
        lambda b: b.charge("a", 2, 0.4),
        lambda b: b.reserve("b", 1.0, DELTA),
        lambda b: b.settle("a", 0.4),
    )
    failures = 0
    for fail_after in range(20):
        store, charged, reserved = MemoryStore(fail_after=fail_after), Decimal(0), Decimal(0)
        b = budget(store)
        for step in script:
            try:
                step(b)
            except TransportError:
                failures += 1
                break
            charged, reserved = b.spent().epsilon, counted(b)
        survivor = budget(store.crash())
        assert survivor.spent().epsilon == charged
        assert counted(survivor) == reserved
    assert failures == 10


def test_a_surviving_reservation_still_blocks():
    store = MemoryStore()
    budget(store).reserve("a", 2.0, DELTA)
    with pytest.raises(BudgetExhausted):
        budget(store.crash()).reserve("b", 1.5, DELTA)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: b"",
        lambda value: b"[]",
        lambda value: value.replace(b'"1.0"', b'"0.0"'),
        lambda value: value.replace(b'"1.0"', b'"NaN"'),
        lambda value: value.replace(b'"run":"a"', b'"run":"b"'),
        lambda value: value.replace(b'"charged":"0.2"', b'"charged":"-1"'),
        lambda value: value.replace(b"}", b" }"),
        lambda value: value[:-1],
    ],
)
def test_a_damaged_entry_stops_everything(damage):
    store = MemoryStore()
    b = budget(store)
    b.reserve("a", 1.0, DELTA)
    b.charge("a", 1, 0.2)
    value = store.get("budget", "a")
    assert damage(value) != value
    with store.transaction():
        store.put("budget", "a", damage(value))
    for call in (b.spent, lambda: b.reserve("b", 0.1, DELTA), lambda: b.charge("a", 2, 0.3)):
        with pytest.raises(VerificationError):
            call()
