from __future__ import annotations

import random
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tacit.errors import ConfigError
from tacit.policy import Contract, Policy, Request
from tacit.policy.diff import Change, Difference, Version, compare
from tacit.policy.domain import FRESH
from tacit.policy.merge import merged
from tacit.policy.request import UNBOUNDED_EPSILON
from tacit.testing.policies import REQUEST, small_contract
from tacit.types import Milliseconds, PartyName

FILTERS = {"consent": "boolean", "age": "integer", "born": "date"}
RESEARCH = """
@id("research") permit(principal == Party::"coordinator", action == Action::"train", resource)
when { context.purpose == "research" && context.epsilon_milli <= 1000 };
"""
CONSENTED = """
@id("consented") permit(principal, action == Action::"read", resource)
when { resource.consent };
"""


def version(folder: Path, rules: str, *contracts: Contract, region: str = "eu") -> Version:
    folder.mkdir(exist_ok=True)
    (folder / "rules.cedar").write_text(rules)
    by_name = {contract.name: contract for contract in contracts}
    return Version(Policy.load(folder, contracts), by_name, region)


def difference(folder: Path, old: str, new: str, *contracts: Contract, **keys: Any) -> Difference:
    contracts = contracts or (small_contract(FILTERS),)
    return compare(
        version(folder / "old", old, *contracts), version(folder / "new", new, *contracts), **keys
    )


def only(found: Difference) -> Change:
    (change,) = found.changes
    return change


def test_the_same_policy_changes_nothing(tmp_path: Path) -> None:
    found = difference(tmp_path, RESEARCH + CONSENTED, CONSENTED + RESEARCH + "// A comment.\n")
    assert found.changes == ()
    assert found.requests > 10


def test_a_changed_constant_is_found_with_its_whole_range(tmp_path: Path) -> None:
    change = only(difference(tmp_path, RESEARCH, RESEARCH.replace("1000", "2000")))
    assert (change.action, change.allowed) == ("train", True)
    assert change.where == {
        "principal": ("coordinator",),
        "context.purpose": ("research",),
        "context.epsilon_milli": (1001, 2000),
    }
    assert (change.before, change.after) == ((), ("research",))


def test_a_renamed_purpose_is_two_changes(tmp_path: Path) -> None:
    found = difference(tmp_path, RESEARCH, RESEARCH.replace('"research" &&', '"care" &&'))
    assert {(c.allowed, c.where["context.purpose"]) for c in found.changes} == {
        (True, ("care",)),
        (False, ("research",)),
    }


def test_what_equals_no_constant_is_tried_as_well(tmp_path: Path) -> None:
    wider = RESEARCH.replace('context.purpose == "research"', 'context.purpose != "marketing"')
    change = only(difference(tmp_path, RESEARCH, wider))
    assert change.where["context.purpose"] == (FRESH,)


def test_attributes_compared_with_each_other_are_exact(tmp_path: Path) -> None:
    same = '@id("a") permit(principal, action == Action::"train", resource) when { %s };'
    contract = small_contract()
    found = difference(
        tmp_path,
        same % "true",
        same % "context.purpose == context.leader_region",
        contract,
    )
    assert found.changes
    assert not any(change.allowed for change in found.changes)
    found = difference(
        tmp_path,
        same % "context.leader_region == context.region",
        same % 'context.leader_region == "eu"',
        contract,
    )
    assert found.changes == (), "the site's region is given, and is eu"


def test_sets_of_regions_follow_from_their_parts(tmp_path: Path) -> None:
    rule = '@id("a") permit(principal, action == Action::"train", resource) when { %s };'
    found = difference(
        tmp_path,
        rule % '["eu"].containsAll(context.regions)',
        rule % 'context.leader_region == "eu" && ["eu"].containsAll(context.helper_regions)',
        small_contract(),
    )
    assert found.changes == ()


def test_a_change_of_a_contract_is_a_change(tmp_path: Path) -> None:
    rules = '@id("a") permit(principal, action == Action::"train", resource);'
    old = version(tmp_path / "old", rules, small_contract(allowed_regions=("eu", "uk")))
    new = version(tmp_path / "new", rules, small_contract(allowed_regions=("eu",)))
    found = compare(old, new, regions=["eu", "uk"])
    assert {change.after for change in found.changes} == {("tacit:regions",)}
    assert all(not change.allowed for change in found.changes)
    later = version(tmp_path / "later", rules, small_contract(retention=date(2030, 1, 1)))
    change = only(compare(version(tmp_path / "none", rules, small_contract()), later))
    assert change.after == ("tacit:retention",)
    gone = compare(old, version(tmp_path / "gone", rules, small_contract(name="others")))
    assert {(c.where["resource"], c.allowed) for c in gone.changes if c.action == "train"} == {
        (("records",), False),
        (("others",), True),
    }


