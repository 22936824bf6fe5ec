"""The client asks a busy server again: when it says, where it is safe, and not for ever."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from configs.settings import RateLimitSettings
from deployments.client import Client, Problem
from deployments.client_retries import ATTEMPTS, SPREAD_S, answered, retry_after_s
from registry.errors import AuditUnavailable
from registry.events import AuditAction
from tests.api.house import House

Told = tuple[int, dict[str, str]]
BUSY: Told = (503, {"Retry-After": "0"})
DONE: Told = (200, {})


@dataclass
class Answering:
    """A server that gives these answers one after the other; the last one again and again."""

    url: str
    answers: Sequence[Told] = (DONE,)
    came: list[tuple[float, str, str | None, bytes]] = field(default_factory=list)

    @property
    def keys(self) -> list[str | None]:
        return [key for _, _, key, _ in self.came]


@pytest.fixture
def server() -> Iterator[Answering]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = self.headers["Idempotency-Key"]
            made.came.append((time.monotonic(), self.path, key, body))
            place = min(len(made.came), len(made.answers)) - 1
            status, headers = made.answers[place]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            text = b'{"items": [], "title": "busy", "access_token": "t"}'
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer  # noqa: N815  # what the library calls

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    made = Answering(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    file = tmp_path / "film.jpg"
    file.write_bytes(b"\xff\xd8\xfffilm")
    return file


def infer(server: Answering, film: Path, **options: Any) -> Any:
    with Client(server.url, "token", **options) as client:
        return client.infer(film, model="m")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_under_the_same_key(
    server: Answering, film: Path, status: int
) -> None:
    server.answers = [(status, {"Retry-After": "0"}), (status, {"Retry-After": "0"}), DONE]

    infer(server, film)

    assert len(server.came) == 3
    assert len(set(server.keys)) == 1
    assert server.keys[0] is not None
    assert {body for *_, body in server.came} == {film.read_bytes()}


def test_forms_are_sent_again_whole(server: Answering, film: Path) -> None:
    server.answers = [BUSY, DONE]

    with Client(server.url) as client:
        client.infer(film, model="m", patient_id="1")
        server.came.clear()
        list(client.infer_batch([film, film], model="m"))

    (_, _, first, one), (_, _, again, other) = server.came
    assert first == again is not None
    assert one == other
    assert one.count(film.read_bytes()) == 2


def test_every_file_has_a_key_of_its_own_and_a_given_key_is_kept(
    server: Answering, film: Path
) -> None:
    with Client(server.url) as client:
        client.infer(film, model="m")
        client.infer(film, model="m")
        client.infer(film, model="m", idempotency_key="mine")

    first, second, third = server.keys
    assert first != second
    assert third == "mine"


def test_the_client_waits_as_long_as_it_is_told(server: Answering, film: Path) -> None:
    server.answers = [(429, {"Retry-After": "1"}), DONE]

    infer(server, film)

    (first, *_), (second, *_) = server.came
    assert 1.0 <= second - first < 1.0 + SPREAD_S + 0.5


def test_reading_is_asked_again_without_a_key(server: Answering) -> None:
    server.answers = [BUSY, DONE]

    with Client(server.url) as client:
        client.models()

    assert server.keys == [None, None]


def test_a_log_in_is_never_sent_twice(server: Answering) -> None:
    server.answers = [BUSY]

    with Client(server.url) as client, pytest.raises(Problem):
        client.login("ada", "secret")

    assert len(server.came) == 1


def test_what_would_be_done_twice_is_not_sent_twice(server: Answering) -> None:
    server.answers = [BUSY]

    with httpx2.Client(base_url=server.url) as client:
        answer = answered(client.send, client.build_request("POST", "/infer", content=b"x"))

    assert answer.status_code == 503
    assert len(server.came) == 1


@pytest.mark.parametrize(
    "answer",
    [(503, {}), (503, {"Retry-After": "soon"}), (500, {"Retry-After": "0"}), (422, {}), DONE],
    ids=str,
)
def test_what_the_server_does_not_ask_for_is_not_done(
    server: Answering, film: Path, answer: Told
) -> None:
    server.answers = [answer]

    with suppress(Problem):
        infer(server, film)

    assert len(server.came) == 1


def test_the_number_of_attempts_has_an_end_and_the_last_answer_is_told(
    server: Answering, film: Path
) -> None:
    server.answers = [BUSY]

    with pytest.raises(Problem, match="503 busy"):
        infer(server, film)

    assert len(server.came) == ATTEMPTS


@pytest.mark.parametrize(("told", "total_s"), [("31", 30.0), ("3600", 30.0), ("0", 0.0)])
def test_the_client_does_not_wait_longer_than_it_may(
    server: Answering, film: Path, told: str, total_s: float
) -> None:
    server.answers = [(503, {"Retry-After": told})]
    started = time.monotonic()

    with pytest.raises(Problem):
        infer(server, film, retry_for_s=total_s)

    assert len(server.came) == 1
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("told", "seconds"), [("0", 0), (" 7 ", 7), ("-1", None), ("1.5", None), ("", None)]
)
def test_the_header_is_read_as_seconds(told: str, seconds: float | None) -> None:
    headers = {"Retry-After": told}

    assert retry_after_s(httpx2.Response(503, headers=headers)) == seconds
    assert retry_after_s(httpx2.Response(200, headers=headers)) is None


@pytest.mark.parametrize(("hours", "seconds"), [(1, 3600), (-1, 0)])
def test_the_header_is_read_as_a_date(hours: int, seconds: float) -> None:
    told = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)

    found = retry_after_s(httpx2.Response(503, headers={"Retry-After": told}))

    assert found == pytest.approx(seconds, abs=30)


@asynccontextmanager
async def listening(house: House) -> AsyncIterator[str]:
    """The house on a port of its own; gives its address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()  # from here on who comes early waits
        running = uvicorn.Server(uvicorn.Config(house.app, lifespan="off", log_config=None))
        serving = asyncio.ensure_future(running.serve(sockets=[bound]))
        try:
            yield "http://{}:{}".format(*bound.getsockname())
        finally:
            running.should_exit = True
            await serving


async def test_a_rate_limit_of_the_service_slows_the_client_down_and_loses_nothing(
    build: Callable[..., Any], film: Path
) -> None:
    limits = RateLimitSettings(per_user="2/second", per_address="", login="", login_per_address="")
    house: House = await build(ratelimit=limits)

    def ask(url: str) -> list[str]:
        with Client(url, house.token("clara")) as client:
            return [client.infer(film, model="cxr-pneumonia")["result_id"] for _ in range(5)]

    async with listening(house) as url:
        results = await asyncio.to_thread(ask, url)

    assert len(set(results)) == 5
    assert len(await house.entries(AuditAction.INFERENCE)) == 5


async def test_an_outage_of_the_log_that_passes_is_one_inference(house: House, film: Path) -> None:
    house.trail.refuse = AuditUnavailable("away", retry_after_s=1)

    def ask(url: str) -> str:
        with Client(url, house.token("clara")) as client:
            return client.infer(film, model="cxr-pneumonia")["outcome"]

    async with listening(house) as url:
        asking = asyncio.ensure_future(asyncio.to_thread(ask, url))
        await asyncio.sleep(0.5)
        assert not asking.done()
        house.trail.refuse = None
        assert await asking == "predicted"

    assert len(await house.entries(AuditAction.INFERENCE)) == 1
