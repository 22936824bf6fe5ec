"""Work that is finished also where its caller leaves meanwhile.

Ray Serve cancels a request's task when the client disconnects. What must not be left half done (a
failed log-in that counts, a token that is revoked) therefore runs in a task of its own, outside of
the request's context, which also keeps Serve from cancelling the calls that it makes
(docs/adr/0004).
"""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

from deployments.telemetry.logs import REQUEST_ID
from deployments.telemetry.tracing_context import TRACEPARENT

T = TypeVar("T")


async def to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work`; where the waiting is cancelled, the work goes on. Raises what it raises."""
    context = contextvars.Context()
    context.run(REQUEST_ID.set, REQUEST_ID.get())
    context.run(TRACEPARENT.set, TRACEPARENT.get())
    task = asyncio.get_running_loop().create_task(work, context=context)
    task.add_done_callback(_seen)
    return await asyncio.shield(task)


def _seen(task: "asyncio.Task[T]") -> None:
    """Look at the outcome, so that asyncio does not report an error nobody waited for."""
    if not task.cancelled():
        task.exception()
