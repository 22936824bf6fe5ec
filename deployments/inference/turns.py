"""Whose turn it is to be decoded, so that nobody with a small file waits for somebody's large one.

Two queues, and one worker more than slow files may have: a file that is soon done finds a worker
that no slow file holds. What is slow is foretold (`inference.signature`), and where the foretelling
errs, a clock corrects it: who is not done soon begins again among the slow. That is the multilevel
feedback queue of Corbató et al. (AFIPS 21, 1962) with two levels, except that the work so far is
lost: at most `SOON_S` of it, and a process that waited midway would keep its memory.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.errors import Overloaded

SOON_S = 0.2  # of a processor's time; files that are not foretold to be slow take 0.1 at most


class Turns:
    """Turns for a bounded number of files. Belongs to the loop it is first used on.

    Args:
        slow: How many slow files may have one at a time. There is one turn more.
        max_queue: How many files of either kind may wait.
    """

    def __init__(self, *, slow: int, max_queue: int) -> None:
        self._slow = _Queue(slow, max_queue)
        self._all = _Queue(slow + 1, max_queue)

    @property
    def waiting(self) -> int:
        """How many files wait."""
        return self._slow.waiting + self._all.waiting

    @asynccontextmanager
    async def soon(self) -> AsyncIterator[None]:
        """Hold a turn of a file that is soon done. Raises `Overloaded` where too many wait."""
        async with self._all.turn():
            yield

    @asynccontextmanager
    async def slow(self) -> AsyncIterator[None]:
        """Hold a turn of a slow file. Raises `Overloaded` where too many wait."""
        async with self._slow.turn(), self._all.turn():
            yield


class _Queue:
    """A semaphore at which only so many wait, the first come first."""

    def __init__(self, turns: int, max_queue: int) -> None:
        self.waiting = 0
        self._max_queue = max_queue
        self._turns = asyncio.Semaphore(turns)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        if self._turns.locked() and self.waiting >= self._max_queue:
            raise Overloaded("too many files wait for a decoder", retry_after_s=1)
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()
