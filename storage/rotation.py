"""Changing the log's signing key, while no writer runs.

The order makes an interruption harmless: the new key is on the disk before an entry names it, and
signs nothing before that. Whoever begins again finds the entry and only puts the key in force.
"""

import json
from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from registry.contract import Receipt
from registry.errors import AuditUnavailable, Conflict, Violation
from registry.events import AuditAction, ContextValue
from storage.checkpoints import Checkpointer
from storage.database import Database
from storage.notes import Note, VerifierKey, open_rotation
from storage.tables import AuditLog, AuditState

Record = Callable[[dict[str, ContextValue]], Awaitable[Receipt]]


async def writer_runs(database: Database) -> bool:
    """Whether the last writer has not said that it stopped: it runs, or was killed."""
    async with database.reading() as session:
        last = await session.scalar(
            select(AuditLog.action)
            .where(AuditLog.action.in_((AuditAction.WRITER_START, AuditAction.WRITER_STOP)))
            .order_by(AuditLog.seq.desc())
            .limit(1)
        )
    return last == AuditAction.WRITER_START


async def rotate(
    database: Database, checkpointer: Checkpointer, new: Ed25519PrivateKey, record: Record
) -> VerifierKey:
    """Let `new` sign from now on; does nothing where an earlier try has recorded that already.

    No writer may run: it would go on with the old key, and refuse.

    Args:
        database: Where the log is.
        checkpointer: With the present key; not opened yet.
        new: The next key.
        record: Records a `key.rotated` event with this context.

    Raises:
        AuditUnavailable: The log is not the one its anchors speak of, or has not begun.
        Conflict: The new key has signed this log before.
        DatabaseUnavailable: The database is away.
    """
    named = await _named(database)
    public = VerifierKey.of(await _origin(database), new)
    if named and named[-1] == public:
        return public
    if public in named:
        raise Conflict(
            "the key has signed for this log before", (Violation("key", advice="make a new key"),)
        )
    await checkpointer.open()
    return await checkpointer.rotate(new, record)


async def first_key(database: Database, present: Ed25519PrivateKey) -> VerifierKey:
    """The key that signed first: with it alone the whole log can be verified."""
    named = await _named(database)
    return named[0] if named else VerifierKey.of(await _origin(database), present)


async def _named(database: Database) -> list[VerifierKey]:
    """Every key in the order in which they signed; empty where there was only one."""
    async with database.reading() as session:
        payloads = await session.scalars(
            select(AuditLog.payload)
            .where(AuditLog.action == AuditAction.KEY_ROTATED)
            .order_by(AuditLog.seq)
        )
    keys: list[VerifierKey] = []
    for payload in payloads:
        try:
            old, new = open_rotation(Note.parse(json.loads(payload)["context"]["note"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AuditUnavailable(
                "a change of the signing key is not signed",
                (Violation("audit log", advice="run `medai audit verify`"),),
            ) from None
        keys = [*(keys or [old]), new]
    return keys


async def _origin(database: Database) -> str:
    async with database.reading() as session:
        origin: str | None = await session.scalar(select(AuditState.origin))
    if not origin:
        raise AuditUnavailable("the audit log has not begun")
    return origin
