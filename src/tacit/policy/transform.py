"""What becomes of one column before training: the methods, their parameters and where they fit."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from tacit.config import Table

__all__ = ["FEATURE_METHODS", "KEYED_METHODS", "METHODS", "Method", "Transform"]

Method = Literal[
    "drop",
    "keep",
    "mask",
    "token",
    "ff1",
    "prefix",
    "zip3",
    "year",
    "decade",
    "age",
    "bins",
    "clamp",
    "date-shift",
    "vocabulary",
    "quarantine",
]
Period = Literal["none", "year", "quarter", "month"]
Alphabet = Literal[
    "digits",
    "hex",
    "upper-hex",
    "lower",
    "upper",
    "lower-alphanumeric",
    "upper-alphanumeric",
    "alphanumeric",
]

STRING, DATES, NUMBERS = ("string",), ("date", "timestamp"), ("integer", "number")
ANY = ("string", "integer", "number", "boolean", "date", "timestamp", "time", "object", "array")


class _Fit:
    """Where a method may stand.

    Args:
        types: Logical types that it takes.
        required: Keys that it needs.
        optional: Keys that it may have.
    """

    __slots__ = ("optional", "required", "types")

    def __init__(self, types: tuple[str, ...], required: str = "", optional: str = "", /) -> None:
        self.types = types
        self.required = set(required.split())
        self.optional = set(optional.split())


METHODS: dict[Method, _Fit] = {
    "drop": _Fit(ANY),
    "keep": _Fit((*STRING, *NUMBERS, "boolean")),
    "mask": _Fit(STRING, "", "visible"),
    "token": _Fit(("string", "integer", "date"), "", "period"),
    "ff1": _Fit(STRING, "alphabet", "period"),
    "prefix": _Fit(STRING, "length"),
    "zip3": _Fit(STRING),
    "year": _Fit(DATES),
    "decade": _Fit(DATES),
    "age": _Fit(("date", "integer"), "", "width on"),
    "bins": _Fit(NUMBERS, "width"),
    "clamp": _Fit(NUMBERS, "lower upper"),
    "date-shift": _Fit(DATES, "days", "period"),
    "vocabulary": _Fit(STRING, "buckets"),
    "quarantine": _Fit(STRING),
}
"""Every method with the logical types and the keys that it takes."""

FEATURE_METHODS: frozenset[Method] = frozenset({"keep", "age", "bins", "clamp", "vocabulary"})
"""Methods whose result is a number, or a few, with public bounds: they may be trained on."""

KEYED_METHODS: frozenset[Method] = frozenset({"token", "ff1", "date-shift"})
"""Methods under a key of the site; destroying the key erases what their results tell."""


class Transform(Table):
    """What becomes of the cells of one column."""

    method: Method = Field(
        description="`drop`: never decoded. `keep`: as it is. `mask`: stars, but for the last `visible` "
        "characters. `token`: a keyed pseudonym of 16 bytes. `ff1`: encrypted into the same format "
        "(NIST SP 800-38G). `prefix`: the first `length` characters. `zip3`: the first three digits of a "
        "US ZIP code, `000` where fewer than 20,001 people live. `year`, `decade`: of a date. `age`: "
        "completed years, in groups of `width`, 90 and above as one. `bins`: lower edge of its bin of "
        "`width`. `clamp`: top and bottom coded to `lower` and `upper`. `date-shift`: moved by up to "
        "`days` days, all dates of one entity alike in columns of the same `days` and `period`. `vocabulary`: one of the column's `values` or, "
        "hashed, one of `buckets` for the others. `quarantine` (free text): rows with text in it are set "
        "aside."
    )
    visible: int | None = Field(
        default=None, ge=0, le=4, description="`mask`: characters left at the end."
    )
    period: Period | None = Field(
        default=None,
        description="`token`, `ff1`, `date-shift`: how long one key lasts, so that results of different "
        "periods cannot be joined; by default `none`.",
    )
    alphabet: Alphabet | None = Field(default=None, description="`ff1`: characters of the column.")
    length: int | None = Field(
        default=None, ge=1, le=64, description="`prefix`: characters that are left."
    )
    width: int | None = Field(
        default=None, ge=1, le=10**9, description="`age`, `bins`: width of one group."
    )
    on: date | None = Field(
        default=None, description="`age` of a date of birth: the day on which it is taken."
    )
    lower: float | None = Field(
        default=None, description="`clamp`: smallest value; smaller ones become it."
    )
    upper: float | None = Field(
        default=None, description="`clamp`: largest value; larger ones become it."
    )
    days: int | None = Field(
        default=None, ge=1, le=3660, description="`date-shift`: largest shift."
    )
    buckets: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="`vocabulary`: buckets for values that are not listed.",
    )

    @model_validator(mode="after")
    def _keys_fit_method(self) -> Self:
        keys = set(type(self).model_fields) - {"method"}
        given = {key for key in keys if getattr(self, key) is not None}
        fit = METHODS[self.method]
        missing, wrong = fit.required - given, given - fit.required - fit.optional
        if missing:
            raise ValueError(f"method '{self.method}' needs '{min(missing)}'")
        if wrong:
            allowed = " and ".join(f"'{key}'" for key in sorted(fit.required | fit.optional))
            raise ValueError(f"method '{self.method}' takes {allowed or 'no further key'}")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError("lower must be below upper")
        return self
