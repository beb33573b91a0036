"""Merkle roots: the vectors of RFC 6962's reference implementation, and proofs for every leaf of every small tree."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.ledger.merkle import audit_path, entry_leaves, file_leaves, leaf_hash, merkle_root, root_from_path

# The inputs and roots of certificate-transparency's own tests.
LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                           "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("count", ROOTS)
def test_roots_are_those_of_the_reference(count: int) -> None:
    assert merkle_root(LEAVES[:count]) == ROOTS[count]


def test_every_leaf_of_every_small_tree_has_a_proof_that_holds_for_it_alone() -> None:
    for count in range(1, 34):
        leaves = [bytes([number]) for number in range(count)]
        root = merkle_root(leaves)
        for index, leaf in enumerate(leaves):
            path = audit_path(leaves, index)
            assert root_from_path(leaf, index, count, path) == root
            assert root_from_path(b"other", index, count, path) != root
            for wrong in ([*path, "00" * 32], path[:-1] if path else None):
                if wrong is not None:
                    with pytest.raises(ValueError, match="too (long|short)"):
                        root_from_path(leaf, index, count, wrong)


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=9), st.data())
def test_another_order_or_number_of_leaves_has_another_root(leaves: list[bytes], data: st.DataObject) -> None:
    other = data.draw(st.permutations(leaves)) if data.draw(st.booleans()) else leaves[:-1]
    assert (merkle_root(other) == merkle_root(leaves)) == (other == leaves)


def test_an_inner_node_does_not_pass_for_a_leaf() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert merkle_root([left + right]) != merkle_root([b"a", b"b"])
    assert merkle_root([b"a", b"b"]) == hashlib.sha256(b"\x01" + left + right).hexdigest()


def test_leaves_of_files_and_entries() -> None:
    one = {"b": {"bytes": 1, "sha256": "x"}, "a": {"bytes": 2, "sha256": "y"}}
    assert file_leaves(one) == [b'["a",2,"y"]', b'["b",1,"x"]']
    assert entry_leaves(["00ff"]) == [b"\x00\xff"]
    with pytest.raises(ValueError, match="no leaf 2"):
        audit_path([b"a", b"b"], 2)
