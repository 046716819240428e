from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tacit.errors import ConfigError, PolicyDenied
from tacit.policy import Policy, RowFilter
from tacit.policy.rows import Apply, Cell, Literal, parse_datetime
from tacit.testing.policies import REQUEST, small_contract
from tacit.types import PartyName

FILTERS = {
    "consent": "boolean",
    "age": "integer",
    "born": "date",
    "seen": "timestamp",
    "place of birth": "string",
    "ward": "string",
}
READ = '@id("read") permit(principal, action == Action::"read", resource) when {{ {} }};'


def rows(
    folder: Path, rules: str, filters: dict[str, str] | None = None, **request: Any
) -> RowFilter | None:
    contract = small_contract(FILTERS if filters is None else filters)
    (folder / "rules.cedar").write_text(rules)
    # A rule may speak of what only another data set of the site has.
    other = small_contract({**FILTERS, "elsewhere": "string"}, name="others")
    policy = Policy.load(folder, [contract, other])
    return policy.rows(replace(REQUEST, **request), contract)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("resource.consent", "resource.consent"),
        ("!resource.consent", "!resource.consent"),
        ("resource.age > 17 && resource.age <= 90", "resource.age > 17 && resource.age <= 90"),
        ('resource.ward like "a*\\*"', 'resource.ward like "a*\\*"'),
        (
            'resource["place of birth"] != context.purpose',
            'resource["place of birth"] != "research"',
        ),
        ("[3, 1].contains(resource.age)", "[1, 3].contains(resource.age)"),
        ("resource.born < context.now", 'resource.born < datetime("2026-11-26T10:00:00Z")'),
        (
            'resource.seen >= datetime("2020-01-01") || resource has ward',
            'resource.seen >= datetime("2020-01-01") || resource has ward',
        ),
        (
            "if resource.consent then resource.age > 1 else false",
            "if resource.consent then resource.age > 1 else false",
        ),
        ('context.purpose == "research" && resource.consent', "resource.consent"),
        ('resource in Dataset::"records" && resource.consent', "resource.consent"),
        ("resource is Row && resource.consent", "resource.consent"),
        ("!(resource.age >= 18)", "resource.age < 18"),
    ],
)
def test_only_what_depends_on_the_row_is_left(tmp_path: Path, condition: str, text: str) -> None:
    found = rows(tmp_path, READ.format(condition))
    assert found is not None
    assert found.text == text


def test_rows_need_a_permit_where_there_is_consent(tmp_path: Path) -> None:
    found = rows(tmp_path, "")
    assert found is not None
    assert found.keeps_none
    assert found.text == "false"
    assert rows(tmp_path, READ.format("true")) is None
    assert rows(tmp_path, "permit(principal, action, resource);") is None
    train = rows(tmp_path, 'permit(principal, action == Action::"train", resource);')
    assert train is not None
    assert train.keeps_none


def test_without_consent_only_forbids_count(tmp_path: Path) -> None:
    filters = {name: kind for name, kind in FILTERS.items() if name != "consent"}
    assert rows(tmp_path, "", filters) is None
    assert rows(tmp_path, READ.format("resource.age > 1"), filters) is None
    # A permit for the rows of another data set is none of a filter's business either.
    assert rows(tmp_path, READ.format('resource.elsewhere == "x"'), filters) is None
    forbid = 'forbid(principal, action == Action::"read", resource) when { resource.age < 18 };'
    found = rows(tmp_path, forbid, filters)
    assert found is not None
    assert found.text == "!(resource.age < 18)"
    assert found.columns == ("age",)
    assert [found.keeps({"age": age}) for age in (17, 18, None)] == [False, True, False]


def test_several_rules_are_one_filter(tmp_path: Path) -> None:
    more = READ.replace('"read")', '"more")', 1)
    forbid = 'forbid(principal, action, resource is Row in Dataset::"records") when {{ {} }};'
    found = rows(
        tmp_path,
        READ.format("resource.consent")
        + more.format("resource.age > 90")
        + forbid.format('resource.ward == "x"'),
    )
    assert found is not None
    assert found.text == '(resource.age > 90 || resource.consent) && !(resource.ward == "x")'
    assert found.columns == ("age", "consent", "ward")


