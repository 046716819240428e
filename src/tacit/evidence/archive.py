"""Deterministic zip archives: one sequence of bytes for one set of members.

Members are stored, not compressed, in order of their names, with a fixed date and mode. The reader
rebuilds the archive from what it read and requires identical bytes, so that no byte is without meaning.

Reference: PKWARE APPNOTE 6.3 sections 4.3 and 4.4; no extra fields, no comments, no zip64.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping

from tacit.errors import DecodeError, LocalProtocolError

__all__ = ["ARCHIVE_LIMIT", "pack", "unpack"]

ARCHIVE_LIMIT = 2**31 - 1
"""Largest archive in bytes."""

MAX_MEMBERS = 65_534
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
NAME_LIMIT = 255

LOCAL = struct.Struct("<4sHHHHHLLLHH")
CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")
END = struct.Struct("<4sHHHHLLH")
LOCAL_MARK, CENTRAL_MARK, END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
VERSION_NEEDED = 20
MADE_BY_UNIX = 3 << 8 | VERSION_NEEDED
STORED = 0
FIRST_OF_1980 = (0, 1 << 5 | 1)  # time, date in the format of DOS
REGULAR_FILE = 0o100644 << 16


def pack(members: Mapping[str, bytes]) -> bytes:
    """The one archive of ``members``.

    Raises:
        LocalProtocolError: A name is not a plain relative path, or the archive would be too large.
    """
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, data in sorted(members.items()):
        if len(name) > NAME_LIMIT or NAME.fullmatch(name) is None:
            raise LocalProtocolError("evidence.member", f"{name!r} cannot be a member's name")
        label = name.encode("ascii")
        common = (VERSION_NEEDED, 0, STORED, *FIRST_OF_1980, zlib.crc32(data), len(data), len(data))
        parts += [LOCAL.pack(LOCAL_MARK, *common, len(label), 0), label, data]
        directory.append(
            CENTRAL.pack(
                CENTRAL_MARK, MADE_BY_UNIX, *common, len(label), 0, 0, 0, 0, REGULAR_FILE, offset
            )
            + label
        )
        offset += LOCAL.size + len(label) + len(data)
        if offset > ARCHIVE_LIMIT or len(directory) > MAX_MEMBERS:
            raise LocalProtocolError(
                "evidence.too-large", "the run is too large for one evidence bundle"
            )
    tail = b"".join(directory)
    count = len(directory)
    end = END.pack(END_MARK, 0, 0, count, count, len(tail), offset, 0)
    return b"".join([*parts, tail, end])


def unpack(data: bytes) -> dict[str, bytes]:
    """The members of an archive that ``pack`` made.

    Raises:
        DecodeError: ``data`` is anything else.

    Guarantee: Accepts one sequence of bytes for one set of members: whoever changes any byte, also of
    the zip's own structure, changes a member or is refused
    (tests/unit/test_evidence_archive.py::test_every_flipped_bit_is_refused_or_changes_a_member).
    """
    if len(data) > ARCHIVE_LIMIT:
        raise DecodeError("evidence.too-large", f"a bundle of {len(data)} bytes")
    members: dict[str, bytes] = {}
    offset = 0
    while data[offset : offset + 4] == LOCAL_MARK:
        try:
            header = LOCAL.unpack_from(data, offset)
        except struct.error as error:
            raise DecodeError("evidence.truncated", "the bundle is cut off") from error
        size, label_size = header[7], header[9]
        start = offset + LOCAL.size + label_size
        name = data[start - label_size : start].decode("latin-1")
        offset = start + size
        if offset > len(data):
            raise DecodeError("evidence.truncated", "the bundle is cut off")
        if len(members) >= MAX_MEMBERS:
            raise DecodeError("evidence.too-large", f"a bundle of more than {MAX_MEMBERS} members")
        members[name] = bytes(data[start:offset])
    try:
        identical = pack(members) == data
    except LocalProtocolError:
        identical = False
    if not identical:
        raise DecodeError("evidence.not-canonical", "the bundle is not a canonical archive")
    return members
