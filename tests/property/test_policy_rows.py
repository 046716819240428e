"""A row filter keeps exactly the rows that Cedar's own evaluation of all rules allows."""

from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import cedarpy
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.dataset as ds  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.config import parse_table
from tacit.connect.rows import expression
from tacit.policy import Contract, Policy, RowFilter
from tacit.policy.request import cedar_datetime
from tacit.policy.rules import policy_set
from tacit.testing.policies import REQUEST
from tacit.types import Milliseconds

DAYS = [date(2020, 1, 1), date(2021, 6, 30)]
CELLS = {
    "agrees": st.booleans(),
    "place of birth": st.sampled_from(["eu", "us", 'a"b*\\%_', "", "e\\u", "e\\\\u", "e\nu"]),
    "age": st.sampled_from([-1, 0, 40, 90]),
    "born": st.sampled_from(DAYS),
    "seen": st.sampled_from(
        [datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 6, 30, 12, 0, 0, 5000, UTC)]
    ),
}
TYPES = {
    "agrees": ("boolean", pa.bool_()),
    "place of birth": ("string", pa.string()),
    "age": ("integer", pa.int32()),
    "born": ("date", pa.date32()),
    "seen": ("timestamp", pa.timestamp("us", "UTC")),
}
PLACE = 'resource["place of birth"]'

TEXTS = st.sampled_from([PLACE, '"eu"', '"a\\"b*\\\\%_"', "context.region", '""'])
LONGS = st.sampled_from(["resource.age", "40", "-1", "context.helpers", "90"])
TIMES = st.sampled_from(
    [
        "resource.born",
        "resource.seen",
        "context.now",
        'datetime("2020-01-01")',
        'datetime("2021-06-30T12:00:00.005Z")',
        'datetime("2020-01-01T01:00:00+0100")',
    ]
)
COMPARISONS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
RELATIONS = st.one_of(
    st.builds("{} {} {}".format, TEXTS, st.sampled_from(["==", "!="]), TEXTS),
    st.builds("{} {} {}".format, LONGS, COMPARISONS, LONGS),
    st.builds("{} {} {}".format, TIMES, COMPARISONS, TIMES),
    st.builds('["eu", "us", {}].contains({})'.format, TEXTS, TEXTS),
    st.builds("[{}, 40].contains(resource.age)".format, st.sampled_from(["0", "-1"])),
    st.builds(
        "{} like {}".format,
        TEXTS,
        st.sampled_from(
            [
                '"e*"',
                '"*"',
                '"*u"',
                '"a*\\*\\\\%*"',
                '"%"',
                '"_u"',
                '"e\\\\u*"',
                '"*\\\\u"',
                '"e\\\\*"',
            ]
        ),
    ),
    st.sampled_from(
        [
            "resource.agrees",
            "context.private",
            "context.public",
            "resource has age",
            'resource has "place of birth"',
            'resource in Dataset::"records"',
            'resource in Dataset::"others"',
            'resource in [Dataset::"others", Dataset::"records"]',
            "resource is Row",
            'context.purpose == "research"',
            'context.purpose == "marketing"',
            "context.now < context.retention",
            'principal == Party::"coordinator"',
            'principal in Party::"coordinator"',
            'principal in [Party::"others", Party::"more"]',
            'action in [Action::"train", Action::"read"]',
        ]
    ),
)
BODIES = st.recursive(
    RELATIONS,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("(if {} then {} else {})".format, inner, inner, inner),
    ),
    max_leaves=5,
)
EFFECTS = st.sampled_from(["permit", "permit", "forbid"])
KINDS = st.sampled_from(["when", "when", "unless"])
RULE = "{}({}, {}, {}) {} {{ {} }};".format
WHO = st.sampled_from(
    [
        "principal",
        "principal",
        'principal in Party::"coordinator"',
        'principal is Party in Party::"others"',
    ]
)
RULES = st.one_of(
    *[
        st.builds(
            RULE,
            EFFECTS,
            WHO,
            st.just('action == Action::"read"'),
            st.sampled_from(
                [
                    "resource",
                    'resource in Dataset::"records"',
                    'resource is Row in Dataset::"records"',
                ]
            ),
            KINDS,
            BODIES,
        )
    ]
    * 4,
    st.builds(
        RULE,
        EFFECTS,
        WHO,
        st.sampled_from(["action", 'action == Action::"train"']),
        st.sampled_from(["resource", 'resource in Dataset::"records"']),
        KINDS,
        st.sampled_from(["context.private", "context.public", "context.helpers > 3"]),
    ),
)
ROWS = st.fixed_dictionaries({name: st.none() | cell for name, cell in CELLS.items()})


