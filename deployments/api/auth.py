"""Logging in and out, and who one is.

`POST /auth/login` is the OAuth2 password grant (RFC 6749 §4.3), because every client library and
Swagger's Authorize speak it. The form comes as a body, so that no password stands in a URL.
"""

from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from deployments.api.completion import to_completion
from deployments.api.exchange import claims_of, exchange_in, principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.login import LoggedIn, Login
from deployments.api.permissions import PUBLIC, Permission, requires
from deployments.api.problems import problems
from deployments.api.rate_limits import RateLimits
from deployments.api.refresh import Refresh
from registry import errors
from registry.contract import Role
from registry.errors import BadRequest, UnsupportedMediaType, ValidationFailed, Violation

MAX_FORM_BYTES: Final = 8 * 1024
MAX_FIELDS: Final = 8
FORM: Final = "application/x-www-form-urlencoded"

LOGIN_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": ["username", "password"],
                "properties": {
                    "grant_type": {"type": "string", "enum": ["password"]},
                    "username": {"type": "string", "minLength": 1},
                    "password": {"type": "string", "format": "password", "minLength": 1},
                },
            },
            "example": {"grant_type": "password", "username": "rivera", "password": "..."},
        }
    },
}


LOGIN_PROBLEMS: Final = problems(
    errors.BadRequest,
    errors.Unauthenticated,
    errors.RequestTimeout,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.ValidationFailed,
    errors.Overloaded,
    errors.AuditUnavailable,
    errors.DatabaseUnavailable,
)


class TokenAnswer(BaseModel):
    """RFC 6749 §5.1."""

    model_config = ConfigDict(extra="forbid")

    access_token: str = Field(examples=["eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.e30.c2ln"])
    refresh_token: str = Field(
        description="good once, at POST /auth/refresh", examples=["Zk3Vb0o2S1Rj..."]
    )
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # a type's name, not a secret
    expires_in: int = Field(description="seconds", examples=[900])
    refresh_expires_in: int = Field(description="seconds, where unused", examples=[28800])
    role: Role
    must_change_password: bool


class SessionDetails(BaseModel):
    """Whom a token stands for at this moment, and until when."""

    model_config = ConfigDict(extra="forbid")

    user_id: UUID
    username: str = Field(examples=["rivera"])
    role: Role
    expires_at: datetime


def session_details(request: Request) -> SessionDetails:
    """The session of a request. Raises `Unauthenticated` on a public route."""
    principal, claims = principal_of(request), claims_of(request)
    return SessionDetails(
        user_id=principal.user_id,
        username=principal.username,
        role=principal.role,
        expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
    )


def routes(login: Login, refresh: Refresh, rate_limits: RateLimits) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("authentication")

    @router.post(
        "/auth/login",
        summary="Log in",
        openapi_extra={"requestBody": LOGIN_BODY},
        responses=LOGIN_PROBLEMS,
    )
    @requires(PUBLIC, max_body_bytes=MAX_FORM_BYTES)
    async def log_in(request: Request) -> TokenAnswer:
        """User name and password for an access token.

        Unknown users, wrong passwords, locked and disabled accounts are all the same 401.
        """
        username, password = await read_credentials(request)
        await rate_limits.login(exchange_in(request.scope), request.scope, username)
        logged_in = await to_completion(
            login(username, password, request_id=request_id_of(request))
        )
        return token_answer(logged_in)

    @router.post(
        "/auth/logout",
        summary="Log out",
        status_code=204,
        responses=problems(errors.AuditUnavailable),
    )
    @requires(Permission.SESSION)
    async def log_out(request: Request) -> Response:
        """End the session that this request's token belongs to, on every gateway."""
        principal, claims = principal_of(request), claims_of(request)
        await to_completion(refresh.end(principal, claims, request_id=request_id_of(request)))
        return Response(status_code=204)

    @router.get("/auth/me", summary="Who am I")
    @requires(Permission.SESSION)
    async def me(request: Request) -> SessionDetails:
        """Whom the token stands for at this moment, and until when."""
        return session_details(request)

    return router


def token_answer(logged_in: LoggedIn) -> TokenAnswer:
    """The tokens of a session, as they are given out."""
    pair = logged_in.tokens
    return TokenAnswer(
        access_token=pair.access.text,
        expires_in=pair.access.lifetime_s,
        refresh_token=pair.refresh,
        refresh_expires_in=pair.refresh_lifetime_s,
        role=logged_in.role,
        must_change_password=logged_in.must_change_password,
    )


async def read_credentials(request: Request) -> tuple[str, str]:
    """User name and password of the form.

    Raises:
        UnsupportedMediaType: Another type of body.
        BadRequest: Not a form.
        ValidationFailed: A field is missing, empty, or there twice.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != FORM:
        violation = Violation("content-type", limit=FORM)
        raise UnsupportedMediaType("credentials come as a form", (violation,))
    try:
        text = (await request.body()).decode("ascii")  # anything else is percent-encoded
        fields = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:  # also not ASCII, not UTF-8: their texts quote the password
        raise BadRequest("the body is not a well-formed form") from None
    values = dict(fields)
    violations = [
        Violation(name, "missing", advice=f"send {name}")
        for name in ("username", "password")
        if not values.get(name)
    ]
    if values.get("grant_type", "password") != "password":
        violations.append(Violation("grant_type", limit="password"))
    if len(values) < len(fields):
        violations.append(Violation("fields", limit="each once"))
    if violations:
        raise ValidationFailed("the form is not complete", tuple(violations))
    return values["username"], values["password"]
