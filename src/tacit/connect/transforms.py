"""What becomes of one column of one batch: strict conversion, tokens, coarser values.

Every function either converts all cells or raises ``BadCell`` for the first that it cannot; no message
ever holds a value.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.policy.contract import Column, Generalise

__all__ = [
    "BadCell",
    "feature_values",
    "generalise",
    "label_indices",
    "parse",
    "pseudonyms",
    "stored_type_fits",
    "token_key",
    "tokens",
]

ARROW_TYPES = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
}
IS_STORED_AS: dict[str, Callable[[pa.DataType], bool]] = {
    "string": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "integer": pa.types.is_integer,
    "number": lambda kind: (
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    ),
    "boolean": pa.types.is_boolean,
    "date": pa.types.is_date,
}
ARTICLE = {
    "string": "text in UTF-8",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date written as YYYY-MM-DD",
}
TOKEN_BYTES = 16
OLDEST = 90
"""Ages from here on are one group: 45 CFR 164.514(b)(2)(i)(C)."""


class BadCell(Exception):
    """Internal: the first cell that breaks the contract.

    Args:
        index: 0-based position in the batch.
        problem: Completes "the cell ...".
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index
        self.problem = problem


def stored_type_fits(kind: pa.DataType, column: Column) -> bool:
    """Whether a Parquet column of type ``kind`` can be what the contract declares."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return IS_STORED_AS[column.type](kind)


def parse(cells: pa.Array, column: Column, *, text: bool) -> pa.Array:
    """Cells as read, in the Arrow type of the declared column type; no nulls.

    Args:
        cells: One column of one batch.
        column: What it must be.
        text: Whether cells are text as bytes (CSV) rather than of a stored type (Parquet).

    Raises:
        BadCell: A cell is empty or not of the declared type.
    """
    target = ARROW_TYPES[column.type]

    def convert(part: pa.Array) -> pa.Array:
        if text or column.type == "string":
            # By way of bytes, because only that cast checks that text is UTF-8.
            part = part.cast(pa.binary()).cast(pa.string())
        if text and column.type == "integer":
            _require(compute.match_substring_regex(part, "^-?[0-9]+$"))
        # A stored integer in a number column may be rounded; nothing else may change.
        return part.cast(target, safe=text or column.type != "number")

    _no_cell(cells.is_null(), "is empty")
    if text:
        _no_cell(compute.equal(compute.binary_length(cells), 0), "is empty")
    try:
        converted = convert(cells)
    except pa.ArrowInvalid:
        converted = None
    if converted is None:
        raise BadCell(_first_failure(cells, convert), f"is not {ARTICLE[column.type]}")
    if column.type == "string":
        _no_cell(compute.equal(converted, ""), "is empty")
    return converted


def feature_values(cells: pa.Array, column: Column) -> npt.NDArray[np.float64]:
    """float64[n] within the column's bounds.

    Raises:
        BadCell: A cell is not finite or out of bounds.
    """
    values = np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    bounds = column.feature()
    _no_cell(pa.array(~np.isfinite(values)), "is not finite")
    outside = (values < bounds.lower) | (values > bounds.upper)
    _no_cell(
        pa.array(outside), f"is outside the declared range {bounds.lower!r} to {bounds.upper!r}"
    )
    return values


def label_indices(cells: pa.Array, column: Column) -> npt.NDArray[np.int64]:
    """int64[n] positions in the column's values.

    Raises:
        BadCell: A cell is not one of the values.
    """
    known = pa.array(column.values, type=ARROW_TYPES[column.type])
    positions = compute.index_in(cells, value_set=known)
    _no_cell(positions.is_null(), "is not one of the declared values")
    return np.asarray(positions.cast(pa.int64()).to_numpy(zero_copy_only=False))


def token_key(site_key: bytes, contract: str, column: str) -> bytes:
    """The key of one column of one contract: tokens of different purposes cannot be joined."""
    purpose = b"".join(
        len(part).to_bytes(4, "big") + part for part in (contract.encode(), column.encode())
    )
    return hmac.digest(site_key, b"tacit token v1\0" + purpose, "sha256")


def tokens(cells: pa.Array, key: bytes) -> pa.Array:
    """Each cell's keyed pseudonym, 32 hexadecimal digits; equal cells get equal tokens.

    Guarantee:
        To whoever does not hold the site's token key, tokens are random names: they show which cells
        of one column are equal, and nothing else (HMAC-SHA256 as a PRF, truncated to 128 bits).
        Checked by tests/unit/test_connect_transforms.py::test_tokens_are_truncated_hmac_under_a_purpose_key.

    Reference:
        FIPS 198-1; truncation as in NIST SP 800-107 section 5.3.4.
    """
    encoded = cells.cast(pa.string()).dictionary_encode()
    named = [
        hmac.digest(key, value.encode(), "sha256")[:TOKEN_BYTES].hex()
        for value in encoded.dictionary.to_pylist()
    ]
    return pa.array(named, type=pa.string()).take(encoded.indices)


def pseudonyms(named: pa.Array) -> npt.NDArray[np.uint64]:
    """Tokens as numbers, uint64[n]: equal where tokens are, and otherwise but for one pair in 2**64."""
    encoded = named.dictionary_encode()
    numbers = [
        int.from_bytes(hashlib.sha256(b"tacit entity v1\0" + token.encode()).digest()[:8], "little")
        for token in encoded.dictionary.to_pylist()
    ]
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    result: npt.NDArray[np.uint64] = np.array(numbers, dtype=np.uint64)[indices]
    return result


def generalise(cells: pa.Array, how: Generalise) -> pa.Array:
    """Coarser values: a prefix, a year, a decade, an age group or the lower edge of a bin.

    Raises:
        BadCell: The method would leave the cell as it is, or has no meaning for it.
    """
    match how.method:
        case "prefix":
            length = how.length or 0
            short = compute.less_equal(compute.utf8_length(cells), length)
            _no_cell(short, f"has no more than {length} characters: the prefix would be all of it")
            return compute.utf8_slice_codeunits(cells, 0, length)
        case "year":
            return compute.year(cells).cast(pa.int64())
        case "decade":
            return _floor(compute.year(cells), 10)
        case "age":
            return _floor(_ages(cells, how.on or date.min), how.width or 1)
        case "bins":
            if pa.types.is_floating(cells.type):
                _no_cell(compute.invert(compute.is_finite(cells)), "is not finite")
            return _floor(cells, how.width or 1)


def _ages(births: pa.Array, on: date) -> pa.Array:
    """Completed years on a day, at most ``OLDEST``."""
    _no_cell(compute.greater(births, pa.scalar(on)), f"lies after {on.isoformat()}")
    month, day = compute.month(births), compute.day(births)
    later = compute.or_(
        compute.greater(month, on.month),
        compute.and_(compute.equal(month, on.month), compute.greater(day, on.day)),
    )
    years = compute.subtract(
        compute.subtract(on.year, compute.year(births)), later.cast(pa.int64())
    )
    return compute.min_element_wise(years, OLDEST)


def _floor(values: pa.Array, width: int) -> pa.Array:
    numbers = values.to_numpy(zero_copy_only=False)
    return pa.array(np.floor_divide(numbers, width) * width)


def _no_cell(bad: pa.Array, problem: str) -> None:
    """Raises ``BadCell`` for the first true entry."""
    index = compute.index(bad, True).as_py()
    if index >= 0:
        raise BadCell(index, problem)


def _require(good: pa.Array) -> None:
    if not compute.all(good).as_py():
        raise pa.ArrowInvalid("not of the declared type")


def _first_failure(cells: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> int:
    """Index of the first cell that ``convert`` refuses, by bisection; one is known to exist."""
    low, high = 0, len(cells)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(cells[low:middle])
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
