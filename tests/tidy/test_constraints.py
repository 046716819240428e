"""constraints.txt pins all that tacit, its extras and its build need, and nothing else."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)")


def read_pins(text: str) -> dict[str, str]:
    """Name -> version; every line is a comment, empty, or ``canonical-name==public-version``."""
    pins: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = PIN.fullmatch(line)
            assert match, f"not an exact pin of a public version: {line}"
            assert match[1] not in pins, f"pinned twice: {line}"
            pins[match[1]] = match[2]
    return pins


def declared() -> list[str]:
    """What pyproject.toml asks for: dependencies, extras and the build backend."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    return [
        *project["project"]["dependencies"],
        *(line for extra in extras for line in extra),
        *project["build-system"]["requires"],
    ]


def required(lines: Iterable[str]) -> set[str]:
    """The transitive closure of ``lines``, as the installed distributions declare it.

    A distribution that is not installed (the build backend, where pip isolated it) ends its branch.
    """
    todo = [Requirement(line) for line in lines]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            todo += [
                child
                for child in map(Requirement, _requires(name))
                if child.marker is None or child.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in seen}


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def installed() -> dict[str, str]:
    return {
        canonicalize_name(distribution.metadata["Name"]): Version(distribution.version).public
        for distribution in metadata.distributions()
    }


PINS = read_pins((ROOT / "constraints.txt").read_text("utf-8"))
REQUIRED = required(declared())


def test_everything_required_is_pinned() -> None:
    assert REQUIRED - PINS.keys() == set()


def test_the_closure_is_transitive() -> None:
    direct = {canonicalize_name(Requirement(line).name) for line in declared()}
    assert {"cffi", "dm-tree", "pydantic-core", "sympy", "grimp"} <= REQUIRED - direct


def test_a_lost_pin_is_found() -> None:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    without = read_pins(re.sub(r"(?m)^cffi==.*\n", "", text))
    assert REQUIRED - without.keys() == {"cffi"}


def test_nothing_else_is_pinned() -> None:
    """A pin of something absent here belongs to another platform (the CUDA build of torch)."""
    assert (PINS.keys() & installed().keys()) - REQUIRED == set()


def test_this_environment_is_the_pinned_one() -> None:
    """make setup installs exactly these versions; a local build tag such as +cpu does not count."""
    here = installed()
    wrong = {
        name: (here[name], PINS[name])
        for name in REQUIRED & here.keys() & PINS.keys()
        if here[name] != PINS[name]
    }
    assert wrong == {}
