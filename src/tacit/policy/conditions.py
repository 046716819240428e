"""A rule taken apart: each of its conditions as a rule of its own and as text for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cedarpy

__all__ = ["Condition", "alternatives", "conditions"]

_ANY: dict[str, Any] = {
    "effect": "permit",
    "principal": {"op": "All"},
    "action": {"op": "All"},
    "resource": {"op": "All"},
    "conditions": [],
}
_STRING_OR_PLAIN = re.compile(
    r'"(?:\\.|[^"\\])*"|(?<!\w)\((context(?:\.\w+)+|principal|action|resource)\)'
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold for a permit to match.

    Args:
        content: A permit with this condition only, in Cedar's JSON form.
        text: The condition in Cedar's own syntax.
        speaks_of: What it depends on: ``principal``, ``action``, ``resource``, ``context.NAME``.
    """

    content: dict[str, Any]
    text: str
    speaks_of: tuple[str, ...]

    def describe(self, facts: Mapping[str, str]) -> str:
        """The condition, and what the request has instead."""
        known = [f"{item} is {facts[item]}" for item in self.speaks_of if item in facts]
        return f"{self.text} ({', '.join(known)})" if known else self.text


def conditions(rule: Mapping[str, Any]) -> tuple[Condition, ...]:
    """All conditions of a rule, whose conjunction is the rule: scope, ``when`` and ``unless``.

    Args:
        rule: One static rule in Cedar's JSON form.
    """
    found = [
        _condition({**_ANY, part: rule[part]}, (part,))
        for part in ("principal", "action", "resource")
        if rule[part]["op"] != "All"
    ]
    found += [_single(kind, body) for kind, body in _clauses(rule)]
    # A permit without any condition matches everything; it still needs an entry to be evaluated.
    return tuple(found) or (_condition(_ANY, ()),)


def alternatives(rule: Mapping[str, Any]) -> tuple[tuple[Condition, ...], ...]:
    """The conditions of ``when`` and ``unless``, each as its alternatives, of which one is enough.

    Those that hold are why a rule matched that did.

    Args:
        rule: One static rule in Cedar's JSON form.
    """
    return tuple(
        tuple(_single(kind, option) for option in _operands(body, "||" if kind == "when" else "&&"))
        for kind, body in _clauses(rule)
    )


def _clauses(rule: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for clause in rule["conditions"]:
        # when { a && b } asks for a and for b; unless { a || b } for not a and for not b.
        operator = "&&" if clause["kind"] == "when" else "||"
        for body in _operands(clause["body"], operator):
            yield clause["kind"], body


def _single(kind: str, body: Mapping[str, Any]) -> Condition:
    single = {**_ANY, "conditions": [{"kind": kind, "body": body}]}
    return _condition(single, tuple(dict.fromkeys(_attributes(body))))


def _operands(body: Mapping[str, Any], operator: str) -> Iterator[Mapping[str, Any]]:
    if operator in body:
        yield from _operands(body[operator]["left"], operator)
        yield from _operands(body[operator]["right"], operator)
    else:
        yield body


def _attributes(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _attributes(item)
    elif isinstance(node, dict):
        if node.keys() == {"Var"}:
            yield node["Var"]
        elif node.keys() == {"."} and node["."]["left"] == {"Var": "context"}:
            yield f"context.{node['.']['attr']}"
        elif node.keys() != {"Value"}:
            for item in node.values():
                yield from _attributes(item)


def _condition(content: dict[str, Any], speaks_of: tuple[str, ...]) -> Condition:
    record = {"staticPolicies": {"rule": content}, "templates": {}, "templateLinks": []}
    return Condition(content, _text(cedarpy.policies_from_json_str(json.dumps(record))), speaks_of)


def _text(rendered: str) -> str:
    """The one condition out of Cedar's rendering of a permit that has no other."""
    scope, clause, body = rendered.strip().removesuffix(";").partition(") when { ")
    if clause:
        return _plain(body.removesuffix(" }"))
    scope, clause, body = scope.partition(") unless { ")
    if clause:
        return f"unless {{ {_plain(body.removesuffix(' }'))} }}"
    parts = scope.removeprefix("permit(").removesuffix(")")
    parts = parts.removeprefix("principal, ").removesuffix(", resource")
    return parts.removeprefix("action, ").removesuffix(", action")


def _plain(body: str) -> str:
    """Drops the brackets that Cedar puts around plain attributes, outside string literals."""
    return _STRING_OR_PLAIN.sub(lambda match: match.group(1) or match.group(), body)
