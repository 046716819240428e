#!/usr/bin/env python3
"""Checks a Tacit evidence bundle offline: a second implementation of the verifier, in one file.

    python verify.py BUNDLE --trust trust.json [--json]

It needs Python 3.11 or newer and the package `cryptography`, no network and nothing of Tacit: it was
written from the format's specification (docs/reference/bundle.md and docs/design/), shares no code with
the library, and is meant to be read from top to bottom by whoever relies on it.

The bundle is a zip archive. The trust file, which must come from somebody else than the bundle, says
whose keys count. Every claim is PASS, FAIL or NOT PROVEN; what the bundle cannot support is never PASS.

Exit status: 0 all is well, 1 a claim fails, 2 a required claim is not proven, 64 nothing was checked.

 1. The archive            6. Messages                    11. The model chain
 2. Canonical JSON         7. Signed notes                12. Epsilon
 3. Canonical CBOR         8. Logs                        13. The bundle, opened
 4. Signatures             9. Job, schema and plan        14. Claims
 5. Roster and trust      10. The terms of a run          15. Statements, 16. Report, 17. Command
"""

from __future__ import annotations

import argparse
import base64
import binascii
import bisect
import gc
import hashlib
import itertools
import json
import math
import operator
import os
import re
import shutil
import struct
import sys
import textwrap
import urllib.parse
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs one file has no installer that checks
    print(f"verify.py: needs Python 3.11 or newer, not {sys.version.split()[0]}", file=sys.stderr)
    sys.exit(64)

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    # Status 1 would say that a claim failed; nothing was looked at.
    print(f"verify.py: {error}; install it: python -m pip install cryptography", file=sys.stderr)
    sys.exit(64)

FORMAT = 2
"""Version of bundles and trust files that this file reads."""
MAX_PARTIES = 10_000

Fields = dict[str, Any]
"""A decoded message, event or table."""
Result = TypeVar("Result")


class Wrong(Exception):
    """The evidence contradicts a claim, or a part is not what the format says: FAIL."""


class Missing(Exception):
    """The bundle does not hold what a claim needs: NOT PROVEN."""


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def need(condition: bool, reason: str) -> None:
    """Raises ``Wrong`` with ``reason`` unless ``condition``."""
    if not condition:
        raise Wrong(reason)


# ==================================================================================================
# 1. The archive: one sequence of bytes for one set of members
# ==================================================================================================

ARCHIVE_LIMIT = 2**31 - 1
MAX_MEMBERS = 65_534
MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
LOCAL = struct.Struct("<4sHHHHHLLLHH")
CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")
END = struct.Struct("<4sHHHHLLH")


def read_archive(data: bytes) -> dict[str, bytes]:
    """The members of a canonical archive: stored, in order of their names, nothing else in the file.

    Every header is compared with the only one that may stand there, so that no byte is without meaning.

    Reference: PKWARE APPNOTE 6.3, sections 4.3 and 4.4.
    """
    need(len(data) <= ARCHIVE_LIMIT, f"a bundle of {len(data)} bytes")
    members: dict[str, bytes] = {}
    directory: list[bytes] = []
    at, before = 0, ""
    while data[at : at + 4] == b"PK\x03\x04":
        need(len(data) - at >= LOCAL.size, "the bundle is cut off")
        fields = LOCAL.unpack_from(data, at)
        size, name_size = fields[8], fields[9]
        start = at + LOCAL.size + name_size
        label = data[at + LOCAL.size : start]
        need(start + size <= len(data), "the bundle is cut off")
        content = data[start : start + size]
        common = (20, 0, 0, 0, 1 << 5 | 1, zlib.crc32(content), size, size)
        name = label.decode("latin-1")
        plain = len(name) <= 255 and MEMBER_NAME.fullmatch(name) is not None
        ordered = not members or before < name
        expected = LOCAL.pack(b"PK\x03\x04", *common, name_size, 0)
        same = expected == data[at : at + LOCAL.size]
        need(plain and ordered and same, "the bundle is not a canonical archive")
        members[name], before = content, name
        need(len(members) <= MAX_MEMBERS, f"a bundle of more than {MAX_MEMBERS} members")
        entry = (3 << 8 | 20, *common, name_size, 0, 0, 0, 0, 0o100644 << 16, at)
        directory.append(CENTRAL.pack(b"PK\x01\x02", *entry) + label)
        at = start + size
    tail = b"".join(directory)
    count = len(directory)
    end = END.pack(b"PK\x05\x06", 0, 0, count, count, len(tail), at, 0)
    need(data[at:] == tail + end, "the bundle is not a canonical archive")
    return members


# ==================================================================================================
# 2. Canonical JSON (RFC 8785), without floats
# ==================================================================================================

HEX32 = re.compile(r"[0-9a-f]{64}")
LARGEST_INTEGER = 2**53 - 1
COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
SORTED = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of text, integers, booleans, null, lists and tables.

    Raises:
        ValueError: Anything else, an integer beyond 2^53 - 1, or text that is not valid Unicode.
    """
    return COMPACT.encode(_ordered(value)).encode("utf-8")


def _ordered(value: Any) -> Any:
    """The value with the keys of its tables in order of their UTF-16 code units."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not text")
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be", "surrogatepass"))
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST_INTEGER:
        return value
    raise ValueError("neither text nor an integer")


def _integer(text: str) -> int:
    if len(text) <= 17 and abs(int(text)) <= LARGEST_INTEGER:
        return int(text)
    raise ValueError("an integer beyond what JSON carries exactly")


def _no_float(text: str) -> Any:
    raise ValueError(f"a number that is no integer: {text[:40]}")


DECODER = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float, parse_int=_integer)


def read_json(data: bytes, what: str) -> Any:
    """The value whose canonical JSON is exactly ``data``."""
    try:
        value = DECODER.decode(data.decode("utf-8"))
        same = canonical_json(value) == data
    except (ValueError, RecursionError):
        same = False
    need(same, f"{what} is not canonical JSON")
    return value


def hex_digest(value: Any, what: str) -> bytes:
    """32 bytes, written as 64 hexadecimal digits."""
    need(isinstance(value, str) and HEX32.fullmatch(value) is not None, f"{what} is not a digest")
    return bytes.fromhex(value)


Check = Callable[[Any], Any]
"""Turns a value of canonical JSON into what it stands for, or raises ``ValueError``."""


def real(
    least: float, most: float = math.inf, *, above: bool = False, below: bool = False
) -> Check:
    """A finite number, written as its shortest decimal text; ``above``, ``below``: bounds excluded."""

    def check(value: Any) -> float:
        found = float(value) if isinstance(value, str) and len(value) <= 32 else math.nan
        if not math.isfinite(found) or repr(found) != value or not least <= found <= most:
            raise ValueError("not a number in its bounds")
        if (above and found == least) or (below and found == most):
            raise ValueError("not a number in its bounds")
        return found

    return check


def whole(least: int, most: int = LARGEST_INTEGER) -> Check:
    """An integer."""

    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError("not an integer in its bounds")
        return value

    return check


def one_of(*known: Any) -> Check:
    """One of a few values."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(item) and value == item for item in known):
            raise ValueError("not one of the values")
        return value

    return check


def words(least: int = 0, most: int = 2**20, pattern: str = r"(?s:.*)") -> Check:
    """A text of so many characters that matches a pattern."""
    rule = re.compile(pattern)

    def check(value: Any) -> str:
        fits = isinstance(value, str) and least <= len(value) <= most
        if not fits or rule.fullmatch(value) is None:
            raise ValueError("not such a text")
        return str(value)

    return check


def listed(item: Check, most: int = MAX_PARTIES) -> Check:
    """A list."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError("not a list")
        return [item(entry) for entry in value]

    return check


def or_null(inner: Check) -> Check:
    """Such a value, or null."""
    return lambda value: None if value is None else inner(value)


def keyed(**fields: Check) -> Check:
    """A table with exactly these keys."""

    def check(value: Any) -> Fields:
        if not isinstance(value, dict) or set(value) != set(fields):
            raise ValueError("missing or unknown keys")
        return {name: inner(value[name]) for name, inner in fields.items()}

    return check


# ==================================================================================================
# 3. Canonical CBOR (RFC 8949, section 4.2.1), by schema
# ==================================================================================================
# A message's schema fixes everything but its values: the keys of a table and their order (shorter first,
# then bytewise), the types, the shortest heads. So the decoder reads in one pass and compares; whatever is
# not the one encoding of a valid message does not match.

BYTES, TEXT, ARRAY, MAP = 2, 3, 4, 5
MAX_MESSAGE = 64 * 1024 * 1024
Reader = Callable[[bytes, int], tuple[Any, int]]
"""Reads a value at a position; returns it and the position behind it."""


def cbor_head(major: int, argument: int) -> bytes:
    """The shortest head of an item: the argument itself, or how many bytes it takes."""
    if argument < 24:
        return bytes([(major << 5) + argument])
    width = next(width for width in (1, 2, 4, 8) if not argument >> (8 * width))
    return bytes([(major << 5) + 23 + width.bit_length()]) + argument.to_bytes(width, "big")


def cbor(value: Any) -> bytes:
    """The canonical encoding of tables, lists, texts, bytes, integers from 0, booleans and null."""
    match value:
        case True | False | None:
            return b"\xf4\xf5\xf6"[2 if value is None else int(value) :][:1]
        case int():
            return cbor_head(0, value)
        case bytes():
            return cbor_head(BYTES, len(value)) + value
        case str():
            encoded = value.encode("utf-8")
            return cbor_head(TEXT, len(encoded)) + encoded
        case dict():
            entries = {cbor(key): item for key, item in value.items()}
            ordered = (key + cbor(entries[key]) for key in sorted(entries))
            return cbor_head(MAP, len(entries)) + b"".join(ordered)
    return cbor_head(ARRAY, len(value)) + b"".join([cbor(item) for item in value])


def _read_head(data: bytes, at: int, major: int) -> tuple[int, int]:
    """The argument of an item that must be of this major type, and the position behind its head."""
    argument = data[at] - (major << 5)
    at += 1
    if 0 <= argument < 24:
        return argument, at
    need(24 <= argument <= 27, "another type of value was expected")
    size = 1 << (argument - 24)
    value = int.from_bytes(data[at : at + size], "big")
    shortest = value >= (24 if size == 1 else 1 << (4 * size))
    need(shortest and at + size <= len(data), "not the shortest encoding, or cut off")
    return value, at + size


FIXED: dict[Reader, int] = {}
"""Readers of byte strings of one length: their heads never differ."""


def blob(least: int, most: int) -> Reader:
    """A byte string of so many bytes."""

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        size, at = _read_head(data, at, BYTES)
        end = at + size
        if not least <= size <= most or end > len(data):
            raise Wrong("a byte string is cut off, or outside its limits")
        return data[at:end], end

    if least == most:
        FIXED[read] = least
    return read


def text(least: int, most: int) -> Reader:
    """A text of so many characters."""

    def read(data: bytes, at: int) -> tuple[str, int]:
        size, at = _read_head(data, at, TEXT)
        end = at + size
        value = data[at:end].decode("utf-8")
        if not least <= len(value) <= most or end > len(data):
            raise Wrong("a text is cut off, or outside its limits")
        return value, end

    return read


def number(least: int, most: int) -> Reader:
    """An integer in these bounds."""

    def read(data: bytes, at: int) -> tuple[int, int]:
        value, at = _read_head(data, at, 0)
        need(least <= value <= most, "an integer is outside its limits")
        return value, at

    return read


def boolean(data: bytes, at: int) -> tuple[bool, int]:
    """True or false."""
    need(data[at] in (0xF4, 0xF5), "a boolean was expected")
    return data[at] == 0xF5, at + 1


def many(item: Reader, least: int, most: int) -> Reader:
    """A list of so many items."""

    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        size, at = _read_head(data, at, ARRAY)
        need(least <= size <= most, "a list is outside its limits")
        values = []
        for _ in range(size):
            value, at = item(data, at)
            values.append(value)
        return values, at

    return read


def table(**fields: Reader) -> Reader:
    """A table with exactly these keys."""
    start = cbor_head(MAP, len(fields))
    steps: list[tuple[bytes, int, str, int, Reader]] = []
    for key, name in sorted((cbor(name), name) for name in fields):
        # What does not depend on the value is compared at once: a key, and the head of a fixed length.
        size = FIXED.get(fields[name], 0)
        fixed = key + cbor_head(BYTES, size) if size else key
        steps.append((fixed, len(fixed), name, size, fields[name]))

    def read_table(data: bytes, at: int) -> tuple[Fields, int]:
        if not data.startswith(start, at):
            raise Wrong("a table has missing or unknown keys")
        at += len(start)
        values: Fields = {}
        for fixed, length, name, size, read in steps:
            if not data.startswith(fixed, at):
                raise Wrong(f"'{name}' is missing, out of order or of another length")
            at += length
            if size:  # If it is cut off, `at` lies beyond the end, and nothing more can be read.
                values[name] = data[at : at + size]
                at += size
            else:
                values[name], at = read(data, at)
        return values, at

    return read_table


def decode(reader: Reader, data: bytes, what: str) -> Any:
    """The value of which ``data`` is the one encoding."""
    need(len(data) <= MAX_MESSAGE, f"{what} is too long")
    try:
        value, end = reader(data, 0)
    except (IndexError, UnicodeDecodeError) as error:
        raise Wrong(f"{what} is not valid CBOR") from error
    except Wrong as error:
        raise Wrong(f"{what}: {error}") from error
    need(end == len(data), f"{what} has trailing bytes")
    return value


# ==================================================================================================
# 4. Signatures (Ed25519, RFC 8032)
# ==================================================================================================

FIELD_PRIME = 2**255 - 19
ORDER_EIGHT = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
SMALL_ORDER = (0, 1, FIELD_PRIME - 1, ORDER_EIGHT, FIELD_PRIME - ORDER_EIGHT)
"""The y-coordinates of the points of order 1, 2, 4 and 8: under such a key anybody can sign."""


@cache
def public_key(key: bytes) -> Ed25519PublicKey | None:
    """A key that can be trusted to belong to one holder; None if it is weak or malformed."""
    y = int.from_bytes(key, "little") & (2**255 - 1)
    if len(key) != 32 or y >= FIELD_PRIME or y in SMALL_ORDER:
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(key)
    except ValueError:
        return None


