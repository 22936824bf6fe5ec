"""What follows the log-in: renewing the session, setting the password; and the public keys."""

from typing import Final

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from deployments.api.auth import TokenAnswer, token_answer
from deployments.api.completion import to_completion
from deployments.api.exchange import principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.json_bodies import MAX_JSON_BYTES, json_body, read_json
from deployments.api.password_changes import PasswordChanges
from deployments.api.permissions import PUBLIC, Permission, requires
from deployments.api.problems import problems
from deployments.api.refresh import Refresh
from registry import errors
from storage.signing_keys import KeySet, jwks

MAX_PASSWORD: Final = 1024  # characters read; the policy's own limit is far below
MAX_SECRET: Final = 128
JWKS_CACHE: Final = "public, max-age=300"  # a new key is announced ahead of its date

BODY_PROBLEMS: Final = (
    errors.BadRequest,
    errors.MalformedJson,
    errors.RequestTimeout,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.ValidationFailed,
)
RECORD_PROBLEMS: Final = (errors.AuditUnavailable, errors.DatabaseUnavailable)


class RefreshRequest(BaseModel):
    """The refresh token that came with the present access token."""

    model_config = ConfigDict(extra="forbid")

    refresh_token: str = Field(min_length=1, max_length=MAX_SECRET, examples=["Zk3Vb0o2S1Rj..."])


class PasswordChange(BaseModel):
    """Old and new password."""

    model_config = ConfigDict(extra="forbid")

    old_password: str = Field(min_length=1, max_length=MAX_PASSWORD, examples=["the present one"])
    new_password: str = Field(
        min_length=1, max_length=MAX_PASSWORD, examples=["at least fifteen characters"]
    )


class PasswordReset(BaseModel):
    """A reset token that an administrator gave, and the new password."""

    model_config = ConfigDict(extra="forbid")

    reset_token: str = Field(min_length=1, max_length=MAX_SECRET, examples=["4Nq8..."])
    new_password: str = Field(
        min_length=1, max_length=MAX_PASSWORD, examples=["at least fifteen characters"]
    )


class PublicKey(BaseModel):
    """An Ed25519 public key (RFC 8037)."""

    model_config = ConfigDict(extra="forbid")

    kty: str = Field(examples=["OKP"])
    crv: str = Field(examples=["Ed25519"])
    use: str = Field(examples=["sig"])
    alg: str = Field(examples=["EdDSA"])
    kid: str = Field(examples=["20261124-1f2e3d4c"])
    x: str = Field(examples=["11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"])


class PublicKeys(BaseModel):
    """A JSON Web Key Set (RFC 7517)."""

    model_config = ConfigDict(extra="forbid")

    keys: list[PublicKey]


def routes(refresh: Refresh, passwords: PasswordChanges, keys: KeySet) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("authentication")
    published = orjson.dumps(jwks(keys))

    @router.post(
        "/auth/refresh",
        summary="Renew the session",
        openapi_extra=json_body(RefreshRequest),
        responses=problems(errors.Unauthenticated, *BODY_PROBLEMS, *RECORD_PROBLEMS),
    )
    @requires(PUBLIC, max_body_bytes=MAX_JSON_BYTES)
    async def renew(request: Request) -> TokenAnswer:
        """A refresh token for the next pair of tokens.

        Good once: who comes with a used one ends the session, with all its access tokens.
        """
        body = await read_json(request, RefreshRequest)
        work = refresh(body.refresh_token, request_id=request_id_of(request))
        return token_answer(await to_completion(work))

    @router.post(
        "/auth/password",
        summary="Change the password",
        openapi_extra=json_body(PasswordChange),
        responses=problems(*BODY_PROBLEMS, errors.Overloaded, *RECORD_PROBLEMS),
    )
    @requires(Permission.SESSION, max_body_bytes=MAX_JSON_BYTES)
    async def change(request: Request) -> TokenAnswer:
        """One's own. Ends every session; the answer begins a new one."""
        body = await read_json(request, PasswordChange)
        work = passwords.change(
            principal_of(request),
            body.old_password,
            body.new_password,
            request_id=request_id_of(request),
        )
        return token_answer(await to_completion(work))

    @router.post(
        "/auth/reset",
        summary="Set the password by a reset token",
        status_code=204,
        openapi_extra=json_body(PasswordReset),
        responses=problems(
            errors.Unauthenticated, *BODY_PROBLEMS, errors.Overloaded, *RECORD_PROBLEMS
        ),
    )
    @requires(PUBLIC, max_body_bytes=MAX_JSON_BYTES)
    async def reset(request: Request) -> Response:
        """The token comes from an administrator, and is good once for a quarter of an hour."""
        body = await read_json(request, PasswordReset)
        work = passwords.reset(
            body.reset_token, body.new_password, request_id=request_id_of(request)
        )
        await to_completion(work)
        return Response(status_code=204)

    @router.get(
        "/.well-known/jwks.json",
        summary="The public keys of access tokens",
        response_model=PublicKeys,
    )
    @requires(PUBLIC)
    async def public_keys() -> Response:
        """For systems that check access tokens by themselves. They then see no revocation."""
        headers = {"Cache-Control": JWKS_CACHE}
        return Response(published, headers=headers, media_type="application/json")

    return router
