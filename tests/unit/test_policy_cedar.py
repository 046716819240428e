from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from tacit.errors import ConfigError, PolicyDenied
from tacit.policy import UNBOUNDED_EPSILON, Policy
from tacit.policy.request import ATTACK_PURPOSE
from tacit.testing.policies import REQUEST
from tacit.types import Milliseconds

REQUEST = replace(REQUEST, dataset="diagnosis", leader_region="uk")

RESEARCH = """
// The one purpose that the board has approved; a ";" in a comment ends nothing.
@id("research")
permit(principal == Party::"coordinator", action == Action::"train", resource == Dataset::"diagnosis")
when {
  context.purpose == "research" && context.epsilon_milli <= 1000
  && ["eu", "uk"].containsAll(context.regions) && context.own_helper
}
unless { context.aggregation == "plain" || !context.private };
"""


def load(folder: Path, **files: str) -> Policy:
    for name, text in files.items():
        (folder / f"{name}.cedar").write_text(text)
    return Policy.load(folder)


def test_default_deny_and_forbid_wins(tmp_path: Path) -> None:
    assert not load(tmp_path, empty="").decide(REQUEST).allowed
    assert load(tmp_path, a=RESEARCH).decide(REQUEST).allowed
    forbidding = load(tmp_path, b='@id("pause")\nforbid(principal, action, resource);')
    decision = forbidding.decide(REQUEST)
    assert not decision.allowed
    assert decision.rules == ("pause",)


def test_a_permit_is_named(tmp_path: Path) -> None:
    decision = load(tmp_path, a=RESEARCH).decide(REQUEST)
    assert decision.rules == ("research",)
    assert "a.cedar, line 3" in decision.explanation
    decision.require()


def test_a_forbid_without_id_is_named_by_its_place(tmp_path: Path) -> None:
    text = (
        RESEARCH + '\n\nforbid(principal, action, resource) when { context.purpose == "research" };'
    )
    line = text[: text.index("forbid")].count("\n") + 1
    with pytest.raises(PolicyDenied) as caught:
        load(tmp_path, a=text).decide(REQUEST).require()
    assert f"'a.cedar:{line}:1'" in str(caught.value)
    assert caught.value.details["rules"] == f"a.cedar:{line}:1"


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"epsilon_milli": 1500}, "context.epsilon_milli <= 1000 (context.epsilon_milli is 1500)"),
        ({"epsilon_milli": UNBOUNDED_EPSILON}, "context.epsilon_milli <= 1000"),
        (
            {"purpose": "marketing"},
            'context.purpose == "research" (context.purpose is "marketing")',
        ),
        (
            {"leader_region": "us"},
            '["eu", "uk"].containsAll(context.regions) (context.regions is ["eu", "us"])',
        ),
        ({"own_helper": False}, "context.own_helper (context.own_helper is false)"),
        (
            {"aggregation": "plain"},
            'unless { context.aggregation == "plain" } (context.aggregation is "plain")',
        ),
        ({"unit": "none"}, "unless { !context.private } (context.private is false)"),
        (
            {"principal": "stranger"},
            'principal == Party::"coordinator" (principal is Party::"stranger")',
        ),
        ({"dataset": "other"}, 'resource == Dataset::"diagnosis" (resource is Dataset::"other")'),
    ],
)
def test_a_default_deny_names_the_condition_that_failed(
    tmp_path: Path, change: dict[str, object], condition: str
) -> None:
    decision = load(tmp_path, a=RESEARCH).decide(replace(REQUEST, **change))
    assert not decision.allowed
    assert decision.rules == ()
    assert f"no permit matched; the nearest, 'research', failed on: {condition}" in (
        decision.explanation
    )
    assert ";" not in decision.explanation.split("failed on: ")[1], "only one condition failed"


