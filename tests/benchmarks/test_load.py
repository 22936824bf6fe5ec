"""The load client: this machine only, bounded, exact. Against real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import astuple
from typing import Any

import pytest

from benchmarks.load import LOST, MAX_SECONDS, UNREADABLE, Load, Result
from benchmarks.load_client import Run
from benchmarks.percentiles import Latency, latency

Answer = Callable[[int], Awaitable[bytes]]
Serve = Callable[[Answer], Awaitable[int]]

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
BARE_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server that answers request n with `answer(n)`; gives its port.

    An empty answer ends the connection.
    """
    servers: list[asyncio.Server] = []
    numbers = iter(range(1_000_000))

    async def start(answer: Answer) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await reader.readuntil(b"\r\n\r\n"):
                    given = await answer(next(numbers))
                    if not given:
                        break
                    writer.write(given)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


async def put_on(port: int, **options: Any) -> Result:
    """What a short load on `port` shows."""
    short = {"clients": 4, "warmup_s": 0.1, "seconds": 0.4}
    return await Run(Load("127.0.0.1", port, GET, **{**short, **options})).measure()


async def ok(_: int) -> bytes:
    return OK


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "::", "10.0.0.1"])  # noqa: S104  # refused
def test_another_machine_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="this machine only"):
        Load(host, 80, GET, clients=1)


def test_a_name_is_refused_because_it_may_lead_anywhere() -> None:
    with pytest.raises(ValueError, match="localhost"):
        Load("localhost", 80, GET, clients=1)


@pytest.mark.parametrize(
    "options",
    [{"seconds": MAX_SECONDS}, {"clients": 0}, {"clients": 100_000}, {"max_requests": 10**9}],
)
def test_a_load_without_end_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at most"):
        Load("127.0.0.1", 80, GET, **{"clients": 1, **options})


def test_a_load_survives_its_way_to_the_client() -> None:
    load = Load("::1", 80, b"\x00\xff", clients=3, warmup_s=0.5, seconds=2.0, rate=10.5)

    assert Load.from_json(load.to_json()) == load


def test_percentiles_are_the_nearest_rank() -> None:
    hundred = [milliseconds / 1e3 for milliseconds in range(100, 0, -1)]

    found = latency(hundred)

    assert astuple(found) == pytest.approx((50, 95, 99, 50.5, 100))


def test_one_latency_is_every_percentile() -> None:
    found = latency([0.004])

    assert astuple(found) == pytest.approx((4, 4, 4, 4, 4))


def test_no_latency_is_zero_and_no_error() -> None:
    assert latency([]) == Latency()


async def test_every_answer_of_the_measured_time_is_counted(serve: Serve) -> None:
    answered: list[float] = []

    async def answer(_: int) -> bytes:
        answered.append(time.perf_counter())
        return OK

    result = await put_on(await serve(answer))

    assert result.answered > 20
    assert result.statuses == {"200": result.answered}
    assert result.seconds == pytest.approx(0.4)
    assert result.throughput == pytest.approx(result.answered / 0.4)
    # The warm-up's answers, and those after the end, are the rest.
    assert result.answered < len(answered)


async def test_a_closed_loop_never_has_more_under_way_than_clients(serve: Serve) -> None:
    under_way, most = 0, 0

    async def answer(_: int) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return OK

    result = await put_on(await serve(answer), clients=3)

    assert most == 3
    assert result.latency.p50 >= 5


async def test_a_load_ends_at_its_number_of_requests(serve: Serve) -> None:
    began = time.perf_counter()

    result = await put_on(await serve(ok), seconds=30, max_requests=50)

    assert result.answered == 50
    assert time.perf_counter() - began < 10


async def test_refusals_are_counted_by_status_and_by_retry_after(serve: Serve) -> None:
    async def answer(number: int) -> bytes:
        return (OK, REFUSED, BARE_REFUSAL)[number % 3]

    result = await put_on(await serve(answer))

    assert set(result.statuses) == {"200", "503"}
    assert result.answered == result.statuses["200"]
    assert 0 < result.retry_after["503"] < result.statuses["503"]


async def test_a_lost_connection_is_counted_and_replaced(serve: Serve) -> None:
    async def answer(number: int) -> bytes:
        return b"" if number % 2 else OK

    result = await put_on(await serve(answer))

    assert result.statuses[LOST] > 1
    assert result.answered > 1


async def test_an_answer_without_a_length_is_not_taken_for_one(serve: Serve) -> None:
    async def answer(_: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"

    result = await put_on(await serve(answer))

    assert result.answered == 0
    assert set(result.statuses) == {UNREADABLE}


async def test_an_answer_in_pieces_is_one_answer(serve: Serve) -> None:
    body = b"x" * 300_000  # more than one read gives

    async def answer(_: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    result = await put_on(await serve(answer))

    assert set(result.statuses) == {"200"}
    assert result.answered > 1


async def test_an_open_loop_keeps_its_rate(serve: Serve) -> None:
    result = await put_on(await serve(ok), rate=200.0, clients=20, seconds=1.0)

    assert result.throughput == pytest.approx(200, rel=0.1)


async def test_a_stall_counts_against_every_request_that_was_due(serve: Serve) -> None:
    """A closed loop would show one slow request; an open loop shows all that had to wait."""

    async def answer(number: int) -> bytes:
        if number == 20:
            time.sleep(0.3)  # noqa: ASYNC251  # the server stalls, the client's timer with it
        return OK

    result = await put_on(await serve(answer), rate=100.0, clients=20, warmup_s=0.1, seconds=1.0)

    assert result.latency.most >= 250
    assert result.latency.p95 >= 150
