"""What people do to models: register, approve, activate, roll back, halt, resume, retire.

The command line and the API both come here. Every act is an audit event with its change; nothing
here changes a row by itself. An activation has two steps (docs/adr/0011):

    stage      every replica loads the version beside the one that serves, and reports
    switch     one transaction, once all live replicas are ready

A replica that cannot load it, or a time limit, ends the activation: the version is staged no
longer, the old one serves on, and the log has the measured reason.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from uuid_utils.compat import uuid7

from deployments.inference.recorder import utc_now
from deployments.inference.registration import (
    Candidate,
    examine,
    install,
    registration_events,
    step,
)
from registry.errors import (
    Conflict,
    IllegalTransition,
    InvalidModel,
    MedAIError,
    ModelUnavailable,
    ValidationFailed,
    Violation,
)
from registry.events import (
    Actor,
    AuditAction,
    AuditEvent,
    AuditOutcome,
    Change,
    ContextValue,
    ServiceHalted,
    ServiceResumed,
    VersionStaged,
    VersionUnstaged,
)
from registry.lifecycle import ModelStatus, ReplicaState, check_step
from storage.database import Database
from storage.model_replicas import Holding, ReplicaReport, ReplicaRepository
from storage.models import ModelRepository, RegisteredModel, ServiceState

POLL_S: Final = 0.1
REASON: Final = r"^[a-z][a-z0-9-]{0,63}$"


@dataclass(frozen=True, slots=True)
class By:
    """Who acts: for the log, and as the name that stands beside a version."""

    actor: Actor
    name: str
    request_id: str | None = None


class ModelLife:
    """Does one act at a time.

    Args:
        database: Where the registry is.
        model_dir: Where the model files are.
        record: Commits an event and its changes, or raises what refused them.
        timeout_s: How long replicas may take to load a version, in seconds.
        progress: Told how many replicas are ready, of how many.

    Every act raises `AuditUnavailable` where it cannot be recorded; then it has not happened.
    """

    def __init__(
        self,
        database: Database,
        model_dir: Path,
        record: Callable[[AuditEvent], Awaitable[object]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] = lambda _, __: None,
    ) -> None:
        self._database = database
        self._model_dir = model_dir
        self._record = record
        self._timeout_s = timeout_s
        self._progress = progress

    async def register(
        self, candidate: Candidate, by: By, *, within_s: float | None = None
    ) -> RegisteredModel:
        """Examine a model, store its file and record it.

        Args:
            candidate: The model.
            by: Who registers it.
            within_s: How long the examination may take; see `registration.examine`.

        Raises:
            InvalidModel: See `registration.examine`.
            ForbiddenOperator: The same.
            Conflict: There is such a version already.
        """
        await asyncio.to_thread(examine, candidate, within_s=within_s)
        await asyncio.to_thread(install, candidate, self._model_dir)
        model, events = registration_events(candidate, by=by.name)
        for event in events:
            await self._record(_by(event, by))
        return await self.version(model.name, model.version)

    async def approve(self, name: str, version: str, by: By) -> RegisteredModel:
        """Sign a version off.

        Raises:
            IllegalTransition: Its state does not allow it, or it was registered by the same person.
            NotFound: No such version.
        """
        return await self._move(name, version, ModelStatus.APPROVED, by)

    async def retire(self, name: str, version: str, by: By) -> RegisteredModel:
        """Take a version out of use. Raises `IllegalTransition` or `NotFound`."""
        return await self._move(name, version, ModelStatus.RETIRED, by)

    async def activate(self, name: str, version: str, by: By) -> RegisteredModel:
        """Put a version in service once every live replica holds it.

        Raises:
            IllegalTransition: It is not approved.
            InvalidModel: A replica could not load it, or its golden case fails there.
            ModelUnavailable: Not every replica was ready in time.
            Conflict: Somebody else activates another version of the name.
            NotFound: No such version.
        """
        found = await self.version(name, version)
        check_step(found.status, ModelStatus.ACTIVE)
        event = step(found.model, found.status, ModelStatus.ACTIVE, by=by.name)
        return await self._switch(found, event, by)

    async def rollback(self, name: str, by: By) -> RegisteredModel:
        """Put the version in service that served before the present one. Raises as `activate`."""
        previous = (await self.service(name)).previous
        if previous is None:
            raise IllegalTransition(
                "no version of this model served before",
                (Violation("model", advice="activate the version that shall serve"),),
            )
        check_step(previous.status, ModelStatus.ACTIVE)
        event = step(previous.model, previous.status, ModelStatus.ACTIVE, by=by.name)
        event = replace(
            event,
            action=AuditAction.MODEL_ROLLED_BACK,
            description="The version that served before was put in service again.",
        )
        return await self._switch(previous, event, by)

    async def halt(self, name: str, reason: str, by: By) -> None:
        """Have a model answer nothing from now on, whatever is active.

        Raises:
            NotFound: No such model.
            ValidationFailed: `reason` is not a code.
        """
        if not re.fullmatch(REASON, reason):
            limit = "lower-case letters, digits and hyphens, 64 at most"
            raise ValidationFailed("the reason is not a code", (Violation("reason", limit=limit),))
        change = ServiceHalted(name, reason, by.name)
        await self._say(AuditAction.MODEL_HALTED, "A model was halted.", change, by)

    async def resume(self, name: str, by: By) -> None:
        """Let a halted model answer again. Raises `Conflict` where it is not halted."""
        change = ServiceResumed(name, by.name)
        await self._say(AuditAction.MODEL_RESUMED, "A halted model was resumed.", change, by)

    async def version(self, name: str, version: str) -> RegisteredModel:
        """One version. Raises `NotFound`."""
        async with self._database.reading() as session:
            return await ModelRepository(session).version(name, version)

    async def service(self, name: str) -> ServiceState:
        """How a model is served. Raises `NotFound`."""
        async with self._database.reading() as session:
            return await ModelRepository(session).service(name)

    async def replicas(self, name: str) -> tuple[ReplicaReport, ...]:
        """What the live replicas of a model hold."""
        async with self._database.reading() as session:
            return await ReplicaRepository(session).live(name, at=utc_now())

    async def _move(self, name: str, version: str, after: ModelStatus, by: By) -> RegisteredModel:
        found = await self.version(name, version)
        await self._record(_by(step(found.model, found.status, after, by=by.name), by))
        return await self.version(name, version)

    async def _switch(self, found: RegisteredModel, switch: AuditEvent, by: By) -> RegisteredModel:
        staged = VersionStaged(found.model, by.name)
        await self._say(AuditAction.MODEL_STAGED, "Replicas load a model version.", staged, by)
        try:
            await self._until_ready(found)
            await self._record(_by(switch, by))
        except BaseException as error:  # whoever interrupts this must not leave it staged, either
            await asyncio.shield(self._unstage(found, error, by))
            raise
        return await self.version(found.model.name, found.model.version)

    async def _until_ready(self, found: RegisteredModel) -> None:
        """Return once every live replica holds the version; without any, once it was tried here."""
        until = time.monotonic() + self._timeout_s
        while True:
            replicas = _by_replica(await self.replicas(found.model.name), found)
            if not replicas:
                candidate = await asyncio.to_thread(
                    Candidate.of, found.card, self._model_dir / found.path
                )
                await asyncio.to_thread(examine, candidate)
                return
            ready = _ready(replicas)
            self._progress(ready, len(replicas))
            if ready == len(replicas):
                return
            if time.monotonic() > until:
                raise ModelUnavailable(
                    f"{ready} of {len(replicas)} replicas were ready within {self._timeout_s:g} s"
                )
            await asyncio.sleep(POLL_S)
            staged = (await self.service(found.model.name)).staged
            if staged is None or staged.model != found.model:
                raise Conflict("the activation was overtaken by another one")

    async def _unstage(self, found: RegisteredModel, error: BaseException, by: By) -> None:
        code = getattr(error, "code", "interrupted")
        measured: list[ContextValue] = [str(fault) for fault in getattr(error, "violations", ())]
        event = _event(
            AuditAction.MODEL_ACTIVATION_REFUSED,
            "A model version was not put in service.",
            VersionUnstaged(found.model, by.name),
            by,
        )
        context: dict[str, ContextValue] = {"code": code, "measured": measured}
        with contextlib.suppress(MedAIError):  # the first error is the one to tell
            await self._record(replace(event, outcome=AuditOutcome.FAILURE, context=context))

    async def _say(self, action: AuditAction, description: str, change: Change, by: By) -> None:
        await self._record(_event(action, description, change, by))


def _event(action: AuditAction, description: str, change: Change, by: By) -> AuditEvent:
    return AuditEvent(
        event_id=uuid7(),
        action=action,
        description=description,
        actor=by.actor,
        request_id=by.request_id,
        changes=(change,),
    )


def _by(event: AuditEvent, by: By) -> AuditEvent:
    return replace(event, actor=by.actor, request_id=by.request_id)


def _by_replica(
    reports: tuple[ReplicaReport, ...], found: RegisteredModel
) -> dict[str, Holding | None]:
    """For each live replica, how far it is with the version; None where it has not begun."""
    replicas: dict[str, Holding | None] = dict.fromkeys(one.replica_id for one in reports)
    replicas |= {one.replica_id: one.holding for one in reports if one.model == found.model}
    return replicas


def _ready(replicas: dict[str, Holding | None]) -> int:
    """How many are ready. Raises `InvalidModel` where one has failed."""
    holdings = [holding for holding in replicas.values() if holding is not None]
    for holding in holdings:
        if holding.state is ReplicaState.FAILED:
            raise InvalidModel(
                "a replica could not load the version",
                (Violation("replica", holding.reason or "", advice="the old version serves on"),),
            )
    return sum(holding.state is ReplicaState.READY for holding in holdings)
