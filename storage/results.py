"""Recorded results, read in the caller's transaction, each with its place in the audit log."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.contract import (
    Check,
    GateVerdict,
    ImageFacts,
    ModelRef,
    Outcome,
    Reason,
    Receipt,
    Validation,
)
from registry.errors import NotFound
from storage.tables import AuditLog, InferenceResult, ModelVersion, ValidationResult


@dataclass(frozen=True, slots=True)
class StoredResult:
    """One inference as it was recorded. Times in ms; `scores` in the order of the card's labels."""

    result_id: UUID
    created_at: datetime
    created_by: UUID
    model: ModelRef
    outcome: Outcome
    prediction: str | None
    confidence: float | None
    scores: dict[str, float]
    reasons: tuple[Reason, ...]
    needs_review: bool
    error_code: str | None
    patient: str | None
    facts: ImageFacts
    gate: GateVerdict | None
    validation: Validation | None
    inference_ms: float
    preprocessing_ms: float
    idempotency_key: str | None
    request_digest: bytes | None
    record_hash: bytes
    receipt: Receipt


class ResultRepository:
    """The results, in the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, result_id: UUID) -> StoredResult:
        """One result. Raises `NotFound`, also where the audit log does not know it."""
        found = await self._session.execute(_RESULTS.where(InferenceResult.id == result_id))
        row = found.first()
        if row is None:
            raise NotFound("no such result")
        result, validation, model, entry = row
        return _stored(result, validation, model, entry)

    async def by_keys(self, created_by: UUID, keys: Iterable[str]) -> dict[str, StoredResult]:
        """By idempotency key: what this user's requests with these keys were answered."""
        found = await self._session.execute(
            _RESULTS.where(
                InferenceResult.created_by == created_by,
                InferenceResult.idempotency_key.in_(list(keys)),
            )
        )
        return {str(row[0].idempotency_key): _stored(*row) for row in found}


_RESULTS = (
    select(InferenceResult, ValidationResult, ModelVersion, AuditLog)
    .join(ModelVersion, InferenceResult.model_version_id == ModelVersion.id)
    .join(AuditLog, AuditLog.inference_result_id == InferenceResult.id)
    .outerjoin(ValidationResult, ValidationResult.inference_result_id == InferenceResult.id)
)


def _stored(
    result: InferenceResult,
    validation: ValidationResult | None,
    model: ModelVersion,
    entry: AuditLog,
) -> StoredResult:
    return StoredResult(
        result_id=result.id,
        created_at=result.created_at,
        created_by=result.created_by,
        model=ModelRef(model.id, model.model_name, model.version, model.file_hash),
        outcome=Outcome(result.outcome),
        prediction=result.prediction,
        confidence=result.confidence_score,
        scores=json.loads(result.scores) if result.scores else {},
        reasons=tuple(Reason(reason) for reason in result.reasons.split(",") if reason),
        needs_review=result.needs_review,
        error_code=result.error_code,
        patient=result.patient_id,
        facts=ImageFacts(sha256=result.image_sha256, **json.loads(result.image_facts)),
        gate=_gate(result.gate),
        validation=None if validation is None else _validation(validation),
        inference_ms=result.inference_latency_ms,
        preprocessing_ms=result.preprocessing_latency_ms,
        idempotency_key=result.idempotency_key,
        request_digest=result.request_digest,
        record_hash=result.record_hash,
        receipt=Receipt(entry.event_id, entry.seq, entry.entry_hash, entry.created_at),
    )


def _gate(text: str | None) -> GateVerdict | None:
    if text is None:
        return None
    gate = json.loads(text)
    model = gate.pop("model")
    return GateVerdict(model=ModelRef(**{**model, "id": UUID(model["id"])}), **gate)


def _validation(row: ValidationResult) -> Validation:
    checks = tuple(Check(**check) for check in json.loads(row.measurements))
    return Validation(row.is_valid, row.validation_score, checks)
