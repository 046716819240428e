"""The state file: what a crash may take, and what it may not."""

from __future__ import annotations

import os
import random
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from tacit.engine.store import SqliteStore
from tacit.errors import LocalProtocolError, TransportError
from tacit.ledger.log import Log
from tacit.testing.appender import ORIGIN, SIGNER, append_batch, open_log

FRAME = 24 + 4096
"""Bytes of a page in the write-ahead log, with its header."""
BATCH = 3


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def test_every_commit_is_flushed_to_the_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tacit.db")
    full, off = 2, 0
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (full,)
    assert store._db.execute("PRAGMA read_uncommitted").fetchone() == (off,)
    assert stat.S_IMODE((tmp_path / "tacit.db").stat().st_mode) == 0o600


def test_writes_need_a_transaction_and_nested_ones_undo_their_own_part(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tacit.db")
    with pytest.raises(LocalProtocolError):
        store.put("space", "key", b"1")
    with store.transaction():
        store.put("space", "a", b"1")
        with pytest.raises(RuntimeError), store.transaction():
            store.put("space", "b", b"2")
            raise RuntimeError
    assert list(store.items("space")) == [("a", b"1")]


def test_what_is_not_a_state_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tacit.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(TransportError):
        SqliteStore(tmp_path / "tacit.db")


class Cut:
    """A log of a few commits, of which nothing has left the write-ahead log yet, to be cut anywhere."""

    def __init__(self, folder: Path, commits: int) -> None:
        self.folder = folder
        path = folder / "whole.db"
        self.store, self.log = open_log(path)
        self.ends = [(0, 0)]
        for _ in range(commits):
            size = append_batch(self.store, self.log, BATCH)
            self.ends.append((wal_of(path).stat().st_size, size))
        self.file, self.wal = path.read_bytes(), wal_of(path).read_bytes()
        self.events = self.log.events()

    def committed(self, offset: int) -> int:
        """Events of the commits that end before ``offset`` in the write-ahead log."""
        return max(size for end, size in self.ends if end <= offset)

    def check(self, file: bytes, wal: bytes, size: int) -> None:
        """Opens what a crash left, which must hold the first ``size`` events, and go on."""
        path = self.folder / "cut.db"
        path.with_name("cut.db-shm").unlink(missing_ok=True)
        path.write_bytes(file)
        wal_of(path).write_bytes(wal)
        store = SqliteStore(path)
        log = Log(store, ORIGIN, SIGNER)
        assert log.events() == self.events[:size]
        assert log.verify() == log.head()
        store.close()


def check_cuts(cut: Cut, offsets: Iterable[int]) -> None:
    seen = set()
    for offset in offsets:
        size = cut.committed(offset)
        seen.add(size)
        cut.check(cut.file, cut.wal[:offset], size)
    assert seen == {size for _, size in cut.ends}


def test_a_write_cut_at_any_byte_loses_what_was_not_committed(tmp_path: Path) -> None:
    """A sample: every 997th byte, and those beside the end of a page or of a commit."""
    cut = Cut(tmp_path, commits=4)
    whole = len(cut.wal)
    beside = {end + step for end, _ in cut.ends for step in range(-2, 3)}
    beside |= {32 + page + step for page in range(0, whole, FRAME) for step in (-1, 0, 1)}
    offsets = {*range(0, whole, 997), *beside, whole}
    check_cuts(cut, sorted(offset for offset in offsets if 0 <= offset <= whole))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_write_cut_at_every_byte(tmp_path: Path, part: int) -> None:
    cut = Cut(tmp_path, commits=2)
    for offset in range(part, len(cut.wal) + 1, 8):
        cut.check(cut.file, cut.wal[:offset], cut.committed(offset))


@pytest.mark.parametrize("filler", [b"\x00", b"\xff", b"SQLite"])
def test_rubbish_in_place_of_what_was_not_flushed_is_not_taken_for_a_commit(
    tmp_path: Path, filler: bytes
) -> None:
    """A file system may show the new length of a file before its content."""
    cut = Cut(tmp_path, commits=3)
    for (end, size), (later, _) in pairwise(cut.ends):
        for offset in (end, end + 10, (end + later) // 2, later - 1):
            tail = (filler * later)[: len(cut.wal) - offset]
            if cut.wal[offset:later] != tail[: later - offset]:
                cut.check(cut.file, cut.wal[:offset] + tail, size)


def test_a_crash_while_commits_move_into_the_file_loses_none(tmp_path: Path) -> None:
    cut = Cut(tmp_path, commits=4)
    cut.store._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
    moved = (tmp_path / "whole.db").read_bytes()
    assert moved != cut.file
    old = cut.file.ljust(len(moved), b"\x00")
    for offset in range(0, len(moved) + 1, 1024):
        cut.check(moved[:offset] + old[offset:], cut.wal, len(cut.events))


def kill_while_it_appends(path: Path, moment: random.Random) -> tuple[int, int]:
    """Sizes that a process acknowledged, first and last, before it was killed."""
    command = [sys.executable, "-m", "tacit.testing.appender", str(path), str(BATCH)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = os.read(process.stdout.fileno(), 64)
        # A commit takes about 1 ms, more on a slow disk: any part of one may be hit.
        deadline = time.monotonic() + moment.uniform(0.001, 0.08)
        while (left := deadline - time.monotonic()) > 0:
            if select.select([process.stdout], [], [], left)[0]:
                said += os.read(process.stdout.fileno(), 65536)
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read()
    sizes = [int(line) for line in said.decode().splitlines()]
    return sizes[0], sizes[-1]


def kill_again_and_again(path: Path, times: int) -> None:
    moment = random.Random(times)
    before, progressed = 0, 0
    for _ in range(times):
        first, acknowledged = kill_while_it_appends(path, moment)
        assert first == before
        store, log = open_log(path)
        size = len(log)
        # The last commit may have been made and not yet been acknowledged.
        assert acknowledged <= size <= acknowledged + BATCH
        assert size % BATCH == 0
        assert log.verify() == log.head()
        store.close()
        progressed += acknowledged > first
        before = size
    assert progressed > times // 2


def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path / "tacit.db", 6)


@pytest.mark.slow
def test_a_process_killed_a_hundred_times_loses_nothing_that_it_acknowledged(
    tmp_path: Path,
) -> None:
    kill_again_and_again(tmp_path / "tacit.db", 100)


def test_a_store_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store, other = SqliteStore(None), SqliteStore(None)
    with store.transaction():
        store.put("space", "key", b"value")
    assert store.get("space", "key") == b"value"
    assert other.get("space", "key") is None
    assert list(tmp_path.iterdir()) == []
