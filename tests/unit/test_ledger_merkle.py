"""Known-answer and boundary tests of the Merkle tree; properties are in tests/property."""

from __future__ import annotations

import pytest

from tacit.errors import LedgerError, LocalProtocolError
from tacit.ledger.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Tree,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from tacit.types import Digest

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


A = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
B = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
C = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
D = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
E = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
F = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, ()),
        (0, 8, (B, A, F)),
        (5, 8, (C, D, ROOTS[4])),
        (2, 3, (ROOTS[2],)),
        (1, 5, (ROOTS[1], A, C)),
    ],
)
def test_reference_inclusion_proofs(index: int, size: int, path: tuple[str, ...]) -> None:
    tree = reference_tree()
    proof = tree.inclusion_proof(index, size)
    assert tuple(node.hex() for node in proof) == path
    leaf = leaf_hash(bytes.fromhex(LEAVES[index]))
    verify_inclusion(leaf, index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(
    ("old", "size", "path"),
    [(1, 1, ()), (1, 8, (B, A, F)), (6, 8, (E, D, ROOTS[4])), (2, 5, (A, C))],
)
def test_reference_consistency_proofs(old: int, size: int, path: tuple[str, ...]) -> None:
    proof = reference_tree().consistency_proof(old, size)
    assert tuple(node.hex() for node in proof) == path
    roots = (bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[size]))
    verify_consistency(old, size, *roots, proof)


@pytest.mark.parametrize("start", range(9))
def test_a_compact_range_continues_from_the_peaks_of_any_size(start: int) -> None:
    tree = reference_tree()
    rest = CompactRange(start, tree.peaks(start))
    assert rest.root().hex() == ROOTS[start]
    for index in range(start, 8):
        rest.append(tree.leaf(index))
        assert rest.root().hex() == ROOTS[index + 1]


@pytest.mark.parametrize(("size", "peaks"), [(0, 1), (1, 0), (3, 1), (4, 2), (-1, 1)])
def test_peaks_that_no_tree_has_are_refused(size: int, peaks: int) -> None:
    with pytest.raises(LedgerError):
        CompactRange(size, [EMPTY_ROOT] * peaks)
    with pytest.raises(LedgerError):
        CompactRange(1, [Digest(b"short")])


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
        lambda tree: tree.leaf(8),
        lambda tree: tree.leaf(-1),
        lambda tree: tree.peaks(9),
        lambda tree: tree.peaks(-1),
        lambda tree: tree.consistency_proof(9),
        lambda tree: tree.consistency_proof(5, 4),
    ],
)
def test_sizes_outside_the_tree_are_misuse(call) -> None:
    with pytest.raises(LocalProtocolError):
        call(reference_tree())
