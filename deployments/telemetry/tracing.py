"""The traces of requests: which spans there are, and how they hang together.

    POST /infer                    gateway     server    parent: the caller's span, if it sent one
    ├── screen                     gateway     client    queue, hop and answer
    │   └── validate               Validator   server
    │       ├── prepare, gate
    │       └── model              Validator   client    queue, hop and answer
    │           └── run            OnnxModel   server    links to `run batch`
    └── audit                      gateway     client    queue, hop and answer
        └── commit                 AuditWriter server    links to `commit batch`

One object a process, made by its shell where tracing is on (`tracing_start`). A batch has a span of
its own in the trace of the first request in it, with a link to each of its requests' spans; each
request has the same time as a span in its own trace, with a link back to the batch's.

Rules this file keeps:

- A span begins and ends at times that were measured; nothing is estimated.
- Contexts are given and returned as W3C traceparents, never left in a variable: the batchers' tasks
  belong to no request (docs/adr/0004).
- A message carries a traceparent only where the request is sampled, so whoever finds none does
  nothing.
- Attributes go through the allow-list of `tracing_attributes`.
- This tracer is ours alone: Ray and other libraries find OpenTelemetry's global one unset.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, TypeAlias

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments.telemetry.tracing_attributes import ATTRIBUTES, Attribute, SpanName
from registry.errors import Internal, MedAIError

Attributes: TypeAlias = Mapping[Attribute, object]

FIRST_FAILURE: Final = 500  # a refusal is no error of the server's span (semantic conventions)
LEFT: Final = "cancelled"  # whoever waited has gone, or its time was up
NOTHING: Final[Attributes] = {}
_HEADER: Final = "traceparent"
_W3C: Final = TraceContextTextMapPropagator()


class Delivery(Protocol):
    """Where ended spans go."""

    @property
    def lost(self) -> int:
        """Spans that were not delivered, since the start."""
        ...

    async def close(self) -> None:
        """Deliver what can be delivered within a second or two, and stop."""
        ...


class RequestSpan:
    """The span of one request. `traceparent` is always there; it is sent only if sampled."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = _traceparent(span)

    def end(self, method: str, route: str | None, status: int, attributes: Attributes) -> None:
        """End it now.

        Args:
            method: The HTTP method, or OTHER.
            route: The route's template; None where no route matched.
            status: The answer's status; 0 where there was none.
            attributes: More of them.
        """
        span = self._span
        if span.is_recording():
            span.update_name(method if route is None else f"{method} {route}")
            _put(span, {Attribute.METHOD: method, Attribute.ROUTE: route} | dict(attributes))
            _put(span, {Attribute.STATUS: status or None})
            if status >= FIRST_FAILURE:
                span.set_status(StatusCode.ERROR)
        span.end()


class Hop:
    """The spans of those who wait for one call. `traces`: what the call's message carries."""

    __slots__ = ("_spans", "traces")

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self.traces = tuple(map(_traceparent, spans))

    def put(self, attributes: Attributes) -> None:
        """Say more of each."""
        for span in self._spans:
            _put(span, attributes)


