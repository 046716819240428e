"""Frozen dataclasses <-> deterministic CBOR, with a limit on every length.

The format is RFC 8949 section 4.2.1 (core deterministic encoding) restricted to text-keyed maps,
arrays, integers, booleans, null, text and byte strings: no floats, tags or indefinite lengths.
``decode`` checks the length first, then the shape (before ``cbor2`` builds anything: a few kilobytes of
tags or colliding keys could keep it busy for minutes), decodes, validates against the class, re-encodes
and requires identical bytes, so that every value has exactly one encoding.

Reference: RFC 8949 sections 3, 4.2.1 and 5.3.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import cbor2

from tacit.errors import DecodeError, LocalProtocolError

__all__ = ["Size", "decode", "encode"]

MAX_NESTING = 8
MAX_ITEMS = 2**18
MAX_INTEGER = 2**63 - 1

# Major types, and the bounds between which the argument follows in 1, 2, 4 or 8 bytes.
BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = 2, 3, 4, 5, 6, 7
SHORTEST_HEAD, LONGEST_HEAD = 24, 27
PLAIN_VALUES = (0xF4, 0xF5, 0xF6)
"""false, true, null."""

CUT_OFF = 0xFF
"""Begins no item."""

MessageT = TypeVar("MessageT")
Check = Callable[[Any, int], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Inclusive bounds: bytes of a byte string, characters of a text, items of a tuple, value of an integer."""

    minimum: int
    maximum: int

    @classmethod
    def exactly(cls, size: int) -> Size:
        """Both bounds at ``size``."""
        return cls(size, size)


def encode(message: Any) -> bytes:
    """The one encoding of ``message``, a dataclass whose fields carry ``Size`` annotations.

    Raises:
        LocalProtocolError: A field is outside its own limits.
    """
    plain = _to_plain(message)
    try:
        _validate(type(message), plain)
    except DecodeError as error:
        raise LocalProtocolError(
            "wire.encode", f"cannot encode {type(message).__name__}: {error.message}"
        ) from error
    try:
        return cbor2.dumps(plain, canonical=True)
    except (cbor2.CBORError, UnicodeError) as error:
        raise LocalProtocolError(
            "wire.encode", f"cannot encode {type(message).__name__}: a text is not valid Unicode"
        ) from error


def decode(kind: type[MessageT], data: bytes, limit: int) -> MessageT:
    """Decodes ``data``, at most ``limit`` bytes, as ``kind``.

    Raises:
        DecodeError: Anything else than the one encoding of a valid ``kind``.

    Guarantee: hostile bytes cost time and memory in proportion to their length, and no error but
    ``DecodeError`` leaves. Checked by ``tests/property/test_wire_codec.py::test_only_decode_error``
    and ``::test_bombs_are_refused_by_shape``.
    """
    if len(data) > limit:
        raise DecodeError("wire.too-long", f"{kind.__name__}: {len(data)} bytes, limit {limit}")
    _check_shape(data)
    try:
        plain = cbor2.loads(data)
    except Exception as error:
        raise DecodeError("wire.syntax", f"{kind.__name__}: not valid CBOR") from error
    message: MessageT = _validate(kind, plain)
    # ``plain`` maps one to one to the message, so that its encoding is the message's.
    if cbor2.dumps(plain, canonical=True) != bytes(data):
        raise DecodeError("wire.not-canonical", f"{kind.__name__}: not the canonical encoding")
    return message


def _check_shape(data: bytes) -> None:
    """Walks the items of ``data`` without building them.

    Raises:
        DecodeError: Not one well-formed item, too deep, too many items, or a part outside the format:
            a tag, float, other simple value, indefinite length or map key that is not text.
    """
    position, size = 0, len(data)
    outer: list[tuple[int, bool]] = []
    left, keyed = 1, False  # Items still to come at this depth, and whether every other is a key.
    # One loop without calls: a bundle has half a million items.
    for _ in range(MAX_ITEMS):
        while left == 0 and outer:
            left, keyed = outer.pop()
        if left == 0:
            break
        initial = data[position] if position < size else CUT_OFF
        major, argument = initial >> 5, initial & 31
        position += 1
        if argument >= SHORTEST_HEAD or major >= TAG:
            argument, position = _long_head(data, initial, position)
        if keyed and not left & 1 and major != TEXT:
            raise DecodeError("wire.key", "a map key is not text")
        left -= 1
        if major in (BYTES, TEXT):
            position += argument
        elif major in (ARRAY, MAP):
            outer.append((left, keyed))
            left, keyed = argument * (2 if major == MAP else 1), major == MAP
        if len(outer) > MAX_NESTING or position > size:
            raise DecodeError("wire.syntax", "too deeply nested or cut off")
    if left or outer or position != size:
        raise DecodeError("wire.syntax", "too many items or trailing bytes")


