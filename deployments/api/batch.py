"""`POST /infer/batch`: up to 100 images in, one answer with a status for each, in order.

Each image is answered as `/infer` would answer it: the same document, or the same problem, under a
result and an audit entry of its own. What is wrong with one image is said of that image alone; what
is wrong with the request (no form, no such model, no room) is said once, as a problem of the whole.
All that is recorded of a batch is recorded in one transaction.
"""

from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from deployments.api import idempotency
from deployments.api.answers import Answered, InferenceDetails
from deployments.api.batch_form import MAX_IMAGES
from deployments.api.exchange import exchange_in, principal_of
from deployments.api.guard import guarded_router
from deployments.api.idempotency import Replays
from deployments.api.infer import (
    PROBLEMS,
    Frame,
    ModelName,
    asked_of,
    details,
    refuse_other_parameters,
)
from deployments.api.multipart import FILE, PATIENT_ID
from deployments.api.permissions import Permission, requires
from deployments.api.problems import (
    ProblemDetails,
    Recorded,
    problem_document,
    status_of,
)
from deployments.api.uploads import FORM, UploadedImage, Uploads
from deployments.inference.service import Answer
from registry.errors import MedAIError

REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": (
        f"Up to {MAX_IMAGES} images, each a part `{FILE}`; a part `{PATIENT_ID}` belongs to the "
        "image before it."
    ),
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": [FILE],
                "additionalProperties": False,
                "properties": {
                    FILE: {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": MAX_IMAGES,
                        "items": {"type": "string", "format": "binary"},
                    },
                    PATIENT_ID: {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1, "maxLength": 64},
                        "description": "Stored and shown as pseudonyms only.",
                    },
                },
            }
        }
    },
}


class BatchItem(Answered):
    """One image's answer: either `result` or `problem` is there, the other is null."""

    index: int = Field(ge=0, lt=MAX_IMAGES, description="the image's place, from 0")
    status: int = Field(description="what `/infer` would have answered", examples=[200])
    result: InferenceDetails | None
    problem: ProblemDetails | None


class BatchDetails(Answered):
    """The answer to a batch, in the order of its images."""

    answered: int = Field(ge=0, description="images with a result")
    refused: int = Field(ge=0, description="images with a problem")
    items: list[BatchItem] = Field(min_length=1, max_length=MAX_IMAGES)


def routes(replays: Replays, uploads: Uploads) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("inference")

    @router.post(
        "/infer/batch",
        summary="Ask a model about many images",
        response_model=BatchDetails,
        responses={200: {"headers": idempotency.REPLAYED_HEADER}, **PROBLEMS},
        openapi_extra={"requestBody": REQUEST_BODY, "parameters": [idempotency.PARAMETER]},
    )
    @requires(Permission.INFER, max_body_bytes=uploads.max_batch_bytes, admit=replays.admit)
    async def infer_batch(request: Request, model: ModelName, frame: Frame = None) -> Response:
        """One answer with a status for each image, in order; a bad image harms no other.

        Each image has a result and an audit entry of its own, all of them committed together before
        the answer is sent. `frame` is that of every image.
        """
        refuse_other_parameters(request)
        key = idempotency.key_of(request)
        with uploads.held(request, batch=True):
            outcomes: list[UploadedImage | Answer | MedAIError] = []
            outcomes += await uploads.read_batch(request)
            places = [place for place, one in enumerate(outcomes) if isinstance(one, UploadedImage)]
            asked = [
                asked_of(request, image, model=model, frame=frame, key=key)
                for image in outcomes
                if isinstance(image, UploadedImage)
            ]
            again = False
            if asked:
                answers, again = await replays.infer_many(asked, principal_of(request))
                for place, answer in zip(places, answers, strict=True):
                    outcomes[place] = answer
        headers = {idempotency.REPLAYED: "true"} if again else None
        return Response(
            orjson.dumps(_document(request, outcomes)), 200, headers, "application/json"
        )

    return router


def _document(request: Request, outcomes: list[UploadedImage | Answer | MedAIError]) -> Any:
    items = [_item(request, place, outcome) for place, outcome in enumerate(outcomes)]
    answered = sum(item["problem"] is None for item in items)
    return {"answered": answered, "refused": len(items) - answered, "items": items}


def _item(
    request: Request, place: int, outcome: UploadedImage | Answer | MedAIError
) -> dict[str, Any]:
    """What `BatchItem` describes."""
    assert not isinstance(outcome, UploadedImage)
    recorded = None
    if isinstance(outcome, Answer):
        if outcome.verdict.error is None:
            status = HTTPStatus.OK.value
            return {"index": place, "status": status, "result": details(outcome), "problem": None}
        recorded = Recorded(outcome.result_id, outcome.receipt)
        outcome = outcome.verdict.error
    request_id = exchange_in(request.scope).request_id
    document = problem_document(outcome, request_id=request_id, recorded=recorded)
    return {
        "index": place,
        "status": status_of(outcome),
        "result": None,
        "problem": {"violations": None, "result_id": None, "audit": None, **document},
    }
