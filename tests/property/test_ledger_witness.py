"""A witness against a log that forks, rolls back, restarts and lies in any order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import LedgerError
from tacit.ledger.merkle import Tree, leaf_hash, verify_consistency
from tacit.ledger.note import sign_checkpoint
from tacit.ledger.witness import Witness
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.types import Milliseconds

ORIGIN = "demo/north"
NORTH = Identity.generate(SeededEntropy("north"))
SOUTH = Identity.generate(SeededEntropy("south"))
LEAVES = 12
FORKS = 3


def fork(kind: int) -> Tree:
    """Logs that share their first leaves, and differ from then on."""
    tree = Tree()
    for number in range(LEAVES):
        tree.append(leaf_hash(b"%d %d" % (number, 0 if number < 4 * kind else kind)))
    return tree


TREES = [fork(kind) for kind in range(FORKS)]
# Which of the logs shows a head, of what size, and whether the witness restarts before.
shown = st.tuples(st.integers(0, FORKS - 1), st.integers(0, LEAVES), st.booleans())


@given(st.lists(shown, max_size=12))
@settings(deadline=None)
def test_what_was_cosigned_is_one_log(heads: list[tuple[int, int, bool]]) -> None:
    store = MemoryStore()
    witness = Witness(store, "demo/south", SOUTH)
    cosigned: list[tuple[Tree, int]] = []
    for kind, size, restart in heads:
        if restart:
            store = store.crash()
            witness = Witness(store, "demo/south", SOUTH)
        tree = TREES[kind]
        note = sign_checkpoint(ORIGIN, size, tree.root(size), NORTH, ORIGIN)
        proofs = {old: tree.consistency_proof(old, size) for old in range(size)}
        last_tree, last = cosigned[-1] if cosigned else (tree, 0)
        extends = size >= last and tree.root(last) == last_tree.root(last)
        try:
            witness.cosign(note, NORTH.public_key, ORIGIN, proofs, Milliseconds(1))
        except LedgerError:
            assert not extends
            continue
        assert extends
        cosigned.append((tree, size))
    for (old_tree, old), (tree, size) in pairwise(cosigned):
        proof = tree.consistency_proof(old, size)
        verify_consistency(old, size, old_tree.root(old), tree.root(size), proof)