def _long_head(data: bytes, initial: int, position: int) -> tuple[int, int]:
    """Argument of an item whose head is not one byte of a plain kind, and where its head ends."""
    major, argument = initial >> 5, initial & 31
    if major == TAG or (major == SIMPLE and initial not in PLAIN_VALUES) or argument > LONGEST_HEAD:
        raise DecodeError("wire.syntax", "cut off, or a tag, float, simple value or open length")
    if argument < SHORTEST_HEAD:
        return argument, position
    size = 1 << (argument - SHORTEST_HEAD)
    return int.from_bytes(data[position : position + size], "big"), position + size


def _to_plain(value: Any) -> Any:
    kind: Any = type(value)
    if kind in (bytes, str, int, bool):
        return value
    names = _field_names(kind)
    if names:
        return {name: _to_plain(getattr(value, name)) for name in names}
    if kind is tuple:
        return [_to_plain(item) for item in value]
    return value


@functools.cache
def _field_names(kind: Any) -> tuple[str, ...]:
    """The fields of a message class; none for anything else."""
    return tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def _validate(kind: Any, plain: Any) -> Any:
    """The message of class ``kind`` that a decoded value stands for."""
    return _decoder(kind)(plain, 0)


@functools.cache
def _decoder(kind: Any) -> Check:
    """A function that checks a decoded value against an annotation and builds the message."""
    size: Size | None = None
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
        size = next((mark for mark in marks if isinstance(mark, Size)), None)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _optional_decoder(kind, size)
    if origin is tuple:
        return _tuple_decoder(get_args(kind)[0], _required(size, kind))
    if kind is bool:
        return _bool_decoder
    if kind is int:
        return _int_decoder(size or Size(0, MAX_INTEGER))
    if kind in (bytes, str):
        return _text_decoder(kind, _required(size, kind))
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(kind)
    raise TypeError(f"{kind!r} cannot travel in a message")


def _required(size: Size | None, kind: Any) -> Size:
    if size is None:
        raise TypeError(f"{kind!r} needs a Size annotation")
    return size


def _optional_decoder(kind: Any, size: Size | None) -> Check:
    inner = next(argument for argument in get_args(kind) if argument is not type(None))
    check = _decoder(Annotated[inner, size] if size else inner)
    return lambda value, depth: None if value is None else check(value, depth)


def _tuple_decoder(item: Any, size: Size) -> Check:
    check = _decoder(item)

    def decode_tuple(value: Any, depth: int) -> Any:
        if type(value) is not list or not size.minimum <= len(value) <= size.maximum:
            raise DecodeError("wire.array", "an array is missing or outside its limits")
        return tuple(check(entry, depth + 1) for entry in value)

    return decode_tuple


def _bool_decoder(value: Any, depth: int) -> Any:
    if type(value) is not bool:
        raise DecodeError("wire.bool", "a boolean was expected")
    return value


def _int_decoder(size: Size) -> Check:
    def decode_int(value: Any, depth: int) -> Any:
        if type(value) is not int or not size.minimum <= value <= size.maximum:
            raise DecodeError("wire.int", "an integer is missing or outside its limits")
        return value

    return decode_int


def _text_decoder(kind: type[bytes] | type[str], size: Size) -> Check:
    def decode_text(value: Any, depth: int) -> Any:
        if not (type(value) is kind and size.minimum <= len(value) <= size.maximum):
            raise DecodeError("wire.string", f"{kind.__name__} is missing or outside its limits")
        return value

    return decode_text


def _dataclass_decoder(kind: Any) -> Check:
    hints = get_type_hints(kind, include_extras=True)
    checks = {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(kind)}

    def decode_dataclass(value: Any, depth: int) -> Any:
        if depth > MAX_NESTING:
            raise DecodeError("wire.nesting", "too deeply nested")
        if type(value) is not dict or value.keys() != checks.keys():
            raise DecodeError("wire.fields", f"{kind.__name__}: missing or unknown fields")
        return kind(**{name: check(value[name], depth + 1) for name, check in checks.items()})

    return decode_dataclass
