"""The HTTP application, put together from the services of one gateway.

Nothing happens before `create_app` is called; nothing runs before the lifespan begins.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.responses import Response

from configs.settings import AuthSettings, LimitSettings, ModelSettings, ServerSettings
from deployments.api import (
    account,
    admin,
    audit_log,
    auth,
    batch,
    documentation,
    health,
    infer,
    metrics,
    model_admin,
    model_shadow,
    model_upload,
    models,
    result_list,
    results,
    users,
)
from deployments.api.denials import Denials
from deployments.api.exchange import exchange_in
from deployments.api.guard import public_paths, recognising_paths, refuse_unguarded
from deployments.api.health import HealthChecks
from deployments.api.idempotency import Replays
from deployments.api.login import Login
from deployments.api.metrics import Counts
from deployments.api.middleware import Authentication, Envelope
from deployments.api.model_upload import ModelUploads
from deployments.api.password_changes import PasswordChanges
from deployments.api.passwords import Passwords
from deployments.api.problems import from_http, from_validation, problem
from deployments.api.rate_limits import RateLimits
from deployments.api.refresh import Refresh
from deployments.api.session_tokens import SessionTokens
from deployments.api.sessions import Sessions
from deployments.api.tokens import AccessTokens
from deployments.api.tracing import RequestTraces
from deployments.api.trail import Trail
from deployments.api.uploads import Uploads
from deployments.api.user_administration import UserAdministration
from deployments.inference.model_life import ModelLife
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.service import AuditTrail, InferenceService
from deployments.inference.shadow_life import ShadowLife
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_exposition import MetricsPage
from registry.events import AuditEvent
from storage.database import Database

if TYPE_CHECKING:  # OpenTelemetry is loaded only where tracing is on
    from deployments.telemetry.tracing import Tracing

# FastAPI's own would give exceptions' texts, stack traces and rejected values to whatever sets
# OpenTelemetry's global providers, or to OTEL_EXPORTER_OTLP_ENDPOINT. Ours is `api.tracing`.
NO_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


@dataclass(frozen=True, slots=True)
class Services:
    """What the application stands on.

    The lifespan starts and ends `sessions`, and ends the checks of `health`, the threads of
    `passwords` and the connections of `rate_limits`; whoever made the others closes them.
    """

    inference: InferenceService
    audit: AuditTrail
    database: Database
    tokens: AccessTokens
    sessions: Sessions
    passwords: Passwords
    pseudonyms: Pseudonyms
    health: HealthChecks
    limits: LimitSettings
    auth: AuthSettings
    models: ModelSettings
    model_dir: Path
    rate_limits: RateLimits
    counts: Counts = field(default_factory=lambda: Counts(Instruments("gateway")))
    metrics: MetricsPage = field(default_factory=lambda: MetricsPage.of_node(ServerSettings()))
    tracing: "Tracing | None" = None


def create_app(services: Services, *, docs: bool = True) -> FastAPI:
    """The application.

    Args:
        services: What it stands on.
        docs: Whether `/docs` and `/openapi.json` are served.

    Raises:
        InvalidConfiguration: A route declares no permission.
    """
    trail = Trail(
        services.audit,
        timeout_s=services.limits.audit_timeout_s,
        observe=services.counts.recorded,
    )
    denials = Denials(trail)
    app = FastAPI(
        title="MedAI Flow",
        version=version("medai-flow"),
        description=documentation.DESCRIPTION,
        openapi_url=None,  # ours is a guarded route like any other
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(services, denials),
        telemetry=NO_TELEMETRY,
    )
    database, passwords, sessions = services.database, services.passwords, services.sessions
    tokens = SessionTokens(services.tokens, services.auth)
    login = Login(database, passwords, tokens, trail)
    refresh = Refresh(database, tokens, sessions, trail, denials)
    changes = PasswordChanges(database, passwords, tokens, sessions, trail, denials, services.auth)
    administration = UserAdministration(database, passwords, changes, sessions, trail)
    replays = Replays(services.inference, services.database)
    uploads = Uploads(services.pseudonyms, services.limits)
    routers = [
        infer.routes(replays, uploads),
        batch.routes(replays, uploads),
        result_list.routes(services.database, trail, services.pseudonyms),
        results.routes(services.database, trail, denials),
        models.routes(services.database),
        auth.routes(login, refresh, services.rate_limits),
        account.routes(refresh, changes, services.tokens.keys),
        users.routes(administration),
        model_admin.routes(_model_life(services, trail)),
        model_shadow.routes(ShadowLife(services.database, _recording(trail))),
        model_upload.routes(_model_uploads(services, trail), services.database),
        admin.routes(),
        audit_log.routes(services.database, trail),
        health.routes(services.health),
        metrics.routes(services.metrics),
    ]
    if docs:
        routers.append(documentation.routes())
    for router in routers:
        # As they are, not included: an included router costs another match for each request.
        app.router.routes.extend(router.routes)
    refuse_unguarded(app)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    app.add_middleware(
        Authentication,
        tokens=services.tokens,
        sessions=services.sessions,
        denials=denials,
        rate_limits=services.rate_limits,
        public=public_paths(app.routes),
        recognising=recognising_paths(app.routes),
    )
    app.add_middleware(
        Envelope,
        denials=denials,
        body_timeout_s=services.limits.body_timeout_s,
        observe=services.counts.request,
    )
    if services.tracing is not None:
        app.add_middleware(RequestTraces, tracing=services.tracing)
    app.openapi = lambda: documentation.describe(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app


def _recording(trail: Trail) -> Callable[[AuditEvent], Awaitable[object]]:
    """How the acts on models are recorded here."""

    async def record(event: AuditEvent) -> None:
        await trail.record(
            event.action,
            event.description,
            event.actor,
            outcome=event.outcome,
            request_id=event.request_id,
            context=event.context,
            changes=event.changes,
        )

    return record


def _model_life(services: Services, trail: Trail) -> ModelLife:
    return ModelLife(
        services.database,
        services.model_dir,
        _recording(trail),
        timeout_s=min(services.models.activation_timeout_s, model_admin.ANSWER_WITHIN_S),
    )


def _model_uploads(services: Services, trail: Trail) -> ModelUploads:
    life = _model_life(services, trail)
    return ModelUploads(life, trail, services.model_dir, services.limits)


def _lifespan(
    services: Services, denials: Denials
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        refuse_unguarded(app)  # also what was added since the application was made
        await services.sessions.start()
        denials.start()
        try:
            yield
        finally:
            await services.health.close()
            await denials.close()
            await services.sessions.close()
            services.passwords.close()
            await services.rate_limits.close()

    return lifespan


async def _http_problem(request: Request, error: Exception) -> Response:
    """What the framework answers by itself: no such path, no such method."""
    assert isinstance(error, HTTPException)
    ours = from_http(error)
    exchange = exchange_in(request.scope)
    exchange.code = ours.code
    allow = (error.headers or {}).get("Allow")
    headers = None if allow is None else {"Allow": allow}
    return problem(ours, request_id=exchange.request_id, headers=headers)


async def _validation_problem(request: Request, error: Exception) -> Response:
    """Parameters that are not what the route declares."""
    assert isinstance(error, RequestValidationError)
    ours = from_validation(error)
    exchange = exchange_in(request.scope)
    exchange.code = ours.code
    return problem(ours, request_id=exchange.request_id)
