"""The hops with spans around them, for the shells to put where tracing is on.

Each takes the span that waits out of the message, and puts its own in before it passes the message
on: what happens in the other process is then a part of the hop. A message without a span goes
through as it came. Where tracing is off nothing is wrapped.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from deployments.inference.service import AuditTrail, Screening
from deployments.telemetry.tracing_attributes import Attribute, SpanName
from registry.contract import Receipt, Scores, Tensors, Upload, Verdict
from registry.errors import MedAIError
from registry.events import AuditEvent

if TYPE_CHECKING:  # OpenTelemetry only where tracing is on, ONNX Runtime in no gateway
    from deployments.inference.predictor import Scoring
    from deployments.telemetry.tracing import Tracing

Screen: TypeAlias = Callable[[list[Upload]], Awaitable[list[Verdict]]]


def traced_screening(screening: Screening, tracing: "Tracing | None") -> Screening:
    """The gateway's way to the Validator."""
    return screening if tracing is None else _TracedScreening(screening, tracing)


def traced_trail(trail: AuditTrail, tracing: "Tracing | None") -> AuditTrail:
    """The gateway's way to the AuditWriter."""
    return trail if tracing is None else _TracedTrail(trail, tracing)


def traced_scoring(scoring: "Scoring", tracing: "Tracing | None") -> "Scoring":
    """The Validator's way to the models."""
    return scoring if tracing is None else _TracedScoring(scoring, tracing)


def traced_batches(screen: Screen, tracing: "Tracing | None") -> Screen:
    """The Validator's work on what one call brought."""
    if tracing is None:
        return screen
    batch = tracing.batch

    async def traced(uploads: list[Upload]) -> list[Verdict]:
        traces = [upload.trace for upload in uploads]
        with batch(SpanName.VALIDATE_BATCH, SpanName.VALIDATE, traces) as own:
            return await screen(
                [replace(upload, trace=trace) for upload, trace in zip(uploads, own, strict=True)]
            )

    return traced


class _TracedScreening:
    def __init__(self, screening: Screening, tracing: "Tracing") -> None:
        self._screening = screening
        self._tracing = tracing

    async def screen(self, upload: Upload) -> Verdict:
        """See `service.Screening`."""
        if upload.trace is None:
            return await self._screening.screen(upload)
        about = {
            Attribute.RESULT_ID: upload.result_id,
            Attribute.MODEL: upload.model.name,
            Attribute.VERSION: upload.model.version,
        }
        with self._tracing.hop(SpanName.SCREEN, (upload.trace,), about) as hop:
            verdict = await self._screening.screen(replace(upload, trace=hop.traces[0]))
            error = None if verdict.error is None else verdict.error.code
            hop.put({Attribute.OUTCOME: verdict.outcome, Attribute.ERROR: error})
        return verdict


class _TracedTrail:
    def __init__(self, trail: AuditTrail, tracing: "Tracing") -> None:
        self._trail = trail
        self._tracing = tracing

    async def record(self, event: AuditEvent) -> Receipt:
        """See `service.AuditTrail`."""
        if event.trace is None:
            return await self._trail.record(event)
        about = {Attribute.ACTION: event.action}
        with self._tracing.hop(SpanName.AUDIT, (event.trace,), about) as hop:
            return await self._trail.record(replace(event, trace=hop.traces[0]))

    async def record_all(self, events: Sequence[AuditEvent]) -> list[Receipt | MedAIError]:
        """See `service.AuditTrail`. The events are one request's, so they are waited for by one."""
        trace = events[0].trace if events else None
        if trace is None:
            return await self._trail.record_all(events)
        about = {Attribute.BATCH_SIZE: len(events)}
        with self._tracing.hop(SpanName.AUDIT, (trace,), about) as hop:
            return await self._trail.record_all(
                [replace(event, trace=hop.traces[0]) for event in events]
            )


class _TracedScoring:
    def __init__(self, scoring: "Scoring", tracing: "Tracing") -> None:
        self._scoring = scoring
        self._tracing = tracing

    async def score(self, tensors: Tensors) -> Scores:
        """See `predictor.Scoring`."""
        if not tensors.traces:
            return await self._scoring.score(tensors)
        about = {Attribute.MODEL: tensors.model.name, Attribute.VERSION: tensors.model.version}
        with self._tracing.hop(SpanName.MODEL, tensors.traces, about) as hop:
            scores = await self._scoring.score(replace(tensors, traces=hop.traces))
            hop.put(
                {
                    Attribute.BATCH_SIZE: scores.batch_size,
                    Attribute.INFERENCE_MS: scores.inference_ms,
                }
            )
        return scores
