"""Scaling by `serve_config.yaml` alone: replicas that come and go, tuning that restarts nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.densenet import NAME, write
from tests.serve.changes import deploy, load, processes, send, wait_until
from tests.serve.conftest import PASSWORD, Service, environment_for, medai, running

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


def test_load_brings_a_second_model_replica_and_its_end_takes_it_away(
    slow_model: Service,
) -> None:
    def count() -> int:
        return len(slow_model.replicas(MODEL))

    assert count() == 1
    with load(slow_model, 8, NAME) as busy:
        wait_until(lambda: count() == 2, COMES_WITHIN_S, "no second replica came under load")
    with load(slow_model, 1, NAME) as calm:
        wait_until(lambda: count() == 1, GOES_WITHIN_S, "the second replica stayed without load")

    assert set(busy) == {200}
    assert set(calm) == {200}


def test_tuning_is_taken_over_by_the_processes_that_run(slow_model: Service) -> None:
    before = processes(slow_model, DEPLOYMENTS)
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
    with load(slow_model, 6, NAME) as narrowed:
        wait_until(lambda: 503 in narrowed, 30, "the new max_queue is not in force")
    after = processes(slow_model, DEPLOYMENTS)
    deploy(slow_model, topology())
    with slow_model.client("carl") as client, ThreadPoolExecutor(6) as threads:
        widened = set(threads.map(lambda _: send(client, NAME), range(12)))

    assert set(narrowed) <= {200, 503}
    assert after == before
    assert processes(slow_model, DEPLOYMENTS) == before
    assert widened == {200}
