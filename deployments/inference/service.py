"""The way of one request for inference, from an authenticated caller to a recorded answer.

1. admit       or say at once that the house is full
2. resolve     which version of the model answers
3. screen      the Validator decodes, measures, checks the intended use and asks the model
4. record      result, measurements and audit entry, in one transaction
5. answer      only what is recorded

A batch goes the same way: steps 1 and 2 once for all, step 3 for each image by itself, step 4 in
one transaction for all.

Rules this file keeps: nothing is answered that is not committed; a refusal and a failure are
recorded like an answer; a caller who leaves changes nothing for anybody, because from step 3 on the
work belongs to a task of its own.
"""

import asyncio
import contextvars
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from uuid_utils.compat import uuid7

from configs.settings import LimitSettings
from registry.catalogue import Catalogue, Served
from registry.contract import ImageFacts, Outcome, Principal, Receipt, Upload, Verdict
from registry.errors import AuditUnavailable, Failed, InferenceTimeout, MedAIError, Overloaded
from registry.events import Actor, AuditAction, AuditEvent, AuditOutcome, NewResult

SIDE_BY_SIDE: Final = 32  # images of one batch that are screened at once: others want to be, too

Recorded = TypeVar("Recorded")
Worked = TypeVar("Worked")


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

    async def record_all(self, events: Sequence[AuditEvent]) -> list[Receipt | MedAIError]:
        """Commit the events in one transaction: a receipt for each, or what refused that one.

        Raises `AuditUnavailable` where none could be committed, or nobody knows.
        """
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
    request_digest: bytes | None = None  # of what the key is used for
    trace: str | None = None  # the request's span, where it is traced (`telemetry.tracing_context`)


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
    """How many images are worked on at once; over the limit, `Overloaded` at once.

    A batch counts as its images; one that is larger than the house has the house to itself.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.in_progress = 0
        self._limits = limits
        self._stopping = False
        self._idle = asyncio.Event()

    @contextmanager
    def of(self, images: int) -> Iterator[None]:
        """Work on so many images. Raises `Overloaded` where there is no room for them."""
        images = min(images, self._limits.max_in_progress)
        self.expect(images)
        self.in_progress += images
        try:
            yield
        finally:
            self.in_progress -= images
            if not self.in_progress:
                self._idle.set()

    def expect(self, images: int = 1) -> None:
        """Raises `Overloaded` where there is no room for so many at this moment."""
        room = self._limits.max_in_progress
        reason = ""
        if self._stopping:
            reason = "the service is stopping"
        elif self.in_progress + images > room:
            reason = f"{self.in_progress} of {room} images are in progress; try again shortly"
        if reason:
            raise Overloaded(reason, retry_after_s=self._limits.retry_after_s)

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
        observe: Told of every recorded answer.
    """

    def __init__(
        self,
        screening: Screening,
        audit: AuditTrail,
        catalogue: Callable[[], Catalogue],
        limits: LimitSettings,
        observe: Callable[[Answer], None] = lambda _: None,
    ) -> None:
        self.admission = Admission(limits)
        self._screening = screening
        self._audit = audit
        self._catalogue = catalogue
        self._limits = limits
        self._observe = observe

    async def infer(self, request: ImageRequest, principal: Principal) -> Answer:
        """Answer one image.

        Raises:
            NotFound: No active version has this name.
            ModelHalted: An administrator, or its self-test, has stopped this model.
            Overloaded: The house is full.
            AuditUnavailable: The outcome could not be recorded, so it is not given.
        """
        with self.admission.of(1):
            served = self._catalogue().answering(request.model)
            return await _by_itself(self._answer(request, served, principal))

    async def infer_many(
        self, requests: Sequence[ImageRequest], principal: Principal
    ) -> list[Answer | MedAIError]:
        """Answer a batch of images for one model, each as `infer` would.

        Args:
            requests: The images, 1 or more, all for the model of the first.
            principal: Who asks.

        Returns:
            In the same order: for each image its answer, or why its outcome is not recorded. The
            deadline is that of the whole: images that it overtakes have failed.

        Raises:
            NotFound: No active version has this name.
            ModelHalted: An administrator, or its self-test, has stopped this model.
            Overloaded: The house has no room for so many.
            AuditUnavailable: The outcomes could not be recorded, so none is given.
        """
        with self.admission.of(len(requests)):
            served = self._catalogue().answering(requests[0].model)
            return await _by_itself(self._answer_all(requests, served, principal))

    async def _answer(self, request: ImageRequest, served: Served, principal: Principal) -> Answer:
        screened = await self._screened(request, served, principal, self._deadline())
        started = time.perf_counter()
        receipt = await self._in_time(self._audit.record(screened.event))
        audit_ms = (time.perf_counter() - started) * 1e3
        answer = screened.answer(served, receipt, audit_ms=audit_ms)
        self._observe(answer)
        return answer

    async def _answer_all(
        self, requests: Sequence[ImageRequest], served: Served, principal: Principal
    ) -> list[Answer | MedAIError]:
        deadline = self._deadline()
        side_by_side = asyncio.Semaphore(SIDE_BY_SIDE)

        async def in_turn(request: ImageRequest) -> "_Screened":
            async with side_by_side:
                return await self._screened(request, served, principal, deadline)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(in_turn(request)) for request in requests]
        screened = [task.result() for task in tasks]
        started = time.perf_counter()
        recorded = await self._in_time(self._audit.record_all([one.event for one in screened]))
        audit_ms = (time.perf_counter() - started) * 1e3
        answers = [
            ended if isinstance(ended, MedAIError) else one.answer(served, ended, audit_ms=audit_ms)
            for one, ended in zip(screened, recorded, strict=True)
        ]
        for answer in answers:
            if isinstance(answer, Answer):
                self._observe(answer)
        return answers

    async def _screened(
        self, request: ImageRequest, served: Served, principal: Principal, deadline: float
    ) -> "_Screened":
        started = time.perf_counter()
        upload = Upload(
            result_id=uuid7(),
            model=served.model,
            body=request.body,
            media_type=request.media_type,
            patient=request.patient,
            frame=request.frame,
            trace=request.trace,
        )
        verdict = await self._screen(upload, deadline)
        # What failed on our side is recorded, but is not what its key stands for: the same request
        # may be sent again, and is then worked on again.
        keyed = verdict.outcome is not Outcome.FAILED
        result = NewResult(
            result_id=upload.result_id,
            model=served.model,
            verdict=verdict,
            created_by=principal.user_id,
            created_at=datetime.now(UTC),
            idempotency_key=request.idempotency_key if keyed else None,
            request_digest=request.request_digest if keyed else None,
        )
        event = inference_event(result, principal, request.request_id, request.trace)
        return _Screened(result, event, (time.perf_counter() - started) * 1e3)

    def _deadline(self) -> float:
        """When an answer that begins now must be there, by the loop's clock."""
        return asyncio.get_running_loop().time() + self._limits.deadline_s

    async def _screen(self, upload: Upload, deadline: float) -> Verdict:
        """A verdict in any case: what went wrong on our side is one too, and is recorded."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._screening.screen(upload)
        except TimeoutError:
            error: MedAIError = InferenceTimeout(
                f"no answer within {self._limits.deadline_s:g} s",
                retry_after_s=self._limits.retry_after_s,
            )
        except Failed as failure:
            error = failure.bare()
        digest = hashlib.sha256(upload.body).hexdigest()
        facts = ImageFacts(sha256=digest, size_bytes=len(upload.body))
        return Verdict(outcome=Outcome.FAILED, facts=facts, patient=upload.patient, error=error)

    async def _in_time(self, recording: Awaitable[Recorded]) -> Recorded:
        try:
            async with asyncio.timeout(self._limits.audit_timeout_s):
                return await recording
        except TimeoutError:
            raise AuditUnavailable(
                f"the record was not committed within {self._limits.audit_timeout_s:g} s",
                retry_after_s=self._limits.retry_after_s,
            ) from None


@dataclass(frozen=True, slots=True)
class _Screened:
    """A verdict on its way into the log."""

    result: NewResult
    event: AuditEvent
    screen_ms: float

    def answer(self, served: Served, receipt: Receipt, *, audit_ms: float) -> Answer:
        verdict = self.result.verdict
        return Answer(
            result_id=self.result.result_id,
            created_at=self.result.created_at,
            served=served,
            verdict=verdict,
            receipt=receipt,
            timings_ms={
                "decode": verdict.decode_ms,
                "validate": verdict.validate_ms,
                "preprocess": verdict.preprocess_ms,
                "model": verdict.model_ms,
                "inference": verdict.inference_ms,
                "screen": self.screen_ms,
                "audit": audit_ms,
                "total": self.screen_ms + audit_ms,
            },
        )


async def _by_itself(work: Coroutine[Any, Any, Worked]) -> Worked:
    """Wait for `work` without owning it.

    A request's context carries Serve's cancellation of child calls: a caller who leaves would take
    the work of its batch-mates along (docs/adr/0004). Hence a task of its own, in an empty context,
    that the request only waits for.
    """
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    return await asyncio.shield(task)


_ACTIONS = {
    Outcome.PREDICTED: AuditAction.INFERENCE,
    Outcome.ABSTAINED: AuditAction.INFERENCE,
    Outcome.REJECTED: AuditAction.INFERENCE_REJECTED,
    Outcome.FAILED: AuditAction.INFERENCE_FAILED,
}


def inference_event(
    result: NewResult, principal: Principal, request_id: str | None, trace: str | None = None
) -> AuditEvent:
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
        trace=trace,
    )
