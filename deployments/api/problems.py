"""Every error as RFC 9457 problem details (`application/problem+json`), from one status table.

    type      https://medai-flow.readthedocs.io/problems/<code>, stable, one page each
    title     the type in words
    status    the HTTP status, from `STATUS`
    detail    this case in words
    instance  urn:uuid:<id>, of the recorded result where there is one, else of the request
    violations, result_id, audit   where there are any

Rules this file keeps: nothing that came with the request is repeated; an unforeseen error says
nothing but its id, and is logged as its type and place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from registry import errors
from registry.contract import Receipt
from registry.errors import MedAIError, Violation

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "https://medai-flow.readthedocs.io/problems/"
CHALLENGE: Final = 'Bearer realm="medai-flow"'

STATUS: Final[MappingProxyType[type[MedAIError], int]] = MappingProxyType(
    {
        errors.BadRequest: 400,
        errors.MalformedJson: 400,
        errors.MalformedMultipart: 400,
        errors.Unauthenticated: 401,
        errors.PasswordExpired: 403,
        errors.Forbidden: 403,
        errors.NotFound: 404,
        errors.MethodNotAllowed: 405,
        errors.RequestTimeout: 408,
        errors.Conflict: 409,
        errors.IllegalTransition: 409,
        errors.IdempotencyConflict: 409,
        errors.PayloadTooLarge: 413,
        errors.ImageTooLarge: 413,
        errors.UnsupportedMediaType: 415,
        errors.ValidationFailed: 422,
        errors.UndecodableImage: 422,
        errors.UnsupportedPixelMode: 422,
        errors.PhiInPixels: 422,
        errors.NonfiniteInput: 422,
        errors.InvalidModel: 422,
        errors.ForbiddenOperator: 422,
        errors.RateLimited: 429,
        errors.HeaderTooLarge: 431,
        errors.InvalidConfiguration: 500,
        errors.Internal: 500,
        errors.ModelNonfiniteOutput: 500,
        errors.ModelUnavailable: 503,
        errors.ModelHalted: 503,
        errors.Overloaded: 503,
        errors.AuditUnavailable: 503,
        errors.DatabaseUnavailable: 503,
        errors.MetricsUnavailable: 503,
        errors.InferenceTimeout: 504,
    }
)

# What the framework answers by itself. Another 4xx becomes a bad request, another 5xx internal.
_BY_STATUS: Final[MappingProxyType[int, type[MedAIError]]] = MappingProxyType(
    {
        401: errors.Unauthenticated,
        403: errors.Forbidden,
        404: errors.NotFound,
        405: errors.MethodNotAllowed,
        408: errors.RequestTimeout,
        413: errors.PayloadTooLarge,
        415: errors.UnsupportedMediaType,
        429: errors.RateLimited,
        431: errors.HeaderTooLarge,
        503: errors.Overloaded,
    }
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where a refused or failed request for inference is recorded."""

    result_id: UUID
    receipt: Receipt


def status_of(error: MedAIError) -> int:
    """The HTTP status. A class made at run time (Ray's) takes that of the leaf it stems from."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def problem_document(
    error: MedAIError, *, request_id: str, recorded: Recorded | None = None
) -> dict[str, Any]:
    """What `ProblemDetails` describes; arguments as of `problem`."""
    status = status_of(error)
    instance = request_id if recorded is None else str(recorded.result_id)
    document: dict[str, Any] = {
        "type": TYPE_BASE + error.code,
        "title": error.title,
        "status": status,
        "detail": error.detail or error.title,
        "instance": f"urn:uuid:{instance}",
    }
    if error.violations:
        document["violations"] = error.violations
    if recorded is not None:
        document["result_id"] = recorded.result_id
        document["audit"] = {
            "seq": recorded.receipt.seq,
            "entry_hash": recorded.receipt.entry_hash.hex(),
        }
    return document


def problem(
    error: MedAIError,
    *,
    request_id: str,
    recorded: Recorded | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The response for `error`.

    Args:
        error: What to tell.
        request_id: The instance, where nothing is recorded.
        recorded: The result's id and its place in the audit chain, where there is one.
        headers: More headers, such as Allow.
    """
    status = status_of(error)
    document = problem_document(error, request_id=request_id, recorded=recorded)
    response = Response(orjson.dumps(document), status, headers, MEDIA_TYPE)
    if status == STATUS[errors.Unauthenticated]:
        response.headers["WWW-Authenticate"] = CHALLENGE
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.RequestTimeout | errors.PayloadTooLarge):
        response.headers["Connection"] = "close"  # the rest of the body is not read
    return response


def from_http(error: HTTPException) -> MedAIError:
    """The framework's own errors. Their text is not used: it may be somebody else's."""
    fallback = errors.BadRequest if error.status_code < STATUS[errors.Internal] else errors.Internal
    return _BY_STATUS.get(error.status_code, fallback)()


def from_validation(error: RequestValidationError) -> MedAIError:
    """The parameters a route declares, as violations. The offending values stay behind."""
    return errors.ValidationFailed(
        "the request's parameters are not valid", tuple(map(_violation, error.errors()))
    )


def _violation(fault: dict[str, Any]) -> Violation:
    # The name of an undeclared field is the caller's text.
    place: Sequence[object] = (
        fault["loc"][:1] if fault["type"] == "extra_forbidden" else fault["loc"]
    )
    rule = ".".join(str(part) for part in place)
    return Violation(rule, advice=str(fault["msg"]))


class ViolationDetails(BaseModel):
    """One broken rule."""

    model_config = ConfigDict(extra="forbid")

    rule: str = Field(examples=["brightness"])
    measured: str = Field(examples=["0.04"])
    limit: str = Field(examples=["0.08 to 0.92"])
    advice: str = Field(examples=["retake the image with more exposure"])


class AuditPosition(BaseModel):
    """Where the record stands in the audit chain."""

    model_config = ConfigDict(extra="forbid")

    seq: int = Field(ge=1, examples=[1024])
    entry_hash: str = Field(pattern="^[0-9a-f]{64}$", examples=["9f2c" * 16])


class ProblemDetails(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=[TYPE_BASE + "validation-failed"])
    title: str = Field(examples=["Validation failed"])
    status: int = Field(ge=400, le=599, examples=[422])
    detail: str = Field(examples=["the image breaks 1 rule"])
    instance: str = Field(examples=["urn:uuid:019aa7f0-7a1e-7c3b-9d5e-0a4f5b6c7d8e"])
    violations: list[ViolationDetails] | None = None
    result_id: UUID | None = None
    audit: AuditPosition | None = None


def problems(*kinds: type[MedAIError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer these problems, for OpenAPI."""
    by_status: dict[int, list[type[MedAIError]]] = {}
    for kind in kinds:
        by_status.setdefault(STATUS[kind], []).append(kind)
    return {
        status: {
            "description": "; ".join(
                f"`{kind.code}`: {kind.title}" for kind in sorted(same, key=lambda kind: kind.code)
            ),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                    "example": _example(same[0], status),
                }
            },
        }
        for status, same in sorted(by_status.items())
    }


def _example(kind: type[MedAIError], status: int) -> dict[str, Any]:
    return {
        "type": TYPE_BASE + kind.code,
        "title": kind.title,
        "status": status,
        "detail": kind.title,
        "instance": "urn:uuid:019aa7f0-7a1e-7c3b-9d5e-0a4f5b6c7d8e",
    }
