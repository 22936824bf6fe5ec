"""The routes that change models: approve, activate, roll back, halt, resume, retire; and replicas.

What they do is in `inference.model_life`; the uploader and the approver are the users who ask. An
act is done to its end also where its caller leaves.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.api.account import BODY_PROBLEMS, RECORD_PROBLEMS
from deployments.api.completion import to_completion
from deployments.api.exchange import principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.json_bodies import MAX_JSON_BYTES, json_body, read_json
from deployments.api.models import ModelSummary, summary
from deployments.api.permissions import Permission, requires
from deployments.api.problems import problems
from deployments.inference.model_life import REASON, By, ModelLife
from registry import errors
from registry.card import ModelName, SemanticVersion
from registry.events import Actor
from registry.lifecycle import ReplicaState

ANSWER_WITHIN_S: Final = 45.0  # Ray Serve ends a request after 60 s (serve_config.yaml)
STEP_PROBLEMS: Final = (
    errors.ValidationFailed,
    errors.NotFound,
    errors.IllegalTransition,
    errors.Conflict,
    *RECORD_PROBLEMS,
)
SWITCH_PROBLEMS: Final = (*STEP_PROBLEMS, errors.InvalidModel, errors.ForbiddenOperator)


class HaltRequest(BaseModel):
    """Why a model must not answer."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(pattern=REASON, description="a code", examples=["wrong-answers"])


class Holding(BaseModel):
    """How far one replica is with one version."""

    model_config = ConfigDict(extra="forbid")

    replica: str
    version_id: UUID
    version: str = Field(examples=["1.1.0"])
    state: ReplicaState
    reason: str | None = Field(description="why it failed")
    heartbeat_at: datetime


class ServiceDetails(BaseModel):
    """How a model is served."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["cxr-pneumonia"])
    active: ModelSummary | None
    staged: ModelSummary | None = Field(description="what replicas load to be activated")
    previous: ModelSummary | None = Field(description="where a rollback leads")
    halt_reason: str | None
    halted_at: datetime | None
    replicas: list[Holding]


def routes(life: ModelLife) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("administration")
    _add_steps(router, life)
    _add_switches(router, life)
    _add_halts(router, life)
    return router


def _add_steps(router: APIRouter, life: ModelLife) -> None:
    @router.post(
        "/admin/models/{name}/{version}/approve",
        summary="Approve a model version",
        responses=problems(*STEP_PROBLEMS),
    )
    @requires(Permission.MODELS_MANAGE)
    async def approve(request: Request, name: ModelName, version: SemanticVersion) -> ModelSummary:
        """Sign a validated version off. Never by who registered it."""
        return summary(await to_completion(life.approve(name, version, _by(request))))

    @router.post(
        "/admin/models/{name}/{version}/retire",
        summary="Retire a model version",
        responses=problems(*STEP_PROBLEMS),
    )
    @requires(Permission.MODELS_MANAGE)
    async def retire(request: Request, name: ModelName, version: SemanticVersion) -> ModelSummary:
        """Take a version out of use, also the active one."""
        return summary(await to_completion(life.retire(name, version, _by(request))))


def _add_switches(router: APIRouter, life: ModelLife) -> None:
    @router.post(
        "/admin/models/{name}/{version}/activate",
        summary="Put a model version in service",
        responses=problems(*SWITCH_PROBLEMS, errors.ModelUnavailable),
    )
    @requires(Permission.MODELS_MANAGE)
    async def activate(request: Request, name: ModelName, version: SemanticVersion) -> ModelSummary:
        """Answers once every live replica has loaded and tested it, and it serves.

        Where one cannot, the old version serves on, and the problem says why.
        """
        return summary(await to_completion(life.activate(name, version, _by(request))))

    @router.post(
        "/admin/models/{name}/rollback",
        summary="Put the version before in service again",
        responses=problems(*SWITCH_PROBLEMS, errors.ModelUnavailable),
    )
    @requires(Permission.MODELS_MANAGE)
    async def rollback(request: Request, name: ModelName) -> ModelSummary:
        """Activates the version that served before the present one."""
        return summary(await to_completion(life.rollback(name, _by(request))))

    @router.get(
        "/admin/models/{name}/replicas",
        summary="See how a model is served",
        responses=problems(errors.NotFound, errors.ValidationFailed, errors.DatabaseUnavailable),
    )
    @requires(Permission.MODELS_MANAGE)
    async def replicas(name: ModelName) -> ServiceDetails:
        """Which version serves, is staged and served before; halts; and what each replica holds."""
        return await _details(life, name)


def _add_halts(router: APIRouter, life: ModelLife) -> None:
    @router.post(
        "/admin/models/{name}/halt",
        summary="Halt a model",
        openapi_extra=json_body(HaltRequest),
        responses=problems(*BODY_PROBLEMS, errors.NotFound, *RECORD_PROBLEMS),
    )
    @requires(Permission.MODELS_MANAGE, max_body_bytes=MAX_JSON_BYTES)
    async def halt(request: Request, name: ModelName) -> ServiceDetails:
        """From a second later on it answers nothing but `model-halted`, until it is resumed."""
        wanted = await read_json(request, HaltRequest)
        await to_completion(life.halt(name, wanted.reason, _by(request)))
        return await _details(life, name)

    @router.post(
        "/admin/models/{name}/resume",
        summary="Resume a halted model",
        responses=problems(
            errors.NotFound, errors.ValidationFailed, errors.Conflict, *RECORD_PROBLEMS
        ),
    )
    @requires(Permission.MODELS_MANAGE)
    async def resume(request: Request, name: ModelName) -> ServiceDetails:
        """It answers again."""
        await to_completion(life.resume(name, _by(request)))
        return await _details(life, name)


def _by(request: Request) -> By:
    principal = principal_of(request)
    return By(Actor.user(principal), f"user:{principal.user_id}", request_id_of(request))


async def _details(life: ModelLife, name: str) -> ServiceDetails:
    service, reports = await life.service(name), await life.replicas(name)

    return ServiceDetails(
        name=name,
        active=None if service.active is None else summary(service.active),
        staged=None if service.staged is None else summary(service.staged),
        previous=None if service.previous is None else summary(service.previous),
        halt_reason=service.halt_reason,
        halted_at=service.halted_at,
        replicas=[
            Holding(
                replica=one.replica_id,
                version_id=one.model.id,
                version=one.model.version,
                state=one.holding.state,
                reason=one.holding.reason,
                heartbeat_at=one.heartbeat_at,
            )
            for one in reports
        ],
    )
