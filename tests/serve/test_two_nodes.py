"""Two Ray nodes answer; one is killed; the service heals, and nothing that was answered is lost."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.ports import free_ports
from tests.serve.changes import load, wait_until
from tests.serve.conftest import Service, copy_of, medai, wait_until_ready

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(580)]

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
SCRIPT = Path(__file__).with_name("two_nodes.py")
MODEL = "cxr-pneumonia"
ON_BOTH = ("Gateway", "Validator", f"OnnxModel:{MODEL}")
CLIENTS = 4
IN_A_ROW = 50
HEALS_WITHIN_S = 120
END_S = 60


@dataclass(frozen=True, slots=True)
class Cluster:
    """A service on two nodes, and the port of each node's metrics."""

    service: Service
    metrics: list[int]

    def tell(self, word: str) -> None:
        """One line on the script's standard input."""
        stdin = self.service.process.stdin
        assert stdin is not None
        stdin.write(f"{word}\n".encode())
        stdin.flush()

    def images_scored(self) -> list[float]:
        """How many images the models of each node have scored so far."""
        return [images_in(httpx2.get(f"http://127.0.0.1:{port}/metrics")) for port in self.metrics]


def images_in(page: httpx2.Response) -> float:
    """Sum of the sizes of all batches on one node's page."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
        if sample.name == "ray_medai_batch_images_sum"
    )


def topology(environment: dict[str, str]) -> dict[str, Any]:
    """The repository's file with one model, two replicas of each step, one a node."""
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    document["proxy_location"] = "HeadOnly"
    document["http_options"]["port"] = int(environment["MEDAI_SERVER__PORT"])
    (application,) = document["applications"]
    application["args"]["models"] = {MODEL: {"threads": 1}}
    application["deployments"] = [
        each for each in application["deployments"] if each["name"] != "OnnxModel:body-part"
    ]
    for each in application["deployments"]:
        if each["name"] in ON_BOTH:
            each.pop("autoscaling_config", None)
            each |= {"num_replicas": 2, "max_replicas_per_node": 1}
    return document


@pytest.fixture
def cluster(template: Path, tmp_path: Path) -> Iterator[Cluster]:
    """Started and ready; whatever is left of it is ended afterwards."""
    environment = copy_of(template, tmp_path / "home")
    exports = dict(
        re.findall(r"^export (\w+)='?([^'\n]*)'?$", medai(environment, "env").stdout, re.MULTILINE)
    )
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(topology(environment)))
    metrics = free_ports(2)
    output = tmp_path / "cluster.log"
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short,
        output.open("wb") as stream,
    ):
        (Path(short) / "ray").mkdir()  # Ray writes the cluster's address there
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(file), *map(str, metrics)],
            env={**environment, **exports, "RAY_AUTH_TOKEN": "0" * 64, "RAY_TMPDIR": short},
            cwd=CONFIG.parent,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
        )
        url = f"http://127.0.0.1:{environment['MEDAI_SERVER__PORT']}"
        service = Service(url, tmp_path / "home", environment, process, output)
        try:
            wait_until_ready(service)
            yield Cluster(service, metrics)
        finally:
            end(service)


def end(service: Service) -> None:
    """Let it end by itself, then see that nothing of it is left."""
    family = service.descendants() if service.process.poll() is None else []
    assert service.process.stdin is not None
    service.process.stdin.close()  # the script reads the end of the file as its last lines
    try:
        service.process.wait(END_S)
    except subprocess.TimeoutExpired:
        service.process.kill()
    for left in psutil.wait_procs(family, timeout=5)[1]:
        left.kill()


def test_a_killed_node_is_healed_and_nothing_that_was_answered_is_lost(
    cluster: Cluster, record_testsuite_property: Any
) -> None:
    service = cluster.service
    wait_until(
        lambda: all(len(service.replicas(name)) == 2 for name in ON_BOTH), 120, "not on both nodes"
    )
    results: list[str] = []
    with load(service, CLIENTS, MODEL, results) as statuses:
        wait_until(lambda: all(cluster.images_scored()), 60, "one node was asked nothing")
        before = len(statuses)
        cluster.tell("kill")
        killed = time.monotonic()

        def healed() -> bool:
            return len(statuses) > before + IN_A_ROW and set(statuses[-IN_A_ROW:]) == {200}

        wait_until(lambda: len(service.replicas("Validator")) == 1, 60, "the node still lives")
        wait_until(healed, HEALS_WITHIN_S, "the service did not heal")
        healed_s = time.monotonic() - killed

    failed = [status for status in statuses if status != 200]
    record_testsuite_property("healed_s", round(healed_s, 1))
    record_testsuite_property("answered", len(results))
    record_testsuite_property("failed", len(failed))
    assert set(failed) <= {0, 500, 502, 503, 504}  # HAProxy calls what it cannot reach 500
    with service.client("anna") as admin:
        missing = [one for one in results if not admin.get(f"/results/{one}").is_success]
    assert missing == []
    verified = service.medai("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["entries"] >= len(results)
