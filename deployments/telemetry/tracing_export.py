"""The way of ended spans to the collector: OTLP over HTTP, as protobuf.

    span ends ──► queue (bounded) ──thread──► POST <endpoint>/v1/traces

Rules this file keeps:

- A request never waits for the collector: a span that finds the queue full is dropped and counted,
  and so is what a slow or absent collector did not take in time. The log says once that spans are
  lost, and once that they are not any more.
- What the process says of itself is what stands here: OpenTelemetry's own detectors would send the
  command line and the host's environment.
- The end of a process waits for the collector `CLOSE_S` seconds at most.
"""

import asyncio
import logging
from collections.abc import Sequence
from importlib.metadata import version
from threading import Lock, Thread
from typing import Final
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from configs.settings import TracingSettings
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import get_logger
from deployments.telemetry.tracing import Tracing

SERVICE: Final = "medai-flow"
EXPORT_EVERY_S: Final = 1.0
EXPORT_AT_MOST: Final = 512  # spans of one export
CLOSE_S: Final = 2.0
LIMITS: Final = SpanLimits(max_span_attributes=16, max_links=128, max_events=0)


def exporting(settings: TracingSettings, component: str) -> Tracing:
    """The tracer of this process, on its way to the collector from now on.

    Args:
        settings: With an endpoint.
        component: Which part of the service this process is: as in its log lines.
    """
    # Its lines quote addresses and come with every failure; ours say when it begins and ends.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = OTLPSpanExporter(
        settings.url,
        certificate_file=None if settings.ca_file is None else str(settings.ca_file),
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
        timeout=settings.timeout_s,
        compression=Compression.NoCompression,
    )
    return tracing_by(exporter, settings, component)


def tracing_by(exporter: SpanExporter, settings: TracingSettings, component: str) -> Tracing:
    """The same with an exporter of one's own."""
    software = version(SERVICE)
    provider = TracerProvider(
        ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        Resource(
            {
                "service.name": SERVICE,
                "service.version": software,
                "service.instance.id": str(uuid4()),
                "medai.component": component,
            }
        ),
        shutdown_on_exit=False,  # it would wait half a minute for a collector that hangs
        span_limits=LIMITS,
    )
    delivery = BoundedDelivery(exporter, provider, settings.queue_size)
    provider.add_span_processor(delivery)
    return Tracing(provider.get_tracer(SERVICE, software), delivery)


class BoundedDelivery(SpanProcessor):
    """A bound in front of the library's queue, which tells nobody what it drops.

    Args:
        exporter: Sends the spans.
        provider: Whose spans they are; closed with this.
        limit: How many spans may wait, those on their way included.
    """

    def __init__(self, exporter: SpanExporter, provider: TracerProvider, limit: int) -> None:
        self._limit = limit
        self._waiting = 0
        self._dropped = 0
        self._lock = Lock()
        self._provider = provider
        self._watched = _Watched(exporter, self)
        self._queue = BatchSpanProcessor(
            self._watched,
            max_queue_size=limit,
            schedule_delay_millis=EXPORT_EVERY_S * 1e3,
            max_export_batch_size=min(EXPORT_AT_MOST, limit),
        )

    @property
    def lost(self) -> int:
        """Spans that were dropped, or that the collector did not take, since the start."""
        return self._dropped + self._watched.failed

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is done before a span ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it, or drop it where the queue is full."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        with self._lock:
            if self._waiting >= self._limit:
                self._dropped += 1
                return
            self._waiting += 1
        self._queue.on_end(span)

    def gone(self, count: int) -> None:
        """So many spans do not wait any more."""
        with self._lock:
            self._waiting -= count

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Send what waits, now, in the caller's thread."""
        return self._queue.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Send what waits, and stop. May take as long as the collector does."""
        self._queue.shutdown()  # type: ignore[no-untyped-call]  # the library's

    async def close(self) -> None:
        """The same, for `CLOSE_S` seconds at most: the process ends without what is left."""
        closing = Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_S)


class _Watched(SpanExporter):
    """Counts what an exporter could not deliver, and says when that begins and ends."""

    def __init__(self, exporter: SpanExporter, delivery: BoundedDelivery) -> None:
        self.failed = 0
        self._exporter = exporter
        self._delivery = delivery
        self._losing = False
        self._log = get_logger()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, within the exporter's own time limit."""
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001  # a defect of the library must not end its thread
            result = SpanExportResult.FAILURE
        finally:
            self._delivery.gone(len(spans))
        if result is SpanExportResult.SUCCESS:
            if self._losing:
                self._log.info(LogEvent.TRACES_DELIVERED, count=self.failed)
            self._losing = False
            return result
        self.failed += len(spans)
        if not self._losing:
            self._log.warning(LogEvent.TRACES_LOST, count=len(spans))
        self._losing = True
        return result

    def shutdown(self) -> None:
        """Stop sending."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing waits here."""
        return self._exporter.force_flush(timeout_millis)
