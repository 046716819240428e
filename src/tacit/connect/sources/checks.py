"""Typed errors of data sources, and the checks that all sources share.

Arrow's and the drivers' own messages quote data and logins. They are replaced, and not even chained.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.sources.base import BATCH_ROWS, Piece
from tacit.errors import ConfigError, LocalProtocolError, TacitError

__all__ = [
    "BROKEN",
    "attempt",
    "cell_error",
    "check_columns",
    "check_wanted",
    "guarded",
    "missing_error",
    "optional",
    "source_error",
    "steady",
    "take",
]

BROKEN: tuple[type[Exception], ...] = (pa.ArrowException, OSError, ValueError)
"""What Arrow raises for data that it cannot read."""

Item = TypeVar("Item")
Explain = Callable[[Exception], TacitError]


def attempt(
    action: Callable[[], Item], explain: Explain, broken: tuple[type[Exception], ...] = BROKEN
) -> Item:
    """The result of ``action``; of its errors, only what ``explain`` makes of them gets out."""
    try:
        return action()
    except MemoryError:
        raise  # Arrow's is an ArrowException, too; but the data are not at fault
    except broken as error:
        failure = explain(error)
    # Outside of the except clause, so that the original is not even the context of the new error.
    raise failure


def guarded(
    start: Callable[[], Iterator[Item]],
    explain: Explain,
    broken: tuple[type[Exception], ...] = BROKEN,
) -> Iterator[Item]:
    """Passes items on; every error, at the start or on the way, becomes what ``explain`` makes of it."""
    iterator = attempt(start, explain, broken)
    while True:
        items = attempt(lambda: list(take(iterator)), explain, broken)
        if not items:
            return
        yield from items


def take(iterator: Iterator[Item]) -> Iterator[Item]:
    """The next item, if there is one."""
    for item in iterator:
        yield item
        return


def optional(module: str, package: str) -> ModuleType:
    """A module that not every installation has.

    Raises:
        ConfigError: It is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        pass
    raise ConfigError(
        "connect.missing-extra",
        f"this kind of server needs the Python module '{module}', which is not installed",
        remedy=f"run: pip install '{package}'",
    )


def check_wanted(declared: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuses a request that cannot be answered."""
    if not wanted or not set(wanted) <= set(declared) or len(set(wanted)) != len(wanted):
        raise LocalProtocolError(
            "connect.wanted", "the wanted columns are not a part of the declared ones"
        )


def check_columns(place: str, found: Sequence[str], declared: Sequence[str]) -> None:
    """Every declared column is there once, and no other.

    Raises:
        ConfigError: Names the place and the first column for which this is not so.
    """
    known, present = set(declared), Counter(found)
    if known.isdisjoint(present):
        # Probably no header at all: then these "names" are data and must not be shown.
        raise source_error(place, "no declared column is in the header")
    # First, for the same reason: with a declared name missing, the others may be data.
    for name in declared:
        if name not in present:
            raise _column_error(
                place, name, "is in the contract but not in the data", "correct its name"
            )
    for name in found:
        if name not in known:
            raise _column_error(
                place,
                name,
                "is in the data but not in the contract",
                "declare it, if only to drop it",
            )
        if present[name] > 1:
            raise _column_error(place, name, "is in the data twice", "rename or remove one")


def steady(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Passes pieces on, none larger than ``BATCH_ROWS``, while their columns keep their types.

    Raises:
        ConfigError: Names the place and the column that is stored otherwise than before.
    """
    before: pa.Schema | None = None
    place = ""
    for piece in pieces:
        schema = piece.batch.schema
        if before is None:
            before, place = schema, piece.place
        if schema.types != before.types:
            raise _changed(piece, before, place)
        for start in range(0, piece.batch.num_rows, BATCH_ROWS):
            part = piece.batch.slice(start, BATCH_ROWS)
            yield Piece(piece.place, piece.first_row + start, part)


def _changed(piece: Piece, schema: pa.Schema, place: str) -> ConfigError:
    pairs = zip(piece.batch.schema, schema, strict=True)
    now, before = next((now, before) for now, before in pairs if now.type != before.type)
    then = "before" if piece.place == place else f"in {place}"
    return ConfigError(
        "connect.type",
        f"{piece.place}: column '{before.name}' is stored as {now.type} here, "
        f"and as {before.type} {then}",
        remedy="write all of the data with the same types; nothing was used",
        file=piece.place,
        column=before.name,
    )


def cell_error(place: str | Path, row: int, column: str, problem: str) -> ConfigError:
    """The error for one bad cell: where it is and what is wrong, never what it holds.

    Args:
        place: The data file, object or table.
        row: 1-based data row; a CSV header does not count.
        column: Column name.
        problem: Completes the sentence "the cell ...".
    """
    return ConfigError(
        "connect.cell",
        f"{place}: data row {row}, column '{column}': the cell {problem}",
        remedy="correct the data or the contract; nothing was used",
        file=str(place),
        row=row,
        column=column,
    )


def source_error(place: str, problem: str, remedy: str = "correct the data file") -> ConfigError:
    """The error for data that cannot be read: where, and what is wrong."""
    return ConfigError(
        "connect.source",
        f"{place}: {problem}",
        remedy=f"{remedy}; nothing was used",
        file=place,
    )


def missing_error(place: str, what: str, key: str) -> ConfigError:
    """The error for data that are not there.

    Args:
        place: Where they should be.
        what: ``data file``, ``object`` and the like.
        key: The key of the contract's server that leads there.
    """
    return ConfigError(
        "connect.missing-file",
        f"{place}: there is no such {what}",
        remedy=f"correct 'server.{key}' in the contract",
        file=place,
    )


def _column_error(place: str, column: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(
        "connect.column",
        f"{place}: column '{column}' {problem}",
        remedy=remedy,
        file=place,
        column=column,
    )
