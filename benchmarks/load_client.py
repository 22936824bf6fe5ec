"""The load client: one request again and again over kept connections, every latency recorded.

It runs in its own process (`python -m benchmarks.load_client`, a `Load` as JSON on standard input),
so that it shares nothing with the servers but the cores. Its own limit is measured in each run,
against a server that does nothing (`benchmarks.ceiling`).

Rules this file keeps: what is counted finished inside the measured time; a request that is under
way at the end is waited for and not counted, so that no server is measured while it cleans up after
us.

Lines on standard output: `measuring` when the warm-up is over, `measured` at the end of the
measured time, then the result as JSON.
"""

import asyncio
import gc
import json
import re
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

from benchmarks.load import LOST, MEASURED, MEASURING, UNREADABLE, Load, Result
from benchmarks.percentiles import latency

GRACE_S = 30.0  # for the requests that are under way at the end
SETTLE_STEP_S = 0.01
RETRY_S = 0.05  # between attempts to connect
# Between two clients' arrivals: in one burst, the first of several server processes that share a
# listening socket would accept them all, and serve them alone for as long as they stay.
SPREAD_S = 0.005
# How often the open loop looks at the time: a look costs as much as a request does, and shares the
# cores with the server.
PACE_S = 0.002

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *\d+\r\n", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """What has been counted so far. Times are those of `time.perf_counter`."""

    begins: float
    ends: float
    most: int
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    statuses: Counter[str] = field(default_factory=Counter)
    retry_after: Counter[str] = field(default_factory=Counter)
    full: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, status: str, due: float, now: float, *, retry_after: bool = False) -> None:
        """Count an answer that came at `now`, if it is inside the measured time."""
        if not self.begins <= now <= self.ends:
            return
        self.statuses[status] += 1
        if retry_after:
            self.retry_after[status] += 1
        if status.startswith("2"):
            self.latencies.append(now - due)
        if len(self.latencies) >= self.most:
            self.ends = now
            self.full.set()

    def result(self, waiting: int) -> Result:
        """The summary."""
        seconds = self.ends - self.begins
        return Result(
            answered=len(self.latencies),
            seconds=seconds,
            throughput=len(self.latencies) / seconds,
            latency=latency(self.latencies),
            statuses=dict(self.statuses),
            retry_after=dict(self.retry_after),
            waiting=waiting,
        )


class Connection(asyncio.Protocol):
    """One kept connection with at most one request under way."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._due: float | None = None
        self._received = bytearray()
        self._length = -1  # of the whole answer, once its head is here
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready for a request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._run.free(self)

    def send(self, due: float) -> None:
        """Send the request; its latency counts from `due`."""
        assert self._transport is not None
        self._due = due
        self._transport.write(self._run.load.request)

    def data_received(self, data: bytes) -> None:
        """Gather an answer; count it when it is whole."""
        received = self._received
        received += data
        if self._length < 0 and not self._read_head():
            return
        if len(received) >= self._length:
            assert self._due is not None
            status = received[9:12].decode("ascii", "replace")
            told = status in {"429", "503"} and _RETRY_AFTER.search(received) is not None
            self._run.tally.count(status, self._due, time.perf_counter(), retry_after=told)
            self._due = None
            self._length = -1
            received.clear()
            self._run.free(self)

    def _read_head(self) -> bool:
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            return False
        length = _LENGTH.search(self._received, 0, end + 2)
        if length is None:
            self._end_with(UNREADABLE)
            return False
        self._length = end + len(_END_OF_HEAD) + int(length[1])
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Count what was under way, and have the connection replaced."""
        del error
        self._end_with(LOST)
        self._run.lost(self)

    def _end_with(self, fault: str) -> None:
        if self._due is not None:
            self._run.tally.count(fault, self._due, time.perf_counter())
            self._due = None
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        if self._transport is not None:
            self._transport.close()


class Run:
    """One load under way."""

    def __init__(self, load: Load) -> None:
        now = time.perf_counter()
        self.load = load
        self.tally = Tally(
            now + load.warmup_s, now + load.warmup_s + load.seconds, load.max_requests
        )
        self._idle: set[Connection] = set()
        self._all: set[Connection] = set()
        self._due: deque[float] = deque()  # requests of an open loop that wait for a connection
        self._waiting = 0
        self._over = False

    async def measure(self) -> Result:
        """Send until the time is over, then wait for what is under way."""
        loop = asyncio.get_running_loop()
        step = min(SPREAD_S, self.load.warmup_s / 2 / self.load.clients)
        connecting = [
            loop.create_task(self._connect(after_s=number * step))
            for number in range(self.load.clients)
        ]
        pacing = loop.create_task(self._pace()) if self.load.rate else None
        await asyncio.sleep(self.tally.begins - time.perf_counter())
        print(MEASURING, flush=True)
        try:
            async with asyncio.timeout(self.tally.ends - time.perf_counter()):
                await self.tally.full.wait()
        except TimeoutError:
            pass
        print(MEASURED, flush=True)
        self._over = True
        for task in [*connecting, *([pacing] if pacing else [])]:
            task.cancel()
        result = self.tally.result(self._waiting)
        await self._settle()
        return result

    def free(self, connection: Connection) -> None:
        """`connection` has nothing under way: give it the next request."""
        self._all.add(connection)
        if not self._over:
            if self.load.rate is None:
                connection.send(time.perf_counter())
                return
            if self._due:
                connection.send(self._due.popleft())
                return
        self._idle.add(connection)

    def lost(self, connection: Connection) -> None:
        """`connection` has ended: make another."""
        self._idle.discard(connection)
        self._all.discard(connection)
        if not self._over:
            asyncio.get_running_loop().create_task(self._connect())  # it ends with the loop

    async def _connect(self, after_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(after_s)
        while not self._over:
            try:
                await loop.create_connection(
                    lambda: Connection(self), self.load.host, self.load.port
                )
            except OSError:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _pace(self) -> None:
        """Make requests due at the load's rate."""
        assert self.load.rate is not None
        started = time.perf_counter()
        made = 0
        while True:
            now = time.perf_counter()
            while (due := started + made / self.load.rate) <= now:
                made += 1
                if self._idle:
                    self._idle.pop().send(due)
                else:
                    self._due.append(due)
                    self._waiting = max(self._waiting, len(self._due))
            await asyncio.sleep(PACE_S)

    async def _settle(self) -> None:
        for _ in range(int(GRACE_S / SETTLE_STEP_S)):
            if len(self._idle) == len(self._all):
                break
            await asyncio.sleep(SETTLE_STEP_S)
        for connection in tuple(self._all):
            connection.close()
        await asyncio.sleep(0)


def main() -> None:
    """Run the load that standard input describes."""
    load = Load.from_json(sys.stdin.readline())
    gc.collect()
    gc.disable()
    print(json.dumps(asdict(uvloop.run(_measure(load)))), flush=True)


async def _measure(load: Load) -> Result:
    return await Run(load).measure()


if __name__ == "__main__":
    main()
