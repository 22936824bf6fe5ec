"""Inclusion proofs out of logs of every shape around the tiles that are kept."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert, update

from registry.errors import AuditUnavailable
from storage.database import Database
from storage.evidence import EvidenceReader
from storage.hashchain import inclusion_proof, leaf_hash, merkle_root
from storage.proofs import TILE, MerkleTree
from storage.tables import AuditCheckpoint, AuditLog

if TYPE_CHECKING:
    from conftest import Intruder

SIZE = 5 * TILE + 3
LEAVES = [leaf_hash(str(seq).encode()) for seq in range(1, SIZE + 1)]


@pytest.fixture
async def long_log(database: Database) -> Database:
    """A log of which only the leaves make sense."""
    rows = [
        {
            "seq": seq,
            "event_id": uuid4(),
            "created_at": "",
            "epoch": 1,
            "action": "",
            "outcome": "",
            "description": "",
            "context": "",
            "previous_hash": seq.to_bytes(32, "big"),
            "entry_hash": (seq + 1).to_bytes(32, "big"),
            "leaf_hash": leaf,
            "payload": "",
        }
        for seq, leaf in enumerate(LEAVES, start=1)
    ]
    async with database.transaction() as session:
        await session.execute(insert(AuditLog), rows)
    return database


@pytest.mark.parametrize(
    "size", [1, 2, TILE - 1, TILE, TILE + 1, 2 * TILE, 3 * TILE + 7, 4 * TILE, SIZE]
)
async def test_a_proof_is_that_of_the_whole_tree(long_log: Database, size: int) -> None:
    leaves = LEAVES[:size]
    root = merkle_root(leaves)
    tree = MerkleTree(long_log)

    for index in sorted({0, size // 3, size // 2, size - 2, size - 1} & set(range(size))):
        proof = await tree.proof(index + 1, leaf=leaves[index], size=size, root=root)

        assert proof == inclusion_proof(index, leaves)


async def test_a_tree_that_is_kept_serves_larger_and_smaller_logs(
    long_log: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.proofs.READ_TILES", 2)
    tree = MerkleTree(long_log)

    for size in (2 * TILE, SIZE, TILE + 1):
        proof = await tree.proof(17, leaf=LEAVES[16], size=size, root=merkle_root(LEAVES[:size]))

        assert proof == inclusion_proof(16, LEAVES[:size])


async def test_a_log_that_is_not_the_signed_one_gives_no_proof(
    long_log: Database, intruder: "Intruder"
) -> None:
    root = merkle_root(LEAVES)
    await intruder.run(update(AuditLog).where(AuditLog.seq == 700).values(leaf_hash=bytes(32)))

    with pytest.raises(AuditUnavailable, match="not the one that was signed"):
        await MerkleTree(long_log).proof(1, leaf=LEAVES[0], size=SIZE, root=root)


async def test_another_payload_gives_no_proof(long_log: Database) -> None:
    with pytest.raises(AuditUnavailable, match="not the one that was signed"):
        await MerkleTree(long_log).proof(
            1, leaf=leaf_hash(b"another"), size=SIZE, root=merkle_root(LEAVES)
        )


async def test_a_gap_gives_no_proof(long_log: Database, intruder: "Intruder") -> None:
    await intruder.run(delete(AuditLog).where(AuditLog.seq == 700))

    with pytest.raises(AuditUnavailable, match="not the one that was signed"):
        await MerkleTree(long_log).proof(1, leaf=LEAVES[0], size=SIZE, root=merkle_root(LEAVES))


async def test_the_tree_can_be_read_ahead(long_log: Database, intruder: "Intruder") -> None:
    reader = EvidenceReader(long_log)
    await reader.warm()
    assert reader._tree._levels == [[]]
    async with long_log.transaction() as session:
        await session.execute(
            insert(AuditCheckpoint).values(
                size=SIZE, root=bytes(32), note="", created_at=datetime(2026, 11, 24, tzinfo=UTC)
            )
        )

    await reader.warm()

    assert [len(level) for level in reader._tree._levels] == [5, 2, 1]
