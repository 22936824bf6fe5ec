"""A start that cannot succeed says why in one line; a stop leaves nothing."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.serve.conftest import PASSWORD, STOP_S, copy_of, environment_for, medai, running
from tests.serve.films import INFER, film

pytestmark = [pytest.mark.serve, pytest.mark.timeout(480)]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def home(template: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a prepared home of its own."""
    return copy_of(template, tmp_path / "home")


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    """What the operator reads: one line on standard error, and the exit code says refused."""
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_without_a_database_the_line_names_the_command_that_makes_one(tmp_path: Path) -> None:
    environment = environment_for(tmp_path)

    assert "medai db upgrade" in last_line(medai(environment, "serve"))


def test_a_changed_model_file_is_refused_before_ray_starts(home: dict[str, str]) -> None:
    for file in (Path(home["MEDAI_HOME"]) / "models").glob("*.onnx"):
        file.chmod(0o600)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    assert "not the registered one" in last_line(medai(home, "serve"))


def test_a_missing_model_is_named(home: dict[str, str], tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    text = (REPOSITORY / "serve_config.yaml").read_text()
    topology.write_text(
        text.replace("body-part: {", "body-parts: {").replace(
            "OnnxModel:body-part", "OnnxModel:body-parts"
        )
    )

    line = last_line(medai(home, "serve", "--config", str(topology)))

    assert "body-parts" in line
    assert "did you mean body-part?" in line


def test_a_misspelt_topology_is_refused(home: dict[str, str], tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    text = (REPOSITORY / "serve_config.yaml").read_text()
    topology.write_text(text.replace("max_queue: 512 }", "max_queu: 512 }", 1))

    assert "did you mean max_queue?" in last_line(medai(home, "serve", "--config", str(topology)))


def test_a_foreign_listener_on_the_port_is_named(home: dict[str, str]) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", int(home["MEDAI_SERVER__PORT"])))
        foreign.listen()

        line = last_line(medai(home, "serve"))

    assert f"(pid {os.getpid()})" in line
    assert "MEDAI_SERVER__PORT" in line


def test_sigterm_under_load_finishes_what_was_accepted_and_leaves_nothing(
    home: dict[str, str], tmp_path: Path
) -> None:
    statuses: list[int] = []
    with running(home, tmp_path / "server.log") as service:
        processes = service.descendants()
        with service.client("carl") as client:
            stopped = threading.Event()

            def load() -> None:
                while not stopped.is_set():
                    try:
                        response = client.post(
                            INFER, content=film(), headers={"Content-Type": "image/jpeg"}
                        )
                    except httpx2.HTTPError:
                        return  # the port is closed: nothing is accepted any more
                    statuses.append(response.status_code)

            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            while len(statuses) < 20:
                time.sleep(0.05)
            asked = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            code = service.process.wait(STOP_S)
            took = time.monotonic() - asked
            stopped.set()
            for thread in threads:
                thread.join()
    _, alive = psutil.wait_procs(processes, timeout=10)

    assert code == 0
    assert took < 30
    assert set(statuses) <= {200, 503}
    assert [process.name() for process in alive] == []
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", int(home["MEDAI_SERVER__PORT"])))
    verified = medai(home, "audit", "verify", "--json")
    report = json.loads(verified.stdout)
    assert verified.returncode == 0
    assert report["entries"] >= statuses.count(200)


@contextmanager
def serve_run(environment: dict[str, str], topology: Path) -> Iterator[str]:
    """`serve run`, ready; its address. Everything of it is ended afterwards."""
    short = tempfile.mkdtemp(prefix="ray-")  # the path of a Unix socket has 107 bytes at most
    output = topology.with_suffix(".log")
    url = f"http://127.0.0.1:{environment['MEDAI_SERVER__PORT']}"
    command = [str(Path(sys.executable).parent / "serve"), "run", str(topology)]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, env={**environment, "RAY_TMPDIR": short}, stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 240
        while not is_ready(url):
            assert process.poll() is None, output.read_text()[-3000:]
            assert time.monotonic() < deadline, output.read_text()[-3000:]
            time.sleep(0.3)
        yield url
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            process.wait(30)
            for child in psutil.wait_procs(family, timeout=10)[1]:
                child.kill()
        shutil.rmtree(short, ignore_errors=True)


def is_ready(url: str) -> bool:
    """Whether the service answers that it is ready."""
    try:
        return httpx2.get(f"{url}/health/ready", timeout=5).is_success
    except httpx2.HTTPError:
        return False


@pytest.mark.long  # Ray gives its proxy 60 s, which beside other tests can be too short
def test_serve_run_starts_the_same_service(home: dict[str, str], tmp_path: Path) -> None:
    """`eval "$(medai env)"; serve run serve_config.yaml`, as on a cluster."""
    exports = dict(
        re.findall(r"^export (\w+)='?([^'\n]*)'?$", medai(home, "env").stdout, re.MULTILINE)
    )
    text = (REPOSITORY / "serve_config.yaml").read_text()
    topology = tmp_path / "topology.yaml"
    topology.write_text(text.replace("port: 8000", f"port: {home['MEDAI_SERVER__PORT']}"))

    with serve_run({**home, **exports, "RAY_AUTH_TOKEN": "0" * 64}, topology) as url:
        form = {"username": "carl", "password": PASSWORD}
        token = httpx2.post(f"{url}/auth/login", data=form).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
        answer = httpx2.post(f"{url}{INFER}", content=film(), headers=headers)

    assert exports["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert answer.status_code == 200
