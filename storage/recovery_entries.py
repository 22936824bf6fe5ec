"""The entries `log.recovery` in the database, held against the anchors.

The mark `recovers` in an anchor's line is signed by nobody: whoever may add to the file can repeat
an old note with it. So it counts only where the entry that gives the lost head up is in the log
that the note signs. Who has no key has no such note.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson
from sqlalchemy import select

from registry.events import AuditAction
from storage.database import Database
from storage.findings import Findings
from storage.hashchain import leaf_hash
from storage.heads import Diverged
from storage.notes import Checkpoint
from storage.proofs import MerkleTree
from storage.recovered import Recovery, check_anchored
from storage.tables import AuditLog

if TYPE_CHECKING:  # which itself asks here
    from storage.anchors import Anchor


async def begun(database: Database, last: Checkpoint) -> Recovery | None:
    """The recovery that gives up the last anchor: it was recorded, and then not anchored.

    Raises:
        DatabaseUnavailable: The database is away.
    """
    found = await _recoveries(database)
    return found[-1][0] if found and found[-1][0].names(last) else None


async def check_gone_back(
    database: Database, anchors: "Iterable[Anchor]", signed: Checkpoint
) -> None:
    """See that an anchor file whose last line gives entries up does so by the word of the log.

    Reads the whole file, and the leaf hashes of the whole log.

    Args:
        database: Where the log is, which has not less than `signed`.
        anchors: Every anchor, in order.
        signed: The head of the last one.

    Raises:
        Diverged: No entry in the log that was signed gives up what the anchors give up.
        AuditUnavailable: The log is not the one that was signed, or the file cannot be read.
        DatabaseUnavailable: The database is away.
    """
    found = await _recoveries(database)
    findings = Findings()
    recoveries = [recovery for recovery, _ in found]
    await asyncio.to_thread(check_anchored, recoveries, anchors, findings)
    if findings.count:
        message = findings.kept[0].message
        raise Diverged(f"the anchors do not give up what the log does: {message}")
    tree = MerkleTree(database)
    for recovery, leaf in found:
        await tree.proof(recovery.seq, leaf=leaf, size=signed.size, root=signed.root)


async def _recoveries(database: Database) -> list[tuple[Recovery, bytes]]:
    """Those that can be read, in order, each with its leaf hash."""
    wanted = (
        select(AuditLog.payload, AuditLog.previous_hash)
        .where(AuditLog.action == AuditAction.LOG_RECOVERY)
        .order_by(AuditLog.seq)
    )
    async with database.reading() as session:
        rows = (await session.execute(wanted)).all()
    found = []
    for row in rows:
        try:
            recovery = Recovery.of(orjson.loads(row.payload), row.previous_hash)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # what is wrong with it, a verification says
        found.append((recovery, leaf_hash(row.payload.encode())))
    return found
