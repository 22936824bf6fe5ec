"""The AuditWriter's core: one ledger, opened as soon as it can be, one transaction at a time.

Calls that arrive while a transaction is under way are committed together in the next one: groups
form by themselves under load, without a timer. The database may be away when the writer starts; the
writer then waits for it, and answers `audit-unavailable` meanwhile.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING

from configs.topology import AuditTuning
from deployments.inference.batcher import Batcher
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_observations import observe_group
from deployments.telemetry.tracing_attributes import SpanName
from registry.contract import Receipt
from registry.errors import AuditUnavailable, MedAIError
from registry.events import AuditEvent
from storage.checkpoints import Checkpointer
from storage.database import Database
from storage.ledger import Ledger

if TYPE_CHECKING:  # OpenTelemetry is loaded only where tracing is on
    from deployments.telemetry.tracing import Tracing

RETRY_S = 1.0
SOFTWARE = version("medai-flow")
MAX_QUEUE = 4096  # events waiting for a transaction; more is `overloaded`


def utc_now() -> datetime:
    """The system's clock, the only source of a record's time (21 CFR 11.10(e))."""
    return datetime.now(UTC)


class Recorder:
    """Commits audit events and their changes. Needs a running loop.

    Args:
        database: Where the log is. The recorder does not close it.
        checkpointer: Signs and anchors the log's heads.
        instruments: What is counted.
        now: The clock.
        tracing: The process's, where tracing is on.
    """

    def __init__(
        self,
        database: Database,
        checkpointer: Checkpointer,
        instruments: Instruments,
        now: Callable[[], datetime] = utc_now,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._tracing = tracing
        self._database = database
        self._checkpointer = checkpointer
        self._ledger = Ledger(self._database, software_version=SOFTWARE, now=now)
        self._instruments = instruments
        instruments.watch(self._show)
        self._opened = False
        self._refusal: MedAIError | None = None  # why it is not open yet
        self._opening = asyncio.Lock()
        self._calls: Batcher[list[AuditEvent], list[Receipt | MedAIError]] = Batcher(
            self._commit,
            max_batch_size=AuditTuning().max_group_size,
            max_in_flight=1,
            max_queue=MAX_QUEUE,
            weight=len,
        )
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._open_when_possible(), context=contextvars.Context())
        self._signing = loop.create_task(checkpointer.run(), context=contextvars.Context())

    def reconfigure(self, tuning: AuditTuning) -> None:
        """Take new tuning."""
        self._calls.reconfigure(max_batch_size=tuning.max_group_size)

    async def append(self, events: list[AuditEvent]) -> list[Receipt | MedAIError]:
        """A receipt for each event, in order, or the error that refused it."""
        return await self._calls.submit(events)

    async def ready(self) -> None:
        """Raises `AuditUnavailable` while nothing can be recorded."""
        if not self._opened or self._ledger.fenced:
            raise self._refusal or AuditUnavailable("the audit log is not open", retry_after_s=1)
        self._checkpointer.check()
        await self._database.ping()

    def check_health(self) -> None:
        """Raises `AuditUnavailable` once another writer has taken over: this one must go."""
        if self._ledger.fenced:
            raise AuditUnavailable("another writer has taken over the audit log")

    async def close(self) -> None:
        """Commit what waits, say that the writer stops, and sign the last head."""
        self._task.cancel()
        await self._calls.close()
        if self._opened:
            await self._ledger.close()
        # Not cancelled: it signs the last head, and then ends by itself.
        await self._checkpointer.close()
        await self._signing

    async def _commit(
        self, calls: list[list[AuditEvent]]
    ) -> list[list[Receipt | MedAIError] | BaseException]:
        await self._open()
        started = time.perf_counter()
        events = [event for call in calls for event in call]
        await self._checkpointer.admit(len(events))
        outcomes = await self._ledger.append(events)
        commit_s = time.perf_counter() - started
        self._observe(events, outcomes, commit_s=commit_s)
        if self._tracing is not None:
            traces = list(dict.fromkeys(event.trace for event in events if event.trace is not None))
            self._tracing.batch_ended(
                SpanName.COMMIT_BATCH, SpanName.COMMIT, traces, size=len(events), seconds=commit_s
            )
        rest = iter(outcomes)
        return [list(islice(rest, len(call))) for call in calls]

    def _observe(
        self,
        events: list[AuditEvent],
        outcomes: list[Receipt | MedAIError],
        *,
        commit_s: float,
    ) -> None:
        recorded = []
        newest: Receipt | None = None
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                recorded.append(event.action)
                newest = outcome if newest is None or outcome.seq > newest.seq else newest
            else:
                lost = isinstance(outcome, AuditUnavailable)
                self._instruments.audit_failures.add(1, "unavailable" if lost else "refused")
        if newest is not None:
            self._checkpointer.observe(newest)
            self._instruments.audit_tip.set(newest.seq)
            observe_group(self._instruments, recorded, commit_s=commit_s, lags_s=(commit_s,))

    def _show(self) -> None:
        self._instruments.audit_up.set(1 if self._opened and not self._ledger.fenced else 0)

    async def _open(self) -> None:
        async with self._opening:
            if not self._opened:
                # First the anchors: a database that is behind them must not be written to.
                await self._checkpointer.open()
                await self._ledger.open()
                self._opened = True

    async def _open_when_possible(self) -> None:
        while not self._opened:
            try:
                await self._open()
            except MedAIError as refusal:
                self._refusal = refusal
                await asyncio.sleep(RETRY_S)
