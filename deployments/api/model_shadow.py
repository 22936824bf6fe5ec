"""The routes of challengers: put one in the shadow, take it out, read the comparison.

What they do is in `inference.shadow_life`. An act is done to its end also where its caller leaves.
"""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.api.account import BODY_PROBLEMS
from deployments.api.completion import to_completion
from deployments.api.exchange import principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.json_bodies import MAX_JSON_BYTES, json_body, read_json
from deployments.api.model_admin import STEP_PROBLEMS
from deployments.api.permissions import Permission, requires
from deployments.api.problems import problems
from deployments.inference.model_life import By
from deployments.inference.shadow_life import DEFAULT_SHARE, ShadowLife, ShadowReport
from registry import errors
from registry.card import ModelName, SemanticVersion
from registry.events import Actor


class ShadowRequest(BaseModel):
    """How much a challenger scores."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(
        default=DEFAULT_SHARE, gt=0, le=1, description="of the active version's calls"
    )


def routes(life: ShadowLife) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("administration")

    @router.post(
        "/admin/models/{name}/{version}/shadow",
        summary="Compare a model version with the one that answers",
        openapi_extra=json_body(ShadowRequest),
        responses=problems(*BODY_PROBLEMS, *STEP_PROBLEMS, errors.InvalidModel),
    )
    @requires(Permission.MODELS_MANAGE, max_body_bytes=MAX_JSON_BYTES)
    async def start(request: Request, name: ModelName, version: SemanticVersion) -> ShadowReport:
        """It scores what was answered, and nobody hears it. No answer waits for it.

        An activation, a halt and a retirement of either version end the comparison.
        """
        wanted = await read_json(request, ShadowRequest)
        return await to_completion(life.start(name, version, wanted.share, _by(request)))

    @router.post(
        "/admin/models/{name}/shadow/end",
        summary="Compare a challenger no longer",
        responses=problems(*STEP_PROBLEMS),
    )
    @requires(Permission.MODELS_MANAGE)
    async def end(request: Request, name: ModelName) -> ShadowReport:
        """What was counted stays."""
        return await to_completion(life.end(name, _by(request)))

    @router.get(
        "/admin/models/{name}/shadow",
        summary="Read how a challenger compares",
        responses=problems(errors.NotFound, errors.ValidationFailed, errors.DatabaseUnavailable),
    )
    @requires(Permission.MODELS_MANAGE)
    async def report(name: ModelName) -> ShadowReport:
        """The newest comparison, also where it has ended; a few seconds old."""
        return await life.report(name)

    return router


def _by(request: Request) -> By:
    principal = principal_of(request)
    return By(Actor.user(principal), f"user:{principal.user_id}", request_id_of(request))