def test_the_nearest_permit_is_the_one_with_fewest_failures(tmp_path: Path) -> None:
    near = '@id("near") permit(principal, action, resource) when { context.helpers >= 5 };'
    policy = load(tmp_path, a=RESEARCH, z=near)
    two_wrong = replace(REQUEST, purpose="marketing", epsilon_milli=2000)
    assert "the nearest, 'near', failed on: context.helpers >= 5" in (
        policy.decide(two_wrong).explanation
    )
    only_far = load(tmp_path, z="").decide(two_wrong).explanation
    assert 'context.purpose == "research"' in only_far
    assert "; context.epsilon_milli <= 1000" in only_far


def test_text_inside_a_literal_is_quoted_as_it_is(tmp_path: Path) -> None:
    text = 'permit(principal, action, resource) when { context.purpose == "(context.region); x" };'
    explanation = load(tmp_path, a=text).decide(REQUEST).explanation
    assert 'context.purpose == "(context.region); x"' in explanation


def test_a_disjunction_is_one_condition(tmp_path: Path) -> None:
    text = "permit(principal, action, resource) when { context.own_noise || context.helpers > 7 };"
    explanation = load(tmp_path, a=text).decide(REQUEST).explanation
    assert "context.own_noise || (context.helpers > 7)" in explanation


def test_a_rule_that_cannot_be_evaluated_denies(tmp_path: Path) -> None:
    overflow = """
    permit(principal, action, resource);
    forbid(principal, action, resource) when { context.epsilon_milli * 2 > 4000 };
    """
    policy = load(tmp_path, a=overflow)
    assert policy.decide(REQUEST).allowed
    decision = policy.decide(replace(REQUEST, epsilon_milli=UNBOUNDED_EPSILON))
    assert not decision.allowed
    assert "could not be evaluated" in decision.explanation


@pytest.mark.parametrize(
    "body",
    [
        "",
        'when { context.aggregation == "masked" || context.region == "eu" }',
        'unless { context.aggregation == "other" }',
        "when { context.aggregation == context.aggregation }",
    ],
)
def test_plain_needs_a_permit_that_asks_for_it(tmp_path: Path, body: str) -> None:
    anything = f"permit(principal, action, resource) {body};"
    plain = replace(REQUEST, aggregation="plain")
    decision = load(tmp_path, a=anything).decide(plain)
    assert load(tmp_path, a=anything).decide(REQUEST).allowed
    assert not decision.allowed
    assert 'asks for context.aggregation == "plain"' in decision.explanation
    assert "'a.cedar:1:1'" in decision.explanation
    # A forbid that an unknown aggregation meets must not hide that the permit asks for none.
    known = 'forbid(principal, action, resource) unless { ["masked", "plain"].contains(context.aggregation) };'
    policy = load(tmp_path, c=known)
    assert not policy.decide(plain).allowed
    assert policy.reasons(plain) == ()
    baseline = 'permit(principal, action, resource) when { context.aggregation == "plain" };'
    assert load(tmp_path, b=baseline).decide(plain).allowed


ALL = "permit(principal, action, resource);"


def test_an_attack_needs_a_permit_that_names_it(tmp_path: Path) -> None:
    attack = replace(REQUEST, action="attack", purpose=ATTACK_PURPOSE)
    for text in (ALL, 'permit(principal, action == Action::"train", resource);'):
        policy = load(tmp_path, a=text)
        assert policy.decide(REQUEST).allowed
        assert not policy.decide(attack).allowed
    inside = 'permit(principal, action == Action::"attack", resource) when { context.purpose == "attack" };'
    policy = load(tmp_path, a=ALL, b=inside)
    assert policy.decide(attack).rules == ("a.cedar:1:1", "b.cedar:1:1")
    assert not policy.decide(
        replace(attack, now=Milliseconds(2**45), retention=date(2020, 1, 1))
    ).allowed
    (tmp_path / "a.cedar").unlink()
    only = load(tmp_path)
    assert only.decide(attack).allowed
    assert not only.decide(REQUEST).allowed
    wrong = only.decide(replace(attack, purpose="research"))
    assert "the nearest, 'b.cedar:1:1'" in wrong.explanation


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({}, True),
        ({"allowed_regions": frozenset({"eu", "uk"})}, True),
        ({"allowed_regions": frozenset({"eu"})}, False),
        ({"allowed_regions": frozenset({"uk"})}, False),
        ({"allowed_regions": frozenset({"eu", "uk"}), "region": "us"}, False),
        ({"allowed_regions": frozenset({"eu", "uk"}), "leader_region": "us"}, False),
        (
            {"allowed_regions": frozenset({"eu", "uk"}), "helper_regions": frozenset({"eu", "us"})},
            False,
        ),
    ],
)
def test_no_policy_allows_other_regions(
    tmp_path: Path, change: dict[str, object], *, allowed: bool
) -> None:
    """The site is in eu, the leader in uk, all helpers in eu."""
    decision = load(tmp_path, a=ALL).decide(replace(REQUEST, **change))
    assert decision.allowed == allowed
    if not allowed:
        assert decision.rules == ("tacit:regions",)
        assert "'tacit:regions' (built in)" in decision.explanation


