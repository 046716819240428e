"""Whether a site takes part: Cedar rules over one typed request. Default deny; forbid beats permit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy
import rfc8785

from tacit.errors import ConfigError, PolicyDenied
from tacit.files import read_limited
from tacit.policy.conditions import Condition, conditions
from tacit.types import Digest, PartyName

__all__ = ["SCHEMA", "UNBOUNDED_EPSILON", "Decision", "Policy", "Request"]

UNBOUNDED_EPSILON = 9223372036854775807
"""``epsilon_milli`` of a run without differential privacy: above every limit."""

SCHEMA = """\
entity Party;
entity Dataset;
action train appliesTo {
  principal: [Party],
  resource: [Dataset],
  context: {
    purpose: String,
    region: String,
    regions: Set<String>,
    aggregation: String,
    epsilon_milli: Long,
    private: Bool,
    helpers: Long,
    max_colluding: Long,
    min_cohort: Long,
    own_helper: Bool,
    own_noise: Bool,
    code: String,
    attestation: String,
  },
};
"""
"""The Cedar schema that every rule is checked against; attributes as in ``Request``."""

_FILE_LIMIT = 1024 * 1024
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;', re.DOTALL)
_BLANK = re.compile(r"(?:\s+|//[^\n]*)*")
_ENTITIES = "[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a leader asks of a site, in terms that rules can speak about.

    Args:
        principal: The leader; ``Party::"NAME"`` in Cedar.
        dataset: The contract's name; ``Dataset::"NAME"`` in Cedar.
        purpose: The job's purpose.
        region: The site's own region.
        regions: Regions of the leader and of all helpers.
        aggregation: ``masked`` or ``plain``.
        epsilon_milli: Price of the run in thousandths, rounded up; ``UNBOUNDED_EPSILON`` without privacy.
        private: Whether the run has a unit of privacy.
        helpers: Number of helpers.
        max_colluding: How many helpers may collude without loss.
        min_cohort: Smallest number of contributions in a sum.
        own_helper: Whether this site is one of the helpers.
        own_noise: Whether each helper adds the full noise.
        code: ``pinned`` when a digest names the training code, else ``not pinned``.
        attestation: Level of attestation of leader and helpers.
    """

    principal: PartyName
    dataset: str
    purpose: str
    region: str
    regions: frozenset[str]
    aggregation: str
    epsilon_milli: int
    private: bool
    helpers: int
    max_colluding: int
    min_cohort: int
    own_helper: bool
    own_noise: bool
    code: str
    attestation: str = "none"

    def context(self) -> dict[str, str | int | bool | list[str]]:
        """The Cedar context."""
        return {
            "purpose": self.purpose,
            "region": self.region,
            "regions": sorted(self.regions),
            "aggregation": self.aggregation,
            "epsilon_milli": self.epsilon_milli,
            "private": self.private,
            "helpers": self.helpers,
            "max_colluding": self.max_colluding,
            "min_cohort": self.min_cohort,
            "own_helper": self.own_helper,
            "own_noise": self.own_noise,
            "code": self.code,
            "attestation": self.attestation,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one request.

    Args:
        allowed: Whether the site takes part.
        rules: Names of the rules that decided: the permits, or the forbids. Empty if none matched.
        explanation: Why, for people at the site.
    """

    allowed: bool
    rules: tuple[str, ...]
    explanation: str

    def require(self) -> None:
        """Does nothing if allowed.

        Raises:
            PolicyDenied: Says which rule forbids it, or what the nearest permit asks for.
        """
        if not self.allowed:
            raise PolicyDenied(
                "policy.denied",
                f"the site's policy does not allow this run: {self.explanation}",
                remedy="change the job, or ask the site's operator to change the policy",
                rules=", ".join(self.rules),
            )


@dataclass(frozen=True, slots=True)
class _Rule:
    """One Cedar statement, with the place that a person finds it at."""

    name: str
    place: str
    content: dict[str, Any]

    @property
    def permits(self) -> bool:
        return bool(self.content["effect"] == "permit")


class Policy:
    """All rules of one site, parsed and checked once.

    Guarantee:
        Whatever a leader offers, a request is allowed only if at least one permit matches, no forbid
        matches and every rule could be evaluated; plain aggregation only by a permit that speaks of
        ``context.aggregation``.
        Checked by tests/unit/test_policy_cedar.py::test_default_deny_and_forbid_wins,
        tests/unit/test_policy_cedar.py::test_a_rule_that_cannot_be_evaluated_denies and
        tests/unit/test_policy_cedar.py::test_plain_needs_a_permit_that_asks_for_it.

    Reference:
        Cedar policy language, "Authorization" (default deny, forbid overrides permit).
    """

    def __init__(self, rules: tuple[_Rule, ...]) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._set = _policy_set({rule.name: rule.content for rule in rules})
        self._conditions: dict[str, tuple[str, Condition]] = {
            f"{rule.name} {index}": (rule.name, condition)
            for rule in rules
            if rule.permits
            for index, condition in enumerate(conditions(rule.content))
        }
        self._condition_set = _policy_set(
            {key: condition.content for key, (_, condition) in self._conditions.items()}
        )

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """Reads every ``*.cedar`` file of a folder. A folder without a permit denies everything.

        Raises:
            ConfigError: Missing folder, or a rule that does not parse, does not fit the schema, is a
                template or takes another rule's @id; names file and line.
        """
        if not folder.is_dir():
            raise ConfigError(
                "policy.folder",
                f"{folder}: there is no such policy folder",
                remedy="create it and write at least one permit into a *.cedar file",
                file=str(folder),
            )
        rules: dict[str, _Rule] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix != ".cedar" or not path.is_file():
                raise ConfigError(
                    "policy.stray",
                    f"{path} is not a *.cedar file, so its rules would be ignored",
                    remedy="rename it to NAME.cedar, or move it out of the policy folder",
                    file=str(path),
                )
            for rule in _rules(path):
                if rule.name in rules:
                    raise ConfigError(
                        "policy.duplicate",
                        f"{folder}: two rules have the @id '{rule.name}': {rules[rule.name].place} "
                        f"and {rule.place}",
                        remedy="give each rule its own @id",
                        file=str(path),
                    )
                rules[rule.name] = rule
        return cls(tuple(rules.values()))

    @property
    def digest(self) -> Digest:
        """SHA-256 of the rules' content and the schema, whatever their layout, order and comments."""
        contents = sorted(
            rfc8785.dumps(_integers_as_text(rule.content)).decode() for rule in self._rules.values()
        )
        record: dict[str, Any] = {"version": 1, "schema": SCHEMA, "rules": contents}
        return Digest(hashlib.sha256(rfc8785.dumps(record)).digest())

    def decide(self, request: Request) -> Decision:
        """Allows or denies, and says why."""
        result = _evaluate(self._set, request)
        if result is None:
            return Decision(False, (), "the request has a value that Cedar cannot represent")
        rules = tuple(sorted(result.diagnostics.reasons))
        if result.diagnostics.errors:
            reason = "; ".join(result.diagnostics.errors)
            return Decision(False, (), f"a rule could not be evaluated: {reason}")
        if (
            result.allowed
            and request.aggregation == "plain"
            and not self._names_plain(request, rules)
        ):
            reason = 'plain aggregation needs a permit that asks for context.aggregation == "plain"'
            return Decision(False, (), f"{reason}, unlike {self._named(rules)}")
        if result.allowed:
            return Decision(True, rules, f"permitted by {self._named(rules)}")
        if rules:
            return Decision(False, rules, f"forbidden by {self._named(rules)}")
        return Decision(False, (), self._nearest(request))

    def _names_plain(self, request: Request, permits: tuple[str, ...]) -> bool:
        """Whether one of the permits is for this aggregation: an invented one must not match it."""
        invented = dataclasses.replace(request, aggregation="some other aggregation")
        result = _evaluate(self._set, invented)
        return result is not None and bool(set(permits) - set(result.diagnostics.reasons))

    def _named(self, rules: tuple[str, ...]) -> str:
        return ", ".join(f"'{name}' ({self._rules[name].place})" for name in rules)

    def _nearest(self, request: Request) -> str:
        """Names the permit with the fewest failing conditions, and those conditions."""
        result = _evaluate(self._condition_set, request)
        met = set(result.diagnostics.reasons) if result else set()
        failing: dict[str, list[Condition]] = {}
        for key, (name, condition) in self._conditions.items():
            if key not in met:
                failing.setdefault(name, []).append(condition)
        if not failing:
            return "no permit matched, for the policy holds none"
        name = min(failing, key=lambda item: len(failing[item]))
        context = request.context()
        facts = {
            "principal": f'Party::"{request.principal}"',
            "action": 'Action::"train"',
            "resource": f'Dataset::"{request.dataset}"',
            **{f"context.{key}": json.dumps(value) for key, value in context.items()},
        }
        if request.epsilon_milli == UNBOUNDED_EPSILON:
            facts["context.epsilon_milli"] = "infinite, without differential privacy"
        failed = "; ".join(condition.describe(facts) for condition in failing[name])
        place = self._rules[name].place
        return f"no permit matched; the nearest, '{name}', failed on: {failed} [{place}]"


def _evaluate(policies: cedarpy.PolicySet, request: Request) -> cedarpy.AuthzResult | None:
    try:
        return cedarpy.is_authorized(
            {
                "principal": {"type": "Party", "id": request.principal},
                "action": {"type": "Action", "id": "train"},
                "resource": {"type": "Dataset", "id": request.dataset},
                "context": request.context(),
            },
            policies,
            _ENTITIES,
            _PARSED_SCHEMA,
        )
    except ValueError:
        return None


def _policy_set(rules: dict[str, dict[str, Any]]) -> cedarpy.PolicySet:
    record = {"staticPolicies": rules, "templates": {}, "templateLinks": []}
    return cedarpy.PolicySet.from_json_str(json.dumps(record))


def _rules(path: Path) -> Iterator[_Rule]:
    """The statements of one file, each parsed and checked against the schema on its own."""
    try:
        text = read_limited(path, _FILE_LIMIT).decode()
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise _rule_error(path, line, "the file is not UTF-8") from error
    for line, position, statement in _statements(text):
        try:
            record = json.loads(cedarpy.policies_to_json_str(statement))
        except ValueError as error:
            raise _rule_error(path, line, str(error)) from error
        if len(record["staticPolicies"]) != 1:
            raise _rule_error(path, line, "a template (?principal, ?resource) is not a rule")
        checked = cedarpy.validate_policies(statement, _PARSED_SCHEMA)
        if not checked.validation_passed:
            reason = checked.errors[0].error.removeprefix("for policy `policy0`, ")
            raise _rule_error(path, line, reason)
        (content,) = record["staticPolicies"].values()
        place = f"{path.name}, line {line}"
        name = content.get("annotations", {}).get("id") or f"{path.name}:{line}:{position}"
        yield _Rule(name, place, content)


def _statements(text: str) -> Iterator[tuple[int, int, str]]:
    """Each statement after the line and the column, both from 1, at which it starts."""
    start = 0
    ends = [match.end() for match in _TOKEN.finditer(text) if match.group() == ";"]
    for end in [*ends, len(text)]:
        blank = _BLANK.match(text, start)
        begin = blank.end() if blank else start
        if begin < end:
            line_start = text.rfind("\n", 0, begin) + 1
            yield 1 + text.count("\n", 0, begin), 1 + begin - line_start, text[begin:end]
        start = end


def _rule_error(path: Path, line: int, reason: str) -> ConfigError:
    return ConfigError(
        "policy.rule",
        f"{path}, rule at line {line}: {reason}",
        remedy=f"correct the rule; context has {_ATTRIBUTES}",
        file=str(path),
        line=line,
    )


def _integers_as_text(value: Any) -> Any:
    """Cedar's integers have 64 bits, more than canonical JSON can carry."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"integer": str(value)}
    if isinstance(value, dict):
        return {key: _integers_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integers_as_text(item) for item in value]
    return value


_PARSED_SCHEMA = cedarpy.Schema.from_str(SCHEMA)
_ATTRIBUTES = ", ".join(re.findall(r"^    (\w+):", SCHEMA, re.MULTILINE))
