"""A site's lifetime privacy budget: reserved before a run, charged before every upload, settled after.

One budget for each population, with sub-limits for purposes under its total. Amounts are decimals, so
that sums are exact: a float stands for its shortest decimal text. An open reservation counts in full
until it is settled; a crash therefore never frees anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow

from tacit.errors import BudgetExhausted, LocalProtocolError
from tacit.privacy.journal import Account, Entry, Heads, Journal, Kind, Record
from tacit.types import Milliseconds, Store

__all__ = ["Account", "Budget", "BudgetLimits", "Entry", "Heads", "Limit", "Record", "Spent"]

ZERO = Decimal(0)

# Shortest decimal texts of floats above 1e-300 add up exactly within this; anything else is an error.
EXACT = Context(prec=700, traps=[Inexact, InvalidOperation, Overflow])


@dataclass(frozen=True, slots=True)
class Limit:
    """What all runs on one population may cost together."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The limits of a site.

    Args:
        total: Of every population.
        populations: Instead of ``total``, by population.
        purposes: Epsilon that runs of one purpose may cost, of every population and within its total;
            a purpose without an entry has the total only.
    """

    total: Limit
    populations: Mapping[str, Limit] = field(default_factory=dict)
    purposes: Mapping[str, float] = field(default_factory=dict)

    def of(self, population: str) -> Limit:
        """The limit of a population."""
        return self.populations.get(population, self.total)


@dataclass(frozen=True, slots=True)
class Spent:
    """The state of a budget. What counts against the limit is ``epsilon + reserved_epsilon``.

    Args:
        population: Whose.
        purpose: The runs of one purpose only; empty for all.
        epsilon: Charged or settled.
        delta: Charged or settled.
        reserved_epsilon: Held by open reservations beyond what they have charged.
        reserved_delta: Held by open reservations that have charged nothing.
        epsilon_limit: Lifetime limit, of the purpose if it has one, else of the population.
        delta_limit: Lifetime limit of the population.
    """

    population: str
    purpose: str
    epsilon: Decimal
    delta: Decimal
    reserved_epsilon: Decimal
    reserved_delta: Decimal
    epsilon_limit: Decimal
    delta_limit: Decimal

    @property
    def epsilon_left(self) -> Decimal:
        """What a new run may still reserve; 0 where a limit was lowered below what is spent."""
        used = _add(self.epsilon, self.reserved_epsilon)
        return max(ZERO, _less(self.epsilon_limit, used))


class Budget:
    """The budgets of one site, kept in its store as a journal.

    Args:
        store: Durable state; all writes happen in its transactions.
        limits: Lifetime limits; runs add up.

    Guarantee:
        What counts as spent never decreases but by settling a run, never below what that run charged,
        and never exceeds a limit through ``reserve``, whatever crashes in between and however many
        processes share the store. Checked by
        ``tests/property/test_privacy_budget.py::test_budget_against_a_model``,
        ``tests/unit/test_privacy_budget.py::test_every_crash_keeps_the_charge``,
        ``tests/e2e/test_budget_processes.py::test_two_processes_never_overspend`` and
        ``tests/e2e/test_budget_processes.py::test_a_killed_process_never_undercounts``.
        A rollback of the whole store is found by the peers, who remember ``heads``.

    Reference:
        Basic composition over runs: Dwork and Roth 2014, theorem 3.16.
    """

    def __init__(self, store: Store, limits: BudgetLimits) -> None:
        self._store = store
        self._journal = Journal(store)
        self.limits = limits
        for limit in (limits.total, *limits.populations.values()):
            _amount(limit.epsilon), _amount(limit.delta)
        for epsilon in limits.purposes.values():
            _amount(epsilon)

    def reserve(
        self, run: str, account: Account, epsilon: float, delta: float, now: Milliseconds
    ) -> None:
        """Sets the whole cost of a run aside. Repeating the same open reservation changes nothing.

        Raises:
            BudgetExhausted: A limit does not cover it, or the population's budget is spent in another
                unit; details hold population, purpose, spent, limit and requested.
            LocalProtocolError: The run has another reservation, or is settled.
            ValueError: An amount is negative or NaN.
        """
        wanted, wanted_delta = _amount(epsilon), _amount(delta)
        with self._store.transaction():
            entry = self.find(run)
            if entry is not None:
                if entry != Entry(
                    run, account, wanted, wanted_delta, entry.charged, entry.round_number
                ):
                    raise LocalProtocolError(
                        "budget.reserved", f"run {run} has another or a settled reservation"
                    )
                return
            self.check(account, epsilon, delta)
            self._journal.append(Record("reserve", run, account, wanted, wanted_delta, 0, now))

    def check(self, account: Account, epsilon: float, delta: float) -> None:
        """Whether a new run of this cost could be reserved; nothing is written.

        Raises:
            BudgetExhausted: A limit does not cover it, or the population's budget is spent in another
                unit.
            ValueError: An amount is negative or NaN.
        """
        wanted, wanted_delta = _amount(epsilon), _amount(delta)
        population, purpose = account.population, account.purpose
        self._require_unit(account)
        if purpose in self.limits.purposes:
            spent = self.spent(population, purpose)
            used = _add(spent.epsilon, spent.reserved_epsilon)
            key = f"budget.purposes.{purpose}"
            _require(account, "epsilon", used, wanted, spent.epsilon_limit, key)
        spent = self.spent(population)
        own = population in self.limits.populations
        table = f"budget.populations.{population}" if own else "budget"
        used = _add(spent.epsilon, spent.reserved_epsilon)
        _require(account, "epsilon", used, wanted, spent.epsilon_limit, f"{table}.epsilon")
        used = _add(spent.delta, spent.reserved_delta)
        _require(account, "delta", used, wanted_delta, spent.delta_limit, f"{table}.delta")

    def _require_unit(self, account: Account) -> None:
        for entry in self.entries():
            other = entry.account
            if other.population == account.population and other.unit != account.unit:
                if not entry.counts:
                    continue
                spent = self.spent(account.population)
                raise BudgetExhausted(
                    "budget.unit",
                    f"the budget of population '{account.population}' is spent by unit "
                    f"'{other.unit}' (run {entry.run[:12]}), the run asks for unit "
                    f"'{account.unit}': epsilons of different units do not add up",
                    remedy=f"set privacy.unit = '{other.unit}' in the job; only data about other "
                    "people are another population",
                    population=account.population,
                    purpose=account.purpose,
                    unit=other.unit,
                    requested=account.unit,
                    spent=str(spent.epsilon),
                    limit=str(spent.epsilon_limit),
                )

    def charge(self, run: str, round_number: int, epsilon_so_far: float, now: Milliseconds) -> None:
        """Records, before an upload leaves, that the run has cost ``epsilon_so_far`` in all.

        Repeating the last charge changes nothing: sending the same bytes again is not new.

        Args:
            run: Run id with an open reservation.
            round_number: At least 1; not below the last charged round.
            epsilon_so_far: Not below the last charge and not above the reservation.
            now: The time to record.

        Raises:
            BudgetExhausted: More than the run reserved.
            LocalProtocolError: No open reservation, a round that went by, or a shrinking cost.
            ValueError: The amount is negative or NaN, or the round number is below 1.
        """
        charged = _amount(epsilon_so_far)
        if round_number < 1:
            raise ValueError("the first round is 1")
        with self._store.transaction():
            entry = self._open(run)
            same_round = round_number == entry.round_number
            if same_round and charged == entry.charged:
                return
            if same_round or round_number < entry.round_number or charged < entry.charged:
                raise LocalProtocolError(
                    "budget.order", f"run {run}, round {round_number}: charges must not go back"
                )
            self._append("charge", entry, charged, round_number, now)

    def settle(self, run: str, epsilon_spent: float, now: Milliseconds) -> None:
        """Closes a reservation: what it did not charge is free again. Repeating changes nothing.

        Args:
            run: Run id.
            epsilon_spent: Final cost; the charges stand where they are higher.
            now: The time to record.

        Raises:
            BudgetExhausted: More than the run reserved.
            LocalProtocolError: No such reservation, or it was settled at less.
            ValueError: The amount is negative or NaN.
        """
        amount = _amount(epsilon_spent)
        with self._store.transaction():
            entry = self.find(run)
            if entry is not None and not entry.open and amount <= entry.charged:
                return
            entry = self._open(run)
            final = max(entry.charged, amount)
            kind: Kind = "settle" if final or entry.round_number else "release"
            self._append(kind, entry, final, entry.round_number, now)

    def spent(self, population: str, purpose: str = "") -> Spent:
        """What is spent, reserved and allowed of a population; with a purpose, by its runs only.

        Raises:
            VerificationError: The stored state is damaged.
        """
        epsilon = delta = reserved_epsilon = reserved_delta = ZERO
        for entry in self.entries():
            account = entry.account
            if account.population != population or purpose not in ("", account.purpose):
                continue
            epsilon, delta = _add(epsilon, entry.charged), _add(delta, entry.spent_delta)
            if entry.open:
                reserved_epsilon = _add(reserved_epsilon, _less(entry.epsilon, entry.charged))
                reserved_delta = _add(reserved_delta, _less(entry.delta, entry.spent_delta))
        limit = self.limits.of(population)
        own = self.limits.purposes.get(purpose, limit.epsilon) if purpose else limit.epsilon
        return Spent(
            population=population,
            purpose=purpose,
            epsilon=epsilon,
            delta=delta,
            reserved_epsilon=reserved_epsilon,
            reserved_delta=reserved_delta,
            epsilon_limit=_amount(own),
            delta_limit=_amount(limit.delta),
        )

    def entries(self) -> tuple[Entry, ...]:
        """One entry per run, in the order of their reservations.

        Raises:
            VerificationError: The stored state is damaged.
        """
        self._journal.refresh()
        return tuple(self._journal.entries.values())

    def find(self, run: str) -> Entry | None:
        """The entry of a run, or None.

        Raises:
            VerificationError: The stored state is damaged.
        """
        self._journal.refresh()
        return self._journal.entries.get(run)

    def heads(self) -> Heads:
        """What peers remember, so that this budget cannot go back unnoticed.

        Raises:
            VerificationError: The stored state is damaged.
        """
        self._journal.refresh()
        return self._journal.heads

    def history(self) -> Iterator[tuple[Record, Decimal]]:
        """Every record, with what its population had left after it, under the limits of today."""
        used: dict[str, Decimal] = {}
        held: dict[str, Decimal] = {}
        for record in self._journal.records():
            population = record.account.population
            if record.kind != "charge":  # An open reservation counts in full, whatever it charged.
                before = _less(used.get(population, ZERO), held.get(record.run, ZERO))
                used[population] = _add(before, record.epsilon)
                held[record.run] = record.epsilon
            limit = _amount(self.limits.of(population).epsilon)
            yield record, max(ZERO, _less(limit, used[population]))

    def _open(self, run: str) -> Entry:
        entry = self.find(run)
        if entry is None or not entry.open:
            raise LocalProtocolError("budget.not-reserved", f"run {run} has no open reservation")
        return entry

    def _append(
        self, kind: Kind, entry: Entry, epsilon: Decimal, round_number: int, now: Milliseconds
    ) -> None:
        """Records what an open reservation has cost, which must lie within it."""
        _require(entry.account, "epsilon", ZERO, epsilon, entry.epsilon, "")
        delta = entry.delta if epsilon or round_number else ZERO
        self._journal.append(
            Record(kind, entry.run, entry.account, epsilon, delta, round_number, now)
        )


def _require(
    account: Account, what: str, used: Decimal, wanted: Decimal, limit: Decimal, key: str
) -> None:
    """Refuses what goes beyond a limit; ``key`` is where the operator sets it, empty for a reservation."""
    if not wanted.is_infinite() and _add(used, wanted) <= limit:
        return
    whose = f"population '{account.population}', purpose '{account.purpose}'"
    raise BudgetExhausted(
        "budget.exhausted",
        f"privacy budget of {whose}: {what} {wanted} requested, {used} of {limit} "
        + (f"({key}) spent or reserved" if key else "reserved for the run spent"),
        remedy=f"ask for less {what}"
        + (f", or let the site's operator raise {key} in site.toml" if key else ""),
        population=account.population,
        purpose=account.purpose,
        quantity=what,
        spent=str(used),
        limit=str(limit),
        requested=str(wanted),
    )


def _amount(value: float) -> Decimal:
    number = Decimal(repr(float(value)))
    if number.is_nan() or number < 0:
        raise ValueError("a privacy amount must not be negative or NaN")
    return number


def _add(a: Decimal, b: Decimal) -> Decimal:
    return EXACT.add(a, b)


def _less(a: Decimal, b: Decimal) -> Decimal:
    return EXACT.subtract(a, b)
