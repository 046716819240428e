"""Which rows a policy lets a run use: what is left of its rules once all but the row is known.

Cedar's partial evaluation is outside its promise of stability, hence nothing here trusts its form: any
residual that is not known refuses the run, and a property test compares filters with full evaluation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NoReturn

from tacit.errors import ConfigError
from tacit.types import Digest

__all__ = [
    "Apply",
    "Cell",
    "Expression",
    "Like",
    "Literal",
    "RowFilter",
    "parse_datetime",
    "row_filter",
]

Scalar = bool | int | str | datetime
ROW = {"unknown": [{"Value": "resource"}]}
NEGATED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
COMPARISONS = frozenset(NEGATED)
_DATETIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d):(\d\d)(?:\.(\d{3}))?(?:Z|([+-])(\d\d)(\d\d)))?"
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; a ``datetime`` is in UTC and whole milliseconds."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Cell:
    """The row's value in a column; null where the cell is empty.

    Args:
        column: Name of the column.
        kind: Its Cedar type: ``String``, ``Long``, ``Bool`` or ``datetime``.
    """

    column: str
    kind: str


@dataclass(frozen=True, slots=True)
class Like:
    """Whether a text matches a pattern as a whole.

    Args:
        text: What is matched.
        pattern: Literal parts, and None for any number of any characters.
    """

    text: Expression
    pattern: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator on its arguments.

    Args:
        operator: ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``&&``, ``||``, ``!``; ``in``: whether the
            first argument is one of those that follow; ``has``: whether the cell is not empty;
            ``if``: condition, then, else.
        arguments: As many as the operator takes.
    """

    operator: str
    arguments: tuple[Expression, ...]


