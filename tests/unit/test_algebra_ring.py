import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.algebra.ring import WIDTHS, Ring

rings = st.sampled_from(WIDTHS).map(Ring)


def elements(ring):
    return st.integers(0, 2**ring.bits - 1)


def vector(ring, values):
    return np.array(values, dtype=ring.dtype)


@st.composite
def ring_and_vectors(draw, count=2, max_size=40):
    """A ring and ``count`` vectors of one length, as lists of Python integers."""
    ring = draw(rings)
    size = draw(st.integers(0, max_size))
    lists = st.lists(elements(ring), min_size=size, max_size=size)
    return ring, [draw(lists) for _ in range(count)]


@pytest.mark.parametrize("bits", [0, 8, 17, 23, 31, 33, 64, -16, "16", 16.0, None])
def test_other_widths_are_refused(bits):
    with pytest.raises(ValueError, match="16, 24 or 32"):
        Ring(bits)


def test_sizes():
    assert [Ring(bits).item_bytes for bits in WIDTHS] == [2, 3, 4]
    assert [Ring(bits).dtype for bits in WIDTHS] == [np.uint16, np.uint32, np.uint32]
    for bits in WIDTHS:
        zero = Ring(bits).zeros(5)
        assert zero.dtype == Ring(bits).dtype
        assert zero.tolist() == [0] * 5


@given(rings.flatmap(lambda ring: st.tuples(st.just(ring), st.lists(elements(ring)))))
def test_centred_inverts_from_integers(pair):
    ring, values = pair
    x = np.array(values, dtype=np.int64) - 2 ** (ring.bits - 1)
    assert ring.centred(ring.from_integers(x)).dtype == np.int64
    assert np.array_equal(ring.centred(ring.from_integers(x)), x)


@given(rings, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9))
def test_from_integers_reduces_modulo_two_to_the_b(ring, values):
    v = ring.from_integers(np.array(values, dtype=np.int64))
    assert v.dtype == ring.dtype
    assert v.tolist() == [value % 2**ring.bits for value in values]


@pytest.mark.parametrize("bits", WIDTHS)
def test_centred_at_the_edges(bits):
    half = 2 ** (bits - 1)
    v = vector(Ring(bits), [0, 1, half - 1, half, half + 1, 2 * half - 1])
    assert Ring(bits).centred(v).tolist() == [0, 1, half - 1, -half, 1 - half, -1]


@given(ring_and_vectors(count=4))
def test_sum_is_modular(case):
    ring, lists = case
    expected = [sum(column) % 2**ring.bits for column in zip(*lists, strict=True)]
    assert ring.sum([vector(ring, values) for values in lists], len(lists[0])).tolist() == expected


@given(ring_and_vectors())
def test_adding_and_subtracting_are_modular_and_undo_each_other(case):
    ring, (x, y) = case
    total = vector(ring, x)
    ring.add_into(total, vector(ring, y))
    assert b"".join(
        ((a + b) % 2**ring.bits).to_bytes(ring.item_bytes, "little")
        for a, b in zip(x, y, strict=True)
    ) == bytes(ring.to_bytes(total))
    ring.subtract_into(total, vector(ring, y))
    assert bytes(ring.to_bytes(total)) == bytes(ring.to_bytes(vector(ring, x)))
    ring.subtract_into(total, vector(ring, x))
    assert not ring.centred(total).any()


def test_carries_above_24_bits_never_leave():
    ring = Ring(24)
    total = vector(ring, [2**24 - 1, 2**24 - 1])
    for _ in range(300):
        ring.add_into(total, vector(ring, [2**24 - 1, 1]))
    expected = [-301 % 2**24, 299]
    assert ring.to_bytes(total) == b"".join(value.to_bytes(3, "little") for value in expected)
    assert ring.centred(total).tolist() == [-301, 299]
    ring.reduce(total)
    assert total.tolist() == expected


@given(ring_and_vectors(count=1))
def test_bytes_are_little_endian_and_invert(case):
    ring, (values,) = case
    data = b"".join(value.to_bytes(ring.item_bytes, "little") for value in values)
    v = vector(ring, values)
    assert bytes(ring.to_bytes(v)) == data
    for source in (data, bytearray(data), memoryview(data)):
        assert ring.from_bytes(source, len(values)).dtype == ring.dtype
        assert ring.from_bytes(source, len(values)).tolist() == values


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_other_element_serialises_too(bits):
    ring = Ring(bits)
    v = vector(ring, range(10))
    assert bytes(ring.to_bytes(v[::2])) == bytes(ring.to_bytes(v[::2].copy()))


@pytest.mark.parametrize("bits", [16, 32])
def test_serialising_copies_nothing(bits):
    ring = Ring(bits)
    v = ring.zeros(4)
    data = ring.to_bytes(v)
    assert np.shares_memory(np.frombuffer(data, np.uint8), v)
    assert memoryview(data).readonly
    back = ring.from_bytes(bytearray(data), 4)
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1


@pytest.mark.parametrize(("bits", "change"), list(itertools.product(WIDTHS, [-3, -1, 1, 2, 4])))
def test_bytes_of_another_size_are_refused(bits, change):
    ring = Ring(bits)
    with pytest.raises(ValueError, match="5 elements"):
        ring.from_bytes(bytes(5 * ring.item_bytes + change), 5)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("operation", ["add_into", "subtract_into"])
def test_a_shorter_vector_is_not_broadcast(bits, operation):
    ring = Ring(bits)
    with pytest.raises(ValueError, match="lengths differ"):
        getattr(ring, operation)(ring.zeros(3), ring.zeros(1))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", ["i8", "f8", "u8", "i4", "i2", "u2", "u4"])
def test_other_types_are_refused(bits, dtype):
    ring = Ring(bits)
    if ring.dtype == dtype:
        return
    other = np.ones(3, dtype)
    for call in (
        lambda: ring.add_into(ring.zeros(3), other),
        lambda: ring.subtract_into(ring.zeros(3), other),
        lambda: ring.add_into(other, ring.zeros(3)),
        lambda: ring.sum([other], 3),
        lambda: ring.centred(other),
        lambda: ring.to_bytes(other),
        lambda: ring.add_into(ring.zeros(3).reshape(3, 1), ring.zeros(3).reshape(3, 1)),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("x", [np.ones(3), np.ones((2, 2), np.int64), np.ones(2, np.bool_)])
def test_only_vectors_of_integers_enter(x):
    with pytest.raises(TypeError):
        Ring(32).from_integers(x)
