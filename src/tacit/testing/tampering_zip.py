"""Tricks with the archive itself: names, sizes, sums, order, and what zip readers disagree about.

None of them needs a key: the archive has one form, and every byte elsewhere is refused.
"""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence

from tacit.evidence import layout
from tacit.testing.tampering_base import SyntheticBundle, Tampered, case

__all__: list[str] = []

PIECES = 50
LOCAL_NAME_LENGTH, LOCAL_SIZE = 26, 30
CENTRAL_ATTRIBUTES, CENTRAL_OFFSET, CENTRAL_NAME = 38, 42, 46
END_SIZE, END_COMMENT = 22, 20
SYMLINK = 0o120777 << 16
Entry = tuple[str, bytes]


def _written(
    bundle: SyntheticBundle,
    entries: Sequence[Entry],
    change: Callable[[zipfile.ZipInfo], None] = lambda info: None,
) -> Tampered:
    """An archive as Python's own zip writer makes it, in the bundle's form but for the change."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # A name that stands twice is one of the tricks.
        for name, data in entries:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr, info.create_system = 0o100644 << 16, 3
            change(info)
            archive.writestr(info, data, compress_type=info.compress_type)
    return buffer.getvalue(), bundle.trust.canonical()


def _entries(bundle: SyntheticBundle) -> list[Entry]:
    return sorted(bundle.members.items())


def _patched(bundle: SyntheticBundle, *patches: tuple[int, bytes]) -> Tampered:
    """The honest archive with some bytes overwritten; negative places count from the end."""
    data = bytearray(bundle.data)
    for place, content in patches:
        start = place if place >= 0 else len(data) + place
        data[start : start + len(content)] = content
    return bytes(data), bundle.trust.canonical()


def _directory(bundle: SyntheticBundle) -> int:
    """Where the central directory begins."""
    return int.from_bytes(bundle.data[-6:-2], "little")


@case("zip-name-twice", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    extra = (layout.JOB, b"{}")
    return _written(bundle, [*_entries(bundle), extra])


@case("zip-name-twice-first-wins", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _written(bundle, [(layout.FINAL, b"another model"), *_entries(bundle)])


@case("zip-path-traversal", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _written(bundle, [("../../outside", b"x"), *_entries(bundle)])


@case("zip-absolute-path", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _written(bundle, [("/etc/passwd", b"x"), *_entries(bundle)])


@case("zip-backslash", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _written(bundle, [*_entries(bundle), ("zz\\outside", b"x")])


@case("zip-folder-entry", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _written(bundle, [*_entries(bundle), ("transcript/zz/", b"")])


@case("zip-another-order", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _written(bundle, list(reversed(_entries(bundle))))


@case("zip-bomb-compressed", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    def deflate(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    return _written(bundle, [(layout.JOB, bytes(64 * 1024 * 1024)), *_entries(bundle)], deflate)


@case("zip-bomb-sizes", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _patched(bundle, (18, b"\xff\xff\xff\x7f" * 2))


@case("zip-size-too-small", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _patched(bundle, (18, bytes(8)))


@case("zip64", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in _entries(bundle):
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    return buffer.getvalue(), bundle.trust.canonical()


@case("zip-symlink", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    def link(info: zipfile.ZipInfo) -> None:
        if info.filename == layout.SCHEMA:
            info.external_attr = SYMLINK

    return _written(bundle, _entries(bundle), link)


@case("zip-another-date", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    def later(info: zipfile.ZipInfo) -> None:
        info.date_time = (2026, 11, 27, 0, 0, 0)

    return _written(bundle, _entries(bundle), later)


@case("zip-extra-field", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    def extra(info: zipfile.ZipInfo) -> None:
        info.extra = b"\x99\x99\x04\x00note"

    return _written(bundle, _entries(bundle), extra)


@case("zip-member-comment", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    def comment(info: zipfile.ZipInfo) -> None:
        info.comment = b"note"

    return _written(bundle, _entries(bundle), comment)


@case("zip-archive-comment", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    data = bundle.data[:-2] + struct.pack("<H", 4) + b"note"
    return data, bundle.trust.canonical()


@case("zip-encrypted-flag", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _patched(bundle, (6, b"\x01\x00"), (_directory(bundle) + 8, b"\x01\x00"))


@case("zip-wrong-crc", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _patched(bundle, (14, b"\x00\x00\x00\x00"))


@case("zip-overlapping-entries", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    start = _directory(bundle)
    name = struct.unpack("<H", bundle.data[start + 28 : start + 30])[0]
    second = start + CENTRAL_NAME + name
    return _patched(bundle, (second + CENTRAL_OFFSET, bytes(4)))


@case("zip-directory-names-another-member", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _patched(bundle, (_directory(bundle) + CENTRAL_NAME, b"x"))


@case("zip-gap-between-members", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    data, start = bundle.data, _directory(bundle)
    end = bytearray(data[start:])
    end[-6:-2] = struct.pack("<L", start + 4)
    return data[:start] + b"gap!" + bytes(end), bundle.trust.canonical()


@case("zip-trailing-byte", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.data + b"\x00", bundle.trust.canonical()


@case("zip-leading-bytes", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return b"#!/bin/sh\n" + bundle.data, bundle.trust.canonical()


@case("zip-twice-in-a-row", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.data * 2, bundle.trust.canonical()


@case("empty-file", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return b"", bundle.trust.canonical()


@case("empty-archive", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.packed({})


def _cut(piece: int) -> Callable[[SyntheticBundle], Tampered]:
    def cut(bundle: SyntheticBundle) -> Tampered:
        data = bundle.data
        return data[: len(data) * piece // PIECES], bundle.trust.canonical()

    return cut


for _piece in range(1, PIECES):
    case(f"truncated-{_piece:02d}", "integrity")(_cut(_piece))
