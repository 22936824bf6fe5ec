"""What an event changes, applied in the transaction that records it. Models here, accounts beside.

Each function does one change and gives back what the audit entry says of it: the new values, and
the old ones where there were any. Never a password hash, never an e-mail address. A change that the
present state refuses raises, and the ledger then records neither it nor its entry.
"""

import hashlib
from datetime import datetime
from pathlib import PurePosixPath
from typing import TypeAlias

from pydantic import ValidationError
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from registry.card import ModelCard
from registry.contract import ModelRef
from registry.errors import Conflict, IllegalTransition, InvalidModel, NotFound, Violation
from registry.events import (
    AccountChange,
    ModelTransition,
    NewModelVersion,
    PatientErased,
    ServiceChange,
    ServiceHalted,
    ServiceResumed,
    ShadowEnded,
    ShadowStarted,
    VersionStaged,
    VersionUnstaged,
)
from registry.lifecycle import ModelStatus, check_step
from storage.account_changes import apply_to_accounts
from storage.erasure import erase_patient
from storage.hashchain import Json
from storage.records import decimal, model_json
from storage.service_changes import apply_to_services, switched, taken_out
from storage.shadow_changes import apply_to_shadows
from storage.tables import ModelVersion

# Results are not among them: they are many, read nothing, and are inserted a group at a time.
Applied: TypeAlias = (
    AccountChange | NewModelVersion | ModelTransition | ServiceChange | PatientErased
)


async def apply(session: AsyncSession, change: Applied, *, at: datetime) -> dict[str, Json]:
    """Do `change` and say what it did, as a part of the audit payload.

    Raises:
        Conflict: A constraint or another's change stands in the way.
        IllegalTransition: The model version's status does not allow the step.
        InvalidModel: The card is not that of this version.
        NotFound: No such model version, or no result of the patient.
    """
    match change:
        case NewModelVersion():
            return await _new_model_version(session, change, at)
        case ModelTransition():
            return await _model_transition(session, change, at)
        case VersionStaged() | VersionUnstaged() | ServiceHalted() | ServiceResumed():
            return await apply_to_services(session, change, at=at)
        case ShadowStarted() | ShadowEnded():
            return await apply_to_shadows(session, change, at=at)
        case PatientErased():
            return await erase_patient(session, change)
        case _:
            return await apply_to_accounts(session, change, at=at)


async def _new_model_version(
    session: AsyncSession, change: NewModelVersion, at: datetime
) -> dict[str, Json]:
    _check_card(change)
    _check_path(change.path)
    await session.execute(
        insert(ModelVersion).values(
            id=change.model.id,
            created_at=at,
            status_changed_at=at,
            model_name=change.model.name,
            version=change.model.version,
            status=ModelStatus.REGISTERED,
            file_path=change.path,
            file_hash=change.model.sha256,
            file_size_bytes=change.size_bytes,
            clinical_domain=change.clinical_domain,
            confidence_threshold=change.confidence_threshold,
            card=change.card,
            registered_by=change.registered_by,
        )
    )
    return {
        "kind": "new_model_version",
        "model": model_json(change.model),
        "status": str(ModelStatus.REGISTERED),
        "card_sha256": hashlib.sha256(change.card.encode()).hexdigest(),
        "path": change.path,
        "size_bytes": change.size_bytes,
        "clinical_domain": change.clinical_domain,
        "confidence_threshold": decimal(change.confidence_threshold),
        "registered_by": change.registered_by,
    }


