"""What happens to every request before and after its route. Pure ASGI, in this order.

1. Envelope        gives the request an id, bounds its body, turns every error into a problem,
                   adds the security headers, and writes the one access line
2. Authentication  says who asks; a path that no route declares public is closed

Rules this file keeps: the id is always ours, so that no caller can make two requests look like one
(an x-request-id that came along is logged where it has a UUID's form, and never more than that,
since callers put patients into such fields); nothing of an unforeseen error leaves but that id.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from deployments.api.bodies import BoundedBody
from deployments.api.denials import Denials
from deployments.api.exchange import SCOPE_KEY, Exchange, exchange_in
from deployments.api.problems import problem
from deployments.api.rate_limits import RateLimits
from deployments.api.sessions import Sessions
from deployments.api.tokens import AccessTokens, Refusal
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import REQUEST_ID, get_logger
from registry.contract import Principal
from registry.errors import BadRequest, Forbidden, Internal, MedAIError, Unauthenticated

REQUEST_ID_HEADER: Final = b"medai-request-id"  # Ray Serve writes x-request-id itself
SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# What a route may set otherwise: the documentation's pages do.
DEFAULT_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
# Ray Serve lets a caller lengthen its own time limit by these; the app must not even see them.
STRIPPED: Final = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES: Final = "/health"  # asked every few seconds: only worth a line where they fail
CLIENT_LEFT: Final = 499  # for the log only; nobody is there to read it
_LENGTH = re.compile(rb"[0-9]{1,18}")
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Reply:
    """An ASGI `send` that adds what every answer has, and remembers what was sent."""

    __slots__ = ("_exchange", "_send")

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange

    async def __call__(self, message: Message) -> None:
        exchange = self._exchange
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            headers = [*message["headers"], *SECURITY_HEADERS]
            set_already = {name for name, _ in message["headers"]}
            headers.extend(pair for pair in DEFAULT_HEADERS if pair[0] not in set_already)
            headers.append((REQUEST_ID_HEADER, exchange.request_id.encode()))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            exchange.bytes_out += len(message.get("body", b""))
        await self._send(message)


class Envelope:
    """The outermost layer; see the module's docstring.

    Args:
        app: What comes next.
        denials: Learns of every refused permission.
        body_timeout_s: How long a body may take to arrive.
        observe: Told of every request's method and exchange, once it is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        denials: Denials,
        body_timeout_s: float,
        observe: Callable[[str, Exchange], None] = lambda _, __: None,
    ) -> None:
        self._app = app
        self._denials = denials
        self._body_timeout_s = body_timeout_s
        self._observe = observe
        self._log = get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # there are none here
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(str(uuid7()))
        scope[SCOPE_KEY] = exchange
        identity = REQUEST_ID.set(exchange.request_id)
        try:
            await self._answer(scope, receive, Reply(send, exchange))
        finally:
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            self._write_access_line(method, exchange)
            self._observe(method, exchange)
            REQUEST_ID.reset(identity)

    async def _answer(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        exchange = exchange_in(scope)
        body = BoundedBody(receive, exchange, timeout_s=self._body_timeout_s)
        try:
            read_headers(scope, exchange)
            await self._app(scope, body, reply)
        except MedAIError as error:
            if isinstance(error, Forbidden) and exchange.principal is not None:
                await self._denials.forbidden(
                    exchange.principal, exchange.permission, exchange.request_id
                )
            await self._tell(error, exchange, scope, body, reply)
        except ClientDisconnect:
            exchange.status = CLIENT_LEFT
        except (asyncio.CancelledError, GeneratorExit):
            exchange.status = exchange.status or CLIENT_LEFT
            raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001  # also a Rust extension's panic, which is no Exception
            self._log.error(LogEvent.REQUEST_FAILED, route=exchange.route, exc_info=True)
            await self._tell(Internal("an unforeseen error"), exchange, scope, body, reply)

    async def _tell(
        self, error: MedAIError, exchange: Exchange, scope: Scope, receive: Receive, reply: Reply
    ) -> None:
        if exchange.status:  # too late: the server cuts the answer short
            raise Internal("the answer had already begun") from None
        exchange.code = error.code
        response = problem(error, request_id=exchange.request_id, headers=exchange.answer_headers)
        await response(scope, receive, reply)

    def _write_access_line(self, method: str, exchange: Exchange) -> None:
        principal = exchange.principal
        probe = (exchange.route or "").startswith(PROBES) and exchange.code is None
        write = self._log.debug if probe else self._log.info
        write(
            LogEvent.REQUEST,
            method=method,
            route=exchange.route or "none",
            status=exchange.status,
            code=exchange.code,
            duration_ms=exchange.elapsed_ms,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            user_id=None if principal is None else principal.user_id,
            role=None if principal is None else principal.role,
            forwarded_request_id=exchange.forwarded_id,
        )


def read_headers(scope: Scope, exchange: Exchange) -> None:
    """Take what the middleware needs from the headers, and strip what no route may see.

    Raises:
        BadRequest: The body's length is declared in two ways (request smuggling), or is no number.
    """
    strip = chunked = False
    lengths = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            exchange.authorization.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"x-request-id":
            exchange.forwarded_id = value.decode() if _UUID.fullmatch(value) else None
        elif name in STRIPPED:
            strip = True
    if strip:
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in STRIPPED]
    if lengths:
        unclear = chunked or len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0])
        if unclear:
            raise BadRequest("the length of the body is not declared in one clear way")
        exchange.content_length = int(lengths[0])


