"""A witness: what it refuses, by name, and what it remembers."""

from __future__ import annotations

import pytest

from tacit.errors import DecodeError, LedgerError, SignatureError, TransportError
from tacit.ledger.log import Log
from tacit.ledger.merkle import EMPTY_ROOT
from tacit.ledger.note import check_cosignature, note_text, sign_checkpoint
from tacit.ledger.witness import Witness
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.types import Milliseconds

ORIGIN, NAME = "demo/north", "demo/south"
NORTH = Identity.generate(SeededEntropy("north"))
SOUTH = Identity.generate(SeededEntropy("south"))
NOW = Milliseconds(1_700_000_000_999)


class Federation:
    """A log, its witness, and other logs under the same key that begin as it did."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.memory = MemoryStore()
        self.log = Log(self.store, ORIGIN, NORTH)
        self.witness = Witness(self.memory, NAME, SOUTH)

    def grow(self, count: int, log: Log | None = None, store: MemoryStore | None = None) -> None:
        with (store or self.store).transaction():
            for number in range(count):
                (log or self.log).append({"type": "test.event", "number": number}, NOW)

    def fork(self, count: int) -> Log:
        """The log as somebody else is shown it: ``count`` other events after what there is now."""
        store = self.store.crash()
        log = Log(store, ORIGIN, NORTH)
        with store.transaction():
            for number in range(count):
                log.append({"type": "test.other", "number": number}, NOW)
        return log

    def show(self, log: Log, *olds: int) -> str:
        proofs = {old: log.consistency_proof(old) for old in olds}
        return self.witness.cosign(log.checkpoint(), NORTH.public_key, ORIGIN, proofs, NOW)


@pytest.fixture
def federation() -> Federation:
    made = Federation()
    made.grow(5)
    made.show(made.log)
    return made


def refusal(federation: Federation, log: Log, *olds: int) -> LedgerError:
    before = federation.witness.known(ORIGIN)
    with pytest.raises(LedgerError) as caught:
        federation.show(log, *olds)
    assert federation.witness.known(ORIGIN) == before
    return caught.value


def test_a_growing_log_is_cosigned_at_every_size(federation: Federation) -> None:
    for old in (5, 8, 11):
        assert federation.witness.known(ORIGIN) == federation.log.head()
        federation.grow(3)
        line = federation.show(federation.log, 0, 1, old)
        text = note_text(federation.log.checkpoint())
        assert check_cosignature(line, text, NAME, SOUTH.public_key) == NOW // 1000
    assert federation.witness.known("demo/west") is None


def test_the_first_head_needs_no_proof_even_after_an_empty_one() -> None:
    federation = Federation()
    federation.show(federation.log)
    assert federation.witness.known(ORIGIN) == federation.log.head()
    federation.grow(3)
    federation.show(federation.log)
    assert federation.witness.known(ORIGIN) == federation.log.head()


def test_the_same_head_is_cosigned_again_with_a_new_time(federation: Federation) -> None:
    note = federation.log.checkpoint()
    later = Milliseconds(NOW + 5000)
    line = federation.witness.cosign(note, NORTH.public_key, ORIGIN, {}, later)
    assert check_cosignature(line, note_text(note), NAME, SOUTH.public_key) == NOW // 1000 + 5


def test_a_split_view_is_refused_by_name(federation: Federation) -> None:
    other = federation.fork(2)
    federation.grow(2)
    federation.show(federation.log, 5)
    error = refusal(federation, other)
    assert error.code == "witness.forked"
    assert error.details == {"log": ORIGIN, "size": 7, "known": 7}
    assert ORIGIN in error.message


def test_a_longer_split_view_is_refused_whatever_its_proofs(federation: Federation) -> None:
    other = federation.fork(4)
    federation.grow(2)
    federation.show(federation.log, 5)
    assert refusal(federation, other, *range(9)).code == "witness.forked"


def test_a_rollback_is_refused_by_name(federation: Federation) -> None:
    old = federation.fork(0)
    federation.grow(2)
    federation.show(federation.log, 5)
    error = refusal(federation, old, *range(5))
    assert error.code == "witness.rolled-back"
    assert error.details == {"log": ORIGIN, "size": 5, "known": 7}


def test_a_proof_from_the_wrong_size_does_not_count(federation: Federation) -> None:
    federation.grow(4)
    error = refusal(federation, federation.log, 0, 4, 6)
    assert error.code == "witness.unproven"
    assert error.details["known"] == 5
    proof = federation.log.consistency_proof(4)
    with pytest.raises(LedgerError) as caught:
        federation.witness.cosign(
            federation.log.checkpoint(), NORTH.public_key, ORIGIN, {5: proof}, NOW
        )
    assert caught.value.code == "witness.forked"


def test_a_witness_that_restarts_keeps_its_memory(federation: Federation) -> None:
    other = federation.fork(0)
    federation.grow(2)
    federation.show(federation.log, 5)
    known = federation.witness.known(ORIGIN)
    federation.memory = federation.memory.crash()
    federation.witness = Witness(federation.memory, NAME, SOUTH)
    assert federation.witness.known(ORIGIN) == known == federation.log.head()
    assert refusal(federation, other).code == "witness.rolled-back"


def test_nothing_is_cosigned_that_was_not_written(federation: Federation) -> None:
    federation.grow(2)
    for steps in range(2):
        federation.memory.fail_after = steps
        with pytest.raises(TransportError):
            federation.show(federation.log, 5)
        federation.memory.fail_after = None
    known = federation.witness.known(ORIGIN)
    assert known is not None
    assert known.size == 5


def test_an_empty_log_has_one_root() -> None:
    federation = Federation()
    assert federation.log.head().root == EMPTY_ROOT
    note = sign_checkpoint(ORIGIN, 0, bytes(32), NORTH, ORIGIN)
    with pytest.raises(LedgerError) as caught:
        federation.witness.cosign(note, NORTH.public_key, ORIGIN, {}, NOW)
    assert caught.value.code == "witness.forked"


def test_only_the_logs_own_checkpoint_counts(federation: Federation) -> None:
    note = federation.log.checkpoint()
    with pytest.raises(SignatureError):
        federation.witness.cosign(note, SOUTH.public_key, ORIGIN, {}, NOW)
    foreign = sign_checkpoint("demo/west", 9, bytes(32), NORTH, ORIGIN)
    with pytest.raises(LedgerError) as caught:
        federation.witness.cosign(foreign, NORTH.public_key, ORIGIN, {}, NOW)
    assert caught.value.code == "ledger.checkpoint"
    with pytest.raises(DecodeError):
        federation.witness.cosign(b"rubbish", NORTH.public_key, ORIGIN, {}, NOW)


def test_logs_are_remembered_apart(federation: Federation) -> None:
    store = MemoryStore()
    log = Log(store, "demo/west", SOUTH)
    line = federation.witness.cosign(log.checkpoint(), SOUTH.public_key, "demo/west", {}, NOW)
    assert line.startswith(f"— {NAME} ")
    assert federation.witness.known(ORIGIN) == federation.log.head()
    assert federation.witness.known("demo/west") == log.head()
