"""What changes between two versions of a policy: every decision, over the whole finite domain.

Why it is exact: a Cedar decision is a function of the outcomes of the comparisons in the rules. For every
attribute the domain holds each constant that either version compares it with, for numbers and times also
one of each gap between constants, for sets every subset, and values that equal no constant, as many as
attributes are compared with each other. So every combination of outcomes that any request can bring about is brought
about by a request of the domain, and all of these are evaluated by Cedar itself. What the contracts and
``site.toml`` of a version fix is fixed. Rules that compare in another way (arithmetic, two numbers with
each other, several patterns) are refused rather than compared in part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cedarpy

from tacit.errors import ConfigError
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.domain import ENUMERATED, REGIONS, Domain, Findings, Value, analyse
from tacit.policy.merge import merged
from tacit.policy.request import (
    ATTESTATION_LEVELS,
    CONTEXT_KINDS,
    UNBOUNDED_EPSILON,
    cedar_datetime,
    retention_end,
    row_attributes,
)
from tacit.policy.rules import BUILT_IN, Rule, policy_set
from tacit.types import Milliseconds

__all__ = ["LIMIT", "Change", "Difference", "Version", "compare", "value_kinds"]

LIMIT = 500_000
"""Most requests that a comparison evaluates."""
CHUNK = 2_000
EVERY_ROW = f"{BUILT_IN}every-row"
"""Name of the permit for every row where there is no consent: one that no rule of a site can have."""
Progress = Callable[[int, int], None]
Point = dict[str, Value]

FOLLOWS = {
    "context.regions": REGIONS,
    "context.private": ("context.unit",),
    "context.attestation_level": ("context.attestation",),
}
"""Attributes that follow from others, where rules speak of these."""

DEFAULTS: dict[str, Value] = {
    "context.purpose": "research",
    "context.region": "eu",
    "context.leader_region": "eu",
    "context.helper_regions": frozenset({"eu"}),
    "context.regions": frozenset({"eu"}),
    "context.data_region": "eu",
    "context.allowed_regions": frozenset(),
    "context.lawful_basis": "",
    "context.public": False,
    "context.retention": retention_end(None),
    "context.now": 0,
    "context.aggregation": "masked",
    "context.epsilon_milli": 1000,
    "context.private": True,
    "context.unit": "record",
    "context.helpers": 3,
    "context.max_colluding": 1,
    "context.min_cohort": 3,
    "context.own_helper": True,
    "context.own_noise": False,
    "context.code": "pinned",
    "context.code_digest": "",
    "context.attestation": "none",
    "context.attestation_level": 0,
}
"""What attributes are that no rule speaks of: any value would do."""


@dataclass(frozen=True, slots=True)
class Version:
    """One of the two versions.

    Args:
        policy: Its rules.
        contracts: Its contracts by name; none where only rules are compared.
        region: The site's region; empty where only rules are compared.
    """

    policy: Policy
    contracts: Mapping[str, Contract]
    region: str

    def given(self, dataset: str) -> Point:
        """What contracts and ``site.toml`` fix for a data set."""
        contract = self.contracts.get(dataset)
        if contract is None:
            return {}
        return {
            "context.region": self.region,
            "context.data_region": contract.region or self.region,
            "context.allowed_regions": frozenset(contract.allowed_regions or ()),
            "context.lawful_basis": contract.lawful_basis or "",
            "context.public": contract.public,
            "context.retention": retention_end(contract.retention),
        }

    def rules(self, action: str) -> list[Rule]:
        """The rules that bear on an action; built-in ones where a contract makes them bite."""
        bites = {
            "tacit:regions": any(c.allowed_regions for c in self.contracts.values()),
            "tacit:retention": any(c.retention for c in self.contracts.values()),
        }
        return [
            rule
            for rule in self.policy.rules
            if rule.speaks_to(action) and bites.get(rule.name, not rule.built_in)
        ]


@dataclass(frozen=True, slots=True)
class Change:
    """Requests, or rows, that are decided in another way.

    Args:
        action: ``train`` or ``read``.
        allowed: Whether the new version allows what the old one denied, or the other way round.
        where: The values of every attribute that matters, by name; the domain's order.
        before: The rules that decided in the old version; none: no permit matched.
        after: The same in the new version.
        requests: How many requests of the domain it is about.
    """

    action: str
    allowed: bool
    where: dict[str, tuple[Value, ...]]
    before: tuple[str, ...]
    after: tuple[str, ...]
    requests: int


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes.

    Where no rule speaks of ``context.aggregation``, changes are about masked runs: plain ones are denied.

    Args:
        changes: Grouped.
        domains: The domain by action: what was tried.
        requests: How many requests were evaluated, in each version.
        only: The attributes whose values were chosen: each stands for itself and for no other.
    """

    changes: tuple[Change, ...]
    domains: dict[str, Domain]
    requests: int
    only: frozenset[str] = frozenset()


