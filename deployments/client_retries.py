"""When the client asks again by itself: where the server says when to come back, and it is safe.

    429, 503 with Retry-After     after so long, and a random part of a quarter of a second
    any other answer              never

Safe are requests that read, and those with an `Idempotency-Key`, which the server works on once
however often they come. How often and for how long is bounded; then the last answer is the answer.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import httpx2
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_result,
    stop_after_attempt,
    stop_before_delay,
    wait_random,
)

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
ATTEMPTS: Final = 5
TOTAL_S: Final = 30.0  # from the first attempt to the beginning of the last
SPREAD_S: Final = 0.25
_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_READS: Final = frozenset({"GET", "HEAD"})
_SPREAD: Final = wait_random(0, SPREAD_S)


def answered(
    send: Callable[[httpx2.Request], httpx2.Response],
    request: httpx2.Request,
    *,
    total_s: float = TOTAL_S,
) -> httpx2.Response:
    """The answer to `request`, for which it may have been sent several times.

    Args:
        send: Sends it once. What it raises is raised.
        request: Its body is held in memory, so that it can be sent again.
        total_s: No attempt begins later than this after the first; 0: only one.
    """
    if request.method not in _READS and IDEMPOTENCY_KEY not in request.headers:
        return send(request)
    attempts = Retrying(
        retry=retry_if_result(lambda response: retry_after_s(response) is not None),
        wait=_as_told,
        stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(total_s),
        retry_error_callback=_last,
    )
    response: httpx2.Response = attempts(send, request)
    return response


def retry_after_s(response: httpx2.Response) -> float | None:
    """How many seconds to wait (RFC 9110, 10.2.3); None where the server does not ask for it."""
    told = response.headers.get("Retry-After", "").strip()
    if response.status_code not in _BUSY or not told:
        return None
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        moment = parsedate_to_datetime(told)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _as_told(state: RetryCallState) -> float:
    assert state.outcome is not None
    return (retry_after_s(state.outcome.result()) or 0.0) + _SPREAD(state)


def _last(state: RetryCallState) -> httpx2.Response:
    assert state.outcome is not None
    response: httpx2.Response = state.outcome.result()
    return response