class Authentication:
    """Says who asks, or that nobody may.

    Args:
        app: What comes next.
        tokens: Verifies access tokens.
        sessions: Knows whether user and token are still good.
        denials: Learns of every refused token.
        rate_limits: How often one may ask.
        public: Method and path of the routes that need nobody.
        recognising: Those of them that say more to whom they know.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: AccessTokens,
        sessions: Sessions,
        denials: Denials,
        rate_limits: RateLimits,
        public: frozenset[tuple[str, str]],
        recognising: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._sessions = sessions
        self._denials = denials
        self._rate_limits = rate_limits
        self._public = public
        self._recognising = recognising

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            exchange = exchange_in(scope)
            if (scope["method"], path) in self._public:
                if not path.startswith(PROBES):  # load balancers must always have their answer
                    await self._rate_limits.address(exchange, scope)
                elif (scope["method"], path) in self._recognising and exchange.authorization:
                    with contextlib.suppress(MedAIError):  # then it is anybody who asks
                        await self._identify(exchange, scope)
            else:
                await self._identify(exchange, scope)
        await self._app(scope, receive, send)

    async def _identify(self, exchange: Exchange, scope: Scope) -> None:
        """Set who asks.

        Raises:
            Unauthenticated: Nobody may. It never says why.
            RateLimited: It was asked too often.
            DatabaseUnavailable: It cannot be told who may.
        """
        token = bearer(exchange.authorization)
        claims = token if isinstance(token, Refusal) else self._tokens.verify(token)
        if isinstance(claims, Refusal):
            refusal, identity = claims, None
        else:
            admitted = await self._sessions.admit(claims)
            if isinstance(admitted, Principal):
                exchange.principal = admitted
                exchange.claims = claims
                await self._rate_limits.user(exchange, admitted.user_id)
                return
            refusal, identity = admitted, claims
        await self._rate_limits.address(exchange, scope)
        await self._denials.token(refusal, identity, exchange.request_id)
        raise Unauthenticated("a valid access token is needed: POST /auth/login gives one")


def bearer(authorization: list[bytes]) -> bytes | Refusal:
    """The token of exactly one `Authorization: Bearer` header (RFC 6750 §2.1)."""
    if not authorization:
        return Refusal.ABSENT
    scheme, _, token = authorization[0].partition(b" ")
    if len(authorization) > 1 or scheme.lower() != b"bearer" or not token:
        return Refusal.MALFORMED
    return token
