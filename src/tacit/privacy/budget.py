"""A site's lifetime privacy budget: reserved before a run, charged before every upload, settled after.

Amounts are decimals, so that sums are exact: a float stands for its shortest decimal text. An open
reservation counts in full until it is settled; a crash therefore never frees anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

import rfc8785

from tacit.errors import BudgetExhausted, LocalProtocolError, VerificationError
from tacit.types import Store

__all__ = ["Budget", "Entry", "Spent"]

SPACE = "budget"
VERSION = 1
ZERO = Decimal(0)

# Shortest decimal texts of floats above 1e-300 add up exactly within this; anything else is an error.
EXACT = Context(prec=700, traps=[Inexact, InvalidOperation, Overflow])


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run reserved and spent.

    Args:
        run: Run id.
        epsilon: Reserved.
        delta: Reserved; spent in full by the first charge.
        charged: Epsilon charged so far; after settlement, what the run spent.
        round_number: Last charged round, 0 for none.
        open: Whether the reservation is still open.
    """

    run: str
    epsilon: Decimal
    delta: Decimal
    charged: Decimal
    round_number: int
    open: bool

    @property
    def spent_delta(self) -> Decimal:
        """Delta that outputs of the run may have used."""
        return self.delta if self.charged or self.round_number else ZERO


@dataclass(frozen=True, slots=True)
class Spent:
    """The state of a budget. What counts against the limit is ``epsilon + reserved_epsilon``.

    Args:
        epsilon: Charged or settled.
        delta: Charged or settled.
        reserved_epsilon: Held by open reservations beyond what they have charged.
        reserved_delta: Held by open reservations that have charged nothing.
        epsilon_limit: Lifetime limit.
        delta_limit: Lifetime limit.
    """

    epsilon: Decimal
    delta: Decimal
    reserved_epsilon: Decimal
    reserved_delta: Decimal
    epsilon_limit: Decimal
    delta_limit: Decimal