def is_signed(key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the holder of ``key`` signed ``data``."""
    known = public_key(key)
    if known is None:
        return False
    try:
        known.verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


class SecondProcess:
    """Answers yes or no to the first of many questions in a second process, if that is worth it.

    Args:
        questions: How many there are.
        ask: The answer to the question of this number.
    """

    SHARE = 0.8  # The caller has other work; measured, so that neither waits long for the other.
    WORTH_IT = 400

    def __init__(self, questions: int, ask: Callable[[int], bool]) -> None:
        parallel = hasattr(os, "fork") and (os.cpu_count() or 1) > 1
        self.count = int(questions * self.SHARE) if parallel and questions >= self.WORTH_IT else 0
        self._pipe = self._child = -1
        if not self.count:
            return
        self._pipe, end = os.pipe()
        self._child = os.fork()
        if self._child:
            os.close(end)
            return
        status = 1
        try:  # the child: one byte for each question, nothing else, and never back into the caller
            answers = bytes(ask(number) for number in range(self.count))
            with os.fdopen(end, "wb") as out:
                out.write(answers)
            status = 0
        finally:
            os._exit(status)

    def answers(self) -> list[bool]:
        """Those to the first ``count`` questions; none if the process came to grief."""
        if not self.count:
            return []
        with os.fdopen(self._pipe, "rb") as pipe:
            found = pipe.read()
        os.waitpid(self._child, 0)
        return [answer == 1 for answer in found] if len(found) == self.count else []


# ==================================================================================================
# 5. Roster and trust file
# ==================================================================================================

PARTY_NAME = re.compile(r"[a-z0-9-]{1,64}")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
ROLES = ("client", "helper", "leader")


@dataclass(frozen=True)
class Member:
    """A party of the federation."""

    name: str
    operator: str
    region: str
    roles: tuple[str, ...]
    key: bytes

    def record(self) -> Fields:
        """As it stands in the roster."""
        return {
            "name": self.name,
            "operator": self.operator,
            "region": self.region,
            "roles": list(self.roles),
            "key": self.key.hex(),
        }


@dataclass(frozen=True)
class Roster:
    """Who is in the federation, in which roles and with which key, as every operator signed it."""

    federation: str
    members: Mapping[str, Member]

    @classmethod
    def of(cls, federation: Any, members: Iterable[Member]) -> Roster:
        """A roster of valid, distinct members."""
        found = list(members)
        need(isinstance(federation, str) and bool(LABEL.fullmatch(federation)), "a bad federation")
        need(1 <= len(found) <= MAX_PARTIES, "a roster has 1 to 10,000 members")
        for member in found:
            names = (member.name, member.operator)
            need(all(PARTY_NAME.fullmatch(name) for name in names), "a malformed name")
            need(LABEL.fullmatch(member.region) is not None, "a malformed region")
            roles = member.roles
            distinct = bool(roles) and list(roles) == sorted(set(roles))
            need(distinct and set(roles) <= set(ROLES), "unknown or repeated roles")
            need(len(member.key) == 32, "a malformed key")
        by_name = {member.name: member for member in sorted(found, key=lambda item: item.name)}
        keys = {member.key for member in found}
        need(len(by_name) == len(keys) == len(found), "two members with one name or key")
        return cls(federation, by_name)

    @cached_property
    def canonical(self) -> bytes:
        """The bytes of which the digest is the roster's."""
        members = [member.record() for member in self.members.values()]
        return canonical_json({"version": 1, "federation": self.federation, "members": members})

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of ``canonical``."""
        return sha256(self.canonical)

    def member(self, name: str) -> Member:
        """The member of this name."""
        need(name in self.members, f"'{name}' is not in the roster of {self.federation}")
        return self.members[name]

    def operators(self, names: Iterable[str]) -> set[str]:
        """Their operators: parties of one operator count once."""
        return {self.member(name).operator for name in names}

    def with_role(self, role: str) -> set[str]:
        """Who may act in this role."""
        return {name for name, member in self.members.items() if role in member.roles}


def read_roster(data: bytes) -> Roster:
    """``roster.json``."""
    try:
        record = DECODER.decode(data.decode("utf-8"))
        roster = Roster.of(
            record["federation"],
            [
                Member(
                    item["name"],
                    item["operator"],
                    item["region"],
                    tuple(item["roles"]),
                    bytes.fromhex(item["key"]),
                )
                for item in record["members"]
            ],
        )
        same = roster.canonical == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Wrong) as error:
        raise Wrong("roster.json is not a roster") from error
    need(same, "roster.json is not the canonical form of a roster")
    return roster


@dataclass(frozen=True)
class Trust:
    """``trust.json``: whom the auditor trusts, and what a bundle must prove."""

    roster: Roster
    required: tuple[str, ...]
    run: str
    quorum: int
    witnesses: Mapping[str, bytes]


WITNESS_NAME = re.compile(r"[!-*,-~]{1,255}")


def read_trust(data: bytes) -> Trust:
    """Reads a trust file; it is canonical JSON and a newline."""
    need(data.endswith(b"\n"), "no newline at its end")
    record = read_json(data[:-1], "the file")
    keys = {"version", "federation", "roster", "members", "required", "quorum", "witnesses"}
    need(isinstance(record, dict), "not a table")
    need(record.get("version") == FORMAT, f"it is not of version {FORMAT}")
    need(set(record) - {"run"} == keys, "missing or unknown keys")
    try:
        members = [
            Member(name, item["operator"], item["region"], tuple(item["roles"]), _hex(item["key"]))
            for name, item in record["members"].items()
            if set(item) == {"key", "roles", "operator", "region"} or _bad("a member")
        ]
        witnesses = {name: _hex(key) for name, key in record["witnesses"].items()}
        required, quorum = tuple(record["required"]), record["quorum"]
        roster = Roster.of(record["federation"], members)
        run = record.get("run", "0" * 64)
        need(isinstance(run, str) and HEX32.fullmatch(run) is not None, "'run' is not a run id")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Wrong("it is not a trust file") from error
    need(roster.digest.hex() == record["roster"], "its members do not have its roster's digest")
    need(type(quorum) is int and 1 <= quorum <= MAX_PARTIES, "'quorum' is not a number from 1 on")
    need(all(WITNESS_NAME.fullmatch(name) for name in witnesses), "a witness's name is malformed")
    need(all(len(key) == 32 for key in witnesses.values()), "a witness's key is malformed")
    logs = {log_origin(roster.federation, name) for name in roster.members}
    need(not logs & set(witnesses), "a witness has the name of a party's log")
    need(
        required == tuple(claim for claim in CLAIMS if claim in required)
        and {"authenticity", "integrity"} <= set(required),
        "'required' is not a list of claims, with authenticity and integrity, in their order",
    )
    return Trust(roster, required, record.get("run", ""), quorum, witnesses)


def _hex(value: str) -> bytes:
    need(re.fullmatch(r"(?:[0-9a-f]{2})*", value) is not None, "a key is not in hexadecimal digits")
    return bytes.fromhex(value)


def _bad(what: str) -> bool:
    raise Wrong(f"{what} is malformed")


# ==================================================================================================
# 6. Messages: what every party signed and sent
# ==================================================================================================

MESSAGE_DOMAIN = b"tacit message v1\x00"
HASH = blob(32, 32)
NAME = text(1, 64)
COUNT = number(0, 2**32 - 1)
VECTOR = table(length=COUNT, digests=many(HASH, 0, 8192))
LOG_HEAD = table(size=number(0, LARGEST_INTEGER), root=HASH)
SIGNED_MESSAGE = table(header=blob(1, MAX_MESSAGE), signature=blob(64, 64))
HEADER = table(
    version=number(1, 1),
    type=text(1, 32),
    run=HASH,
    round=COUNT,
    sender=text(3, 80),
    receiver=text(3, 80),
    roster=HASH,
    job=HASH,
    log=LOG_HEAD,
    body=blob(1, MAX_MESSAGE),
)
MANIFEST = table(
    protocol=text(1, 32),
    nonce=HASH,
    job=HASH,
    schema=HASH,
    code=HASH,
    layout=HASH,
    roster=HASH,
    plan=blob(2, 16_384),
    ring_bits=number(16, 32),
    dimension=number(1, 2**32 - 1),
    length=number(1, 2**32 - 1),
    rounds=number(1, 1_000_000),
    leader=NAME,
    clients=many(NAME, 1, MAX_PARTIES),
    helpers=many(NAME, 0, 64),
    min_cohort=number(1, MAX_PARTIES),
    max_colluding=number(0, 64),
    own_noise=boolean,
)
BODIES: dict[str, Reader] = {
    "offer": table(manifest=MANIFEST, job=blob(2, 256 * 1024), schema=blob(2, 1024 * 1024)),
    "accept": table(
        nonce=HASH,
        policy=HASH,
        contract=HASH,
        reservations=COUNT,
        heads=many(HASH, 0, 64),
        released=many(COUNT, 0, 64),
    ),
    "helper-key": table(key=blob(32, 4096)),
    "upload": table(
        context=HASH,
        seeds=many(table(helper=NAME, sealed=blob(1, 8192)), 0, 64),
        vector=VECTOR,
    ),
    "mask-sum": table(context=HASH, cohort=HASH, vector=VECTOR),
}
OTHER_TYPES = frozenset(
    {
        *("refusal", "key-request", "round-start", "mask-request", "round-abort", "finish"),
        *("catch-up-request", "catch-up", "kept-request", "kept", "record"),
        *("witness-request", "witness-answer", "seal", "sealed"),
    }
)
"""Messages of the protocol that no bundle holds; one in a bundle stands in another's place."""


Signed = tuple[bytes, bytes, bytes]
"""Key, signature and what it must cover."""


class Place(NamedTuple):
    """What the message in a member must be, or is."""

    type: str
    party: str
    role: str
    round: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose signature holds."""

    type: str
    party: str
    role: str
    round: int
    header: Fields
    body: Fields
    digest: bytes

    @property
    def place(self) -> Place:
        """What it is, to compare with where it lies."""
        return Place(self.type, self.party, self.role, self.round)


def _address(value: str) -> tuple[str, str]:
    party, _, role = value.partition("/")
    need(bool(party) and role in ROLES, "an address is not of the form name/role")
    return party, role


def open_message(raw: bytes, roster: Roster) -> tuple[Message, Signed]:
    """A message, and the signature that must be checked before anything in it counts."""
    signed = decode(SIGNED_MESSAGE, raw, "a signed message")
    header = decode(HEADER, signed["header"], "a message's header")
    party, role = _address(header["sender"])
    _address(header["receiver"])
    member = roster.members.get(party)
    if member is None or role not in member.roles:
        raise Wrong(f"{party} is not a {role} of the roster")
    kind = header["type"]
    body: Fields = {}
    if kind in BODIES:
        body = decode(BODIES[kind], header["body"], f"a message of type {kind}")
    else:
        need(kind in OTHER_TYPES, "an unknown type of message")
    message = Message(kind, party, role, header["round"], header, body, sha256(raw))
    return message, (member.key, signed["signature"], MESSAGE_DOMAIN + signed["header"])


# ==================================================================================================
# 7. Signed notes, checkpoints and cosignatures (C2SP signed-note, tlog-checkpoint, tlog-cosignature)
# ==================================================================================================

NOTE_LIMIT = 1024 * 1024
MAX_SIGNATURES = 4096
DASH = "\N{EM DASH} "
ED25519, COSIGNATURE = b"\x01", b"\x04"


class NoteLine(NamedTuple):
    """One signature line of a note: who, and the decoded key hash and signature."""

    name: str
    mark: bytes


class Checkpoint(NamedTuple):
    """What a log's owner signed: its leaves, and the root over them."""

    size: int
    root: bytes


def log_origin(federation: str, party: str) -> str:
    """Name of a party's log, of its key, and of the party as a witness."""
    return f"{urllib.parse.quote(federation, safe='')}/{urllib.parse.quote(party, safe='')}"


def key_hash(name: str, kind: bytes, key: bytes) -> bytes:
    """The four bytes that say which key made a signature."""
    return sha256(name.encode() + b"\n" + kind + key)[:4]


def strict_base64(value: str) -> bytes:
    """Canonical base64."""
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Wrong("not base64") from error
    need(base64.b64encode(data).decode() == value, "not canonical base64")
    return data


def read_note(note: bytes) -> tuple[str, list[NoteLine]]:
    """The text of a note, and its signature lines, unchecked."""
    need(len(note) <= NOTE_LIMIT, "a note is too long")
    try:
        whole = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong("not a signed note") from error
    body, separator, tail = whole.rpartition("\n\n")
    lines = tail.split("\n")
    need(bool(separator) and lines.pop() == "" and len(lines) > 0, "not a signed note")
    need(len(lines) <= MAX_SIGNATURES, "a note has too many signatures")
    need(not any(ord(c) < 0x20 and c != "\n" for c in whole), "not a signed note")
    return body + "\n", [_note_line(line) for line in lines]


def _note_line(line: str) -> NoteLine:
    name, separator, encoded = line.removeprefix(DASH).partition(" ")
    plain = bool(name) and name.isprintable() and "+" not in name
    plain = plain and not any(c.isspace() for c in name)
    need(line.startswith(DASH) and bool(separator) and plain, "a signature line is malformed")
    mark = strict_base64(encoded)
    need(len(mark) >= 5, "a signature line is malformed")
    return NoteLine(name, mark)


def signs_note(line: NoteLine, body: str, key: bytes) -> bool:
    """Whether ``line`` is the signature of ``key`` on a note; its key hash must name that key."""
    named = line.mark[:4] == key_hash(line.name, ED25519, key)
    return named and is_signed(key, line.mark[4:], body.encode())


def cosigns(line: NoteLine, body: str, key: bytes) -> bool:
    """Whether ``line`` is a cosignature/v1 of ``key`` on a checkpoint: a time, and a signature."""
    if len(line.mark) != 76 or line.mark[:4] != key_hash(line.name, COSIGNATURE, key):
        return False
    seconds = int.from_bytes(line.mark[4:12], "big")
    return seconds < 2**63 and is_signed(
        key, line.mark[12:], f"cosignature/v1\ntime {seconds}\n{body}".encode()
    )


def read_checkpoint(body: str, origin: str) -> Checkpoint:
    """The text of a checkpoint: origin, size, root, and no more."""
    lines = body.split("\n")
    need(len(lines) == 4 and lines[3] == "", "a signed note is not a checkpoint")
    size, root = lines[1], strict_base64(lines[2])
    plain = size.isascii() and size.isdigit() and len(size) <= 19 and str(int(size)) == size
    need(plain and len(root) == 32, "a checkpoint has no size or root")
    need(lines[0] == origin, "the checkpoint is of another log")
    return Checkpoint(int(size), root)


# ==================================================================================================
# 8. Logs: a party's events of the run, and that they are all of them (RFC 6962, RFC 9162)
# ==================================================================================================

EVENT_LIMIT = 2 * 1024 * 1024


def leaf_hash(data: bytes) -> bytes:
    """Of one event."""
    return sha256(b"\x00" + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    """Of two subtrees."""
    return sha256(b"\x01" + left + right)


class Range:
    """The complete subtrees that make up the first leaves of a log, largest first.

    Args:
        size: Number of leaves so far.
        nodes: Hashes of the subtrees: one for every bit of ``size``.
    """

    def __init__(self, size: int, nodes: Sequence[bytes]) -> None:
        need(len(nodes) == size.bit_count(), "a log's beginning has the wrong number of hashes")
        self.size = size
        self._nodes = list(nodes)

    def append(self, leaf: bytes) -> None:
        """Adds one leaf: as many subtrees merge as ``size`` has ones at its end."""
        node, rest = leaf, self.size
        while rest & 1:
            node = sha256(b"\x01" + self._nodes.pop() + node)
            rest >>= 1
        self._nodes.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self._nodes:
            return sha256(b"")
        node = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            node = node_hash(left, node)
        return node


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its place in the party's log, its kind without the role, and its fields."""

    index: int
    kind: str
    fields: Fields

    def take(self, name: str, check: Callable[[Any], Result]) -> Result:
        """A field, as what ``check`` makes of it."""
        try:
            return check(self.fields.get(name))
        except (ValueError, ArithmeticError) as error:
            reason = f"event {self.index} ({self.kind}) has no valid field '{name}'"
            raise Wrong(reason) from error

    def text(self, name: str) -> str:
        """A text."""
        return self.take(name, _as_text)

    def digest(self, name: str) -> bytes:
        """A digest."""
        return self.take(name, _as_digest)

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        return self.take(name, listed(_as_text, EVENT_LIMIT))

    def digests(self, name: str) -> list[bytes]:
        """A list of digests."""
        return self.take(name, listed(_as_digest, EVENT_LIMIT))

    def number(self, name: str) -> int:
        """An integer from 0 on."""
        return self.take(name, _as_number)

    def decimal(self, name: str) -> Decimal:
        """A finite number from 0 on, written as text."""
        return self.take(name, _as_decimal)

    def flag(self, name: str) -> bool:
        """True or false."""
        return self.take(name, _as_flag)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("not a text")


def _as_digest(value: Any) -> bytes:
    if isinstance(value, str) and HEX32.fullmatch(value):
        return bytes.fromhex(value)
    raise ValueError("not a digest")


def _as_number(value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    raise ValueError("not a number from 0 on")


def _as_decimal(value: Any) -> Decimal:
    """The shortest text of a finite double from 0 on: what parties write, and nothing longer."""
    found = float(_as_text(value))
    if math.isfinite(found) and math.copysign(1.0, found) > 0 and repr(found) == value:
        return Decimal(value)
    raise ValueError("not a finite number from 0 on in its one form")


def _as_flag(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise ValueError("neither true nor false")


@dataclass(frozen=True)
class PartyLog:
    """One run at one party: proven to be all that it logged, up to the last event.

    Args:
        events: The events of the run, by their place in the log.
        own: Events of the party that belong to no run, while this one went on, likewise.
        roots: Root of the log at the sizes that were asked for and lie in the record.
        size: Events of the whole log.
    """

    events: Mapping[int, Event]
    own: Mapping[int, Event]
    roots: Mapping[int, bytes]
    size: int

    @cached_property
    def _found(self) -> Mapping[tuple[str, int | None], list[Event]]:
        """The events of each kind, and of each kind in each round, in order."""
        found: dict[tuple[str, int | None], list[Event]] = {}
        for event in self.events.values():
            at = event.fields.get("round")
            for key in (None, at) if type(at) is int else (None,):
                found.setdefault((event.kind, key), []).append(event)
        return found

    def of(self, kind: str, at: int | None = None) -> list[Event]:
        """The run's events of this kind; only those that name round ``at``, if one is given."""
        return self._found.get((kind, at), [])

    @property
    def start(self) -> int:
        """Place of the run's first event in the party's log."""
        return next(iter(self.events))

    @property
    def closed(self) -> bool:
        """Whether the party logged the end of the run."""
        return len(self.of("run.closed")) > 0


LogOrFault = PartyLog | Missing | Wrong


def _without_role(kind: str) -> str:
    """``client.run.closed`` is ``run.closed``: whose log it is says who spoke."""
    for role in ROLES:
        rest = kind.removeprefix(f"{role}.")
        if rest != kind and "." in rest:
            return rest
    return kind


def _read_event(line: bytes) -> Event:
    """One line of a record: the canonical JSON of an event, which is its leaf."""
    try:
        fields = DECODER.decode(line.decode("utf-8"))
        canonical = SORTED.encode(fields).encode("utf-8") == line
    except (ValueError, RecursionError):
        canonical = False
    need(canonical and isinstance(fields, dict), "a line is not a canonical event")
    index, kind = fields.get("seq"), fields.get("type")
    need(type(index) is int and isinstance(kind, str), "a line is not an event")
    return Event(index, _without_role(kind), fields)


def _read_proof(data: bytes) -> tuple[int, list[bytes], dict[int, bytes]]:
    """Where the run begins, the subtrees before it, and the leaves of other runs."""
    record = read_json(data, "the proof")
    need(isinstance(record, dict) and set(record) == {"before", "leaves", "start"}, "a bad proof")
    start, before, leaves = record["start"], record["before"], record["leaves"]
    need(type(start) is int and start >= 0, "a proof without a start")
    need(isinstance(before, list) and isinstance(leaves, dict), "a bad proof")
    for key in leaves:
        need(
            len(key) <= 16 and key.isascii() and key.isdigit() and str(int(key)) == key,
            "a bad place in a proof",
        )
    return (
        start,
        [hex_digest(item, "a hash of a proof") for item in before],
        {int(key): hex_digest(item, "a hash of a proof") for key, item in leaves.items()},
    )


def read_log(
    run: str, data: bytes, proof: bytes, checkpoint: Checkpoint, sizes: Iterable[int]
) -> PartyLog:
    """Reads a party's record under its checkpoint, in one pass over the leaves.

    Every event names the run's event before it (``previous``) and the party's own that came between
    (``own``), the first names none: so none is missing among the hashes of other runs' events, whose content
    stays with the party.

    Args:
        run: Run id in hexadecimal.
        data: The events, one a line.
        proof: Its proof.
        checkpoint: What the party signed, already checked.
        sizes: Sizes at which the log's root is wanted.
    """
    start, before, leaves = _read_proof(proof)
    need(data.endswith(b"\n"), "there are no events, or the last is cut off")
    wanted, roots = frozenset(sizes), {}
    tree, events, own = Range(start, before), dict[int, Event](), dict[int, Event]()
    if start in wanted:
        roots[start] = tree.root()
    lines = iter(data[:-1].split(b"\n"))
    line = next(lines, None)
    event = _read_event(line) if line is not None else None
    for index in range(start, checkpoint.size):
        if event is not None and line is not None and event.index == index:
            need(index not in leaves, f"event {index} stands there twice")
            _take(event, run, events, own, start)
            leaf = leaf_hash(line)
            line = next(lines, None)
            event = _read_event(line) if line is not None else None
        else:
            need(index in leaves, f"event {index} is missing or out of order")
            leaf = leaves[index]
        tree.append(leaf)
        if index + 1 in wanted:
            roots[index + 1] = tree.root()
    need(event is None, "an event is out of order, or beyond the checkpoint")
    need(len(leaves) + len(events) + len(own) == checkpoint.size - start, "a proof holds too much")
    need(start in events, "the record does not begin with the run")
    need(tree.size == checkpoint.size and tree.root() == checkpoint.root, _ROOT)
    return PartyLog(events, own, roots, checkpoint.size)


_ROOT = "the events do not lead to the signed checkpoint"


def _take(
    event: Event, run: str, events: dict[int, Event], own: dict[int, Event], start: int
) -> None:
    """Puts an event to those of the run, or to the party's own, if it names all that came before."""
    links = {name: event.fields[name] for name in ("previous", "own") if name in event.fields}
    need(all(type(place) is int for place in links.values()), "a bad event")
    last, last_own = next(reversed(events), None), next(reversed(own), None)
    if "run" in event.fields:
        need(event.fields["run"] == run, f"event {event.index} belongs to another run")
        named = {} if last is None else {"previous": last}
        if last is not None and last_own is not None and last_own > last:
            named["own"] = last_own
        need(links == named, f"an event is missing before {event.index}")
        events[event.index] = event
        return
    earlier = links.pop("previous", None)
    begins = last_own is None and (earlier is None or 0 <= earlier < start)
    found = begins or (last_own is not None and earlier == last_own)
    need(found and not links, f"an event is missing before {event.index}")
    own[event.index] = event


# ==================================================================================================
# 9. Job, schema and plan
# ==================================================================================================

JOB = keyed(
    version=one_of(1),
    name=words(1, 64, r"[a-z0-9][a-z0-9-]{0,63}"),
    purpose=words(1, 64),
    rounds=whole(1, 10_000),
    model=words(1),
    data=keyed(contract=words(1, 64)),
    evaluation=keyed(
        contract=words(1), holdout=real(0, 0.5), bins=whole(2, 128), patience=whole(0, 10_000)
    ),
    privacy=keyed(
        unit=one_of("record", "entity", "client", "none"),
        epsilon=real(0.01, 20),
        delta=real(1e-10, 0.01),
        clip_norm=real(0, above=True),
        sampling_rate=real(1e-5, 1),
        max_records=whole(1, 256),
        client_sampling=one_of("secret", "visible"),
        max_participations=or_null(whole(1)),
        expected_units=whole(1, 2**31),
        max_colluding=whole(0),
        noise=one_of("shared", "own"),
        tuning=one_of("charged", "public-data", "not-declared"),
    ),
    aggregation=keyed(
        protocol=one_of("masked", "plain"),
        min_cohort=whole(1),
        helpers=or_null(listed(words())),
        min_helpers=or_null(whole(2)),
        ring_bits=one_of(16, 24, 32),
        phase_seconds=whole(1, 604_800),
        audit_rounds=whole(0, 10_000),
    ),
    training=keyed(
        algorithm=one_of("sgd", "fedavg"),
        optimiser=one_of("sgd", "momentum", "adam"),
        learning_rate=real(0, above=True),
        schedule=one_of("constant", "cosine"),
        momentum=real(0, 1, below=True),
        average_from=real(0, 1),
        clipping=one_of("flat", "per-layer", "adaptive", "normalised"),
        clip_quantile=real(0, 1, above=True, below=True),
        clip_rate=real(0, 1, above=True, below=True),
        clip_share=real(0, 0.25, above=True),
        local_epochs=whole(1, 1000),
        local_batch=whole(1, 2**20),
        local_learning_rate=real(0, above=True),
        micro_batch=whole(1, 2**20),
        local_layers=listed(words(1, 256), 64),
        metrics_share=real(0, 0.5),
        loss_bound=real(0, above=True),
    ),
    features=keyed(
        scale=one_of("linear", "log1p"),
        norm=real(0, above=True),
        map=one_of("none", "scattering"),
        height=whole(8, 32),
        width=whole(8, 32),
        prior=or_null(words(1, 128, r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")),
    ),
)


def read_job(data: bytes) -> Fields:
    """``job.json``: every key of a job, so that nothing depends on defaults."""
    try:
        job: Fields = JOB(read_json(data, "the job"))
    except ValueError as error:
        raise Wrong("job.json is not a valid job") from error
    privacy, training, aggregation = job["privacy"], job["training"], job["aggregation"]
    unit, fedavg = privacy["unit"], training["algorithm"] == "fedavg"
    cap, visible = privacy["max_participations"], privacy["client_sampling"] == "visible"
    held_out = job["evaluation"]["holdout"]
    rules = (
        not (fedavg and unit in ("record", "entity")),
        fedavg or unit != "client",
        unit == "none" or aggregation["protocol"] == "masked",
        unit != "none" or privacy["noise"] != "own",
        not (held_out and fedavg),
        held_out or not job["evaluation"]["patience"],
        not (unit == "none" and fedavg and training["clipping"] != "flat"),
        fedavg or not training["local_layers"],
        unit == "client" or (cap is None and not visible),
        unit == "entity" or privacy["max_records"] == 1,
        (cap or 0) <= job["rounds"],
    )
    need(all(rules), "the settings of job.json contradict each other")
    return job


class Schema(NamedTuple):
    """What of the public data schema matters here."""

    features: int
    classes: int


def read_schema(data: bytes) -> Schema:
    """``schema.json``."""
    record = read_json(data, "the schema")
    column = keyed(name=words(1), lower=real(-math.inf), upper=real(-math.inf))
    with_unit = keyed(name=words(1), lower=real(-math.inf), upper=real(-math.inf), unit=words(1))
    try:
        top = keyed(version=one_of(1), features=list, label=words(1), classes=listed(words(1)))
        schema = top(record)
        features = [(with_unit if "unit" in item else column)(item) for item in record["features"]]
    except (ValueError, TypeError) as error:
        raise Wrong("schema.json is not a data schema") from error
    names = [item["name"] for item in features] + [schema["label"]]
    distinct = len(set(names)) == len(names)
    classes = schema["classes"]
    ordered = all(item["lower"] < item["upper"] for item in features)
    usable = len(features) >= 1 and len(set(classes)) == len(classes) >= 2
    need(distinct and ordered and usable, "schema.json is not a usable schema")
    return Schema(len(features), len(classes))


MAX_ROUNDS, MAX_HELPERS = 2**17, 2**7
MAX_SENSITIVITY = 2**31 - 1
LEAST_VARIANCE, MOST_VARIANCE = 8, 2**60
TAIL = 9
"""Standard deviations of noise that the ring leaves room for."""


@dataclass(frozen=True)
class Plan:
    """The public parameters of the mechanism; whatever privacy rests on is an integer derived here."""

    clip_norm: float
    delta: float
    expected_units: int
    grid: float
    helpers: int
    max_colluding: int
    max_participations: int
    min_helpers: int
    noise_multiplier: float
    ring_bits: int
    rounds: int
    sampling_rate: float
    unit: str
    units_bound: int
    visible_sampling: bool

    @property
    def private(self) -> bool:
        """Whether the run has differential privacy."""
        return self.unit != "none"

    @cached_property
    def sensitivity(self) -> int:
        """The exact integer L2 sensitivity D = floor(clip_norm / grid)."""
        return int(Fraction(self.clip_norm) // Fraction(self.grid))

    @property
    def rotated(self) -> bool:
        """Whether contributions are rotated and rounded at random: 16 bits without noise."""
        return not self.private and self.ring_bits == 16

    @cached_property
    def shares(self) -> dict[int, int]:
        """Helpers present -> variance of one helper's share of noise: ceil((z D)^2 / (p - t))."""
        present = range(self.min_helpers, self.helpers + 1)
        if not self.private:
            return dict.fromkeys(present, 0)
        target = (Fraction(self.noise_multiplier) * self.sensitivity) ** 2
        return {
            p: -(-target.numerator // (target.denominator * (p - self.max_colluding)))
            for p in present
        }

    @property
    def largest_variance(self) -> int:
        """Of the noise in the noisiest sum that may be."""
        return max(p * v for p, v in self.shares.items())

    @property
    def coordinate_bound(self) -> int:
        """The largest magnitude of one coordinate of one contribution, in integer units."""
        variance = self.largest_variance
        tail = math.isqrt(TAIL**2 * variance) + (1 if variance else 0)
        room = ((1 << (self.ring_bits - 1)) - 1 - tail) // self.units_bound
        return min(self.sensitivity, room)

    def norm_bound(self, length: int) -> float:
        """The largest plausible norm of a sum of vectors of this length, in integer units."""
        norm = self.sensitivity
        if self.rotated:
            root = math.isqrt(length - 1) + 1 if length > 0 else 0
            likely = norm**2 + norm + (length + 3) // 4 + (root + 1) // 2
            norm = math.isqrt(min(likely, (norm + root) ** 2))
        signal = float(self.units_bound * norm)
        if not self.private:
            return signal
        return signal + math.sqrt(self.largest_variance) * (math.sqrt(length) + TAIL)

    @property
    def divisor(self) -> float:
        """The constant by which a sum is divided."""
        return self.sampling_rate * self.expected_units

    @property
    def noise_ratio(self) -> float:
        """Noise that colluding helpers cannot subtract over the sensitivity, rounded down."""
        if not self.private or self.max_colluding >= self.min_helpers:
            return 0.0
        least = min((p - self.max_colluding) * v for p, v in self.shares.items())
        ratio = math.sqrt(Fraction(least - 4, self.sensitivity**2)) * (1.0 - 2.0**-50)
        return math.nextafter(ratio, 0.0)

    @property
    def realised_rate(self) -> float:
        """The sampling rate in 64-bit steps, rounded up."""
        exact = Fraction(int(Fraction(self.sampling_rate) * 2**64), 2**64)
        rate = float(exact)
        return rate if Fraction(rate) >= exact else math.nextafter(rate, 1.0)


FLOAT = real(-math.inf)
TRUTH = one_of(False, True)
PLAN = keyed(
    unit=one_of("record", "entity", "client", "none"),
    rounds=whole(1, MAX_ROUNDS),
    delta=real(1e-10, 1, below=True),
    clip_norm=real(1e-60, 1e60, above=True, below=True),
    sampling_rate=real(2.0**-64, 1),
    visible_sampling=TRUTH,
    max_participations=whole(0, MAX_ROUNDS),
    expected_units=whole(1, 2**31),
    noise_multiplier=real(0, 2.0**20),
    helpers=whole(0, MAX_HELPERS),
    max_colluding=whole(0, MAX_HELPERS),
    min_helpers=whole(0, MAX_HELPERS),
    ring_bits=one_of(16, 24, 32),
    grid=real(1e-60, 1e60, above=True, below=True),
    units_bound=whole(1, 2**32),
)


def read_plan(data: bytes) -> Plan:
    """The privacy plan in a run's manifest; refused if it cannot hold together."""
    try:
        plan = Plan(**PLAN(read_json(data, "the plan")))
    except ValueError as error:
        raise Wrong("the privacy plan is not valid") from error
    need(1 <= plan.sensitivity <= MAX_SENSITIVITY, "the plan's grid does not fit its clip norm")
    need(plan.min_helpers <= plan.helpers, "the plan needs more helpers than there are")
    need(plan.max_participations <= plan.rounds, "the plan's cap exceeds its rounds")
    by_client = plan.visible_sampling or plan.max_participations
    need(plan.unit == "client" or not by_client, "only clients are sampled in sight of others")
    if plan.private:
        need(1 <= plan.max_colluding < plan.helpers, "all helpers of the plan could collude")
        need(plan.noise_multiplier > 0, "the plan has no noise")
    else:
        need(plan.noise_multiplier == 0, "unit 'none' has no noise")
    if plan.helpers:
        least = max(2, plan.max_colluding + 1)
        if not plan.private:
            least = max(least, (plan.helpers + plan.max_colluding) // 2 + 1)
        need(plan.min_helpers >= least, "a round of the plan might have no honest helper")
    if plan.private:
        smallest, largest = plan.shares[plan.helpers], plan.shares[plan.min_helpers]
        fits = LEAST_VARIANCE <= smallest <= largest <= MOST_VARIANCE
        need(fits, "a share of the plan's noise is out of range")
    least_bound = 1 if plan.rotated else plan.sensitivity
    need(plan.coordinate_bound >= least_bound, "a sum of the plan could wrap around")
    return plan


# ==================================================================================================
# 10. The terms of a run: does the offer hold together?
# ==================================================================================================

PROTOCOLS = {"masked": "masked/1", "plain": "plain/1"}
MAX_LENGTH = 2**28
CHUNK = 2**18
MAX_BATCH = 2**27


@dataclass(frozen=True)
class Terms:
    """What every party of the run agreed to."""

    manifest: Fields
    job: Fields
    classes: int
    plan: Plan

    @property
    def rotated(self) -> bool:
        """Whether contributions travel rotated."""
        return self.plan.rotated

    @property
    def weighted(self) -> bool:
        """Whether updates are weighted by records and carry their weight."""
        fedavg = bool(self.job["training"]["algorithm"] == "fedavg")
        return fedavg and self.job["privacy"]["unit"] == "none"

    @property
    def adaptive(self) -> bool:
        """Whether a coordinate holds the clip bits."""
        return bool(self.job["training"]["clipping"] == "adaptive")

    @property
    def held_out(self) -> int:
        """Coordinates of the evaluation on held-out records."""
        evaluation = self.job["evaluation"]
        if not evaluation["holdout"]:
            return 0
        return 3 + (2 * int(evaluation["bins"]) if self.classes == 2 else 0)

    @property
    def plain_length(self) -> int:
        """Coordinates of a contribution before it is rotated: gradient, weight, bit, metrics, held out."""
        metrics = 2 if self.job["training"]["metrics_share"] else 0
        beside = int(self.weighted) + int(self.adaptive) + metrics + self.held_out
        return int(self.manifest["dimension"]) + beside

    @property
    def length(self) -> int:
        """Elements of a contribution."""
        if not self.rotated:
            return self.plain_length
        block = rotation_block(self.plain_length)
        return -(-self.plain_length // block) * block

    @property
    def units(self) -> float:
        """The constant number of units that a round is expected to train on."""
        return self.plan.divisor * (1.0 - float(self.job["evaluation"]["holdout"]))


def rotation_block(length: int) -> int:
    """Elements per block of the rotation of a vector."""
    power = max(0, (length - 1) // 64).bit_length() - 1
    return min(max(64, 1 << max(power, 0)), 2**16)


def read_terms(offer: Fields, roster: Roster) -> Terms:
    """Checks an offer as every party of the run does before it reads any data."""
    manifest = offer["manifest"]
    job, schema = read_job(offer["job"]), read_schema(offer["schema"])
    terms = Terms(manifest, job, schema.classes, read_plan(manifest["plan"]))
    plan, aggregation, privacy = terms.plan, job["aggregation"], job["privacy"]
    digests = (sha256(offer["job"]), sha256(offer["schema"]))
    need(digests == (manifest["job"], manifest["schema"]), "another job or schema than it names")
    need(roster.digest == manifest["roster"], "the run names another roster")
    protocol = PROTOCOLS[aggregation["protocol"]]
    need(manifest["protocol"] == protocol, "the run uses another protocol than the job")
    need(manifest["length"] <= MAX_LENGTH, "the vector is too long")
    _check_shares_of_clip(job["training"])
    sizes = (manifest["length"], manifest["rounds"])
    need(sizes == (terms.length, job["rounds"]), "vector length or rounds do not fit the job")
    encoding = (manifest["ring_bits"], manifest["min_cohort"])
    expected = (plan.ring_bits, aggregation["min_cohort"])
    need(encoding == expected, "encoding or cohort do not fit the job")
    batch = job["training"]["micro_batch"] * privacy["max_records"]
    widest = max(manifest["dimension"], schema.features)
    need(batch * widest <= MAX_BATCH, "one batch of gradients would be too large")
    helpers, clients = len(manifest["helpers"]), len(manifest["clients"])
    upload = 1024 + 1280 * helpers + 40 * -(-manifest["length"] // CHUNK)
    small = upload <= 2 * 1024 * 1024 and clients * upload <= MAX_MESSAGE // 8 * 7
    need(small, "the run's messages would be too long")
    _check_plan(terms)
    _check_parties(terms, roster)
    return terms


def _check_shares_of_clip(training: Fields) -> None:
    bit = training["clip_share"] if training["clipping"] == "adaptive" else 0.0
    rest = 1.0 - bit - training["metrics_share"]
    need(rest > 0.0, "metrics and clip bit leave nothing to the gradient")


def _check_plan(terms: Terms) -> None:
    """The plan is the job's."""
    plan, job, manifest = terms.plan, terms.job, terms.manifest
    privacy, aggregation = job["privacy"], job["aggregation"]
    helpers, clients = len(manifest["helpers"]), len(manifest["clients"])
    least = aggregation["min_helpers"]
    own = privacy["noise"] == "own"
    mean = plan.sampling_rate * plan.expected_units
    units = math.ceil(mean + 10.0 * math.sqrt(mean)) if 0.0 < mean < 2.0**31 else 1
    if job["training"]["algorithm"] == "fedavg":
        units = clients
    same = (
        all(
            getattr(plan, name) == privacy[name]
            for name in ("unit", "clip_norm", "sampling_rate", "expected_units", "delta")
        ),
        plan.rounds == job["rounds"],
        plan.visible_sampling == (privacy["client_sampling"] == "visible"),
        plan.max_participations == (privacy["max_participations"] or 0),
        plan.helpers == helpers,
        plan.min_helpers == (helpers if least is None or not helpers else least),
        plan.ring_bits == aggregation["ring_bits"],
        plan.max_colluding == manifest["max_colluding"],
        plan.units_bound == units,
        manifest["own_noise"] == own,
        plan.max_colluding == (max(helpers - 1, 0) if own else privacy["max_colluding"]),
    )
    need(all(same), "the privacy plan does not fit the job")


def _check_parties(terms: Terms, roster: Roster) -> None:
    """Clients and helpers are in the roster, and as many as make a sum safe."""
    job, manifest = terms.job, terms.manifest
    clients, helpers = manifest["clients"], manifest["helpers"]
    for names, role in ((clients, "client"), (helpers, "helper")):
        need(set(names) <= roster.with_role(role), f"somebody is not a {role} of the roster")
    need(len(set(clients)) == len(clients), "a site is named twice")
    need(len(roster.operators(helpers)) == len(helpers), "two helpers have the same operator")
    operators = len(roster.operators(clients))
    minimum = job["aggregation"]["min_cohort"]
    need(minimum <= operators, "min_cohort exceeds the operators that take part")
    if job["privacy"]["client_sampling"] == "visible":
        _check_visible(job, operators)
    if job["aggregation"]["protocol"] == "plain":
        return
    need(len(helpers) >= 2, "masked aggregation needs two helpers")
    least = job["aggregation"]["min_helpers"]
    need((least or len(helpers)) <= len(helpers), "min_helpers exceeds the helpers")
    own = job["privacy"]["noise"] == "own"
    colluding = len(helpers) - 1 if own else job["privacy"]["max_colluding"]
    everyone = own and job["privacy"]["unit"] != "none" and set(clients) <= set(helpers)
    need(minimum - colluding >= 2 or everyone, "fewer than two honest sites in a sum")


def _check_visible(job: Fields, operators: int) -> None:
    """That too few sample themselves is so rare that leaving such a round out tells nothing (Chernoff)."""
    privacy = job["privacy"]
    fewest = job["aggregation"]["min_cohort"] - 1
    share, rate = fewest / operators, privacy["sampling_rate"] * _below_cap(job)
    exponent = 0.0
    if share < rate:
        pairs = ((share, rate), (1.0 - share, 1.0 - rate))
        exponent = sum(a * math.log(a / b) for a, b in pairs if a > 0.0 and b > 0.0)
        exponent = math.inf if rate == 1.0 else operators * exponent
    rare = math.log(job["rounds"]) + math.log1p(math.exp(privacy["epsilon"])) - exponent
    need(
        rare <= math.log(5e-10 * privacy["delta"]), "fewer than min_cohort may take part in a round"
    )


def _below_cap(job: Fields) -> float:
    """Probability that a client may still take part in the last round."""
    privacy = job["privacy"]
    before, cap, rate = job["rounds"] - 1, privacy["max_participations"], privacy["sampling_rate"]
    if cap is None or cap > before:
        return 1.0
    if rate == 1.0:
        return 0.0
    return min(1.0, sum(binomial(before, rate, range(cap))))


def binomial(count: int, rate: float, times: Iterable[int]) -> list[float]:
    """Probabilities of so many heads in ``count`` tosses, for a rate below 1."""
    whole_log = math.lgamma(count + 1)
    return [
        math.exp(
            whole_log
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(rate)
            + (count - k) * math.log1p(-rate)
        )
        for k in times
    ]


# ==================================================================================================
# 11. The model chain, bit for bit
# ==================================================================================================
# Every float operation below is one IEEE 754 double operation, in the order that all parties use; Python's
# floats are such doubles. Only +, -, *, / and square roots occur, which are rounded correctly everywhere.

Vector = list[float]
LEAST_WEIGHT = 0.5
LEAST_SCALE, MOST_SCALE = 2.0**-40, 2.0**40
DECAY, ADAM_EPSILON = 0.999, 1e-8
LITTLE_ENDIAN = sys.byteorder == "little"


def doubles_to_bytes(values: Vector) -> bytes:
    """Little-endian float64."""
    packed = array("d", values)
    if not LITTLE_ENDIAN:
        packed.byteswap()
    return packed.tobytes()


def doubles_from_bytes(data: bytes) -> Vector:
    """The inverse of ``doubles_to_bytes``."""
    packed = array("d", data)
    if not LITTLE_ENDIAN:
        packed.byteswap()
    return packed.tolist()


def centred(data: bytes, bits: int) -> list[int]:
    """Little-endian elements of the ring of 2^bits as integers from -2^(bits-1) on."""
    if bits == 24:
        thirds = zip(data[0::3], data[1::3], data[2::3], strict=True)
        return [((a | b << 8 | c << 16) ^ 0x800000) - 0x800000 for a, b, c in thirds]
    packed = array("h" if bits == 16 else "i", data)
    if not LITTLE_ENDIAN:
        packed.byteswap()
    return packed.tolist()


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the next step depends on."""

    theta: Vector
    momentum: Vector
    second: Vector
    average: Vector
    averaged: int
    steps: int
    scale: float

    @classmethod
    def first(cls, theta: Vector) -> State:
        """Before the first step."""
        zero = [0.0] * len(theta)
        return cls(theta, zero, zero, zero, 0, 0, 1.0)

    @property
    def digest(self) -> bytes:
        """What uploads, logs and contexts know the state by."""
        header = struct.pack("<QQQd", len(self.theta), self.averaged, self.steps, self.scale)
        arrays = (self.theta, self.momentum, self.second, self.average)
        return sha256(
            b"tacit server state v1\x00" + header + b"".join(map(doubles_to_bytes, arrays))
        )

    @property
    def released(self) -> Vector:
        """The parameters that a run releases: the average once there is one."""
        return self.average if self.averaged else self.theta


def unrotated(values: Vector, seed: bytes, length: int) -> Vector:
    """Undoes the rotation of a vector: the Walsh-Hadamard transform of every block, then the signs.

    A block is a matrix of rows by columns: butterflies between rows first, then between columns.
    """
    block = rotation_block(length)
    columns = 2 ** ((block.bit_length() - 1) // 2)
    values = list(values)
    distance = columns
    while distance < block:
        _butterflies(values, distance)
        distance *= 2
    distance = 1
    while distance < columns:
        _butterflies(values, distance)
        distance *= 2
    norm = 1.0 / math.sqrt(block)
    signs = rotation_signs(seed, len(values))
    return [value * norm * sign for value, sign in zip(values, signs, strict=True)][:length]


def _butterflies(values: Vector, distance: int) -> None:
    """(a, b) -> (a + b, a - b) for all pairs at this distance, in place."""
    step = 2 * distance
    if distance * step <= len(values):  # fewer offsets than groups: take each offset of all groups
        for offset in range(distance):
            one, other = slice(offset, None, step), slice(offset + distance, None, step)
            a, b = values[one], values[other]
            values[one] = map(operator.add, a, b)
            values[other] = map(operator.sub, a, b)
        return
    for start in range(0, len(values), step):
        middle, end = start + distance, start + step
        a, b = values[start:middle], values[middle:end]
        values[start:middle] = map(operator.add, a, b)
        values[middle:end] = map(operator.sub, a, b)


SIGNS_OF_BYTE = [[-1.0 if byte >> bit & 1 else 1.0 for bit in range(8)] for byte in range(256)]


def rotation_signs(seed: bytes, length: int) -> Vector:
    """Public random signs: bit i of an AES-256-CTR keystream, lowest first, is that of element i."""
    key = HKDF(algorithm=SHA256(), length=48, salt=None, info=b"tacit rotation v1").derive(seed)
    cipher = Cipher(algorithms.AES(key[:32]), modes.CTR(key[32:])).encryptor()
    stream = cipher.update(bytes(-(-length // 8)))
    return [sign for byte in stream for sign in SIGNS_OF_BYTE[byte]][:length]


class Chain:
    """How a round's sum moves the model.

    Args:
        terms: Of the run.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._training = terms.job["training"]
        self._dimension = terms.manifest["dimension"]
        after = float(self._training["average_from"]) * int(terms.job["rounds"])
        self._average_after = math.floor(after)

    def values(self, total: Sequence[int], state: State) -> Vector:
        """The real numbers behind a sum."""
        grid = self.terms.plan.grid
        decoded = [x * grid for x in map(float, total)]
        if not self.terms.rotated:
            return decoded
        seed = sha256(b"tacit rotation seed v1\x00" + state.digest)
        return unrotated(decoded, seed, self.terms.plain_length)

    def step(self, state: State, values: Vector) -> State:
        """The state after a round whose sum was ``values``."""
        first, second, direction = self._direction(state, self._gradient(state, values))
        rate = self._rate(state.steps)
        theta = [t - rate * d for t, d in zip(state.theta, direction, strict=True)]
        average, averaged, steps = state.average, state.averaged, state.steps + 1
        if steps > self._average_after:
            averaged += 1
            average = [a + (t - a) / averaged for a, t in zip(average, theta, strict=True)]
        finite = all(all(map(math.isfinite, part)) for part in (theta, first, second, average))
        need(finite, f"the model is no longer finite after step {steps}")
        return State(theta, first, second, average, averaged, steps, self._scale(state, values))

    def held_out_loss(self, values: Vector, helpers: int) -> float:
        """The loss on held-out records; NaN where noise drowned it or nothing is held out."""
        terms, plan = self.terms, self.terms.plan
        if not terms.held_out:
            return math.nan
        blocks = 4 if terms.classes == 2 else 3
        unit = plan.clip_norm / math.sqrt(blocks)
        noise = math.sqrt(helpers * plan.shares[helpers]) * plan.grid / unit
        loss, _, count = (value / unit for value in values[-terms.held_out :][:3])
        if not count > max(3.0 * noise, 1.0):
            return math.nan
        return float(self._training["loss_bound"]) * (1.0 - loss / count) / 2.0

    def _gradient(self, state: State, values: Vector) -> Vector:
        """Sum over the constant divisor (``sgd``), or minus the mean of the updates (``fedavg``)."""
        terms, gradient = self.terms, values[: self._dimension]
        if terms.weighted:
            weight = values[self._dimension]
            if weight * terms.plan.expected_units < LEAST_WEIGHT:
                return [0.0] * self._dimension
            return [-g / weight for g in gradient]
        scale, units = state.scale, terms.units
        mean = [g * scale / units for g in gradient]
        return [-g for g in mean] if self._training["algorithm"] == "fedavg" else mean

    def _direction(self, state: State, gradient: Vector) -> tuple[Vector, Vector, Vector]:
        """First moment, second moment, and where the step goes."""
        decay: float = self._training["momentum"]
        kind = self._training["optimiser"]
        if kind == "sgd":
            return state.momentum, state.second, gradient
        pairs = zip(state.momentum, gradient, strict=True)
        if kind == "momentum":
            first = [decay * m + g for m, g in pairs]
            return first, state.second, first
        rest, rest_of_squares = 1.0 - decay, 1.0 - DECAY
        first = [decay * m + rest * g for m, g in pairs]
        second = [
            DECAY * s + rest_of_squares * (g * g)
            for s, g in zip(state.second, gradient, strict=True)
        ]
        one, other = 1.0 - power(decay, state.steps + 1), 1.0 - power(DECAY, state.steps + 1)
        direction = [
            (f / one) / (math.sqrt(s / other) + ADAM_EPSILON)
            for f, s in zip(first, second, strict=True)
        ]
        return first, second, direction

    def _rate(self, done: int) -> float:
        rate: float = self._training["learning_rate"]
        if self._training["schedule"] == "constant":
            return rate
        rounds: int = self.terms.job["rounds"]
        return rate * half_cosine(min(done, rounds), rounds)

    def _scale(self, state: State, values: Vector) -> float:
        """What adaptive clipping multiplies the clip norm by; 1 for any other clipping."""
        if not self.terms.adaptive:
            return state.scale
        training = self._training
        bit = self.terms.plan.clip_norm * math.sqrt(training["clip_share"])
        short = 0.5 + 0.5 * values[self._dimension] / (bit * self.terms.units)
        short = min(max(short, 0.0), 1.0)
        scale = state.scale * (1.0 - training["clip_rate"] * (short - training["clip_quantile"]))
        return float(min(max(scale, LEAST_SCALE), MOST_SCALE))


def power(base: float, exponent: int) -> float:
    """``base ** exponent`` by multiplications alone, as libraries' ``pow`` differ."""
    result = 1.0
    for bit in reversed(f"{exponent:b}"):
        if bit == "1":
            result *= base
        base *= base
    return result


@cache
def half_cosine(done: int, rounds: int) -> float:
    """``(1 + cos(pi done / rounds)) / 2``, correctly rounded from 40 decimal digits."""
    with localcontext(Context(prec=40)):
        square = (Decimal("3.14159265358979323846264338327950288") * done / rounds) ** 2
        term = total = Decimal(1)
        for index in range(1, 30):
            term = -term * square / (2 * index * (2 * index - 1))
            total += term
        return float((1 + total) / 2)


def should_stop(losses: Sequence[float], patience: int) -> bool:
    """Whether the smoothed loss was lowest more than ``patience`` measured rounds ago."""
    keep = 1.0 - 2.0 / (patience + 1.0)

    def smoothed(before: float, loss: float) -> float:
        return keep * before + (1.0 - keep) * loss

    measured = itertools.filterfalse(math.isnan, losses)
    course = [math.inf, *itertools.accumulate(measured, smoothed)]
    lowest = course.index(min(course))
    return patience > 0 and len(course) - 1 - lowest > patience


# ==================================================================================================
# 12. Epsilon: between what a test shows and what Renyi accounting allows
# ==================================================================================================
# The recorded figures come from a privacy loss distribution, which is tighter than Renyi accounting and
# too much for a file like this. So: at or above the Renyi bound a recorded epsilon certainly holds, below
# what a plain statistical test shows it certainly does not, and between the two it is not decided here.

ORDERS = (*range(2, 129), *range(136, 257, 8), *range(288, 1025, 32))
LEAST_RATIO = 0.1
"""Noise over sensitivity below which one release alone is called infinitely dear."""
SAMPLER_VARIATION = 2.0**-82
SLACK = 1e-9
REACH = 38.0


class Rounds(NamedTuple):
    """So many rounds of one Poisson-sampled Gaussian mechanism."""

    ratio: float
    rate: float
    number: int


def as_seen(plan: Plan, rounds: int, sees_participation: bool) -> list[Rounds]:
    """What an observer learns of one unit: each entry alone bounds it, so that the least counts."""
    capped = min(rounds, plan.max_participations or rounds)
    in_full = Rounds(plan.noise_ratio, 1.0, capped)
    if plan.sampling_rate == 1.0 or (plan.visible_sampling and sees_participation):
        return [in_full]
    sampled = Rounds(plan.noise_ratio, plan.realised_rate, rounds)
    return [sampled] if capped == rounds else [sampled, in_full]


def epsilon_allowed(plan: Plan, rounds: int) -> float:
    """An upper bound of what so many rounds cost a data holder, against the run's own parties."""
    if plan.noise_ratio < LEAST_RATIO:
        return math.inf
    return min(renyi_bound(part, plan.delta) for part in as_seen(plan, rounds, True))


def epsilon_shown(plan: Plan, rounds: int, *, sees_participation: bool = True) -> float:
    """A lower bound: no true epsilon is below it."""
    if plan.noise_ratio <= 0.0:
        return math.inf
    return min(
        shown_by_a_test(part, plan.delta) for part in as_seen(plan, rounds, sees_participation)
    )


def is_exactly_enough(plan: Plan, rounds: int, recorded: Decimal) -> bool:
    """Whether a recorded epsilon holds by the one formula that is exact, that of rounds without sampling.

    Reference: Balle and Wang 2018, theorem 8; so many Gaussian outputs are one of less noise.
    """
    for part in as_seen(plan, rounds, True):
        if part.rate == 1.0 and 0 < recorded < 700:
            amount, mean = float(recorded), math.sqrt(part.number) / part.ratio
            above = _tail(amount / mean - mean / 2.0)
            spent = above - math.exp(amount) * _tail(amount / mean + mean / 2.0)
            sampler = (1.0 + math.exp(amount)) * SAMPLER_VARIATION
            if spent + sampler <= plan.delta * (1.0 - SLACK):
                return True
    return False


@cache
def renyi_bound(part: Rounds, delta: float) -> float:
    """Epsilon by Renyi differential privacy at integer orders.

    Reference:
        Mironov, Talwar and Zhang 2019, section 3.3 (the sampled Gaussian, add or remove one); Canonne,
        Kamath and Steinke 2020, proposition 12 (conversion).
    """
    spent = [(order, renyi_divergence(part, order) * part.number) for order in ORDERS]
    # Rounding: a sum of up to 1,025 logarithms, each within a few units of the last place.
    spent = [(order, loss + part.number * order * 1e-14) for order, loss in spent]

    def at(rest: float) -> float:
        bounds: list[float] = [
            loss + math.log1p(-1.0 / order) - math.log(rest * order) / (order - 1)
            for order, loss in spent
        ]
        return max(0.0, min(bounds))

    # The sampler of the noise takes its share of delta, which grows with epsilon.
    found = at(delta) + SLACK
    while found < 700.0:
        rest = delta * (1.0 - SLACK) - (1.0 + math.exp(found)) * SAMPLER_VARIATION
        if rest <= 0.0:
            break
        again = at(rest) + SLACK
        if again <= found:
            return found
        found = again * (1.0 + 1e-12)
    return math.inf


def renyi_divergence(part: Rounds, order: int) -> float:
    """Of one round: log of the sum over k of binom(a, k) (1-q)^(a-k) q^k exp(k (k-1) / (2 s^2))."""
    inverse = 0.5 / part.ratio**2
    if part.rate == 1.0:
        return order * inverse
    heads, tails = math.log(part.rate), math.log1p(-part.rate)
    top = math.lgamma(order + 1)
    logs = [
        top
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + k * heads
        + (order - k) * tails
        + k * (k - 1) * inverse
        for k in range(order + 1)
    ]
    largest = max(logs)
    total = math.fsum(math.exp(value - largest) for value in logs)
    return max(0.0, largest + math.log(total)) / (order - 1)


@cache
def shown_by_a_test(part: Rounds, delta: float) -> float:
    """What the best threshold on the sum of all outputs shows: P(E) <= e^epsilon Q(E) + delta.

    A unit that contributes the whole sensitivity whenever it is sampled moves the sum of T outputs by a
    binomial number. Exact for rounds without sampling.

    Reference: Neyman and Pearson; Balle and Wang 2018, theorem 5.
    """
    shift = 1.0 / (math.sqrt(part.number) * part.ratio)
    times, weights = _sampled_times(part)
    low, high, best = 0.0, min(times[-1] * shift + 9.0, REACH), 0.0
    for _ in range(3):  # a grid of thresholds, then finer ones about the best
        step = (high - low) / 32
        thresholds = [low + step * i for i in range(33)]
        shown = [
            _log_ratio(
                sum(w * _tail(t - k * shift) for k, w in zip(times, weights, strict=True)) - delta,
                _tail(t),
            )
            for t in thresholds
        ]
        best = max(best, *shown)
        middle = thresholds[shown.index(max(shown))]
        low, high = max(middle - step, 0.0), min(middle + step, REACH)
    return best


def _sampled_times(part: Rounds) -> tuple[list[int], list[float]]:
    """How often a unit is sampled, with probabilities; leaving far tails out only lowers the bound."""
    if part.rate == 1.0:
        return [part.number], [1.0]
    mean = part.number * part.rate
    width = 8.0 * math.sqrt(mean * (1.0 - part.rate))
    last = min(part.number, int(mean + width) + 8)
    times = list(range(max(0, int(mean - width)), last + 1))
    return times, binomial(part.number, part.rate, times)


def _tail(x: float) -> float:
    """The standard Gaussian's probability above x."""
    return 0.5 * math.erfc(x / math.sqrt(2.0))


def _log_ratio(excess: float, without: float) -> float:
    return math.log(excess / without) if excess > 0.0 and without > 0.0 else 0.0


# ==================================================================================================
# 13. The bundle, opened
# ==================================================================================================

MANIFEST_FILE, SIGNATURES_FILE = "manifest.json", "manifest.sig"
OFFER = "transcript/offer.msg"
INITIAL, FINAL, SBOM = "model/initial.bin", "model/final.safetensors", "sbom.cdx.json"
INPUTS = ("roster.json", "job.json", "schema.json", INITIAL)
NAMED = {MANIFEST_FILE, SIGNATURES_FILE, OFFER, FINAL, SBOM, *INPUTS}
DERIVED = ("run", "privacy-budget", "aggregation", "model", "policy-approvals")
"""Statements that follow from the other members."""
REPORTED = ("attack-report", "attestation")
"""Statements that somebody adds."""

PARTY = r"(?P<party>[a-z0-9-]{1,64})"
ROUND = r"r(?P<round>(?!000000/)(?:[0-9]{6}|[1-9][0-9]{6}))"
MESSAGE_FILE = re.compile(
    rf"transcript/(?:(?P<accept>accept)-|{ROUND}/(?P<kind>key|upload|mask-sum)-){PARTY}\.msg"
)
SUM_FILE = re.compile(rf"transcript/{ROUND}/aggregate\.bin")
LOG_FILE = re.compile(rf"logs/{PARTY}\.(?:jsonl|proof|checkpoint)")
POLICY_FILE = re.compile(rf"policy/{PARTY}\.json")
STATEMENT_FILES = {f"statements/{name}.dsse.json" for name in (*DERIVED, *REPORTED)}
PLACES = {
    "accept": ("accept", "client"),
    "key": ("helper-key", "helper"),
    "upload": ("upload", "client"),
    "mask-sum": ("mask-sum", "helper"),
}
MAX_TEXT, MAX_SIMULATED = 500, 64


def place_of(name: str) -> Place | None:
    """What the message in this member must be; None if no party's message belongs there."""
    match = MESSAGE_FILE.fullmatch(name)
    if match is None:
        return None
    kind, role = PLACES[match["accept"] or match["kind"]]
    return Place(kind, match["party"], role, int(match["round"] or 0))


def is_known(name: str) -> bool:
    """Whether a bundle may hold this member."""
    patterns = (MESSAGE_FILE, SUM_FILE, LOG_FILE, POLICY_FILE)
    found = any(pattern.fullmatch(name) for pattern in patterns)
    return found or name in NAMED or name in STATEMENT_FILES


@dataclass(frozen=True)
class Head:
    """``manifest.json``: which run, in what state, and the digest of every other member."""

    federation: str
    run: str
    status: str
    model: str
    transcript: str
    simulated: tuple[str, ...]
    files: Mapping[str, str]


def read_head(data: bytes | None) -> Head:
    """Reads ``manifest.json``."""
    if data is None:
        raise Wrong("the bundle holds no manifest.json")
    record = read_json(data, MANIFEST_FILE)
    version = record.get("version") if isinstance(record, dict) else None
    known = type(version) is int and version == FORMAT
    need(known, f"the bundle is of version {str(version)[:20]!r} of the format, not {FORMAT}")
    digest = words(64, 64, r"[0-9a-f]{64}")

    def plain(value: Any) -> str:
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            raise ValueError("not a short line of text")
        return value

    def files(value: Any) -> dict[str, str]:
        if not all(map(str.isascii, value)):
            raise ValueError("a name of a member is not ASCII")
        return {plain(name): digest(item) for name, item in dict(value).items()}

    try:
        fields = keyed(
            version=one_of(FORMAT),
            federation=plain,
            run=digest,
            status=one_of("complete", "partial"),
            model=lambda value: digest(value) if value else words(0, 0)(value),
            transcript=digest,
            simulated=listed(plain, MAX_SIMULATED),
            files=files,
        )(record)
    except (ValueError, TypeError) as error:
        raise Wrong("manifest.json is not a bundle's manifest") from error
    del fields["version"]
    return Head(**{**fields, "simulated": tuple(fields["simulated"])})


@dataclass(frozen=True)
class Round:
    """The messages of one round, by sender, and its sum if it was closed."""

    number: int
    keys: Mapping[str, Message]
    uploads: Mapping[str, Message]
    answers: Mapping[str, Message]
    total: bytes | None


class Bundle:
    """A bundle's members, decoded: what is wrong is remembered, what is missing is named when asked for.

    Args:
        members: Of the archive.

    Raises:
        Wrong: Without a manifest and a roster nothing can be said.
    """

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self.members = members
        self.head = read_head(members.get(MANIFEST_FILE))
        self.roster = read_roster(members.get("roster.json", b""))
        self.messages: dict[str, Message] = {}
        self.faults: list[str] = []
        self._logs: dict[str, LogOrFault] = {}
        self._contexts: dict[tuple[int, bytes], bytes] = {}
        names = [name for name in members if name == OFFER or place_of(name) is not None]
        # Signatures take the longest: another process checks most while this one reads the rest.
        others = SecondProcess(len(names), lambda number: self._is_signed(names[number]))
        self.digests = {name: sha256(data).hex() for name, data in members.items()}
        opened: dict[str, tuple[Message, Signed]] = {}
        for name in names:
            try:
                opened[name] = open_message(members[name], self.roster)
            except Wrong as error:
                self.faults.append(f"{name}: {error}")
        self._read_logs([message for message, _ in opened.values()])
        # The other process knows the sender from the member's name, and asks after no one else.
        asked = {
            name
            for name in names[: others.count]
            if name in opened and opened[name][0].party == self._sender(name)
        }
        good = {name for name in opened if name not in asked and is_signed(*opened[name][1])}
        answers = dict(zip(names, others.answers(), strict=False))
        for name in asked:
            if answers[name] if answers else is_signed(*opened[name][1]):
                good.add(name)
        for name, (message, _) in opened.items():
            if name in good:
                self.messages[name] = message
            else:
                self.faults.append(f"{name}: the signature is not that of {message.party}")

    def _sender(self, name: str) -> str:
        """Whose message belongs into a member; empty for the offer, which names its leader itself."""
        place = place_of(name)
        return place.party if place is not None else ""

    def _is_signed(self, name: str) -> bool:
        """Whether a member is signed by the party that its name says: no more of it need be read."""
        member = self.roster.members.get(self._sender(name))
        if member is None:
            return False
        try:
            signed = decode(SIGNED_MESSAGE, self.members[name], "a signed message")
        except Wrong:
            return False
        return is_signed(member.key, signed["signature"], MESSAGE_DOMAIN + signed["header"])

    def _read_logs(self, messages: Iterable[Message]) -> None:
        """Every log, with its roots at the sizes that others name (believed or not: they only ask)."""
        sizes: dict[str, set[int]] = {}
        for message in messages:
            sizes.setdefault(message.party, set()).add(message.header["log"]["size"])
        for name, size in self._witnessed():
            sizes.setdefault(name, set()).add(size)
        for match in map(LOG_FILE.fullmatch, self.members):
            if match is not None and match["party"] not in self._logs:
                party = match["party"]
                self._logs[party] = self._read_log(party, sizes.get(party, set()))

    def _witnessed(self) -> Iterator[tuple[str, int]]:
        """Whose log had how many events when another party cosigned it, as that one says."""
        for name, data in self.members.items():
            if not LOG_FILE.fullmatch(name) or not name.endswith(".jsonl"):
                continue
            for line in data.split(b"\n"):
                if b'log.witnessed"' not in line:
                    continue
                try:
                    fields = json.loads(line)
                    body, _ = read_note(fields["note"].encode())
                    found = str(fields["log"]), int(body.split("\n")[1])
                except (Wrong, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                    continue  # The event itself is looked at by the claim.
                yield found

    # --- the run ---------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the leader says that the run ended as planned."""
        return self.head.status == "complete"

    @cached_property
    def offer(self) -> Fields:
        """The offer of the run."""
        message = self.messages.get(OFFER)
        if message is None or message.type != "offer":
            raise Missing("the bundle holds no readable offer")
        return message.body

    @property
    def manifest(self) -> Fields:
        """What defines the run; its digest is the run id."""
        found: Fields = self.offer["manifest"]
        return found

    @cached_property
    def _terms(self) -> Terms | Wrong:
        try:
            return read_terms(self.offer, self.roster)
        except Wrong as error:
            return error

    @property
    def inconsistency(self) -> str:
        """What is wrong with the offer's terms; empty if nothing is."""
        return f"the offer is inconsistent: {self._terms}" if isinstance(self._terms, Wrong) else ""

    @property
    def terms(self) -> Terms:
        """The terms of the run."""
        if isinstance(self._terms, Wrong):
            raise Missing("the offer's terms are inconsistent, see same-job")
        return self._terms

    @property
    def plan(self) -> Plan:
        """The privacy plan."""
        return self.terms.plan

    @property
    def masked(self) -> bool:
        """Whether contributions were masked."""
        return bool(self.manifest["protocol"] == PROTOCOLS["masked"])

    @property
    def leader(self) -> str:
        """Who led the run."""
        return str(self.manifest["leader"])

    @property
    def clients(self) -> list[str]:
        """In protocol order."""
        return list(self.manifest["clients"])

    @property
    def helpers(self) -> list[str]:
        """In protocol order."""
        return list(self.manifest["helpers"])

    @property
    def parties(self) -> list[str]:
        """Everyone who took part, and so kept a log and signed the manifest."""
        return list(dict.fromkeys([self.leader, *self.clients, *self.helpers]))

    # --- its messages ----------------------------------------------------------------------------

    @cached_property
    def heads(self) -> Mapping[str, Mapping[str, Fields]]:
        """What every message says of its sender's log: by sender, by member."""
        heads: dict[str, dict[str, Fields]] = {}
        for name, message in self.messages.items():
            heads.setdefault(message.party, {})[name] = message.header["log"]
        return heads

    def accept(self, client: str) -> Message:
        """A client's acceptance."""
        message = self.messages.get(f"transcript/accept-{client}.msg")
        if message is None or message.type != "accept":
            raise Missing(f"the acceptance of {client} is not in the bundle")
        return message

    @cached_property
    def rounds(self) -> list[Round]:
        """All rounds of the transcript, in order. A message in another's place does not count."""
        found: dict[int, dict[str, dict[str, Message]]] = {}
        totals: dict[int, bytes] = {}
        for name, data in self.members.items():
            total, place = SUM_FILE.fullmatch(name), place_of(name)
            if total is not None:
                totals[int(total["round"])] = data
                found.setdefault(int(total["round"]), {})
            if place is None or not place.round:
                continue
            kinds = found.setdefault(place.round, {})
            message = self.messages.get(name)
            if message is not None and message.place == place:
                kinds.setdefault(place.type, {})[place.party] = message
        return [
            Round(
                number=at,
                keys=found[at].get("helper-key", {}),
                uploads=found[at].get("upload", {}),
                answers=found[at].get("mask-sum", {}),
                total=totals.get(at),
            )
            for at in sorted(found)
        ]

    @property
    def closed_rounds(self) -> list[Round]:
        """The rounds whose sum was published."""
        return [view for view in self.rounds if view.total is not None]

    @cached_property
    def uploaders(self) -> set[str]:
        """The clients whose uploads the transcript shows."""
        return {client for view in self.rounds for client in view.uploads}

    def uploaded(self, client: str) -> bool:
        """Whether a client sent an upload, as the transcript or its own log says."""
        log = self.log_or_fault(client)
        logged = isinstance(log, PartyLog) and log.of("upload.sent")
        return client in self.uploaders or bool(logged)

    def present(self, view: Round) -> list[str]:
        """The helpers that a round was started with, in protocol order."""
        return [name for name in self.helpers if name in view.keys]

    def context(self, view: Round, model: bytes) -> bytes:
        """What every upload and answer of a round must name: run, model, plan, helpers and their keys."""
        known = self._contexts.get((view.number, model))
        if known is not None:
            return known
        present = self.present(view)
        if len(present) < self.plan.min_helpers:
            raise Missing(f"keys of round {view.number} are not there, or too few helpers had one")
        fields = {
            "protocol": "tacit masked v1",
            "run": bytes.fromhex(self.head.run),
            "round": view.number,
            "roster": self.roster.digest,
            "job": self.manifest["job"],
            "model": model,
            "plan": self.manifest["plan"],
            "bits": self.plan.ring_bits,
            "keys": [{"helper": name, "key": view.keys[name].body["key"]} for name in present],
        }
        return self._contexts.setdefault((view.number, model), sha256(cbor(fields)))

    # --- logs ------------------------------------------------------------------------------------

    def origin(self, party: str) -> str:
        """Name of a party's log."""
        return log_origin(self.roster.federation, party)

    def _read_log(self, party: str, sizes: set[int]) -> LogOrFault:
        events = self.members.get(f"logs/{party}.jsonl")
        proof = self.members.get(f"logs/{party}.proof")
        note = self.members.get(f"logs/{party}.checkpoint")
        if events is None or proof is None or note is None:
            return Missing(f"the bundle holds no log of {party}")
        try:
            body, _ = self.signed_note(note, party)
            checkpoint = read_checkpoint(body, self.origin(party))
            return read_log(self.head.run, events, proof, checkpoint, sizes)
        except Wrong as error:
            return Wrong(f"log of {party}: {error}")

    def signed_note(self, note: bytes, party: str) -> tuple[str, list[NoteLine]]:
        """The text of a note that this party signed, and the other signature lines."""
        body, lines = read_note(note)
        name, key = self.origin(party), self.roster.member(party).key
        own = [
            line
            for line in lines
            if line.name == name and line.mark[:4] == key_hash(name, ED25519, key)
        ]
        need(len(own) == 1 and signs_note(own[0], body, key), f"it is not signed by {party}")
        return body, [line for line in lines if line is not own[0]]

    def log(self, party: str) -> PartyLog:
        """A party's events of the run, if its log holds."""
        found = self.log_or_fault(party)
        if isinstance(found, Missing):
            raise found
        if isinstance(found, Wrong):
            raise Missing(f"the log of {party} does not hold, see log-inclusion")
        return found

    def log_or_fault(self, party: str) -> LogOrFault:
        """A party's log, or why there is none."""
        return self._logs.get(party) or Missing(f"the bundle holds no log of {party}")

    def logged_cohort(self, round_number: int) -> list[bytes]:
        """The upload digests that the leader logged as the cohort of a round."""
        events = self.log(self.leader).of("cohort.fixed", round_number)
        if len(events) != 1:
            raise Missing(f"the leader logged {len(events)} cohorts for round {round_number}")
        return events[0].digests("uploads")

    def logged_model(self, round_number: int) -> bytes:
        """The digest of the model that the leader logged for a round."""
        events = self.log(self.leader).of("round.started", round_number)
        if not events:
            raise Missing(f"the leader logged no start of round {round_number}")
        return events[0].digest("model")

    @cached_property
    def price_on_record(self) -> Decimal | None:
        """What the plan costs, by what most clients reserved and settled.

        The figure follows from the public plan alone, so that honest parties record the same one. Whether it
        is credible is judged by ``epsilon``.
        """
        found: Counter[Decimal] = Counter()
        for client in self.clients:
            log = self.log_or_fault(client)
            if not isinstance(log, PartyLog):
                continue
            for event in [*log.of("budget.reserved"), *log.of("run.settled")]:
                try:
                    found[event.decimal("epsilon")] += 1
                except Wrong:
                    continue
        del found[Decimal(0)]
        return max(found, key=lambda price: (found[price], price), default=None)

    # --- disclosed policies ----------------------------------------------------------------------

    @cached_property
    def disclosures(self) -> Mapping[str, Disclosure | Missing | Wrong]:
        """What sites disclose of their policy, checked against their acceptance, or what is wrong."""
        found: dict[str, Disclosure | Missing | Wrong] = {}
        for name, data in self.members.items():
            match = POLICY_FILE.fullmatch(name)
            if match is None:
                continue
            site = match["party"]
            try:
                need(site in self.clients, "it is of a stranger to this run")
                found[site] = read_disclosure(data, site, self.accept(site).body)
            except Missing as missing:
                found[site] = missing
            except Wrong as error:
                found[site] = Wrong(f"policy of {site}: {error}")
        return found

    def disclosure(self, site: str) -> Disclosure | None:
        """What a site discloses of policy and contract; None for nothing."""
        found = self.disclosures.get(site)
        if isinstance(found, Wrong):
            raise Missing(f"what {site} discloses of its policy does not hold, see policy")
        if isinstance(found, Missing):
            raise found
        return found


def cohort_digest(uploads: Sequence[bytes]) -> bytes:
    """The name of a set of uploads."""
    need(len(uploads) > 0, "a sum of no upload")
    need(len(set(uploads)) == len(uploads), "an upload is in the cohort twice")
    return sha256(cbor({"protocol": "tacit masked v1", "uploads": sorted(uploads)}))


# --- what a site discloses of its policy ----------------------------------------------------------

POLICY_DOMAIN = b"tacit policy lock v1\x00"


@dataclass(frozen=True)
class Disclosure:
    """A disclosed policy that fits the digests of an acceptance."""

    approvers: tuple[str, ...]
    regions: tuple[str, ...] | None


def read_disclosure(data: bytes, site: str, accept: Fields) -> Disclosure:
    """Reads ``policy/SITE.json``: the lock, the rules and the contract that the site accepted under."""
    digest, signature = words(64, 64, r"[0-9a-f]{64}"), words(128, 128, r"[0-9a-f]{128}")

    def table_of(item: Check) -> Check:
        return lambda value: {name: item(entry) for name, entry in value.items()}

    parts = keyed(
        version=one_of(1), policy=_anything, policies=_table, contracts=_table, tests=_table
    )
    time = words(20, 20, r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
    whole_record = keyed(
        version=one_of(1),
        site=one_of(site),
        approvals=whole(1),
        approvers=table_of(digest),
        lock=keyed(locked_at=time, parts=parts, signatures=table_of(signature)),
        policies=table_of(listed(_anything, 2**20)),
        contract=_table,
    )
    try:
        record = whole_record(read_json(data, "what it discloses"))
        regions = or_null(listed(words()))(record["contract"].get("allowed_regions"))
    except (ValueError, TypeError, AttributeError) as error:
        raise Wrong("it is malformed") from error
    approvers = record["approvers"]
    enough = record["approvals"] <= len(approvers) == len(set(approvers.values()))
    need(enough, "it is malformed")
    _check_lock(record, site, accept)
    signatures = record["lock"]["signatures"]
    return Disclosure(tuple(sorted(signatures)), None if regions is None else tuple(regions))


def _anything(value: Any) -> Any:
    return value


def _table(value: Any) -> Fields:
    if not isinstance(value, dict):
        raise ValueError("not a table")
    return value


def _check_lock(record: Fields, site: str, accept: Fields) -> None:
    """Everything follows from two digests that the site signed: of its lock, and of its contract."""
    lock = record["lock"]
    parts = lock["parts"]
    same = sha256(canonical_json({"site": site, **parts})) == accept["policy"]
    need(same, "its lock is not the one that it accepted the run under")
    locked = parts["policies"]
    need(record["policies"].keys() == locked.keys(), "it does not show exactly the approved files")
    for file, rules in record["policies"].items():
        ordered = [rule.decode() for rule in sorted(map(canonical_json, rules))]
        found = sha256(canonical_json(ordered)).hex()
        need(found == locked[file], f"the rules of {file[:200]!r} are not the approved ones")
    contract = sha256(canonical_json(record["contract"]))
    name = record["contract"].get("name")
    approved = parts["contracts"].get(name) if isinstance(name, str) else None
    same = contract == accept["contract"] and approved == contract.hex()
    need(same, "its contract is not the approved one that it accepted the run under")
    statement = {
        "version": 1,
        "site": site,
        "digest": accept["policy"].hex(),
        "locked_at": lock["locked_at"],
    }
    signed = POLICY_DOMAIN + canonical_json(statement)
    for approver, signature in lock["signatures"].items():
        key = record["approvers"].get(approver, "")
        good = bool(key) and is_signed(bytes.fromhex(key), bytes.fromhex(signature), signed)
        need(good, f"the approval of {approver[:64]!r} is forged")
    need(len(lock["signatures"]) >= record["approvals"], "too few approvers have signed")


# --- the released model ---------------------------------------------------------------------------


def read_model(data: bytes) -> tuple[bytes, Fields]:
    """Parameters and metadata of the released model, in the one form that such a file has.

    Reference: https://github.com/huggingface/safetensors#format.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    need(start <= 4096, "the released model is not in its one form")
    try:
        metadata = json.loads(data[8:start])["__metadata__"]
        texts = {name: metadata[name] for name in ("run", "transcript")}
        need(all(isinstance(item, str) for item in texts.values()), "a model with odd metadata")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Wrong("the released model is not in its one form") from error
    count, rest = divmod(len(data) - start, 8)
    tensor = {"dtype": "F64", "shape": [count], "data_offsets": [0, 8 * count]}
    header = json.dumps(
        {"__metadata__": texts, "theta": tensor}, sort_keys=True, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % 8)
    whole_head = len(header).to_bytes(8, "little") + header
    need(not rest and whole_head == data[:start], "the released model is not in its one form")
    return data[start:], texts


# ==================================================================================================
# 14. Claims
# ==================================================================================================
# A claim is a generator. It yields what speaks against it, a status and a reason each, and returns what to
# say when nothing did. Every part runs as far as the evidence reaches, see `part`.

PASS, FAIL, NOT_PROVEN = "PASS", "FAIL", "NOT PROVEN"
REASONS_SHOWN = 3

Remark = tuple[str, str]
Remarks = Generator[Remark, None, None]
Argument = Generator[Remark, None, str]


class Claim(NamedTuple):
    """One claim, its status and why."""

    id: str
    status: str
    reason: str


def judge(name: str, argument: Argument) -> Claim:
    """Hears an argument to its end: one contradiction is FAIL, whatever else lacks."""
    against: dict[str, dict[str, None]] = {FAIL: {}, NOT_PROVEN: {}}
    passed = ""
    try:
        while True:
            status, reason = next(argument)
            against[status][reason] = None
    except StopIteration as end:
        passed = end.value
    except Missing as missing:
        against[NOT_PROVEN][str(missing)] = None
    except Exception as error:  # noqa: BLE001 - what nobody foresaw speaks against the claim
        against[FAIL][_reason(error)] = None
    for status, reasons in against.items():
        if reasons:
            told = "; ".join(itertools.islice(reasons, REASONS_SHOWN))
            left = max(0, len(reasons) - REASONS_SHOWN)
            return Claim(name, status, f"{told}; and {left} more" if left else told)
    return Claim(name, PASS, passed)


def part(
    remarks: Generator[Remark, None, Result], about: str = ""
) -> Generator[Remark, None, Result | None]:
    """Part of an argument: if it breaks off, that is a remark too, and the other parts are heard."""
    try:
        return (yield from remarks)
    except Missing as missing:
        yield NOT_PROVEN, str(missing)
    except Wrong as error:
        yield FAIL, about + str(error)
    return None


# --- authenticity ---------------------------------------------------------------------------------


def authenticity(bundle: Bundle, trust: Trust | None) -> Argument:
    """Every message, every checkpoint and, by every party, the manifest is signed; by trusted keys."""
    if trust is None:
        yield NOT_PROVEN, "no trust file: signatures agree only with the bundle's own roster"
    elif trust.roster.digest != bundle.roster.digest:
        yield FAIL, _first_difference(trust.roster, bundle.roster)
    yield from ((FAIL, fault) for fault in bundle.faults)
    yield from part(_manifest_is_signed(bundle))
    for name in bundle.members:
        match = LOG_FILE.fullmatch(name)
        if match is not None and name.endswith(".checkpoint"):
            yield from part(_checkpoint_is_signed(bundle, name, match["party"]), f"{name}: ")
    return (
        f"{len(bundle.messages)} messages and every checkpoint are signed by parties of the trusted "
        "roster, the manifest by every party of the run"
    )


def _checkpoint_is_signed(bundle: Bundle, name: str, party: str) -> Remarks:
    body, _ = bundle.signed_note(bundle.members[name], party)
    read_checkpoint(body, body.partition("\n")[0])
    yield from ()


def _signers(bundle: Bundle) -> frozenset[str]:
    """Who signed ``manifest.sig``: the digest of the manifest, one line a party in order of the names."""
    due = {
        log_origin(bundle.head.federation, party): bundle.roster.member(party)
        for party in bundle.parties
    }
    expected = f"tacit bundle v2\nsha256 {bundle.digests[MANIFEST_FILE]}\n"
    try:
        body, lines = read_note(bundle.members.get(SIGNATURES_FILE, b""))
        need(body == expected, "it signs another manifest")
        last, signed = "", set[str]()
        for line in lines:
            need(line.name > last, "its lines are not one a party, in order of the names")
            last, party = line.name, due.pop(line.name, None)
            if party is None:
                raise Wrong(f"{line.name[:80]!r} took no part in the run")
            good = signs_note(line, body, party.key)
            need(good, f"the signature of {party.name} is wrong")
            signed.add(party.name)
    except Wrong as error:
        raise Wrong(f"{SIGNATURES_FILE}: {error}") from error
    return frozenset(signed)


def _manifest_is_signed(bundle: Bundle) -> Remarks:
    """By every party of the run, and in any case by the leader."""
    signed = _signers(bundle)
    for name in bundle.parties:
        if name not in signed:
            status = FAIL if name == bundle.leader else NOT_PROVEN
            yield status, f"{name} took part and did not sign the manifest"


def _first_difference(pinned: Roster, shown: Roster) -> str:
    """What is another in the bundle's roster than in the trust file."""
    both = {**pinned.members, **shown.members}
    other = [name for name in both if pinned.members.get(name) != shown.members.get(name)]
    if not other:
        return "the trust file is of another federation"
    return f"'{min(other)}' of the bundle's roster is not the one that the trust file pins"


# --- integrity ------------------------------------------------------------------------------------


def integrity(bundle: Bundle) -> Argument:
    """Every member is there, is known, and has the digest that the manifest says."""
    said = bundle.head.files
    found = {
        name: digest
        for name, digest in bundle.digests.items()
        if name not in (MANIFEST_FILE, SIGNATURES_FILE)
    }
    for name in sorted({*said, *found}):
        if name not in found:
            yield FAIL, f"{name} is missing"
        elif name not in said:
            yield FAIL, f"{name} is not listed"
        elif said[name] != found[name]:
            yield FAIL, f"{name} is not what the manifest says"
        if name in found and not is_known(name):
            yield FAIL, f"{name} does not belong into a bundle"
    if said.get(FINAL, "") != bundle.head.model:
        yield FAIL, "the manifest names another model than the released one"
    inputs = filter(lambda name: name in INPUTS or name.startswith("transcript/"), said)
    transcript = sha256(canonical_json({name: said[name] for name in inputs})).hex()
    if transcript != bundle.head.transcript:
        yield FAIL, "the manifest names another transcript than the members make"
    return f"the archive is canonical and all {len(found)} members match the manifest"


# --- log-inclusion --------------------------------------------------------------------------------


def log_inclusion(bundle: Bundle) -> Argument:
    """Every event stands under its party's checkpoint, none lacks, and every log kept its history."""
    named = {match["party"] for match in map(LOG_FILE.fullmatch, bundle.members) if match}
    for stranger in sorted(named.difference(bundle.parties)):
        yield FAIL, f"there is a log of {stranger}, who is not in the run"
    count = 0
    for party in bundle.parties:
        log = bundle.log_or_fault(party)
        if isinstance(log, PartyLog):
            count += len(log.events)
            yield from part(_log_is_whole(bundle, party, log))
        else:
            yield (FAIL if isinstance(log, Wrong) else NOT_PROVEN), str(log)
    if bundle.complete:
        yield from part(_run_is_whole(bundle))
    return (
        f"{count} events of {len(bundle.parties)} parties, none missing up to the end of the run; "
        f"{len(bundle.messages)} messages name a head of their sender's log that it still has"
    )


def _log_is_whole(bundle: Bundle, party: str, log: PartyLog) -> Remarks:
    """It goes on to the end of the run, and has every head that the party's messages show."""
    for name, head in bundle.heads.get(party, {}).items():
        if head["size"] < log.start:
            yield NOT_PROVEN, f"{name} was signed before the log of {party} shows the run"
        elif log.roots.get(head["size"]) != head["root"]:
            yield FAIL, f"{party} has rewritten its log since it signed {name}"
    if not log.closed:
        status = FAIL if bundle.complete else NOT_PROVEN
        yield status, f"the log of {party} ends before the run was closed"
    elif bundle.complete and not all(event.flag("complete") for event in log.of("run.closed")):
        yield FAIL, f"{party} logged that the run did not end as planned"


def _last_round(bundle: Bundle) -> int:
    """The last round that the leader started or gave up."""
    log = bundle.log(bundle.leader)
    return max(rounds_of(log.of("round.started")) | rounds_of(log.of("round.aborted")), default=0)


def _run_is_whole(bundle: Bundle) -> Remarks:
    """A complete run went through all of its rounds, unless its job lets it stop early."""
    last, planned = _last_round(bundle), bundle.manifest["rounds"]
    if last != planned and not bundle.terms.job["evaluation"]["patience"]:
        yield FAIL, f"the run is marked complete and ends with round {last} of {planned}"


# --- witness --------------------------------------------------------------------------------------


def witness(bundle: Bundle, trust: Trust | None) -> Argument:
    """The last head of every log is cosigned by enough others, who had seen it grow."""
    if trust is None:
        yield NOT_PROVEN, "no trust file: it says how many others must have cosigned each log"
    for party in bundle.parties:
        yield from part(_is_cosigned(bundle, trust, party), f"log of {party}: ")
        log = bundle.log_or_fault(party)
        if isinstance(log, PartyLog):
            yield from part(_refused(party, log))
            yield from part(_remembered(bundle, party, log))
    quorum = trust.quorum if trust is not None else 0
    return (
        f"the last head of all {len(bundle.parties)} logs is cosigned by at least {quorum} other "
        "operators"
    )


def _is_cosigned(bundle: Bundle, trust: Trust | None, party: str) -> Remarks:
    """Every line by a member of the federation or a witness that the auditor knows must be right."""
    note = bundle.members.get(f"logs/{party}.checkpoint")
    if note is None:
        raise Missing(f"the bundle holds no checkpoint of {party}")
    order = [line.name for line in read_note(note)[1]]
    need(all(map(operator.lt, order, order[1:])), "the lines of its checkpoint are out of order")
    body, lines = bundle.signed_note(note, party)
    read_checkpoint(body, bundle.origin(party))
    independent = dict(trust.witnesses) if trust is not None else {}
    members = {bundle.origin(name): member for name, member in bundle.roster.members.items()}
    cosigners: set[str] = set()
    for line in lines:
        member = members.get(line.name)
        key = independent.get(line.name) if member is None else member.key
        if key is None:
            continue  # Nobody knows this name; its line counts for nothing.
        need(cosigns(line, body, key), f"the cosignature of {line.name} is forged")
        cosigners.add(line.name)
    if trust is None:
        return
    took_part = set(map(bundle.origin, bundle.parties)) & cosigners
    operators = {members[name].operator for name in took_part}
    operators.discard(bundle.roster.member(party).operator)
    if len(operators) < trust.quorum:
        yield (
            NOT_PROVEN,
            f"the log of {party} is cosigned by {len(operators)} other operators, required are "
            f"{trust.quorum}",
        )
    for name in sorted(independent.keys() - cosigners):
        yield NOT_PROVEN, f"the witness {name} has not cosigned the log of {party}"


def _refused(party: str, log: PartyLog) -> Remarks:
    """Nobody saw a log that had been rolled back or forked."""
    for event in itertools.chain(log.events.values(), log.own.values()):
        if event.kind == "witness.refused":
            code, about = event.text("code"), event.text("log")
            if code in ("witness.rolled-back", "witness.forked"):
                yield FAIL, f"{party} would not cosign the log of {about}: {code}"


def _remembered(bundle: Bundle, party: str, log: PartyLog) -> Remarks:
    """What this party cosigned last of each other log is a prefix of the log that the bundle shows."""
    for event in log.of("log.witnessed"):
        owner = event.text("log")
        body, _ = bundle.signed_note(event.text("note").encode(), owner)
        size, root = read_checkpoint(body, bundle.origin(owner))
        shown = bundle.log_or_fault(owner)
        if not isinstance(shown, PartyLog) or size < shown.start:
            continue
        if size > shown.size:
            yield NOT_PROVEN, f"{party} has seen {size} events of the log of {owner}"
        elif shown.roots.get(size) != root:
            yield FAIL, f"{party} has seen, signed by {owner}, another history of its log"


# --- same-job -------------------------------------------------------------------------------------


def same_job(bundle: Bundle, trust: Trust | None) -> Argument:
    """Run, job, schema, code and roster are the same everywhere, and as the trust file says."""
    offer, run = bundle.offer, bundle.head.run
    if bundle.inconsistency:
        yield FAIL, bundle.inconsistency
    if run != sha256(cbor(offer["manifest"])).hex():
        yield FAIL, "the offer defines another run"
    if trust is not None and trust.run not in ("", run):
        yield FAIL, "the bundle is not of the run that the trust file names"
    if bundle.roster.federation != bundle.head.federation:
        yield FAIL, "the roster is of another federation"
    for name in ("job", "schema"):
        if offer[name] != bundle.members.get(f"{name}.json"):
            yield FAIL, f"{name}.json is not what was offered"
    for name, message in bundle.messages.items():
        yield from _message_belongs(bundle, name, message)
    for client in bundle.clients:
        yield from part(_was_offered(bundle, client), f"{client}: ")
    yield from part(_did_offer(bundle))
    return "run, job, schema, code and roster agree in all messages and logs"


def _message_belongs(bundle: Bundle, name: str, message: Message) -> Remarks:
    """It is of this run, and stands in the member that its type, sender and round say."""
    header, manifest = message.header, bundle.manifest
    about = {"run": bytes.fromhex(bundle.head.run)} | {
        part_of: manifest[part_of] for part_of in ("roster", "job")
    }
    if any(header[key] != value for key, value in about.items()):
        yield FAIL, f"{name} belongs to another run, roster or job"
    place = place_of(name) or Place("offer", bundle.leader, "leader", 0)
    if place.party not in {"client": bundle.clients, "helper": bundle.helpers}.get(
        place.role, [bundle.leader]
    ):
        yield FAIL, f"{name} is from a stranger to this run"
    if message.place != place:
        yield FAIL, f"{name} holds another message than its name says"


def _was_offered(bundle: Bundle, client: str) -> Remarks:
    """What the client logged about the offer that it received."""
    offers = bundle.log(client).of("offer.received")
    if not offers:
        yield FAIL, f"{client} logged no offer"
    for name in ("job", "schema", "code", "roster", "leader"):
        made = bundle.manifest[name]
        made = made if isinstance(made, str) else made.hex()
        if any(event.text(name) != made for event in offers):
            yield FAIL, f"{client} was offered another {name}"


def _did_offer(bundle: Bundle) -> Remarks:
    manifest, offers = bundle.manifest, bundle.log(bundle.leader).of("run.offered")
    if not offers:
        yield FAIL, "the leader logged no offer"
    logged = {(event.digest("job"), event.digest("plan")) for event in offers}
    if logged - {(manifest["job"], sha256(manifest["plan"]))}:
        yield FAIL, "the leader logged another job or plan"


# --- cohort ---------------------------------------------------------------------------------------


def cohort(bundle: Bundle) -> Argument:
    """Every sum is over enough operators, in one context, with every helper that a site requires."""
    if not bundle.closed_rounds:
        yield NOT_PROVEN, "no round was closed"
    least = len(bundle.parties)
    for view in bundle.closed_rounds:
        least = min(least, (yield from part(_sum_is_fair(bundle, view))) or least)
    if bundle.masked:
        for view in bundle.rounds:
            for client in view.uploads:
                yield from part(_has_its_helpers(bundle, view, client))
    yield from part(_rounds_ended(bundle))
    for party in sorted({*bundle.clients, *bundle.helpers}):
        yield from part(_rounds_are_shown(bundle, party))
    return (
        f"{len(bundle.closed_rounds)} sums, each over at least {least} operators "
        f"(required: {bundle.manifest['min_cohort']}) in one context"
    )


def _sum_is_fair(bundle: Bundle, view: Round) -> Generator[Remark, None, int]:
    """Who is in the sum of a closed round: how many operators."""
    at, listed_uploads = view.number, bundle.logged_cohort(view.number)
    members = {name: up for name, up in view.uploads.items() if up.digest in listed_uploads}
    if len(members) < len(listed_uploads):
        raise Missing(f"an upload of round {at}'s cohort is not in the bundle")
    operators = len(bundle.roster.operators(members))
    if operators < (minimum := bundle.manifest["min_cohort"]):
        yield FAIL, f"round {at} has {operators} operators, required are {minimum}"
    if not members.keys() <= set(bundle.clients):
        yield FAIL, f"round {at} holds a stranger's upload"
    name = cohort_digest(listed_uploads)
    logged = bundle.log(bundle.leader).of("aggregate.computed", at)
    if any(event.digest("cohort") != name for event in logged):
        yield FAIL, f"the leader summed another cohort in round {at}"
    if bundle.masked:
        yield from _meant_this_sum(bundle, view, members, name)
    elif len({upload.body["context"] for upload in members.values()}) > 1:
        yield FAIL, f"the uploads of round {at} differ in context"
    return operators


def _meant_this_sum(
    bundle: Bundle, view: Round, members: Mapping[str, Message], name: bytes
) -> Remarks:
    """Every upload is for the round's context and helpers, every helper answered for this cohort."""
    at, helpers = view.number, bundle.present(view)
    context = bundle.context(view, bundle.logged_model(at))
    for upload in members.values():
        if upload.body["context"] != context:
            yield FAIL, f"an upload of round {at} names another context"
        if _sealed_for(upload) != set(helpers):
            yield FAIL, f"an upload of round {at} is not masked for every helper present"
    for helper in helpers:
        answer = view.answers.get(helper)
        if answer is None:
            yield NOT_PROVEN, f"the answer of helper {helper} in round {at} is not there"
        elif answer.body["context"] != context or answer.body["cohort"] != name:
            yield FAIL, f"helper {helper} answered for another cohort in round {at}"


def _sealed_for(upload: Message) -> set[str]:
    """The helpers whose masks are on an upload."""
    return {seed["helper"] for seed in upload.body["seeds"]}


def _has_its_helpers(bundle: Bundle, view: Round, client: str) -> Remarks:
    """An upload is masked for the helpers that its site insists on, and for too many to all collude."""
    masks = _sealed_for(view.uploads[client])
    operators = bundle.roster.operators(masks.intersection(bundle.helpers))
    for event in bundle.log(client).of("offer.accepted"):
        for helper in sorted(set(event.texts("required_helpers"))):
            if helper not in masks:
                yield FAIL, f"{client} uploaded in round {view.number} without its helper {helper}"
            elif helper not in bundle.present(view):
                yield NOT_PROVEN, f"the key of helper {helper} for round {view.number} is not there"
        if event.number("max_colluding_helpers") >= len(operators):
            yield (
                FAIL,
                f"{client} uploaded in round {view.number} although all its helpers might have "
                "colluded",
            )


def rounds_of(events: Iterable[Event]) -> set[int]:
    """The rounds that events name."""
    return {event.number("round") for event in events}


def _rounds_ended(bundle: Bundle) -> Remarks:
    """Every round of the transcript is one of the run's, and has either a sum or an abort."""
    aborted = rounds_of(bundle.log(bundle.leader).of("round.aborted"))
    for view in bundle.rounds:
        given_up, summed = view.number in aborted, view.total is not None
        if view.number not in range(1, bundle.manifest["rounds"] + 1):
            yield FAIL, f"the run has no round {view.number}, the transcript has"
        if given_up and summed:
            yield FAIL, f"round {view.number} has a sum, and the leader logged that it gave none"
        elif bundle.complete and not given_up and not summed:
            yield FAIL, f"round {view.number} has neither a sum nor an abort"


def _rounds_are_shown(bundle: Bundle, party: str) -> Remarks:
    """Every round in a client's or helper's log is in the transcript, or given up by the leader."""
    log = bundle.log(party)
    left = rounds_of(
        [*log.of("model.checked"), *log.of("upload.sent"), *log.of("mask-sum.answered")]
    )
    left.difference_update(view.number for view in bundle.rounds)
    if not left:
        return
    leaders = bundle.log(bundle.leader)
    left -= rounds_of(leaders.of("round.aborted"))
    if not bundle.complete:  # The last round of a run that broke off may have left nothing.
        left.discard(max(rounds_of(leaders.of("round.started")), default=-1))
    if left:
        yield FAIL, f"{party} took part in round {min(left)}, which the transcript does not show"


# --- one-sum-per-upload ---------------------------------------------------------------------------


def one_sum_per_upload(bundle: Bundle) -> Argument:
    """No helper answered twice in a round or context, and no upload is in two sums."""
    if not bundle.masked:
        raise Missing("aggregation is plain: the leader holds every contribution")
    for helper in bundle.helpers:
        yield from part(_answered_once(bundle, helper))
    yield from part(_summed_once(bundle))
    for view in bundle.closed_rounds:
        yield from part(_messages_are_shown(bundle, view))
    answers = sum(len(view.answers) for view in bundle.rounds)
    return (
        f"{answers} answers of {len(bundle.helpers)} helpers, one per helper and round; "
        "no upload is in two sums"
    )


def _answered_once(bundle: Bundle, helper: str) -> Remarks:
    """The helper's log against itself and against the transcript."""
    log = bundle.log(helper)
    events = log.of("mask-sum.answered")
    by_round = Counter(event.number("round") for event in events)
    by_context = Counter(event.digest("context") for event in events)
    for event in events:
        if by_round[event.number("round")] > 1 or by_context[event.digest("context")] > 1:
            yield FAIL, f"helper {helper} answered twice in round {event.number('round')}"
    logged = {(event.number("round"), event.digest("answer")) for event in events}
    for view in bundle.rounds:
        shown = view.answers.get(helper)
        if shown is not None and (view.number, shown.digest) not in logged:
            yield FAIL, f"helper {helper} did not log its answer of round {view.number}"
    if not log.closed:
        yield NOT_PROVEN, f"the log of helper {helper} ends before the run was closed"


def _summed_once(bundle: Bundle) -> Remarks:
    """No two sums, nor one sum twice, hold the same upload: by the leader's own account."""
    sums_with: dict[bytes, int] = {}
    for event in bundle.log(bundle.leader).of("cohort.fixed"):
        at = event.number("round")
        for upload in event.digests("uploads"):
            if upload in sums_with:
                yield FAIL, f"an upload is in the sums of rounds {sums_with[upload]} and {at}"
            sums_with[upload] = at


def _messages_are_shown(bundle: Bundle, view: Round) -> Remarks:
    """What helpers and clients logged that they sent for a sum is in the transcript."""
    at, summed = view.number, set(bundle.logged_cohort(view.number))
    for helper in bundle.helpers:
        shown = view.answers.get(helper)
        for event in bundle.log(helper).of("mask-sum.answered", at):
            if shown is None:
                yield NOT_PROVEN, f"the answer of {helper} in round {at} is not there"
            elif event.digest("answer") != shown.digest:
                yield FAIL, f"the answer of {helper} in round {at} is not the one it logged"
    for client in bundle.clients:
        sent = {event.digest("upload") for event in bundle.log(client).of("upload.sent", at)}
        if client not in view.uploads and sent & summed:
            yield NOT_PROVEN, f"the upload of {client} in round {at} is not there"


# --- policy ---------------------------------------------------------------------------------------

UNBOUNDED = 2**63 - 1
"""The epsilon that a policy is asked about where there is no bound."""
WIDE_TOLERANCE, TOLERANCE = Decimal("1e-6"), Decimal("1e-9")


def policy(bundle: Bundle) -> Argument:
    """Each client's policy, approved as it discloses, allowed the run before anything left."""
    for client in bundle.clients:
        yield from part(_was_allowed(bundle, client), f"{client}: ")
    try:
        signed = _signers(bundle)
    except Wrong:
        signed = frozenset()
    for site, found in bundle.disclosures.items():
        if not isinstance(found, Disclosure):
            yield (FAIL if isinstance(found, Wrong) else NOT_PROVEN), str(found)
        elif site not in signed:  # Nothing else makes the approvers' keys the site's own word.
            yield NOT_PROVEN, f"{site} did not sign who its approvers are"
    return f"the policies of all {len(bundle.clients)} clients allowed the run"


def _was_allowed(bundle: Bundle, client: str) -> Remarks:
    log = bundle.log(client)
    decisions = log.of("policy.decided")
    if not decisions or any(not event.flag("allowed") for event in decisions):
        status = FAIL if bundle.uploaded(client) else NOT_PROVEN
        yield status, f"the policy of {client} did not allow the run"
        return
    answer, decided = bundle.accept(client), decisions[0]
    for name in ("policy", "contract"):
        if decided.digest(name) != answer.body[name]:
            yield FAIL, f"{client} accepted under another {name}"
    if any(sent.digest("policy") != answer.body["policy"] for sent in log.of("upload.sent")):
        yield FAIL, f"{client} uploaded under another policy than it accepted under"
    yield from _asked_about_price(bundle, client, decided.text("epsilon_milli"))
    accepted = log.of("offer.accepted")
    if len(accepted) != 1 or accepted[0].digest("accept") != answer.digest:
        yield FAIL, f"the acceptance of {client} is not the one that it logged"
    if any(event.index < decided.index for event in [*accepted, *log.of("upload.sent")]):
        yield FAIL, f"{client} took part before its policy decided"


def _asked_about_price(bundle: Bundle, client: str, asked: str) -> Remarks:
    """The policy was asked about the epsilon that the plan costs, in thousandths, rounded up."""
    price = bundle.price_on_record
    if not bundle.plan.private:
        exact, near = UNBOUNDED, set[int]()
    elif price is None:
        yield NOT_PROVEN, f"nothing says what the plan costs that {client} was asked about"
        return
    else:
        exact, *edges = (math.ceil(float(price) * 1000 * by) for by in (1, 1 - 1e-6, 1 + 1e-6))
        near = set(edges)
    if asked == str(exact):
        return
    reason = f"{client} asked about epsilon {asked[:20]}/1000, and the plan costs {exact}/1000"
    if asked in map(str, near):
        yield NOT_PROVEN, f"{reason}; at the edge of rounding: accountant versions differ"
    else:
        yield FAIL, reason


# --- receipts, residency --------------------------------------------------------------------------


def receipts(bundle: Bundle) -> Argument:
    """Each client issued the receipt of its data, read under the same lock, before its first upload."""
    if not bundle.uploaders:
        yield NOT_PROVEN, "no upload is in the bundle"
    for client in bundle.clients:
        yield from part(_has_receipt(bundle, client), f"{client}: ")
    return f"{len(bundle.uploaders)} clients issued receipts before their first upload"


def _has_receipt(bundle: Bundle, client: str) -> Remarks:
    """One before anything left; and whatever was read later was read under the same lock too."""
    log = bundle.log(client)
    if not bundle.uploaded(client):
        return
    issued, sent = log.of("receipt.issued"), log.of("upload.sent")
    first = min((event.index for event in issued), default=log.size)
    if first >= min((event.index for event in sent), default=log.size):
        yield FAIL, f"{client} uploaded without a receipt"
        return
    logged = {event.digest("upload") for event in sent}
    for view in bundle.rounds:
        upload = view.uploads.get(client)
        if upload is not None and upload.digest not in logged:
            yield FAIL, f"{client} did not log its upload of round {view.number}"
    accept = bundle.accept(client).body
    due = {name: accept[name] for name in ("contract", "policy")}
    due["schema"] = bundle.manifest["schema"]
    for event in issued:
        event.digest("receipt")
        for name, known in due.items():
            if event.digest(name) != known:
                yield FAIL, f"the receipt of {client} names another {name}"


def residency(bundle: Bundle) -> Argument:
    """Whoever handled a site's data is in a region that its contract allows."""
    if not bundle.uploaders:
        yield NOT_PROVEN, "no upload is in the bundle"
    for client in filter(bundle.uploaded, bundle.clients):
        yield from part(_stays_in_regions(bundle, client))
    count = len(bundle.uploaders)
    return f"site, leader and helpers are in the regions that {count} contracts allow"


def _stays_in_regions(bundle: Bundle, client: str) -> Remarks:
    disclosed = bundle.disclosure(client)
    if disclosed is None:
        raise Missing(f"{client} does not disclose its contract")
    regions = {name: bundle.roster.member(name).region for name in bundle.parties}
    for name in dict.fromkeys([client, bundle.leader, *bundle.helpers]):
        if disclosed.regions is not None and regions[name] not in disclosed.regions:
            yield (
                FAIL,
                f"{name} is in '{regions[name]}', which the contract of {client} does not allow",
            )


# --- epsilon --------------------------------------------------------------------------------------


class Spent(NamedTuple):
    """An epsilon that a client recorded for so many rounds."""

    amount: Decimal
    rounds: int


def epsilon(bundle: Bundle) -> Argument:
    """No client recorded less epsilon than its plan costs."""
    if bundle.inconsistency:
        raise Wrong(bundle.inconsistency)
    plan = bundle.plan
    if not plan.private:
        raise Missing("the run has no differential privacy")
    yield from _keeps_promise(bundle)
    records: dict[Spent, dict[str, str]] = {}
    settled: list[Decimal] = []
    for client in bundle.clients:
        settled += (yield from part(_recorded(bundle, client, records), f"{client}: ")) or []
    for spent, clients in records.items():
        yield from _is_enough(bundle, spent, clients)
    if not settled:
        yield NOT_PROVEN, "no client settled an epsilon"
        return ""
    return (
        f"recorded epsilon is at most {max(settled)} per site at delta {plan.delta}, with up to "
        f"{plan.max_colluding} colluding helper(s); Renyi accounting allows no more"
    )


def _keeps_promise(bundle: Bundle) -> Remarks:
    """The plan does not cost more than the job promises, as far as a plain test shows."""
    promised = bundle.terms.job["privacy"]["epsilon"]
    shown = epsilon_shown(bundle.plan, bundle.plan.rounds, sees_participation=False)
    if math.isinf(shown) or Decimal(repr(shown)) > Decimal(repr(promised)) * (1 + WIDE_TOLERANCE):
        yield FAIL, "the plan costs more epsilon than the job says"


def _recorded(
    bundle: Bundle, client: str, records: dict[Spent, dict[str, str]]
) -> Generator[Remark, None, list[Decimal]]:
    """Notes what a client charged so far, last of all, and what it settled for the whole plan."""
    log, planned = bundle.log(client), bundle.plan.rounds
    charges, settled = log.of("budget.charged"), log.of("run.settled")
    rounds = rounds_of(charges)
    if not rounds <= set(range(1, planned + 1)):
        yield FAIL, f"{client} charged a round that the plan does not have"
        return []
    for amount in _stated(charges)[-1:]:
        records.setdefault(Spent(amount, len(rounds)), {})[client] = "charged"
    amounts = [event.decimal("epsilon") for event in settled]
    if charges or bundle.uploaded(client):
        for amount in amounts:
            records.setdefault(Spent(amount, planned), {})[client] = "settled"
        if not amounts:
            yield NOT_PROVEN, f"{client} has not settled its epsilon"
    return amounts


def _is_enough(bundle: Bundle, spent: Spent, clients: Mapping[str, str]) -> Remarks:
    """One record against the bounds of the plan, and against what the others recorded."""
    plan, (amount, rounds) = bundle.plan, spent
    if plan.noise_ratio < LEAST_RATIO:
        wrong = "but the plan has too little noise for any bound"
    else:
        allowed, shown = epsilon_allowed(plan, rounds), epsilon_shown(plan, rounds)
        if amount >= Decimal(repr(allowed)) or is_exactly_enough(plan, rounds, amount):
            return
        nearly = 1 - WIDE_TOLERANCE
        price = bundle.price_on_record or Decimal(0)
        if amount < Decimal(repr(shown)) * nearly:
            wrong = f"the plan costs {shown:.4f} at least"
        elif rounds == plan.rounds and amount < price * nearly:
            wrong = f"others recorded {price} for the same plan"
        else:
            yield (
                NOT_PROVEN,
                f"{len(clients)} site(s) recorded epsilon {amount} for {rounds} round(s): a plain "
                f"test shows {shown:.4f}, Renyi accounting allows {allowed:.4f}; which is true "
                "between the two, the tighter accountant of 'tacit verify' decides",
            )
            return
    for client, verb in clients.items():
        yield FAIL, f"{client} {verb} epsilon {amount}, {wrong}"


def _stated(charges: Iterable[Event]) -> list[Decimal]:
    """The epsilons that charges name."""
    return [event.decimal("epsilon") for event in charges if "epsilon" in event.fields]


# --- budget ---------------------------------------------------------------------------------------


def budget(bundle: Bundle) -> Argument:
    """Each upload was charged before it left, settled, and every budget's head seen by the others."""
    fewest = len(bundle.parties)
    for client in bundle.clients:
        fewest = min(fewest, (yield from part(_head_is_seen(bundle, client), f"{client}: ")) or 0)
    if not bundle.plan.private:
        yield NOT_PROVEN, "the run has no differential privacy, nothing is charged"
        return ""
    uploads = 0
    for client in bundle.clients:
        yield from part(_paid_for_uploads(bundle, client), f"{client}: ")
        yield from part(_reserved(bundle, client), f"{client}: ")
        yield from part(_settled(bundle, client), f"{client}: ")
        log = bundle.log_or_fault(client)
        uploads += len(log.of("upload.sent")) if isinstance(log, PartyLog) else 0
    return (
        f"{uploads} uploads, each charged before it left, and settled; the head of every budget is "
        f"countersigned by at least {fewest} others"
    )


def _head_shown(bundle: Bundle, client: str) -> tuple[int, str]:
    """What a client shows of its budget: reservations ever made, digest of its journal."""
    accept = bundle.accept(client).body
    return accept["reservations"], b"".join(accept["heads"][-1:]).hex()


def _head_is_seen(bundle: Bundle, client: str) -> Generator[Remark, None, int]:
    """Whoever logged a head of this client's budget saw the one it shows. Returns how many did."""
    shown, count = _head_shown(bundle, client), 0
    for other in bundle.parties:
        log = bundle.log_or_fault(other)
        if other == client or not isinstance(log, PartyLog):
            continue
        heads = {
            (event.number("count"), event.text("head"))
            for event in log.of("budget.head")
            if event.text("site") == client
        }
        if heads - {shown}:
            yield FAIL, f"{other} saw another head of the budget of {client} than it showed here"
        if heads:
            count += 1
        elif log.of("upload.sent"):
            yield NOT_PROVEN, f"{other} uploaded and logged no head of the budget of {client}"
    if not count:
        yield NOT_PROVEN, f"nobody logged a head of the budget of {client}"
    return count


def _paid_for_uploads(bundle: Bundle, client: str) -> Remarks:
    """One upload a round at most, each after a charge for its round; the leader shows no other."""
    log = bundle.log(client)
    logged: dict[int, bytes] = {}
    for sent in log.of("upload.sent"):
        at = sent.number("round")
        charges = log.of("budget.charged", at)
        if not charges or charges[0].index > sent.index:
            yield FAIL, f"{client} uploaded in round {at} without a charge"
        if at in logged:
            yield FAIL, f"{client} uploaded twice in round {at}"
        logged[at] = sent.digest("upload")
    for view in bundle.rounds:
        if client in view.uploads and logged.get(view.number) != view.uploads[client].digest:
            yield FAIL, f"the upload of {client} in round {view.number} is not in its log"


def _reserved(bundle: Bundle, client: str) -> Remarks:
    """The whole plan was reserved before anything was charged."""
    log, price = bundle.log(client), bundle.price_on_record or Decimal(0)
    reserved, charged = log.of("budget.reserved"), log.of("budget.charged")
    first = min((event.index for event in reserved), default=log.size)
    if any(event.index < first for event in charged):
        yield FAIL, f"{client} charged before it had reserved"
    for event in reserved:
        lacking = price - event.decimal("epsilon")
        if lacking > price * WIDE_TOLERANCE:
            yield FAIL, f"{client} reserved {lacking} less than the epsilon {price} of the plan"
        elif lacking > price * TOLERANCE:
            yield (
                NOT_PROVEN,
                f"{client} reserved less than the epsilon {price} of the plan, by less than 1e-6: "
                "accountant versions differ",
            )
        if _head_shown(bundle, client) != (event.number("count"), event.text("head")):
            yield FAIL, f"{client} showed another head of its budget than it logged"


def _settled(bundle: Bundle, client: str) -> Remarks:
    """The last settlement comes after every charge and covers all of them."""
    log = bundle.log(client)
    charges = log.of("budget.charged")
    if not charges:
        return
    settled = log.of("run.settled")
    if not settled:
        yield (FAIL if log.closed else NOT_PROVEN), f"{client} did not settle its charges"
        return
    last, rounds = settled[-1], len(rounds_of(charges))
    if last.index < charges[-1].index or last.number("rounds") < rounds:
        yield FAIL, f"the settlement of {client} does not cover every charge"
    if any(last.decimal("epsilon") < stated for stated in _stated(charges)):
        yield FAIL, f"{client} settled less than it had charged"


# --- model-chain ----------------------------------------------------------------------------------


def model_chain(bundle: Bundle) -> Argument:
    """Every model follows from the first one and the published sums; the last one was released."""
    steps = yield from part(_steps(bundle))
    for client in bundle.clients:
        yield from part(_followed(bundle, client), f"{client}: ")
    return f"{steps} server steps recomputed bit for bit; they end in the released model"


def _steps(bundle: Bundle) -> Generator[Remark, None, int]:
    """Every server step, and what came of the last; how many there were."""
    walk = Walk(bundle)
    progress = Progress(len(bundle.rounds), "rounds of the model chain")
    try:
        for view in bundle.rounds:
            progress.tell()
            yield from walk.visit(view)
    finally:
        progress.end()
    yield from _stopped_in_time(bundle, walk.losses)
    if FINAL not in bundle.members:
        yield NOT_PROVEN, "the bundle holds no released model"
    else:
        yield from _is_released(bundle, walk)
    return len(walk.losses)


class Walk:
    """From the first model to the last, round by round.

    Args:
        bundle: Of the run.
    """

    def __init__(self, bundle: Bundle) -> None:
        data, self._bundle = bundle.members.get(INITIAL), bundle
        self._rule = Chain(bundle.terms)
        if data is None:
            raise Missing("the bundle holds no first model")
        right = len(data) == 8 * bundle.manifest["dimension"]
        need(right, f"{INITIAL} has another length than the model")
        self.state = State.first(doubles_from_bytes(data))
        self.losses: list[float] = []
        self.passed: set[bytes] = set()

    def visit(self, view: Round) -> Remarks:
        """Everybody trained this round on the model so far; its sum leads to the next."""
        yield from part(self._started_from(view, self.state.digest))
        if view.total is None:
            return
        total = yield from _total(self._bundle, view)
        self.passed.add(sha256(doubles_to_bytes(self.state.released)))
        values, helpers = self._rule.values(total, self.state), self._bundle.present(view)
        waits = self._bundle.terms.job["evaluation"]["patience"] > 0
        loss = self._rule.held_out_loss(values, len(helpers)) if waits else math.nan
        self.losses.append(loss)
        self.state = self._rule.step(self.state, values)

    def _started_from(self, view: Round, model: bytes) -> Remarks:
        """In the leader's log, in the clients', in the context of every upload."""
        bundle, at = self._bundle, view.number
        if bundle.logged_model(at) != model:
            yield FAIL, f"the model of round {at} does not follow"
        for client in bundle.clients:
            checked = bundle.log(client).of("model.checked", at)
            if any(event.digest("model") != model for event in checked):
                yield FAIL, f"{client} trained on another model in round {at}"
        if not bundle.masked or not view.uploads:
            return
        context = bundle.context(view, model)
        for client in view.uploads:
            if view.uploads[client].body["context"] != context:
                yield FAIL, f"the upload of {client} in round {at} was made for another model"


def _total(bundle: Bundle, view: Round) -> Generator[Remark, None, list[int]]:
    """A round's centred sum, as the leader logged it and no larger than an honest one."""
    data, at, bits = view.total or b"", view.number, bundle.plan.ring_bits
    elements = bundle.manifest["length"]
    need(8 * len(data) == bits * elements, f"the sum of round {at} has another length")
    logged = bundle.log(bundle.leader).of("aggregate.computed", at)
    if len(logged) != 1 or logged[0].digest("sum") != sha256(data):
        yield FAIL, f"the sum of round {at} is not the one that the leader logged"
    total = centred(data, bits)
    if math.sqrt(sum(map(operator.mul, total, total))) > bundle.plan.norm_bound(elements):
        yield FAIL, f"the sum of round {at} is too large to be honest"
    return total


def _stopped_in_time(bundle: Bundle, losses: Sequence[float]) -> Remarks:
    """A complete run that left rounds out did so because of its held-out losses, and at once."""
    patience: int = bundle.terms.job["evaluation"]["patience"]
    if not patience:
        return
    stops = [should_stop(losses[:count], patience) for count in range(1, len(losses) + 1)]
    if any(stops[:-1]):
        yield FAIL, "the run went on although its held-out losses said to stop"
    went_through = _last_round(bundle) == bundle.manifest["rounds"]
    if bundle.complete and not went_through and not any(stops[-1:]):
        yield FAIL, "the run stopped early although its held-out losses did not say so"


def _followed(bundle: Bundle, client: str) -> Remarks:
    """When a client trained it had applied the last sum shown, and it found no sum to be false."""
    log = bundle.log(client)
    sums = [0, *(view.number for view in bundle.closed_rounds)]
    for event in log.of("model.checked"):
        at, applied = event.number("round"), event.number("aggregate_round")
        last = sums[max(bisect.bisect_left(sums, at), 1) - 1]
        if applied != last:
            yield (
                FAIL,
                f"{client} had the sum of round {applied} when round {at} began, the last one "
                f"shown is of round {last}",
            )
    refuted = rounds_of(log.of("aggregate.refuted"))
    for at in sorted(refuted):
        yield FAIL, f"{client} found that the sum of round {at} is not that of its uploads"
    owed = rounds_of(log.of("aggregate.owed")) - rounds_of(log.of("aggregate.verified"))
    for at in () if refuted else sorted(owed):
        yield NOT_PROVEN, f"{client} was not shown the uploads behind the sum of round {at}"


def _is_released(bundle: Bundle, walk: Walk) -> Remarks:
    """The leader wrote the last sum and its own log: only the clients' chains bind the last model."""
    theta, names = read_model(bundle.members[FINAL])
    parameters = doubles_to_bytes(walk.state.released)
    last = sha256(parameters)
    if (names["run"], names["transcript"]) != (bundle.head.run, bundle.head.transcript):
        yield FAIL, f"{FINAL} does not name this run and its transcript"
    if theta != parameters:
        yield FAIL, "the released model is not the one that the rounds lead to"
    for client in bundle.clients:
        yield from part(_ended_with(bundle.log_or_fault(client), client, last, walk), f"{client}: ")
    logged = bundle.log(bundle.leader).of("model.released")
    if any(event.digest("model") != last for event in logged):
        yield FAIL, "the leader logged the release of another model"
    if len(logged) != 1:
        status = FAIL if logged or bundle.complete else NOT_PROVEN
        yield status, f"the leader logged {len(logged)} releases of a model"


def _ended_with(log: LogOrFault, client: str, last: bytes, walk: Walk) -> Remarks:
    """The model that a client's own chain ended with is the released one."""
    if not isinstance(log, PartyLog):
        raise Missing(f"the log of {client} does not say which model it ended with")
    ends = [event for event in log.of("run.closed") if _role(event) != "leader"]
    if not ends:
        yield NOT_PROVEN, f"{client} did not close the run"
    for event in ends:
        ended = event.digest("model") if event.fields.get("model", "") != "" else b""
        if not ended:
            yield NOT_PROVEN, f"{client} named no model when it closed the run"
        elif ended != last and ended in walk.passed:
            yield NOT_PROVEN, f"{client} did not follow the run to the released model"
        elif ended != last:
            yield FAIL, f"{client} ended the run with another model"


def _role(event: Event) -> str:
    """The role in which a party logged an event."""
    named, _, rest = str(event.fields["type"]).partition(".")
    return str(event.fields.get("role", named if named in ROLES and rest else ""))


class Progress:
    """Tells on a terminal how far a long computation is.

    Args:
        total: Number of steps.
        what: What they are.
    """

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done = total, what, 0
        self._shown = False

    def tell(self) -> None:
        """One more step begins."""
        self._done += 1
        if self._done % 20 == 0 and sys.stderr.isatty():
            sys.stderr.write(f"\r{self._done} of {self._total} {self._what}")
            sys.stderr.flush()
            self._shown = True

    def end(self) -> None:
        """Clears the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


# ==================================================================================================
# 15. Statements: what the leader signed for people and other tools follows from the rest
# ==================================================================================================

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
Subject = tuple[str, str]


def statements(bundle: Bundle) -> Argument:
    """Each statement is there, signed by the leader, and says what the evidence says."""
    conditions = {"privacy-budget": bundle.plan.private, "model": FINAL in bundle.members}
    due = [name for name in DERIVED if conditions.get(name, True)]
    for name in DERIVED:
        yield from part(_check_derived(bundle, name, name in due), f"statement '{name}': ")
    for name in REPORTED:
        yield from part(_check_reported(bundle, name), f"statement '{name}': ")
    yield from part(_check_sbom(bundle))
    return f"{', '.join(due)}: signed by {bundle.leader}, and each says what the evidence says"


def _check_derived(bundle: Bundle, name: str, wanted: bool) -> Remarks:
    data = bundle.members.get(f"statements/{name}.dsse.json")
    if data is None:
        if wanted:
            yield NOT_PROVEN, f"the bundle holds no statement '{name}'"
        return
    payload, signers = open_envelope(bundle, data)
    need(signers == [bundle.leader], "it is not signed by the leader alone")
    _read_statement(name, payload)
    need(wanted, "it does not belong into the bundle of such a run")
    expected = statement_bytes(name, *DERIVATIONS[name](bundle))
    need(payload == expected, "it does not say what the evidence says")


def _check_reported(bundle: Bundle, name: str) -> Remarks:
    """Somebody's own statement: signed by members of the roster, and about this run."""
    data = bundle.members.get(f"statements/{name}.dsse.json")
    if data is None:
        return
    payload, _ = open_envelope(bundle, data)
    subjects = _read_statement(name, payload)
    if ("transcript", bundle.head.transcript) not in subjects:
        yield FAIL, f"statement '{name}': it is about another run"


def _read_statement(name: str, payload: bytes) -> list[Subject]:
    """The subjects of a statement of this name in its one form."""
    record = read_json(payload, "the payload")
    try:
        subjects = [(item["name"], item["digest"]["sha256"]) for item in record["subject"]]
        same = statement_bytes(name, subjects, dict(record["predicate"])) == payload
    except (ValueError, LookupError, TypeError) as error:
        raise Wrong("it is not an in-toto statement") from error
    need(same, "it is not an in-toto statement of its name")
    return subjects


def statement_bytes(name: str, subjects: Iterable[Subject], predicate: Fields) -> bytes:
    """An in-toto statement, version 1, in canonical JSON."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": who, "digest": {"sha256": digest}} for who, digest in subjects],
            "predicateType": f"urn:tacit:evidence:{name}:v1",
            "predicate": predicate,
        }
    )


def open_envelope(bundle: Bundle, data: bytes) -> tuple[bytes, list[str]]:
    """The payload of a DSSE envelope, and the parties that signed it.

    Reference: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    """
    record = read_json(data, "the envelope")
    try:
        envelope = keyed(
            payload=words(),
            payloadType=one_of(PAYLOAD_TYPE),
            signatures=listed(keyed(keyid=words(), sig=words()), MAX_SIGNATURES),
        )(record)
    except ValueError as error:
        raise Wrong("it is not a DSSE envelope") from error
    payload = strict_base64(envelope["payload"])
    kind = PAYLOAD_TYPE.encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    parties = {bundle.origin(name): name for name in bundle.roster.members}
    signers: list[str] = []
    for item in envelope["signatures"]:
        party = parties.get(item["keyid"])
        if party is None or party in signers:
            raise Wrong(f"it is signed by the stranger {item['keyid'][:64]!r}, or twice")
        good = is_signed(bundle.roster.member(party).key, strict_base64(item["sig"]), signed)
        need(good, f"the signature of {party} is wrong")
        signers.append(party)
    need(bool(signers), "nobody signed it")
    return payload, signers


def _run_statement(bundle: Bundle) -> tuple[list[Subject], Fields]:
    manifest, head = bundle.manifest, bundle.head
    subjects = [("transcript", head.transcript)]
    subjects += [(FINAL, head.model)] if head.model else []
    predicate = {name: manifest[name].hex() for name in ("job", "schema", "code", "roster")}
    predicate |= {name: manifest[name] for name in ("protocol", "leader", "clients", "helpers")}
    predicate |= {
        "federation": head.federation,
        "run": head.run,
        "status": head.status,
        "rounds": manifest["rounds"],
        "closed": [view.number for view in bundle.closed_rounds],
        "simulated": list(head.simulated),
    }
    return subjects, predicate


def _privacy_statement(bundle: Bundle) -> tuple[list[Subject], Fields]:
    plan = bundle.plan
    sites: dict[str, Fields] = {}
    for client in bundle.clients:
        log = bundle.log_or_fault(client)
        if isinstance(log, PartyLog):
            charged = len(rounds_of(log.of("budget.charged")))
            settled = [_epsilon_text(event) for event in log.of("run.settled")]
            sites[client] = {"charged_rounds": charged, "epsilon": _largest(settled)}
    predicate = {
        "unit": plan.unit,
        "delta": repr(plan.delta),
        "epsilon": _largest(str(site["epsilon"]) for site in sites.values()),
        "clip_norm": repr(plan.clip_norm),
        "noise_multiplier": repr(plan.noise_multiplier),
        "sampling_rate": repr(plan.sampling_rate),
        "rounds": plan.rounds,
        "max_colluding": plan.max_colluding,
        "sites": sites,
    }
    return [("transcript", bundle.head.transcript)], predicate


def _epsilon_text(event: Event) -> str:
    event.decimal("epsilon")
    return event.text("epsilon")


def _largest(texts: Iterable[str]) -> str:
    return max((text for text in texts if text), key=Decimal, default="")


def _aggregation_statement(bundle: Bundle) -> tuple[list[Subject], Fields]:
    manifest = bundle.manifest
    names = ("protocol", "ring_bits", "length", "min_cohort", "max_colluding")
    predicate: Fields = {name: manifest[name] for name in names}
    predicate["aborted"] = sorted(rounds_of(bundle.log(bundle.leader).of("round.aborted")))
    predicate["rounds"] = []
    for view in bundle.closed_rounds:
        digests = set(bundle.logged_cohort(view.number))
        members = [
            client
            for client in bundle.clients
            if client in view.uploads and view.uploads[client].digest in digests
        ]
        predicate["rounds"].append(
            {
                "round": view.number,
                "cohort": members,
                "operators": len(bundle.roster.operators(members)),
                "helpers": bundle.present(view),
                "sum": sha256(view.total or b"").hex(),
            }
        )
    return [("transcript", bundle.head.transcript)], predicate


def _model_statement(bundle: Bundle) -> tuple[list[Subject], Fields]:
    theta, _ = read_model(bundle.members[FINAL])
    if INITIAL not in bundle.members:
        raise Missing("the bundle holds no first model")
    predicate = {
        "run": bundle.head.run,
        "transcript": bundle.head.transcript,
        "dimension": bundle.manifest["dimension"],
        "initial": bundle.digests[INITIAL],
        "parameters": sha256(theta).hex(),
        "rounds": len(bundle.closed_rounds),
    }
    return [(FINAL, bundle.head.model)], predicate


def _policy_statement(bundle: Bundle) -> tuple[list[Subject], Fields]:
    subjects: list[Subject] = []
    sites: dict[str, Fields] = {}
    for client in bundle.clients:
        if f"transcript/accept-{client}.msg" not in bundle.messages:
            continue
        accept, disclosed = bundle.accept(client).body, bundle.disclosure(client)
        if disclosed is None:
            subjects.append((f"policy.lock of {client}", accept["policy"].hex()))
        else:
            name = f"policy/{client}.json"
            subjects.append((name, bundle.digests[name]))
        sites[client] = {
            "lock": accept["policy"].hex(),
            "contract": accept["contract"].hex(),
            "approvers": list(disclosed.approvers) if disclosed is not None else [],
        }
    if not sites:
        raise Missing("the bundle holds no acceptance")
    return subjects, {"sites": sites}


DERIVATIONS: Mapping[str, Callable[[Bundle], tuple[list[Subject], Fields]]] = {
    "run": _run_statement,
    "privacy-budget": _privacy_statement,
    "aggregation": _aggregation_statement,
    "model": _model_statement,
    "policy-approvals": _policy_statement,
}


def _check_sbom(bundle: Bundle) -> Remarks:
    """The list of the leader's software: CycloneDX 1.6, sorted, each package once."""
    data = bundle.members.get(SBOM)
    if data is None:
        raise Missing(f"the bundle holds no {SBOM}")
    record = read_json(data, SBOM)
    try:
        product = record["metadata"]["component"]
        packages = {(item["name"], item["version"]) for item in record["components"]}
        packages |= {("tacit", product["version"])} if product["version"] != "0" else set()
        known = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in packages}
        version = next((version for name, version in sorted(known) if name == "tacit"), "0")
        libraries = [
            _component("library", *package) for package in sorted(known) if package[0] != "tacit"
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Wrong(f"{SBOM} is not a list of software") from error
    expected = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component("application", "tacit", version)},
        "components": libraries,
    }
    if record != expected:
        yield FAIL, f"{SBOM} is not in the form that it has"


def _component(kind: str, name: str, version: str) -> Fields:
    url = f"pkg:pypi/{name}@{urllib.parse.quote(version, safe='')}"
    return {"type": kind, "name": name, "version": version, "purl": url, "bom-ref": url}


# ==================================================================================================
# 16. The report
# ==================================================================================================


@dataclass(frozen=True)
class Report:
    """Every claim about a bundle."""

    bundle: str
    claims: Sequence[Claim]
    required: Sequence[str]
    federation: str = ""
    run: str = ""
    status: str = ""
    simulated: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 on any FAIL, 2 when a required claim is NOT PROVEN, else 0."""
        if any(claim.status == FAIL for claim in self.claims):
            return 1
        lacking = [c for c in self.claims if c.status == NOT_PROVEN and c.id in self.required]
        return 2 if lacking else 0

    def record(self) -> Fields:
        """For scripts: the same as ``tacit verify --json``."""
        shown = ("bundle", "federation", "run", "status", "simulated")
        return {
            "version": 1,
            **{name: getattr(self, name) for name in shown},
            "claims": [c._asdict() | {"required": c.id in self.required} for c in self.claims],
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        """For people: one screen."""
        width = max(40, min(shutil.get_terminal_size((100, 24)).columns, 160))
        if self.run:
            lines = [f"{self.federation}, run {self.run[:16]}, {self.status}"]
        else:
            lines = ["This is not a readable evidence bundle."]
        lines += [f"simulated: {item}" for item in self.simulated]
        lines.append("")
        for claim in self.claims:
            head = f"{claim.id:18}  {claim.status:10}  "
            reason = "".join(c if c.isprintable() else "?" for c in claim.reason)
            text = textwrap.wrap(reason, max(20, width - len(head))) or [""]
            lines += [head + text[0], *(" " * len(head) + more for more in text[1:])]
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        count = Counter(claim.status for claim in self.claims)
        told = ", ".join(f"{count[s]} {s}" for s in (PASS, FAIL, NOT_PROVEN) if count[s])
        if self.exit_code == 1:
            return f"NOT VERIFIED: {told}. Do not rely on this run."
        if not self.required:
            return f"{told}. Without a trust file nobody's signature counts: give --trust."
        if self.exit_code == 2:
            return f"NOT PROVEN: {told}. A claim that the trust file requires is not proven."
        return f"VERIFIED: {told}. Every claim that the trust file requires is proven."


CLAIMS: Mapping[str, Callable[[Bundle, Trust | None], Argument]] = {
    "authenticity": authenticity,
    "integrity": lambda bundle, _: integrity(bundle),
    "log-inclusion": lambda bundle, _: log_inclusion(bundle),
    "witness": witness,
    "same-job": same_job,
    "cohort": lambda bundle, _: cohort(bundle),
    "one-sum-per-upload": lambda bundle, _: one_sum_per_upload(bundle),
    "policy": lambda bundle, _: policy(bundle),
    "receipts": lambda bundle, _: receipts(bundle),
    "residency": lambda bundle, _: residency(bundle),
    "epsilon": lambda bundle, _: epsilon(bundle),
    "budget": lambda bundle, _: budget(bundle),
    "model-chain": lambda bundle, _: model_chain(bundle),
    "statements": lambda bundle, _: statements(bundle),
}
"""Every claim, in the order of a report."""


def verify(data: bytes, trust: Trust | None) -> Report:
    """Checks every claim of a bundle."""
    digest = sha256(data).hex()
    required = trust.required if trust is not None else ()
    try:
        bundle = Bundle(read_archive(data))
    except Exception as error:  # noqa: BLE001 - whatever it is, the bundle is not readable
        return Report(digest, _unreadable(_reason(error)), required)
    claims = tuple(judge(name, argue(bundle, trust)) for name, argue in CLAIMS.items())
    head = bundle.head
    return Report(digest, claims, required, head.federation, head.run, head.status, head.simulated)


def _reason(error: Exception) -> str:
    if isinstance(error, Wrong):
        return str(error)
    return f"the evidence is malformed ({type(error).__name__}: {str(error)[:100]})"


def _unreadable(reason: str) -> tuple[Claim, ...]:
    return tuple(
        Claim(claim, FAIL, reason)
        if claim == "integrity"
        else Claim(claim, NOT_PROVEN, "the bundle is not readable")
        for claim in CLAIMS
    )


# ==================================================================================================
# 17. The command
# ==================================================================================================

USAGE = 64
TRUST_LIMIT = 16 * 1024 * 1024


class Parser(argparse.ArgumentParser):
    """Ends with the exit status of wrong usage that other commands use too."""

    def error(self, message: str) -> Any:
        """Says what is wrong, and ends."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def read_file(path: Path, limit: int) -> bytes:
    """A file that is not larger than anything that it may be."""
    try:
        # A pipe that nobody writes to would be waited for without end.
        need(not path.is_fifo(), f"cannot read {path}: it is a pipe, not a file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Wrong(f"cannot read {path}: {error.strerror}") from error
    need(len(data) <= limit, f"{path} is too large")
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the report, returns the exit status."""
    gc.disable()  # millions of small values, no cycles worth looking for
    parser = Parser(prog="verify.py", description="Checks a Tacit evidence bundle offline.")
    parser.add_argument("bundle", type=Path, help="the bundle.zip of a run")
    parser.add_argument("--trust", type=Path, help="whom you trust; never from inside the bundle")
    parser.add_argument("--json", action="store_true", help="print a record for scripts")
    options = parser.parse_args(arguments)
    trust: Trust | None = None
    try:
        if options.trust is not None:
            trust = read_trust(read_file(options.trust, TRUST_LIMIT))
    except Wrong as error:
        parser.error(
            f"trust file {options.trust}: {error}; it must be byte for byte as Tacit wrote it, so ask "
            "somebody whom you trust for it again"
        )
    try:
        data = read_file(options.bundle, ARCHIVE_LIMIT)
    except Wrong as error:
        parser.error(str(error))
    report = verify(data, trust)
    text = json.dumps(report.record(), indent=2) if options.json else str(report)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head`: the reader has seen enough, the verdict stays
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return report.exit_code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
