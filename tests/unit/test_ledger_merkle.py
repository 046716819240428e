"""Known-answer and boundary tests of the Merkle tree; properties are in tests/property."""

from __future__ import annotations

import pytest

from tacit.errors import LedgerError, LocalProtocolError
from tacit.ledger.merkle import EMPTY_ROOT, Tree, leaf_hash, verify_consistency, verify_inclusion

# The reference tree of certificate-transparency (RFC 6962): 8 leaves and the root at every size.
LEAVES = (
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def reference_tree() -> Tree:
    tree = Tree()
    for leaf in LEAVES:
        tree.append(leaf_hash(bytes.fromhex(leaf)))
    return tree


def test_reference_roots() -> None:
    tree = reference_tree()
    assert [tree.root(size).hex() for size in range(9)] == list(ROOTS)
    assert tree.root() == tree.root(8)


def test_reference_proofs() -> None:
    tree = reference_tree()
    assert [node.hex() for node in tree.inclusion_proof(0)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert tree.consistency_proof(6)[0] == tree._subtree(4, 6)
    verify_consistency(6, 8, tree.root(6), tree.root(8), tree.consistency_proof(6))


def test_an_inner_node_is_not_a_leaf() -> None:
    tree = reference_tree()
    left = leaf_hash(bytes.fromhex(LEAVES[0]))
    right = leaf_hash(bytes.fromhex(LEAVES[1]))
    with pytest.raises(LedgerError):
        verify_inclusion(leaf_hash(left + right), 0, 1, (), tree.root(2))


def test_the_empty_tree_is_a_prefix_of_every_tree_but_holds_nothing() -> None:
    tree = reference_tree()
    verify_consistency(0, 8, EMPTY_ROOT, tree.root(), ())
    with pytest.raises(LedgerError):
        verify_consistency(0, 8, tree.root(1), tree.root(), ())
    with pytest.raises(LedgerError):
        verify_inclusion(leaf_hash(b""), 0, 0, (), EMPTY_ROOT)


def test_a_log_never_shrinks() -> None:
    tree = reference_tree()
    with pytest.raises(LedgerError):
        verify_consistency(8, 7, tree.root(8), tree.root(7), ())


def test_truncated_tree_equals_the_tree_that_never_grew() -> None:
    for size in range(9):
        tree = reference_tree()
        tree.truncate(size)
        assert len(tree) == size
        assert tree.root().hex() == ROOTS[size]
        for leaf in LEAVES[size:]:
            tree.append(leaf_hash(bytes.fromhex(leaf)))
        assert tree.root().hex() == ROOTS[8]


@pytest.mark.parametrize(
    "call",
    [
        lambda tree: tree.root(9),
        lambda tree: tree.root(-1),
        lambda tree: tree.truncate(9),
        lambda tree: tree.inclusion_proof(8),
        lambda tree: tree.inclusion_proof(-1),
        lambda tree: tree.inclusion_proof(4, 4),
        lambda tree: tree.consistency_proof(9),
        lambda tree: tree.consistency_proof(5, 4),
    ],
)
def test_sizes_outside_the_tree_are_misuse(call) -> None:
    with pytest.raises(LocalProtocolError):
        call(reference_tree())
