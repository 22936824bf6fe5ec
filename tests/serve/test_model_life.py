"""Models changed in a running service: no request fails, and each answer names who made it."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from httpx2 import Client

from tests.serve.challengers import NAME
from tests.serve.conftest import Service, running
from tests.serve.films import INFER, film
from tests.serve.hospital import JPEG, done, two_replicas, under_load, wait_for, with_challengers

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(400)]

SWAPS = 10


@pytest.fixture(scope="module")
def hospital(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two replicas of the chest model, and three versions approved by two people."""
    home = tmp_path_factory.mktemp("hospital")
    environment = with_challengers(template, home, {"1.1.0": 0.5, "1.2.0": -0.5})
    file = two_replicas(home)
    with running(environment, home / "server.log", "--config", str(file)) as service:
        yield service


def resident_mb(service: Service) -> float:
    """Memory of all replicas of the model."""
    replicas = service.replicas(f"OnnxModel:{NAME}")
    assert len(replicas) == 2
    return sum(replica.memory_info().rss for replica in replicas) / 2**20


def test_ten_activations_under_load_fail_no_request(
    hospital: Service, record_testsuite_property: Any
) -> None:
    begin_with(hospital, "1.0.0")
    memory: list[float] = []
    versions: dict[tuple[str, str], set[float]] = {}

    with under_load(hospital) as load:
        for _, version in zip(range(SWAPS), itertools.cycle(("1.1.0", "1.2.0")), strict=False):
            done(hospital.medai("models", "activate", NAME, version))
            time.sleep(1)  # long enough for every gateway to answer with it
            memory.append(resident_mb(hospital))

    record_testsuite_property("answers", len(load.answers))
    record_testsuite_property("memory_mb", [round(mb) for mb in memory])
    for answer in load.answers:
        model, score = answer["model"], answer["scores"]["PNEUMONIA"]
        versions.setdefault((model["version"], model["sha256"]), set()).add(round(score, 4))
    assert load.failures == []
    assert {version for version, _ in versions} == {"1.0.0", "1.1.0", "1.2.0"}
    assert max(memory[SWAPS // 2 :]) < 1.05 * max(memory[: SWAPS // 2])  # given back
    scores = [score for seen in versions.values() for score in seen]
    assert len(versions) == len(scores) == len(set(scores)) == 3  # each version has its own answer


def test_a_rollback_is_one_command_and_leads_where_one_came_from(hospital: Service) -> None:
    begin_with(hospital, "1.0.0")
    done(hospital.medai("models", "activate", NAME, "1.1.0"))

    said = done(hospital.medai("models", "rollback", NAME))

    assert "1.0.0 is active" in said
    with hospital.client("carl") as client:
        wait_for(lambda: version_of(client) == "1.0.0", 2)


def begin_with(hospital: Service, version: str) -> None:
    """Have a version answer, whichever a test before has left."""
    with hospital.client("carl") as client:
        if version_of(client) != version:
            done(hospital.medai("models", "activate", NAME, version))
            wait_for(lambda: version_of(client) == version, 5)


def version_of(client: Client) -> str:
    response = client.post(INFER, content=film(), headers=JPEG)
    return str(response.raise_for_status().json()["model"]["version"])


def test_a_halt_is_in_effect_within_a_second_and_survives_a_restart_of_the_replicas(
    hospital: Service,
) -> None:
    with hospital.client("carl") as client:
        version_of(client)
        done(hospital.medai("models", "halt", NAME, "--reason", "wrong-answers"))

        wait_for(lambda: halted(client), 1)
        for replica in hospital.replicas(f"OnnxModel:{NAME}"):
            psutil.Process(replica.pid).kill()
        problem = client.post(INFER, content=film(), headers=JPEG).json()
        done(hospital.medai("models", "resume", NAME))
        wait_for(lambda: not halted(client), 60)

    assert problem["type"].endswith("/model-halted")
    assert problem["violations"][0]["measured"] == "wrong-answers"


def halted(client: Client) -> bool:
    return client.post(INFER, content=film(), headers=JPEG).status_code == 503
