"""Scaling by `serve_config.yaml` alone: replicas that come and go, tuning that restarts nothing."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from httpx2 import Client

from benchmarks.densenet import NAME, write
from tests.serve.conftest import PASSWORD, Service, environment_for, medai, running
from tests.serve.films import film

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(400)]

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
MODEL = f"OnnxModel:{NAME}"
DEPLOYMENTS = ("Gateway", "Validator", "AuditWriter", MODEL)
# The file's own autoscaling with delays a test can wait for.
QUICK = {
    "upscale_delay_s": 1,
    "downscale_delay_s": 4,
    "look_back_period_s": 2,
    "metrics_interval_s": 1,
}
COMES_WITHIN_S, GOES_WITHIN_S = 90, 60
# What `serve deploy` does with a file, from a process of its own that joins the running Ray.
DEPLOY = """
import sys
import ray
import yaml
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
schema = ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[2])))
_get_global_client().deploy_apps(schema, _blocking=True)
"""

Statuses = list[int]


def topology() -> dict[str, Any]:
    """The repository's file with one model, which takes tens of ms, and short delays."""
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    (application,) = document["applications"]
    application["args"]["models"] = {NAME: {"threads": 1}}
    deployments = []
    for each in application["deployments"]:
        if each["name"] == "OnnxModel:body-part":
            continue
        if each["name"].startswith("OnnxModel:"):
            each["name"] = MODEL
            each["autoscaling_config"] |= QUICK
        elif each["name"] == "Validator":
            del each["autoscaling_config"]
            each["num_replicas"] = 1
        deployments.append(each)
    application["deployments"] = deployments
    return document


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a DenseNet-121-sized model that scales by itself."""
    home = tmp_path_factory.mktemp("scaling")
    environment = environment_for(home / "home")
    version = (NAME, str(yaml.safe_load((write(home) / "card.yaml").read_text())["version"]))
    for arguments in (
        ("init", "--no-admin"),
        ("users", "add", "carl", "--role", "clinician", "--password-stdin"),
        ("users", "add", "anna", "--role", "admin", "--password-stdin"),
        ("models", "register", str(write(home))),
        ("models", "approve", *version, "--as", "anna", "--password-stdin"),
        ("models", "activate", *version),
    ):
        done = medai(environment, *arguments, text=PASSWORD)
        assert done.returncode == 0, done.stderr
    file = home / "serve_config.yaml"
    file.write_text(yaml.safe_dump(topology()))
    with running(environment, home / "server.log", "--config", str(file)) as service:
        yield service


@contextmanager
def load(service: Service, clients: int) -> Iterator[Statuses]:
    """Clients that send one film after the other until the end. Gives the answers' statuses."""
    statuses: Statuses = []
    stop = threading.Event()

    def call(client: Client) -> None:
        while not stop.is_set():
            statuses.append(send(client))

    with service.client("carl") as client, ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(call, client) for _ in range(clients)]
        try:
            yield statuses
        finally:
            stop.set()
    for each in running:
        each.result()


def send(client: Client) -> int:
    """The status of one film's answer."""
    headers = {"Content-Type": "image/jpeg"}
    response = client.post(f"/infer?model={NAME}", content=film(), headers=headers)
    return int(response.status_code)


def wait_until(holds: Callable[[], bool], within_s: float, what: str) -> None:
    """Look until it holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def deploy(service: Service, document: dict[str, Any]) -> None:
    """Hand a topology to the running service, as `serve deploy` does on a cluster."""
    file = service.home / "changed.yaml"
    file.write_text(yaml.safe_dump(document))
    (raylet,) = [one for one in service.descendants() if one.name() == "raylet"]
    address = next(
        word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--gcs-address=")
    )
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY, address, str(file)],
        env=raylet.environ(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def processes(service: Service) -> dict[str, set[psutil.Process]]:
    """The replicas of each deployment; a process equals itself only, not a later one of its id."""
    return {name: set(service.replicas(name)) for name in DEPLOYMENTS}


def test_load_brings_a_second_model_replica_and_its_end_takes_it_away(
    slow_model: Service,
) -> None:
    def count() -> int:
        return len(slow_model.replicas(MODEL))

    assert count() == 1
    with load(slow_model, clients=8) as busy:
        wait_until(lambda: count() == 2, COMES_WITHIN_S, "no second replica came under load")
    with load(slow_model, clients=1) as calm:
        wait_until(lambda: count() == 1, GOES_WITHIN_S, "the second replica stayed without load")

    assert set(busy) == {200}
    assert set(calm) == {200}


def test_tuning_is_taken_over_by_the_processes_that_run(slow_model: Service) -> None:
    before = processes(slow_model)
    narrow = topology()
    (application,) = narrow["applications"]
    for each in application["deployments"]:
        if each["name"] == "Gateway":
            each["user_config"]["validator"] = {
                "max_batch_size": 1, "max_in_flight": 1, "max_queue": 1,
            }  # fmt: skip
        if each["name"] == MODEL:
            each["user_config"]["max_batch_size"] = 4

    deploy(slow_model, narrow)
    with load(slow_model, clients=6) as narrowed:
        wait_until(lambda: 503 in narrowed, 30, "the new max_queue is not in force")
    after = processes(slow_model)
    deploy(slow_model, topology())
    with slow_model.client("carl") as client, ThreadPoolExecutor(6) as threads:
        widened = set(threads.map(lambda _: send(client), range(12)))

    assert set(narrowed) <= {200, 503}
    assert after == before
    assert processes(slow_model) == before
    assert widened == {200}
