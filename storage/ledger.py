"""The writer of the audit log: events in, receipts out, nothing in between that is not committed.

Rules this file keeps:

- Events are recorded in the order given, a group in one transaction, each with its changes. A
  receipt exists only after the commit.
- One writer at a time: `Ledger.open` takes the log over by raising its epoch. A writer that finds
  another epoch than its own has been replaced; it records nothing more and says so (`fenced`). The
  command line adds beside the writer, without raising the epoch (`append_once`).
- A bad event fails alone: the group is done again with the bad one left out.
- An event is recorded once: the same event id again gets the first receipt.
- A commit whose outcome is unknown is never repeated blindly: what is in the log by the time its
  tip can be locked has its receipt, the rest is recorded.
- The tip is remembered only while all went well; after anything else it is read again.

`storage.appender` has the two ways in which a group is added.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from registry.contract import Receipt
from registry.errors import AuditUnavailable, DatabaseUnavailable, MedAIError
from registry.events import SYSTEM, AuditAction, AuditEvent
from storage.appender import Appender
from storage.chain import Chain, StaleTip
from storage.database import Database
from storage.entries import Draft, is_plain
from storage.faults import RETRY_AFTER_S

Recorded = list[Receipt | MedAIError]


class Ledger:
    """The one writer. See the module's docstring.

    Args:
        database: Where the log is.
        software_version: What every entry says it was written by.
        now: The time, aware.

    Attributes:
        fenced: Another writer has taken the log over. It stays so: the process should end.
    """

    def __init__(
        self, database: Database, *, software_version: str, now: Callable[[], datetime]
    ) -> None:
        self.fenced = False
        self._appender = Appender(database, software_version=software_version, now=now)
        self._writer_id = f"{os.getpid()}-{uuid4().hex}"
        self._epoch: int | None = None
        self._tip: Chain | None = None
        self._one_group_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Take the log over from any other writer; begin it where there is none.

        Raises:
            AuditUnavailable: The log does not end where its state says.
            DatabaseUnavailable: The database is away. Opening again is safe.
        """
        self._tip = await self._appender.take_over(self._writer_id)
        self._epoch = self._tip.epoch

    async def append(self, events: Sequence[AuditEvent]) -> Recorded:
        """Record `events`, in this order, as far as each is not refused.

        Returns:
            For each event its receipt, or why it was not recorded. `AuditUnavailable` means that
            nobody knows: offering the same event again is safe.

        Raises:
            AuditUnavailable: Another writer has taken the log over. For good.
        """
        async with self._one_group_at_a_time:
            if self.fenced:
                raise _fenced()
            drafts = _drafts(events)
            tip, self._tip = self._tip, None
            self._tip = await self._record(tip, drafts)
            return _ended(events, drafts)

    async def close(self) -> None:
        """Write that this writer stops. Quiet where that cannot be written: it stops anyway."""
        if self._epoch is None or self.fenced:
            return
        stop = AuditEvent(
            uuid7(),
            AuditAction.WRITER_STOP,
            "The writer stopped.",
            SYSTEM,
            context={"writer": self._writer_id},
        )
        try:
            await self.append([stop])
        except AuditUnavailable:
            return

    async def _record(self, tip: Chain | None, drafts: list[Draft]) -> Chain | None:
        if tip is not None and all(is_plain(draft.event) for draft in drafts):
            try:
                return await self._appender.append_at(tip, drafts)
            except (MedAIError, StaleTip):
                pass  # whatever it was, the other way finds out
        try:
            return await self._appender.append_locked(drafts, admit=self._admit)
        except MedAIError:
            if self.fenced:
                raise
            _refuse(drafts)
            return None

    def _admit(self, tip: Chain) -> None:
        if tip.epoch != self._epoch:
            self.fenced = True
            raise _fenced()


async def append_once(
    database: Database,
    events: Sequence[AuditEvent],
    *,
    software_version: str,
    now: Callable[[], datetime],
) -> Recorded:
    """Record `events` beside the writer, if there is one, and without replacing it.

    For the command line on the host, and for whoever has a handful of events. Begins the log where
    there is none.

    Returns:
        For each event its receipt, or why it was not recorded. `AuditUnavailable` means that
        nobody knows: offering the same event again is safe.
    """
    appender = Appender(database, software_version=software_version, now=now)
    drafts = _drafts(events)
    for last_chance in (False, True):
        try:
            await appender.append_locked(drafts, admit=lambda _: None)
            break
        except DatabaseUnavailable:  # perhaps while committing: look again, once
            if last_chance:
                _refuse(drafts)
        except MedAIError:
            _refuse(drafts)
            break
    return _ended(events, drafts)


def _drafts(events: Sequence[AuditEvent]) -> list[Draft]:
    """One for each event id, in order."""
    drafts: dict[UUID, Draft] = {}
    for event in events:
        drafts.setdefault(event.event_id, Draft(event))
    return list(drafts.values())


def _ended(events: Sequence[AuditEvent], drafts: Sequence[Draft]) -> Recorded:
    ended = {draft.event.event_id: draft.ended() for draft in drafts}
    return [ended[event.event_id] for event in events]


def _refuse(drafts: Sequence[Draft]) -> None:
    for draft in drafts:
        draft.refusal = AuditUnavailable(
            "the record could not be committed", retry_after_s=RETRY_AFTER_S
        )


def _fenced() -> AuditUnavailable:
    return AuditUnavailable("another writer has taken the audit log over")
