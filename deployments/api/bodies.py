"""How a request's body may arrive: not larger than its route takes, and not slower than the limit.

The servers in front set no such limits, so every body comes through here. The size is checked
against Content-Length before the first byte is read, and counted while reading, because a chunked
body declares none.
"""

import asyncio

from starlette.types import Message, Receive

from deployments.api.exchange import Exchange
from registry.errors import PayloadTooLarge, RequestTimeout, Violation


class BoundedBody:
    """An ASGI `receive` that raises where the body breaks a bound.

    Args:
        receive: The server's.
        exchange: Knows the largest body, and learns how many bytes came.
        timeout_s: How long the whole body may take, from now, where its route does not say.

    Raises (when called):
        PayloadTooLarge: More bytes are declared, or came, than the route takes.
        RequestTimeout: The body was not complete in time.
    """

    __slots__ = ("_complete", "_exchange", "_receive", "_started", "_timeout_s")

    def __init__(self, receive: Receive, exchange: Exchange, *, timeout_s: float) -> None:
        self._receive = receive
        self._exchange = exchange
        self._timeout_s = timeout_s
        self._started = asyncio.get_running_loop().time()
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:  # from here on, only the news that the caller has left can come
            return await self._receive()
        exchange = self._exchange
        declared = exchange.content_length
        if declared is not None and declared > exchange.max_body_bytes:
            raise _too_large(exchange, f"{declared} bytes")
        timeout_s = exchange.body_timeout_s or self._timeout_s
        try:
            async with asyncio.timeout_at(self._started + timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(f"the body was not complete within {timeout_s:g} s") from None
        if message["type"] == "http.request":
            exchange.bytes_in += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if exchange.bytes_in > exchange.max_body_bytes:
                raise _too_large(exchange, "")
        return message


def _too_large(exchange: Exchange, measured: str) -> PayloadTooLarge:
    limit = f"{exchange.max_body_bytes} bytes"
    return PayloadTooLarge(
        "the body is larger than this route takes",
        (Violation("body", measured, limit, "send a smaller file"),),
    )
