"""So many requests were made, so many are counted: two gateways, two model replicas, no rounding.

A service of its own, with the topology of `serve_config.yaml` and one of each more. `GET /metrics`
is asked at each gateway's own port, Ray's agent at the port that Prometheus scrapes.
"""

import concurrent.futures
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.conftest import PASSWORD, Service, environment_for, medai, running
from tests.serve.films import INFER, corrupt, film, washed_out

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(480)]

TOPOLOGY = Path(__file__).parents[2] / "serve_config.yaml"
JPEG = {"Content-Type": "image/jpeg"}
REPORTED_WITHIN_S = 20.0
NO_ROUTE = "none"
SETTLED_S = 5.0  # more than two reports: whatever would be counted twice has time to be

GOOD, UNDECODABLE, UNREADABLE, FORBIDDEN, ANONYMOUS = 120, 30, 20, 10, 10
STATUSES = {"200": GOOD, "422": UNDECODABLE + UNREADABLE, "403": FORBIDDEN, "401": ANONYMOUS}

Sample = tuple[dict[str, str], float]
Samples = dict[str, list[Sample]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two gateways, two replicas of the chest model, one user of each role."""
    directory = tmp_path_factory.mktemp("count")
    environment = environment_for(directory / "home")
    assert medai(environment, "init", "--no-admin").returncode == 0
    for name, role in (("carl", "clinician"), ("vera", "viewer"), ("anna", "admin")):
        added = medai(
            environment, "users", "add", name, "--role", role, "--password-stdin", text=PASSWORD
        )
        assert added.returncode == 0, added.stderr
    topology = yaml.safe_load(TOPOLOGY.read_text())
    deployments = {one["name"]: one for one in topology["applications"][0]["deployments"]}
    for name in ("Gateway", "OnnxModel:cxr-pneumonia"):
        deployments[name].pop("autoscaling_config", None)
        deployments[name]["num_replicas"] = 2
    config = directory / "two_of_each.yaml"
    config.write_text(yaml.safe_dump(topology))
    with running(environment, directory / "server.log", "--config", str(config)) as service:
        yield service


def gateways(service: Service) -> list[str]:
    """The address of each gateway, beside HAProxy."""
    low, high = json.loads(service.environment["MEDAI_SERVER__REPLICA_PORTS"])
    ports = [
        connection.laddr.port
        for gateway in service.replicas("Gateway")
        for connection in gateway.net_connections("tcp")
        if connection.status == "LISTEN" and low <= connection.laddr.port <= high
    ]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    return [url for url in urls if httpx2.get(f"{url}/health/live").is_success]


def samples(page: str) -> Samples:
    """Every sample by its name; both pages call them the same."""
    found: Samples = defaultdict(list)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum over all processes."""
    return sum(value for said, value in found[name] if labels.items() <= said.items())


def workers(found: Samples, name: str, label: str, **labels: str) -> int:
    """How many processes have counted something."""
    return len(
        {said[label] for said, value in found[name] if labels.items() <= said.items() and value > 0}
    )


def by_status(found: Samples) -> dict[str, float]:
    """`POST /infer` by the status of its answer.

    Whoever proves no identity is refused before the route is looked up: it counts as `none`.
    """
    counted: Counter[str] = Counter()
    for labels, value in found["ray_medai_requests_total"]:
        if labels["route"] in {"/infer", NO_ROUTE} and labels["method"] == "POST" and value:
            counted[labels["status"]] += value  # type: ignore[assignment]  # a float, and whole
    return dict(counted)


def drive(service: Service) -> Counter[str]:
    """Send everything, sixteen at a time, mixed; gives the answers by status."""
    with (
        service.client("carl") as clinician,
        service.client("vera") as viewer,
        service.client() as anonymous,
        concurrent.futures.ThreadPoolExecutor(16) as threads,
    ):
        kinds = [
            (clinician, film(), GOOD),
            (clinician, corrupt(), UNDECODABLE),
            (clinician, washed_out(), UNREADABLE),
            (viewer, film(), FORBIDDEN),
            (anonymous, film(), ANONYMOUS),
        ]
        requests = [(client, body) for client, body, count in kinds for _ in range(count)]
        mixed = [requests[index * 53 % len(requests)] for index in range(len(requests))]

        def send(request: tuple[httpx2.Client, bytes]) -> str:
            client, body = request
            return str(client.post(INFER, content=body, headers=JPEG).status_code)

        return Counter(threads.map(send, mixed))


@pytest.fixture(scope="module")
def pages(service: Service) -> dict[str, Samples]:
    """What each gateway and the agent say, once everything was sent and has been reported."""
    assert drive(service) == STATUSES
    agent = f"http://127.0.0.1:{service.environment['MEDAI_SERVER__METRICS_PORT']}/metrics"
    with service.client("anna") as admin:
        headers = {"Authorization": admin.headers["Authorization"]}
        ways: dict[str, Callable[[], httpx2.Response]] = {
            f"gateway {number}": lambda url=url: httpx2.get(f"{url}/metrics", headers=headers)
            for number, url in enumerate(gateways(service), start=1)
        }
        ways |= {"agent": lambda: httpx2.get(agent)}
        deadline = time.monotonic() + REPORTED_WITHIN_S
        while time.monotonic() < deadline:
            if by_status(samples(ways["agent"]().text)) == STATUSES:
                break
            time.sleep(0.5)
        time.sleep(SETTLED_S)
        return {name: samples(way().raise_for_status().text) for name, way in ways.items()}


def test_each_gateway_and_the_agent_count_every_request_once(pages: dict[str, Samples]) -> None:
    assert set(pages) == {"gateway 1", "gateway 2", "agent"}
    assert {name: by_status(found) for name, found in pages.items()} == dict.fromkeys(
        pages, STATUSES
    )


def test_both_gateways_and_both_model_replicas_had_their_part(pages: dict[str, Samples]) -> None:
    page = pages["gateway 1"]

    assert workers(page, "ray_medai_requests_total", "worker_id", route="/infer") == 2
    ran = {"model": "cxr-pneumonia"}
    assert workers(page, "ray_medai_batch_images_count", "worker_id", **ran) == 2


def test_every_image_that_could_be_shown_to_a_model_was_counted_there_once(
    pages: dict[str, Samples],
) -> None:
    for found in pages.values():
        assert total(found, "ray_medai_batch_images_sum", model="cxr-pneumonia") == GOOD


def test_the_outcomes_of_all_inferences_add_up(pages: dict[str, Samples]) -> None:
    for found in pages.values():
        inferences = "ray_medai_inferences_total"
        assert total(found, inferences, outcome="predicted") == GOOD
        assert total(found, inferences, outcome="rejected") == UNDECODABLE + UNREADABLE
        assert total(found, inferences) == GOOD + UNDECODABLE + UNREADABLE


def test_every_latency_of_an_answer_is_in_the_histogram(pages: dict[str, Samples]) -> None:
    for found in pages.values():
        name = "ray_medai_request_seconds"
        sent = sum(STATUSES.values()) - ANONYMOUS
        assert total(found, f"{name}_count", route="/infer") == sent
        assert total(found, f"{name}_bucket", route="/infer", le="+Inf") == sent