def test_a_rule_for_another_data_set_is_left_out(tmp_path: Path) -> None:
    other = (
        'forbid(principal, action == Action::"read", resource in Dataset::"others") '
        'when { resource.elsewhere == "x" };'
    )
    found = rows(tmp_path, READ.format("resource.consent") + other)
    assert found is not None
    assert found.text == "resource.consent"


def test_a_column_that_the_data_set_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rows(tmp_path, READ.format('resource.elsewhere == "x"'))
    assert caught.value.code == "policy.row-column"
    assert "'read' (rules.cedar, line 1) speaks of resource.elsewhere" in caught.value.message


@pytest.mark.parametrize(
    ("condition", "what"),
    [
        ("resource.age + 1 > 3", "'+'"),
        ('resource.seen.offset(duration("1d")) > context.now', "'offset'"),
        ('["a"].containsAll([resource.ward])', "'containsAll'"),
        ('resource == Row::"1"', "whether the row is a certain one"),
    ],
)
def test_what_a_filter_cannot_do_is_refused(tmp_path: Path, condition: str, what: str) -> None:
    with pytest.raises(ConfigError, match="which a row filter cannot do") as caught:
        rows(tmp_path, READ.format(condition))
    assert caught.value.code == "policy.row-rule"
    assert what in caught.value.message


def test_a_rule_that_fails_lets_no_row_be_read(tmp_path: Path) -> None:
    rule = READ.format("resource.consent") + (
        'forbid(principal, action == Action::"read", resource) '
        "when { context.epsilon_milli * 4 > 10 && resource.consent };"
    )
    with pytest.raises(PolicyDenied, match="overflow"):
        rows(tmp_path, rule, epsilon_milli=2**62)
    with pytest.raises(PolicyDenied, match="cannot represent"):
        rows(tmp_path, rule, epsilon_milli=2**70)


@pytest.mark.parametrize("name", ['x" }', "x\\", "x\n"])
def test_a_name_that_would_be_read_as_a_rule_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PolicyDenied, match="characters"):
        rows(tmp_path, READ.format("resource.consent"), principal=PartyName(name))


def test_one_name_has_one_type(tmp_path: Path) -> None:
    contracts = [
        small_contract({"age": "integer"}),
        small_contract({"age": "string"}, name="others"),
    ]
    with pytest.raises(ConfigError, match="'age' is a Long for rules in contract 'records'"):
        Policy.load(tmp_path, contracts)


def test_a_mistyped_column_is_found_when_rules_are_read(tmp_path: Path) -> None:
    for condition, reason in (
        ("resource.consnt", "consnt"),
        ('resource.age == "x"', "Long"),
        ("resource.size > 1", "size"),
    ):
        with pytest.raises(ConfigError, match=reason):
            rows(tmp_path, READ.format(condition))


def test_a_filter_is_a_value(tmp_path: Path) -> None:
    found = rows(tmp_path, READ.format("resource.age > 1"))
    same = RowFilter((Apply(">", (Cell("age", "Long"), Literal(1))),), ())
    assert found == same
    assert found.digest == same.digest
    assert replace(same, forbids=same.permits).digest != same.digest
    assert RowFilter((), same.permits).digest != same.digest
    with pytest.raises(FrozenInstanceError):
        same.permits = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2020-01-31", datetime(2020, 1, 31, tzinfo=UTC)),
        ("2020-01-31T10:20:30Z", datetime(2020, 1, 31, 10, 20, 30, tzinfo=UTC)),
        ("2020-01-31T10:20:30.007Z", datetime(2020, 1, 31, 10, 20, 30, 7000, UTC)),
        ("2020-01-31T10:20:30+0130", datetime(2020, 1, 31, 8, 50, 30, tzinfo=UTC)),
        ("2020-01-31T10:20:30.5Z", None),
        ("2020-02-30", None),
        ("2020-01-31 10:20:30Z", None),
    ],
)
def test_a_datetime_is_that_of_cedar(text: str, moment: datetime | None) -> None:
    assert parse_datetime(text) == moment
