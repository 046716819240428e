"""A party's record: any event dropped, changed, added or moved is refused."""

from __future__ import annotations

import json

import pytest

from tacit.errors import DecodeError, LedgerError
from tacit.evidence.records import Event, read_log
from tacit.ledger.log import Log
from tacit.ledger.note import Checkpoint, open_checkpoint
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.types import Milliseconds

RUN, OTHER = "aa" * 32, "bb" * 32


def record() -> tuple[bytes, Checkpoint]:
    """Events of a run, interleaved with those of another."""
    signer = Identity.generate(SeededEntropy("north"))
    store = MemoryStore()
    log = Log(store, "demo/north", signer)
    with store.transaction():
        for number in range(4):
            log.append({"type": "client.test.event", "run": RUN, "round": number}, Milliseconds(1))
            log.append({"type": "client.test.event", "run": OTHER}, Milliseconds(1))
        log.append({"type": "client.run.closed", "run": RUN, "note": 'é\n"\x1f'}, Milliseconds(2))
        log.append({"type": "client.test.event", "run": OTHER}, Milliseconds(1))
    checkpoint = open_checkpoint(log.checkpoint(), {"demo/north": signer.public_key})
    return log.record(RUN), checkpoint


def test_honest_record_is_read_even_when_runs_interleave() -> None:
    data, checkpoint = record()
    log = read_log("north", RUN, data, checkpoint)
    assert [event.index for event in log.events] == [0, 2, 4, 6, 8]
    assert [event.kind for event in log.events] == ["test.event"] * 4 + ["run.closed"]
    assert log.events[4].text("note") == 'é\n"\x1f'
    assert log.closed
    assert [event.index for event in log.in_round("test.event", 2)] == [4]


def test_any_dropped_or_changed_event_is_refused() -> None:
    data, checkpoint = record()
    lines = data.splitlines(keepends=True)
    forgeries = [b"".join(lines[:i] + lines[i + 1 :]) for i in range(len(lines) - 1)]
    forgeries += [b"".join([*lines[: i + 1], lines[i], *lines[i + 1 :]]) for i in range(len(lines))]
    forgeries += [b"".join([lines[1], lines[0], *lines[2:]]), b"", data[:-1], data + b"\n"]
    forgeries += [data.replace(b'"round":2', b'"round":3'), data.replace(b":8", b":9", 1)]
    for forged in forgeries:
        with pytest.raises(LedgerError):
            read_log("north", RUN, forged, checkpoint)


def test_a_dropped_tail_is_seen_because_the_run_is_not_closed() -> None:
    data, checkpoint = record()
    tail = b"".join(data.splitlines(keepends=True)[:-1])
    assert not read_log("north", RUN, tail, checkpoint).closed


def test_every_flipped_byte_is_refused() -> None:
    data, checkpoint = record()
    for position in range(0, len(data), 3):
        forged = bytearray(data)
        forged[position] ^= 1
        with pytest.raises(LedgerError):
            read_log("north", RUN, bytes(forged), checkpoint)


def test_a_record_under_another_checkpoint_or_run_is_refused() -> None:
    data, checkpoint = record()
    with pytest.raises(LedgerError):
        read_log(
            "north", RUN, data, Checkpoint("demo/north", checkpoint.size, checkpoint.root[::-1])
        )
    with pytest.raises(LedgerError):
        read_log("north", OTHER, data, checkpoint)


def test_another_spelling_of_the_same_line_is_refused() -> None:
    data, checkpoint = record()
    first, rest = data.split(b"\n", 1)
    for spelling in (
        json.dumps(json.loads(first)).encode(),
        first.replace(b',"index":', b', "index":'),
        first.replace(b'"index":0', b'"index":0,"index":0'),
    ):
        with pytest.raises(LedgerError):
            read_log("north", RUN, spelling + b"\n" + rest, checkpoint)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("text", 1),
        ("digest", "ab"),
        ("digests", ["ab"]),
        ("digests", "ab" * 32),
        ("number", -1),
        ("number", True),
        ("number", "1"),
        ("decimal", "NaN"),
        ("decimal", "-1"),
        ("decimal", "x"),
        ("flag", 1),
    ],
)
def test_fields_are_typed(read: str, value: object) -> None:
    for fields in ({"field": value}, {}):
        with pytest.raises(DecodeError):
            getattr(Event(0, "test", fields), read)("field")
