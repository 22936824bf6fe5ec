"""Models changed in a running service: no request fails, and each answer names who made it."""

import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from httpx2 import Client

from tests.serve.challengers import NAME, challenger
from tests.serve.conftest import PASSWORD, Service, environment_for, medai, running
from tests.serve.films import INFER, film

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(400)]

JPEG = {"Content-Type": "image/jpeg"}
CALLERS = 4
SWAPS = 10
ROOT = Path(__file__).parents[2]


@dataclass
class Load:
    """What callers saw while models changed."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two replicas of the chest model, and three versions approved by two people."""
    home = tmp_path_factory.mktemp("hospital")
    environment = environment_for(home / "home")
    topology = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    (application,) = topology["applications"]
    application["args"]["models"] = {NAME: {"threads": 1}}
    deployments = [one for one in application["deployments"] if "body-part" not in one["name"]]
    for one in deployments:
        if NAME in one["name"]:
            del one["autoscaling_config"]
            one["num_replicas"] = 2
    application["deployments"] = deployments
    file = home / "two_replicas.yaml"
    file.write_text(yaml.safe_dump(topology))
    carl = ("users", "add", "carl", "--role", "clinician", "--password-stdin")
    anna = ("users", "add", "anna", "--role", "admin", "--password-stdin")
    for arguments in (("init", "--no-admin"), carl, anna):
        done(medai(environment, *arguments, text=PASSWORD))
    for version, shift in (("1.1.0", 0.5), ("1.2.0", -0.5)):
        directory = challenger(home / version, version, shift)
        done(medai(environment, "models", "register", str(directory)))
        by_anna = ("--as", "anna", "--password-stdin")
        done(medai(environment, "models", "approve", NAME, version, *by_anna, text=PASSWORD))
    with running(environment, home / "server.log", "--config", str(file)) as service:
        yield service


def done(command: "subprocess.CompletedProcess[str]") -> str:
    """The output of a command that succeeded."""
    assert command.returncode == 0, command.stderr
    return command.stdout


@contextmanager
def under_load(service: Service) -> Iterator[Load]:
    """Callers who send one film after the other until the end."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()

    def call() -> None:
        with service.client("carl") as client:
            while not stop.is_set():
                response = client.post(INFER, content=film(), headers=JPEG)
                with lock:
                    if response.status_code == 200:
                        load.answers.append(response.json())
                    else:
                        load.failures.append(response.text)

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield load
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def resident_mb(service: Service) -> float:
    """Memory of all replicas of the model."""
    replicas = service.replicas(f"OnnxModel:{NAME}")
    assert len(replicas) == 2
    return sum(replica.memory_info().rss for replica in replicas) / 2**20


def wait_for(condition: Callable[[], bool], limit_s: float) -> None:
    """Return once the condition holds; fail where it does not within the limit, in seconds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s
        time.sleep(0.02)


def test_ten_activations_under_load_fail_no_request(hospital: Service) -> None:
    memory: list[float] = []
    versions: dict[tuple[str, str], set[float]] = {}

    with under_load(hospital) as load:
        for _, version in zip(range(SWAPS), itertools.cycle(("1.1.0", "1.2.0")), strict=False):
            done(hospital.medai("models", "activate", NAME, version))
            time.sleep(1)  # long enough for every gateway to answer with it
            memory.append(resident_mb(hospital))

    for answer in load.answers:
        model, score = answer["model"], answer["scores"]["PNEUMONIA"]
        versions.setdefault((model["version"], model["sha256"]), set()).add(round(score, 4))
    assert load.failures == []
    assert {version for version, _ in versions} == {"1.0.0", "1.1.0", "1.2.0"}
    assert max(memory[SWAPS // 2 :]) < 1.05 * max(memory[: SWAPS // 2])  # given back
    scores = [score for seen in versions.values() for score in seen]
    assert len(versions) == len(scores) == len(set(scores)) == 3  # each version has its own answer


def test_a_rollback_is_one_command_and_leads_where_one_came_from(hospital: Service) -> None:
    done(hospital.medai("models", "activate", NAME, "1.0.0"))
    done(hospital.medai("models", "activate", NAME, "1.1.0"))

    said = done(hospital.medai("models", "rollback", NAME))

    assert "1.0.0 is active" in said
    with hospital.client("carl") as client:
        wait_for(lambda: version_of(client) == "1.0.0", 2)


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
