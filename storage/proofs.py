"""Inclusion proofs out of a log of any size, from the leaf hashes that are stored.

A proof needs the roots of the subtrees beside its way to the root. Those over 256 leaves and more
are kept in memory once computed, in perfect subtrees, which never change (c2sp.org/tlog-tiles cuts
its tiles there, too): about half a byte a log entry. A proof then reads at most two runs of 256
leaf hashes. Each process reads the whole log's leaf hashes once, piece by piece, as far as it is
asked to.

No proof is given out that does not lead to the root it was asked for.
"""

import asyncio
from collections.abc import Sequence

from sqlalchemy import select

from registry.errors import AuditUnavailable, Violation
from storage.database import Database
from storage.hashchain import merkle_root, node_hash, verify_inclusion
from storage.tables import AuditLog

TILE = 256  # leaves under a subtree that is kept
READ_TILES = 32  # read at once


class MerkleTree:
    """The Merkle tree over the log (RFC 6962, section 2.1). One a process.

    Args:
        database: Where the log is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._levels: list[list[bytes]] = [[]]  # [n][i]: over the leaves of 2^n tiles
        self._one_reader = asyncio.Lock()

    async def proof(self, seq: int, *, leaf: bytes, size: int, root: bytes) -> tuple[bytes, ...]:
        """Why `leaf` is entry `seq` of the log that had `size` entries and this root.

        Args:
            seq: The entry's number, from 1.
            leaf: The leaf hash of its payload.
            size: How many entries the signed log has, `seq` or more.
            root: The root that was signed.

        Returns:
            The siblings, from the leaf upwards (RFC 9162, section 2.1.3.1).

        Raises:
            AuditUnavailable: The stored log is not the one that was signed.
            DatabaseUnavailable: The database is away.
        """
        await self.warm(size)
        index = seq - 1
        leaves = {
            first: await self._leaves(first, min(first + TILE, size))
            for first in {index // TILE * TILE, size // TILE * TILE}
            if first < size
        }
        path = self._path(index, 0, size, leaves)
        if not verify_inclusion(leaf, index, size=size, proof=path, root=root):
            raise _differs(f"entries up to {size}")
        return path

    async def warm(self, size: int) -> None:
        """Read what a proof in a log of this size will need, as far as it is not known."""
        async with self._one_reader:
            while len(self._levels[0]) < size // TILE:
                first = len(self._levels[0]) * TILE
                last = min(size // TILE * TILE, first + READ_TILES * TILE)
                leaves = await self._leaves(first, last)
                for start in range(0, len(leaves), TILE):
                    self._add(merkle_root(leaves[start : start + TILE]))

    def _add(self, node: bytes) -> None:
        """Keep the next tile's root, and those of the subtrees that it completes."""
        for level in self._levels:
            level.append(node)
            if len(level) % 2:
                return
            node = node_hash(level[-2], node)
        self._levels.append([node])

    async def _leaves(self, first: int, last: int) -> Sequence[bytes]:
        """The leaf hashes from index `first` to before `last`."""
        async with self._database.reading() as session:
            found = await session.scalars(
                select(AuditLog.leaf_hash)
                .where(AuditLog.seq > first, AuditLog.seq <= last)
                .order_by(AuditLog.seq)
            )
            leaves = found.all()
        if len(leaves) != last - first:
            raise _differs(f"entries {first + 1} to {last}")
        return leaves

    def _path(
        self, index: int, first: int, last: int, leaves: dict[int, Sequence[bytes]]
    ) -> tuple[bytes, ...]:
        """PATH of RFC 9162, 2.1.3.1, over the leaves from `first` to before `last`."""
        if last - first == 1:
            return ()
        middle = first + (1 << ((last - first - 1).bit_length() - 1))
        if index < middle:
            sibling = self._root(middle, last, leaves)
            return (*self._path(index, first, middle, leaves), sibling)
        sibling = self._root(first, middle, leaves)
        return (*self._path(index, middle, last, leaves), sibling)

    def _root(self, first: int, last: int, leaves: dict[int, Sequence[bytes]]) -> bytes:
        """The root over these leaves, whose first index is a multiple of their tree's width."""
        width = last - first
        if width >= TILE and width.bit_count() == 1:
            return self._levels[(width // TILE).bit_length() - 1][first // width]
        tile = first // TILE * TILE
        if width < TILE:
            return merkle_root(leaves[tile][first - tile : last - tile])
        middle = first + (1 << ((width - 1).bit_length() - 1))
        return node_hash(self._root(first, middle, leaves), self._root(middle, last, leaves))


def _differs(measured: str) -> AuditUnavailable:
    return AuditUnavailable(
        "the audit log is not the one that was signed",
        (Violation("audit log", measured, advice="run medai-verify on the log and its anchors"),),
    )
