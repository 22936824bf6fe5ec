"""The verifier shares no code with the service; here they are held against each other.

And the verifier alone against the reference tests of Certificate Transparency (RFC 6962).
"""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import medai_verify
from storage import hashchain
from storage.records import subject_commit

LEAVES = tuple(
    hashlib.sha256(b"\x00" + bytes.fromhex(text)).digest()
    for text in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
)
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
PROOFS = (  # leaf index, size, siblings
    (0, 1, ()),
    (
        *(0, 8),
        (
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ),
    ),
    (
        *(5, 8),
        (
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ),
    ),
    (2, 3, ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",)),
    (
        *(1, 5),
        (
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ),
    ),
)

scalars = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text()
payloads = st.dictionaries(
    st.text(st.characters(max_codepoint=127)),
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner)
        ),
        max_leaves=10,
    ),
)
hashes = st.binary(min_size=32, max_size=32)


def test_the_verifiers_tree_is_that_of_rfc_6962() -> None:
    tree = medai_verify.Tree()
    roots = []
    for leaf in LEAVES:
        tree.append(leaf)
        roots.append(tree.root().hex())

    assert tuple(roots) == ROOTS


@pytest.mark.parametrize(("index", "size", "siblings"), PROOFS)
def test_the_verifier_follows_the_reference_proofs(
    index: int, size: int, siblings: tuple[str, ...]
) -> None:
    proof = [bytes.fromhex(sibling) for sibling in siblings]

    root = medai_verify.root_of_proof(LEAVES[index], index, size, proof)

    assert root is not None
    assert root.hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size", "siblings"), PROOFS)
def test_a_proof_that_does_not_fit_leads_nowhere(
    index: int, size: int, siblings: tuple[str, ...]
) -> None:
    proof = [bytes.fromhex(sibling) for sibling in siblings]
    root = bytes.fromhex(ROOTS[size - 1])

    for wrong in (
        (index, size, [*proof, bytes(32)]),
        (index, size, proof[:-1]),
        (index + 1, size, proof),
        (-1, size, proof),
        (size, size, proof),
        (index, 2 * size + 1, proof),
    ):
        if wrong != (index, size, proof):
            assert medai_verify.root_of_proof(LEAVES[index], *wrong) != root


@given(payloads)
def test_both_write_a_payload_alike(payload: dict[str, hashchain.Json]) -> None:
    assert medai_verify.canonical(payload) == hashchain.canonical(payload)


@given(st.lists(hashes, min_size=1, max_size=70), st.integers(0, 69))
def test_both_grow_the_same_tree_and_agree_on_proofs(leaves: list[bytes], index: int) -> None:
    index %= len(leaves)
    tree = medai_verify.Tree()
    for leaf in leaves:
        tree.append(leaf)

    proof = hashchain.inclusion_proof(index, leaves)

    assert tree.root() == hashchain.merkle_root(leaves)
    found = medai_verify.root_of_proof(leaves[index], index, len(leaves), list(proof))
    assert found == tree.root()
    for other in range(len(leaves)):
        led = medai_verify.root_of_proof(leaves[index], other, len(leaves), list(proof))
        assert (led == tree.root()) == hashchain.verify_inclusion(
            leaves[index], other, size=len(leaves), proof=proof, root=tree.root()
        )


@given(hashes, st.integers(1, 2**63), st.binary(max_size=40))
def test_both_chain_alike(previous: bytes, seq: int, payload: bytes) -> None:
    leaf = medai_verify.sha256(b"\x00" + payload)

    assert leaf == hashchain.leaf_hash(payload)
    assert medai_verify.entry_hash(previous, seq, leaf) == hashchain.entry_hash(previous, seq, leaf)


@given(st.text(min_size=1).filter(lambda text: "+" not in text))
def test_both_begin_alike(origin: str) -> None:
    key = medai_verify.Key.__new__(medai_verify.Key)
    key.vkey, key.name, key.first, key.last = "", origin, 0, None

    assert medai_verify.LogCheck([key]).tip == hashchain.genesis_hash(origin)


@given(hashes, st.text())
def test_both_commit_to_a_patient_alike(salt: bytes, patient: str) -> None:
    opening = b"medaiflow/phi/v1\n" + salt + medai_verify.canonical({"patient_id": patient})

    assert medai_verify.sha256(opening) == subject_commit(salt, patient)
