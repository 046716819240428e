import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tacit.algebra.ring import add_into, centred, ring_sum, subtract_into, to_ring

small = hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(-(2**31), 2**31 - 1))
ring = hnp.arrays(np.uint32, 7, elements=st.integers(0, 2**32 - 1))


@given(small)
def test_centred_inverts_to_ring(x):
    assert np.array_equal(centred(to_ring(x)), x)


@given(hnp.arrays(np.int64, 5, elements=st.integers(-(2**63), 2**63 - 1)))
def test_to_ring_reduces_modulo_two_to_the_32(x):
    assert to_ring(x).tolist() == [int(value) % 2**32 for value in x]


@given(st.lists(ring, max_size=6))
def test_sum_is_modular(vectors):
    expected = [sum(int(v[i]) for v in vectors) % 2**32 for i in range(7)]
    assert ring_sum(vectors, 7).tolist() == expected


@given(ring, ring)
def test_subtract_undoes_add(x, y):
    total = x.copy()
    add_into(total, y)
    assert total.tolist() == [(int(a) + int(b)) % 2**32 for a, b in zip(x, y, strict=True)]
    subtract_into(total, y)
    assert np.array_equal(total, x)


@pytest.mark.parametrize("operation", [add_into, subtract_into])
def test_a_shorter_vector_is_not_broadcast(operation):
    with pytest.raises(ValueError, match="lengths differ"):
        operation(np.zeros(3, np.uint32), np.ones(1, np.uint32))


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint64, np.int32])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError):
        add_into(np.zeros(3, np.uint32), np.ones(3, dtype))
    with pytest.raises(TypeError):
        centred(np.ones(3, dtype))
