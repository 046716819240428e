"""Whether a site takes part, and with which rows: Cedar rules over one typed request.

Default deny; forbid beats permit; a rule that cannot be evaluated denies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy
import rfc8785

from tacit.errors import ConfigError, PolicyDenied
from tacit.policy.conditions import Condition, alternatives, conditions
from tacit.policy.contract import Contract
from tacit.policy.permission import Permission, build_permission
from tacit.policy.request import (
    SCHEMA,
    UNBOUNDED_EPSILON,
    Request,
    integers_as_text,
    row_attributes,
    schema_text,
)
from tacit.policy.rows import RowFilter, row_filter
from tacit.policy.rules import (
    Rule,
    built_in_rules,
    context_attributes,
    load_rules,
    policy_set,
)
from tacit.types import Digest

__all__ = ["SCHEMA", "UNBOUNDED_EPSILON", "Decision", "Policy", "Reason", "Request", "no_rows"]

_NO_VALUE = "the request has a value that Cedar cannot represent"
_ENTITIES = cedarpy.Entities.from_json_str("[]")


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
class Reason:
    """What one rule has to do with a denial.

    Args:
        rule: Name of the rule.
        place: Where it stands.
        effect: ``forbid`` or ``permit``.
        conditions: Of a forbid those that hold, of a permit those that fail, with what the request has.
        one_suffices: Of a forbid, whether it would not match if any one of these did not hold; else
            they are alternatives, of which each would do.
    """

    rule: str
    place: str
    effect: str
    conditions: tuple[str, ...]
    one_suffices: bool = False


class Policy:
    """All rules of one site, parsed and checked once.

    Guarantee:
        Whatever a leader offers, a request is allowed only if at least one permit matches, no forbid
        matches (the built-in ones neither) and every rule could be evaluated; plain aggregation only by
        a permit that speaks of ``context.aggregation``, an attack only by one that names the action.
        Checked by tests/unit/test_policy_cedar.py::test_default_deny_and_forbid_wins,
        tests/unit/test_policy_cedar.py::test_a_rule_that_cannot_be_evaluated_denies,
        tests/unit/test_policy_cedar.py::test_no_policy_allows_other_regions,
        tests/unit/test_policy_cedar.py::test_plain_needs_a_permit_that_asks_for_it and
        tests/unit/test_policy_cedar.py::test_an_attack_needs_a_permit_that_names_it.

    Args:
        rules: The site's own rules; the built-in ones are added.
        attributes: What row rules can speak of, as ``row_attributes`` returns it.

    Reference:
        Cedar policy language, "Authorization" (default deny, forbid overrides permit).
    """

    def __init__(self, rules: Iterable[Rule], attributes: Mapping[str, str]) -> None:
        every = (*rules, *built_in_rules())
        self._schema_text = schema_text(dict(attributes))
        # Reading a context is the dearest part of a decision: rules get what they speak of.
        self._needed = context_attributes(every)
        self._rules = {rule.name: rule for rule in every}
        self._set = policy_set({rule.name: rule.content for rule in every})
        self._permits = policy_set({rule.name: rule.content for rule in every if rule.permits})
        self._conditions: dict[str, tuple[str, Condition]] = {
            f"{rule.name} {index}": (rule.name, condition)
            for rule in every
            if rule.permits and (rule.speaks_to("train") or rule.speaks_to("attack"))
            for index, condition in enumerate(conditions(rule.content))
        }
        self._condition_set = policy_set(
            {key: condition.content for key, (_, condition) in self._conditions.items()}
        )

    @classmethod
    def load(cls, folder: Path, contracts: Iterable[Contract] = ()) -> Policy:
        """Reads every ``*.cedar`` file of a folder. A folder without a permit denies everything.

        Args:
            folder: The policy folder of a site.
            contracts: The site's contracts, whose columns row rules can speak of.

        Raises:
            ConfigError: Missing folder, or a rule that does not parse, does not fit the schema, is a
                template or takes another rule's @id; names file and line.
        """
        attributes = row_attributes(contracts)
        schema = cedarpy.Schema.from_str(schema_text(attributes))
        return cls(load_rules(folder, schema), attributes)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, the built-in ones last."""
        return tuple(self._rules.values())

    @property
    def speaks_of(self) -> frozenset[str] | None:
        """The attributes of ``context`` that any rule speaks of; None if one takes it as a whole."""
        return self._needed

    @property
    def schema(self) -> str:
        """The Cedar schema that the rules fit."""
        return self._schema_text

    @property
    def digest(self) -> Digest:
        """SHA-256 of the rules' content and the schema, whatever their layout, order and comments."""
        contents = sorted(
            rfc8785.dumps(integers_as_text(rule.content)).decode() for rule in self._rules.values()
        )
        record: dict[str, Any] = {"version": 1, "schema": self._schema_text, "rules": contents}
        return Digest(hashlib.sha256(rfc8785.dumps(record)).digest())

    def decide(self, request: Request) -> Decision:
        """Allows or denies, and says why."""
        result = self._evaluate(self._set, request) if request.fits_cedar else None
        if result is None:
            return Decision(False, (), _NO_VALUE)
        rules = tuple(sorted(result.diagnostics.reasons))
        if result.diagnostics.errors:
            reason = "; ".join(result.diagnostics.errors)
            return Decision(False, (), f"a rule could not be evaluated: {reason}")
        if result.allowed:
            lacking = self._lacking(request, rules)
            if lacking:
                return Decision(False, (), f"{lacking}, unlike {self._named(rules)}")
            return Decision(True, rules, f"permitted by {self._named(rules)}")
        if rules:
            return Decision(False, rules, self._forbidden(request, rules))
        return Decision(False, (), self._nearest(request))

    def rows(self, request: Request, contract: Contract) -> RowFilter | None:
        """Which rows of a data set the rules for ``Action::"read"`` let this run use; None for all.

        Where the contract has a consent column, rows need a permit; every forbid always applies.

        Args:
            request: What the leader asks.
            contract: The data set that it asks for.

        Guarantee:
            Whatever a leader offers and whatever a row holds, the filter keeps the row only if Cedar's
            own evaluation of all rules on that row would.
            Checked by tests/property/test_policy_rows.py::test_a_filter_keeps_what_cedar_allows.

        Raises:
            PolicyDenied: A rule could not be evaluated.
            ConfigError: A rule asks for what no filter can do, or for a column that the data set lacks.
        """
        if not request.fits_cedar:
            raise _row_rules(_NO_VALUE)
        asked = {
            "principal": f'Party::"{_unquoted(request.principal)}"',
            "action": 'Action::"read"',
            "context": request.context(self._needed),
        }
        # An entity that is not listed is unknown as well; parties and actions are in nothing else.
        known = [("Party", request.principal), ("Action", "read")]
        entities = [{"uid": {"type": t, "id": i}, "attrs": {}, "parents": []} for t, i in known]
        try:
            result = cedarpy.is_authorized_partial(asked, self._set, entities)
        except ValueError:
            raise _row_rules(_NO_VALUE) from None
        if result.diagnostics.errors:
            raise _row_rules("; ".join(result.diagnostics.errors))
        if result.residuals.keys() != self._rules.keys():
            raise _row_rules("Cedar did not evaluate every rule")
        return row_filter(
            [(self._named((name,)), residual) for name, residual in result.residuals.items()],
            request.dataset,
            row_attributes([contract]),
            consent=any(column.classification == "consent" for column in contract.columns),
        )

    def permit(self, request: Request, contract: Contract, lock: Digest) -> Permission:
        """The permission to read a data set for a run.

        Args:
            request: What the leader asks.
            contract: The data set that it asks for.
            lock: Digest of the site's ``policy.lock``.

        Raises:
            PolicyDenied: The rules do not allow the run, or no row can be used in it.
            ConfigError: As ``rows`` does, or the contract is another data set's.
        """
        if request.dataset != contract.name:
            raise ConfigError(
                "policy.contract",
                f"the request is about data set '{request.dataset}', the contract about "
                f"'{contract.name}'",
                remedy="ask with the contract of the data set",
            )
        decision = self.decide(request)
        decision.require()
        rows = self.rows(request, contract)
        if rows is not None and rows.keeps_none:
            raise _row_rules(
                f"no row can be used: {no_rows(rows)}", rules=", ".join(decision.rules)
            )
        return build_permission(contract, lock, request.purpose, request.now, decision.rules, rows)

    def _lacking(self, request: Request, permits: tuple[str, ...]) -> str:
        """What is asked of permits beyond matching: empty if one of these has it."""
        attack = request.action == "attack"
        if attack and not any(self._rules[name].names("attack") for name in permits):
            return 'an attack needs a permit that names Action::"attack"'
        if request.aggregation == "plain" and not self._names_plain(request, permits):
            return 'plain aggregation needs a permit that asks for context.aggregation == "plain"'
        return ""

    def _names_plain(self, request: Request, permits: tuple[str, ...]) -> bool:
        """Whether one of the permits is for this aggregation: an invented one must not match it."""
        invented = dataclasses.replace(request, aggregation="some other aggregation")
        # Without the forbids: one that the invented aggregation meets would hide the permits.
        result = self._evaluate(self._permits, invented)
        return result is not None and bool(set(permits) - set(result.diagnostics.reasons))

    def _named(self, rules: tuple[str, ...]) -> str:
        return ", ".join(f"'{name}' ({self._rules[name].place})" for name in rules)

    def reasons(self, request: Request) -> tuple[Reason, ...]:
        """What stands in the way of a request: the forbids that match, then the permits that do not.

        Args:
            request: What the leader asks.

        Returns:
            Of a forbid the conditions that hold, of a permit those that fail; permits with the fewest
            failing conditions first. Nothing where no rule stands in the way but what
            ``Decision.explanation`` says: a rule that cannot be evaluated, or plain aggregation.
        """
        result = self._evaluate(self._set, request) if request.fits_cedar else None
        if result is None or result.allowed or result.diagnostics.errors:
            return ()
        names = [n for n in sorted(result.diagnostics.reasons) if not self._rules[n].permits]
        return (*(self._matching(request, name) for name in names), *self._failing(request))

    def _matching(self, request: Request, name: str) -> Reason:
        """Of a forbid that matches, the conditions that hold."""
        groups = alternatives(self._rules[name].content)
        options = [(number, one) for number, group in enumerate(groups) for one in group]
        tried = policy_set({str(index): one.content for index, (_, one) in enumerate(options)})
        result = self._evaluate(tried, request)
        held = sorted(int(key) for key in result.diagnostics.reasons) if result else []
        facts = _facts(request)
        found = tuple(options[index][1].describe(facts) for index in held)
        alone = len({options[index][0] for index in held}) == len(held)
        return Reason(name, self._rules[name].place, "forbid", found, alone)

    def _failing(self, request: Request) -> list[Reason]:
        """Of every permit that does not match, the conditions that fail."""
        result = self._evaluate(self._condition_set, request)
        met = set(result.diagnostics.reasons) if result else set()
        failing: dict[str, list[str]] = {}
        facts = _facts(request)
        attack = request.action == "attack"
        for key, (name, condition) in self._conditions.items():
            rule = self._rules[name]
            fits = rule.names("attack") if attack else rule.speaks_to("train")
            if fits and key not in met:
                failing.setdefault(name, []).append(condition.describe(facts))
        found = [
            Reason(name, self._rules[name].place, "permit", tuple(failed))
            for name, failed in failing.items()
        ]
        return sorted(found, key=lambda reason: len(reason.conditions))

    def _forbidden(self, request: Request, rules: tuple[str, ...]) -> str:
        """Names the forbids, and of each the conditions that hold."""
        told = []
        for reason in (self._matching(request, name) for name in rules):
            because = " and ".join(reason.conditions)
            told.append(self._named((reason.rule,)) + (f", for {because}" if because else ""))
        return "forbidden by " + "; by ".join(told)

    def _nearest(self, request: Request) -> str:
        """Names the permit with the fewest failing conditions, and those conditions."""
        permits = self._failing(request)
        if not permits:
            what = ' for Action::"attack"' if request.action == "attack" else ""
            return f"no permit matched, for the policy holds none{what}"
        nearest = permits[0]
        failed = "; ".join(nearest.conditions)
        return f"no permit matched; the nearest, '{nearest.rule}', failed on: {failed} [{nearest.place}]"

    def _evaluate(
        self, policies: cedarpy.PolicySet, request: Request
    ) -> cedarpy.AuthzResult | None:
        try:
            return cedarpy.is_authorized(
                {
                    "principal": {"type": "Party", "id": request.principal},
                    "action": {"type": "Action", "id": request.action},
                    "resource": {"type": "Dataset", "id": request.dataset},
                    "context": request.context(self._needed),
                },
                policies,
                _ENTITIES,
            )
        except ValueError:
            return None


