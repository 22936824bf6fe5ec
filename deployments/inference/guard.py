"""Decoding at arm's length: dangerous files are prepared in a process that may die of them.

The service's side of `inference.guarded`. Everything here is asynchronous: a file of 7 MB passes
through the loop in pieces of a few hundred kilobytes, and nobody waits for a decoder but the caller
whose file it is.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from configs.settings import LimitSettings
from deployments.inference.guard_protocol import (
    MAX_HEADER_BYTES,
    PREFIX,
    pack_work,
    unpack_answer,
)
from deployments.inference.prepare import Prepared, Work
from registry.errors import Internal, MedAIError, Overloaded, UndecodableImage, Violation

MEMORY_BYTES = 1 << 30
WALL_S = 8.0  # with the way there and back, an answer within 10 s
SLOW_S = 0.5  # after which a file lets the next one begin
MAX_SLOW = 1  # files beside those that have their turn: each may take a core and its memory
GRACE_S = 20.0  # beyond the worker's own limit: for a cold start, and as a last resort
_START = "from deployments.inference.guarded import main; main()"


class _WorkerGone(Exception):  # a fact; never leaves this module
    """The worker's socket closed before an answer came."""


class Guard:
    """A bounded number of guarded workers. Belongs to the loop it is first used on.

    Args:
        limits: The most pixels and frames.
        processes: How many files are decoded at once, beside one that is slow.
        max_queue: How many files may wait for their turn.
        memory_bytes: What a worker may take beyond what it starts with.
        wall_s: How long one file may take.
    """

    def __init__(
        self,
        limits: LimitSettings,
        *,
        processes: int = 1,
        max_queue: int = 64,
        memory_bytes: int = MEMORY_BYTES,
        wall_s: float = WALL_S,
    ) -> None:
        self.waiting = 0
        self._slow = 0
        self._limits = limits
        self._max_queue = max_queue
        self._memory_bytes = memory_bytes
        self._wall_s = wall_s
        self._turns = asyncio.Semaphore(processes)
        self._idle: list[socket.socket] = []
        self._server: _ForkServer | None = None
        self._start_failure = 0  # the exit code of a fork server that gave up by itself

    def start(self) -> None:
        """Start the fork server now, so that the first file finds it warm."""
        self._running()

    def reconfigure(self, *, processes: int) -> None:
        """Change how many files are decoded at once. What runs, runs on."""
        self._turns = asyncio.Semaphore(processes)

    def check_health(self) -> None:
        """Raises `Internal` where the fork server cannot start on this machine."""
        if self._start_failure:
            raise self._no_start()

    async def prepare(self, work: Work) -> Prepared:
        """Like `inference.prepare.prepare`, in a guarded process.

        Raises:
            Rejected: The file was refused, or its decoder died or took too long.
            Overloaded: Too many files wait, or the decoders are being restarted.
            Internal: The decoder does not start at all.
        """
        if self.waiting >= self._max_queue:
            raise Overloaded("too many files wait for a decoder", retry_after_s=1)
        turns = self._turns
        self.waiting += 1
        try:
            await turns.acquire()
        finally:
            self.waiting -= 1
        with self._turn(turns):
            return await self._ask(work)

    def close(self) -> None:
        """End every process. Files being decoded get `Overloaded`."""
        for worker in self._idle:
            worker.close()
        self._idle.clear()
        if self._server is not None:
            self._server.close()
            self._server = None

    @contextlib.contextmanager
    def _turn(self, turns: asyncio.Semaphore) -> Iterator[None]:
        """Hold a turn that was acquired, but not for as long as a slow file likes."""
        gave_way = False

        def give_way() -> None:
            nonlocal gave_way
            if self._slow < MAX_SLOW:
                gave_way = True
                self._slow += 1
                turns.release()

        timer = asyncio.get_running_loop().call_later(SLOW_S, give_way)
        try:
            yield
        finally:
            timer.cancel()
            if gave_way:
                self._slow -= 1
            else:
                turns.release()

    async def _ask(self, work: Work) -> Prepared:
        started = time.monotonic()
        server = self._running()
        try:
            async with asyncio.timeout(self._wall_s + GRACE_S):
                return await self._exchange(server, work)
        except TimeoutError:
            self.close()
            raise Overloaded("the image decoder did not answer", retry_after_s=1) from None
        except _WorkerGone:
            raise self._why_gone(server, time.monotonic() - started) from None

    async def _exchange(self, server: "_ForkServer", work: Work) -> Prepared:
        """One request and its answer. The worker goes back only after a good one."""
        worker = self._idle_worker() or server.fork()
        try:
            header, payload = await _converse(worker, work, self._limits)
            self._start_failure = 0
            prepared, again = unpack_answer(header, payload, work)
        except BaseException:
            worker.close()
            raise
        if again and server is self._server:
            self._idle.append(worker)
        else:
            worker.close()
        return prepared

    def _running(self) -> "_ForkServer":
        """The fork server; another where the last one has ended."""
        if self._server is not None and self._server.exit_code is not None:
            self.close()
        if self._server is None:
            self._server = _ForkServer(self._memory_bytes, self._wall_s)
        return self._server

    def _idle_worker(self) -> socket.socket | None:
        while self._idle:
            worker = self._idle.pop()
            if _is_open(worker):
                return worker
            worker.close()
        return None

    def _why_gone(self, server: "_ForkServer", elapsed_s: float) -> MedAIError:
        """The file's fault, or ours? A worker ends with its server, and not for its file's sake."""
        if server.ended():
            self._start_failure = max(0, server.exit_code or 0)
            if server is self._server:
                self.close()
            if self._start_failure:
                return self._no_start()
            return Overloaded("the image decoder is being restarted", retry_after_s=1)
        took_long = elapsed_s >= self._wall_s
        limit = f"at most {self._wall_s:g} s" if took_long else "the decoder's own limits"
        return UndecodableImage(
            "decoding took too long" if took_long else "the decoder died of this file",
            (Violation("decoding", limit=limit, advice="export the image again, or smaller"),),
        )

    def _no_start(self) -> Internal:
        return Internal(f"the image decoder does not start (exit {self._start_failure})")


