"""The frames of parcels that are not complete or not handled yet, on the receiver's disk.

Two files per parcel: ``ID.data`` holds encrypted frames at their places, ``ID.index`` one line of JSON for
every frame that is safely on the disk. A frame counts, and may be acknowledged, only after its bytes
were flushed first and its line after them: a process killed in between only receives it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.engine.nats.parcel import FRAME, TAG, Frame, frame_span
from tacit.errors import DecodeError, TransportError
from tacit.types import Milliseconds, PartyName

__all__ = ["Arrival", "Entry", "Spool", "SpoolLimits"]

VERSION = 1
HOUR_MS = 3_600_000
NAME_DIGITS = 32
FLUSHES = 8
"""Parcels that are written at once."""
START = Milliseconds(0)


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """What a sender may keep on the receiver's disk.

    Attributes:
        sender_bytes: Bytes of all its parcels, as announced.
        sender_parcels: How many parcels.
        stale_ms: After how many milliseconds without a new frame an incomplete parcel is dropped.
    """

    sender_bytes: int = 10 * 1024**3
    sender_parcels: int = 64
    stale_ms: int = 6 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame as it was delivered: from whom, under which subject and stream sequence."""

    sender: PartyName
    subject: str
    frame: Frame
    sequence: int


@dataclass(slots=True)
class Entry:
    """One parcel in the spool.

    Attributes:
        subject: Where it came.
        sender: Who published it.
        parcel: Its id.
        count: Its number of frames.
        key: The sealed content key, once frame 0 is here.
        have: The indices of the frames that are on the disk.
        last: Bytes of the last frame, once it is here.
        sequence: Stream sequence of the frame that completed it: the cause of every answer.
        held: Whether somebody handles it; it is not dropped meanwhile.
        touched: When its newest frame came.
        written: Bytes of its index that are whole.
    """

    subject: str
    sender: PartyName
    parcel: bytes
    count: int
    key: bytes = b""
    have: set[int] = field(default_factory=set)
    last: int = 0
    sequence: int = 0
    held: bool = False
    touched: Milliseconds = START
    written: int = 0

    @property
    def complete(self) -> bool:
        """Whether all frames are here."""
        return len(self.have) == self.count

    @property
    def announced(self) -> int:
        """Bytes that the parcel may take at most."""
        return self.count * (FRAME + TAG)

    @property
    def size(self) -> int:
        """Bytes of the content of a complete parcel, without tags."""
        return (self.count - 1) * FRAME + self.last - TAG

    @property
    def file_name(self) -> str:
        """Name of its files, without ending."""
        named = hashlib.sha256(self.subject.encode() + b"\x00" + self.parcel)
        return named.hexdigest()[:NAME_DIGITS]

    def note(self, index: int, size: int, key: bytes, sequence: int) -> None:
        """Counts a frame that is on the disk."""
        self.have.add(index)
        self.key = key or self.key
        if index == self.count - 1:
            self.last = size
        if self.complete:
            self.sequence = sequence


