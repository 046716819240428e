import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.algebra import prg
from tacit.algebra.prg import ALIGNMENT, Stream, add_keystreams, expand
from tacit.algebra.ring import WIDTHS, Ring

KEY = bytes(range(32))
COUNTER = bytes(range(16))
STREAMS = [(bytes([i]) * 32, bytes([255 - i]) * 16) for i in range(3)]
# Elements of a block at 24 and 32 bits; half a block at 16.
BLOCK = prg.BLOCK_BYTES // 4


def some_vector(ring, length):
    return ring.from_integers(np.arange(length, dtype=np.int64) * 2_654_435_761)


def defined(addend, streams, ring, length, start=0):
    """What ``add_keystreams`` is to compute, from the plain definition."""
    masks = [expand(*stream, start + length, ring)[start:] for stream in streams]
    return ring.sum([*masks, *([] if addend is None else [addend])], length)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK + 5])
@pytest.mark.parametrize("case", ["nothing", "apart", "in place"])
def test_fused_is_the_definition(bits, length, case):
    ring = Ring(bits)
    vector = None if case == "nothing" else some_vector(ring, length)
    expected = defined(vector, STREAMS, ring, length)
    out = vector if case == "in place" else ring.from_integers(np.full(length, -5))
    add_keystreams(vector, STREAMS, ring, out=out)
    assert np.array_equal(out, expected)
    if case == "apart":
        assert np.array_equal(vector, some_vector(ring, length))


@settings(deadline=None, max_examples=60)
@given(
    bits=st.sampled_from(WIDTHS),
    length=st.integers(0, 90),
    count=st.integers(0, 4),
    start=st.integers(0, 20),
    case=st.sampled_from(["nothing", "apart", "in place"]),
    seed=st.binary(min_size=16, max_size=16),
)
def test_any_range_of_any_number_of_keystreams(bits, length, count, start, case, seed):
    ring = Ring(bits)
    streams = [(bytes([i]) * 32, seed) for i in range(count)]
    vector = None if case == "nothing" else some_vector(ring, length)
    expected = defined(vector, streams, ring, length, start * ALIGNMENT)
    out = vector if case == "in place" else ring.zeros(length)
    add_keystreams(vector, streams, ring, out=out, start=start * ALIGNMENT)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("bits", WIDTHS)
def test_ranges_join_where_the_counter_wraps(bits):
    ring = Ring(bits)
    stream = (KEY, b"\xff" * 15 + b"\xfe")
    whole = expand(*stream, 96, ring)
    parts = ring.zeros(96)
    for start in (64, 0, 32):
        add_keystreams(None, [stream], ring, out=parts[start : start + 32], start=start)
    assert np.array_equal(parts, whole)


@pytest.mark.parametrize("bits", WIDTHS)
def test_nothing_carries_into_the_next_element(bits):
    """Every element at its largest value: a carry would reach the neighbour in all of them."""
    ring = Ring(bits)
    largest = 2**bits - 1
    out = ring.from_integers(np.full(1000, largest))
    add_keystreams(out, STREAMS, ring, out=out)
    octets = [bytes(ring.to_bytes(expand(*stream, 1000, ring))) for stream in STREAMS]
    size = ring.item_bytes
    expected = [
        (largest + sum(int.from_bytes(o[size * i : size * (i + 1)], "little") for o in octets))
        % 2**bits
        for i in range(1000)
    ]
    assert out.tolist() == expected


def test_blocks_do_not_repeat():
    out = Ring(32).zeros(3 * BLOCK)
    add_keystreams(None, [(KEY, COUNTER)], Ring(32), out=out)
    assert len(np.unique(out.reshape(3, BLOCK)[:, :8], axis=0)) == 3


@pytest.mark.parametrize(("key", "counter"), [(KEY[1:], COUNTER), (KEY, COUNTER[1:]), (b"", b"")])
def test_short_keys_are_refused_before_anything_is_written(key, counter):
    ring = Ring(32)
    with pytest.raises(ValueError, match="32-byte key"):
        expand(key, counter, 4, ring)
    vector = some_vector(ring, 4)
    with pytest.raises(ValueError, match="32-byte key"):
        add_keystreams(vector, [(KEY, COUNTER), (key, counter)], ring, out=vector)
    assert np.array_equal(vector, some_vector(ring, 4))


@pytest.mark.parametrize("start", [-16, -1, 1, 8, 15, 17])
def test_a_range_starts_at_an_aes_block(start):
    with pytest.raises(ValueError, match="multiple of 16"):
        add_keystreams(None, STREAMS, Ring(16), out=Ring(16).zeros(4), start=start)


def test_vectors_that_do_not_fit_are_refused():
    ring = Ring(32)
    memory = ring.zeros(20)
    frozen = ring.from_bytes(bytes(16), 4)
    wrong = [
        (ring.zeros(3), ring.zeros(4), ValueError),
        (ring.zeros(4), ring.zeros(3), ValueError),
        (memory[:10], memory[5:15], ValueError),
        (None, memory[::2], ValueError),
        (None, frozen, ValueError),
        (frozen, frozen, ValueError),
        (Ring(16).zeros(4), ring.zeros(4), TypeError),
        (ring.zeros(4), Ring(16).zeros(4), TypeError),
        (None, np.zeros(4, np.int32), TypeError),
        (None, np.zeros((2, 2), np.uint32), TypeError),
    ]
    for addend, out, error in wrong:
        before = out.copy()
        with pytest.raises(error):
            add_keystreams(addend, STREAMS, ring, out=out)
        assert np.array_equal(out, before)


def test_a_stream_shows_neither_key_nor_counter():
    stream = Stream(KEY, COUNTER)
    assert repr(stream) == str(stream) == f"{stream}" == "Stream(...)"
    assert repr([stream]) == "[Stream(...)]"


@pytest.mark.parametrize("bits", WIDTHS)
def test_scratch_does_not_grow_with_the_vector(bits):
    """However long the vector, and at most a constant per keystream."""
    ring = Ring(bits)

    def peak(length):
        out = ring.zeros(length)
        tracemalloc.start()
        add_keystreams(out, STREAMS, ring, out=out)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    short, long = peak(4 * BLOCK), peak(64 * BLOCK)
    assert long <= 1.2 * short
    assert long <= ring.zeros(4 * BLOCK).nbytes
