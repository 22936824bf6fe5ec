"""The arithmetic that is stored for ever: pinned by literals, and the properties that follow.

The literals were computed with hashlib from the formulas alone. The tree's leaves, roots and proofs
are those of the reference tests of Certificate Transparency (RFC 6962).
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.hashchain import (
    Frontier,
    canonical,
    consistency_proof,
    entry_hash,
    genesis_hash,
    inclusion_proof,
    leaf_hash,
    merkle_root,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

PAYLOAD = b'{"a":1,"b":"\xc3\xa9","c":[true,null,-2]}'
LEAF = bytes.fromhex("4aec9ba30f7a70d9b24c37efcbfb723d905216916c9b4c51b05e2ab8aa10e527")
GENESIS = bytes.fromhex("358e5d096cc40baa84556bf5724fcffeba68619db46887375546eba681910cdc")
FIRST = bytes.fromhex("906ae18b5d1d8546d4e8aeb4326bf500c080b0ef31f4623fa8c64eb03d3fbbe6")
SECOND = bytes.fromhex("72c447861fbfdf2311a1a595823afdb2fed7d51930cb0b9790f4f75a99230c52")

CT_LEAVES = tuple(
    leaf_hash(bytes.fromhex(text))
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
)
CT_ROOTS = (
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
# (leaf index, size, first bytes of each hash of the proof)
CT_INCLUSION = (
    (0, 1, ()),
    (0, 8, ("96a296d2", "5f083f0a", "6b47aaf2")),
    (5, 8, ("bc1a0643", "ca854ea1", "d37ee418")),
    (2, 3, ("fac54203",)),
    (1, 5, ("6e340b9c", "5f083f0a", "bc1a0643")),
)
# (old size, new size, first bytes of each hash of the proof)
CT_CONSISTENCY = (
    (1, 1, ()),
    (1, 8, ("96a296d2", "5f083f0a", "6b47aaf2")),
    (6, 8, ("0ebc5d34", "ca854ea1", "d37ee418")),
    (2, 5, ("5f083f0a", "bc1a0643")),
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
payloads = st.dictionaries(
    st.text(st.characters(max_codepoint=127), max_size=8), json_values, max_size=5
)
sizes = st.integers(1, 70)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(4, "big")) for number in range(count)]


def test_the_text_of_a_payload_is_pinned() -> None:
    text = canonical({"c": [True, None, -2], "b": "é", "a": 1})

    assert text == PAYLOAD


def test_control_characters_are_escaped_as_rfc_8785_says() -> None:
    text = canonical({"t": '\x00\x08\t\n\x0c\r\x1f"\\/\x7f\u2028😀'})

    assert text == b'{"t":"\\u0000\\b\\t\\n\\f\\r\\u001f\\"\\\\/\x7f\xe2\x80\xa8\xf0\x9f\x98\x80"}'


def test_the_chain_is_pinned() -> None:
    origin = "medaiflow/00000000-0000-4000-8000-000000000001"

    assert leaf_hash(PAYLOAD) == LEAF
    assert genesis_hash(origin) == GENESIS
    assert entry_hash(GENESIS, 1, LEAF) == FIRST
    assert entry_hash(FIRST, 2, LEAF) == SECOND


def test_an_inner_node_is_pinned() -> None:
    node = node_hash(LEAF, GENESIS)

    assert node.hex() == "f357436108fe2b42fdcca68f72ce86217c54aabfb63afedbf4ab04ae3ccdd00a"


@pytest.mark.parametrize(("size", "root"), list(enumerate(CT_ROOTS)))
def test_the_roots_are_those_of_certificate_transparency(size: int, root: str) -> None:
    assert merkle_root(CT_LEAVES[:size]).hex() == root


@pytest.mark.parametrize(("index", "size", "expected"), CT_INCLUSION)
def test_the_inclusion_proofs_are_those_of_certificate_transparency(
    index: int, size: int, expected: tuple[str, ...]
) -> None:
    proof = inclusion_proof(index, CT_LEAVES[:size])

    assert tuple(step.hex()[:8] for step in proof) == expected


@pytest.mark.parametrize(("old", "new", "expected"), CT_CONSISTENCY)
def test_the_consistency_proofs_are_those_of_certificate_transparency(
    old: int, new: int, expected: tuple[str, ...]
) -> None:
    proof = consistency_proof(old, CT_LEAVES[:new])

    assert tuple(step.hex()[:8] for step in proof) == expected


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"score": 0.5}, TypeError),
        ({"raw": b"x"}, TypeError),
        ({1: "number as key"}, TypeError),
        ({"größe": 1}, ValueError),
        ({"n": 2**53}, ValueError),
        ({"n": -(2**53)}, ValueError),
        ({"t": "\ud800"}, ValueError),
        ({"deep": [[1.5]]}, TypeError),
    ],
)
def test_what_has_more_than_one_text_form_is_refused(
    payload: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        canonical(payload)  # type: ignore[arg-type]  # the point


def test_a_payload_is_at_most_32_levels_deep() -> None:
    def nested(levels: int) -> dict[str, list[object]]:
        inner: list[object] = []
        for _ in range(levels - 2):
            inner = [inner]
        return {"x": inner}

    canonical(nested(32))  # type: ignore[arg-type]  # mypy cannot follow the recursion

    with pytest.raises(ValueError, match="32 levels"):
        canonical(nested(33))  # type: ignore[arg-type]  # the same


@given(payloads)
def test_the_text_reads_back_as_the_payload(payload: dict[str, object]) -> None:
    assert json.loads(canonical(payload)) == payload  # type: ignore[arg-type]  # any of them


@given(payloads, st.data())
def test_any_changed_byte_of_a_payload_changes_every_later_hash(
    payload: dict[str, object], data: st.DataObject
) -> None:
    text = bytearray(canonical(payload))  # type: ignore[arg-type]  # any of them
    honest = entry_hash(entry_hash(GENESIS, 1, leaf_hash(bytes(text))), 2, LEAF)
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))

    changed = entry_hash(entry_hash(GENESIS, 1, leaf_hash(bytes(text))), 2, LEAF)

    assert changed != honest


@given(st.binary(min_size=32, max_size=32), st.integers(1, 2**63), st.data())
def test_any_changed_bit_of_an_entry_changes_its_hash(
    previous: bytes, seq: int, data: st.DataObject
) -> None:
    honest = entry_hash(previous, seq, LEAF)
    flipped = (int.from_bytes(previous) ^ 1 << data.draw(st.integers(0, 255))).to_bytes(32)

    assert entry_hash(flipped, seq, LEAF) != honest
    assert entry_hash(previous, seq + 1, LEAF) != honest
    assert entry_hash(previous, seq, previous) != honest


@pytest.mark.parametrize(("previous", "leaf"), [(b"short", LEAF), (GENESIS, LEAF + b"x")])
def test_a_hash_of_the_wrong_length_is_refused(previous: bytes, leaf: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        entry_hash(previous, 1, leaf)


@given(sizes)
def test_a_frontier_survives_storage(size: int) -> None:
    frontier = Frontier()
    for leaf in leaves(size):
        frontier.append(leaf)

    restored = Frontier.of_bytes(size, frontier.to_bytes())
    restored.append(LEAF)

    assert restored.root() == merkle_root([*leaves(size), LEAF])
    assert frontier.root() == merkle_root(leaves(size))


def test_a_frontier_copied_goes_its_own_way() -> None:
    frontier = Frontier()
    frontier.append(LEAF)

    frontier.copy().append(LEAF)

    assert frontier.size == 1
    assert frontier.root() == LEAF


@pytest.mark.parametrize(("size", "nodes"), [(1, b""), (3, LEAF), (2, LEAF + b"x")])
def test_a_frontier_of_another_size_is_refused(size: int, nodes: bytes) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Frontier.of_bytes(size, nodes)


@given(sizes, st.data())
def test_every_leaf_can_be_proved_and_no_other(size: int, data: st.DataObject) -> None:
    tree = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    root = merkle_root(tree)

    proof = inclusion_proof(index, tree)

    assert verify_inclusion(tree[index], index, size=size, proof=proof, root=root)
    assert not verify_inclusion(LEAF, index, size=size, proof=proof, root=root)
    assert not verify_inclusion(tree[index], index, size=size, proof=proof, root=LEAF)
    assert not verify_inclusion(tree[index], index, size=size, proof=(*proof, LEAF), root=root)
    assert not verify_inclusion(tree[index], size, size=size, proof=proof, root=root)
    if proof:
        assert not verify_inclusion(tree[index], index, size=size, proof=proof[:-1], root=root)


@given(sizes, sizes)
def test_every_earlier_tree_can_be_shown_to_be_continued(one: int, other: int) -> None:
    old, new = sorted((one, other))
    tree = leaves(new)
    old_root, new_root = merkle_root(tree[:old]), merkle_root(tree)

    proof = consistency_proof(old, tree)

    assert verify_consistency(old, new, proof=proof, old_root=old_root, new_root=new_root)
    assert not verify_consistency(old, new, proof=proof, old_root=LEAF, new_root=new_root)
    assert not verify_consistency(old, new, proof=proof, old_root=old_root, new_root=LEAF)
    assert not verify_consistency(
        old, new, proof=(*proof, LEAF), old_root=old_root, new_root=new_root
    )
    if proof:
        assert not verify_consistency(
            old, new, proof=proof[:-1], old_root=old_root, new_root=new_root
        )


@given(st.integers(1, 40), st.data())
def test_a_changed_early_leaf_cannot_be_shown_to_be_continued(
    size: int, data: st.DataObject
) -> None:
    tree = leaves(size + 1)
    old_root = merkle_root(tree[:size])
    tree[data.draw(st.integers(0, size - 1))] = LEAF

    proof = consistency_proof(size, tree)

    assert not verify_consistency(
        size, size + 1, proof=proof, old_root=old_root, new_root=merkle_root(tree)
    )


def test_an_empty_tree_proves_nothing() -> None:
    empty = merkle_root([])

    assert not verify_consistency(0, 0, proof=(), old_root=empty, new_root=empty)
    assert not verify_consistency(0, 1, proof=(), old_root=empty, new_root=LEAF)
    assert not verify_consistency(2, 1, proof=(), old_root=LEAF, new_root=LEAF)
    assert not verify_consistency(3, 4, proof=(), old_root=LEAF, new_root=LEAF)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_leaf_that_is_not_there_cannot_be_proved(index: int) -> None:
    with pytest.raises(IndexError):
        inclusion_proof(index, leaves(3))


@pytest.mark.parametrize("old_size", [0, 4])
def test_a_tree_that_is_no_part_of_the_other_cannot_be_shown_to_be_continued(
    old_size: int,
) -> None:
    with pytest.raises(IndexError):
        consistency_proof(old_size, leaves(3))
