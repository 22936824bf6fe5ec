"""A hospital with two replicas of the chest model, challengers of it, and callers."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.serve.challengers import NAME, challenger
from tests.serve.conftest import PASSWORD, Service, copy_of, medai
from tests.serve.films import INFER, film

JPEG = {"Content-Type": "image/jpeg"}
CALLERS = 4
ROOT = Path(__file__).parents[2]


def with_challengers(
    template: Path, directory: Path, shifts: Mapping[str, float]
) -> dict[str, str]:
    """Make a home in `directory`, with challengers that two people have approved.

    Args:
        template: A prepared home.
        directory: Where; the challengers' cards and files stand there, too.
        shifts: Versions, and what is added to the last bias of their second label.

    Returns:
        The environment of the home.
    """
    environment = copy_of(template, directory / "home")
    for version, shift in shifts.items():
        made = challenger(directory / version, version, shift)
        done(medai(environment, "models", "register", str(made)))
        by_anna = ("--as", "anna", "--password-stdin")
        done(medai(environment, "models", "approve", NAME, version, *by_anna, text=PASSWORD))
    return environment


def two_replicas(directory: Path) -> Path:
    """Write the shipped topology with the chest model alone, and two replicas of it."""
    topology = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    (application,) = topology["applications"]
    application["args"]["models"] = {NAME: {"threads": 1}}
    deployments = [one for one in application["deployments"] if "body-part" not in one["name"]]
    for one in deployments:
        if NAME in one["name"]:
            del one["autoscaling_config"]
            one["num_replicas"] = 2
    application["deployments"] = deployments
    file = directory / "two_replicas.yaml"
    file.write_text(yaml.safe_dump(topology))
    return file


@dataclass
class Load:
    """What callers saw while models changed."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


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


def wait_for(condition: Callable[[], bool], limit_s: float) -> None:
    """Return once the condition holds; fail where it does not within the limit, in seconds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s
        time.sleep(0.02)
