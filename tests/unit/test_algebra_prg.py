import numpy as np
import pytest

from tacit.algebra import prg
from tacit.algebra.prg import add_keystream_into, expand, subtract_keystream_into

KEY = bytes(range(32))
COUNTER = bytes(range(16))
BLOCK = prg.BLOCK_ELEMENTS


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_blockwise_is_the_whole_keystream(length):
    whole = expand(KEY, COUNTER, 3 * BLOCK)[:length]
    start = np.arange(length, dtype=np.uint32) * np.uint32(2_654_435_761)
    total = start.copy()
    add_keystream_into(total, KEY, COUNTER)
    assert np.array_equal(total, start + whole)
    subtract_keystream_into(total, KEY, COUNTER)
    assert np.array_equal(total, start)


def test_blocks_do_not_repeat():
    blocks = expand(KEY, COUNTER, 3 * BLOCK).reshape(3, BLOCK)
    assert len(np.unique(blocks[:, :8], axis=0)) == 3


@pytest.mark.parametrize(("key", "counter"), [(KEY[1:], COUNTER), (KEY, COUNTER[1:]), (b"", b"")])
def test_short_keys_are_refused(key, counter):
    with pytest.raises(ValueError, match="32-byte key"):
        expand(key, counter, 4)
