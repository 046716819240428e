"""The stand-in store keeps the contract of ``types.Store``, so that tests on it mean something."""

import pytest

from tacit.errors import LocalProtocolError, TransportError
from tacit.testing.store import MemoryStore


class Stop(Exception):
    """Ends a transaction."""


def test_values_are_read_back_and_survive_a_crash():
    store = MemoryStore()
    with store.transaction():
        store.put("s", "b", b"2")
        store.put("s", "a", b"1")
        store.put("t", "a", b"3")
        assert store.get("s", "a") == b"1"
    for found in (store, store.crash()):
        assert list(found.items("s")) == [("a", b"1"), ("b", b"2")]
        assert found.get("t", "a") == b"3"
        assert found.get("t", "b") is None
        assert list(found.items("none")) == []


def test_writes_need_a_transaction():
    store = MemoryStore()
    with pytest.raises(LocalProtocolError):
        store.put("s", "a", b"")
    with pytest.raises(LocalProtocolError):
        store.delete("s", "a")


def test_an_exception_undoes_all_writes():
    store = MemoryStore()
    with store.transaction():
        store.put("s", "a", b"1")
        store.put("s", "b", b"1")
    with pytest.raises(Stop), store.transaction():
        store.put("s", "a", b"2")
        store.delete("s", "b")
        with store.transaction():
            store.put("s", "c", b"2")
        raise Stop
    assert list(store.items("s")) == [("a", b"1"), ("b", b"1")]
    assert store.commits == 1


def test_a_crash_inside_a_transaction_loses_it():
    store = MemoryStore()
    with store.transaction():
        store.put("s", "a", b"1")
        with store.transaction():
            store.put("s", "b", b"1")
        assert list(store.crash().items("s")) == []
    assert len(list(store.crash().items("s"))) == 2


def test_a_failed_inner_block_undoes_itself_only():
    store = MemoryStore()
    with store.transaction():
        store.put("s", "a", b"1")
        with pytest.raises(Stop), store.transaction():
            store.put("s", "a", b"2")
            raise Stop
    assert store.get("s", "a") == b"1"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_fault_at_any_step_leaves_nothing(steps):
    """Two writes and the commit are three steps."""
    store = MemoryStore(fail_after=steps)
    with pytest.raises(TransportError), store.transaction():
        store.put("s", "a", b"1")
        store.put("s", "b", b"1")
    assert list(store.items("s")) == []
    store.fail_after = 3
    with store.transaction():
        store.put("s", "a", b"1")
        store.put("s", "b", b"1")
    assert len(list(store.items("s"))) == 2
