"""A changed `serve_config.yaml` replaces every replica under load, and no caller notices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serve.changes import deploy, load, processes, wait_until
from tests.serve.conftest import Service, copy_of, running

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(480)]

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
MODEL = "cxr-pneumonia"
# The audit writer stays as it is: there is one at a time, so a change of its options is a pause.
REPLACED = ("Gateway", "Validator", f"OnnxModel:{MODEL}")
CLIENTS = 4
REPLACED_WITHIN_S = 240


@pytest.fixture(scope="module")
def hospital(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of its own with the repository's topology."""
    directory = tmp_path_factory.mktemp("rolling")
    environment = copy_of(template, directory / "home")
    with running(environment, directory / "server.log", "--config", str(CONFIG)) as service:
        yield service


def topology(cpus: float) -> dict[str, Any]:
    """The repository's file with other options of three deployments, which replaces replicas."""
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    for each in document["applications"][0]["deployments"]:
        if each["name"] in REPLACED:
            each["ray_actor_options"] = {"num_cpus": cpus}
    return document


def test_a_rolling_update_under_load_fails_no_request(
    hospital: Service, record_testsuite_property: Any
) -> None:
    before = processes(hospital, REPLACED)
    assert all(before.values())

    with load(hospital, CLIENTS, MODEL) as statuses:
        wait_until(lambda: len(statuses) > 20, 60, "nobody was answered")
        deploy(hospital, topology(0.05))

        def replaced() -> bool:
            now = processes(hospital, REPLACED)
            return all(now[name] and not now[name] & before[name] for name in REPLACED)

        wait_until(replaced, REPLACED_WITHIN_S, "a replica of before is still there")
        answered = len(statuses)
        wait_until(lambda: len(statuses) > answered + 20, 60, "nobody was answered afterwards")

    record_testsuite_property("rolling_update_requests", len(statuses))
    assert set(statuses) == {200}, {status: statuses.count(status) for status in set(statuses)}
    verified = hospital.medai("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stderr