class Tracing:
    """The tracer of one process.

    Args:
        tracer: Makes the spans.
        delivery: Where they go.
    """

    def __init__(self, tracer: Tracer, delivery: Delivery) -> None:
        self.delivery = delivery
        self._tracer = tracer

    def request(self, traceparents: Sequence[str]) -> RequestSpan:
        """Begin the span of a request.

        Args:
            traceparents: The headers of this name. One that is well formed is the parent, and its
                flag says whether to sample; else the trace is new, and the configured ratio does.
        """
        parent = Context() if len(traceparents) != 1 else _context(traceparents[0])
        return RequestSpan(self._tracer.start_span("request", parent, SpanKind.SERVER))

    @contextmanager
    def hop(
        self, name: SpanName, traces: Sequence[str], attributes: Attributes = NOTHING
    ) -> Iterator[Hop]:
        """Wait for a call on behalf of these spans. What the call raises is each one's error."""
        spans = [self._tracer.start_span(name, _context(one), SpanKind.CLIENT) for one in traces]
        hop = Hop(spans)
        hop.put(attributes)
        with _ending(spans):
            yield hop

    @contextmanager
    def batch(
        self, name: SpanName, of_each: SpanName, traces: Sequence[str | None]
    ) -> Iterator[list[str | None]]:
        """Work on a batch whose parts have spans of their own.

        Args:
            name: The batch's span.
            of_each: The span of each request in it.
            traces: What the batch's messages carry, one each.

        Yields:
            For each message what its own parts carry.
        """
        carried = [trace for trace in traces if trace is not None]
        if not carried:
            yield list(traces)
            return
        started = time.time_ns()
        whole = self._whole(name, carried, started, len(traces))
        each = [
            None if one is None else self._share(of_each, one, whole, started) for one in traces
        ]
        with _ending([whole, *(span for span in each if span is not None)]):
            yield [None if span is None else _traceparent(span) for span in each]

    def batch_ended(
        self,
        name: SpanName,
        of_each: SpanName,
        traces: Sequence[str],
        *,
        size: int,
        seconds: float,
    ) -> None:
        """A batch that has ended just now, after `seconds`. `size`: with those not traced."""
        if not traces:
            return
        ended = time.time_ns()
        started = ended - round(seconds * 1e9)
        whole = self._whole(name, traces, started, size)
        for trace in traces:
            self._share(of_each, trace, whole, started).end(ended)
        whole.end(ended)

    def ended(
        self,
        name: SpanName,
        traces: Sequence[str],
        *,
        seconds: float,
        attributes: Attributes = NOTHING,
    ) -> None:
        """A step of these spans that has ended just now, after `seconds`."""
        ended = time.time_ns()
        started = ended - round(seconds * 1e9)
        for trace in traces:
            span = self._tracer.start_span(name, _context(trace), start_time=started)
            _put(span, attributes)
            span.end(ended)

    async def close(self) -> None:
        """Deliver what waits, within a second or two."""
        await self.delivery.close()

    def _whole(self, name: SpanName, traces: Sequence[str], started: int, size: int) -> Span:
        links = [Link(get_current_span(_context(trace)).get_span_context()) for trace in traces]
        span = self._tracer.start_span(name, _context(traces[0]), links=links, start_time=started)
        _put(span, {Attribute.BATCH_SIZE: size})
        return span

    def _share(self, name: SpanName, trace: str, whole: Span, started: int) -> Span:
        link = Link(whole.get_span_context())
        return self._tracer.start_span(
            name, _context(trace), SpanKind.SERVER, links=[link], start_time=started
        )


def error_of(error: BaseException) -> str:
    """The code of an error, as `error.type` says it."""
    if isinstance(error, MedAIError):
        return error.code
    return LEFT if isinstance(error, asyncio.CancelledError) else Internal.code


@contextmanager
def _ending(spans: Sequence[Span]) -> Iterator[None]:
    """End the spans with the block; with its error, where it raises one. Never the error's text."""
    try:
        yield
    except BaseException as error:
        for span in spans:
            _put(span, {Attribute.ERROR: error_of(error)})
            span.set_status(StatusCode.ERROR)
        raise
    finally:
        for span in spans:
            span.end()


def _put(span: Span, attributes: Attributes) -> None:
    """Write what the allow-list permits; the rest stays behind."""
    for key, value in attributes.items():
        if value is not None and (permitted := ATTRIBUTES[key](value)) is not None:
            span.set_attribute(key, permitted)


def _context(traceparent: str) -> Context:
    """The context of a traceparent; an empty one where it is malformed."""
    return _W3C.extract({_HEADER: traceparent}, Context())


def _traceparent(span: Span) -> str:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, set_span_in_context(span, Context()))
    return carrier[_HEADER]
