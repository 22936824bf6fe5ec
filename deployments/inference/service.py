"""The way of one request for inference, from an authenticated caller to a recorded answer.

1. admit       or say at once that the house is full
2. resolve     which version of the model answers
3. screen      the Validator decodes, measures, checks the intended use and asks the model
4. record      result, measurements and audit entry, in one transaction
5. answer      only what is recorded

Rules this file keeps: nothing is answered that is not committed; a refusal and a failure are
recorded like an answer; a caller who leaves changes nothing for anybody, because from step 3 on the
work belongs to a task of its own.
"""

import asyncio
import contextvars
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from configs.settings import LimitSettings
from registry.catalogue import Catalogue, Served
from registry.contract import ImageFacts, Outcome, Principal, Receipt, Upload, Verdict
from registry.errors import AuditUnavailable, Failed, InferenceTimeout, MedAIError, Overloaded
from registry.events import Actor, AuditAction, AuditEvent, AuditOutcome, NewResult


class Screening(Protocol):
    """The Validator, wherever it runs."""

    async def screen(self, upload: Upload) -> Verdict:
        """What may be said of the image. Raises `Failed` where no verdict could be made."""
        ...


class AuditTrail(Protocol):
    """The AuditWriter, wherever it runs."""

    async def record(self, event: AuditEvent) -> Receipt:
        """Commit the event and its changes. Raises what refused them, or `AuditUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What the caller sent. `patient` is a pseudonym already; the raw id ends in the route."""

    model: str
    body: bytes
    media_type: str
    patient: str | None = None
    frame: int | None = None
    idempotency_key: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded verdict. `verdict.error` is set where the caller gets a problem instead."""

    result_id: UUID
    created_at: datetime
    served: Served
    verdict: Verdict
    receipt: Receipt
    timings_ms: dict[str, float]


class Admission:
    """How many requests are worked on at once; over the limit, `Overloaded` at once."""

    def __init__(self, limits: LimitSettings) -> None:
        self.in_progress = 0
        self._limits = limits
        self._stopping = False
        self._idle = asyncio.Event()

    def __enter__(self) -> None:
        if self._stopping:
            raise Overloaded("the service is stopping", retry_after_s=self._limits.retry_after_s)
        if self.in_progress >= self._limits.max_in_progress:
            raise Overloaded(
                f"{self._limits.max_in_progress} requests are in progress; try again shortly",
                retry_after_s=self._limits.retry_after_s,
            )
        self.in_progress += 1

    def __exit__(self, *_: object) -> None:
        self.in_progress -= 1
        if not self.in_progress:
            self._idle.set()

    async def check(self) -> None:
        """Raises `Overloaded` once nothing more is accepted."""
        if self._stopping:
            raise Overloaded("the service is stopping", retry_after_s=self._limits.retry_after_s)

    async def drain(self, limit_s: float) -> bool:
        """Accept nothing more and wait for what is in progress. False if it did not end in time."""
        self._stopping = True
        self._idle.clear()
        try:
            async with asyncio.timeout(limit_s):
                while self.in_progress:
                    await self._idle.wait()
                    self._idle.clear()
        except TimeoutError:
            return False
        return True


class InferenceService:
    """Answers requests for inference. One a gateway; see the module's docstring.

    Args:
        screening: The Validator.
        audit: The AuditWriter.
        catalogue: Gives the present picture of the active versions.
        limits: Deadlines and bounds.
    """

    def __init__(
        self,
        screening: Screening,
        audit: AuditTrail,
        catalogue: Callable[[], Catalogue],
        limits: LimitSettings,
    ) -> None:
        self.admission = Admission(limits)
        self._screening = screening
        self._audit = audit
        self._catalogue = catalogue
        self._limits = limits

    async def infer(self, request: ImageRequest, principal: Principal) -> Answer:
        """Answer one image.

        Raises:
            NotFound: No active version has this name.
            Overloaded: The house is full.
            AuditUnavailable: The outcome could not be recorded, so it is not given.
        """
        with self.admission:
            served = self._catalogue().active(request.model)
            # A request's context carries Serve's cancellation of child calls: a caller who leaves
            # would take the work of its batch-mates along (docs/adr/0004). Hence a task of its
            # own, in an empty context, that this request only waits for.
            work = asyncio.get_running_loop().create_task(
                self._answer(request, served, principal), context=contextvars.Context()
            )
            return await asyncio.shield(work)

    async def _answer(self, request: ImageRequest, served: Served, principal: Principal) -> Answer:
        started = time.perf_counter()
        upload = Upload(
            result_id=uuid7(),
            model=served.model,
            body=request.body,
            media_type=request.media_type,
            patient=request.patient,
            frame=request.frame,
        )
        verdict = await self._screen(upload)
        screened = time.perf_counter()
        result = NewResult(
            result_id=upload.result_id,
            model=served.model,
            verdict=verdict,
            created_by=principal.user_id,
            created_at=datetime.now(UTC),
            idempotency_key=request.idempotency_key,
        )
        receipt = await self._record(inference_event(result, principal, request.request_id))
        recorded = time.perf_counter()
        return Answer(
            result_id=upload.result_id,
            created_at=result.created_at,
            served=served,
            verdict=verdict,
            receipt=receipt,
            timings_ms={
                "decode": verdict.decode_ms,
                "validate": verdict.validate_ms,
                "preprocess": verdict.preprocess_ms,
                "model": verdict.model_ms,
                "inference": verdict.inference_ms,
                "screen": (screened - started) * 1e3,
                "audit": (recorded - screened) * 1e3,
                "total": (recorded - started) * 1e3,
            },
        )

    async def _screen(self, upload: Upload) -> Verdict:
        """A verdict in any case: what went wrong on our side is one too, and is recorded."""
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                return await self._screening.screen(upload)
        except TimeoutError:
            error: MedAIError = InferenceTimeout(
                f"no answer within {self._limits.deadline_s:g} s",
                retry_after_s=self._limits.retry_after_s,
            )
        except Failed as failure:
            error = failure
        digest = hashlib.sha256(upload.body).hexdigest()
        facts = ImageFacts(sha256=digest, size_bytes=len(upload.body))
        return Verdict(outcome=Outcome.FAILED, facts=facts, patient=upload.patient, error=error)

    async def _record(self, event: AuditEvent) -> Receipt:
        try:
            async with asyncio.timeout(self._limits.audit_timeout_s):
                return await self._audit.record(event)
        except TimeoutError:
            raise AuditUnavailable(
                f"the record was not committed within {self._limits.audit_timeout_s:g} s",
                retry_after_s=self._limits.retry_after_s,
            ) from None


_ACTIONS = {
    Outcome.PREDICTED: AuditAction.INFERENCE,
    Outcome.ABSTAINED: AuditAction.INFERENCE,
    Outcome.REJECTED: AuditAction.INFERENCE_REJECTED,
    Outcome.FAILED: AuditAction.INFERENCE_FAILED,
}


def inference_event(result: NewResult, principal: Principal, request_id: str | None) -> AuditEvent:
    """The audit event of one inference; the event's id is the result's."""
    action = _ACTIONS[result.verdict.outcome]
    answered = action is AuditAction.INFERENCE
    return AuditEvent(
        event_id=result.result_id,
        action=action,
        description="An image was sent for inference.",
        actor=Actor.user(principal),
        outcome=AuditOutcome.SUCCESS if answered else AuditOutcome.FAILURE,
        request_id=request_id,
        changes=(result,),
    )
