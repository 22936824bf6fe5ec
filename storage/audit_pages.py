"""Lists of audit entries, the newest first, in the caller's transaction.

The order is that of the log. A cursor is an entry's number; what comes after it is found in the
log's own order, whatever the page. A page number passes over the entries before it, in an index. A
time is not a place in the log, because a clock may go back: entries are asked for theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.audit import Entry, entry_of
from storage.records import rfc3339
from storage.tables import AuditLog


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are wanted; None is any.

    Attributes:
        action: What happened.
        outcome: How it ended.
        user_id: Who did it.
        first_seq: Not before this entry.
        last_seq: Not after this entry.
        since: Not recorded before this, aware.
        until: Recorded before this, aware.
    """

    action: str | None = None
    outcome: str | None = None
    user_id: UUID | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    since: datetime | None = None
    until: datetime | None = None


class EntryPages:
    """Pages of the entries that a filter lets through.

    Args:
        session: The caller's transaction.
        wanted: Which entries.
    """

    def __init__(self, session: AsyncSession, wanted: EntryFilter) -> None:
        self._session = session
        self._where = _conditions(wanted)

    async def total(self) -> int:
        """How many there are. Counts in an index: O(n)."""
        found = await self._session.scalar(
            select(func.count()).select_from(AuditLog).where(*self._where)
        )
        return found or 0

    async def numbered(self, page: int, size: int) -> tuple[Entry, ...]:
        """Page number `page`, from 1."""
        return await self._entries(_NUMBERS.where(*self._where).offset((page - 1) * size), size)

    async def after(self, seq: int, size: int) -> tuple[Entry, ...]:
        """At most `size` entries older than number `seq`."""
        return await self._entries(_NUMBERS.where(*self._where, AuditLog.seq < seq), size)

    async def _entries(self, numbers: Select[Any], size: int) -> tuple[Entry, ...]:
        page = (await self._session.scalars(numbers.limit(size))).all()
        found = await self._session.scalars(
            select(AuditLog).where(AuditLog.seq.in_(page)).order_by(AuditLog.seq.desc())
        )
        return tuple(map(entry_of, found))


_NUMBERS = select(AuditLog.seq).order_by(AuditLog.seq.desc())


def _conditions(wanted: EntryFilter) -> Sequence[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (AuditLog.action, wanted.action),
            (AuditLog.outcome, wanted.outcome),
            (AuditLog.user_id, wanted.user_id),
        )
        if value is not None
    ]
    if wanted.first_seq is not None:
        conditions.append(AuditLog.seq >= wanted.first_seq)
    if wanted.last_seq is not None:
        conditions.append(AuditLog.seq <= wanted.last_seq)
    if wanted.since is not None:  # the text of a moment sorts as the moment does
        conditions.append(AuditLog.created_at >= rfc3339(wanted.since))
    if wanted.until is not None:
        conditions.append(AuditLog.created_at < rfc3339(wanted.until))
    return conditions
