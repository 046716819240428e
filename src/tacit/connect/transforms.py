"""What becomes of one column of one batch once it is parsed: features, class indices, coarser values.

Every function converts all cells or raises ``BadCell``; no message ever holds a value. Keyed methods
(tokens, FF1, date shifts) have modules of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect.cells import cell_bytes, refuse
from tacit.policy.column import OLDEST, Column
from tacit.policy.transform import Transform

__all__ = ["SPARSE_ZIP3", "coarser", "feature_values", "label_indices", "mask", "places", "zip3"]

_AREAS_2000 = "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893"
_AREAS_2010 = "036 059 102 203 205 369 556 692 753 772 821 823 878 879 884 893"
SPARSE_ZIP3 = frozenset(f"{_AREAS_2000} {_AREAS_2010}".split())
"""Three-digit ZIP areas of 20,000 people or fewer, 45 CFR 164.514(b)(2)(i)(B): those of the 2000 census
(HHS guidance on de-identification, 2012) and those of the 2010 census together."""

_ZIP3_NAMES = pa.array(
    ["000" if f"{area:03}" in SPARSE_ZIP3 else f"{area:03}" for area in range(1000)]
)
_ZIP = r"^[0-9]{5}(-?[0-9]{4})?$"
_STAR = "*"

FEW = 16
"""Values of a label up to which comparing with each beats looking them up."""


def feature_values(cells: pa.Array, column: Column) -> npt.NDArray[np.float64]:
    """The features of one column, ``float64[n, k]``, each within its public bounds.

    Raises:
        BadCell: A cell is not finite, or an age in years is negative.
    """
    if column.method == "vocabulary":
        return _one_hot(cells, column)
    if column.method != "keep":
        cells = coarser(cells, column.transform)
    values = np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if column.method == "bins":
        # The edge of a cell may be rounded otherwise than that of the declared limit.
        (bounds,) = column.features()
        values = values.clip(bounds.lower, bounds.upper)
    limited = column.options.minimum is not None and column.options.maximum is not None
    if column.logical_type == "number" and not (limited and column.method == "keep"):
        refuse(~np.isfinite(values), "is not finite")
    return values.reshape(-1, 1)


def _one_hot(cells: pa.Array, column: Column) -> npt.NDArray[np.float64]:
    """A one at the cell's place."""
    width = len(column.values or ()) + (column.transform.buckets or 1)
    result = np.zeros((len(cells), width))
    rows = places(cells, column).to_numpy(zero_copy_only=False)
    result[np.arange(len(cells)), rows] = 1.0
    return result


def places(cells: pa.Array, column: Column) -> pa.Array:
    """int64[n], the place of the cell's own value in a vocabulary, or else of its bucket; nulls stay.

    The hash is public and the same at every site: a bucket is coarse, not secret.
    """
    known = len(column.values or ())
    buckets = column.transform.buckets or 1
    encoded = cells.dictionary_encode()
    listed = {value: index for index, value in enumerate(column.values or ())}
    found = [
        listed[text] if text in listed else known + _bucket(column.name, text, buckets)
        for text in encoded.dictionary.to_pylist()
    ]
    return pa.array(found, pa.int64()).take(encoded.indices)


def _bucket(column: str, text: str, buckets: int) -> int:
    named = f"tacit vocabulary v1\0{column}\0{text}".encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "little") % buckets


def label_indices(cells: pa.Array, column: Column) -> npt.NDArray[np.int64]:
    """``int64[n]``, positions in the column's values.

    Raises:
        BadCell: A cell is not one of the values.
    """
    values = column.values or ()
    if pa.types.is_integer(cells.type) and not cells.null_count and len(values) <= FEW:
        return _positions(cells.to_numpy(), values)
    known = pa.array(column.values, type=cells.type)
    positions = compute.index_in(cells, value_set=known)
    if positions.null_count:
        refuse(positions.is_null(), "is not one of the declared values")
    return np.asarray(positions.cast(pa.int64()).to_numpy(zero_copy_only=False))


def _positions(numbers: npt.NDArray[np.int64], values: Sequence[object]) -> npt.NDArray[np.int64]:
    """The same for a few whole numbers, by comparing with each: ten times as fast as looking them up."""
    found = np.full(len(numbers), -1, dtype=np.int64)
    for position, value in enumerate(values):
        found[numbers == value] = position
    refuse(found < 0, "is not one of the declared values")
    return found


def coarser(cells: pa.Array, how: Transform) -> pa.Array:
    """Coarser values: a prefix, a ZIP3, a year, a decade, an age group, a bin, a clamped number.

    Raises:
        BadCell: The method would leave the cell as it is, or has no meaning for it.
    """
    return _COARSER[how.method](cells, how)


def _prefix(cells: pa.Array, how: Transform) -> pa.Array:
    length = how.length or 0
    short = compute.less_equal(compute.utf8_length(cells), length)
    refuse(short, f"has no more than {length} characters: the prefix would be all of it")
    return compute.utf8_slice_codeunits(cells, 0, length)


