"""Decoding at arm's length: dangerous files are prepared in a process that may die of them.

The service's side of `inference.guarded`. Everything here is asynchronous: a file of 7 MB passes
through the loop in pieces of a few hundred kilobytes, and nobody waits for a decoder but the caller
whose file it is. Workers are forked when there is a turn for one (`inference.turns`); those beyond
the usual number end when they have had nothing to do for a while.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time

from configs.settings import LimitSettings
from deployments.inference.guard_protocol import (
    MAX_HEADER_BYTES,
    PREFIX,
    pack_work,
    unpack_answer,
)
from deployments.inference.prepare import Prepared, Work
from deployments.inference.signature import signature
from deployments.inference.turns import SOON_S, Turns
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import get_logger
from deployments.telemetry.metrics import Instruments
from registry.errors import Internal, MedAIError, Overloaded, UndecodableImage, Violation

MEMORY_BYTES = 1 << 30
WALL_S = 8.0  # with the way there and back, an answer within 10 s
IDLE_S = 10.0  # after which a worker ends that is not among the usual number
GRACE_S = 20.0  # beyond the worker's own limit: for a cold start, and as a last resort
_START = "from deployments.inference.guarded import main; main()"


class _NotSoon(Exception):  # a fact; never leaves this module
    """The file was not done in the time of a file that is soon done."""


class _WorkerGone(Exception):  # a fact; never leaves this module
    """The worker's socket closed before an answer came."""


class Guard:
    """A bounded number of guarded workers. Belongs to the loop it is first used on.

    Args:
        limits: The most pixels and frames.
        processes: How many slow files are decoded at once. One file that is soon done is decoded
            beside them, or more where there are fewer of them.
        max_queue: How many files may wait for their turn.
        memory_bytes: What a worker may take beyond what it starts with.
        wall_s: How long one file may take.
        instruments: Where workers that died are counted.
    """

    def __init__(
        self,
        limits: LimitSettings,
        *,
        processes: int = 1,
        max_queue: int = 64,
        memory_bytes: int = MEMORY_BYTES,
        wall_s: float = WALL_S,
        instruments: Instruments | None = None,
    ) -> None:
        self._limits = limits
        self._max_queue = max_queue
        self._memory_bytes = memory_bytes
        self._wall_s = wall_s
        self._instruments = instruments or Instruments("validator")
        self._processes = processes
        self._turns = Turns(slow=processes, max_queue=max_queue)
        self._idle: list[socket.socket] = []
        self._server: _ForkServer | None = None
        self._start_failure = 0  # the exit code of a fork server that gave up by itself

    @property
    def waiting(self) -> int:
        """How many files wait for their turn."""
        return self._turns.waiting

    def start(self) -> None:
        """Start the fork server now, so that the first file finds it warm."""
        self._running()

    def reconfigure(self, *, processes: int) -> None:
        """Change how many files are decoded at once. What runs, runs on."""
        if processes != self._processes:
            self._processes = processes
            self._turns = Turns(slow=processes, max_queue=self._max_queue)

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
        turns = self._turns
        if not signature(work.body).slow:
            with contextlib.suppress(_NotSoon):
                async with turns.soon():
                    return await self._ask(work, soon_s=min(SOON_S, self._wall_s))
        async with turns.slow():
            return await self._ask(work, soon_s=None)

    def close(self) -> None:
        """End every process. Files being decoded get `Overloaded`."""
        for worker in self._idle:
            worker.close()
        self._idle.clear()
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _ask(self, work: Work, *, soon_s: float | None) -> Prepared:
        """Raises `_NotSoon` where it took longer than `soon_s`."""
        started = time.monotonic()
        server = self._running()
        try:
            async with asyncio.timeout(self._wall_s + GRACE_S):
                return await self._exchange(server, work, soon_s)
        except TimeoutError:
            self.close()
            self._count("silent")
            raise Overloaded("the image decoder did not answer", retry_after_s=1) from None
        except _WorkerGone:
            raise self._why_gone(server, time.monotonic() - started, soon_s) from None

    async def _exchange(self, server: "_ForkServer", work: Work, soon_s: float | None) -> Prepared:
        """One request and its answer. The worker goes back only after a good one."""
        worker = (soon_s is not None and self._idle_worker()) or server.fork()
        try:
            request = pack_work(work, self._limits, soon_s=soon_s)
            header, payload = await _converse(worker, request, work)
            self._start_failure = 0
            prepared, again = unpack_answer(header, payload, work)
        except BaseException:
            worker.close()
            raise
        if again and server is self._server:
            self._idle.append(worker)
            if len(self._idle) > self._processes:
                asyncio.get_running_loop().call_later(IDLE_S, self._let_go)
        else:
            worker.close()
        return prepared

    def _let_go(self) -> None:
        """End the workers that idle beyond the usual number, the longest idle first."""
        while len(self._idle) > self._processes:
            self._idle.pop(0).close()

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

    def _why_gone(
        self, server: "_ForkServer", elapsed_s: float, soon_s: float | None
    ) -> MedAIError | _NotSoon:
        """The file's fault, or ours? A worker ends with its server, and not for its file's sake."""
        if server.ended():
            self._start_failure = max(0, server.exit_code or 0)
            if server is self._server:
                self.close()
            self._count("server")
            if self._start_failure:
                return self._no_start()
            return Overloaded("the image decoder is being restarted", retry_after_s=1)
        if soon_s is not None and soon_s <= elapsed_s:
            self._instruments.decoder_restarts.add(1, "not_soon")
            return _NotSoon()
        took_long = elapsed_s >= self._wall_s
        self._count("time" if took_long else "crash")
        limit = f"at most {self._wall_s:g} s" if took_long else "the decoder's own limits"
        return UndecodableImage(
            "decoding took too long" if took_long else "the decoder died of this file",
            (Violation("decoding", limit=limit, advice="export the image again, or smaller"),),
        )

    def _count(self, cause: str) -> None:
        """A decoder that died, for the operator: which of `DECODER_CAUSES`."""
        self._instruments.decoder_restarts.add(1, cause)
        get_logger().warning(LogEvent.DECODER_RESTARTED, reason=cause)

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


async def _converse(worker: socket.socket, request: bytes, work: Work) -> tuple[bytes, bytes]:
    """Send a request; header and payload of the answer. Raises `_WorkerGone`."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(worker, request)
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
