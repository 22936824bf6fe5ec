"""A server that does nothing, to see how much the load client can ask for.

It reads a request by its Content-Length and answers the same 200 bytes, in one process on one core,
without a framework. What the client reaches here is the most any row could show: a row close to it
would be limited by the client.
"""

import asyncio
import sys
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.load import Load, Result
from benchmarks.processes import free_ports, running, wait_until
from benchmarks.service import HOST, Service, is_up, measure

START_S = 20.0
BODY = b'{"prediction":"NORMAL","scores":{"NORMAL":0.5,"PNEUMONIA":0.5}}'.ljust(200)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
_MARK = b"content-length: "


class Nothing(asyncio.Protocol):
    """Answers whatever comes."""

    def __init__(self) -> None:
        self._received = 0
        self._length = -1
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        """Count bytes; answer at the end of a request. The head comes in one piece."""
        assert self._transport is not None
        if self._length < 0:
            start = data.find(_MARK) + len(_MARK) if _MARK in data else -1
            body = int(data[start : data.find(b"\r\n", start)]) if start > 0 else 0
            self._length = data.find(b"\r\n\r\n") + 4 + body
        self._received += len(data)
        if self._received >= self._length:
            self._received = 0
            self._length = -1
            self._transport.write(ANSWER)


async def serve(port: int) -> None:
    """Answer on 127.0.0.1 until the process ends."""
    server = await asyncio.get_running_loop().create_server(Nothing, "127.0.0.1", port)
    await server.serve_forever()


def ceiling(body: bytes, log: Path, *, clients: int, seconds: float) -> Result:
    """The most the load client asks for, with this image and so many clients."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.ceiling", str(port)]
    with running(command, log=log, default_role="nothing") as (server, processes):
        wait_until(lambda: is_up(f"http://{HOST}:{port}/"), server, within_s=START_S, log=log)
        service = Service(port, "/", processes)
        load = Load(HOST, port, service.request(body), clients, warmup_s=1, seconds=seconds)
        return measure(service, load).result


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