class Spool:
    """The unfinished parcels of one receiver.

    Args:
        folder: Where the files lie; made if need be, mode 0700.
        limits: What a sender may keep here.
        clock: The time.

    Raises:
        TransportError: The folder cannot be read or made.

    Guarantee: a frame that was acknowledged is there after the process was killed, and what a sender
        keeps on the disk is bounded. Checked by
        tests/unit/test_nats_spool.py::test_what_was_taken_is_there_after_a_kill and
        ::test_a_sender_cannot_fill_the_disk.
    """

    def __init__(
        self,
        folder: Path,
        limits: SpoolLimits | None = None,
        *,
        clock: Callable[[], Milliseconds],
    ) -> None:
        self._folder = folder
        self._limits = limits or SpoolLimits()
        self._clock = clock
        self._entries: dict[tuple[str, bytes], Entry] = {}
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(FLUSHES, thread_name_prefix="tacit-spool")
        self.dropped = 0
        with _disk(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in sorted(folder.glob("*.index")):
                self._load(path)
            known = {entry.file_name for entry in self._entries.values()}
            for path in folder.iterdir():
                if path.stem not in known:
                    path.unlink()
        self.sweep()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, subject: str, parcel: bytes) -> Entry | None:
        """The entry of a parcel, if frames of it are here."""
        return self._entries.get((subject, parcel))

    def admit(self, arrival: Arrival) -> Entry | None:
        """The entry for a frame, made if it is the first of its parcel.

        Returns:
            None if the sender has too much here that is being handled: it has to wait.

        Raises:
            DecodeError: It contradicts the parcel's other frames, or the parcel alone is beyond the
                sender's quota.
        """
        head, key = arrival.frame.head, (arrival.subject, arrival.frame.head.parcel)
        entry = Entry(arrival.subject, arrival.sender, head.parcel, head.count)
        if entry.announced > self._limits.sender_bytes:
            raise DecodeError("parcel.quota", "a parcel is larger than its sender's quota")
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                if found.count != head.count:
                    raise DecodeError("parcel.head", "two frames of one parcel disagree")
                return found
            if not self._make_room(entry):
                return None
            entry.touched = self._clock()
            self._entries[key] = entry
            return entry

    def write(self, arrivals: Sequence[Arrival]) -> None:
        """Puts admitted frames on the disk; once this returns they may be acknowledged.

        Raises:
            TransportError: The disk refuses; of a parcel that it refused, nothing of these frames counts.
        """
        by_entry: dict[tuple[str, bytes], list[Arrival]] = {}
        for arrival in arrivals:
            by_entry.setdefault((arrival.subject, arrival.frame.head.parcel), []).append(arrival)
        with self._lock, _disk(self._folder):
            known = [(self._entries.get(key), frames) for key, frames in by_entry.items()]
            # Side by side, because a disk flushes several files in little more time than one.
            writing = [
                self._pool.submit(self._write, entry, frames)
                for entry, frames in known
                if entry is not None
            ]
            wait(writing)  # All of them, also if one fails: none may go on without the lock.
            for one in writing:
                one.result()
            for entry, _ in known:
                if entry is not None:
                    entry.touched = self._clock()

    def reader(self, entry: Entry) -> Callable[[int], bytes]:
        """Reads the encrypted frames of a complete parcel, also after it was dropped.

        Raises:
            TransportError: The disk refuses.
        """
        with _disk(self._folder):
            handle = os.open(self._path(entry, "data"), os.O_RDONLY)

        def read(index: int) -> bytes:
            size = entry.last if index == entry.count - 1 else FRAME + TAG
            with _disk(self._folder):
                return os.pread(handle, size, index * (FRAME + TAG))

        weakref.finalize(read, os.close, handle)
        return read

    def drop(self, entry: Entry) -> None:
        """Forgets a parcel; whoever reads it still can."""
        with self._lock, _disk(self._folder):
            self._entries.pop((entry.subject, entry.parcel), None)
            # The index first: without it the rest is cleared at the next start.
            for ending in ("index", "data"):
                self._path(entry, ending).unlink(missing_ok=True)

    def sweep(self) -> list[Entry]:
        """Drops the incomplete parcels of which nothing came for long."""
        limit = self._clock() - self._limits.stale_ms
        with self._lock:
            entries = list(self._entries.values())
            stale = [one for one in entries if not one.held and one.touched <= limit]
            for entry in stale:
                self.drop(entry)
        self.dropped += len(stale)
        return stale

    def _make_room(self, entry: Entry) -> bool:
        """Drops the sender's oldest parcels that nobody handles until a new one fits."""
        own = [one for one in self._entries.values() if one.sender == entry.sender]
        own.sort(key=lambda one: one.touched)
        limits = self._limits
        while own and (
            len(own) >= limits.sender_parcels
            or sum(one.announced for one in own) + entry.announced > limits.sender_bytes
        ):
            oldest = next((one for one in own if not one.held), None)
            if oldest is None:
                return False
            own.remove(oldest)
            self.drop(oldest)
            self.dropped += 1
        return True

    def _write(self, entry: Entry, frames: Iterable[Arrival]) -> None:
        fresh = not entry.written
        lines = [_head_line(entry)] if fresh else []
        new = {one.frame.head.index: one for one in frames}
        new = {index: one for index, one in new.items() if index not in entry.have}
        if not new:
            return
        flags = os.O_RDWR | os.O_CREAT
        with _opened(self._path(entry, "data"), flags) as handle:
            for one in new.values():
                _write_at(handle, one.frame.data, frame_span(one.frame.head))
                lines.append(_frame_line(one))
            os.fdatasync(handle)
        index = "".join(lines).encode()
        with _opened(self._path(entry, "index"), flags) as handle:
            os.ftruncate(handle, entry.written)  # What an earlier, refused write left.
            _write_at(handle, index, entry.written)
            os.fdatasync(handle)
        if fresh:
            with _opened(self._folder, os.O_RDONLY) as handle:
                os.fsync(handle)
        entry.written += len(index)
        for one in new.values():
            head = one.frame.head
            entry.note(head.index, len(one.frame.data), head.key, one.sequence)

    def _load(self, path: Path) -> None:
        """Reads an index; a line that was cut off counts for nothing, and neither does what follows."""
        entry: Entry | None = None
        kept = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                fields = json.loads(line) if line.endswith(b"\n") else None
                entry = _head_of(fields) if entry is None else _noted(entry, fields)
            except (ValueError, KeyError, TypeError):
                break
            kept += len(line)
        data = path.with_suffix(".data")
        if entry is None or not entry.have or entry.file_name != path.stem or not data.exists():
            return
        entry.written = kept
        entry.touched = Milliseconds(int(data.stat().st_mtime * 1000))
        self._entries[entry.subject, entry.parcel] = entry

    def _path(self, entry: Entry, ending: str) -> Path:
        return self._folder / f"{entry.file_name}.{ending}"


def _head_line(entry: Entry) -> str:
    fields = {
        "version": VERSION,
        "subject": entry.subject,
        "sender": entry.sender,
        "parcel": entry.parcel.hex(),
        "count": entry.count,
    }
    return json.dumps(fields) + "\n"


def _head_of(fields: Any) -> Entry:
    if fields["version"] != VERSION:
        raise ValueError("another version of the spool")
    parcel = bytes.fromhex(fields["parcel"])
    return Entry(str(fields["subject"]), PartyName(fields["sender"]), parcel, int(fields["count"]))


def _frame_line(arrival: Arrival) -> str:
    head = arrival.frame.head
    line = [head.index, len(arrival.frame.data), arrival.sequence, head.key.hex()]
    return json.dumps(line) + "\n"


def _noted(entry: Entry, line: Any) -> Entry:
    index, size, sequence, key = line
    entry.note(int(index), int(size), bytes.fromhex(key), int(sequence))
    return entry


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _write_at(handle: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(handle, rest, at)
        rest, at = rest[done:], at + done


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransportError(
            "spool.io",
            f"spool {folder}: {error.strerror or error}",
            remedy="check space and permissions of the folder; frames are delivered again by themselves",
            file=str(folder),
        ) from error
