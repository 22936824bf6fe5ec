"""What is known of the request being answered, in one object that travels in the ASGI scope."""

import time
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

from deployments.api.permissions import DEFAULT_BODY_BYTES, Permission
from deployments.api.tokens import Claims
from registry.contract import Principal
from registry.errors import Unauthenticated

SCOPE_KEY: Final = "medai.exchange"


class Exchange:
    """One request and its answer, as far as they have come. Filled by the middleware and the route.

    Attributes:
        request_id: Ours, a UUIDv7.
        started: When the request came, `time.perf_counter()` seconds.
        forwarded_id: The x-request-id that came along, where it has a UUID's form.
        authorization: The Authorization headers.
        content_length: Declared size of the body in bytes, or None.
        principal: Who asks; None on public routes.
        claims: What the caller's token says; set together with `principal`.
        route: The route's template, such as `/results/{result_id}`.
        permission: What the route asks for.
        max_body_bytes: The largest body the route takes.
        body_timeout_s: How long the body may take, where the route says so itself.
        code: The problem's code, where the answer is one.
        status: The answer's status; 0 before it began.
        bytes_in: Bytes of the body that came in.
        bytes_out: Bytes of the body that went out.
        answer_headers: Headers of the problem, where the answer is one.
    """

    __slots__ = (
        "answer_headers",
        "authorization",
        "body_timeout_s",
        "bytes_in",
        "bytes_out",
        "claims",
        "code",
        "content_length",
        "forwarded_id",
        "max_body_bytes",
        "permission",
        "principal",
        "request_id",
        "route",
        "started",
        "status",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.started = time.perf_counter()
        self.forwarded_id: str | None = None
        self.authorization: list[bytes] = []
        self.content_length: int | None = None
        self.principal: Principal | None = None
        self.claims: Claims | None = None
        self.route: str | None = None
        self.permission: Permission | None = None
        self.max_body_bytes = DEFAULT_BODY_BYTES
        self.body_timeout_s: float | None = None
        self.code: str | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.answer_headers: dict[str, str] | None = None

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the request came."""
        return (time.perf_counter() - self.started) * 1e3


def exchange_in(scope: Scope) -> Exchange:
    """The exchange that the middleware put into the scope."""
    exchange: Exchange = scope[SCOPE_KEY]
    return exchange


def principal_of(request: HTTPConnection) -> Principal:
    """Who asks. Raises `Unauthenticated` on a public route, where nobody is known."""
    principal = exchange_in(request.scope).principal
    if principal is None:
        raise Unauthenticated
    return principal


def claims_of(request: HTTPConnection) -> Claims:
    """What the caller's token says. Raises `Unauthenticated` as `principal_of` does."""
    claims = exchange_in(request.scope).claims
    if claims is None:
        raise Unauthenticated
    return claims


def request_id_of(request: HTTPConnection) -> str:
    """The id of the request."""
    return exchange_in(request.scope).request_id
