"""Load on a running service, and changes of its topology meanwhile."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import yaml
from httpx2 import Client, HTTPError

from tests.serve.conftest import Service
from tests.serve.films import film

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


@contextmanager
def load(
    service: Service, clients: int, model: str, results: list[str] | None = None
) -> Iterator[Statuses]:
    """Clients that send one film after the other until the end. Gives the answers' statuses.

    A connection that breaks without an answer counts as 0. `results` gets the id of each result
    that was answered with success.
    """
    statuses: Statuses = []
    stop = threading.Event()

    def call(client: Client) -> None:
        while not stop.is_set():
            statuses.append(send(client, model, results))

    with service.client("carl") as client, ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(call, client) for _ in range(clients)]
        try:
            yield statuses
        finally:
            stop.set()
    for each in running:
        each.result()


def send(client: Client, model: str, results: list[str] | None = None) -> int:
    """The status of one film's answer; 0 where there was none."""
    headers = {"Content-Type": "image/jpeg"}
    try:
        response = client.post(f"/infer?model={model}", content=film(), headers=headers)
    except HTTPError:
        return 0
    if results is not None and response.is_success:
        results.append(response.json()["result_id"])
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
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def processes(service: Service, names: Collection[str]) -> dict[str, set[psutil.Process]]:
    """The replicas of each deployment; a process equals itself only, not a later one of its id."""
    return {name: set(service.replicas(name)) for name in names}
