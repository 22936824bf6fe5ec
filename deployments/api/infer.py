"""`POST /infer`: one image in, one recorded answer out.

1. read     the image and the patient's id (`api.uploads`)
2. answer   screened and recorded (`inference.service`)
3. render   the answer, or the problem that a refused image is; both say where they are recorded

The model must be named. If it could be left out, a caller who leaves it out would one day get the
answer of another model than the day before, because the registry had changed.
"""

from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deployments.api import idempotency
from deployments.api.answers import InferenceDetails
from deployments.api.exchange import exchange_in, principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.idempotency import Replays
from deployments.api.multipart import FILE, PATIENT_ID
from deployments.api.permissions import Permission, requires
from deployments.api.problems import Recorded, problem, problems
from deployments.api.uploads import TYPES, UploadedImage, Uploads
from deployments.inference.service import Answer, ImageRequest
from deployments.telemetry.tracing_context import carried_trace
from registry import errors
from registry.contract import GateVerdict, ModelRef, Validation
from registry.errors import ValidationFailed, Violation

MAX_NAME: Final = 63
PARAMETERS: Final = frozenset({"frame", "model"})

ModelName = Annotated[
    str,
    Query(min_length=1, max_length=MAX_NAME, examples=["cxr-pneumonia"], description="Which model"),
]
Frame = Annotated[
    int | None, Query(ge=1, le=1_000_000, description="Which frame of a multi-frame image, from 1")
]

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "One image, as it is, or as a part of a form.",
    "content": {
        **dict.fromkeys(TYPES, _BINARY),
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FILE],
                "additionalProperties": False,
                "properties": {
                    FILE: {"type": "string", "format": "binary"},
                    PATIENT_ID: {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": 64,
                        "description": "Stored and shown as a pseudonym only.",
                    },
                },
            }
        },
    },
}
PROBLEMS: Final = problems(
    errors.BadRequest,
    errors.MalformedMultipart,
    errors.NotFound,
    errors.IdempotencyConflict,
    errors.RequestTimeout,
    errors.PayloadTooLarge,
    errors.ImageTooLarge,
    errors.UnsupportedMediaType,
    errors.ValidationFailed,
    errors.UndecodableImage,
    errors.UnsupportedPixelMode,
    errors.PhiInPixels,
    errors.NonfiniteInput,
    errors.ModelNonfiniteOutput,
    errors.Internal,
    errors.ModelUnavailable,
    errors.ModelHalted,
    errors.Overloaded,
    errors.AuditUnavailable,
    errors.DatabaseUnavailable,
    errors.InferenceTimeout,
)
SERVER_TIMING: Final = {
    "Server-Timing": {
        "description": "Milliseconds of each step (W3C Server Timing).",
        "schema": {"type": "string"},
    }
}


def routes(replays: Replays, uploads: Uploads) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("inference")

    @router.post(
        "/infer",
        summary="Ask a model about one image",
        response_model=InferenceDetails,
        responses={200: {"headers": SERVER_TIMING | idempotency.REPLAYED_HEADER}, **PROBLEMS},
        openapi_extra={"requestBody": REQUEST_BODY, "parameters": [idempotency.PARAMETER]},
    )
    @requires(Permission.INFER, max_body_bytes=uploads.max_body_bytes, admit=replays.admit)
    async def infer(request: Request, model: ModelName, frame: Frame = None) -> Response:
        """The answer is recorded before it is sent.

        `abstained` is an answer too: the label is missing, and `reasons` says why. An image that
        breaks a rule is refused with every rule that it breaks, and the refusal is recorded as
        well.
        """
        refuse_other_parameters(request)
        key = idempotency.key_of(request)
        with uploads.held(request):
            image = await uploads.read(request)
            answer, again = await replays.infer(
                asked_of(request, image, model=model, frame=frame, key=key), principal_of(request)
            )
        return respond(request, answer, again=again)

    return router


def asked_of(
    request: Request, image: UploadedImage, *, model: str, frame: int | None, key: str | None
) -> ImageRequest:
    """What is asked about one image of a request."""
    return ImageRequest(
        model=model,
        body=image.body,
        media_type=image.media_type,
        patient=image.patient,
        frame=frame,
        idempotency_key=key,
        request_id=request_id_of(request),
        trace=carried_trace(),
    )


def refuse_other_parameters(request: Request) -> None:
    """Refuse what is not asked for: a patient's id in the URL would be in every proxy's log.

    Raises:
        ValidationFailed: A parameter of another name, or one that comes twice.
    """
    given = request.query_params.multi_items()
    if not {name for name, _ in given} <= PARAMETERS or len(given) > len(request.query_params):
        limit = f"{' and '.join(sorted(PARAMETERS))}, each once"
        advice = "send the patient's id as a part of a form"
        raise ValidationFailed(
            "the query is not the one this route takes", (Violation("query", "", limit, advice),)
        )


def respond(request: Request, answer: Answer, *, again: bool) -> Response:
    """The answer's response: 200, or the problem that it is. `again`: it was recorded before."""
    exchange = exchange_in(request.scope)
    headers = {"Server-Timing": server_timing(answer.timings_ms, gateway_ms=exchange.elapsed_ms)}
    if again:
        headers[idempotency.REPLAYED] = "true"
    error = answer.verdict.error
    if error is None:
        body = orjson.dumps(details(answer))
        return Response(body, headers=headers, media_type="application/json")
    exchange.code = error.code
    recorded = Recorded(answer.result_id, answer.receipt)
    return problem(error, request_id=exchange.request_id, recorded=recorded, headers=headers)


def details(answer: Answer) -> dict[str, Any]:
    """What `InferenceDetails` describes, of frozen values that orjson renders by itself."""
    verdict = answer.verdict
    gate, validation = verdict.gate, verdict.validation
    return {
        "result_id": answer.result_id,
        "created_at": answer.created_at,
        "outcome": verdict.outcome,
        "prediction": verdict.prediction,
        "confidence": verdict.confidence,
        "scores": verdict.scores,
        "threshold": verdict.threshold,
        "needs_review": verdict.needs_review,
        "reasons": verdict.reasons,
        "model": identity(answer.served.model),
        "gate": None if gate is None else gate_details(gate),
        "validation": None if validation is None else validation_details(validation),
        "image": verdict.facts,
        "patient": verdict.patient,
        "audit": {"seq": answer.receipt.seq, "entry_hash": answer.receipt.entry_hash.hex()},
        "timings_ms": {step: round(ms, 3) for step, ms in answer.timings_ms.items()},
    }


def identity(model: ModelRef) -> dict[str, str]:
    """What `ModelIdentity` describes."""
    return {"name": model.name, "version": model.version, "sha256": model.sha256}


def gate_details(gate: GateVerdict) -> dict[str, Any]:
    """What `GateDetails` describes."""
    return {
        "model": identity(gate.model),
        "label": gate.label,
        "score": gate.score,
        "at_least": gate.at_least,
        "passed": gate.passed,
    }


def validation_details(validation: Validation) -> dict[str, Any]:
    """What `ValidationDetails` describes."""
    return {
        "is_valid": validation.is_valid,
        "score": validation.score,
        "error_codes": validation.error_codes,
        "checks": validation.checks,
    }


def server_timing(timings_ms: dict[str, float], *, gateway_ms: float) -> str:
    """The header's value. `gateway` is everything from the request's arrival on."""
    steps = [f"{step};dur={ms:.2f}" for step, ms in timings_ms.items()]
    return ", ".join([*steps, f"gateway;dur={gateway_ms:.2f}"])
