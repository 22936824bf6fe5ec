"""What changes in how a model name is served: staged, previous and halt; see `registry.lifecycle`.

As in `storage.changes`: one change each, in the caller's transaction, and back comes what the audit
entry says of it.
"""

from datetime import datetime
from typing import TypeAlias

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from registry.contract import ModelRef
from registry.errors import Conflict, IllegalTransition, NotFound, Violation
from registry.events import (
    ServiceHalted,
    ServiceResumed,
    VersionStaged,
    VersionUnstaged,
)
from registry.lifecycle import ModelStatus
from storage.hashchain import Json
from storage.records import model_json
from storage.shadow_changes import shadow_of_name_ends, shadow_of_version_ends
from storage.tables import ModelService, ModelVersion
from storage.upsert import insert_if_absent

Applied: TypeAlias = VersionStaged | VersionUnstaged | ServiceHalted | ServiceResumed


async def apply_to_services(
    session: AsyncSession, change: Applied, *, at: datetime
) -> dict[str, Json]:
    """Do `change` and say what it did.

    Raises:
        Conflict: Another version is being activated, or the model is not halted.
        IllegalTransition: The version that shall be staged is not approved.
        NotFound: No such model or version.
    """
    match change:
        case VersionStaged():
            return await _stage(session, change)
        case VersionUnstaged():
            return await _unstage(session, change)
        case ServiceHalted():
            return await _halt(session, change, at)
        case ServiceResumed():
            return await _resume(session, change)


async def switched(
    session: AsyncSession, model: ModelRef, replaced: ModelRef | None, *, at: datetime
) -> str | None:
    """`model` became active: nothing is staged any longer, and what was before is remembered.

    Returns the id of the comparison that ends with it, where there was one. Raises `Conflict` where
    another version is staged: somebody else is activating that one.
    """
    service = await _service(session, model.name)
    if service.staged_id not in (None, model.id):
        raise Conflict("another version of this model is being activated")
    service.staged_id = None
    if replaced is not None:
        service.previous_id = replaced.id
    await session.flush()
    return await shadow_of_name_ends(session, model.name, at=at)


async def taken_out(session: AsyncSession, model: ModelRef, *, at: datetime) -> str | None:
    """`model` was retired: it is staged and compared no longer.

    Returns the id of the comparison that ends with it, where there was one.
    """
    await _not_staged(session, model)
    return await shadow_of_version_ends(session, model.id, at=at)


async def _stage(session: AsyncSession, change: VersionStaged) -> dict[str, Json]:
    status = await session.scalar(
        select(ModelVersion.status).where(
            ModelVersion.id == change.model.id,
            ModelVersion.model_name == change.model.name,
            ModelVersion.file_hash == change.model.sha256,
        )
    )
    if status is None:
        raise NotFound("no such model version")
    if status != ModelStatus.APPROVED:
        raise IllegalTransition(
            f"the version is {status}, not {ModelStatus.APPROVED}",
            (Violation("status", status, ModelStatus.APPROVED, "approve the version first"),),
        )
    service = await _service(session, change.model.name)
    before, service.staged_id = service.staged_id, change.model.id
    await session.flush()
    return {
        "kind": "version_staged",
        "model": model_json(change.model),
        "by": change.by,
        "before": None if before is None else str(before),
    }


async def _unstage(session: AsyncSession, change: VersionUnstaged) -> dict[str, Json]:
    await _not_staged(session, change.model)
    return {"kind": "version_unstaged", "model": model_json(change.model), "by": change.by}


async def _halt(session: AsyncSession, change: ServiceHalted, at: datetime) -> dict[str, Json]:
    known = await session.scalar(
        select(ModelVersion.id).where(ModelVersion.model_name == change.name).limit(1)
    )
    if known is None:
        raise NotFound("no such model", (Violation("model"),))
    service = await _service(session, change.name)
    before = service.halt_reason
    service.halt_reason, service.halted_at = change.reason, at
    await session.flush()
    shadow = await shadow_of_name_ends(session, change.name, at=at)
    applied: dict[str, Json] = {
        "kind": "service_halted",
        "name": change.name,
        "reason": change.reason,
        "before": before,
        "by": change.by,
    }
    return applied if shadow is None else applied | {"shadow_ended": shadow}


async def _resume(session: AsyncSession, change: ServiceResumed) -> dict[str, Json]:
    service = await session.get(ModelService, change.name)
    if service is None or service.halt_reason is None:
        raise Conflict("the model is not halted")
    before = service.halt_reason
    service.halt_reason = service.halted_at = None
    await session.flush()
    return {"kind": "service_resumed", "name": change.name, "before": before, "by": change.by}


async def _not_staged(session: AsyncSession, model: ModelRef) -> None:
    await session.execute(
        update(ModelService).where(ModelService.staged_id == model.id).values(staged_id=None)
    )


async def _service(session: AsyncSession, name: str) -> ModelService:
    """The row of a model name; made where this is the first thing said of it."""
    await insert_if_absent(session, ModelService, model_name=name)
    service = await session.get(ModelService, name, populate_existing=True)
    assert service is not None
    return service
