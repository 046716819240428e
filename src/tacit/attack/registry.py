"""The attacks that there are, found by package when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module

from tacit.attack.defences import Defence
from tacit.attack.findings import Attack
from tacit.errors import ConfigError

__all__ = ["PACKAGES", "ROWS", "Cell", "Entry", "load_attacks"]

ROWS: dict[str, str] = {
    "reconstruction": "reconstruction of records",
    "inversion": "model inversion",
    "membership": "membership of a record",
    "property": "property of a site's data",
    "malicious-server": "malicious server",
    "poisoning": "poisoning by a site",
    "metadata": "metadata on the network",
    "formal-epsilon": "formal epsilon",
}
"""The rows of the report, in order, with their titles."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "reconstruction": ("reconstruction", "malicious-server"),
    "inversion": ("inversion",),
    "membership": ("membership",),
    "property": ("property",),
    "audit": ("formal-epsilon",),
    "poisoning": ("poisoning",),
    "protocol": ("malicious-server",),
    "metadata": ("metadata",),
}
"""Packages below ``tacit.attack`` that export ``ATTACKS``, and the rows that they are for."""

COSTS = {
    "reconstruction": 8.0,
    "inversion": 1.0,
    "membership": 8.0,
    "property": 2.0,
    "malicious-server": 4.0,
    "poisoning": 8.0,
    "metadata": 1.0,
    "formal-epsilon": 2.0,
}
"""How long one cell takes, relative to the others."""

COLUMN_COSTS: dict[Defence, float] = {
    "plain": 1.0,
    "clipping": 1.0,
    "masking": 2.5,
    "noise": 4.0,
    "tacit": 4.0,
}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
EXTRAS = ("torch", "jinja2", "matplotlib")


@dataclass(frozen=True, slots=True)
class Entry:
    """An attack and the module that exports it, so that a worker finds it again."""

    module: str
    attack: Attack


@dataclass(frozen=True, slots=True)
class Cell:
    """One attack under one defence."""

    entry: Entry
    defence: Defence

    @property
    def name(self) -> str:
        """Unique among the cells of a suite; the stem of its file."""
        return f"{self.entry.attack.name}-{self.defence}"

    @property
    def cost(self) -> float:
        """Relative time, by experience with its row and its column."""
        return COSTS.get(self.entry.attack.row, 1.0) * COLUMN_COSTS[self.defence]


def load_attacks(only: Collection[str] = (), modules: Sequence[str] = ()) -> tuple[Entry, ...]:
    """The attacks of the rows in ``only``; of all rows if that is empty.

    Args:
        only: Rows.
        modules: Where to look instead of in ``PACKAGES``: names of modules that export ``ATTACKS``.

    Raises:
        ConfigError: A row is not known, a package lacks an optional dependency, or two attacks share a name.
    """
    for row in only:
        if row not in ROWS:
            raise ConfigError(
                "attack.row",
                f"there is no row {row!r} in the report",
                remedy=f"choose from: {', '.join(ROWS)}",
            )
    names = modules or [
        f"tacit.attack.{package}"
        for package, rows in PACKAGES.items()
        if not only or set(rows) & set(only)
    ]
    entries = [
        Entry(name, attack)
        for name in names
        for attack in attacks_of(name)
        if not only or attack.row in only
    ]
    _check(entries)
    return tuple(entries)


def attacks_of(module: str) -> tuple[Attack, ...]:
    """What a module, or its submodule ``attacks``, exports as ``ATTACKS``.

    Raises:
        ConfigError: There is no such module, or it needs a package that is not installed.
    """
    try:
        found = import_module(module)
        if not hasattr(found, "ATTACKS"):
            found = import_module(f"{module}.attacks")
        return tuple(found.ATTACKS)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing in (module, f"{module}.attacks"):
            raise ConfigError(
                "attack.module",
                f"there is no module {module!r} that exports ATTACKS",
                remedy="correct the name, or install tacit anew if it is one of its own",
            ) from error
        if missing.partition(".")[0] in EXTRAS:
            raise ConfigError(
                "attack.extra",
                f"the attacks need {missing}, which is not installed",
                remedy="pip install 'tacit[torch,report]'",
            ) from error
        raise


def _check(entries: Iterable[Entry]) -> None:
    known: dict[str, str] = {}
    for entry in entries:
        attack = entry.attack
        fits = NAME.fullmatch(attack.name) is not None and attack.row in ROWS
        if not fits or attack.name in known:
            raise ConfigError(
                "attack.name",
                f"{entry.module} exports an attack {attack.name!r} of row {attack.row!r}, whose name or row "
                "does not fit",
                remedy=f"names are unique, without spaces or slashes; rows are {', '.join(ROWS)}",
            )
        known[attack.name] = entry.module
