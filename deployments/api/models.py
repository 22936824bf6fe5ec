"""The registered models: what each is for, how good it is, and where its limits are."""

from datetime import datetime
from difflib import get_close_matches
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.api.guard import guarded_router
from deployments.api.pages import (
    DEFAULT_SIZE,
    MAX_SIZE,
    Links,
    Page,
    Size,
    numbered_links,
    refuse_others,
)
from deployments.api.permissions import Permission, requires
from deployments.api.problems import problems
from registry import errors
from registry.card import ModelCard
from registry.errors import NotFound, Violation
from registry.lifecycle import ModelStatus
from storage.database import Database
from storage.models import ModelRepository, RegisteredModel

MAX_NAME = 63
PARAMETERS = frozenset({"clinical_domain", "page", "size", "status"})


class ModelSummary(BaseModel):
    """One version of one model."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    name: str = Field(examples=["cxr-pneumonia"])
    version: str = Field(examples=["1.0.0"])
    status: ModelStatus
    clinical_domain: str = Field(examples=["chest-xray"])
    confidence_threshold: float = Field(ge=0, le=1)
    labels: list[str]
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int
    created_at: datetime
    status_changed_at: datetime


class ModelDetails(ModelSummary):
    """One version, with its card, and the other versions of its name."""

    card: ModelCard
    versions: list[ModelSummary]


class ModelPage(BaseModel):
    """A page of versions, by name, then the newest first."""

    model_config = ConfigDict(extra="forbid")

    items: list[ModelSummary]
    page: int = Field(ge=1)
    size: int = Field(ge=1, le=MAX_SIZE)
    total: int = Field(ge=0)
    links: Links


def routes(database: Database) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("models")

    @router.get(
        "/models",
        summary="List the models",
        responses=problems(errors.ValidationFailed, errors.DatabaseUnavailable),
    )
    @requires(Permission.MODELS_READ)
    async def listed(
        request: Request,
        page: Page = 1,
        size: Size = DEFAULT_SIZE,
        clinical_domain: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
        status: ModelStatus | None = None,
    ) -> ModelPage:
        """Every registered version. `active` ones answer `/infer`."""
        refuse_others(request, PARAMETERS)
        versions, total = await database.read(
            lambda session: ModelRepository(session).page(
                page, size, clinical_domain=clinical_domain, status=status
            )
        )
        filters = {"clinical_domain": clinical_domain, "status": status}
        return ModelPage(
            items=[summary(version) for version in versions],
            page=page,
            size=size,
            total=total,
            links=numbered_links(request, filters, page=page, size=size, total=total),
        )

    @router.get(
        "/models/{model}",
        summary="Read one model",
        responses=problems(errors.NotFound, errors.DatabaseUnavailable),
    )
    @requires(Permission.MODELS_READ)
    async def one(model: str) -> ModelDetails:
        """A version by its id, or the active version of a name."""
        versions = await database.read(lambda session: ModelRepository(session).listed())
        return details(find(versions, model), versions)

    return router


def details(found: RegisteredModel, versions: tuple[RegisteredModel, ...]) -> ModelDetails:
    """One version, and of all `versions` those of its name."""
    return ModelDetails(
        **summary(found).model_dump(),
        card=found.card,
        versions=[
            summary(version) for version in versions if version.model.name == found.model.name
        ],
    )


def find(versions: tuple[RegisteredModel, ...], wanted: str) -> RegisteredModel:
    """The version with this id, or the active one of this name. Raises `NotFound`."""
    for version in versions:
        if str(version.model.id) == wanted.lower():
            return version
        if version.model.name == wanted and version.status is ModelStatus.ACTIVE:
            return version
    names = sorted({version.model.name for version in versions})
    near = get_close_matches(wanted, names, n=1) if len(wanted) <= MAX_NAME else []
    if near == [wanted]:
        advice = "no version of it is active: name one by its id"
    else:
        advice = f"did you mean {near[0]}?" if near else "GET /models lists the names"
    raise NotFound("no such model", (Violation("model", advice=advice),))


def summary(version: RegisteredModel) -> ModelSummary:
    """What the list shows of a version."""
    return ModelSummary(
        id=version.model.id,
        name=version.model.name,
        version=version.model.version,
        status=version.status,
        clinical_domain=version.card.clinical_domain,
        confidence_threshold=version.card.confidence_threshold,
        labels=list(version.card.output.labels),
        sha256=version.model.sha256,
        size_bytes=version.size_bytes,
        created_at=version.created_at,
        status_changed_at=version.status_changed_at,
    )