async def _model_transition(
    session: AsyncSession, change: ModelTransition, at: datetime
) -> dict[str, Json]:
    check_step(change.before, change.after)
    replaced = shadow = None
    if change.after is ModelStatus.ACTIVE:
        replaced = await _step_back(session, change.model, at)
        shadow = await switched(session, change.model, replaced, at=at)
    elif change.after is ModelStatus.RETIRED:
        shadow = await taken_out(session, change.model, at=at)
    values: dict[str, object] = {"status": change.after, "status_changed_at": at}
    signed_off = change.after is ModelStatus.APPROVED and change.before is not ModelStatus.ACTIVE
    if signed_off:
        await _refuse_the_uploader(session, change)
        values["approved_by"] = change.by
    moved = await session.execute(
        update(ModelVersion)
        .where(
            ModelVersion.id == change.model.id,
            ModelVersion.model_name == change.model.name,
            ModelVersion.version == change.model.version,
            ModelVersion.file_hash == change.model.sha256,  # signed off is this file, no other
            ModelVersion.status == change.before,
        )
        .values(values)
        .returning(ModelVersion.id)
    )
    if moved.first() is None:
        raise await _refusal(session, change)
    applied: dict[str, Json] = {
        "kind": "model_transition",
        "model": model_json(change.model),
        "before": str(change.before),
        "after": str(change.after),
        "by": change.by,
        "replaced": None if replaced is None else model_json(replaced),
    }
    return applied if shadow is None else applied | {"shadow_ended": shadow}


async def _refuse_the_uploader(session: AsyncSession, change: ModelTransition) -> None:
    """Two people see a version before it serves (21 CFR 11.10(j), IEC 62304 8.2.1)."""
    uploader = await session.scalar(
        select(ModelVersion.registered_by).where(ModelVersion.id == change.model.id)
    )
    if uploader == change.by:
        raise IllegalTransition(
            "who registered a version cannot approve it",
            (
                Violation(
                    "approved_by",
                    change.by,
                    "anybody else",
                    "have a second person approve it: `medai models approve --as USER` asks an"
                    " administrator's password, `medai users add` makes one",
                ),
            ),
        )


async def _step_back(session: AsyncSession, model: ModelRef, at: datetime) -> ModelRef | None:
    """Move the version that serves under this name back to approved, if there is one."""
    moved = await session.execute(
        update(ModelVersion)
        .where(
            ModelVersion.model_name == model.name,
            ModelVersion.status == ModelStatus.ACTIVE,
            ModelVersion.id != model.id,
        )
        .values(status=ModelStatus.APPROVED, status_changed_at=at)
        .returning(ModelVersion.id, ModelVersion.version, ModelVersion.file_hash)
    )
    row = moved.first()
    if row is None:
        return None
    return ModelRef(row.id, model.name, row.version, row.file_hash)


async def _refusal(
    session: AsyncSession, change: ModelTransition
) -> NotFound | IllegalTransition | Conflict:
    """Why no row was moved."""
    row = (
        await session.execute(
            select(ModelVersion.status, ModelVersion.file_hash).where(
                ModelVersion.id == change.model.id
            )
        )
    ).first()
    if row is None:
        return NotFound("no such model version")
    if row.status == change.before:
        return Conflict("the version's name, number or file is not the one named")
    return IllegalTransition(
        f"the version is {row.status}, not {change.before}",
        (Violation("status", row.status, change.before, "read the version's status again"),),
    )


def _check_card(change: NewModelVersion) -> None:
    """The card decides what is served, so what is stored beside it must not say otherwise."""
    try:
        card = ModelCard.model_validate_json(change.card)
    except ValidationError:
        raise InvalidModel("the card cannot be read") from None
    model = change.model
    rules = (
        ("name", model.name == card.name),
        ("version", model.version == card.version),
        ("sha256", model.sha256 == card.sha256),
        ("clinical_domain", change.clinical_domain == card.clinical_domain),
        ("confidence_threshold", change.confidence_threshold == card.confidence_threshold),
    )
    broken = tuple(
        Violation(name, limit="what the card says") for name, holds in rules if not holds
    )
    if broken:
        raise InvalidModel("the card is of another version", broken)


def _check_path(path: str) -> None:
    """The file's place is relative to the model directory and stays inside it."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.name:
        raise InvalidModel("the file's place is not inside the model directory")
