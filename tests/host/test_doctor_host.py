"""`medai doctor` looks around: ports, what a run left, disk, processors, the traces' collector."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deployments.doctor import host
from deployments.doctor.finding import State
from tests.host.conftest import SHIPPED, Doctor, faults
from tests.ports import free_port


def test_a_taken_port_names_its_holder_and_the_setting(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MEDAI_SERVER__PORT", str(port))

        lines = doctor()

    assert f"port {port} is held by" in faults(lines)["ports"]
    assert "MEDAI_SERVER__PORT" in lines["ports"][0]["advice"]


def test_haproxy_s_port_on_every_address_is_warned_of(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("", 0)) as open_port:
        port = open_port.getsockname()[1]
        monkeypatch.setenv("MEDAI_SERVER__HAPROXY_STATS_PORT", str(port))

        lines = doctor()

    [line] = lines["HAProxy's own ports"]
    assert (line["state"], line["found"]) == ("warn", f"open at 0.0.0.0:{port}")


@pytest.fixture
def killed_run(home: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that a run left, and the record of that run, whose server has gone."""
    directory = tmp_path / "run"
    directory.mkdir()
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={"RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{directory}/haproxy.cfg"},
    )
    record = {"pid": left.pid, "started": 1.0, "directory": str(directory)}
    (home / "server.json").write_text(json.dumps(record))
    deadline = time.monotonic() + 5
    while "haproxy.cfg" not in str(psutil.Process(left.pid).environ()):
        assert time.monotonic() < deadline
    yield left
    left.kill()
    left.wait()


def test_what_a_killed_run_left_is_counted(
    doctor: Doctor, killed_run: "subprocess.Popen[bytes]"
) -> None:
    lines = doctor()

    [line] = lines["last run"]
    assert (line["state"], line["found"]) == (
        "warn",
        "was killed; 1 process(es) of it are left",
    )
    assert killed_run.poll() is None  # it looks, it does not touch


@pytest.mark.parametrize(
    ("free", "total", "state"),
    [
        (50_000, 100_000, State.OK),
        (10_000, 100_000, State.OK),
        (9_999, 100_000, State.WARN),
        (1_999, 100_000, State.FAIL),
        (255, 1_000, State.FAIL),
    ],
)
def test_a_disk_is_judged_by_its_free_part_and_its_least(
    free: int, total: int, state: State
) -> None:
    assert host.space("disk", free * host.MIB, total * host.MIB).state == state


def test_more_threads_than_cores_are_warned_of(doctor: Doctor, tmp_path: Path) -> None:
    greedy = tmp_path / "topology.yaml"
    greedy.write_text(SHIPPED.read_text().replace("threads: 1 }", "threads: 200 }"))

    [line] = doctor(greedy)["processors"]

    assert line["state"] == "warn"
    assert line["found"].startswith("models use 400 to 600 thread(s), there are ")


@contextmanager
def collector(status: int | None) -> Iterator[int]:
    """A collector that gives this answer, or none at all. Yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            takes = self.path == "/v1/traces" and self.headers["authorization"] == "Bearer hush"
            self.send_response(status if takes else 400)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    if status is None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]
        return
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "state", "found", "advice"),
    [
        (200, "ok", "the collector takes spans", ""),
        (401, "warn", "the collector answers 401", "mend MEDAI_TRACING__HEADERS"),
        (404, "warn", "the collector answers 404 to OTLP over HTTP", "mend MEDAI_TRACING__ENDP"),
        (None, "warn", "the collector did not answer within 0.2 s", "start it, or mend"),
    ],
)
def test_the_collector_of_traces_is_asked_as_the_service_would(
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
    state: str,
    found: str,
    advice: str,
) -> None:
    monkeypatch.setenv("MEDAI_TRACING__HEADERS", '{"authorization": "Bearer hush"}')
    monkeypatch.setenv("MEDAI_TRACING__TIMEOUT_S", "0.2" if status is None else "5")
    with collector(status) as port:
        monkeypatch.setenv("MEDAI_TRACING__ENDPOINT", f"http://127.0.0.1:{port}")

        lines = doctor()

    [line] = lines["traces"]
    assert (line["state"], line["found"][: len(found)]) == (state, found)
    assert line["advice"].startswith(advice)
    assert "hush" not in json.dumps(lines)


def test_a_collector_that_is_away_is_warned_of_and_no_endpoint_is_all_right(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    [off] = doctor()["traces"]
    monkeypatch.setenv("MEDAI_TRACING__ENDPOINT", f"http://127.0.0.1:{free_port()}")

    [away] = doctor()["traces"]

    assert (off["state"], off["found"]) == ("ok", "off: MEDAI_TRACING__ENDPOINT is not set")
    assert away["state"] == "warn"
    assert away["found"] == "the collector cannot be reached (ConnectError)"
