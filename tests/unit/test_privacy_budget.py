"""The budget: nothing is overspent, nothing is freed by a crash."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from tacit.errors import BudgetExhausted, LocalProtocolError, TransportError, VerificationError
from tacit.privacy.budget import Account, Budget, BudgetLimits, Limit, Spent
from tacit.testing.store import MemoryStore
from tacit.types import Milliseconds

DELTA = 1e-5
NOW = Milliseconds(1_700_000_000_000)
PEOPLE = Account("everyone", "research", "record")


class Plain(Budget):
    """A budget of which tests use one account at one time, where they do not say otherwise."""

    def reserve(self, run, epsilon, delta=DELTA, account=PEOPLE, now=NOW):
        super().reserve(run, account, epsilon, delta, now)

    def charge(self, run, round_number, epsilon_so_far, now=NOW):
        super().charge(run, round_number, epsilon_so_far, now)

    def settle(self, run, epsilon_spent, now=NOW):
        super().settle(run, epsilon_spent, now)

    def spent(self, population="everyone", purpose="") -> Spent:
        return super().spent(population, purpose)


def budget(
    store: MemoryStore | None = None, epsilon: float = 3.0, delta: float = 1e-4, **limits
) -> Plain:
    return Plain(store or MemoryStore(), BudgetLimits(Limit(epsilon, delta), **limits))


def counted(b: Plain, *of: str) -> Decimal:
    spent = b.spent(*of)
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
    assert failures == 15  # two writes and a commit for each step


def test_a_surviving_reservation_still_blocks():
    store = MemoryStore()
    budget(store).reserve("a", 2.0, DELTA)
    with pytest.raises(BudgetExhausted):
        budget(store.crash()).reserve("b", 1.5, DELTA)


# --- populations, purposes, units -----------------------------------------------------------------

PATIENTS = Account("patients", "research", "record")
STAFF = Account("staff", "research", "record")


def test_every_population_has_a_budget_of_its_own():
    b = budget(populations={"staff": Limit(1.0, 1e-4)})
    b.reserve("a", 3.0, account=PATIENTS)
    with pytest.raises(BudgetExhausted) as caught:
        b.reserve("b", 0.1, account=PATIENTS)
    details = caught.value.diagnostics()
    assert (details["population"], details["purpose"]) == ("patients", "research")
    assert "'patients'" in caught.value.message
    assert "budget.epsilon in site.toml" in caught.value.remedy
    b.reserve("b", 1.0, account=STAFF)
    with pytest.raises(BudgetExhausted, match="staff") as caught:
        b.reserve("c", 0.1, account=STAFF)
    assert "budget.populations.staff.epsilon" in caught.value.remedy
    assert (counted(b, "patients"), counted(b, "staff"), counted(b)) == (3, 1, 0)


def test_data_sets_about_the_same_people_share_one_budget():
    """Whatever contract they come from: only the population counts."""
    b = budget(epsilon=1.0)
    b.reserve("images", 0.6, account=PATIENTS)
    with pytest.raises(BudgetExhausted):
        b.reserve("laboratory", 0.6, account=PATIENTS)


def test_a_purpose_has_its_limit_under_the_total():
    b = budget(purposes={"marketing": 0.5})
    marketing = Account("everyone", "marketing", "record")
    b.reserve("a", 0.4, account=marketing)
    with pytest.raises(BudgetExhausted) as caught:
        b.reserve("b", 0.2, account=marketing)
    details = caught.value.diagnostics()
    assert (details["purpose"], details["spent"], details["limit"]) == ("marketing", "0.4", "0.5")
    assert "budget.purposes.marketing" in caught.value.remedy
    b.reserve("b", 2.6)  # research has the total only, and takes all of it
    with pytest.raises(BudgetExhausted) as caught:
        b.reserve("c", 0.1, account=marketing)
    assert (caught.value.details["spent"], caught.value.details["limit"]) == ("3.0", "3.0")
    assert counted(b, "everyone", "marketing") == Decimal("0.4")
    assert b.spent("everyone", "marketing").epsilon_limit == Decimal("0.5")


def test_a_purpose_has_its_limit_in_every_population():
    b = budget(purposes={"research": 0.5})
    b.reserve("a", 0.5, account=PATIENTS)
    b.reserve("b", 0.5, account=STAFF)


def test_the_limit_of_a_purpose_holds_for_what_it_has_spent_too():
    b = budget(purposes={"research": 0.5})
    b.reserve("a", 0.5)
    b.charge("a", 1, 0.2)
    b.settle("a", 0.3)
    b.reserve("b", 0.2)
    with pytest.raises(BudgetExhausted):
        b.reserve("c", 0.1)


ENTITY = Account("everyone", "research", "entity")


@pytest.mark.parametrize("charged", [False, True])
@pytest.mark.parametrize("settled", [False, True])
def test_units_do_not_mix_in_one_population(charged, settled):
    b = budget()
    b.reserve("a", 0.5)
    if charged:
        b.charge("a", 1, 0.1)
    if settled:
        b.settle("a", 0.0)
    if settled and not charged:  # nothing was spent, nothing is held
        b.reserve("b", 0.5, account=ENTITY)
        return
    with pytest.raises(BudgetExhausted) as caught:
        b.reserve("b", 0.5, account=ENTITY)
    assert caught.value.code == "budget.unit"
    assert "do not add up" in caught.value.message
    assert "privacy.unit = 'record'" in caught.value.remedy
    b.reserve("b", 0.5, account=Account("patients", "research", "entity"))


def test_a_lowered_limit_leaves_nothing():
    store = MemoryStore()
    budget(store).reserve("a", 2.0)
    assert budget(store, epsilon=1.0).spent().epsilon_left == 0
    with pytest.raises(BudgetExhausted):
        budget(store, epsilon=1.0).reserve("b", 0.1)


def test_another_account_is_another_reservation():
    b = budget()
    b.reserve("a", 1.0)
    for account in (PATIENTS, ENTITY, Account("everyone", "marketing", "record")):
        with pytest.raises(LocalProtocolError):
            b.reserve("a", 1.0, account=account)


# --- time, history ---------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_changes_nothing():
    """The time is recorded and never read: neither what is spent nor what peers see follows from it."""
    b = budget()
    b.reserve("a", 1.0, now=NOW)
    b.charge("a", 1, 0.5, now=Milliseconds(0))
    b.settle("a", 0.5, now=Milliseconds(NOW - 10**9))
    with pytest.raises(LocalProtocolError):
        b.reserve("a", 1.0, now=NOW)
    before = b.heads()
    b.reserve("b", 1.0, now=Milliseconds(1))
    assert counted(b) == Decimal("1.5")
    assert b.heads().at(1) == before.at(1)
    assert b.heads().count == 2


def test_history_tells_what_was_left():
    b = budget()
    b.reserve("a", 1.0)
    b.charge("a", 1, 0.25)
    b.reserve("b", 0.5, account=PATIENTS)
    b.settle("a", 0.25)
    b.settle("b", 0.0)
    told = [
        (record.kind, record.run, record.account.population, record.epsilon, left)
        for record, left in b.history()
    ]
    assert told == [
        ("reserve", "a", "everyone", 1, 2),
        ("charge", "a", "everyone", Decimal("0.25"), 2),
        ("reserve", "b", "patients", Decimal("0.5"), Decimal("2.5")),
        ("settle", "a", "everyone", Decimal("0.25"), Decimal("2.75")),
        ("release", "b", "patients", 0, 3),
    ]
    assert {record.time for record, _ in b.history()} == {NOW}


# --- damage ----------------------------------------------------------------------------------------


def test_damage_stops_everything():
    store = MemoryStore()
    budget(store).reserve("a", 1.0)
    value = store.get("budget", "000000000000")
    with store.transaction():
        store.put("budget", "000000000000", value.replace(b'"1.0"', b'"0.1"'))
    b = budget(store)
    for call in (b.spent, b.heads, lambda: b.reserve("b", 0.1), lambda: b.charge("a", 2, 0.3)):
        with pytest.raises(VerificationError) as caught:
            call()
        assert caught.value.code == "budget.damaged"
        assert caught.value.remedy
