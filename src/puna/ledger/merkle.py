"""Merkle trees over a release's files and over the ledger's entries: one hash that stands for all of them.

Comes in: leaves, as bytes. Goes out: a root, and proofs that one leaf is under it. Must never happen: a leaf that can be
taken for an inner node, or two lists of files with one root.

The hashing is RFC 6962's (Certificate Transparency, section 2.1): SHA-256, a zero byte before a leaf and a one before an
inner node, so that neither can stand for the other; the left subtree holds the largest power of two below the count.
"""

import hashlib
from collections.abc import Mapping, Sequence

from puna.files import canonical_json

_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf)."""
    return hashlib.sha256(_LEAF + leaf).digest()


def merkle_root(leaves: Sequence[bytes]) -> str:
    """The root (hex) over the leaves in their order; of none, SHA-256 of nothing (RFC 6962, 2.1)."""
    return _root([leaf_hash(leaf) for leaf in leaves]).hex()


def audit_path(leaves: Sequence[bytes], index: int) -> list[str]:
    """The hashes (hex, lowest first) that lead from leaf `index` to the root (RFC 6962, 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} among {len(leaves)}")
    return [part.hex() for part in _path([leaf_hash(leaf) for leaf in leaves], index)]


def root_from_path(leaf: bytes, index: int, count: int, path: Sequence[str]) -> str:
    """The root (hex) to which `leaf` at `index` of `count` leaves leads by `path` (RFC 9162, 2.1.3.2).

    Whoever holds the root and one file needs nothing else: the file belongs to the release where this gives the root.
    Raises ValueError where the path has not the length that `index` and `count` ask for.
    """
    if not 0 <= index < count:
        raise ValueError(f"there is no leaf {index} among {count}")
    place, last, found = index, count - 1, leaf_hash(leaf)
    for part in path:
        other = bytes.fromhex(part)
        if last == 0:
            raise ValueError("the path is too long")
        if place % 2 or place == last:
            found = _node(other, found)
            while place % 2 == 0 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, other)
        place, last = place >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return found.hex()


def file_leaves(files: Mapping[str, Mapping[str, object]]) -> list[bytes]:
    """A leaf for each file: canonical JSON of [name, bytes, sha256], in the order of the names."""
    return [canonical_json([name, files[name]["bytes"], files[name]["sha256"]]) for name in sorted(files)]


def entry_leaves(hashes: Sequence[str]) -> list[bytes]:
    """A leaf for each entry of the ledger: the 32 bytes of its hash, in the ledger's order."""
    return [bytes.fromhex(entry) for entry in hashes]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below `count` (from 2 on)."""
    return int(1 << (count - 1).bit_length() - 1)


def _root(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    middle = _split(len(hashes))
    return _node(_root(hashes[:middle]), _root(hashes[middle:]))


def _path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    middle = _split(len(hashes))
    if index < middle:
        return [*_path(hashes[:middle], index), _root(hashes[middle:])]
    return [*_path(hashes[middle:], index - middle), _root(hashes[:middle])]
