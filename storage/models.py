"""The registered model versions, read in the caller's transaction; `storage.changes` writes."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.card import ModelCard
from registry.catalogue import Catalogue, Served, Shadow
from registry.contract import ModelRef
from registry.errors import InvalidModel, NotFound, Violation
from registry.lifecycle import ModelStatus
from storage.shadow_tables import ModelShadow
from storage.tables import ModelService, ModelVersion


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """One version and where it stands. `path` is relative to the model directory."""

    model: ModelRef
    card: ModelCard
    status: ModelStatus
    path: str
    size_bytes: int
    registered_by: str
    approved_by: str | None
    created_at: datetime
    status_changed_at: datetime


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How a model name is served: see `registry.lifecycle`."""

    name: str
    active: RegisteredModel | None
    staged: RegisteredModel | None = None
    previous: RegisteredModel | None = None
    halt_reason: str | None = None
    halted_at: datetime | None = None


class ModelRepository:
    """The model versions, in the caller's transaction.

    Every method raises `InvalidModel` where a stored card is not one this release reads: a card
    decides what may be said of an image, so none is guessed.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def catalogue(self, model_dir: Path) -> Catalogue:
        """What serves, is staged, halted and compared; files by their paths under `model_dir`."""
        rows = await self._session.execute(_CATALOGUE)
        active: list[Served] = []
        staged: list[Served] = []
        shadows: list[Shadow] = []
        halts: dict[str, str] = {}
        for version, staged_id, halt_reason, shadow_id, answering_id, challenger_id, share in rows:
            served = _served(_registered(version), model_dir)
            if version.status == ModelStatus.ACTIVE:
                active.append(served)
            if version.id == staged_id:
                staged.append(served)
            if halt_reason is not None:
                halts[version.model_name] = halt_reason
            if version.id == challenger_id:
                shadows.append(Shadow(shadow_id, answering_id, served, share))
        return Catalogue(active, staged=staged, halts=halts, shadows=shadows)

    async def servable(self, model_id: UUID, model_dir: Path) -> Served:
        """A version that was signed off, by its id. Raises `NotFound`."""
        row = await self._session.scalar(
            select(ModelVersion).where(
                ModelVersion.id == model_id,
                ModelVersion.status.in_((ModelStatus.APPROVED, ModelStatus.ACTIVE)),
            )
        )
        if row is None:
            raise NotFound("no such model version")
        return _served(_registered(row), model_dir)

    async def service(self, name: str) -> ServiceState:
        """How a model name is served. Raises `NotFound` where no version has it."""
        rows = tuple(
            await self._session.scalars(select(ModelVersion).where(ModelVersion.model_name == name))
        )
        if not rows:
            raise NotFound("no such model", (Violation("model"),))
        service = await self._session.get(ModelService, name)
        by_id = {row.id: row for row in rows}
        active = next((row for row in rows if row.status == ModelStatus.ACTIVE), None)

        def known(row: ModelVersion | None) -> RegisteredModel | None:
            return None if row is None else _registered(row)

        if service is None:
            return ServiceState(name, known(active))
        return ServiceState(
            name,
            known(active),
            known(by_id.get(service.staged_id)) if service.staged_id else None,
            known(by_id.get(service.previous_id)) if service.previous_id else None,
            service.halt_reason,
            service.halted_at,
        )

    async def version(self, name: str, version: str) -> RegisteredModel:
        """One version. Raises `NotFound`."""
        row = await self._session.scalar(
            select(ModelVersion).where(
                ModelVersion.model_name == name, ModelVersion.version == version
            )
        )
        if row is None:
            raise NotFound("no such model version", (Violation("model"), Violation("version")))
        return _registered(row)

    async def listed(self, name: str | None = None) -> tuple[RegisteredModel, ...]:
        """Every version, or those of one name; by name, then the newest first."""
        wanted = select(ModelVersion).order_by(*_ORDER)
        if name is not None:
            wanted = wanted.where(ModelVersion.model_name == name)
        return tuple(_registered(row) for row in await self._session.scalars(wanted))

    async def page(
        self,
        page: int,
        size: int,
        *,
        clinical_domain: str | None = None,
        status: ModelStatus | None = None,
    ) -> tuple[tuple[RegisteredModel, ...], int]:
        """One page (from 1) of the versions in the order of `listed`, and how many there are."""
        wanted = [
            column == value
            for column, value in (
                (ModelVersion.clinical_domain, clinical_domain),
                (ModelVersion.status, status),
            )
            if value is not None
        ]
        total = await self._session.scalar(
            select(func.count()).select_from(ModelVersion).where(*wanted)
        )
        rows = await self._session.scalars(
            select(ModelVersion)
            .where(*wanted)
            .order_by(*_ORDER)
            .offset((page - 1) * size)
            .limit(size)
        )
        return tuple(map(_registered, rows)), total or 0


_CATALOGUE = (
    select(
        ModelVersion,
        ModelService.staged_id,
        ModelService.halt_reason,
        ModelShadow.id,
        ModelShadow.answering_id,
        ModelShadow.challenger_id,
        ModelShadow.share,
    )
    .outerjoin(ModelService, ModelService.model_name == ModelVersion.model_name)
    .outerjoin(
        ModelShadow,
        (ModelShadow.model_name == ModelVersion.model_name) & ModelShadow.ended_at.is_(None),
    )
    .where(
        or_(
            ModelVersion.status == ModelStatus.ACTIVE,
            ModelVersion.id == ModelService.staged_id,
            ModelVersion.id == ModelShadow.challenger_id,
        )
    )
)
_ORDER = (ModelVersion.model_name, ModelVersion.created_at.desc(), ModelVersion.id.desc())


@lru_cache(maxsize=256)
def _card(text: str) -> ModelCard:
    """A card never changes, and every process reads the active ones twice a second."""
    return ModelCard.model_validate_json(text)


def _registered(row: ModelVersion) -> RegisteredModel:
    try:
        card = _card(row.card)
    except ValidationError:
        raise InvalidModel(
            "a stored card cannot be read by this release",
            (Violation("model", f"{row.model_name} {row.version}"),),
        ) from None
    return RegisteredModel(
        model=ModelRef(row.id, row.model_name, row.version, row.file_hash),
        card=card,
        status=ModelStatus(row.status),
        path=row.file_path,
        size_bytes=row.file_size_bytes,
        registered_by=row.registered_by,
        approved_by=row.approved_by,
        created_at=row.created_at,
        status_changed_at=row.status_changed_at,
    )


def _served(version: RegisteredModel, model_dir: Path) -> Served:
    return Served(version.model, version.card, str(model_dir.absolute() / version.path))
