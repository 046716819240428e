"""Changes of a policy in words: few values as they are, numbers as ranges, sets by what they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import combinations

from tacit.policy.diff import Change, Difference
from tacit.policy.domain import FRESH, Value
from tacit.policy.request import EPOCH, UNBOUNDED_EPSILON

__all__ = ["conditions", "headline", "short_name"]

LISTED = 6
SETS_TRIED = 256


def headline(change: Change) -> str:
    """What changes: ``deny -> allow by 'research'``."""
    what = {"train": "a run", "attack": "an attack inside the site", "read": "a row"}[change.action]
    words = ("left out", "kept") if change.action == "read" else ("deny", "allow")
    old, new = words[not change.allowed], words[change.allowed]
    return f"{what}: {_by(old, change.before)} -> {_by(new, change.after)}"


def conditions(change: Change, difference: Difference, kinds: Mapping[str, str]) -> dict[str, str]:
    """For which requests: a text for every attribute that matters.

    Args:
        change: One of the changes.
        difference: All of them, with the domain.
        kinds: Cedar type of attributes, by name.
    """
    domain = difference.domains[change.action].values
    return {
        short_name(name): _chosen(values, kinds.get(name, "String"))
        if name in difference.only
        else _values(values, domain[name], kinds.get(name, "String"))
        for name, values in change.where.items()
    }


def short_name(name: str) -> str:
    """An attribute as ``--only`` takes it."""
    if name == "resource":
        return "dataset"
    return name.removeprefix("context.")


def _by(word: str, rules: Sequence[str]) -> str:
    return f"{word} by {', '.join(repr(rule) for rule in rules)}" if rules else word


def _chosen(values: Sequence[Value], kind: str) -> str:
    """Values that stand for no others."""
    return " or ".join(
        _set(value)
        if isinstance(value, frozenset)
        else _number(value, kind)
        if kind in ("Long", "datetime")
        else _plain(value)
        for value in values
    )


def _values(values: Sequence[Value], domain: Sequence[Value], kind: str) -> str:
    empty = ["empty"] if None in values else []
    known = [value for value in values if value is not None]
    every = [value for value in domain if value is not None]
    if kind in ("Long", "datetime"):
        parts = list(_ranges(known, every, kind))
    elif kind == "Set<String>":
        parts = [_sets([v for v in known if isinstance(v, frozenset)], every)]
    else:
        others = [value for value in every if value not in known]
        fresh = [v for v in known if isinstance(v, str) and v.startswith(FRESH)]
        if fresh and others and len(others) <= LISTED:
            parts = [f"anything but {' and '.join(map(_plain, others))}"]
        else:
            parts = list(dict.fromkeys(map(_plain, known)))
    return " or ".join([*parts, *empty])


def _plain(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if FRESH not in text:
        return text or '""'
    return "anything else" if text.startswith(FRESH) else text.replace(FRESH, "...")


def _ranges(values: Sequence[Value], domain: Sequence[Value], kind: str) -> Iterator[str]:
    """Neighbouring values of the domain as one range: no rule tells the numbers between them apart."""
    order = {value: number for number, value in enumerate(domain)}
    run: list[Value] = []
    for value in sorted(values, key=lambda item: order[item]):
        if run and order[value] != order[run[-1]] + 1:
            yield _range(run, domain, kind)
            run = []
        run.append(value)
    if run:
        yield _range(run, domain, kind)


def _range(run: Sequence[Value], domain: Sequence[Value], kind: str) -> str:
    # The largest Long there is stands for the price of a run without privacy.
    infinite = domain[-1] == UNBOUNDED_EPSILON
    finite = domain[:-1] if infinite else domain
    low = _number(run[0], kind)
    if infinite and run[-1] == domain[-1]:
        return "infinite" if len(run) == 1 else f"{low} and above, or infinite"
    first, last = run[0] == finite[0], run[-1] == finite[-1]
    if last:
        everything = "finite" if infinite else "anything"
        return everything if first else f"{low} and above"
    # A value stands for all that follow it, up to the next one of the domain.
    following = finite[list(finite).index(run[-1]) + 1]
    high = _number(following - 1 if isinstance(following, int) else following, kind)
    if first:
        return f"{high} and below"
    return low if low == high else f"{low} to {high}"


def _number(value: Value, kind: str) -> str:
    if kind != "datetime" or not isinstance(value, int):
        return str(value)
    moment = EPOCH + timedelta(milliseconds=value)
    text = f"{moment:%Y-%m-%dT%H:%M:%S}"
    return f"{text}.{value % 1000:03d}Z" if value % 1000 else f"{text}Z"


def _sets(values: Sequence[frozenset[str]], domain: Sequence[Value]) -> str:
    chosen = set(values)
    every = [item for item in domain if isinstance(item, frozenset)]
    found = _rule_of(chosen, every) if len(every) <= SETS_TRIED else None
    if found is not None:
        return found
    listed = [_set(value) for value in values[:LISTED]]
    more = [f"{len(values) - LISTED} more sets"] if len(values) > LISTED else []
    return " or ".join([*listed, *more])


def _rule_of(chosen: set[frozenset[str]], every: Sequence[frozenset[str]]) -> str | None:
    """What the chosen sets have in common, and all others have not."""
    elements = sorted(frozenset().union(*every))
    for element in elements:
        having = {item for item in every if element in item}
        if chosen == having:
            return f"with {_plain(element)}"
        if chosen == set(every) - having and not element.startswith(FRESH):
            return f"without {_plain(element)}"
    for size in range(1, len(elements)):
        for group in combinations(elements, size):
            within = {item for item in every if item <= set(group)}
            if chosen in (within, set(every) - within):
                return f"{'' if chosen == within else 'not '}only {_set(frozenset(group))}"
            for element in group:
                if chosen == {item for item in within if element in item}:
                    return f"only {_set(frozenset(group))}, with {_plain(element)}"
    return None


def _set(value: frozenset[str]) -> str:
    return "{" + ", ".join(map(_plain, sorted(value))) + "}"