class Budget:
    """The budget of one site, kept in its store.

    Args:
        store: Durable state; all writes happen in its transactions.
        epsilon_limit: Lifetime epsilon; runs add up.
        delta_limit: Lifetime delta; runs add up.

    Guarantee:
        What counts as spent never decreases but by settling a run, never below what that run charged,
        and never exceeds the limits through ``reserve``, whatever crashes in between.
        Checked by ``tests/property/test_privacy_budget.py::test_budget_against_a_model`` and
        ``tests/unit/test_privacy_budget.py::test_every_crash_keeps_the_charge``.
        Not guaranteed: a rollback of the whole store by who administers its disk.

    Reference:
        Basic composition over runs: Dwork and Roth 2014, theorem 3.16.
    """

    def __init__(self, store: Store, epsilon_limit: float, delta_limit: float) -> None:
        self._store = store
        self._epsilon_limit = _amount(epsilon_limit)
        self._delta_limit = _amount(delta_limit)

    def reserve(self, run: str, epsilon: float, delta: float) -> None:
        """Sets the whole cost of a run aside. Repeating the same open reservation changes nothing.

        Raises:
            BudgetExhausted: The limits do not cover it; details hold spent, limit and requested.
            LocalProtocolError: The run has another reservation, or is settled.
            ValueError: An amount is negative or NaN.
        """
        wanted, wanted_delta = _amount(epsilon), _amount(delta)
        with self._store.transaction():
            entry = self._find(run)
            if entry is not None:
                if not entry.open or (entry.epsilon, entry.delta) != (wanted, wanted_delta):
                    raise LocalProtocolError(
                        "budget.reserved", f"run {run} has another or a settled reservation"
                    )
                return
            self.check(epsilon, delta)
            self._write(Entry(run, wanted, wanted_delta, ZERO, 0, open=True))

    def check(self, epsilon: float, delta: float) -> None:
        """Whether a new run of this cost could be reserved; nothing is written.

        Raises:
            BudgetExhausted: The limits do not cover it.
            ValueError: An amount is negative or NaN.
        """
        spent = self.spent()
        for what, used, wanted, limit in (
            ("epsilon", _add(spent.epsilon, spent.reserved_epsilon), epsilon, spent.epsilon_limit),
            ("delta", _add(spent.delta, spent.reserved_delta), delta, spent.delta_limit),
        ):
            _require(what, used, _amount(wanted), limit)

    def charge(self, run: str, round_number: int, epsilon_so_far: float) -> None:
        """Records, before an upload leaves, that the run has cost ``epsilon_so_far`` in all.

        Repeating the last charge changes nothing: sending the same bytes again is not new.

        Args:
            run: Run id with an open reservation.
            round_number: At least 1; not below the last charged round.
            epsilon_so_far: Not below the last charge and not above the reservation.

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
            _require("epsilon", ZERO, charged, entry.epsilon)
            self._write(Entry(run, entry.epsilon, entry.delta, charged, round_number, open=True))

    def settle(self, run: str, epsilon_spent: float) -> None:
        """Closes a reservation: what it did not charge is free again. Repeating changes nothing.

        Args:
            run: Run id.
            epsilon_spent: Final cost; the charges stand where they are higher.

        Raises:
            BudgetExhausted: More than the run reserved.
            LocalProtocolError: No such reservation, or it was settled at less.
            ValueError: The amount is negative or NaN.
        """
        amount = _amount(epsilon_spent)
        with self._store.transaction():
            entry = self._find(run)
            if entry is not None and not entry.open and amount <= entry.charged:
                return
            entry = self._open(run)
            _require("epsilon", ZERO, amount, entry.epsilon)
            final = max(entry.charged, amount)
            self._write(
                Entry(run, entry.epsilon, entry.delta, final, entry.round_number, open=False)
            )

    def spent(self) -> Spent:
        """What is spent, reserved and allowed.

        Raises:
            VerificationError: The stored state is damaged.
        """
        epsilon = delta = reserved_epsilon = reserved_delta = ZERO
        for entry in self.entries():
            epsilon, delta = _add(epsilon, entry.charged), _add(delta, entry.spent_delta)
            if entry.open:
                reserved_epsilon = _add(reserved_epsilon, _less(entry.epsilon, entry.charged))
                reserved_delta = _add(reserved_delta, _less(entry.delta, entry.spent_delta))
        return Spent(
            epsilon,
            delta,
            reserved_epsilon,
            reserved_delta,
            self._epsilon_limit,
            self._delta_limit,
        )

    def entries(self) -> tuple[Entry, ...]:
        """One entry per run, in the order of run ids.

        Raises:
            VerificationError: The stored state is damaged.
        """
        return tuple(_decode(run, value) for run, value in self._store.items(SPACE))

    def _find(self, run: str) -> Entry | None:
        value = self._store.get(SPACE, run)
        return None if value is None else _decode(run, value)

    def _open(self, run: str) -> Entry:
        entry = self._find(run)
        if entry is None or not entry.open:
            raise LocalProtocolError("budget.not-reserved", f"run {run} has no open reservation")
        return entry

    def _write(self, entry: Entry) -> None:
        self._store.put(SPACE, entry.run, _encode(entry))


def _require(what: str, spent: Decimal, requested: Decimal, limit: Decimal) -> None:
    if requested.is_infinite() or _add(spent, requested) > limit:
        raise BudgetExhausted(
            "budget.exhausted",
            f"privacy budget: {what} {requested} requested, {spent} of {limit} spent or reserved",
            remedy=f"ask for less {what}, or let the site's operator raise the limit in site.toml",
            quantity=what,
            spent=str(spent),
            limit=str(limit),
            requested=str(requested),
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


def _encode(entry: Entry) -> bytes:
    return rfc8785.dumps(
        {
            "version": VERSION,
            "run": entry.run,
            "epsilon": str(entry.epsilon),
            "delta": str(entry.delta),
            "charged": str(entry.charged),
            "round": entry.round_number,
            "open": entry.open,
        }
    )


def _decode(run: str, value: bytes) -> Entry:
    """Strict: a state that ``_encode`` did not write stops everything rather than count as unspent."""
    try:
        content: dict[str, Any] = json.loads(value)
        entry = Entry(
            run=content["run"],
            epsilon=Decimal(content["epsilon"]),
            delta=Decimal(content["delta"]),
            charged=Decimal(content["charged"]),
            round_number=content["round"],
            open=content["open"],
        )
        if entry.run == run and _encode(entry) == value and ZERO <= entry.charged <= entry.epsilon:
            return entry
    except (ValueError, KeyError, TypeError, ArithmeticError, rfc8785.CanonicalizationError):
        pass
    raise VerificationError(
        "budget.damaged",
        f"the budget entry of run {run} is damaged",
        remedy="retire this data's budget; an older copy of the state would forget what was spent",
    )
