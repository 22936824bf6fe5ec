"""A model replica's life beside its answers: follow the registry, report, test itself.

    every REFRESH_S    read the registry; load what it wants, let go of what it does not
    on a change, and
    every BEAT_S       report what is held (`storage.model_replicas`); an activation waits for it
    every COUNT_S      store what the challenger's comparison has counted (`inference.shadow`)
    on the schedule    run the golden case; a deviation halts the model, and the log says so

While the database is away the replica goes on with what it holds. A halt is recorded only in a log
that fits its anchors. From a deviation on the replica itself answers nothing, whether or not it can
be recorded, until the case passes again or a person has ended the halt.
"""

import asyncio
import contextlib
import contextvars
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from deployments.inference.catalogue_watch import REFRESH_S, CatalogueWatch
from deployments.inference.recorder import SOFTWARE, utc_now
from deployments.inference.shadow import ShadowScoring
from deployments.inference.versions import HeldVersions
from registry.errors import InvalidModel, MedAIError, ModelHalted, Violation
from registry.events import SYSTEM, AuditAction, AuditEvent, AuditOutcome, ServiceHalted
from registry.shadow import Tally
from storage.database import Database
from storage.ledger import append_once
from storage.model_replicas import Holding, ReplicaRepository
from storage.shadows import ShadowRepository

BEAT_S: Final = 2.0
COUNT_S: Final = 5.0
RETRY_S: Final = 1.0
GOLDEN_DEVIATION: Final = "golden-deviation"
SELF_TEST: Final = "self-test"  # who halted the model
_NOTHING: Final = Tally().document()


class Replica:
    """Keeps `held` in step with the registry. Needs a running loop.

    Args:
        name: The model's name.
        held: The versions of this replica.
        watch: The registry. The replica refreshes it.
        database: Where reports and halts go. The replica does not close it.
        check_log: Raises `AuditUnavailable` where nothing may be added to the log.
        golden_interval_s: Seconds between two scheduled self-tests.
        shadow: Compares the model's challenger, where it has one. The replica closes it.
    """

    def __init__(
        self,
        name: str,
        held: HeldVersions,
        watch: CatalogueWatch,
        database: Database,
        *,
        check_log: Callable[[], Awaitable[None]],
        golden_interval_s: float,
        shadow: ShadowScoring | None = None,
    ) -> None:
        self.id = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:8]}"
        self._name = name
        self._held = held
        self._watch = watch
        self._database = database
        self._check_log = check_log
        self._golden_interval_s = golden_interval_s
        self._shadow = shadow
        self._counted: dict[UUID, dict[str, Any]] = {}
        self._reported: Mapping[UUID, Holding] = {}
        self._deviates = self._halted = False  # halted: and the registry says so
        self._one_at_a_time = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Follow from now on, outside of any request's context."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(_for_ever(work, every), context=contextvars.Context())
            for work, every in (
                (self.follow, REFRESH_S),
                (self.report, BEAT_S),
                (self.count, COUNT_S),
                (self.self_test, self._golden_interval_s),
            )
        ]

    async def follow(self) -> None:
        """Look at the registry once. Raises `DatabaseUnavailable`."""
        await self._watch.refresh()
        catalogue = self._watch.current()
        serving = catalogue.active(self._name) if self._name in catalogue.names else None
        halted = self._name in catalogue.halts
        if self._halted and not halted:
            self._deviates = False  # a person has ended the halt
        self._halted = halted
        self._held.hold(catalogue.wanted(self._name), None if serving is None else serving.model)
        if self._shadow is not None:
            self._shadow.follow(catalogue.shadow(self._name), serving)
        if self._held.holdings() != self._reported:
            await self.report()

    async def report(self) -> None:
        """Say what is held. Raises `DatabaseUnavailable`."""
        async with self._one_at_a_time:
            holdings = self._held.holdings()
            async with self._database.transaction() as session:
                repository = ReplicaRepository(session)
                await repository.report(self.id, self._name, holdings, at=utc_now())
            self._reported = holdings

    async def count(self) -> None:
        """Store what was counted of challengers. Raises `DatabaseUnavailable`."""
        if self._shadow is None:
            return
        for shadow_id, tally in tuple(self._shadow.tallies().items()):
            counts = tally.document()
            if counts != self._counted.get(shadow_id, _NOTHING):
                async with self._database.transaction() as session:
                    repository = ShadowRepository(session)
                    await repository.save(shadow_id, self.id, tally, at=utc_now())
                self._counted[shadow_id] = counts
            if self._shadow.forget(shadow_id):
                self._counted.pop(shadow_id, None)

    def check(self) -> None:
        """Raises `ModelHalted` where this replica's self-test deviated and nobody looked yet."""
        if self._deviates:
            raise ModelHalted(
                f"{self._name} is halted",
                (Violation("model", GOLDEN_DEVIATION, advice="ask an administrator"),),
            )

    async def self_test(self) -> None:
        """Run the golden case; where it fails, halt the model in every replica.

        Raises:
            AuditUnavailable: The halt could not be recorded: it holds in this replica only.
            DatabaseUnavailable: The same, because the database is away.
        """
        try:
            await self._held.self_test()
        except InvalidModel as error:
            self._deviates = True
            await self._halt(error)
        else:
            self._deviates = False

    async def close(self) -> None:
        """Stop following, and report nothing any longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._shadow is not None:
            await self._shadow.close()
        with contextlib.suppress(MedAIError):
            await self.count()
        with contextlib.suppress(MedAIError):
            async with self._database.transaction() as session:
                await ReplicaRepository(session).withdraw(self.id)

    async def _halt(self, deviation: InvalidModel) -> None:
        if self._name in self._watch.current().halts:
            return
        event = AuditEvent(
            event_id=uuid7(),
            action=AuditAction.MODEL_HALTED,
            description="A model failed its scheduled self-test and was halted.",
            actor=SYSTEM,
            outcome=AuditOutcome.FAILURE,
            context={"measured": [str(fault) for fault in deviation.violations]},
            changes=(ServiceHalted(self._name, GOLDEN_DEVIATION, SELF_TEST),),
        )
        await self._check_log()
        (ended,) = await append_once(
            self._database, [event], software_version=SOFTWARE, now=utc_now
        )
        if isinstance(ended, MedAIError):
            raise ended


async def _for_ever(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    delay_s = every_s
    while True:
        await asyncio.sleep(delay_s)
        try:
            await work()
            delay_s = every_s
        except MedAIError:  # the database's own state is watched elsewhere
            delay_s = min(every_s, RETRY_S)
