"""Calls between two processes of one machine, over a Unix socket.

A call by a Serve handle costs caller and callee together some 2 ms of CPU more than this, whatever
it carries (docs/adr/0016-local-calls.md). What a frame holds is a pickled value, as in Serve's own
calls: both ends are processes of one application under one user, and the socket's folder is closed
to everybody else (`deployments.local_replicas`).

    frame      size (4 bytes) | number of the call (4 bytes) | kind (1 byte) | pickled content
    CALL       caller → replica      the argument
    CANCEL     caller → replica      nobody waits for this call any more
    ANSWER     replica → caller      the result
    ERROR      replica → caller      an error of `registry.errors`, and nothing else
    GOODBYE    replica → caller      it ends: send nothing more, and close once all is answered

Rules this file keeps: an answer belongs to its call by number, so calls overtake each other; a call
counts as on its way until its answer is there, also when nobody waits for it any more, or a replica
that hangs would look idle; a connection that breaks fails the calls on their way, each with `Gone`.
"""

import asyncio
import pickle
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import IntEnum
from itertools import count
from typing import Any, Final, TypeAlias, cast

from registry.errors import Internal, MedAIError

Handler: TypeAlias = Callable[[Any], Awaitable[object]]

_HEAD: Final = struct.Struct("!IIB")
CLOGGED_BYTES: Final = 64 * 2**20  # what may wait to be read by a replica: the largest call


class Kind(IntEnum):
    """What a frame is."""

    CALL = 0
    ANSWER = 1
    ERROR = 2
    GOODBYE = 3
    CANCEL = 4


class Gone(Exception):
    """The other end is gone. `sent`: it may have begun to work on the call."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the replica is gone")
        self.sent = sent


class _Frames(asyncio.Protocol, ABC):
    """One end of a connection: writes frames, and cuts what arrives into frames."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._arrived = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        arrived = self._arrived
        arrived += data
        start = 0
        while len(arrived) - start >= _HEAD.size:
            size, number, kind = _HEAD.unpack_from(arrived, start)
            end = start + _HEAD.size + size
            if len(arrived) < end:
                break
            with memoryview(arrived) as whole, whole[start + _HEAD.size : end] as content:
                value = pickle.loads(content)  # noqa: S301  # of our own process: see the docstring
            self.take(kind, number, value)
            start = end
        if start:
            del arrived[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    @abstractmethod
    def take(self, kind: int, number: int, value: Any) -> None:
        """One frame has arrived."""

    def send(self, kind: Kind, number: int, value: object) -> None:
        """Write one frame. Silent where the other end is gone."""
        content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        if self._transport is not None:
            self._transport.writelines([_HEAD.pack(len(content), number, kind), content])

    def close(self) -> None:
        """Close once what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class Answering(_Frames):
    """A replica's end of one connection.

    Args:
        handler: Answers one argument. An error of `registry.errors` reaches the caller as it is,
            of any other only its type.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def ongoing(self) -> int:
        """How many calls are being answered."""
        return len(self._tasks)

    def take(self, kind: int, number: int, value: Any) -> None:
        """Begin to answer a call, or give one up; there is no other frame a caller may send."""
        if kind == Kind.CALL:
            task = asyncio.get_running_loop().create_task(self._answer(number, value))
            self._tasks[number] = task
            task.add_done_callback(lambda ended: self._ended(number, ended))
        elif kind == Kind.CANCEL:
            if number in self._tasks:
                self._tasks[number].cancel()
        else:
            self.close()

    def say_goodbye(self) -> None:
        """Ask the caller to send nothing more, and to close once all is answered."""
        self.send(Kind.GOODBYE, 0, None)

    async def _answer(self, number: int, argument: Any) -> None:
        try:
            self.send(Kind.ANSWER, number, await self._handler(argument))
        except MedAIError as error:
            self.send(Kind.ERROR, number, error)
        except Exception as error:  # noqa: BLE001  # its text may hold anything, so only its type
            self.send(Kind.ERROR, number, Internal(f"a replica raised {type(error).__name__}"))

    def _ended(self, number: int, task: "asyncio.Task[None]") -> None:
        del self._tasks[number]
        if task.cancelled():  # perhaps before it began, so it could not say so itself
            self.send(Kind.ERROR, number, Internal("a replica raised CancelledError"))


class Calling(_Frames):
    """A caller's end of one connection.

    Attributes:
        open: Whether calls are accepted; never again once it is False.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open = True
        self._numbers = count()
        self._ongoing: dict[int, asyncio.Future[Any]] = {}

    @property
    def ongoing(self) -> int:
        """How many calls are on their way."""
        return len(self._ongoing)

    @property
    def is_clogged(self) -> bool:
        """Whether the replica has stopped to read."""
        return self._transport is not None and (
            self._transport.get_write_buffer_size() > CLOGGED_BYTES
        )

    async def call(self, argument: object) -> Any:
        """Make one call.

        Raises:
            Gone: The replica ended, or was never there.
            MedAIError: What the replica raised.
        """
        if not self.open:
            raise Gone(sent=False)
        number = next(self._numbers) & 0xFFFF_FFFF
        answer = asyncio.get_running_loop().create_future()
        self.send(Kind.CALL, number, argument)
        self._ongoing[number] = answer
        try:
            return await answer
        except asyncio.CancelledError:
            self.send(Kind.CANCEL, number, None)
            raise

    def take(self, kind: int, number: int, value: Any) -> None:
        """An answer, or the goodbye. One nobody waits for any more is dropped."""
        if kind == Kind.GOODBYE:
            self.open = False
            self._leave()
            return
        answer = self._ongoing.pop(number)
        if not answer.done():
            if kind == Kind.ERROR:
                answer.set_exception(value)
            else:
                answer.set_result(value)
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        for answer in self._ongoing.values():
            if not answer.done():
                answer.set_exception(Gone(sent=True))
        self._ongoing.clear()
        super().connection_lost(exc)

    def _leave(self) -> None:
        if not self.open and not self._ongoing:
            self.close()
