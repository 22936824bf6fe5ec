"""A relay between the service and PostgreSQL that knows where a message begins and ends.

It reads the frontend/backend protocol (PostgreSQL 18, §54.7: a type of one byte, a length of four),
so a cut falls where a fault of the network can fall and matters most: a COMMIT that never arrives,
or one that was done and whose answer is lost. It can also be slow, or swallow everything.
"""

import asyncio
import contextlib
import struct
from enum import StrEnum
from pathlib import Path

PROTOCOL_3 = 3 << 16  # of a StartupMessage, which has no type byte; also those asking for TLS


class Line(StrEnum):
    """What the relay does."""

    OPEN = "open"
    CUT_QUESTION = "cut the question"
    CUT_ANSWER = "cut the answer"


CUTS_QUESTIONS = {Line.CUT_QUESTION: True, Line.CUT_ANSWER: False}


class Relay:
    """Passes messages between its own socket and PostgreSQL's.

    Args:
        target: PostgreSQL's socket.

    Attributes:
        line: What it does at present.
        delay_s: How long each message from the service is held back.
        cuts: How many lines it has cut.
    """

    def __init__(self, target: Path) -> None:
        self.line = Line.OPEN
        self.delay_s = 0.0
        self.cuts = 0
        self._cuts_left = 0
        self._at = b""
        self._target = target
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def fall_silent(self) -> None:
        """Swallow everything: connections stay open."""
        self._speaks.clear()

    def speak(self) -> None:
        """Pass on what was held back, and all that follows."""
        self._speaks.set()

    def cut(self, line: Line, *, times: int = 1, at: bytes = b"COMMIT") -> None:
        """Cut the line the next `times` that a message with `at` in it is to be passed."""
        self.line, self._cuts_left, self._at = line, times, at

    async def accept(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Serve one connection of the service, until either end closes it or `stop`."""
        with contextlib.suppress(asyncio.CancelledError):  # asyncio.streams would print it
            await self._serve(client, answers)

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            server, questions = await asyncio.open_unix_connection(str(self._target))
        except OSError:  # PostgreSQL is away: so is the relay
            answers.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(client, questions, asks=True))
                group.create_task(self._pass(server, answers, asks=False))
        except* (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            questions.close()
            answers.close()

    async def stop(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, asks: bool
    ) -> None:
        started = not asks
        while True:
            message = await (_message(source) if started else _start(source))
            started = True
            await self._speaks.wait()
            if self.delay_s and asks:
                await asyncio.sleep(self.delay_s)
            if self._at in message and asks is CUTS_QUESTIONS.get(self.line):
                self._cuts_left -= 1
                self.cuts += 1
                self.line = self.line if self._cuts_left else Line.OPEN
                raise ConnectionResetError
            sink.write(message)
            await sink.drain()


async def _message(source: asyncio.StreamReader) -> bytes:
    """One message: its type, its length, its body."""
    head = await source.readexactly(5)
    return head + await source.readexactly(struct.unpack("!I", head[1:])[0] - 4)


async def _start(source: asyncio.StreamReader) -> bytes:
    """The first message of a connection, which has no type. Asking for TLS is not passed on."""
    head = await source.readexactly(8)
    length, code = struct.unpack("!II", head)
    if code != PROTOCOL_3:
        raise ConnectionResetError
    return head + await source.readexactly(length - 8)
