"""A challenger begins or ceases to be compared; as in `storage.service_changes`.

Whatever changes how the name is served ends the comparison in the same transaction: what it
compares would no longer be what it says.
"""

from datetime import datetime
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import ColumnElement, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from registry.card import ModelCard
from registry.contract import ModelRef
from registry.errors import (
    Conflict,
    IllegalTransition,
    InvalidModel,
    NotFound,
    ValidationFailed,
    Violation,
)
from registry.events import ShadowEnded, ShadowStarted
from registry.lifecycle import ModelStatus
from registry.shadow import MAX_SHARE, check_comparable
from storage.hashchain import Json
from storage.records import decimal, model_json
from storage.shadow_tables import ModelShadow
from storage.tables import ModelService, ModelVersion


async def apply_to_shadows(
    session: AsyncSession, change: ShadowStarted | ShadowEnded, *, at: datetime
) -> dict[str, Json]:
    """Do `change` and say what it did.

    Raises:
        Conflict: There is a challenger already, or none; or nothing answers.
        IllegalTransition: The version is not approved, or cannot be compared.
        NotFound: No such version.
        ValidationFailed: The share is not one.
    """
    if isinstance(change, ShadowStarted):
        return await _start(session, change, at)
    ended = await _ended(session, _open(change.name), at)
    if ended is None:
        raise Conflict("no challenger of this model is in the shadow")
    return {"kind": "shadow_ended", "name": change.name, "shadow_id": ended, "by": change.by}


async def shadow_of_name_ends(session: AsyncSession, name: str, *, at: datetime) -> str | None:
    """End the comparison of a name whose service changes. Returns its id, where there was one."""
    return await _ended(session, _open(name), at)


async def shadow_of_version_ends(
    session: AsyncSession, version_id: UUID, *, at: datetime
) -> str | None:
    """End the comparison that a version takes part in. Returns its id, where there was one."""
    part = or_(ModelShadow.challenger_id == version_id, ModelShadow.answering_id == version_id)
    return await _ended(session, part & ModelShadow.ended_at.is_(None), at)


async def _start(session: AsyncSession, change: ShadowStarted, at: datetime) -> dict[str, Json]:
    if not 0 < change.share <= MAX_SHARE:
        raise ValidationFailed(
            "the share is not one", (Violation("share", f"{change.share:g}", "above 0, at most 1"),)
        )
    challenger = await _challenger(session, change.model)
    answering = await _answering(session, change.model.name)
    check_comparable(_card(answering), _card(challenger))
    await session.execute(
        insert(ModelShadow).values(
            id=change.shadow_id,
            model_name=change.model.name,
            answering_id=answering.id,
            challenger_id=challenger.id,
            share=change.share,
            started_at=at,
        )
    )
    return {
        "kind": "shadow_started",
        "shadow_id": str(change.shadow_id),
        "model": model_json(change.model),
        "answering": model_json(_ref(answering)),
        "share": decimal(change.share),
        "by": change.by,
    }


async def _challenger(session: AsyncSession, model: ModelRef) -> ModelVersion:
    row = await _version(session, ModelVersion.id == model.id)
    if row is None or (row.model_name, row.file_hash) != (model.name, model.sha256):
        raise NotFound("no such model version")
    if row.status != ModelStatus.APPROVED:
        approved = ModelStatus.APPROVED
        raise IllegalTransition(
            f"the version is {row.status}, not {approved}",
            (Violation("status", row.status, approved, "approve the version first"),),
        )
    return row


async def _answering(session: AsyncSession, name: str) -> ModelVersion:
    """The active version, where it answers and nothing is compared with it yet."""
    row = await _version(
        session, ModelVersion.model_name == name, ModelVersion.status == ModelStatus.ACTIVE
    )
    if row is None:
        raise Conflict("no version of this model answers, so there is nothing to compare with")
    service = await session.get(ModelService, name, populate_existing=True)
    if service is not None and service.halt_reason is not None:
        raise Conflict("the model is halted, so there is nothing to compare with")
    if await session.scalar(select(ModelShadow.id).where(_open(name))) is not None:
        raise Conflict(
            "this model has a challenger already",
            (Violation("model", advice="end that comparison first"),),
        )
    return row


async def _ended(session: AsyncSession, condition: ColumnElement[bool], at: datetime) -> str | None:
    """End the open comparison of which `condition` holds. Returns its id, where there was one."""
    ended = await session.execute(
        update(ModelShadow).where(condition).values(ended_at=at).returning(ModelShadow.id)
    )
    row = ended.first()
    return None if row is None else str(row.id)


def _open(name: str) -> ColumnElement[bool]:
    return (ModelShadow.model_name == name) & ModelShadow.ended_at.is_(None)


async def _version(session: AsyncSession, *conditions: ColumnElement[bool]) -> ModelVersion | None:
    row: ModelVersion | None = await session.scalar(
        select(ModelVersion).where(*conditions).execution_options(populate_existing=True)
    )
    return row


def _ref(row: ModelVersion) -> ModelRef:
    return ModelRef(row.id, row.model_name, row.version, row.file_hash)


def _card(row: ModelVersion) -> ModelCard:
    try:
        return ModelCard.model_validate_json(row.card)
    except ValidationError:
        raise InvalidModel("a stored card cannot be read by this release") from None
