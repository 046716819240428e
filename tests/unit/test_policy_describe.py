from __future__ import annotations

from itertools import combinations

import pytest

from tacit.policy.describe import conditions, headline
from tacit.policy.diff import Change, Difference
from tacit.policy.domain import FRESH, Domain, Value
from tacit.policy.request import UNBOUNDED_EPSILON

NOON = 1_795_694_400_000  # 2026-11-26T12:00:00Z
NUMBERS: tuple[Value, ...] = (99, 100, 101, 500, 501)
PRICES: tuple[Value, ...] = (99, 100, 101, UNBOUNDED_EPSILON)
TIMES: tuple[Value, ...] = (NOON - 1, NOON, NOON + 1)
TEXTS: tuple[Value, ...] = ("care", "research", FRESH)
SETS: tuple[Value, ...] = tuple(
    frozenset(group) for size in (1, 2, 3) for group in combinations(("eu", "uk", FRESH), size)
)


def sets(*names: str) -> tuple[Value, ...]:
    return tuple(frozenset(name.split("+")) for name in names)


@pytest.mark.parametrize(
    ("kind", "domain", "values", "text"),
    [
        ("Long", NUMBERS, (99, 100), "100 and below"),
        ("Long", NUMBERS, (500, 501), "500 and above"),
        ("Long", NUMBERS, (101, 500), "101 to 500"),
        ("Long", NUMBERS, (101,), "101 to 499"),
        ("Long", NUMBERS, (100,), "100"),
        ("Long", NUMBERS, (99, 500, 501), "99 and below or 500 and above"),
        ("Long", PRICES, (UNBOUNDED_EPSILON,), "infinite"),
        ("Long", PRICES, PRICES[2:], "101 and above, or infinite"),
        ("Long", PRICES, PRICES[:-1], "finite"),
        ("Long", PRICES, PRICES[2:-1], "101 and above"),
        ("datetime", TIMES, (NOON, NOON + 1), "2026-11-26T12:00:00Z and above"),
        ("datetime", TIMES, (NOON - 1,), "2026-11-26T11:59:59.999Z and below"),
        ("Bool", (False, True, None), (True, None), "true or empty"),
        ("String", TEXTS, ("care", "research"), "care or research"),
        ("String", TEXTS, (FRESH,), "anything but care and research"),
        ("String", TEXTS, ("care", FRESH), "anything but research"),
        ("String", (f"a{FRESH}", FRESH), (f"a{FRESH}",), "a..."),
        ("Set<String>", SETS, sets("eu", "eu+uk", f"eu+{FRESH}", f"eu+uk+{FRESH}"), "with eu"),
        ("Set<String>", SETS, sets("uk", FRESH, f"uk+{FRESH}"), "without eu"),
        ("Set<String>", SETS, sets("eu", "uk", "eu+uk"), "only {eu, uk}"),
        ("Set<String>", SETS, sets("eu", "eu+uk"), "only {eu, uk}, with eu"),
        ("Set<String>", SETS, sets("eu", FRESH), "{eu} or {anything else}"),
    ],
)
def test_values_as_people_say_them(
    kind: str, domain: tuple[Value, ...], values: tuple[Value, ...], text: str
) -> None:
    name = "context.x"
    change = Change("train", True, {name: values}, (), ("a",), 1)
    found = Difference((change,), {"train": Domain({name: domain})}, 1)
    assert conditions(change, found, {name: kind}) == {"x": text}


def test_what_changes_is_said_first() -> None:
    run = Change("train", True, {}, (), ("a", "b"), 1)
    assert headline(run) == "a run: deny -> allow by 'a', 'b'"
    row = Change("read", False, {}, ("a",), ("b",), 1)
    assert headline(row) == "a row: kept by 'a' -> left out by 'b'"