def contract(*, consent: bool) -> Contract:
    columns: list[dict[str, Any]] = [
        {"name": name, "logicalType": kind, "classification": "sensitive", "filter": True}
        for name, (kind, _) in TYPES.items()
    ]
    if consent:
        columns[0] = {**columns[0], "classification": "consent"}
    columns += [
        {
            "name": "sick",
            "logicalType": "boolean",
            "classification": "feature",
            "transform": {"method": "keep"},
        },
        {
            "name": "label",
            "logicalType": "string",
            "classification": "label",
            "transform": {"method": "keep"},
            "values": ["no", "yes"],
        },
    ]
    content = {
        "apiVersion": "v3.1.0",
        "name": "records",
        "server": {"type": "local", "path": "data.csv", "format": "csv"},
        "properties": columns,
    }
    return parse_table(content, Contract, "contract.toml")


CONTRACTS = {consent: contract(consent=consent) for consent in (True, False)}


def load(rules: list[str], ours: Contract) -> Policy:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rules.cedar").write_text("\n".join(rules))
        return Policy.load(Path(folder), [ours])


def allowed_by_cedar(policy: Policy, row: dict[str, Any], *, consent: bool) -> bool:
    """Full evaluation of every rule on the row, without anything of the code under test."""
    rules = {rule.name: rule.content for rule in policy.rules if consent or not rule.permits}
    if not consent:  # Then every row is permitted, and no permit decides anything.
        rules["base"] = {
            "effect": "permit",
            "principal": {"op": "All"},
            "action": {"op": "All"},
            "resource": {"op": "All"},
            "conditions": [],
        }
    attributes = {name: cedar(value) for name, value in row.items() if value is not None}
    entity = {
        "uid": {"type": "Row", "id": "1"},
        "attrs": attributes,
        "parents": [{"type": "Dataset", "id": "records"}],
    }
    request = {
        "principal": {"type": "Party", "id": "coordinator"},
        "action": {"type": "Action", "id": "read"},
        "resource": {"type": "Row", "id": "1"},
        "context": REQUEST.context(),
    }
    result = cedarpy.is_authorized(request, policy_set(rules), [entity])
    return result.allowed and not result.diagnostics.errors


def cedar(value: Any) -> Any:
    if isinstance(value, date):
        midnight = datetime(value.year, value.month, value.day, tzinfo=UTC)
        moment = value if isinstance(value, datetime) else midnight
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return cedar_datetime(Milliseconds(since // timedelta(milliseconds=1)))
    return value


def kept(found: RowFilter | None, row: dict[str, Any]) -> bool:
    return True if found is None else found.keeps(row)


@settings(max_examples=150, deadline=None)
@given(st.lists(RULES, max_size=4), st.lists(ROWS, min_size=1, max_size=6), st.booleans())
def test_a_filter_keeps_what_cedar_allows(
    rules: list[str], rows: list[dict[str, Any]], consent: bool
) -> None:
    policy = load(rules, CONTRACTS[consent])
    found = policy.rows(REQUEST, CONTRACTS[consent])
    for row in rows:
        assert kept(found, row) == allowed_by_cedar(policy, row, consent=consent), (found, row)


@settings(max_examples=100, deadline=None)
@given(st.lists(RULES, max_size=3), st.lists(ROWS, min_size=1, max_size=8), st.booleans())
def test_arrow_keeps_the_same_rows(
    rules: list[str], rows: list[dict[str, Any]], consent: bool
) -> None:
    found = load(rules, CONTRACTS[consent]).rows(REQUEST, CONTRACTS[consent])
    if found is None:
        return
    columns = {
        name: pa.array([row[name] for row in rows], kind) for name, (_, kind) in TYPES.items()
    }
    table = pa.table({"number": list(range(len(rows))), **columns})
    filtered = ds.dataset(table).to_table(filter=expression(found))["number"].to_pylist()
    assert filtered == [number for number, row in enumerate(rows) if found.keeps(row)]
    result = ds.dataset(table).to_table(columns={"kept": expression(found)})["kept"]
    assert result.null_count == 0


@settings(max_examples=60, deadline=None)
@given(RULES)
def test_the_text_of_a_filter_is_a_rule_that_makes_it_again(rule: str) -> None:
    """What people are shown is Cedar, and says what the filter does."""
    found = load([rule], CONTRACTS[True]).rows(REQUEST, CONTRACTS[True])
    if found is None or not found.permits:
        return
    shown = f'permit(principal, action == Action::"read", resource) when {{ {found.text} }};'
    again = load([shown], CONTRACTS[True]).rows(REQUEST, CONTRACTS[True])
    assert again is not None
    assert again.text == found.text
    assert again.digest == found.digest
