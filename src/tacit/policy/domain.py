"""The finite domain that decides a policy: the few values of each attribute that its rules can tell apart.

A rule compares an attribute with constants. Two requests for which all comparisons come out alike get
the same decision, so a value for each constant, one on either side of it, and one that equals no constant
stand for all values there are. Where a rule compares in another way, this refuses: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any, NoReturn

from tacit.errors import ConfigError
from tacit.policy.request import (
    ATTESTATION_LEVELS,
    EARLIEST,
    EPOCH,
    UNBOUNDED_EPSILON,
    retention_end,
)
from tacit.policy.rows import parse_datetime
from tacit.policy.rules import Rule

__all__ = ["ENUMERATED", "FRESH", "REGIONS", "Domain", "Findings", "Kinds", "Value", "analyse"]

Value = str | int | bool | frozenset[str] | None
Kinds = Mapping[str, str]
FRESH = "\ue000"
"""What values that equal no constant begin with: a character that no name, purpose or region has."""

ENUMERATED = {
    "context.aggregation": ("masked", "plain"),
    "context.code": ("pinned", "not pinned"),
    "context.unit": ("record", "entity", "client", "none"),
    "context.attestation": tuple(ATTESTATION_LEVELS),
    "context.lawful_basis": (
        "",
        "consent",
        "contract",
        "legal-obligation",
        "vital-interests",
        "public-task",
        "legitimate-interests",
    ),
}
"""Attributes that have no other values."""

COMPARISONS = frozenset(
    ("==", "!=", "<", "<=", ">", ">=", "in", "contains", "containsAll", "containsAny")
)
SUBSETS_LIMIT = 12
REGIONS = ("context.leader_region", "context.helper_regions")
"""What ``context.regions`` follows from."""


@dataclass(slots=True)
class Findings:
    """What rules compare.

    Args:
        constants: Of each attribute that rules speak of, the constants that they compare it with.
        links: Attributes that are compared with each other.
        patterns: Of each attribute, the patterns of ``like``.
    """

    constants: dict[str, set[Value]] = field(default_factory=dict)
    links: set[tuple[str, str]] = field(default_factory=set)
    patterns: dict[str, set[tuple[str | None, ...]]] = field(default_factory=dict)

    def mention(self, name: str, constants: Iterable[Value] = ()) -> None:
        """Notes that rules speak of an attribute."""
        self.constants.setdefault(name, set()).update(constants)


def analyse(rules: Iterable[Rule], kinds: Kinds, known: Mapping[str, set[Value]]) -> Findings:
    """What rules compare.

    Args:
        rules: The rules.
        kinds: Cedar type by name: ``context.NAME``, ``resource.NAME``.
        known: Attributes whose values are given, with all of these values.

    Raises:
        ConfigError: A rule compares in a way for which no finite domain is exact.
    """
    findings = Findings()
    for rule in rules:
        reader = _Reader(rule, kinds, known, findings)
        reader.scope("principal", rule.content["principal"])
        reader.scope("resource", rule.content["resource"])
        for clause in rule.content["conditions"]:
            reader.read(clause["body"])
    return findings


@dataclass(frozen=True, slots=True)
class _Constant:
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class _Attribute:
    name: str


class _Reader:
    """Reads one rule."""

    def __init__(
        self, rule: Rule, kinds: Kinds, known: Mapping[str, set[Value]], findings: Findings
    ) -> None:
        self._rule = rule
        self._kinds = kinds
        self._known = known
        self._found = findings

    def scope(self, part: str, scope: Mapping[str, Any]) -> None:
        """Who or what a rule is for."""
        inside = scope.get("in", {})
        for entity in [*scope.get("entities", []), *_entities(scope), *_entities(inside)]:
            self._found.mention(part, [entity["id"]])

    def read(self, node: Any) -> None:
        """One expression whose value is a Bool."""
        if not isinstance(node, dict) or len(node) != 1:
            self._refuse("an expression that is not known")
        ((kind, content),) = node.items()
        if kind == "Value" and isinstance(content, bool):
            return
        if kind in ("&&", "||"):
            self.read(content["left"])
            self.read(content["right"])
        elif kind == "!":
            self.read(content["arg"])
        elif kind == "if-then-else":
            for part in ("if", "then", "else"):
                self.read(content[part])
        elif kind in (".", "has", "Var"):
            self._mention(node if kind != "has" else {".": content})
        else:
            self._relation(kind, content)

    def _mention(self, node: Any) -> None:
        operand = self._operand(node)
        if isinstance(operand, _Attribute):
            self._found.mention(operand.name)

    def _relation(self, kind: str, content: Any) -> None:
        if kind == "like":
            operand = self._operand(content["left"])
            if isinstance(operand, _Attribute):
                self._found.mention(operand.name)
                parts = tuple(None if p == "Wildcard" else p["Literal"] for p in content["pattern"])
                self._found.patterns.setdefault(operand.name, set()).add(parts)
        elif kind == "isEmpty":
            self._mention(content["arg"])
        elif kind == "is":
            self._compare(content["left"], content["in"]) if "in" in content else None
        elif kind in COMPARISONS:
            self._compare(content["left"], content["right"])
        else:
            self._refuse(f"'{kind}'")

    def _compare(self, left_node: Any, right_node: Any) -> None:
        left, right = self._operand(left_node), self._operand(right_node)
        if isinstance(left, _Attribute) and isinstance(right, _Attribute):
            kinds = {self._kinds.get(left.name), self._kinds.get(right.name)}
            if kinds & {"Long", "datetime"}:
                self._refuse(f"{left.name} compared with {right.name}")
            self._found.mention(left.name)
            self._found.mention(right.name)
            self._found.links.add((left.name, right.name))
        for attribute, other in ((left, right), (right, left)):
            if isinstance(attribute, _Attribute) and isinstance(other, _Constant):
                self._found.mention(attribute.name, other.values)

    def _operand(self, node: Any) -> _Constant | _Attribute:
        ((kind, content),) = node.items()
        if kind == "Var" and content in ("principal", "resource"):
            return _Attribute(content)
        if kind == "." and content["left"].get("Var") in ("context", "resource"):
            name = f"{content['left']['Var']}.{content['attr']}"
            known = self._known.get(name)
            return _Attribute(name) if known is None else _Constant(tuple(_flat(known)))
        return _Constant(self._constant(kind, content))

    def _constant(self, kind: str, content: Any) -> tuple[Value, ...]:
        if kind == "Value":
            return (_entity_name(content),)
        if kind == "neg" and "Value" in content["arg"]:
            return (-content["arg"]["Value"],)
        if kind == "datetime" and "Value" in content[0]:
            moment = parse_datetime(content[0]["Value"])
            return () if moment is None else (_milliseconds(moment),)
        if kind == "Set" and all(len(item) == 1 for item in content):
            pairs = [pair for item in content for pair in item.items()]
            return tuple(value for pair in pairs for value in self._constant(*pair))
        return self._refuse(f"'{kind}' within a comparison")

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            "policy.not-exact",
            f"not exact: rule '{self._rule.name}' ({self._rule.place}) has {what}, so no finite list of "
            "requests shows every decision that changes",
            remedy="compare attributes with constants, or compare the two versions by policy tests",
            rule=self._rule.name,
        )


@dataclass(frozen=True, slots=True)
class Domain:
    """The values that stand for all there are, of every attribute that rules speak of.

    Args:
        values: By name, in order; ``context.NAME``, ``resource.NAME``, ``principal``, ``resource``.
    """

    values: dict[str, tuple[Value, ...]]

    @classmethod
    def of(
        cls,
        findings: Findings,
        kinds: Kinds,
        *,
        known: Iterable[str] = (),
        regions: Iterable[str] = (),
        nullable: Iterable[str] = (),
    ) -> Domain:
        """The domain of what was found.

        Args:
            findings: What ``analyse`` found.
            kinds: Cedar type by name.
            known: Attributes that are given, and get no values here.
            regions: The regions of leader and helpers, if these are all there can be.
            nullable: Attributes of rows that may be empty.
        """
        names = {name for name in findings.constants if name not in set(known)}
        links = set(findings.links)
        compared = {name for pair in findings.links for name in pair}
        if "context.regions" in names and names & set(REGIONS):
            # Regions of all follow from those of leader and helpers, and have no values of their own.
            links |= {("context.regions", name) for name in REGIONS}
            names |= set(REGIONS)
        every = set()
        if "context.attestation_level" in names:
            every.add("context.attestation")
            names = names - {"context.attestation_level"} | every
        if "context.unit" in names:
            names -= {"context.private"}
        groups = _components(names, links)
        found: dict[str, tuple[Value, ...]] = {}
        for name in sorted(names):
            if name == "context.regions" and names & set(REGIONS):
                continue
            group = groups[name]
            constants = {v for item in group for v in findings.constants.get(item, ())}
            if group & compared:
                # What an attribute with few values can be, others that it is compared with can be.
                constants |= {v for item in group for v in ENUMERATED.get(item, ())}
            # Values that equal no constant differ only where they are compared with each other.
            count = len(group) if group & compared else 1
            fresh = [FRESH if index == 0 else f"{FRESH}{index + 1}" for index in range(count)]
            texts = [v for v in constants if isinstance(v, str)]
            limited = sorted(regions) if name in (*REGIONS, "context.regions") else []
            kind = kinds.get(name, "String")
            values = _values(name, kind, constants, limited or [*sorted(texts), *fresh])
            matching = _matching(name, findings, values)
            if name in every or (name in ENUMERATED and matching):
                values, matching = ENUMERATED[name], ()
            values = (*values, *matching)
            found[name] = (*values, None) if name in set(nullable) else values
        return cls(found)

    def points(self) -> int:
        """How many combinations there are."""
        product = 1
        for values in self.values.values():
            product *= len(values)
        return product


def _values(name: str, kind: str, constants: set[Value], texts: list[str]) -> tuple[Value, ...]:
    if kind == "Bool":
        return (False, True)
    if kind in ("Long", "datetime"):
        return tuple(_numbers(name, kind, {v for v in constants if type(v) is int}))
    if kind == "Set<String>":
        return tuple(_subsets(name, texts, empty=name == "context.allowed_regions"))
    if name in ENUMERATED:
        # Without a unit there is no privacy and no finite price: rules may speak of these.
        named = constants | ({"none"} if name == "context.unit" else set())
        others = [value for value in ENUMERATED[name] if value not in named]
        return (*(value for value in ENUMERATED[name] if value in named), *others[:1])
    return tuple(texts)


def _numbers(name: str, kind: str, constants: set[int]) -> list[int]:
    """Each constant, the number after it for all up to the next constant, and one below the first."""
    lowest, highest = ~UNBOUNDED_EPSILON, UNBOUNDED_EPSILON
    if name == "context.epsilon_milli":
        constants = constants | {UNBOUNDED_EPSILON}
    if kind == "datetime":
        lowest, highest = EARLIEST, retention_end(None)
    elif name.startswith("context."):
        lowest = 0
    found = {number for constant in constants for number in (constant, constant + 1)}
    found |= {min(constants) - 1} if constants else set()
    return sorted(number for number in found if lowest <= number <= highest) or [0]


def _subsets(name: str, texts: list[str], *, empty: bool) -> Iterator[frozenset[str]]:
    if len(texts) > SUBSETS_LIMIT:
        raise ConfigError(
            "policy.diff-size",
            f"rules tell {len(texts)} values of {name} apart, whose subsets are too many to try",
            remedy=f"compare for some requests only, for example --only {name}=eu,uk",
            attribute=name,
        )
    for size in range(0 if empty else 1, len(texts) + 1):
        yield from map(frozenset, combinations(texts, size))


def _matching(name: str, findings: Findings, values: tuple[Value, ...]) -> tuple[Value, ...]:
    """One value that matches the pattern and no constant; of two patterns, both could match one value."""
    patterns = findings.patterns.get(name, set())
    if len(patterns) > 1 or (patterns and any(name in link for link in findings.links)):
        raise ConfigError(
            "policy.not-exact",
            f"not exact: {name} is matched with several patterns, or with a pattern and compared with "
            "another attribute",
            remedy="compare the attribute with constants, or the two versions by policy tests",
            attribute=name,
        )
    found = ("".join(FRESH if part is None else part for part in pattern) for pattern in patterns)
    return tuple(text for text in found if text not in values)


def _components(names: set[str], links: set[tuple[str, str]]) -> dict[str, frozenset[str]]:
    groups = {name: frozenset([name]) for name in names}
    for left, right in links:
        if left in groups and right in groups:
            joined = groups[left] | groups[right]
            groups |= dict.fromkeys(joined, joined)
    return groups


def _entities(scope: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [scope["entity"]] if "entity" in scope else []


def _entity_name(value: Any) -> Value:
    if isinstance(value, dict) and "__entity" in value:
        return str(value["__entity"]["id"])
    found: Value = value
    return found


def _flat(values: Iterable[Value]) -> Iterator[Value]:
    for value in values:
        yield from value if isinstance(value, frozenset) else (value,)


def _milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)