def compare(
    old: Version,
    new: Version,
    *,
    regions: Sequence[str] = (),
    only: Mapping[str, tuple[Value, ...]] | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Difference:
    """Every decision that changes, about runs and about rows.

    Args:
        old: What is.
        new: What shall be.
        regions: The regions of leader and helpers, if these are all there can be.
        only: Attributes by name, and the values to compare for; by default all.
        progress: Told how many requests are evaluated, and of how many.

    Guarantee:
        If no change is reported, no request and no row is decided in another way.
        Checked by tests/unit/test_policy_diff.py::test_every_changed_decision_is_found.

    Raises:
        ConfigError: The domain is too large, or not all that matters; says why.
    """
    kinds = value_kinds(old, new)
    domains = {
        action: _restricted(_domain(action, (old, new), kinds, regions), only or {})
        for action in ("train", "attack", "read")
    }
    _check_only(only or {}, (old, new), domains)
    total = sum(domain.points() for domain in domains.values())
    if total > LIMIT:
        raise _too_large(total, domains)
    changes: list[Change] = []
    done = 0
    for action, domain in domains.items():
        found: dict[tuple[bool, tuple[str, ...], tuple[str, ...]], list[Point]] = {}
        impossible: list[Point] = []
        for points, first in _chunks(domain, done):
            possible = [point for point in points if _can_be(point)]
            impossible += [point for point in points if not _can_be(point)]
            before = _decide(old, action, possible, kinds)
            after = _decide(new, action, possible, kinds)
            for point, was, now in zip(possible, before, after, strict=True):
                if was[0] != now[0]:
                    found.setdefault((now[0], was[1], now[1]), []).append(point)
            progress(first + len(points), total)
        done += domain.points()
        changes += _changes(action, domain, found, impossible)
    return Difference(tuple(changes), domains, total, frozenset(only or ()))


def value_kinds(old: Version, new: Version) -> dict[str, str]:
    """Cedar type of every attribute that rules can speak of, by name."""
    rows = row_attributes([*old.contracts.values(), *new.contracts.values()])
    context = {f"context.{name}": kind for name, kind in CONTEXT_KINDS.items()}
    return context | {f"resource.{name}": kind for name, kind in rows.items()}


def _domain(
    action: str, versions: tuple[Version, Version], kinds: Mapping[str, str], regions: Sequence[str]
) -> Domain:
    datasets = sorted({name for version in versions for name in version.contracts})
    known: dict[str, set[Value]] = {}
    for version, dataset in itertools.product(versions, datasets):
        for name, value in version.given(dataset).items():
            known.setdefault(name, set()).add(value)
    findings = Findings()
    for version in versions:
        part = analyse(version.rules(action), kinds, known)
        for name, constants in part.constants.items():
            findings.mention(name, constants)
        findings.links |= part.links
        for name, patterns in part.patterns.items():
            findings.patterns.setdefault(name, set()).update(patterns)
    if action == "read" and not any(_has_rules_for_rows(version) for version in versions):
        return Domain({"resource": ()})
    if action == "attack" and not any(_permits_attacks(version) for version in versions):
        return Domain({"resource": ()})
    nullable = {
        f"resource.{column.name}"
        for version in versions
        for contract in version.contracts.values()
        for column in contract.columns
        # A dropped column is read for the filter alone, and nobody else sees that a cell is empty.
        if not column.required or column.method == "drop"
    }
    domain = Domain.of(findings, kinds, known=known, regions=regions, nullable=nullable)
    if datasets:
        # What a contract fixes can differ between data sets even where no rule names one.
        return Domain({"resource": tuple(datasets), **_without(domain.values, "resource")})
    return domain


def _has_rules_for_rows(version: Version) -> bool:
    consent = any(_needs_consent(contract) for contract in version.contracts.values())
    own = any(not rule.built_in for rule in version.rules("read"))
    return bool(version.contracts) and (consent or own)


def _needs_consent(contract: Contract) -> bool:
    return any(column.classification == "consent" for column in contract.columns)


def _restricted(domain: Domain, only: Mapping[str, tuple[Value, ...]]) -> Domain:
    return Domain({name: only.get(name, values) for name, values in domain.values.items()})


def _check_only(
    only: Mapping[str, tuple[Value, ...]],
    versions: tuple[Version, Version],
    domains: Mapping[str, Domain],
) -> None:
    """Refuses to compare for values that cannot be: it would find no change, and say so."""
    datasets = sorted({name for version in versions for name in version.contracts})
    tried = {name for domain in domains.values() for name in domain.values}
    given = {key for version in versions for name in datasets for key in version.given(name)}
    for name, values in only.items():
        possible = datasets if name == "resource" else ENUMERATED.get(name, ())
        unknown = [str(value) for value in values if possible and value not in possible]
        follows = sorted(tried.intersection(FOLLOWS.get(name, ())))
        if unknown:
            problem = f"is never '{unknown[0]}', but one of: {', '.join(possible)}"
        elif name in given and name not in tried:
            problem = "is what contracts and site.toml say, and cannot be chosen"
        elif follows and name not in tried:
            problem = f"follows from {' and '.join(follows)}: choose these"
        else:
            continue
        raise ConfigError(
            "policy.only",
            f"--only: {name} {problem}",
            remedy="correct the value, or leave the attribute out",
            attribute=name,
        )


def _too_large(total: int, domains: Mapping[str, Domain]) -> ConfigError:
    sizes = {
        name: len(values) for domain in domains.values() for name, values in domain.values.items()
    }
    widest = max(sizes, key=lambda name: sizes[name])
    return ConfigError(
        "policy.diff-size",
        f"{total} combinations are too many to try (at most {LIMIT}); rules tell {sizes[widest]} values "
        f"of {widest} apart",
        remedy=f"compare part by part: --only {widest.removeprefix('context.')}=VALUE",
        attribute=widest,
    )


def _chunks(domain: Domain, done: int) -> Iterator[tuple[list[Point], int]]:
    names = list(domain.values)
    points = itertools.product(*domain.values.values())
    while batch := list(itertools.islice(points, CHUNK)):
        yield [dict(zip(names, values, strict=True)) for values in batch], done
        done += len(batch)


def _can_be(point: Point) -> bool:
    """Whether a run can be like that: without privacy its price is infinite, with privacy it is not."""
    private, price = point.get("context.private"), point.get("context.epsilon_milli")
    if "context.unit" in point:
        private = point["context.unit"] != "none"
    return None in (private, price) or private == (price != UNBOUNDED_EPSILON)


# --- evaluation -------------------------------------------------------------------------------------


Answer = tuple[bool, tuple[str, ...]]


def _decide(
    version: Version, action: str, points: Sequence[Point], kinds: Mapping[str, str]
) -> list[Answer]:
    if action != "read":
        return _runs(version, points, action)
    answers: list[Answer] = [(False, ())] * len(points)
    for dataset, contract in version.contracts.items():
        chosen = [i for i, point in enumerate(points) if point["resource"] == dataset]
        found = _rows(version, contract, [points[i] for i in chosen], kinds)
        for index, answer in zip(chosen, found, strict=True):
            answers[index] = answer
    return answers


def _permits_attacks(version: Version) -> bool:
    """Only a permit that names the action allows an attack."""
    return any(rule.permits and rule.names("attack") for rule in version.policy.rules)


def _runs(version: Version, points: Sequence[Point], action: str) -> list[Answer]:
    """As ``Policy.decide`` does; a data set without a contract cannot be asked for."""
    rules = policy_set({rule.name: rule.content for rule in version.policy.rules})
    requests = [_request(version, point, action) for point in points]
    answers = _evaluated(rules, requests, [])
    if action == "attack":
        naming = {rule.name for rule in version.policy.rules if rule.names("attack")}
        answers = [one if one[0] and naming & set(one[1]) else (False, ()) for one in answers]
    missing = [bool(version.contracts) and p["resource"] not in version.contracts for p in points]
    plain = [
        i
        for i, (point, answer) in enumerate(zip(points, answers, strict=True))
        if answer[0] and point.get("context.aggregation") == "plain"
    ]
    invented = [
        _request(version, {**points[i], "context.aggregation": "some other aggregation"}, action)
        for i in plain
    ]
    permits = policy_set({r.name: r.content for r in version.policy.rules if r.permits})
    for index, other in zip(plain, _evaluated(permits, invented, []), strict=True):
        if not set(answers[index][1]) - set(other[1]):
            answers[index] = (False, ())
    return [
        (False, ()) if absent else answer for absent, answer in zip(missing, answers, strict=True)
    ]


def _rows(
    version: Version, contract: Contract, points: Sequence[Point], kinds: Mapping[str, str]
) -> list[Answer]:
    """As ``Policy.rows`` does, by full evaluation of every row."""
    consent = _needs_consent(contract)
    rules = {r.name: r.content for r in version.policy.rules if consent or not r.permits}
    if not consent:
        everything = {"op": "All"}
        rules[EVERY_ROW] = {
            "effect": "permit",
            **dict.fromkeys(("principal", "action", "resource"), everything),
            "conditions": [],
        }
    names = [f"resource.{name}" for name in row_attributes([contract])]
    entities: dict[str, dict[str, Any]] = {}
    requests = []
    for point in points:
        row = {name: point[name] for name in names if point.get(name) is not None}
        uid = {"type": "Row", "id": repr(sorted(row.items()))}
        attributes = {
            name.removeprefix("resource."): _json(value, kinds[name]) for name, value in row.items()
        }
        parents = [{"type": "Dataset", "id": contract.name}]
        entities[uid["id"]] = {"uid": uid, "attrs": attributes, "parents": parents}
        requests.append({**_request(version, point, "read"), "resource": uid})
    return _evaluated(policy_set(rules), requests, list(entities.values()))


def _evaluated(
    rules: cedarpy.PolicySet, requests: list[dict[str, Any]], entities: list[dict[str, Any]]
) -> list[Answer]:
    found: list[Answer] = []
    for result in cedarpy.is_authorized_batch(requests, rules, entities) if requests else []:
        reasons = tuple(sorted(set(result.diagnostics.reasons) - {EVERY_ROW}))
        failed = bool(result.diagnostics.errors)
        found.append((result.allowed and not failed, () if failed else reasons))
    return found


def _request(version: Version, point: Point, action: str) -> dict[str, Any]:
    dataset = str(point.get("resource", ""))
    values = {**DEFAULTS, **version.given(dataset), **point}
    if "context.unit" in point:
        values["context.private"] = point["context.unit"] != "none"
    if "context.leader_region" in point or "context.helper_regions" in point:
        helpers = values["context.helper_regions"]
        assert isinstance(helpers, frozenset)
        values["context.regions"] = helpers | {str(values["context.leader_region"])}
    values["context.attestation_level"] = ATTESTATION_LEVELS[str(values["context.attestation"])]
    needed = version.policy.speaks_of
    context = {
        name.removeprefix("context."): _json(values[name], CONTEXT_KINDS[name[8:]])
        for name in DEFAULTS
        if needed is None or name[8:] in needed
    }
    return {
        "principal": {"type": "Party", "id": str(point.get("principal", "leader"))},
        "action": {"type": "Action", "id": action},
        "resource": {"type": "Dataset", "id": dataset},
        "context": context,
    }


def _json(value: Value, kind: str) -> Any:
    if kind == "datetime":
        assert isinstance(value, int)
        return cedar_datetime(Milliseconds(value))
    return sorted(value) if isinstance(value, frozenset) else value


# --- grouping ---------------------------------------------------------------------------------------


def _changes(
    action: str,
    domain: Domain,
    found: Mapping[tuple[bool, tuple[str, ...], tuple[str, ...]], list[Point]],
    impossible: Sequence[Point],
) -> Iterator[Change]:
    sizes = [len(values) for values in domain.values.values()]
    index = {
        name: {value: number for number, value in enumerate(values)}
        for name, values in domain.values.items()
    }

    def numbers(points: Sequence[Point]) -> list[tuple[int, ...]]:
        return [tuple(index[name][value] for name, value in point.items()) for point in points]

    for (allowed, before, after), points in sorted(found.items()):
        for box in merged(numbers(points), numbers(impossible), sizes):
            yield Change(action, allowed, _where(domain, box.sides), before, after, box.points)


def _where(domain: Domain, sides: tuple[frozenset[int], ...]) -> dict[str, tuple[Value, ...]]:
    """The values of the attributes that matter: of which not all are in the group."""
    return {
        name: tuple(values[number] for number in sorted(side))
        for (name, values), side in zip(domain.values.items(), sides, strict=True)
        if len(side) < len(values)
    }


def _without(values: Mapping[str, tuple[Value, ...]], name: str) -> dict[str, tuple[Value, ...]]:
    return {key: value for key, value in values.items() if key != name}