Expression = Literal | Cell | Like | Apply


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows may be used: those for which some permit holds and no forbid does.

    A row is left out as well if any of the rules reaches an empty cell that it compares, as Cedar
    cannot evaluate the rule then: operators are evaluated from left to right, ``&&``, ``||`` and ``if``
    only as far as they need, and every other operator is null where an argument is.

    Args:
        permits: One condition for each permit; without any, no row is used.
        forbids: One condition for each forbid.
    """

    permits: tuple[Expression, ...]
    forbids: tuple[Expression, ...]
    text: str = field(init=False)
    """The condition for people, in Cedar's syntax."""

    def __post_init__(self) -> None:
        depth = int(len(self.permits) > 1 or bool(self.forbids))
        permits = " || ".join(_text(item, depth) for item in self.permits) or "false"
        forbids = [f"!({_text(item)})" for item in self.forbids]
        if self.permits == (Literal(True),) and forbids:
            text = " && ".join(forbids)
        else:
            bracket = len(self.permits) > 1 and forbids
            text = " && ".join([f"({permits})" if bracket else permits, *forbids])
        object.__setattr__(self, "text", text)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it speaks of, in order of their names."""
        found = {name for item in (*self.permits, *self.forbids) for name in _cells(item)}
        return tuple(sorted(found))

    @property
    def keeps_none(self) -> bool:
        """Whether no row whatever can be used."""
        never = all(item == Literal(False) for item in self.permits)
        return never or Literal(True) in self.forbids

    @property
    def digest(self) -> Digest:
        """SHA-256 of the conditions."""
        content = [[_text(item) for item in part] for part in (self.permits, self.forbids)]
        return Digest(hashlib.sha256(json.dumps(["tacit rows v1", *content]).encode()).digest())

    def keeps(self, row: Mapping[str, Scalar | None]) -> bool:
        """Whether one row may be used: the meaning of the filter, and no way to filter a data set.

        Args:
            row: Values by column; a column that is not there is empty.
        """
        permits = [_value(item, row) for item in self.permits]
        forbids = [_value(item, row) for item in self.forbids]
        return None not in (*permits, *forbids) and any(permits) and not any(forbids)


def row_filter(
    residuals: Sequence[tuple[str, Mapping[str, Any]]],
    dataset: str,
    columns: Mapping[str, str],
    *,
    consent: bool,
) -> RowFilter | None:
    """What partial evaluation left over, for one data set; None if every row may be used.

    Args:
        residuals: Name and place of every rule for people, and its residual in Cedar's JSON form.
        dataset: Name of the data set that all rows are of.
        columns: The columns of it that rules can speak of, with their Cedar types.
        consent: Whether rows need a permit: whether the data set has a consent column.

    Raises:
        ConfigError: A rule speaks of a column that the data set lacks, or asks for more of a row than a
            filter can do; names the rule.
    """
    parts: dict[str, list[Expression]] = {"permit": [], "forbid": []}
    for name, residual in residuals:
        if residual["effect"] == "permit" and not consent:
            continue  # Every row is permitted.
        reader = _Reader(name, dataset, columns)
        condition: Expression = Literal(True)
        for clause in residual["conditions"]:
            body = reader.read(clause["body"])
            condition = _and(condition, body if clause["kind"] == "when" else _not(body))
        if condition != Literal(False):
            parts[residual["effect"]].append(condition)
    permits, forbids = (tuple(sorted(set(parts[key]), key=_text)) for key in ("permit", "forbid"))
    found = RowFilter(permits if consent else (Literal(True),), forbids)
    return None if (found.permits, found.forbids) == ((Literal(True),), ()) else found


class _Reader:
    """Reads residuals of one rule; everything that it does not know is refused."""

    def __init__(self, rule: str, dataset: str, columns: Mapping[str, str]) -> None:
        self._rule = rule
        self._dataset = dataset
        self._columns = columns
        self._readers: dict[str, Callable[[Any], Expression]] = {
            "Value": self._literal,
            "datetime": lambda node: Literal(self._datetime(node[0])),
            "neg": self._negative,
            ".": self._cell,
            "has": lambda node: Apply("has", (self._cell(node),)),
            "!": lambda node: _not(self.read(node["arg"])),
            "&&": lambda node: self._shortened("&&", node),
            "||": lambda node: self._shortened("||", node),
            "==": self._equal,
            "!=": lambda node: _not(self._equal(node)),
            "in": self._in,
            "is": self._is,
            "contains": self._contains,
            "like": self._like,
            "if-then-else": self._choice,
            **{operator: self._comparison(operator) for operator in ("<", "<=", ">", ">=")},
        }

    def read(self, node: Any) -> Expression:
        """One expression of Cedar's JSON form."""
        if not isinstance(node, dict) or len(node) != 1:
            self._refuse("an expression that is not known")
        ((kind, content),) = node.items()
        reader = self._readers.get(kind)
        if reader is None:
            self._refuse(f"'{kind}'")
        return reader(content)

    def _literal(self, value: Any) -> Expression:
        if isinstance(value, dict) and value.get("__extn", {}).get("fn") == "datetime":
            return Literal(self._datetime({"Value": value["__extn"]["arg"]}))
        if not isinstance(value, bool | int | str):
            self._refuse("a constant of another type than bool, long, string and datetime")
        return Literal(value)

    def _negative(self, node: Any) -> Expression:
        inner = self.read(node["arg"])
        if not isinstance(inner, Literal) or type(inner.value) is not int:
            self._refuse("'-'")
        return Literal(-inner.value)

    def _datetime(self, node: Any) -> datetime:
        found = parse_datetime(node.get("Value", "")) if isinstance(node, dict) else None
        if found is None:
            self._refuse("a datetime that is computed")
        return found

    def _cell(self, node: Any) -> Cell:
        if node["left"] != ROW:
            self._refuse("an attribute of something else than the row")
        name = str(node["attr"])
        if name not in self._columns:
            raise ConfigError(
                "policy.row-column",
                f"rule {self._rule} speaks of resource.{name}, which data set '{self._dataset}' does "
                "not have",
                remedy=f'let the rule ask for another data set (resource in Dataset::"..."), or give '
                f"the contract a column '{name}' with filter = true",
            )
        return Cell(name, self._columns[name])

    def _comparison(self, operator: str) -> Callable[[Any], Expression]:
        return lambda node: Apply(operator, (self.read(node["left"]), self.read(node["right"])))

    def _equal(self, node: Any) -> Expression:
        sides = (node["left"], node["right"])
        if ROW in sides:
            other = sides[1 - sides.index(ROW)]
            # A row is no data set, and has no name of its own that a rule could know.
            if _entity(other, "Dataset") is None:
                self._refuse("whether the row is a certain one")
            return Literal(False)
        left, right = (self.read(side) for side in sides)
        if isinstance(left, Literal) and isinstance(right, Literal):
            return Literal((type(left.value), left.value) == (type(right.value), right.value))
        return Apply("==", (left, right))

    def _shortened(self, operator: str, node: Any) -> Expression:
        """As Cedar evaluates it: what the left side decides, the right side is not asked for."""
        left = self.read(node["left"])
        if left == Literal(operator == "||"):
            return left
        right = self.read(node["right"])
        return _and(left, right) if operator == "&&" else _or(left, right)

    def _in(self, node: Any) -> Expression:
        right = node["right"]
        options = right.get("Set", [right])
        names = [_entity(option, "Dataset") for option in options]
        if node["left"] != ROW or None in names:
            self._refuse("'in' of something else than the row in a data set")
        return Literal(self._dataset in names)

    def _is(self, node: Any) -> Expression:
        if node["left"] != ROW:
            self._refuse("'is' of something else than the row")
        inside = self._in({"left": ROW, "right": node["in"]}) if "in" in node else Literal(True)
        return inside if node["entity_type"] == "Row" else Literal(False)

    def _contains(self, node: Any) -> Expression:
        left = node["left"]
        values = left.get("Set")
        if values is None and isinstance(left.get("Value"), list):
            values = [{"Value": item} for item in left["Value"]]
        if values is None:
            self._refuse("'contains' of a set that is computed")
        options = sorted((self.read(value) for value in values), key=_text)
        return Apply("in", (self.read(node["right"]), *options))

    def _like(self, node: Any) -> Expression:
        parts: list[str | None] = []
        for part in node["pattern"]:
            if part == "Wildcard":
                parts.append(None)
            elif parts and parts[-1] is not None:
                parts[-1] += part["Literal"]
            else:
                parts.append(part["Literal"])
        return Like(self.read(node["left"]), tuple(parts))

    def _choice(self, node: Any) -> Expression:
        condition = self.read(node["if"])
        if isinstance(condition, Literal):
            return self.read(node["then"] if condition.value is True else node["else"])
        return Apply("if", (condition, self.read(node["then"]), self.read(node["else"])))

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            "policy.row-rule",
            f"rule {self._rule} asks for {what}, which a row filter cannot do",
            remedy="for rows use ==, !=, <, <=, >, >=, &&, ||, !, like, has, if and [...].contains(...) "
            "on cells and constants",
        )


