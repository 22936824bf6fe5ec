"""A real service for the tests: `medai serve` in a process of its own, on free ports.

One a test run, because a Ray cluster takes ten seconds and more to start. Everything goes the way
an operator goes: environment, command line, HTTP.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.ports import PORTS, free_ports
from tests.telemetry.collector import Collector

READY_S = 240.0  # a cluster starts in 10 s; on a machine that others use, in minutes
STOP_S = 40.0
PASSWORD = "correct horse battery staple lamp"


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    url: str
    home: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]"
    output: Path

    @contextmanager
    def client(self, username: str | None = None) -> Iterator[httpx2.Client]:
        """A client of the service; logged in where a user is named."""
        with httpx2.Client(base_url=self.url, timeout=30) as client:
            if username is not None:
                form = {"username": username, "password": PASSWORD}
                answer = client.post("/auth/login", data=form).raise_for_status()
                client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            yield client

    def medai(self, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a `medai` command against the service's home."""
        return medai(self.environment, *arguments, text=text)

    def descendants(self) -> list[psutil.Process]:
        """Every process of the service."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The replicas of a deployment, found by the title Ray gives them."""
        title = f"ray::ServeReplica:medai:{deployment}"
        return [child for child in self.descendants() if title in command_of(child)]


def command_of(process: psutil.Process) -> str:
    """Its command line; "" where it ends in this moment."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie is one, too
        return ""


def medai(
    environment: dict[str, str], *arguments: str, text: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a `medai` command as an operator would."""
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments],
        env=environment,
        input=text,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )


def environment_for(home: Path) -> dict[str, str]:
    """An operator's environment: a home and ports of our own, nothing inherited from `MEDAI_*`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEDAI_")}
    ports = free_ports(len(PORTS))
    first = free_ports(1)[0] % 20_000 + 20_000  # replica ports: a range away from the ephemeral
    return {
        **inherited,
        "MEDAI_HOME": str(home),
        "MEDAI_SERVER__REPLICA_PORTS": f"[{first}, {first + 50}]",
        **{f"MEDAI_SERVER__{name}": str(port) for name, port in zip(PORTS, ports, strict=True)},
    }


@contextmanager
def running(environment: dict[str, str], output: Path, *arguments: str) -> Iterator[Service]:
    """`medai serve`, ready; stopped by SIGTERM afterwards, and nothing left of it."""
    url = f"http://127.0.0.1:{environment['MEDAI_SERVER__PORT']}"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "serve", *arguments],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        service = Service(url, Path(environment["MEDAI_HOME"]), environment, process, output)
        try:
            wait_until_ready(service)
            yield service
        finally:
            stop(service)


def wait_until_ready(service: Service) -> None:
    """Raises `AssertionError` with the server's output where it does not become ready."""
    deadline = time.monotonic() + READY_S
    with httpx2.Client(base_url=service.url, timeout=2) as client:
        while time.monotonic() < deadline and service.process.poll() is None:
            try:
                if client.get("/health/ready").is_success:
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.1)
    raise AssertionError(f"not ready: {service.output.read_text()[-3000:]}")


def stop(service: Service) -> None:
    """SIGTERM, and everything gone in time."""
    if service.process.poll() is not None:
        return
    processes = service.descendants()
    service.process.send_signal(signal.SIGTERM)
    try:
        service.process.wait(STOP_S)
    finally:
        _, alive = psutil.wait_procs(processes, timeout=5)
        for process in alive:
            process.kill()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a database, keys, models and one user of each role. Copied, never served."""
    home = tmp_path_factory.mktemp("template") / "home"
    environment = environment_for(home)
    for arguments, text in (
        (("init", "--no-admin"), None),
        (("users", "add", "vera", "--role", "viewer", "--password-stdin"), PASSWORD),
        (("users", "add", "carl", "--role", "clinician", "--password-stdin"), PASSWORD),
        (("users", "add", "anna", "--role", "admin", "--password-stdin"), PASSWORD),
    ):
        done = medai(environment, *arguments, text=text)
        assert done.returncode == 0, done.stderr
    return home


def copy_of(template: Path, home: Path) -> dict[str, str]:
    """The environment of a home of its own, made from the template."""
    shutil.copytree(template, home)
    return environment_for(home)


@pytest.fixture(scope="session")
def prepared_home(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the home that the shared service has."""
    return copy_of(template, tmp_path_factory.mktemp("shared") / "home")


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the service's spans go."""
    collector = Collector()
    with collector.running():
        yield collector


@pytest.fixture(scope="session")
def service(
    prepared_home: dict[str, str], collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service the serve tests share. A request is traced if its caller says so."""
    tracing = {
        "MEDAI_TRACING__ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "MEDAI_TRACING__SAMPLE_RATIO": "0",
    }
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running(prepared_home | tracing, log) as service:
        yield service
