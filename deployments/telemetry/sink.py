"""Where log lines go: the standard error stream, or a named pipe that merges many processes.

Rules this file keeps: a line is written whole, by one write; logging never waits for a reader and
never fails its caller. A line that cannot be written at once is dropped, counted, and the count is
told with the next line that can.

A busy loop answers many requests in one turn: their lines go into the pipe together, at the turn's
end, as far as they fit into one write.
"""

import asyncio
import contextvars
import os
import select
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Final

MAX_LINE: Final = select.PIPE_BUF  # bytes; up to here a write to a pipe is atomic (POSIX write(2))
RETRY_S: Final = 1.0  # how often to look for the pipe's reader while there is none


class LineSink:
    """Writes lines to `pipe` while somebody reads it, else to the standard error stream."""

    def __init__(self, pipe: Path | None = None) -> None:
        self.dropped = 0  # lines since the start
        self._pipe = pipe
        self._gathered: list[bytes] = []  # lines of this turn of the loop
        self._bytes = 0  # of them
        self._descriptor: int | None = None
        self._retry_at = 0.0
        self._lock = Lock()

    def write(self, line: str) -> bool:
        """Write one line, newline included, or gather it. Returns False where it was dropped."""
        data = line.encode("utf-8", "replace")
        with self._lock:
            return self._gather(data) or self._out(data, 1)

    def close(self) -> None:
        """Write what was gathered, and let go of the pipe."""
        with self._lock:
            self._out_gathered()
            self._close()

    def _gather(self, data: bytes) -> bool:
        """Keep a line for the end of the loop's turn. False where no loop runs in this thread."""
        if self._pipe is None:
            return False
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._bytes + len(data) > MAX_LINE:
            self._out_gathered()
        if not self._gathered:
            loop.call_soon(self._turn_ended, context=contextvars.Context())
        self._gathered.append(data)
        self._bytes += len(data)
        return True

    def _turn_ended(self) -> None:
        with self._lock:
            self._out_gathered()

    def _out_gathered(self) -> None:
        if self._gathered:
            self._out(b"".join(self._gathered), len(self._gathered))
            self._gathered.clear()
            self._bytes = 0

    def _out(self, data: bytes, lines: int) -> bool:
        written = self._to_pipe(data) if self._pipe is not None else None
        if written is None:
            written = self._to_stderr(data)
        self.dropped += 0 if written else lines
        return written

    def _to_pipe(self, data: bytes) -> bool | None:
        """Whether the line was written; None where nobody reads the pipe."""
        if self._descriptor is None:
            self._open()
        if self._descriptor is None:
            return None
        try:
            # A pipe takes an atomic write whole or not at all, also when it does not block.
            os.write(self._descriptor, data)
        except BlockingIOError:
            return False  # the reader is slow
        except OSError:
            self._close()  # the reader is gone
            return None
        return True

    def _open(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        assert self._pipe is not None
        try:
            self._descriptor = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # ENXIO: no reader; ENOENT: the pipe was removed
            self._retry_at = time.monotonic() + RETRY_S

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._retry_at = time.monotonic() + RETRY_S

    @staticmethod
    def _to_stderr(data: bytes) -> bool:
        try:
            sys.stderr.write(data.decode())
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # closed, or none (a detached process)
            return False
        return True