def _binned(cells: pa.Array, how: Transform) -> pa.Array:
    if pa.types.is_floating(cells.type):
        refuse(compute.invert(compute.is_finite(cells)), "is not finite")
    return _floor(cells, how.width or 1)


def mask(cells: pa.Array, visible: int) -> pa.Array:
    """Stars instead of every character but the last ``visible`` ones.

    Raises:
        BadCell: A cell has no more than twice as many characters: too much of it would be shown.
    """
    if visible:
        short = compute.less_equal(compute.utf8_length(cells), 2 * visible)
        refuse(short, f"has no more than {2 * visible} characters: the mask would show too much")
        tails = compute.utf8_slice_codeunits(cells, -visible)
        return compute.binary_join_element_wise(_STAR * 4, tails, "")
    # A fixed number of stars: the length of a name tells something of it, too.
    return compute.if_else(cells.is_valid(), pa.scalar(_STAR * 4), pa.scalar(None, pa.string()))


def zip3(cells: pa.Array) -> pa.Array:
    """The first three digits of US ZIP codes, or ``000`` for areas of 20,000 people or fewer.

    Raises:
        BadCell: A cell is no ZIP code of five or nine digits.

    Reference:
        45 CFR 164.514(b)(2)(i)(B).
    """
    digits = _five_digits(cells)
    if digits is not None:
        hundreds, tens, ones = (digits[:, place].astype(np.int16) for place in range(3))
        return _ZIP3_NAMES.take(pa.array(100 * hundreds + 10 * tens + ones))
    refuse(
        compute.invert(compute.match_substring_regex(cells, _ZIP)),
        "is not a ZIP code of five or nine digits",
    )
    return _ZIP3_NAMES.take(compute.utf8_slice_codeunits(cells, 0, 3).cast(pa.int64()))


def _five_digits(cells: pa.Array) -> npt.NDArray[np.uint8] | None:
    """``uint8[n, 5]`` if every cell is five digits, which most columns are throughout."""
    text = cell_bytes(cells)
    if not len(cells) or cells.null_count or not np.all(text.lengths == 5):
        return None
    # Cells without a null lie one after the other.
    whole = text.data[text.starts[0] : text.starts[0] + 5 * len(cells)]
    digits: npt.NDArray[np.uint8] = whole.reshape(-1, 5) - ord("0")
    return digits if np.all(digits <= 9) else None


def _clamped(cells: pa.Array, how: Transform) -> pa.Array:
    if pa.types.is_floating(cells.type):
        refuse(compute.is_nan(cells), "is not a number")
    lower, upper = pa.scalar(how.lower, pa.float64()), pa.scalar(how.upper, pa.float64())
    numbers = cells.cast(pa.float64(), safe=False)
    low = compute.max_element_wise(numbers, lower, skip_nulls=False)
    return compute.min_element_wise(low, upper, skip_nulls=False)


def _ages(cells: pa.Array, on: date | None) -> pa.Array:
    """Completed years, at most ``OLDEST``; of dates of birth on a day, or as they are."""
    if on is None:
        refuse(compute.less(cells, 0), "is a negative age")
        if not cells.null_count:
            return pa.array(np.minimum(cells.to_numpy(), OLDEST))
        return compute.min_element_wise(cells, OLDEST, skip_nulls=False)
    refuse(compute.greater(cells, pa.scalar(on)), f"lies after {on.isoformat()}")
    month, day = compute.month(cells), compute.day(cells)
    later = compute.or_(
        compute.greater(month, on.month),
        compute.and_(compute.equal(month, on.month), compute.greater(day, on.day)),
    )
    years = compute.subtract(compute.subtract(on.year, compute.year(cells)), later.cast(pa.int64()))
    return compute.min_element_wise(years, OLDEST, skip_nulls=False)


def _floor(values: pa.Array, width: int) -> pa.Array:
    if not values.null_count:
        numbers = values.to_numpy(zero_copy_only=False)
        return pa.array(np.floor_divide(numbers, width) * width)
    filled = compute.fill_null(values, pa.scalar(0, values.type))
    numbers = filled.to_numpy(zero_copy_only=False)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    return pa.array(np.floor_divide(numbers, width) * width, mask=missing)


_COARSER: dict[str, Callable[[pa.Array, Transform], pa.Array]] = {
    "mask": lambda cells, how: mask(cells, how.visible or 0),
    "prefix": _prefix,
    "zip3": lambda cells, _: zip3(cells),
    "year": lambda cells, _: compute.year(cells).cast(pa.int64()),
    "decade": lambda cells, _: _floor(compute.year(cells), 10),
    "age": lambda cells, how: _floor(_ages(cells, how.on), how.width or 1),
    "bins": _binned,
    "clamp": _clamped,
}
