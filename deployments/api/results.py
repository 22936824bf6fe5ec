"""Recorded results, for those who may see them.

A user sees their own; an administrator all. To anybody else a result does not exist: the answer is
the same as for an id that was never given, and the attempt is in the audit log. So is every read,
before it is answered.
"""

from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.api.answers import ResultDetails
from deployments.api.denials import Denials
from deployments.api.exchange import principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.infer import gate_details, identity, validation_details
from deployments.api.permissions import Permission, holds, requires
from deployments.api.problems import problems
from deployments.api.trail import Trail
from registry import errors
from registry.errors import NotFound
from registry.events import Actor, AuditAction
from storage.database import Database, Session
from storage.evidence import EvidenceReader
from storage.models import ModelRepository, RegisteredModel
from storage.results import ResultRepository, StoredResult


def routes(database: Database, trail: Trail, denials: Denials) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("results")

    @router.get(
        "/results/{result_id}",
        summary="Read one result",
        response_model=ResultDetails,
        responses=problems(
            errors.NotFound,
            errors.ValidationFailed,
            errors.AuditUnavailable,
            errors.DatabaseUnavailable,
        ),
    )
    @requires(Permission.RESULTS_READ)
    async def result(request: Request, result_id: UUID) -> Response:
        """Everything that was recorded of one inference, and where in the audit log."""
        principal = principal_of(request)
        request_id = request_id_of(request)

        async def found(session: Session) -> tuple[StoredResult, RegisteredModel]:
            stored = await ResultRepository(session).get(result_id)
            model = stored.model
            return stored, await ModelRepository(session).version(model.name, model.version)

        stored, model = await database.read(found)
        own = stored.created_by == principal.user_id
        if not own and not holds(principal.role, Permission.RESULTS_READ_ALL):
            await denials.hidden(principal, "result", result_id, request_id)
            raise NotFound("no such result")
        await trail.record(
            AuditAction.RESULT_READ,
            "A recorded result was read.",
            Actor.user(principal),
            request_id=request_id,
            context={"result": str(result_id), "own": own},
        )
        document = details(stored, threshold=model.card.confidence_threshold)
        return Response(orjson.dumps(document), media_type="application/json")

    reader = EvidenceReader(database)

    @router.get(
        "/results/{result_id}/evidence",
        summary="Everything that proves one result",
        response_class=Response,
        responses={
            200: {"content": {"application/json": {"schema": {"type": "object"}}}},
            **problems(
                errors.NotFound,
                errors.ValidationFailed,
                errors.AuditUnavailable,
                errors.DatabaseUnavailable,
            ),
        },
    )
    @requires(Permission.RESULTS_READ)
    async def evidence(request: Request, result_id: UUID) -> Response:
        """One document that `medai-verify evidence FILE` checks without this service.

        It holds what was measured and said, by which model, the log entry, and its place below a
        signed checkpoint; until the next checkpoint (seconds) the answer is 503 with Retry-After.
        """
        principal = principal_of(request)
        request_id = request_id_of(request)
        stored = await database.read(lambda session: ResultRepository(session).get(result_id))
        own = stored.created_by == principal.user_id
        if not own and not holds(principal.role, Permission.RESULTS_READ_ALL):
            await denials.hidden(principal, "result", result_id, request_id)
            raise NotFound("no such result")
        document = await reader.of_result(result_id)
        await trail.record(
            AuditAction.RESULT_READ,
            "The evidence of a recorded result was read.",
            Actor.user(principal),
            request_id=request_id,
            context={"result": str(result_id), "own": own, "evidence": True},
        )
        return Response(orjson.dumps(document), media_type="application/json")

    return router


def details(stored: StoredResult, *, threshold: float) -> dict[str, Any]:
    """What `ResultDetails` describes. `threshold` is that of the model's card."""
    gate, validation = stored.gate, stored.validation
    return {
        "result_id": stored.result_id,
        "created_at": stored.created_at,
        "created_by": stored.created_by,
        "outcome": stored.outcome,
        "prediction": stored.prediction,
        "confidence": stored.confidence,
        "scores": stored.scores,
        "threshold": threshold if stored.error_code is None else None,
        "needs_review": stored.needs_review,
        "reasons": stored.reasons,
        "error_code": stored.error_code,
        "model": identity(stored.model),
        "gate": None if gate is None else gate_details(gate),
        "validation": None if validation is None else validation_details(validation),
        "image": stored.facts,
        "patient": stored.patient,
        "preprocessing_ms": stored.preprocessing_ms,
        "inference_ms": stored.inference_ms,
        "audit": {"seq": stored.receipt.seq, "entry_hash": stored.receipt.entry_hash.hex()},
        "record_hash": stored.record_hash.hex(),
    }