def test_rows_that_are_decided_otherwise(tmp_path: Path) -> None:
    adults = CONSENTED.replace("resource.consent", "resource.consent && resource.age >= 18")
    change = only(difference(tmp_path, RESEARCH + CONSENTED, RESEARCH + adults))
    assert (change.action, change.allowed) == ("read", False)
    # A column that is read for the filter alone can be empty, whatever the contract says.
    assert change.where == {"resource.age": (17, None), "resource.consent": (True,)}


def test_empty_cells_are_tried_where_there_can_be_some(tmp_path: Path) -> None:
    column = {"name": "age", "logicalType": "integer", "classification": "sensitive"}
    contract = small_contract({"consent": "boolean"})
    optional = small_contract(
        {"consent": "boolean"},
        properties=[
            *[c.model_dump(by_alias=True, exclude_none=True) for c in contract.columns],
            {**column, "filter": True, "required": False},
        ],
    )
    with_age = CONSENTED.replace("resource.consent", "resource.consent && resource.age >= 0")
    change = next(
        change
        for change in difference(tmp_path, CONSENTED, with_age, optional).changes
        if None in change.where.get("resource.age", ())
    )
    assert not change.allowed


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("context.helpers * 2 > 7", r"'\*' within a comparison"),
        ("context.helpers > context.min_cohort", "compared with"),
        ("context.now.toDate() == context.now", "'toDate'"),
        ('context.purpose like "a*" || context.purpose like "*b"', "several patterns"),
    ],
)
def test_what_is_not_exact_is_refused(tmp_path: Path, condition: str, reason: str) -> None:
    rule = (
        f'@id("a") permit(principal, action == Action::"train", resource) when {{ {condition} }};'
    )
    with pytest.raises(ConfigError, match=reason) as caught:
        difference(tmp_path, RESEARCH, rule)
    assert caught.value.code == "policy.not-exact"


def test_one_pattern_is_exact(tmp_path: Path) -> None:
    rule = '@id("a") permit(principal, action == Action::"train", resource) when { %s };'
    found = difference(
        tmp_path,
        rule % 'context.purpose like "research-*"',
        rule % 'context.purpose == "research-1"',
        small_contract(),
    )
    change = only(found)
    assert not change.allowed
    assert change.where["context.purpose"] == (f"research-{FRESH}",)


def test_a_domain_that_is_too_large_says_where_to_split(tmp_path: Path) -> None:
    many = f"{list(range(0, 400, 3))}.contains(context.helpers)"
    more = f"{list(range(0, 400, 3))}.contains(context.min_cohort)"
    names = ", ".join(f'"{n}"' for n in range(40))
    rule = (
        f'permit(principal, action == Action::"train", resource) when {{ ({many}) && ({more}) '
        f"&& [{names}].contains(context.purpose) }};"
    )
    with pytest.raises(ConfigError) as caught:
        difference(tmp_path, rule, rule, small_contract())
    assert caught.value.code == "policy.diff-size"
    assert "--only helpers=VALUE" in caught.value.remedy
    part = {"context.helpers": (3, 4), "context.min_cohort": (6,)}
    assert difference(tmp_path, rule, rule, small_contract(), only=part).changes == ()


PARTS = [
    'context.purpose == "research"',
    '["research", "care"].contains(context.purpose)',
    "context.epsilon_milli < 1000",
    "context.epsilon_milli >= 500",
    "context.private",
    'context.unit == "entity"',
    'context.leader_region == "eu"',
    '["eu", "ch"].containsAll(context.helper_regions)',
    'context.regions.contains("us")',
    'context.aggregation == "plain"',
    "context.own_helper",
    'context.attestation == "tee"',
    "context.attestation_level >= 1",
    'context.now < datetime("2026-06-01")',
    'principal == Party::"coordinator"',
]


def random_rules(generator: random.Random) -> str:
    rules = []
    for number in range(generator.randint(1, 3)):
        parts = generator.sample(PARTS, generator.randint(1, 3))
        signed = [part if generator.random() < 0.7 else f"!({part})" for part in parts]
        effect = generator.choice(["permit", "permit", "forbid"])
        body = generator.choice([" && ", " || "]).join(signed)
        rules.append(
            f'@id("rule-{number}") {effect}(principal, action == Action::"train", resource) '
            f"when {{ {body} }};"
        )
    return "\n".join(rules)


def random_request(generator: random.Random) -> Request:
    values: dict[str, Any] = {
        "principal": PartyName(generator.choice(["coordinator", "stranger"])),
        "purpose": generator.choice(["research", "care", "marketing"]),
        "unit": generator.choice(["record", "entity", "none"]),
        "leader_region": generator.choice(["eu", "us", "ch"]),
        "helper_regions": frozenset(generator.sample(["eu", "us", "ch"], 2)),
        "aggregation": generator.choice(["masked", "plain"]),
        "own_helper": generator.random() < 0.5,
        "attestation": generator.choice(["none", "software", "tee"]),
        "now": Milliseconds(generator.choice([1_700_000_000_000, 1_800_000_000_000])),
    }
    price = generator.choice([0, 499, 500, 700, 999, 1000, 5000])
    values["epsilon_milli"] = UNBOUNDED_EPSILON if values["unit"] == "none" else price
    return Request(**{**{f: getattr(REQUEST, f) for f in REQUEST.__slots__}, **values})


