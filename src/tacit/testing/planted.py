"""Planted bugs: a change of a few characters in the source of one production function, while a test lasts."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Change", "plant"]

Change = tuple[Any, str, str]
"""A function, what stands in its source exactly once, and what is to stand there instead."""


class _Patch(Protocol):
    def setattr(self, target: Any, name: str, value: Any, /) -> None: ...


def plant(patch: _Patch, changes: Sequence[Change]) -> None:
    """Compiles changed functions and puts their code in the place of the real code.

    Args:
        patch: pytest's ``monkeypatch``, which takes them back.
        changes: Several of one function are made one after the other.

    Raises:
        AssertionError: A text is not, or not once, in a function's source: the function has changed.
    """
    changed: dict[Any, str] = {}
    for function, old, new in changes:
        source = changed.get(function) or textwrap.dedent(inspect.getsource(function))
        assert source.count(old) == 1, f"'{old}' is not, or not once, in {function.__qualname__}"
        changed[function] = source.replace(old, new)
    for function, source in changed.items():
        made: dict[str, Any] = {}
        exec(compile(source, inspect.getfile(function), "exec"), function.__globals__, made)  # noqa: S102
        patch.setattr(function, "__code__", made[function.__name__].__code__)
