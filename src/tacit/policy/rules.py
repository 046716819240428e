"""The rules of one policy: those in ``*.cedar`` files and those that are built in, parsed and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy

from tacit.errors import ConfigError
from tacit.files import read_limited
from tacit.policy.request import CONTEXT_KINDS, SCHEMA

__all__ = [
    "BUILT_IN",
    "BUILT_IN_RULES",
    "Rule",
    "built_in_rules",
    "context_attributes",
    "load_rules",
    "policy_set",
]

BUILT_IN = "tacit:"
"""What the names of built-in rules begin with."""

BUILT_IN_RULES = {
    "tacit:regions": """
forbid(principal, action, resource)
when { !context.allowed_regions.isEmpty() }
unless {
  context.allowed_regions.contains(context.region)
  && context.allowed_regions.contains(context.leader_region)
  && context.allowed_regions.containsAll(context.helper_regions)
};
""",
    "tacit:retention": """
forbid(principal, action, resource)
when { context.now > context.retention };
""",
}
"""What no policy can allow: regions that a contract does not allow, and data past their last day."""

_FILE_LIMIT = 1024 * 1024
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;', re.DOTALL)
_NESTING = re.compile(r"[()\[\]{}]")
_CHAINING = re.compile(r"&&|\|\||[.+*-]|\bif\b")
_DEEPEST, _LONGEST = 50, 1000
"""Of brackets within brackets, and of operators in one rule: Cedar's parser crashes far above."""
_BLANK = re.compile(r"(?:\s+|//[^\n]*)*")
_SIMPLER = "it is nested too deeply: of many alternatives make one [...].contains(...)"
_ATTRIBUTES = ", ".join(re.findall(r"^    (\w+):", SCHEMA, re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Rule:
    """One Cedar statement.

    Args:
        name: Its ``@id``, or else file, line and column.
        file: Name of its file; empty if it is built in.
        line: Line at which it begins, from 1; 0 if it is built in.
        content: The statement in Cedar's JSON form.
    """

    name: str
    file: str
    line: int
    content: dict[str, Any]

    @property
    def place(self) -> str:
        """Where a person finds it."""
        return f"{self.file}, line {self.line}" if self.file else "built in"

    @property
    def permits(self) -> bool:
        """Whether it is a permit."""
        return bool(self.content["effect"] == "permit")

    @property
    def built_in(self) -> bool:
        """Whether it is part of every policy."""
        return self.name.startswith(BUILT_IN)

    def speaks_to(self, action: str) -> bool:
        """Whether its scope leaves the action open or names it."""
        scope = self.content["action"]
        named = [scope["entity"]] if "entity" in scope else scope.get("entities", [])
        return scope["op"] == "All" or any(entity["id"] == action for entity in named)

    def names(self, action: str) -> bool:
        """Whether its scope names the action: one that leaves it open does not."""
        return self.content["action"]["op"] != "All" and self.speaks_to(action)


def built_in_rules() -> tuple[Rule, ...]:
    """The rules that are part of every policy."""
    return tuple(Rule(name, "", 0, _parsed(text)) for name, text in BUILT_IN_RULES.items())


def load_rules(folder: Path, schema: cedarpy.Schema) -> tuple[Rule, ...]:
    """Reads every ``*.cedar`` file of a folder.

    Args:
        folder: The policy folder of a site.
        schema: What every rule must fit.

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
    rules: dict[str, Rule] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".cedar" or not path.is_file():
            raise ConfigError(
                "policy.stray",
                f"{path} is not a *.cedar file, so its rules would be ignored",
                remedy="rename it to NAME.cedar, or move it out of the policy folder",
                file=str(path),
            )
        for rule in _rules(path, schema):
            if rule.name in rules:
                raise ConfigError(
                    "policy.duplicate",
                    f"{folder}: two rules have the @id '{rule.name}': {rules[rule.name].place} "
                    f"and {rule.place}",
                    remedy="give each rule its own @id",
                    file=str(path),
                )
            rules[rule.name] = rule
    return tuple(rules.values())


def policy_set(rules: dict[str, dict[str, Any]]) -> cedarpy.PolicySet:
    """Statements by name, parsed once."""
    record = {"staticPolicies": rules, "templates": {}, "templateLinks": []}
    return cedarpy.PolicySet.from_json_str(json.dumps(record))


def context_attributes(rules: Iterable[Rule]) -> frozenset[str] | None:
    """The attributes of ``context`` that rules speak of; None if one takes it as a whole."""
    found = {name for rule in rules for name in _spoken_of(rule.content["conditions"])}
    return None if None in found else frozenset(name for name in found if name is not None)


def _spoken_of(node: Any) -> Iterator[str | None]:
    if isinstance(node, list):
        for item in node:
            yield from _spoken_of(item)
    elif node == {"Var": "context"}:
        yield None
    elif isinstance(node, dict):
        access = node.get(".") or node.get("has")
        if isinstance(access, dict) and access.get("left") == {"Var": "context"}:
            yield access["attr"]
        else:
            for item in node.values():
                yield from _spoken_of(item)


def _parsed(statement: str) -> dict[str, Any]:
    record = json.loads(cedarpy.policies_to_json_str(statement))
    (content,) = record["staticPolicies"].values()
    return dict(content)


def _rules(path: Path, schema: cedarpy.Schema) -> Iterator[Rule]:
    """The statements of one file, each parsed and checked against the schema on its own."""
    try:
        text = read_limited(path, _FILE_LIMIT).decode()
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise _rule_error(path, line, "the file is not UTF-8") from error
    for line, position, statement in _statements(text):
        content = _content(path, line, statement)
        checked = cedarpy.validate_policies(statement, schema)
        if not checked.validation_passed:
            reason = checked.errors[0].error.removeprefix("for policy `policy0`, ")
            raise _rule_error(path, line, reason)
        name = content.get("annotations", {}).get("id") or f"{path.name}:{line}:{position}"
        if name.startswith(BUILT_IN):
            raise _rule_error(
                path, line, f"an @id that begins with '{BUILT_IN}' is a built-in rule's"
            )
        try:
            policy_set({name: content})
        except ValueError as error:
            raise _rule_error(path, line, _SIMPLER) from error
        rule = Rule(name, path.name, line, content)
        # Cedar's validator takes `context has NAME` of any name: a misspelt one never holds.
        unknown = sorted((context_attributes([rule]) or frozenset()) - CONTEXT_KINDS.keys())
        if unknown:
            raise _rule_error(path, line, f"context has no attribute '{unknown[0]}'")
        yield rule


def _content(path: Path, line: int, statement: str) -> dict[str, Any]:
    if _too_deep(statement):
        raise _rule_error(path, line, _SIMPLER)
    try:
        record = json.loads(cedarpy.policies_to_json_str(statement))
    except RecursionError as error:
        raise _rule_error(path, line, _SIMPLER) from error
    except ValueError as error:
        raise _rule_error(path, line, str(error)) from error
    if len(record["staticPolicies"]) != 1:
        raise _rule_error(path, line, "a template (?principal, ?resource) is not a rule")
    (content,) = record["staticPolicies"].values()
    return dict(content)


def _too_deep(statement: str) -> bool:
    """Whether a statement is so deep that Cedar's parser, which recurses, could end the process."""
    code = _TOKEN.sub(lambda match: match.group() if match.group() == ";" else " ", statement)
    depth = deepest = 0
    for bracket in _NESTING.findall(code):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest > _DEEPEST or len(_CHAINING.findall(code)) > _LONGEST


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
        remedy=f"correct the rule; context has {_ATTRIBUTES}; resource of 'read' has the columns that "
        "a contract lets rules filter by",
        file=str(path),
        line=line,
    )
