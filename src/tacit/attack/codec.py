"""Findings as JSON and back, strictly: what a worker answers and what a folder of results keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tacit.attack.findings import Curve, Findings, Picture, Roc
from tacit.attack.measure import Estimate
from tacit.errors import DecodeError

__all__ = ["FORMAT", "decode", "decode_estimate", "encode", "encode_estimate", "plain"]

FORMAT = 1
"""Version of the form; another one is not read."""

Read = TypeVar("Read", Findings, Estimate)

NUMBERS = ("value", "low", "high", "null", "ceiling")


def encode(findings: Findings) -> dict[str, Any]:
    """As JSON without NaN and infinities: an infinite number is the text ``inf`` or ``-inf``.

    Raises:
        ValueError: A figure is not a number, or ``details`` hold what JSON cannot.
    """
    return {
        "format": FORMAT,
        "adversary": findings.adversary,
        "measured": {name: encode_estimate(one) for name, one in findings.measured.items()},
        "notes": list(findings.notes),
        "alarms": list(findings.alarms),
        "pictures": [
            {
                "original": [_number(x) for x in one.original],
                "found": [_number(x) for x in one.found],
                "shape": [int(side) for side in one.shape],
                "caption": one.caption,
            }
            for one in findings.pictures
        ],
        "curves": [
            {
                "metric": one.metric,
                "over": one.over,
                "points": [[_number(at), encode_estimate(of)] for at, of in one.points],
            }
            for one in findings.curves
        ],
        "rocs": [
            {"attack": one.attack, "points": [[_number(x), _number(y)] for x, y in one.points]}
            for one in findings.rocs
        ],
        "details": plain(findings.details),
    }


def encode_estimate(estimate: Estimate) -> dict[str, Any]:
    """One figure as JSON."""
    record = estimate.record()
    numbers = {name: _number(record[name]) for name in NUMBERS if record[name] is not None}
    return {**record, **numbers, "trials": int(estimate.trials)}


def plain(value: Any) -> Any:
    """A value as plain JSON; NumPy's numbers and arrays become lists and numbers.

    Raises:
        ValueError: JSON has no form for it.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    raise ValueError(f"a {type(value).__name__} is not plain JSON")


def _number(value: float) -> float | str:
    found = float(value)
    if math.isnan(found):
        raise ValueError("a figure is not a number")
    if math.isinf(found):
        return "inf" if found > 0 else "-inf"
    return found


def decode(record: Any) -> Findings:
    """Reads what ``encode`` made.

    Raises:
        DecodeError: It is anything else.
    """
    return _read(_findings, record, "findings of an attack")


def decode_estimate(record: Any) -> Estimate:
    """Reads what ``encode_estimate`` made.

    Raises:
        DecodeError: It is anything else.
    """
    return _read(_estimate, record, "an estimate")


def _read(reader: Callable[[Any], Read], record: Any, what: str) -> Read:
    try:
        return reader(record)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DecodeError("attack.findings", f"not {what}: {error}") from error


def _findings(record: Any) -> Findings:
    content = _table(record, Findings.__slots__, more=("format",))
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r} is not {FORMAT}")
    measured = content["measured"]
    if not isinstance(measured, dict):
        raise TypeError("measured is not a table")
    return Findings(
        adversary=_text(content["adversary"]),
        measured={_text(name): _estimate(one) for name, one in measured.items()},
        notes=tuple(_text(one) for one in _list(content["notes"])),
        alarms=tuple(_text(one) for one in _list(content["alarms"])),
        pictures=tuple(_picture(one) for one in _list(content["pictures"])),
        curves=tuple(_curve(one) for one in _list(content["curves"])),
        rocs=tuple(_roc(one) for one in _list(content["rocs"])),
        details=plain(_table(content["details"], None)),
    )


def _estimate(record: Any) -> Estimate:
    content = _table(record, Estimate.__slots__)
    trials = content["trials"]
    if type(trials) is not int or trials < 0:
        raise ValueError("trials are a whole number")
    return Estimate(
        value=_float(content["value"]),
        low=_float(content["low"]),
        high=_float(content["high"]),
        null=None if content["null"] is None else _float(content["null"]),
        ceiling=None if content["ceiling"] is None else _float(content["ceiling"]),
        trials=trials,
        unit=_text(content["unit"]),
        how=_text(content["how"]),
    )


def _picture(record: Any) -> Picture:
    content = _table(record, Picture.__slots__)
    height, width = (_whole(side) for side in _list(content["shape"]))
    original, found = (
        tuple(_float(level) for level in _list(content[name])) for name in ("original", "found")
    )
    if not len(original) == len(found) == height * width:
        raise ValueError("a picture has as many levels as rows times columns")
    return Picture(original, found, (height, width), _text(content["caption"]))


def _curve(record: Any) -> Curve:
    content = _table(record, Curve.__slots__)
    pairs = (_list(pair) for pair in _list(content["points"]))
    points = tuple((_float(at), _estimate(of)) for at, of in pairs)
    return Curve(_text(content["metric"]), _text(content["over"]), points)


def _roc(record: Any) -> Roc:
    content = _table(record, Roc.__slots__)
    pairs = (_list(pair) for pair in _list(content["points"]))
    return Roc(_text(content["attack"]), tuple((_float(x), _float(y)) for x, y in pairs))


def _table(value: Any, names: Sequence[str] | None, more: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object; with ``names`` of exactly these members."""
    if not isinstance(value, dict):
        raise TypeError("a table is missing")
    if names is not None and set(value) != {*names, *more}:
        wrong = sorted(set(value) ^ {*names, *more})
        raise ValueError(f"members that are missing or not known: {', '.join(map(str, wrong))}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is missing")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise TypeError("a whole number above 0 is missing")
    return value


def _float(value: Any) -> float:
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("a number is missing")
    return float(value)
