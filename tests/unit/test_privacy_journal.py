"""The journal: what was written stays, in its order, and whoever changed it shows."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import pytest

from tacit.errors import VerificationError
from tacit.privacy.journal import WINDOW, Account, Heads, Journal, Record
from tacit.testing.store import MemoryStore
from tacit.types import Milliseconds

SPACE = "budget"
ACCOUNT = Account("everyone", "research", "record")


def record(kind: str, run: str, epsilon: str, round_number: int = 0, account=ACCOUNT) -> Record:
    delta = Decimal("0.00001") if kind == "reserve" or round_number else Decimal(0)
    return Record(
        kind, run, account, Decimal(epsilon), delta, round_number, Milliseconds(1_700_000_000_000)
    )


def write(store: MemoryStore, *records: Record) -> Journal:
    journal = Journal(store)
    for one in records:
        with store.transaction():
            journal.refresh()
            journal.append(one)
    return journal


def example() -> MemoryStore:
    store = MemoryStore()
    write(
        store,
        record("reserve", "a", "1.0"),
        record("charge", "a", "0.25", 1),
        record("reserve", "b", "0.5"),
        record("settle", "a", "0.5", 1),
        record("release", "b", "0"),
    )
    return store


def put(store: MemoryStore, key: str, value: bytes | None) -> None:
    with store.transaction():
        if value is None:
            store.delete(SPACE, key)
        else:
            store.put(SPACE, key, value)


def key(index: int) -> str:
    return f"{index:012d}"


def test_entries_follow_from_the_records():
    journal = Journal(example())
    journal.refresh()
    shown = {run: (e.epsilon, e.charged, e.open, e.counts) for run, e in journal.entries.items()}
    assert shown == {
        "a": (1, Decimal("0.5"), False, True),
        "b": (Decimal("0.5"), 0, False, False),
    }
    assert [one.kind for one in journal.records()] == [
        "reserve", "charge", "reserve", "settle", "release",
    ]  # fmt: skip


def test_the_chain_is_what_the_specification_says():
    """Each record holds the digest of the one before it; a head is the digest after a reservation."""
    store, previous, heads = example(), bytes(32), []
    for index in range(5):
        data = store.get(SPACE, key(index))
        content = json.loads(data)
        assert (content["sequence"], content["previous"]) == (index, previous.hex())
        previous = hashlib.sha256(b"tacit budget v1\x00" + data).digest()
        if content["kind"] == "reserve":
            heads.append(previous)
    assert store.get(SPACE, "head") == f"5 {previous.hex()}".encode()
    journal = Journal(store)
    journal.refresh()
    assert journal.heads == Heads(2, tuple(heads), released=(2,))


def changed(index: int, old: bytes, new: bytes):
    def damage(store: MemoryStore) -> None:
        value = store.get(SPACE, key(index))
        assert old in value
        put(store, key(index), value.replace(old, new, 1))

    return damage


def swapped(store: MemoryStore) -> None:
    first, second = store.get(SPACE, key(0)), store.get(SPACE, key(2))
    put(store, key(0), second)
    put(store, key(2), first)


def cut_with_its_head(store: MemoryStore) -> None:
    """The last record is gone, and the head names the one before, as of another journal."""
    put(store, key(4), None)
    put(store, "head", f"4 {bytes(32).hex()}".encode())


def rechained(store: MemoryStore) -> None:
    """A whole new chain in which a run was settled twice: it cannot be what this software wrote."""
    data, previous = [store.get(SPACE, key(index)) for index in range(5)], bytes(32)
    data.append(data[3].replace(b'"sequence":3', b'"sequence":5'))
    for index, value in enumerate(data):
        before = json.loads(value)["previous"].encode()
        again = value.replace(before, previous.hex().encode())
        put(store, key(index), again)
        previous = hashlib.sha256(b"tacit budget v1\x00" + again).digest()
    put(store, "head", f"6 {previous.hex()}".encode())


DAMAGE = {
    "an amount": changed(0, b'"epsilon":"1.0"', b'"epsilon":"0.1"'),
    "an amount, written otherwise": changed(0, b'"epsilon":"1.0"', b'"epsilon":"1.00"'),
    "an amount that is none": changed(1, b'"epsilon":"0.25"', b'"epsilon":"NaN"'),
    "a negative amount": changed(1, b'"epsilon":"0.25"', b'"epsilon":"-1"'),
    "a population": changed(0, b"everyone", b"somebody"),
    "a unit": changed(0, b'"unit":"record"', b'"unit":"client"'),
    "a kind": changed(1, b'"kind":"charge"', b'"kind":"refund"'),
    "a time": changed(4, b'"time":17', b'"time":16'),
    "a round": changed(1, b'"round":1', b'"round":true'),
    "a version": changed(2, b'"version":1', b'"version":2'),
    "white space": changed(2, b"}", b" }"),
    "the last record is gone": lambda store: put(store, key(4), None),
    "the last record is gone, and named in no head": cut_with_its_head,
    "a record in the middle is gone": lambda store: put(store, key(2), None),
    "the first record is gone": lambda store: put(store, key(0), None),
    "two records changed places": swapped,
    "a record too many": lambda store: put(store, key(5), store.get(SPACE, key(4))),
    "a record under a name of its own": lambda store: put(store, "a", b"{}"),
    "no JSON": lambda store: put(store, key(1), b"\xff"),
    "an empty record": lambda store: put(store, key(1), b""),
    "a list": lambda store: put(store, key(1), b"[]"),
    "deep JSON": lambda store: put(store, key(1), b"[" * 100_000),
    "no head": lambda store: put(store, "head", None),
    "an empty head": lambda store: put(store, "head", b""),
    "a shorter head": lambda store: put(store, "head", b"4" + store.get(SPACE, "head")[1:]),
    "a head in another form": lambda store: put(store, "head", b"0" + store.get(SPACE, "head")),
    "another head": lambda store: put(store, "head", f"5 {bytes(32).hex()}".encode()),
    "a chain of what cannot happen": rechained,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_when_opened(name):
    store = example()
    DAMAGE[name](store)
    for _ in range(2):  # and again: nothing of it is taken over
        journal = Journal(store)
        with pytest.raises(VerificationError) as caught:
            journal.refresh()
        assert caught.value.code == "budget.damaged"
        assert "retire" in caught.value.remedy
        with pytest.raises(VerificationError):
            journal.refresh()


def test_the_example_itself_is_sound():
    Journal(example()).refresh()


def test_a_whole_older_state_is_not_found_here():
    """That is what peers are for: it is consistent, and its heads are a part of those that they saw."""
    store = MemoryStore()
    write(store, record("reserve", "a", "1.0"))
    backup = store.crash()
    seen = write(store, record("reserve", "b", "1.0")).heads
    restored = Journal(backup)
    restored.refresh()
    assert restored.heads.count < seen.count
    assert restored.heads.at(1) == seen.at(1)


def test_a_record_of_another_process_is_read():
    store = MemoryStore()
    first, second = Journal(store), Journal(store)
    first.refresh()
    second.refresh()
    with store.transaction():
        first.refresh()
        first.append(record("reserve", "a", "1.0"))
    with store.transaction():
        second.refresh()
        second.append(record("charge", "a", "0.5", 1))
    first.refresh()
    assert first.entries == second.entries
    assert first.entries["a"].charged == Decimal("0.5")


def test_what_is_undone_is_forgotten():
    store = MemoryStore()
    journal = write(store, record("reserve", "a", "1.0"))
    before = journal.heads

    class Undo(Exception):
        pass

    with pytest.raises(Undo), store.transaction():
        journal.refresh()
        journal.append(record("reserve", "b", "1.0"))
        raise Undo
    journal.refresh()
    assert (set(journal.entries), journal.heads) == ({"a"}, before)


def test_charging_reads_nothing_again():
    """A run has hundreds of rounds: a charge costs as much after a thousand records as at first."""

    class Counting(MemoryStore):
        reads = 0

        def get(self, space, key):
            Counting.reads += 1
            return super().get(space, key)

        def items(self, space, prefix=""):
            Counting.reads += 1
            return super().items(space, prefix)

    store = Counting()
    journal = write(store, record("reserve", "a", "1.0"))
    for number in range(1, 200):
        before = Counting.reads
        with store.transaction():
            journal.refresh()
            journal.append(record("charge", "a", "0.5", number))
        assert Counting.reads - before == 1


# --- heads ----------------------------------------------------------------------------------------


def test_heads_show_the_last_reservations_only():
    store = MemoryStore()
    journal = write(store, *(record("reserve", str(i), "0.1") for i in range(WINDOW + 3)))
    heads = journal.heads
    assert (heads.count, len(heads.digests)) == (WINDOW + 3, WINDOW)
    assert heads.at(heads.count) == heads.digests[-1]
    assert heads.at(4) == heads.digests[0]
    assert heads.at(3) is None
    assert heads.at(heads.count + 1) is None
    assert heads.at(0) is None


def test_heads_tell_which_reservations_were_released():
    store = MemoryStore()
    journal = write(
        store,
        record("reserve", "a", "1.0"),
        record("reserve", "b", "1.0"),
        record("reserve", "c", "1.0"),
        record("charge", "c", "0.5", 1),
        record("release", "b", "0"),
        record("settle", "c", "0.5", 1),
    )
    assert journal.heads.released == (2,)  # a is open, c has spent
    many = [record("reserve", str(n), "0.1") for n in range(WINDOW - 2)]
    assert write(store, *many).heads.released == (2,)
    assert write(store, record("reserve", "last", "0.1")).heads.released == ()


def test_a_charge_changes_the_next_head_only():
    """The head of a run's own acceptance stays what it was while the run is charged."""
    store = MemoryStore()
    journal = write(store, record("reserve", "a", "1.0"))
    before = journal.heads
    journal = write(store, record("charge", "a", "0.5", 1))
    assert journal.heads == before
    with_charge = write(store, record("reserve", "b", "1.0")).heads
    other = MemoryStore()
    without = write(other, record("reserve", "a", "1.0"), record("reserve", "b", "1.0")).heads
    assert with_charge.at(1) == without.at(1)
    assert with_charge.at(2) != without.at(2)
