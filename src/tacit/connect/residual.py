"""What looks like an identifier in a column that is kept: patterns with checksums, and canaries.

One pass over the bytes of a column finds the few bytes without which no identifier exists (digits and
``- . / : @``). Their positions tell where one may start; exact matchers look only there, and never beyond
the cell's own bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.cells import cell_bytes, cell_offsets, validity
from tacit.connect.patterns import CONTEXT, DETECTORS, IBAN_LENGTHS

__all__ = ["ALL", "CANARY", "Hit", "counts", "scan"]

ALL = tuple(DETECTORS)
CANARY = "canary"

_AT_ONCE = 2**19
"""Bytes per pass, in whole cells: what a pass needs stays in the cache."""

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Hit(NamedTuple):
    """A cell that holds what it should not. Never the value.

    Args:
        row: 0-based position in the column.
        detector: One of ``ALL``, or ``CANARY``.
    """

    row: int
    detector: str


def counts(hits: Iterable[Hit]) -> dict[str, int]:
    """Cells by detector, only those that found any."""
    return dict(sorted(Counter(hit.detector for hit in hits).items()))


def scan(
    column: pa.Array | pa.ChunkedArray,
    detectors: Sequence[str] = ALL,
    canaries: Sequence[str] = (),
) -> list[Hit]:
    """Which cells hold an identifier, in order of rows; each cell and detector at most once.

    Guarantee:
        Every cell is reported in which a detector's exact matcher accepts any place, and no other; so is
        every cell that holds a canary as it stands. What the matchers do not know stays unseen (names,
        addresses, dates in words): a scan without hits proves nothing about free text.
        Checked by tests/property/test_connect_kernels.py::test_the_scan_finds_what_every_matcher_finds_everywhere
        and tests/unit/test_connect_residual.py::test_every_detector_finds_its_identifiers.

    Args:
        column: Text, n cells; nulls hold nothing.
        detectors: Names out of ``ALL``.
        canaries: Texts that must not occur, none of them empty; each costs a search of the whole column.

    Raises:
        ValueError: A detector is unknown, a canary is empty, or the column is not text.
    """
    if unknown := set(detectors) - set(ALL):
        raise ValueError(f"unknown detectors: {', '.join(sorted(unknown))}")
    if not all(canaries):
        raise ValueError("a canary has at least one character")
    marks = [canary.encode() for canary in canaries]
    wanted = frozenset(detectors)
    hits: list[Hit] = []
    first = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        hits += [Hit(first + row, name) for row, name in _found(chunk, wanted, marks)]
        first += len(chunk)
    return hits


def _found(
    cells: pa.Array, wanted: frozenset[str], canaries: Sequence[bytes]
) -> list[tuple[int, str]]:
    """Rows with what they hold, sorted."""
    if pa.types.is_dictionary(cells.type):
        named: dict[int, list[str]] = {}
        for value, name in _found(cells.dictionary, wanted, canaries):
            named.setdefault(value, []).append(name)
        valid = validity(cells.indices)
        places = cells.indices.fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(np.isin(places, list(named)) & valid)
        values = zip(rows.tolist(), places[rows].tolist(), strict=True)
        return [(row, name) for row, value in values for name in named[value]]
    if pa.types.is_null(cells.type):
        return []
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        raise ValueError("only text is scanned")
    found: set[tuple[int, str]] = set()
    for part in _parts(cells):
        found.update(_identifiers(part, wanted))
        found.update(_occurrences(part, canaries))
    return sorted(found)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some cells in a row of a column.

    Args:
        first: Row of the first.
        data: Their bytes and what lies between them.
        starts: int64[n], where each begins in ``data``.
        ends: int64[n], where each ends.
    """

    first: int
    data: npt.NDArray[np.uint8]
    starts: Integers
    ends: Integers