def _entity(node: Any, kind: str) -> str | None:
    """The name in a constant entity of a type; None for anything else."""
    value = node.get("Value") if isinstance(node, dict) else None
    entity = value.get("__entity") if isinstance(value, dict) else None
    return str(entity["id"]) if entity and entity["type"] == kind else None


def _and(left: Expression, right: Expression) -> Expression:
    if isinstance(left, Literal):
        return right if left.value is True else left
    return left if right == Literal(True) else Apply("&&", (left, right))


def _or(left: Expression, right: Expression) -> Expression:
    if isinstance(left, Literal):
        return left if left.value is True else right
    return left if right == Literal(False) else Apply("||", (left, right))


def _not(item: Expression) -> Expression:
    if isinstance(item, Literal):
        return Literal(item.value is not True)
    if isinstance(item, Apply) and item.operator == "!":
        return item.arguments[0]
    if isinstance(item, Apply) and item.operator in NEGATED:
        return Apply(NEGATED[item.operator], item.arguments)
    return Apply("!", (item,))


def parse_datetime(text: Any) -> datetime | None:
    """A ``datetime`` literal of Cedar, RFC 80; None if it is none."""
    match = _DATETIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second, milli = (int(part or 0) for part in match.groups()[:7])
    shift = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
    try:
        moment = datetime(year, month, day, hour, minute, second, milli * 1000, tzinfo=UTC)
        return moment + shift if match[8] == "-" else moment - shift
    except (ValueError, OverflowError):
        return None


def _cells(item: Expression) -> Iterator[str]:
    if isinstance(item, Cell):
        yield item.column
    elif isinstance(item, Like):
        yield from _cells(item.text)
    elif isinstance(item, Apply):
        for argument in item.arguments:
            yield from _cells(argument)


# --- text -------------------------------------------------------------------------------------------