def test_a_built_in_name_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="built-in rule's"):
        load(tmp_path, a=f'@id("tacit:own") {ALL}')


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        ('context.attestation == "tee"', False),
        ("context.attestation_level >= 1", True),
        ('context.data_region == "ch"', True),
        ('context.lawful_basis == "consent"', True),
        ("context.public", True),
        ('context.unit == "entity"', True),
        ('context.now == datetime("2026-11-26T10:00:00Z")', True),
        ('context.retention == datetime("2030-01-01T23:59:59.999Z")', True),
        ('context.helper_regions.contains("eu")', True),
        ('context.leader_region == "uk"', True),
        ('context has purpose && context has "own_noise"', True),
    ],
)
def test_rules_speak_of_the_whole_request(tmp_path: Path, condition: str, *, held: bool) -> None:
    request = replace(
        REQUEST,
        attestation="software",
        data_region="ch",
        lawful_basis="consent",
        public=True,
        unit="entity",
        retention=date(2030, 1, 1),
    )
    rule = f"permit(principal, action, resource) when {{ {condition} }};"
    assert load(tmp_path, a=rule).decide(request).allowed == held


def test_a_denial_names_what_a_forbid_found(tmp_path: Path) -> None:
    text = (
        ALL
        + """
    @id("cautious")
    forbid(principal, action, resource)
    when { context.helpers < 2 || context.purpose == "research" }
    unless { context.region == "us" && context.own_noise };
    """
    )
    policy = load(tmp_path, a=text)
    explanation = policy.decide(REQUEST).explanation
    assert "forbidden by 'cautious' (a.cedar, line 2)" in explanation
    assert 'context.purpose == "research" (context.purpose is "research")' in explanation
    assert "unless { context.own_noise } (context.own_noise is false)" in explanation
    assert "context.helpers" not in explanation
    (reason,) = policy.reasons(REQUEST)
    assert (reason.rule, reason.effect, len(reason.conditions)) == ("cautious", "forbid", 3)


def test_a_permit_for_rows_is_no_nearest_permit(tmp_path: Path) -> None:
    read = '@id("rows") permit(principal, action == Action::"read", resource);'
    wrong = replace(REQUEST, purpose="marketing", epsilon_milli=2000)
    assert "'research'" in load(tmp_path, a=RESEARCH, b=read).decide(wrong).explanation


def test_a_rule_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    many = " || ".join(f"context.helpers == {number}" for number in range(300))
    with pytest.raises(ConfigError, match="nested too deeply") as caught:
        load(tmp_path, a=f"permit(principal, action, resource) when {{ {many} }};")
    assert caught.value.details["line"] == 1


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 1000 + "true" + ")" * 1000,
        "[" * 1000 + "]" * 1000 + " == []",
        "if true then " * 1000 + "true" + " else false" * 1000,
        " && ".join(["context.private"] * 20_000),
    ],
    ids=["brackets", "sets", "if", "and"],
)
def test_a_rule_that_would_crash_the_parser_is_refused(tmp_path: Path, condition: str) -> None:
    text = "permit(principal, action, resource);\n// ((((\n"
    with pytest.raises(ConfigError, match="nested too deeply") as caught:
        load(tmp_path, a=f"{text}permit(principal, action, resource) when {{ {condition} }};")
    assert caught.value.details["line"] == 3


