"""Whatever the bytes: a decoder raises its documented error and nothing else, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from byte_mutations import HUGE_HEADS, Tape, mutate
from decoder_targets import CHUNKED, LIMIT, Target, all_targets
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import DecodeError
from tacit.wire.envelope import CHUNK_ELEMENTS, check_chunks, digest, join_chunks, split_chunks
from tacit.wire.messages import MESSAGES, Vector

TARGETS = all_targets()
BOMB = 2**11
PEAK_PER_BYTE = 128
"""A byte of CBOR or JSON can stand for an empty container, which takes 72 bytes and a pointer."""
PEAK_CONSTANT = 2**18

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def survives(target: Target, data: bytes) -> bool:
    """Whether ``data`` is accepted; any error that is not documented passes through."""
    try:
        target.run(data)
    except target.errors:
        return False
    return True


@every_target
def test_valid_encodings_are_accepted(target):
    assert all(survives(target, seed) for seed in target.seeds)


@settings(max_examples=60, deadline=None)
@given(tape=st.binary(min_size=4, max_size=80))
@every_target
def test_mutations_raise_only_documented_errors(target, tape):
    pick = Tape(tape)
    data = target.seeds[pick(len(target.seeds))]
    for _ in range(1 + pick(4)):
        data = mutate(data, pick, target.seeds, target.shape)
    survives(target, data)


@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=200))
@every_target
def test_random_bytes_raise_only_documented_errors(target, data):
    survives(target, data)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("schema", b'"lower":"0.0"', b'"lower":' + b"1" * 400, id="a huge bound"),
        pytest.param("job", b'"east"', b'"\\ud800"', id="a lone surrogate"),
        pytest.param("job", b'"min_cohort":3', b'"min_cohort":%d' % 2**60, id="no JSON integer"),
        pytest.param("stored-settlement", b'"run":"' + b"ab" * 32 + b'"', b'"run":{}', id="a run"),
        pytest.param("stored-charge", b'"round":1', b'"round":true', id="a round"),
        pytest.param(
            "stored-settlement", b'"epsilon":"0.5"', b'"epsilon":"1E-9999"', id="no float"
        ),
        pytest.param("stored-head", b"3 ", b"-1 ", id="a negative size"),
    ],
)
def test_what_a_search_once_found_is_refused(name, old, new):
    target = TARGETS[name]
    assert old in target.seeds[0]
    assert not survives(target, target.seeds[0].replace(old, new))


def test_another_error_would_be_reported():
    def run(data: bytes) -> None:
        raise KeyError(data)

    with pytest.raises(KeyError):
        survives(Target("planted", run, (DecodeError,), (b"",), "bytes"), b"x")


def test_every_message_class_is_a_target():
    assert {name.removeprefix("message/") for name in TARGETS} >= set(MESSAGES)


# --- memory -----------------------------------------------------------------------------------


def bombs(target: Target) -> Iterator[bytes]:
    """Inputs that claim much, nest deeply or hold as many items as their size allows."""
    seed = target.seeds[-1]
    middle = len(seed) // 2
    if target.shape == "cbor":
        yield from (seed[:place] + head for head in HUGE_HEADS for place in (0, 1, middle))
        yield from (item * BOMB for item in (b"\x81", b"\x80", b"\xa0", b"\xa1\x61a", b"\x00"))
        yield from (b"\x9a" + BOMB.to_bytes(4, "big") + item * BOMB for item in (b"\x80", b"\x60"))
        pairs = b"".join(b"\x63" + b"%03x" % key + b"\x80" for key in range(2**8))
        yield b"\xb9\x01\x00" + pairs
    if target.shape in ("json", "text"):
        yield from (seed[:place] + item * BOMB for item in (b"[", b'{"a":', b"1", b'"') for place in (0, 1))  # fmt: skip
        yield from (b"[" + item * BOMB + b"0]" for item in (b"0,", b"[],", b"{},", b"1.5,"))
        yield b"{" + b",".join(b'"%d":[]' % key for key in range(BOMB // 8)) + b"}"
        yield from (seed + item * BOMB for item in (b"\n", b"\n\n", seed[-80:], b"\xe2\x80\x94 "))
    if target.shape == "bytes":
        yield from (seed[:place] + b"\xff" * 16 + seed[place + 16 :] for place in range(len(seed)))
        yield from (seed + bytes(BOMB), seed * 64, b"PK\x03\x04" + b"\xff" * BOMB)


@every_target
def test_memory_follows_the_length_of_the_input(target):
    for seed in target.seeds:
        survives(target, seed)  # what is made once is not the input's
    for bomb in bombs(target):
        tracemalloc.start()
        try:
            survives(target, bomb)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak <= PEAK_PER_BYTE * len(bomb) + PEAK_CONSTANT, (peak, len(bomb), bomb[:40])


def test_the_memory_bound_would_catch_a_claimed_length():
    def run(data: bytes) -> bytearray:
        return bytearray(int.from_bytes(data[1:9], "big") % 2**22 + 2**21)

    with pytest.raises(AssertionError):
        test_memory_follows_the_length_of_the_input(
            Target("planted", run, (DecodeError,), (b"",), "cbor")
        )


# --- chunks -----------------------------------------------------------------------------------


def two_chunks(item_bytes: int) -> tuple[Vector, tuple[bytes, ...], int]:
    length = CHUNK_ELEMENTS + CHUNKED
    data = bytes(item_bytes * CHUNK_ELEMENTS) + bytes(range(item_bytes * CHUNKED))
    vector, chunks = split_chunks(data, length)
    return vector, chunks, length


@pytest.mark.parametrize("item_bytes", [2, 3, 4])
def test_chunks_must_be_what_was_signed(item_bytes):
    vector, (first, last), length = two_chunks(item_bytes)
    assert join_chunks(vector, [first, last], length, item_bytes) == first + last
    digests = vector.digests
    for lie, chunks in (
        (vector, [last, first]),
        (vector, [first]),
        (vector, [first, last, b""]),
        (vector, [first, last[:-1]]),
        (vector, [first + last[:1], last[1:]]),
        (vector, [first[:-1] + b"\x01", last]),
        (Vector(length, digests[:1]), [first, last]),
        (Vector(length, digests[::-1]), [last, first]),
        (Vector(length - 1, digests), [first, last]),
        (Vector(length + 1, digests), [first, last]),
        (Vector(2**32 - 1, digests), [first, last]),
        (Vector(length, (digest(first[1:]), digests[1])), [first[1:], last]),
        (Vector(length, (digest(b""), digests[1])), [b"", last]),
    ):
        with pytest.raises(DecodeError):
            tuple(check_chunks(lie, chunks, length, item_bytes))


@pytest.mark.parametrize("item_bytes", [2, 3, 4])
def test_chunks_of_another_width_are_refused(item_bytes):
    vector, chunks, length = two_chunks(item_bytes)
    for other in {2, 3, 4} - {item_bytes}:
        with pytest.raises(DecodeError):
            tuple(check_chunks(vector, chunks, length, other))


def test_a_limit_is_checked_before_anything_else():
    oversized = bytes(LIMIT + 1)
    for name, target in TARGETS.items():
        if name.startswith("message/"):
            with pytest.raises(DecodeError, match="limit"):
                target.run(oversized)
