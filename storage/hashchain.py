"""The arithmetic of the audit log. Pure, and on the standard library alone; see `storage.ledger`.

    leaf(n)    = SHA-256(0x00 || payload(n))
    entry(n)   = SHA-256("medaiflow/audit/entry/v1" LF || entry(n-1) || u64be(n) || leaf(n))
    entry(0)   = SHA-256("medaiflow/audit/genesis/v1" LF || origin)
    node(l, r) = SHA-256(0x01 || l || r)

Entries are numbered from 1. Each entry's hash covers every entry before it, so changing, dropping,
inserting or reordering one changes every hash after it. Over the leaves stands the Merkle tree of
RFC 6962, section 2.1: its root proves to somebody who does not hold the log that an entry is in it
and that a later log continues an earlier one. All of this is stored for ever: a change here is a
new version of the format, never an edit.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Self, TypeAlias

HASH_BYTES = 32
MAX_INT = 2**53 - 1  # what every JSON reader holds exactly (RFC 8259, section 6)
MAX_DEPTH = 32

_WRITER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_LEAF = b"\x00"
_NODE = b"\x01"
_ENTRY = b"medaiflow/audit/entry/v1\n"
_GENESIS = b"medaiflow/audit/genesis/v1\n"

Json: TypeAlias = "str | int | bool | Sequence[Json] | Mapping[str, Json] | None"


def canonical(payload: Mapping[str, Json]) -> bytes:
    """The one text of `payload`: the subset of JSON in which RFC 8785 is what `json` writes.

    Keys are ASCII; values are strings, integers below 2^53 in size, true, false, null, arrays and
    objects, at most 32 levels deep. Floats are refused: writers differ in their text form.

    Raises:
        TypeError: A value or a key is of another type.
        ValueError: An integer is too large, a key is not ASCII, the nesting is too deep, or a
            string holds half a surrogate pair.
    """
    _check(payload, MAX_DEPTH)
    return _WRITER.encode(payload).encode()


def leaf_hash(payload: bytes) -> bytes:
    """The Merkle tree's leaf over the exact bytes of one payload."""
    return hashlib.sha256(_LEAF + payload).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The inner node over two subtrees."""
    return hashlib.sha256(_NODE + left + right).digest()


def genesis_hash(origin: str) -> bytes:
    """What the first entry follows: no two logs start alike, so none continues another."""
    return hashlib.sha256(_GENESIS + origin.encode()).digest()


def entry_hash(previous: bytes, seq: int, leaf: bytes) -> bytes:
    """The chain's hash of entry `seq` (from 1). Every field has a fixed width: no ambiguity.

    Raises:
        ValueError: A hash is not 32 bytes long.
    """
    if len(previous) != HASH_BYTES or len(leaf) != HASH_BYTES:
        raise ValueError("a SHA-256 hash has 32 bytes")
    return hashlib.sha256(_ENTRY + previous + seq.to_bytes(8, "big") + leaf).digest()


class Frontier:
    """The Merkle tree over a growing log, kept as its perfect subtrees (a compact range).

    One subtree for each bit of `size` that is set, the largest first: never more than 64 hashes.
    Appending costs one hash in the mean.
    """

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []

    @classmethod
    def of_bytes(cls, size: int, nodes: bytes) -> Self:
        """What `to_bytes` gave at this size. Raises `ValueError` where the two do not fit."""
        if len(nodes) != size.bit_count() * HASH_BYTES:
            raise ValueError("the frontier does not fit the size of the log")
        frontier = cls()
        frontier.size = size
        frontier._nodes = [
            nodes[start : start + HASH_BYTES] for start in range(0, len(nodes), HASH_BYTES)
        ]
        return frontier

    def to_bytes(self) -> bytes:
        """The subtrees' hashes, the largest subtree first."""
        return b"".join(self._nodes)

    def copy(self) -> Self:
        """Another frontier of the same log."""
        return self.of_bytes(self.size, self.to_bytes())

    def append(self, leaf: bytes) -> None:
        """Add the next leaf's hash."""
        nodes = self._nodes
        carry = self.size
        while carry & 1:
            leaf = hashlib.sha256(_NODE + nodes.pop() + leaf).digest()
            carry >>= 1
        nodes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree; SHA-256 of nothing for an empty log (RFC 6962, section 2.1)."""
        if not self._nodes:
            return hashlib.sha256().digest()
        root = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            root = node_hash(left, root)
        return root


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    """The siblings on the way from leaf `index` (from 0) to the root (RFC 9162, section 2.1.3.1).

    Raises:
        IndexError: There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError("no such leaf")
    if len(leaves) == 1:
        return ()
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if index < split:
        return (*inclusion_proof(index, left), merkle_root(right))
    return (*inclusion_proof(index - split, right), merkle_root(left))


def verify_inclusion(
    leaf: bytes, index: int, *, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether `proof` shows that `leaf` is number `index` (from 0) of the tree of `size` leaves.

    The algorithm is that of RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and computed == root


def consistency_proof(old_size: int, leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    """What shows that the tree over `leaves` continues its first `old_size` (RFC 9162, 2.1.4.1).

    Raises:
        IndexError: The old tree is empty, or larger than the new one.
    """
    if not 0 < old_size <= len(leaves):
        raise IndexError("the old tree must be a part of the new one")
    return _subproof(old_size, leaves, whole=True)


def verify_consistency(
    old_size: int, new_size: int, *, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Whether `proof` shows that the tree of `new_size` continues that of `old_size`.

    The algorithm is that of RFC 9162, section 2.1.4.2. An empty old tree proves nothing: refused.
    """
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    path = list(proof)
    if old_size.bit_count() == 1:
        path.insert(0, old_root)
    if not path:
        return False
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == new_root


def _subproof(old_size: int, leaves: Sequence[bytes], *, whole: bool) -> tuple[bytes, ...]:
    """SUBPROOF of RFC 9162; `whole` while the subtree is one the verifier knows the root of."""
    if old_size == len(leaves):
        return () if whole else (merkle_root(leaves),)
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if old_size <= split:
        return (*_subproof(old_size, left, whole=whole), merkle_root(right))
    return (*_subproof(old_size - split, right, whole=False), merkle_root(left))


def _split(size: int) -> int:
    """The largest power of two below `size` (at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def _check(value: object, depth: int) -> None:
    if value is None or isinstance(value, (str, bool)):
        return
    if depth == 0:
        raise ValueError(f"a payload has at most {MAX_DEPTH} levels")
    if isinstance(value, int):
        if not -MAX_INT <= value <= MAX_INT:
            raise ValueError("an integer of a payload is below 2^53 in size")
    elif isinstance(value, dict):
        _check_members(value, depth - 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check(inner, depth - 1)
    else:
        raise TypeError(f"a payload holds no {type(value).__name__}")


def _check_members(members: dict[object, object], depth: int) -> None:
    for key, inner in members.items():
        if type(key) is not str or not key.isascii():
            _check_key(key)
        if type(inner) is not str:  # most are: a call for each would cost more than writing it
            _check(inner, depth)


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise TypeError("the keys of a payload are strings")
    if not key.isascii():
        raise ValueError("the keys of a payload are ASCII")