def no_rows(rows: RowFilter) -> str:
    """Why a filter keeps no row whatever."""
    if rows.permits:
        return f"a forbid holds for every row ({rows.text})"
    return 'the data set has a consent column, and no permit for Action::"read" applies'


def _facts(request: Request) -> dict[str, str]:
    """What a request has, by what a condition speaks of."""
    facts = {
        "principal": f'Party::"{request.principal}"',
        "action": f'Action::"{request.action}"',
        "resource": f'Dataset::"{request.dataset}"',
    }
    for key, value in request.context().items():
        plain = value["__extn"]["arg"] if isinstance(value, dict) else value
        facts[f"context.{key}"] = json.dumps(plain)
    if request.epsilon_milli == UNBOUNDED_EPSILON:
        facts["context.epsilon_milli"] = "infinite, without differential privacy"
    return facts


def _unquoted(name: str) -> str:
    """A name as it is in Cedar's text; the roster has none that would need escaping."""
    if not name.isprintable() or '"' in name or "\\" in name:
        raise _row_rules("the leader's name has characters that Cedar cannot take as they are")
    return name


def _row_rules(reason: str, **details: str) -> PolicyDenied:
    return PolicyDenied(
        "policy.rows",
        f"the site's policy lets no row be read for this run: {reason}",
        remedy='ask the site\'s operator to look at the rules for Action::"read"',
        **details,
    )
