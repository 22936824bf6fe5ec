"""One adaptive batcher, for every place where a call costs more than an item.

    idle                  a batch leaves one loop tick after its first item: a burst goes as one
    all calls in flight   items gather; the next batch leaves when a call comes back
    full                  `Overloaded`, at once

There is no timer: at low load nothing waits, at high load the batches grow by themselves.

Rules this file keeps:

- Calls run in tasks of their own, each in an empty `contextvars.Context`. A task made inside a
  request would inherit Ray Serve's request context, and when that client leaves, Serve cancels the
  request's child calls: the whole batch, and its batch-mates with it.
- An item's error is raised for that item only, and no two callers share an exception object: its
  traceback would grow with every raise and show one caller's frames to another.
- Whoever stops waiting is dropped where the batch has not left yet, and harms nobody where it has.
"""

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from registry.errors import Internal, MedAIError, Overloaded

T = TypeVar("T")
R = TypeVar("R")

Send: TypeAlias = Callable[[list[T]], Awaitable[Sequence[R | BaseException]]]


def one(item: object) -> int:
    """The weight of an item where all weigh the same."""
    del item
    return 1


class Batcher(Generic[T, R]):
    """Gathers items into calls. Belongs to the loop it is first used on.

    Args:
        send: Makes one call. Answers one result an item, in order; an exception among the results
            is that item's error.
        max_batch_size: The most weight one call carries. An item that weighs more goes alone.
        max_in_flight: How many calls may be on their way at once.
        max_queue: How many items may wait.
        weight: What an item weighs, 1 or more.
        retry_after_s: What `Overloaded` advises.
    """

    def __init__(
        self,
        send: "Send[T, R]",
        *,
        max_batch_size: int,
        max_in_flight: int,
        max_queue: int,
        weight: Callable[[T], int] = one,
        retry_after_s: int = 1,
    ) -> None:
        self.in_flight = 0
        self.last_batch_size = 0
        self._send = send
        self._max_batch_size = max_batch_size
        self._max_in_flight = max_in_flight
        self._max_queue = max_queue
        self._weight = weight
        self._retry_after_s = retry_after_s
        self._waiting: OrderedDict[asyncio.Future[R], T] = OrderedDict()
        self._calls: set[asyncio.Task[None]] = set()
        self._due = False  # a departure is scheduled for the next tick
        self._closed = False

    @property
    def depth(self) -> int:
        """How many items wait for a call."""
        return len(self._waiting)

    async def submit(self, item: T) -> R:
        """The result of `item`.

        Raises:
            Overloaded: The queue is full, or the batcher is closed.
            MedAIError: What `send` answered for this item, or what ended the whole call.
        """
        if self._closed or len(self._waiting) >= self._max_queue:
            state = "closed" if self._closed else "full"
            raise Overloaded(f"the queue is {state}", retry_after_s=self._retry_after_s)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting[answer] = item
        self._depart_soon(loop)
        try:
            return await answer
        except asyncio.CancelledError:
            self._waiting.pop(answer, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # it came in the same tick; asyncio must not call it unseen
            raise

    def reconfigure(
        self,
        *,
        max_batch_size: int | None = None,
        max_in_flight: int | None = None,
        max_queue: int | None = None,
    ) -> None:
        """Change limits while running. What is on its way stays as it is."""
        self._max_batch_size = max_batch_size or self._max_batch_size
        self._max_in_flight = max_in_flight or self._max_in_flight
        self._max_queue = max_queue or self._max_queue
        if self._waiting:
            self._depart_soon(asyncio.get_running_loop())

    async def close(self) -> None:
        """Take nothing more; return when every waiting item has its answer."""
        self._closed = True
        self._depart()
        while self._calls:
            await asyncio.wait(self._calls)

    def _depart_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._due and self.in_flight < self._max_in_flight:
            self._due = True
            loop.call_soon(self._depart, context=contextvars.Context())

    def _depart(self) -> None:
        """Send batches while there are items and calls to spare."""
        self._due = False
        while self.in_flight < self._max_in_flight and (batch := self._take()):
            self.in_flight += 1
            self.last_batch_size = len(batch)
            call = asyncio.get_running_loop().create_task(
                self._call(batch), context=contextvars.Context()
            )
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _take(self) -> list[tuple[asyncio.Future[R], T]]:
        """The next batch: first come, first served, up to the weight one call carries."""
        batch: list[tuple[asyncio.Future[R], T]] = []
        weight = 0
        while self._waiting:
            answer, item = next(iter(self._waiting.items()))
            if not answer.done():  # it may have been cancelled in this very tick
                weight += self._weight(item)
                if batch and weight > self._max_batch_size:
                    break
                batch.append((answer, item))
            del self._waiting[answer]
        return batch

    async def _call(self, batch: list[tuple[asyncio.Future[R], T]]) -> None:
        try:
            results = await self._send([item for _, item in batch])
            if len(results) != len(batch):
                raise Internal(f"{len(results)} results for {len(batch)} items")  # noqa: TRY301  # one way out for all
            for (answer, _), result in zip(batch, results, strict=True):
                _settle(answer, result)
        except BaseException as error:
            for answer, _ in batch:
                _settle(answer, error)
            if not isinstance(error, Exception):
                raise  # a cancelled task must end as one
        finally:
            self.in_flight -= 1
            self._depart()


def _settle(answer: "asyncio.Future[R]", result: "R | BaseException") -> None:
    if answer.done():  # nobody waits any more
        return
    if isinstance(result, MedAIError):
        fresh = type(result)(result.detail, result.violations, result.retry_after_s)
        answer.set_exception(fresh)
    elif isinstance(result, BaseException):
        answer.set_exception(Internal(f"the call ended with {type(result).__name__}"))
    else:
        answer.set_result(result)
