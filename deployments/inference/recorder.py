"""The AuditWriter's core: one ledger, opened as soon as it can be, one transaction at a time.

Calls that arrive while a transaction is under way are committed together in the next one: groups
form by themselves under load, without a timer. The database may be away when the writer starts; the
writer then waits for it, and answers `audit-unavailable` meanwhile.
"""

import asyncio
import contextvars
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice

from configs.settings import Settings
from configs.topology import AuditTuning
from deployments.inference.batcher import Batcher
from registry.contract import Receipt
from registry.errors import AuditUnavailable, MedAIError
from registry.events import AuditEvent
from storage.database import Database
from storage.ledger import Ledger

RETRY_S = 1.0
SOFTWARE = version("medai-flow")
MAX_QUEUE = 4096  # events waiting for a transaction; more is `overloaded`


def utc_now() -> datetime:
    """The system's clock, the only source of a record's time (21 CFR 11.10(e))."""
    return datetime.now(UTC)


class Recorder:
    """Commits audit events and their changes. Needs a running loop.

    Args:
        settings: Where the database is.
        now: The clock.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime] = utc_now) -> None:
        self._database = Database(settings.database, settings.database_url)
        self._ledger = Ledger(self._database, software_version=SOFTWARE, now=now)
        self._opened = False
        self._opening = asyncio.Lock()
        self._calls: Batcher[list[AuditEvent], list[Receipt | MedAIError]] = Batcher(
            self._commit,
            max_batch_size=AuditTuning().max_group_size,
            max_in_flight=1,
            max_queue=MAX_QUEUE,
            weight=len,
        )
        self._task = asyncio.get_running_loop().create_task(
            self._open_when_possible(), context=contextvars.Context()
        )

    def reconfigure(self, tuning: AuditTuning) -> None:
        """Take new tuning."""
        self._calls.reconfigure(max_batch_size=tuning.max_group_size)

    async def append(self, events: list[AuditEvent]) -> list[Receipt | MedAIError]:
        """A receipt for each event, in order, or the error that refused it."""
        return await self._calls.submit(events)

    async def ready(self) -> None:
        """Raises `AuditUnavailable` while nothing can be recorded."""
        if not self._opened or self._ledger.fenced:
            raise AuditUnavailable("the audit log is not open", retry_after_s=1)
        await self._database.ping()

    def check_health(self) -> None:
        """Raises `AuditUnavailable` once another writer has taken over: this one must go."""
        if self._ledger.fenced:
            raise AuditUnavailable("another writer has taken over the audit log")

    async def close(self) -> None:
        """Commit what waits, say that the writer stops, and let go of the database."""
        self._task.cancel()
        await self._calls.close()
        if self._opened:
            await self._ledger.close()
        await self._database.close()

    async def _commit(
        self, calls: list[list[AuditEvent]]
    ) -> list[list[Receipt | MedAIError] | BaseException]:
        await self._open()
        outcomes = iter(await self._ledger.append([event for call in calls for event in call]))
        return [list(islice(outcomes, len(call))) for call in calls]

    async def _open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._ledger.open()
                self._opened = True

    async def _open_when_possible(self) -> None:
        while not self._opened:
            try:
                await self._open()
            except MedAIError:
                await asyncio.sleep(RETRY_S)
