"""``tacit policy diff``: every decision that differs between two versions of a policy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from tacit.errors import ConfigError
from tacit.policy.cedar import Policy
from tacit.policy.describe import conditions, headline, short_name
from tacit.policy.diff import Difference, Version, compare, value_kinds
from tacit.policy.domain import Value
from tacit.policy.folder import PolicyFolder
from tacit.policy.rows import parse_datetime
from tacit.show import console, plain
from tacit.trust.roster import Roster

__all__ = ["diff", "print_json"]

CHANGED = 1
LONG = 20_000
"""From how many requests on a comparison shows a bar."""
_INTEGER = re.compile(r"-?[0-9]{1,20}")


def diff(
    old: Path,
    new: Path,
    *,
    roster: Path | None = None,
    only: Sequence[str] = (),
    exit_code: bool = False,
    as_json: bool = False,
) -> int:
    """Prints every decision that differs between two versions of a policy; returns the exit code.

    Args:
        old: A site folder, or a folder of rules.
        new: The same kind of folder.
        roster: A ``federation.toml``: leader and helpers are in its regions only.
        only: ``NAME=VALUE``: compare for these values of an attribute only.
        exit_code: Whether the exit code is 1 where a decision changes.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: A file is wrong, or the versions cannot be compared exactly.
    """
    versions = _version(old), _version(new)
    if bool(versions[0].contracts) != bool(versions[1].contracts):
        raise ConfigError(
            "policy.diff",
            f"{old} and {new} are not of one kind: one of them has contracts",
            remedy="pass two site folders, or two folders of rules",
        )
    kinds = value_kinds(*versions)
    regions: set[str] = set()
    if roster is not None:
        regions = {member.region for member in Roster.load(roster).members}
    with _bar(quiet=as_json) as tell:
        found = compare(
            *versions, regions=sorted(regions), only=_restrictions(only, kinds), progress=tell
        )
    if as_json:
        print_json(_difference_record(found, kinds))
    else:
        _print_difference(found, kinds)
    return CHANGED if exit_code and found.changes else 0


def _version(path: Path) -> Version:
    if (path / "site.toml").is_file():
        site = PolicyFolder.load(path)
        return Version(site.policy, site.contracts, site.region)
    if any(path.glob("*.cedar")):
        return Version(Policy.load(path), {}, "")
    raise ConfigError(
        "policy.diff",
        f"{path} is neither a site folder nor a folder of rules",
        remedy="pass a folder that holds site.toml, or one that holds *.cedar files",
        file=str(path),
    )


def _restrictions(only: Sequence[str], kinds: Mapping[str, str]) -> dict[str, tuple[Value, ...]]:
    names = {short_name(name): name for name in (*kinds, "principal", "resource")}
    found: dict[str, tuple[Value, ...]] = {}
    for item in only:
        short, _, text = item.partition("=")
        name = names.get(short)
        value = None if name is None else _parsed(text, kinds.get(name, "String"))
        if name is None or value is None:
            raise ConfigError(
                "policy.only",
                f"--only {item}: "
                + (f"not a {kinds.get(name)}" if name else f"there is no attribute '{short}'"),
                remedy=f"write NAME=VALUE with one of: {', '.join(sorted(names))}",
            )
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), value)))
    return found


def _parsed(text: str, kind: str) -> Value:
    if kind == "Bool":
        return {"true": True, "false": False}.get(text)
    if kind == "Set<String>":
        return frozenset(part for part in text.split(",") if part)
    if kind == "Long":
        return int(text) if _INTEGER.fullmatch(text) else None
    if kind == "datetime":
        moment = parse_datetime(text)
        return None if moment is None else int(moment.timestamp() * 1000)
    return text


def _difference_record(found: Difference, kinds: Mapping[str, str]) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "changes": [
            {
                "action": change.action,
                "from": "deny" if change.allowed else "allow",
                "to": "allow" if change.allowed else "deny",
                "where": conditions(change, found, kinds),
                "before": list(change.before),
                "after": list(change.after),
                "requests": change.requests,
            }
            for change in found.changes
        ],
    }


def _print_difference(found: Difference, kinds: Mapping[str, str]) -> None:
    out = console()
    said = ""
    for change in found.changes:
        head = headline(change)
        if head != said:
            out.print(plain(head, "bold green" if change.allowed else "bold red"))
            said = head
        where = conditions(change, found, kinds)
        text = ", ".join(f"{name} = {value}" for name, value in where.items())
        out.print(plain(f"  for {text}" if text else "  always"))
    tried = f"{found.requests} requests stand for all there can be"
    if found.changes:
        out.print(plain(f"{tried}; every other decision is the same", "dim"))
    else:
        out.print(plain(f"no decision changes ({tried})", "bold green"))


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar for long work, in a terminal."""
    out = console(error=True)
    if quiet or not out.is_terminal:
        yield lambda _done, _of: None
        return
    columns = (TextColumn("comparing"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=out, transient=True) as bar:
        task = bar.add_task("comparing", total=None, visible=False)
        yield lambda done, of: bar.update(task, completed=done, total=of, visible=of > LONG)


def print_json(record: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    console().print(json.dumps(record, indent=2), markup=False, soft_wrap=True)
