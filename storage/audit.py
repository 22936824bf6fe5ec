"""Reading the audit log: one entry and where it stands. Writing is `storage.ledger`'s."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.errors import NotFound
from storage.tables import AuditLog, AuditState


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log. `payload` is the very text that was hashed; hashes have 32 bytes."""

    seq: int
    event_id: UUID
    recorded_at: str
    epoch: int
    action: str
    outcome: str
    user_id: UUID | None
    model_version_id: UUID | None
    result_id: UUID | None
    previous_hash: bytes
    entry_hash: bytes
    leaf_hash: bytes
    payload: str


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends. `size` counts its entries."""

    origin: str
    size: int
    tip_hash: bytes
    epoch: int
    writer_id: str


class AuditRepository:
    """The audit log, read in the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def head(self) -> Head:
        """Where the log ends. Raises `NotFound` where it has not begun."""
        found = await self._session.execute(
            select(
                AuditState.origin,
                AuditState.size,
                AuditState.tip_hash,
                AuditState.epoch,
                AuditState.writer_id,
            )
        )
        row = found.first()
        if row is None:
            raise NotFound("the audit log has not begun")
        return Head(row.origin, row.size, row.tip_hash, row.epoch, row.writer_id)

    async def entry(self, seq: int) -> Entry:
        """Entry number `seq`, from 1. Raises `NotFound`."""
        return await self._first(_ENTRIES.where(AuditLog.seq == seq))

    async def entry_of_result(self, result_id: UUID) -> Entry:
        """The entry that recorded this inference. Raises `NotFound`."""
        return await self._first(
            _ENTRIES.where(AuditLog.inference_result_id == result_id).order_by(AuditLog.seq)
        )

    async def recent(self, limit: int, *, before: int | None = None) -> tuple[Entry, ...]:
        """The newest entries first, at most `limit`; with `before`, those older than that one."""
        wanted = _ENTRIES.order_by(AuditLog.seq.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(AuditLog.seq < before)
        return tuple(entry_of(row) for row in await self._session.scalars(wanted))

    async def _first(self, wanted: Select[AuditLog]) -> Entry:
        row = await self._session.scalar(wanted.limit(1))
        if row is None:
            raise NotFound("no such audit entry")
        return entry_of(row)


_ENTRIES = select(AuditLog)


def entry_of(row: AuditLog) -> Entry:
    """The entry that a row holds."""
    return Entry(
        seq=row.seq,
        event_id=row.event_id,
        recorded_at=row.created_at,
        epoch=row.epoch,
        action=row.action,
        outcome=row.outcome,
        user_id=row.user_id,
        model_version_id=row.model_version_id,
        result_id=row.inference_result_id,
        previous_hash=row.previous_hash,
        entry_hash=row.entry_hash,
        leaf_hash=row.leaf_hash,
        payload=row.payload,
    )
