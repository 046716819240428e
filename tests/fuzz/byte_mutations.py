"""Changes to encodings that are likely to reach deep into a decoder.

Every choice comes from ``pick(n)``, a number in [0, n): hypothesis and the coverage-guided fuzzer drive
the same mutations, one from a tape that it can shrink, the other from a seeded generator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import cbor2

Pick = Callable[[int], int]
Shape = Literal["cbor", "json", "text", "bytes"]

STRUCTURED_LIMIT = 2**16
HUGE_HEADS = tuple(bytes.fromhex(head) for head in (
    "5b7fffffffffffffff", "5a7fffffff", "7b7fffffffffffffff", "9b7fffffffffffffff", "9affffffff",
    "bbffffffffffffffff", "ba7fffffff", "1bffffffffffffffff", "3bffffffffffffffff",
    "5f", "7f", "9f", "bf", "ff", "c1", "d9d9f7", "f7", "f820", "f90000", "fb7ff0000000000000",
))  # fmt: skip
"""CBOR heads that claim much, or that a deterministic encoding never holds."""
TOKENS = tuple(token.encode() for token in (
    "null", "true", "-1", "-0", "1.0", "1e5", "1e999", "NaN", "Infinity", "9" * 400, "9" * 5000,
    '"\\ud800"', '"\\u0000"', '""', "[]", "{}", "[" * 9, "[" * 2000, '{"a":' * 9, "]", "}", ",",
    ":", " ", "\n", "\n\n", "\r", "\t", "\x00", "\u2014 ", "+", "=", "0", "00", "/", "//leader",
    "\u00e9", "\U0001f600", "\ufeff", "PK\x03\x04", "a" * 300, "1E+999999", "0x10", "1_0",
))  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 23, 24, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 10**400, "", "x",
    "x" * 300, "\u00e9\u0000", "1e999", "nan", "-0.0", "1E+400", [], [[]], {}, {"a": 1}, ["a", "a"],
    [None] * 70,
)  # fmt: skip
BINARY: tuple[Any, ...] = (b"", b"x", bytes(31), bytes(32), bytes(33), b"\xff" * 64, 1.5)
LONE_SURROGATE = "\ud800"


class Tape:
    """Choices from bytes that hypothesis draws and can shrink; zeros when they end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __call__(self, count: int) -> int:
        size = 1 if count <= 2**8 else 2 if count <= 2**16 else 4
        taken = self._data[self._place : self._place + size]
        self._place += size
        return int.from_bytes(taken, "big") % count


def mutate(data: bytes, pick: Pick, others: Sequence[bytes], shape: Shape) -> bytes:
    """``data``, changed in one place."""
    if shape in ("cbor", "json") and len(data) <= STRUCTURED_LIMIT and pick(2):
        changed = _mutate_structure(data, pick, shape)
        if changed is not None:
            return changed
    operations = (*OPERATIONS, *EXTRA[shape])
    return operations[pick(len(operations))](data, pick, others)


def _span(data: bytes, pick: Pick, most: int) -> tuple[int, int]:
    start = pick(len(data) + 1)
    return start, min(len(data), start + 1 + pick(most))


def _flip(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x00"
    place = pick(len(data))
    return data[:place] + bytes([data[place] ^ (1 << pick(8))]) + data[place + 1 :]


def _replace(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    start, end = _span(data, pick, 2)
    return data[:start] + bytes(pick(256) for _ in range(end - start)) + data[end:]


def _step(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    """One byte more or less: lengths, counts and digits change by one."""
    if not data:
        return b"\x01"
    place = pick(len(data))
    return data[:place] + bytes([(data[place] + (1, 255)[pick(2)]) % 256]) + data[place + 1 :]


def _insert(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    place = pick(len(data) + 1)
    return data[:place] + bytes(pick(256) for _ in range(1 + pick(4))) + data[place:]


def _delete(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    start, end = _span(data, pick, 8)
    return data[:start] + data[end:]


def _cut(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    return data[: pick(len(data) + 1)]


def _double(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    start, end = _span(data, pick, 64)
    return data[:end] + data[start:end] + data[end:]


def _splice(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    other = others[pick(len(others))]
    return data[: pick(len(data) + 1)] + other[pick(len(other) + 1) :]


def _claim(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    """A head that claims much in place of what stood there."""
    place, head = pick(len(data) + 1), HUGE_HEADS[pick(len(HUGE_HEADS))]
    return data[:place] + head + data[place + pick(3) :]


def _nest(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    """Arrays or maps around everything from one place on."""
    place, levels = pick(len(data) + 1), (1, 7, 8, 9, 500)[pick(5)]
    return data[:place] + (b"\x81", b"\xa1\x61a")[pick(2)] * levels + data[place:]


def _token(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    place, token = pick(len(data) + 1), TOKENS[pick(len(TOKENS))]
    return data[:place] + token + data[place + pick(3) :]


def _line(data: bytes, pick: Pick, others: Sequence[bytes]) -> bytes:
    """One line dropped, repeated or moved to the end."""
    lines = data.split(b"\n")
    chosen = lines.pop(pick(len(lines)))
    return b"\n".join((lines, [*lines, chosen], [chosen, chosen, *lines])[pick(3)])


Operation = Callable[[bytes, Pick, Sequence[bytes]], bytes]
OPERATIONS: tuple[Operation, ...] = (
    _flip, _replace, _step, _insert, _delete, _cut, _double, _splice,
)  # fmt: skip
EXTRA: dict[Shape, tuple[Operation, ...]] = {
    "cbor": (_claim, _nest),
    "json": (_token, _token),
    "text": (_token, _token, _line),
    "bytes": (),
}


def _mutate_structure(data: bytes, pick: Pick, shape: Shape) -> bytes | None:
    """Parses, changes one value, and encodes again: the outer layers stay valid."""
    try:
        value = cbor2.loads(data) if shape == "cbor" else json.loads(data)
        changed = _change(value, pick, VALUES + (BINARY if shape == "cbor" else (LONE_SURROGATE,)))
        if shape == "cbor":
            return cbor2.dumps(changed, canonical=True)
        ascii_only = LONE_SURROGATE in json.dumps(changed, ensure_ascii=False)
        text = json.dumps(changed, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only)
        return text.encode() + (b"\n" if data.endswith(b"\n") else b"")
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError, cbor2.CBORError):
        return None


def _change(value: Any, pick: Pick, values: Sequence[Any]) -> Any:
    """A copy of ``value`` with one node replaced, dropped, doubled or moved."""
    if isinstance(value, list | dict) and value and pick(8):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[pick(len(keys))]
        if not pick(6):
            return _rearrange(value, key, keys[pick(len(keys))], pick)
        changed = dict(value) if isinstance(value, dict) else list(value)
        changed[key] = _change(value[key], pick, values)
        return changed
    if isinstance(value, int) and not pick(3):
        return value + (1, -1)[pick(2)]
    if isinstance(value, str | bytes) and value and not pick(3):
        return (value[:-1], value + value[:1], value[1:])[pick(3)]
    return values[pick(len(values))]


def _rearrange(value: Any, key: Any, other: Any, pick: Pick) -> Any:
    if isinstance(value, dict):
        changed = dict(value)
        if pick(3) == 0:
            del changed[key]
        elif pick(2):
            changed[key], changed[other] = value[other], value[key]
        else:
            changed["extra"] = value[key]
        return changed
    items = list(value)
    if pick(3) == 0:
        del items[key]
    elif pick(2):
        items[key], items[other] = items[other], items[key]
    else:
        items.append(items[key])
    return items