def _parts(cells: pa.Array) -> Iterator[_Part]:
    """Slices of so few bytes that the arrays which a pass makes stay in the cache."""
    offsets = cell_offsets(cells)
    row = 0
    while row < len(cells):
        last = int(np.searchsorted(offsets, offsets[row] + _AT_ONCE, side="right")) - 1
        last = min(max(row + 1, last), row + _AT_ONCE // 4, len(cells))
        text = cell_bytes(cells[row:last])
        low, high = int(offsets[row]), int(offsets[last])
        starts = text.starts - low
        yield _Part(row, text.data[low:high], starts, starts + text.lengths)
        row = last


def _occurrences(part: _Part, canaries: Sequence[bytes]) -> Iterator[tuple[int, str]]:
    if not canaries:
        return
    blob = part.data.tobytes()
    for canary in canaries:
        place = blob.find(canary)
        while place >= 0:
            row = int(np.searchsorted(part.starts, place, side="right")) - 1
            if place + len(canary) <= part.ends[row]:
                yield part.first + row, CANARY
            place = blob.find(canary, place + 1)


def _identifiers(part: _Part, wanted: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Runs the exact matchers of a part at every place where something may start."""
    blob = b""
    for name, places in _candidates(part, wanted):
        if len(places):
            blob = blob or part.data.tobytes()
            for row in _confirmed(part, blob, name, places):
                yield part.first + row, name


def _confirmed(part: _Part, blob: bytes, name: str, places: Integers) -> list[int]:
    """The cells in which ``name`` starts as far before one of the places as ``_BEFORE`` says."""
    detector = DETECTORS[name]
    near, far = _BEFORE.get(name, (0, 0))
    rows = np.searchsorted(part.starts, places, side="right") - 1
    begin, end = part.starts[rows], part.ends[rows]
    first, last = np.maximum(places - far, begin), places - near
    low = np.maximum(first - CONTEXT, begin)
    shortest, longest = detector.sizes
    high = np.minimum(last + longest + CONTEXT, end)
    inside = (places >= 0) & (first <= last) & (first + shortest <= end)
    columns = (column[inside].tolist() for column in (rows, low, high, first - low, last - low))
    found = [-1]
    for row, start, stop, earliest, latest in zip(*columns, strict=True):
        if row != found[-1] and detector.starts_in(blob[start:stop], earliest, latest):
            found.append(row)
    return found[1:]


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of digits, none of them across two cells, in order.

    Args:
        data: The part's bytes.
        begin: Where each begins.
        length: Its digits.
        before: The byte before each; at the very start the first byte.
        gap: Bytes from its end to the next run, 0 if the next cell begins there; one less than runs.
    """

    data: npt.NDArray[np.uint8]
    begin: Integers
    length: Integers
    before: npt.NDArray[np.uint8]
    gap: Integers


def _runs(part: _Part) -> _Runs:
    digit = (part.data - np.uint8(48)) < 10
    edges = np.flatnonzero(digit[1:] != digit[:-1]) + 1
    if len(digit):
        ends = [len(digit)] if digit[-1] else []
        edges = np.concatenate([[0] if digit[0] else [], edges, ends]).astype(np.int64)
    # At nulls too: a run must not go on into what lies beneath one.
    starts = part.starts[(part.starts > 0) & (part.starts < len(digit))]
    across = np.unique(starts[digit[starts] & digit[starts - 1]])
    if len(across):
        edges = np.sort(np.concatenate([edges, across, across]))
    begin = edges[::2]
    length = edges[1::2] - begin
    gap = begin[1:] - begin[:-1] - length[:-1]
    return _Runs(part.data, begin, length, _at(part.data, begin - 1), gap)


def _at(data: npt.NDArray[np.uint8], places: Integers) -> npt.NDArray[np.uint8]:
    """Bytes at places; beyond either end the nearest one, as a matcher will find out."""
    return np.take(data, places, mode="clip") if len(places) else np.zeros(0, dtype=np.uint8)


Candidates = Iterator[tuple[str, Integers]]
"""A detector, and places in ascending order where, or shortly behind where, it may start."""

_BEFORE = {"ipv4": (0, 2), "ipv6": (0, 40), "phone": (0, 4), "us_npi": (3, 8), "medical_record": (3, 40)}  # fmt: skip
"""How many bytes before its places a detector may start, from and to; all others start there."""


def _candidates(part: _Part, wanted: frozenset[str]) -> Candidates:
    """Every place where a matcher of ``wanted`` could accept is among these; so are some of others."""
    signs: tuple[Callable[[_Part], Candidates], ...] = (_around_signs,)
    runs: tuple[Callable[[_Runs], Candidates], ...] = (
        _three_runs,
        _long_runs,
        _signed_runs,
        _cards,
    )
    found = [finder(part) for finder in signs]
    if wanted - {"email", "url", "ipv4", "ipv6", "mac"}:
        digits = _runs(part)
        found += [finder(digits) for finder in runs]
    for entries in found:
        yield from (entry for entry in entries if entry[0] in wanted)


def _around_signs(part: _Part) -> Candidates:
    """Identifiers around one of the signs ``@ . : -``."""
    data = part.data
    # Of the signs, the first two are neighbours: less 45 they are below 2, and all others are not.
    places = np.flatnonzero(((data - np.uint8(45)) < 2) | (data == ord(":")) | (data == ord("@")))
    kinds = data[places]
    yield "email", places[kinds == ord("@")] - 1
    dot = places[kinds == ord(".")]
    yield "url", dot[(_at(data, dot - 1) | 32) == ord("w")] - 3
    octet = np.diff(dot)
    yield "ipv4", dot[_repeated((octet >= 2) & (octet <= 4), 2)] - 1
    colon = places[kinds == ord(":")]
    slash = (_at(data, colon + 1) == ord("/")) & (_at(data, colon + 2) == ord("/"))
    yield "url", colon[slash] - 1
    step = np.diff(colon)
    yield "ipv6", colon[np.flatnonzero(step == 1)]
    yield "ipv6", colon[_repeated((step >= 2) & (step <= 5), 5)]
    yield "mac", colon[_repeated(step == 3, 4)] - 2
    dash = places[kinds == ord("-")]
    yield "mac", dash[_repeated(np.diff(dash) == 3, 4)] - 2


def _repeated(flags: Flags, count: int) -> Integers:
    """Where ``count`` flags in a row begin."""
    held = flags[: max(0, len(flags) - count + 1)].copy()
    for shift in range(1, count):
        held &= flags[shift : shift + len(held)]
    return np.flatnonzero(held)


def _three_runs(runs: _Runs) -> Candidates:
    """Identifiers of three runs of digits, the first or the last one of four."""
    four = np.flatnonzero(runs.length == 4)
    last, year = four[four >= 2], four[four < len(runs.length) - 2]
    one, two = runs.length[last - 2], runs.length[last - 1]
    gap, gap_after = runs.gap[last - 2], runs.gap[last - 1]
    tight = (gap == 1) & (gap_after == 1)
    numbered = (one == 3) & (two == 3) & (gap >= 1) & (gap <= 3) & (gap_after == 1)
    begin = runs.begin[last - 2]
    yield "date", begin[tight & (one <= 2) & (two <= 2)]
    yield "us_ssn", begin[tight & (one == 3) & (two == 2)]
    yield "uk_nhs", begin[tight & numbered]
    yield "phone", begin[numbered]
    tight = (runs.gap[year] == 1) & (runs.gap[year + 1] == 1)
    short = (runs.length[year + 1] <= 2) & (runs.length[year + 2] <= 2)
    yield "date", runs.begin[year[tight & short]]


def _long_runs(runs: _Runs) -> Candidates:
    """Identifiers with four or more digits in one run."""
    chosen = np.flatnonzero(runs.length >= 4)
    begin, length = runs.begin[chosen], runs.length[chosen]
    ten = length == 10
    yield "uk_nhs", begin[ten]
    cued = _IN_CUE[runs.before[chosen]]
    yield "us_npi", begin[ten & cued]
    yield "medical_record", begin[(length >= 5) & (length <= 12) & cued]
    start = begin + length - 17
    for place in (0, 4, 8, 12):
        start = start[_ALPHANUMERIC[_at(runs.data, start + place)]]
    yield "vin", start


def _signed_runs(runs: _Runs) -> Candidates:
    """Identifiers with letters or a plus before the first run of digits."""
    letter = runs.begin[((runs.before - np.uint8(65)) < 26) & (runs.length >= 2)]
    country = _COUNTRY[_at(runs.data, letter - 2), _at(runs.data, letter - 1)]
    yield "iban", letter[country] - 2
    plus = np.flatnonzero(runs.before == ord("+"))
    if not len(plus):
        return
    total = np.cumsum(runs.length)
    eighth = np.searchsorted(total, total[plus] - runs.length[plus] + 8)
    plus, eighth = plus[eighth < len(total)], eighth[eighth < len(total)]
    yield "phone", runs.begin[plus[runs.begin[eighth] - runs.begin[plus] <= 32]] - 1


def _cards(runs: _Runs) -> Candidates:
    """Runs of three digits or more, one byte apart, with 13 digits together."""
    chosen = np.flatnonzero(runs.length >= 3)
    total, joined = runs.length[chosen], np.ones(len(chosen), dtype=np.bool_)
    length = np.concatenate([runs.length, np.zeros(4, dtype=np.int64)])
    gap = np.concatenate([runs.gap, np.zeros(5, dtype=np.int64)])
    for shift in range(1, 5):
        group = length[chosen + shift]
        joined = joined & (gap[chosen + shift - 1] == 1) & (group >= 3) & (group <= 7)
        total = total + joined * group
    begin = runs.begin[chosen[total >= 13]]
    yield "credit_card", begin[(_at(runs.data, begin) - np.uint8(50)) < 5]


_ALPHANUMERIC = np.zeros(256, dtype=np.bool_)
_ALPHANUMERIC[[byte for byte in range(128) if chr(byte).isalnum()]] = True
_IN_CUE = _ALPHANUMERIC.copy()
_IN_CUE[list(b"0123456789")] = False
_IN_CUE[list(b" \t\n\r\f\v:#.=-")] = True
_COUNTRY = np.zeros((256, 256), dtype=np.bool_)
for _name in IBAN_LENGTHS:
    _COUNTRY[ord(_name[0]), ord(_name[1])] = True
