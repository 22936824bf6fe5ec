"""The way of the replicas' log lines to the terminal of `medai serve`.

Ray would put a prefix before each line and drop the lines of a replica that ends. So the server
makes a FIFO, every replica writes whole lines into it (at most PIPE_BUF bytes, which POSIX makes
atomic), and a thread here copies them to standard output. See `telemetry.logs` for the other end.
"""

import os
import select
import sys
import threading
from pathlib import Path
from typing import Self

POLL_S = 0.2
CHUNK = 65_536


class LogPipe:
    """A FIFO and the thread that empties it. Use as a context."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        # Read-write, so that the FIFO never reports its end while no replica has it open.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._out = sys.stdout.buffer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._copy, name="log-pipe", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._fd)
        self.path.unlink(missing_ok=True)

    def _copy(self) -> None:
        while True:
            ready, _, _ = select.select([self._fd], [], [], POLL_S)
            if ready:
                self._out.write(os.read(self._fd, CHUNK))
                self._out.flush()
            elif self._stop.is_set():
                return