def covers(found: Difference, change: Change, request: Request) -> bool:
    """Whether a request is among those that a change is about."""
    return all(
        standing_for(found.domains["train"].values[name], value(request, name)) in values
        for name, values in change.where.items()
    )


def value(request: Request, name: str) -> Any:
    return request.dataset if name == "resource" else getattr(request, name.rpartition(".")[2])


def standing_for(domain: tuple[Any, ...], value: Any) -> Any:
    """The value of the domain that no rule can tell from this one."""
    if value in domain:
        return value
    if isinstance(value, str):
        # Of a list of all possible values, one stands for those that no rule names.
        return next((item for item in domain if item[:1] == FRESH), domain[-1])
    return max((item for item in domain if item <= value), default=min(domain))


@pytest.mark.parametrize("seed", range(1, 9))
def test_every_changed_decision_is_found(tmp_path: Path, seed: int) -> None:
    """Random policies and requests: a decision changes if, and only if, a change speaks of it."""
    generator = random.Random(seed)
    versions = [
        version(tmp_path / name, random_rules(generator), small_contract()) for name in "ab"
    ]
    found = compare(*versions, regions=("ch", "eu", "us"))
    differing = 0
    for _ in range(60):
        request = random_request(generator)
        if "context.aggregation" not in found.domains["train"].values:
            request = replace(request, aggregation="masked")
        before, after = (one.policy.decide(request).allowed for one in versions)
        told = [change for change in found.changes if covers(found, change, request)]
        assert len(told) == (before != after), (request, told)
        assert all(change.allowed == after for change in told)
        differing += before != after
    if not found.changes:
        assert differing == 0


def test_points_are_merged_into_boxes_that_hold_nothing_else() -> None:
    points = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)]
    boxes = merged(points, [(2, 0)], [3, 2])
    (box,) = boxes
    assert box.sides == (frozenset({0, 1, 2}), frozenset({0, 1}))
    assert box.points == 5
    held = [
        (a, b) for box in merged(points, [], [3, 2]) for a in box.sides[0] for b in box.sides[1]
    ]
    assert sorted(held) == sorted(points)


def test_a_box_grows_over_points_that_cannot_be() -> None:
    """The free points are merged into a box of their own first, across the wanted ones' axis."""
    (box,) = merged([(0, 0)], [(0, 1), (1, 1), (2, 1)], [3, 2])
    assert box.sides == (frozenset({0}), frozenset({0, 1}))
    assert box.points == 1


@pytest.mark.parametrize(
    "condition",
    ["context.purpose == context.aggregation", "context.code == context.purpose"],
)
def test_attributes_with_few_values_are_compared_with_others(
    tmp_path: Path, condition: str
) -> None:
    """A purpose can be called `plain`, or `pinned`."""
    rule = '@id("{}") permit(principal, action == Action::"train", resource) {};'
    old = rule.format("all", "")
    found = difference(tmp_path, old, rule.format("some", f"unless {{ {condition} }}"))
    assert found.changes
    assert not any(change.allowed for change in found.changes)
    assert all("context.purpose" in change.where for change in found.changes)


def test_plain_runs_that_a_forbid_would_hide(tmp_path: Path) -> None:
    """As a decision: a permit that does not ask for the aggregation permits no plain run."""
    old = 'permit(principal, action == Action::"train", resource);'
    new = old + (
        'forbid(principal, action == Action::"train", resource) '
        'unless { ["masked", "plain"].contains(context.aggregation) };'
    )
    assert difference(tmp_path, old, new).changes == ()


def test_a_rule_may_have_any_name(tmp_path: Path) -> None:
    """Whatever a comparison calls its own permit for every row."""
    new = '@id("every row") forbid(principal, action == Action::"read", resource);'
    contract = small_contract({"age": "integer"})
    change = only(difference(tmp_path, RESEARCH, RESEARCH + new, contract))
    assert (change.allowed, change.before, change.after) == (False, (), ("every row",))


def test_times_before_the_year_1000_can_be_compared(tmp_path: Path) -> None:
    rule = 'permit(principal, action == Action::"train", resource) when {{ context.now > datetime("{}") }};'
    old, new = rule.format("0500-01-01"), rule.format("0600-01-01")
    assert len(difference(tmp_path, old, new).changes) == 1


def test_a_permit_to_attack_is_a_change(tmp_path: Path) -> None:
    old = 'permit(principal, action == Action::"train", resource);'
    inside = '@id("inside") permit(principal, action == Action::"attack", resource);'
    found = difference(tmp_path, old, f"{old}\n{inside}")
    assert {(c.action, c.allowed, c.after) for c in found.changes} == {
        ("attack", True, ("inside",))
    }
    # A permit that leaves the action open allows no attack: nothing changes.
    anything = "permit(principal, action, resource);"
    assert not any(c.action == "attack" for c in difference(tmp_path, old, anything).changes)