def test_rules_get_every_attribute_that_they_ask_for(tmp_path: Path) -> None:
    """Wherever it stands: what is not passed is not there, and `has` would be false."""
    rule = "forbid(principal, action, resource) when {{ {} }};"
    for condition in (
        "{Value: context has purpose}.Value",
        '{Var: "context", x: context has purpose}.x',
        "(if true then context else context) has purpose",
    ):
        policy = load(tmp_path, a="permit(principal, action, resource);", b=rule.format(condition))
        assert not policy.decide(REQUEST).allowed, condition


def test_a_time_that_nobody_can_write_denies(tmp_path: Path) -> None:
    policy = load(tmp_path, a="permit(principal, action, resource);")
    assert policy.decide(replace(REQUEST, now=Milliseconds(-60_000_000_000_000))).allowed
    for now in (-(10**15), 10**18):
        assert not policy.decide(replace(REQUEST, now=Milliseconds(now))).allowed


def test_a_number_beyond_cedar_denies(tmp_path: Path) -> None:
    policy = load(tmp_path, a="permit(principal, action, resource);")
    assert policy.decide(REQUEST).allowed
    assert not policy.decide(replace(REQUEST, epsilon_milli=UNBOUNDED_EPSILON + 1)).allowed


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("permit(principal, action, resource) when { context.purpse == 1 };", "purpse"),
        ('permit(principal, action, resource) when { context.epsilon_milli == "1" };', "Long"),
        ("permit(principal, action, resource) when { context.private > 1 };", "Bool"),
        ("permit(principal, action, resource) when { !(context has purpse) };", "purpse"),
        ('permit(principal, action == Action::"trian", resource);', "trian"),
        ('permit(principal == Person::"x", action, resource);', "Person"),
        ("permit(principal, action, resource) when { context.purpose = 1 };", "operator"),
        ("permit(principal, action, resource)", "end of input"),
        ('permit(principal, action, resource) when { "open };', "token"),
        ("permit(principal == ?principal, action, resource);", "template"),
    ],
)
def test_a_wrong_rule_is_refused_with_file_and_line(tmp_path: Path, rule: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, rules=f"permit(principal, action, resource);\n// next\n\n{rule}")
    assert caught.value.details["line"] == 4
    assert "rules.cedar, rule at line 4" in str(caught.value)
    assert reason in str(caught.value)


def test_two_rules_may_not_share_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two rules have the @id 'research'"):
        load(tmp_path, a=RESEARCH, b=RESEARCH)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policies"):
        Policy.load(tmp_path / "policies")


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    digests = []
    for name, files in {
        "plain": {"a": "permit(principal,action,resource);forbid(principal,action,resource);"},
        "layout": {
            "a": "forbid(principal, action, resource); // no\n",
            "b": "permit(principal, action,\nresource);",
        },
        "other": {"a": "permit(principal,action,resource);"},
        "number": {
            "a": "permit(principal,action,resource) when {context.epsilon_milli < 9223372036854775807};"
        },
        "number-1": {
            "a": "permit(principal,action,resource) when {context.epsilon_milli < 9223372036854775806};"
        },
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        digests.append(load(folder, **files).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


@pytest.mark.parametrize("name", ["pause.cedar.txt", "pause.CEDAR", "notes"])
def test_a_rule_that_would_be_ignored_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.cedar").write_text("permit(principal, action, resource);")
    (tmp_path / name).write_text("forbid(principal, action, resource);")
    with pytest.raises(ConfigError) as error:
        Policy.load(tmp_path)
    assert error.value.code == "policy.stray"
