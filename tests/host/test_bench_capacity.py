"""`medai bench capacity` against a server of known speed, over real HTTP."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deployments.client import Client
from deployments.commands_bench import described
from deployments.probe import Level, Plan, Probe, best, doublings, percentile_ms
from tests.host.conftest import Medai

SCORED = {"outcome": "predicted", "scores": {"A": 1.0}, "reasons": []}
UNSCORED = {"outcome": "abstained", "scores": {}, "reasons": ["OUT_OF_DOMAIN"]}
REPLICAS = {"Gateway": 1, "Validator": 2, "AuditWriter": 1, "OnnxModel:cxr-pneumonia": 2}
DETAILS = {
    "replicas": {
        "deployments": {name: {"running": count, "wanted": 3} for name, count in REPLICAS.items()}
    }
}

Start = Callable[..., AbstractContextManager[str]]


@contextmanager
def serving(
    takes_s: float = 0.0,
    answer: dict[str, Any] = SCORED,
    refuses_from: int = 1_000_000,
    details: dict[str, Any] | None = None,
) -> Iterator[str]:
    """A server that takes `takes_s` for each image, one after the other. Gives its address."""
    turn = threading.Lock()
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/auth/login":
                self.reply(200, {"access_token": "a-token"})
            elif self.path == "/auth/logout":
                self.reply(200, {})
            elif self.headers["Authorization"] != "Bearer a-token":
                self.reply(401, {"type": "/problems/unauthenticated"})
            else:
                with turn:
                    time.sleep(takes_s)
                    refused = next(numbers) >= refuses_from
                self.reply(503 if refused else 200, {"detail": "full"} if refused else answer)

        def do_GET(self) -> None:
            self.reply(200, {"live": True} | ({} if details is None else {"details": details}))

        def reply(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file to send; the server above does not look into it."""
    file = tmp_path / "film.jpg"
    file.write_bytes(b"\xff\xd8\xff")
    return file


def probed(url: str, image: Path, **plan: Any) -> list[Level]:
    """The levels of a short probe."""
    short = {"p95_ms": 1000.0, "seconds": 0.5, "warmup_s": 0.1, "max_clients": 2}
    with Probe(lambda: Client(url, "a-token"), Plan(image, "m", **{**short, **plan})) as probe:
        return list(probe.levels())


def level(clients: int, images_per_s: float, p95_ms: float, **more: Any) -> Level:
    return Level(clients, 10, images_per_s, p95_ms / 2, p95_ms, p95_ms, **more)


def test_clients_double_until_it_is_too_slow_then_the_middle_is_tried(image: Path) -> None:
    with serving(takes_s=0.03) as url:
        levels = probed(url, image, p95_ms=200.0, max_clients=64)

    assert [each.clients for each in levels] == [1, 2, 4, 8, 6]
    assert [each.holds(200) for each in levels[:4]] == [True, True, True, False]
    one_more = 1 / 0.5  # an answer that was under way when the half second began
    assert all(each.images_per_s <= 1 / 0.03 + one_more for each in levels)
    assert levels[3].p50_ms >= 8 * 30 - 60


def test_a_refusal_is_counted_by_its_status_and_ends_the_probe(image: Path) -> None:
    with serving(takes_s=0.01, refuses_from=5) as url:
        (only,) = probed(url, image)

    assert set(only.others) == {"503"}
    assert not only.holds(1e9)


def test_no_more_images_are_sent_than_allowed(image: Path) -> None:
    with serving() as url:
        levels = probed(url, image, warmup_s=0.0, seconds=20, max_clients=64, max_images=40)

    assert sum(each.answered for each in levels) == 40


def test_a_broken_connection_is_no_answer(image: Path) -> None:
    with serving() as url:
        pass

    (only,) = probed(url, image)

    assert only.answered == 0
    assert only.others["lost"] > 0


def test_the_best_level_is_the_fastest_of_those_that_hold() -> None:
    slow, fast = level(1, 10, 50), level(4, 30, 90)
    late, refused = level(8, 40, 300), level(8, 50, 90, others={"429": 1})

    assert best([slow, fast, late, refused], 100) == fast
    assert best([late, refused], 100) is None


def test_the_numbers_of_clients_end_with_the_largest() -> None:
    assert list(doublings(6)) == [1, 2, 4, 6]
    assert list(doublings(8)) == [1, 2, 4, 8]
    assert list(doublings(1)) == [1]


def test_a_percentile_is_the_nearest_rank() -> None:
    assert percentile_ms([0.001, 0.002, 0.003, 0.004], 0.5) == 2.0
    assert percentile_ms([number / 1e3 for number in range(1, 101)], 0.95) == 95.0
    assert percentile_ms([], 0.95) == 0.0


def test_who_did_it_is_named_where_it_is_told() -> None:
    assert described(level(1, 1, 1, replicas=REPLICAS), "cxr-pneumonia") == (
        "1 gateway, 2 validators, 2 model replicas hold"
    )
    assert "told to administrators" in described(level(1, 1, 1), "cxr-pneumonia")


def give(medai: Medai, url: str, image: Path, *more: str) -> Any:
    """The command, with levels of a second."""
    short = ("--seconds", "1", "--clients", "1", "--user", "ada", "--password-stdin")
    return medai("bench", "capacity", str(image), "--url", url, *short, *more, text="a password")


def test_what_holds_is_one_line_with_its_replicas(medai: Medai, image: Path) -> None:
    with serving(takes_s=0.02, details=DETAILS) as url:
        said = give(medai, url, image)

    assert said.code == 0
    assert "1 gateway, 2 validators, 2 model replicas hold" in said.out
    assert "at p95 < 250 ms (1 client(s)" in said.out
    assert f"inferences on {url}, each recorded in its audit trail" in said.err


def test_a_program_gets_the_levels_as_one_document(medai: Medai, image: Path) -> None:
    with serving(takes_s=0.02, details=DETAILS) as url:
        document = json.loads(give(medai, url, image, "--json").out)

    (only,) = document["levels"]
    assert document["held"] == only
    assert 20 <= only["p50_ms"] < 250
    assert only["replicas"] == REPLICAS


def test_what_one_client_waits_too_long_for_is_exit_code_one(medai: Medai, image: Path) -> None:
    with serving(takes_s=0.05) as url:
        said = give(medai, url, image, "--p95-ms", "10")

    assert said.code == 1
    assert "not even one client is answered at p95 < 10 ms" in said.out


def test_an_image_the_model_is_not_asked_for_is_named(medai: Medai, image: Path) -> None:
    with serving(answer=UNSCORED) as url:
        said = give(medai, url, image)

    assert "the model is not asked for this image (OUT_OF_DOMAIN)" in said.err


def test_an_image_that_is_refused_is_not_probed_with(medai: Medai, image: Path) -> None:
    with serving(refuses_from=0) as url:
        said = give(medai, url, image)

    assert said.code == 1
    assert "the probe was refused: 503 full" in said.err


def test_a_server_that_is_not_there_is_exit_code_three(medai: Medai, image: Path) -> None:
    with serving() as url:
        pass

    said = give(medai, url, image)

    assert said.code == 3
    assert f"nobody answers at {url}" in said.err


@pytest.mark.parametrize(
    "bound", [("--images", "100001"), ("--clients", "257"), ("--seconds", "61")]
)
def test_the_probe_is_bounded(medai: Medai, image: Path, bound: tuple[str, str]) -> None:
    assert medai("bench", "capacity", str(image), *bound).code == 2
