"""Adding to the audit log, by whoever may: the two ways, each one transaction.

`append_at` trusts the tip it is given: it moves the stored tip by compare-and-swap and inserts. It
reads nothing, and records the whole group or nothing.

`append_locked` trusts nobody: it locks the tip, which waits for a server that may still be
committing, gives those events their receipts that are in the log already, and halves the group
around what is refused, each half in a savepoint. One bad event among n costs about 2 log2(n)
statements, not n: else whoever can make an event fail could slow everybody down.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from registry.contract import Receipt
from registry.errors import Conflict, DatabaseUnavailable, MedAIError
from registry.events import SYSTEM, AuditAction, AuditEvent, ContextValue
from storage.chain import Chain, advance, lock, origin_of
from storage.database import Database
from storage.entries import FORMAT, Draft, Rows, applied, compose, is_plain, write
from storage.faults import translated
from storage.records import rfc3339
from storage.tables import AuditLog

CLOCK_TOLERANCE = timedelta(seconds=5)  # how far back the clock may go without an entry of its own


class Appender:
    """Adds to the log. See the module's docstring.

    Args:
        database: Where the log is.
        software_version: What every entry says it was written by.
        now: The time, aware.
    """

    def __init__(
        self, database: Database, *, software_version: str, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._software = software_version
        self._now = now

    async def take_over(self, writer_id: str) -> Chain:
        """Raise the epoch, so that every earlier writer is fenced. Gives the tip.

        Raises:
            AuditUnavailable: The log does not end where its state says.
            DatabaseUnavailable: The database is away. Taking over again is safe.
        """
        start = _system_draft(
            AuditAction.WRITER_START, "A writer took the audit log over.", {"writer": writer_id}
        )
        async with self._database.transaction() as session:
            before = await lock(session)
            after = before.copy()
            after.epoch += 1
            after = await self._place(session, after, [*await _genesis(session, before), start])
            if start.refusal is not None:
                raise start.refusal
            await session.run_sync(advance, before, after, writer_id=writer_id)
        return after

    async def append_at(self, tip: Chain, drafts: Sequence[Draft]) -> Chain:
        """Record all of `drafts`, which only add rows, at `tip`, or nothing. Gives the new tip.

        Raises:
            StaleTip: The tip is not there any longer.
            MedAIError: An event was refused.
            DatabaseUnavailable: Nothing was recorded, or nobody knows.
        """
        assert all(is_plain(draft.event) for draft in drafts)
        after = tip.copy()
        at = self._now()
        drafts = _with_clock_step(after, drafts, at)
        rows = compose(after, drafts, [[] for _ in drafts], at=at, software=self._software)

        def move(session: Session) -> None:
            advance(session, tip, after)  # first: it locks, and finds out a stale tip
            write(session, rows)

        await self._database.in_one_go(move)
        return after

    async def append_locked(
        self, drafts: Sequence[Draft], *, admit: Callable[[Chain], None]
    ) -> Chain:
        """Record those of `drafts` that are not refused; each ends with a receipt or a refusal.

        Args:
            drafts: The events, in order, none twice.
            admit: Looks at the tip once it is locked; raises where nothing may be added.

        Raises:
            AuditUnavailable: The log does not end where its state says.
            DatabaseUnavailable: Nothing was recorded, or nobody knows.
        """
        async with self._database.transaction() as session:
            before = await lock(session)
            admit(before)
            genesis = await _genesis(session, before)
            after = await self._place(session, before, genesis) if genesis else before
            fresh = await _unrecorded(session, drafts)
            if fresh:
                after = await self._place(session, after, fresh)
            if after.size > before.size:
                await session.run_sync(advance, before, after)
        return after

    async def go_on(self, draft: Draft, *, size: int, tip: bytes) -> None:
        """Record one event right after entry `size`, and fence every writer.

        For `storage.recovery`: nothing comes between, also where the clock went back.

        Raises:
            Conflict: The log does not end there any longer.
            AuditUnavailable: The log does not end where its state says.
            DatabaseUnavailable: Nothing was recorded, or nobody knows.
        """
        async with self._database.transaction() as session:
            before = await lock(session)
            if (before.size, before.tip_hash) != (size, tip):
                raise Conflict("the audit log has moved meanwhile: begin again")
            after = before.copy()
            after.epoch += 1
            rows = await self._composed(session, after, [draft], at=self._now())
            await session.run_sync(advance, before, after)
            await session.run_sync(write, rows)

    async def _place(self, session: AsyncSession, chain: Chain, drafts: Sequence[Draft]) -> Chain:
        """Insert `drafts` after `chain`, leaving out the refused; gives the tip after them."""
        after = chain.copy()
        try:
            async with session.begin_nested():
                at = self._now()
                dated = _with_clock_step(after, drafts, at)
                rows = await self._composed(session, after, dated, at=at)
                await session.run_sync(write, rows)
        except (MedAIError, SQLAlchemyError) as error:
            refusal = error if isinstance(error, MedAIError) else translated(error)
            if isinstance(refusal, DatabaseUnavailable):
                raise
            if len(drafts) == 1:
                drafts[0].refusal = refusal
                return chain
        else:
            return after
        middle = len(drafts) // 2
        chain = await self._place(session, chain, drafts[:middle])
        return await self._place(session, chain, drafts[middle:])

    async def _composed(
        self, session: AsyncSession, chain: Chain, drafts: Sequence[Draft], *, at: datetime
    ) -> Rows:
        changes = await applied(session, drafts, at=at)
        return compose(chain, drafts, changes, at=at, software=self._software)


async def _genesis(session: AsyncSession, chain: Chain) -> list[Draft]:
    """The first entry, where there is none: it names the log for ever."""
    if chain.size > 0:
        return []
    context: dict[str, ContextValue] = {
        "origin": await origin_of(session),
        "format": FORMAT,
        "hash": "SHA-256",
    }
    return [_system_draft(AuditAction.LOG_GENESIS, "The audit log begins.", context)]


async def _unrecorded(session: AsyncSession, drafts: Sequence[Draft]) -> list[Draft]:
    """Give receipts to those that are in the log already; gives the others."""
    ids = [draft.event.event_id for draft in drafts]
    found = await session.execute(
        select(AuditLog.event_id, AuditLog.seq, AuditLog.entry_hash, AuditLog.created_at).where(
            AuditLog.event_id.in_(ids)
        )
    )
    receipts: dict[UUID, Receipt] = {row[0]: Receipt(*row) for row in found}
    for draft in drafts:
        draft.receipt, draft.refusal = receipts.get(draft.event.event_id), None
    return [draft for draft in drafts if draft.receipt is None]


def _with_clock_step(chain: Chain, drafts: Sequence[Draft], at: datetime) -> Sequence[Draft]:
    step = _clock_step(chain, at)
    return [step, *drafts] if step else drafts


def _clock_step(chain: Chain, at: datetime) -> Draft | None:
    """Where the clock went back, the log says so: its times may then be out of order."""
    if rfc3339(at + CLOCK_TOLERANCE) >= chain.recorded_at:
        return None
    behind = datetime.fromisoformat(chain.recorded_at) - at
    context: dict[str, ContextValue] = {
        "last": chain.recorded_at,
        "behind_ms": int(behind.total_seconds() * 1e3),
    }
    return _system_draft(AuditAction.CLOCK_STEP, "The clock went back.", context)


def _system_draft(action: AuditAction, description: str, context: dict[str, ContextValue]) -> Draft:
    return Draft(AuditEvent(uuid7(), action, description, SYSTEM, context=context))
