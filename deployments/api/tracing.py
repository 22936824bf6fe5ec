"""One span for each request, and its traceparent on every answer. Added only where tracing is on.

The outermost layer, so that refusals and unforeseen errors have their span, too. A traceparent that
came along makes the request a part of the caller's trace; one that is malformed, or comes twice, is
ignored and never repeated. `tracestate` and `baggage` are not read at all. Probes are not traced.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.exchange import exchange_in
from deployments.api.middleware import METHODS, PROBES
from deployments.telemetry.tracing_attributes import Attribute
from deployments.telemetry.tracing_context import TRACEPARENT

if TYPE_CHECKING:  # OpenTelemetry is loaded only where tracing is on
    from deployments.telemetry.tracing import RequestSpan, Tracing

HEADER: Final = b"traceparent"


class RequestTraces:
    """See the module's docstring.

    Args:
        app: What comes next: `middleware.Envelope`.
        tracing: The gateway's.
    """

    def __init__(self, app: ASGIApp, *, tracing: "Tracing") -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_probe(scope):
            await self._app(scope, receive, send)
            return
        span = self._tracing.request(traceparents(scope["headers"]))
        own = (HEADER, span.traceparent.encode())

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], own]}
            await send(message)

        token = TRACEPARENT.set(span.traceparent)
        try:
            await self._app(scope, receive, reply)
        finally:
            TRACEPARENT.reset(token)
            _end(span, scope)


def traceparents(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The values of the headers of this name."""
    return [value.decode("latin-1") for name, value in headers if name == HEADER]


def _is_probe(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).startswith(PROBES)


def _end(span: "RequestSpan", scope: Scope) -> None:
    exchange = exchange_in(scope)
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    about = {
        Attribute.REQUEST_ID: exchange.request_id,
        Attribute.ERROR: exchange.code,
        Attribute.BYTES_IN: exchange.bytes_in,
    }
    span.end(method, exchange.route, exchange.status, about)
