"""The spool: what was taken is there after a kill, and nobody fills the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.engine.nats.parcel import FRAME, TAG, Frame, FrameHead
from tacit.engine.nats.spool import Arrival, Spool, SpoolLimits
from tacit.errors import DecodeError, TransportError
from tacit.testing.clock import FixedClock
from tacit.types import PartyName

EAST = PartyName("east")
SIZE = FRAME + TAG


def arrival(index, count=3, *, parcel=1, sender=EAST, size=None, sequence=0):
    parcel_id = bytes([parcel]) * 32
    size = (100 if index == count - 1 else SIZE) if size is None else size
    head = FrameHead(parcel_id, index, count, b"" if index else b"sealed key")
    return Arrival(
        sender, f"to.{sender}", Frame(head, bytes([index + 1]) * size), sequence or index
    )


def take(spool, *arrivals):
    entries = [spool.admit(one) for one in arrivals]
    spool.write([one for one, entry in zip(arrivals, entries, strict=True) if entry is not None])
    return entries


def test_frames_come_in_any_order_and_more_than_once(tmp_path):
    spool = Spool(tmp_path, clock=FixedClock())
    (entry, *_) = take(spool, arrival(2), arrival(0), arrival(0))
    assert not entry.complete
    take(spool, arrival(2), arrival(1, sequence=9))
    assert entry.complete
    assert (entry.key, entry.sequence, entry.size) == (b"sealed key", 9, 2 * FRAME + 100 - TAG)
    read = spool.reader(entry)
    spool.drop(entry)
    assert [read(index)[0] for index in range(3)] == [1, 2, 3]  # Whoever reads it still can.
    assert [len(read(index)) for index in range(3)] == [SIZE, SIZE, 100]
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
import test_nats_spool as t
spool = t.Spool(Path({folder!r}), clock=t.FixedClock())
t.take(spool, t.arrival(0), t.arrival(2))
os.kill(os.getpid(), 9)
"""


def test_what_was_taken_is_there_after_a_kill(tmp_path):
    path = [str(Path(__file__).parent), *sys.path]
    program = KILLED.format(path=path, folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    spool = Spool(tmp_path, clock=FixedClock())
    (entry,) = take(spool, arrival(1, sequence=7))
    assert entry.complete
    assert entry.sequence == 7
    assert [spool.reader(entry)(index)[0] for index in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("lost", [1, 30, 60, 150])
def test_a_torn_index_loses_only_what_was_not_acknowledged(tmp_path, lost):
    spool = Spool(tmp_path, clock=FixedClock())
    take(spool, arrival(0))
    (path,) = tmp_path.glob("*.index")
    whole = path.stat().st_size
    take(spool, arrival(1))
    os.truncate(path, max(whole, path.stat().st_size - lost))
    again = Spool(tmp_path, clock=FixedClock())
    (entry,) = take(again, arrival(0))
    assert entry.have == {0}
    take(again, arrival(1), arrival(2))
    last = Spool(tmp_path, clock=FixedClock()).find("to.east", bytes([1]) * 32)
    assert last.complete


def test_a_sender_cannot_fill_the_disk(tmp_path):
    limits = SpoolLimits(sender_bytes=10 * SIZE, sender_parcels=3)
    clock = FixedClock(step=1)
    spool = Spool(tmp_path, limits, clock=clock)
    with pytest.raises(DecodeError, match="quota"):
        spool.admit(arrival(0, 11))
    for parcel in range(1, 9):
        take(spool, arrival(0, 3, parcel=parcel))
    assert len(spool) == 3
    assert spool.dropped == 5
    take(spool, arrival(0, 3, parcel=1, sender=PartyName("west")))
    assert len(spool) == 4  # Everybody has a quota of their own.
    take(spool, arrival(0, 9, parcel=100))
    assert len(spool) == 2
    assert len(list(tmp_path.iterdir())) == 4


def test_what_is_handled_is_not_dropped_for_something_new(tmp_path):
    spool = Spool(tmp_path, SpoolLimits(sender_parcels=1), clock=FixedClock())
    (entry,) = take(spool, arrival(0))
    entry.held = True
    assert take(spool, arrival(0, parcel=2)) == [None]
    spool.drop(entry)
    assert take(spool, arrival(0, parcel=2)) != [None]


def test_stale_parcels_go(tmp_path):
    clock = FixedClock()
    spool = Spool(tmp_path, SpoolLimits(stale_ms=1000), clock=clock)
    take(spool, arrival(0))
    clock.advance(500)
    take(spool, arrival(0, parcel=2))
    clock.advance(600)
    assert [entry.parcel[0] for entry in spool.sweep()] == [1]
    assert len(spool) == 1


def test_two_frames_of_one_parcel_must_agree(tmp_path):
    spool = Spool(tmp_path, clock=FixedClock())
    take(spool, arrival(0, 3))
    with pytest.raises(DecodeError, match="disagree"):
        spool.admit(arrival(1, 4))


def test_a_refused_write_counts_for_nothing_and_is_repaired(tmp_path, monkeypatch):
    spool = Spool(tmp_path, clock=FixedClock())
    take(spool, arrival(0))
    with monkeypatch.context() as patched:
        calls = []

        def full(handle):
            calls.append(handle)
            if len(calls) == 2:  # The index was written, but not flushed.
                raise OSError(28, "No space left on device")

        patched.setattr(os, "fdatasync", full)
        with pytest.raises(TransportError, match="No space"):
            take(spool, arrival(1))
    entry = spool.find("to.east", bytes([1]) * 32)
    assert entry.have == {0}
    take(spool, arrival(1), arrival(2))
    assert Spool(tmp_path, clock=FixedClock()).find("to.east", bytes([1]) * 32).complete


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name open files")
def test_a_refused_parcel_leaves_those_beside_it_whole(tmp_path, monkeypatch):
    spool = Spool(tmp_path, clock=FixedClock())
    names = [bytes([parcel]) * 32 for parcel in (1, 2, 3)]
    flush, refused = os.fdatasync, []

    def full(handle):
        if spool.find("to.east", names[1]).file_name in str(
            Path(f"/proc/self/fd/{handle}").readlink()
        ):
            refused.append(handle)
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(TransportError, match="No space"):
        take(spool, *(arrival(0, parcel=parcel) for parcel in (1, 2, 3)))
    assert len(refused) == 1
    assert [spool.find("to.east", name).have for name in names] == [{0}, set(), {0}]
    again = Spool(tmp_path, clock=FixedClock())
    assert [again.find("to.east", name) is not None for name in names] == [True, False, True]