def _text(item: Expression, depth: int = 0) -> str:
    """Cedar's syntax; operators within others are in brackets."""
    if isinstance(item, Literal):
        return _constant(item.value)
    if isinstance(item, Cell):
        plain = re.fullmatch(r"[A-Za-z_]\w*", item.column, re.ASCII)
        return f"resource.{item.column}" if plain else f"resource[{_quoted(item.column)}]"
    if isinstance(item, Like):
        parts = ["*" if p is None else _quoted(p)[1:-1].replace("*", "\\*") for p in item.pattern]
        text = f'{_text(item.text, 2)} like "{"".join(parts)}"'
        return f"({text})" if depth > 1 else text
    return _applied(item, depth)


def _applied(item: Apply, depth: int) -> str:
    operator, arguments = item.operator, item.arguments
    if operator == "!":
        inner = _text(arguments[0])
        return f"!{inner}" if isinstance(arguments[0], Cell) else f"!({inner})"
    if operator == "in":
        options = ", ".join(_text(option) for option in arguments[1:])
        return f"[{options}].contains({_text(arguments[0])})"
    if operator == "if":
        condition, then, other = (_text(argument, 1) for argument in arguments)
        text = f"if {condition} then {then} else {other}"
    elif operator in ("&&", "||"):
        text = f" {operator} ".join(_text(part, 1) for part in _chain(item, operator))
    elif operator == "has":
        name = _text(arguments[0]).removeprefix("resource")
        text = f"resource has {name[1:] if name[0] == '.' else name[1:-1]}"
    else:
        text = f" {operator} ".join(_text(argument, 2) for argument in arguments)
    needed = 1 if operator in ("&&", "||", "if") else 2
    return f"({text})" if depth >= needed else text


def _chain(item: Expression, operator: str) -> Iterator[Expression]:
    """The operands of ``a && (b && c)`` and ``(a && b) && c``, which mean the same."""
    if isinstance(item, Apply) and item.operator == operator:
        for argument in item.arguments:
            yield from _chain(argument, operator)
    else:
        yield item


def _constant(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        day = (value.hour, value.minute, value.second, value.microsecond) == (0, 0, 0, 0)
        precision = "milliseconds" if value.microsecond else "seconds"
        text = value.replace(tzinfo=None).isoformat(timespec=precision)
        return f'datetime("{value.date().isoformat() if day else text + "Z"}")'
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# --- meaning ----------------------------------------------------------------------------------------


def _value(item: Expression, row: Mapping[str, Scalar | None]) -> Scalar | None:
    """The value for one row; None is null, and stands for what Cedar cannot evaluate."""
    if isinstance(item, Literal):
        return item.value
    if isinstance(item, Cell):
        value = row.get(item.column)
        whole_day = isinstance(value, date) and not isinstance(value, datetime)
        return datetime.fromisoformat(f"{value}T00:00:00+00:00") if whole_day else value
    if isinstance(item, Like):
        text = _value(item.text, row)
        pattern = "".join(".*" if part is None else re.escape(part) for part in item.pattern)
        return None if text is None else re.fullmatch(pattern, str(text), re.DOTALL) is not None
    return _result(item, row)


def _result(item: Apply, row: Mapping[str, Scalar | None]) -> Scalar | None:
    operator, arguments = item.operator, item.arguments
    first = _value(arguments[0], row)
    if operator == "has":
        return first is not None
    if first is None:
        return None
    if operator == "!":
        return not first
    if operator in ("&&", "||"):
        return _value(arguments[1], row) if first == (operator == "&&") else first
    if operator == "if":
        return _value(arguments[1 if first else 2], row)
    return _related(operator, first, [_value(argument, row) for argument in arguments[1:]])


def _related(operator: str, first: Scalar, others: Sequence[Scalar | None]) -> bool | None:
    if None in others:
        return None
    if operator == "in":
        return any(type(first) is type(other) and first == other for other in others)
    return _compared(operator, first, others[0])


def _compared(operator: str, left: Any, right: Any) -> bool:
    if operator in ("==", "!="):
        return bool(left == right) == (operator == "==")
    if operator in ("<", "<="):
        return bool(left < right) or (operator == "<=" and bool(left == right))
    return not _compared("<=" if operator == ">" else "<", left, right)
