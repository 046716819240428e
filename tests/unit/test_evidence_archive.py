"""The deterministic archive: readable by every zip tool, and one form only."""

from __future__ import annotations

import io
import warnings
import zipfile

import pytest

from tacit.errors import DecodeError, LocalProtocolError
from tacit.evidence.archive import pack, unpack

MEMBERS = {"b/second.txt": b"two", "a.json": b"{}", "empty": b""}


def test_round_trip_and_order_does_not_matter() -> None:
    data = pack(MEMBERS)
    assert unpack(data) == MEMBERS
    assert pack(dict(reversed(MEMBERS.items()))) == data
    assert unpack(pack({})) == {}


def test_every_zip_tool_reads_it() -> None:
    with zipfile.ZipFile(io.BytesIO(pack(MEMBERS))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(MEMBERS)
        assert {name: archive.read(name) for name in archive.namelist()} == MEMBERS
        assert all(entry.date_time == (1980, 1, 1, 0, 0, 0) for entry in archive.infolist())
        assert all(entry.external_attr >> 16 == 0o100644 for entry in archive.infolist())


def test_every_flipped_bit_is_refused_or_changes_a_member() -> None:
    data = pack(MEMBERS)
    for position in range(len(data)):
        for bit in range(8):
            forged = bytearray(data)
            forged[position] ^= 1 << bit
            with pytest.raises(DecodeError):
                unpack(bytes(forged))


def zip_of(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # a name twice is what one test is about
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"not a zip",
        pack(MEMBERS)[:-1],
        pack(MEMBERS)[:40],
        pack(MEMBERS)[:20],
        pack(MEMBERS) + b"\x00",
        b"\x00" + pack(MEMBERS),
        zip_of([("a", b"x" * 1000)], zipfile.ZIP_DEFLATED),
        zip_of([("b", b"1"), ("a", b"2")]),
        zip_of([("a", b"1"), ("a", b"2")]),
        zip_of([("../a", b"1")]),
        zip_of([("/a", b"1")]),
        zip_of([("a//b", b"1")]),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack(data)


def test_too_many_members_are_refused_while_reading(monkeypatch) -> None:
    """Before all of them are in memory and the archive is built again."""
    data = pack(MEMBERS)
    monkeypatch.setattr("tacit.evidence.archive.MAX_MEMBERS", len(MEMBERS) - 1)
    monkeypatch.setattr("tacit.evidence.archive.pack", None)
    with pytest.raises(DecodeError, match="more than 2 members"):
        unpack(data)


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../b", ".hidden", "a b", "ä", "a\\b", "a" * 256]
)
def test_names_that_could_leave_a_folder_are_refused(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        pack({name: b""})
