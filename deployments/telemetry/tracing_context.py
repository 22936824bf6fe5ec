"""Which trace a request belongs to, as the W3C traceparent that travels with it.

The context is carried by hand: in a variable of the request's own task, then in a field of the
messages between the deployments (`Upload.trace`, `Tensors.traces`, `AuditEvent.trace`), because the
batchers' tasks belong to no request (docs/adr/0004). Nothing here loads OpenTelemetry.
"""

from contextvars import ContextVar
from typing import Final

TRACEPARENT: Final[ContextVar[str | None]] = ContextVar("medai_traceparent", default=None)
"""The span of the request being answered (`00-<trace id>-<span id>-<flags>`); None: no tracing."""

SAMPLED: Final = 0x01  # the flag of a trace that is sent to the collector


def trace_id() -> str | None:
    """The id of the request's trace, 32 hex digits, also where it is not sampled."""
    traceparent = TRACEPARENT.get()
    return None if traceparent is None else traceparent[3:35]


def carried_trace() -> str | None:
    """What the messages of this request carry: its traceparent, if the trace is sampled."""
    traceparent = TRACEPARENT.get()
    if traceparent is None or not int(traceparent[-2:], 16) & SAMPLED:
        return None
    return traceparent