class _ForkServer:
    """The process that forks workers."""

    def __init__(self, memory_bytes: int, wall_s: float) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), str(memory_bytes), str(wall_s)]
            self._process = subprocess.Popen(  # noqa: S603  # this interpreter, our own code
                [sys.executable, "-P", "-c", _START, *arguments],
                pass_fds=[theirs.fileno()],
                # Not ours: it holds secrets, and decoding needs one thread and the import path.
                env={
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # codecs write there what they find in a file
                start_new_session=True,  # Ctrl-C is for the service to handle
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.poll()

    def ended(self) -> bool:
        """Whether it runs no more."""
        if not _is_open(self._control):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)  # the socket closes a moment before the exit code is there
            return True
        return self.exit_code is not None

    def fork(self) -> socket.socket:
        """A new worker's socket. Raises `_WorkerGone` where the server has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"w"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise _WorkerGone from None
        ours.setblocking(False)
        return ours

    def close(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()


async def _converse(
    worker: socket.socket, work: Work, limits: LimitSettings
) -> tuple[bytes, bytes]:
    """Send a request; header and payload of the answer. Raises `_WorkerGone`."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(worker, pack_work(work, limits))
        await loop.sock_sendall(worker, work.body)
        header_bytes, payload_bytes = PREFIX.unpack(await _exactly(worker, PREFIX.size))
        most = sum(spec.channels * spec.height * spec.width for spec in work.specs)
        if header_bytes > MAX_HEADER_BYTES or payload_bytes > most:
            raise UndecodableImage("the decoder's answer made no sense")
        return await _exactly(worker, header_bytes), await _exactly(worker, payload_bytes)
    except OSError:
        raise _WorkerGone from None


async def _exactly(worker: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = await loop.sock_recv_into(worker, view)
        if count == 0:
            raise _WorkerGone
        view = view[count:]
    return bytes(buffer)


def _is_open(channel: socket.socket) -> bool:
    """Whether the other end still holds the socket; neither end sends unasked."""
    try:
        return channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
