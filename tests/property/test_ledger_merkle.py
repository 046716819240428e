"""The Merkle tree against RFC 9162's recursive definitions, and proofs that must not verify."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tacit.errors import LedgerError
from tacit.ledger.merkle import Tree, leaf_hash, verify_consistency, verify_inclusion

MAX_LEAVES = 70


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH(D[n]) as RFC 9162 section 2.1.1 writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = naive_split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]), section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b), section 2.1.4.1."""
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def data(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


def tree_of(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree


sizes = st.integers(1, MAX_LEAVES)


@given(count=sizes, other=sizes)
@settings(deadline=None)
def test_matches_the_recursive_definitions(count: int, other: int) -> None:
    small, large = sorted((count, other))
    leaves = data(large)
    tree = tree_of(leaves)
    assert tree.root(small) == naive_root(leaves[:small])
    for index in {0, small // 2, small - 1}:
        path = naive_path(index, leaves[:small])
        assert list(tree.inclusion_proof(index, small)) == path
        verify_inclusion(leaf_hash(leaves[index]), index, small, path, tree.root(small))
    proof = naive_subproof(small, leaves, True)
    assert list(tree.consistency_proof(small)) == proof
    verify_consistency(small, large, tree.root(small), tree.root(), proof)


@given(sizes, st.data())
@settings(deadline=None)
def test_no_other_inclusion_is_accepted(count: int, draw: st.DataObject) -> None:
    tree = tree_of(data(count))
    index = draw.draw(st.integers(0, count - 1))
    honest = (leaf_hash(data(count)[index]), index, count, tree.inclusion_proof(index), tree.root())
    leaf, _, _, proof, root = honest
    forged = draw.draw(
        st.one_of(
            st.tuples(digests, just(index), just(count), just(proof), just(root)),
            st.tuples(just(leaf), st.integers(-1, count), just(count), just(proof), just(root)),
            st.tuples(just(leaf), just(index), just(count), mutations(proof), just(root)),
            st.tuples(just(leaf), just(index), just(count), just(proof), digests),
        )
    )
    assume(forged != honest)
    with pytest.raises(LedgerError):
        verify_inclusion(*forged)


@given(sizes, st.data())
@settings(deadline=None)
def test_no_rewritten_log_is_consistent(count: int, draw: st.DataObject) -> None:
    """Any one event rewritten, dropped or doubled in the old part breaks every honest-looking proof."""
    leaves = data(count)
    old = draw.draw(st.integers(1, count))
    index = draw.draw(st.integers(0, old - 1))
    rewritten = draw.draw(
        st.sampled_from(
            [
                [*leaves[:index], b"other", *leaves[index + 1 :]],
                [*leaves[:index], *leaves[index + 1 :], b"tail"],
                [*leaves[:index], leaves[index], *leaves[index:]],
            ]
        )
    )
    assume(rewritten[:old] != leaves[:old])
    forged = tree_of(rewritten)
    with pytest.raises(LedgerError):
        verify_consistency(
            old,
            len(rewritten),
            tree_of(leaves).root(old),
            forged.root(),
            forged.consistency_proof(old),
        )


@given(sizes, st.data())
@settings(deadline=None)
def test_no_mutated_consistency_proof_is_accepted(count: int, draw: st.DataObject) -> None:
    tree = tree_of(data(count))
    old = draw.draw(st.integers(1, count))
    proof = tree.consistency_proof(old)
    forged = draw.draw(mutations(proof))
    assume(forged != proof)
    with pytest.raises(LedgerError):
        verify_consistency(old, count, tree.root(old), tree.root(), forged)


digests = st.binary(min_size=32, max_size=32)
just = st.just


def mutations(proof: tuple[bytes, ...]) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Proofs with a node replaced, removed, doubled, added or of the wrong size."""
    position = st.integers(0, max(0, len(proof) - 1))
    return st.one_of(
        st.builds(lambda at, node: (*proof[:at], node, *proof[at + 1 :]), position, digests),
        st.builds(lambda at: (*proof[:at], *proof[at + 1 :]), position),
        st.builds(lambda at: (*proof[: at + 1], *proof[at:]), position),
        st.builds(lambda node: (*proof, node), digests),
        st.builds(lambda at: (*proof[:at], b"", *proof[at:]), position),
    )
