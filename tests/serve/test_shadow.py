"""A challenger in a running service of two replicas: unheard, counted, and counted on."""

import json
import statistics
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.serve.challengers import NAME
from tests.serve.conftest import Service, running
from tests.serve.films import INFER, film
from tests.serve.hospital import (
    JPEG,
    Load,
    done,
    two_replicas,
    under_load,
    wait_for,
    with_challengers,
)

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(600)]

LOAD_S = 10.0
SHIFT = 3.0  # of the second label's logit, -1.5 on the film: the decision becomes the other one


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    """A home with a clinician, an administrator and an approved challenger."""
    environment = with_challengers(template, tmp_path, {"1.1.0": SHIFT})
    two_replicas(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    return tmp_path


def started(place: Path) -> AbstractContextManager[Service]:
    """The service; again on the same home where it was stopped."""
    environment = json.loads((place / "environment.json").read_text())
    return running(environment, place / "server.log", "--config", str(place / "two_replicas.yaml"))


def report(service: Service) -> dict[str, Any]:
    """The comparison, as the command line tells it."""
    found: dict[str, Any] = json.loads(
        done(service.medai("models", "shadow", NAME, "--report", "--json"))
    )
    return found


def seen(service: Service) -> int:
    """Images that the challenger was asked for."""
    found = report(service)
    return int(found["compared"] + found["dropped"] + found["failed"])


def latencies_ms(load: Load) -> list[float]:
    return [answer["timings_ms"]["total"] for answer in load.answers]


def test_a_challenger_is_counted_in_all_replicas_and_through_a_restart(place: Path) -> None:
    with started(place) as service:
        with under_load(service) as before:
            time.sleep(LOAD_S)
        done(service.medai("models", "shadow", NAME, "1.1.0", "--share", "1.0"))
        wait_for(lambda: len(ready(service)) == 2, 60)
        with under_load(service) as during:
            time.sleep(LOAD_S)
        wait_for(lambda: seen(service) == len(during.answers), 60)
        first = report(service)
        with service.client("anna") as anna:
            over_http = anna.get(f"/admin/models/{NAME}/shadow").raise_for_status().json()

    assert before.failures == during.failures == []
    assert {answer["model"]["version"] for answer in during.answers} == {"1.0.0"}
    assert len({answer["scores"]["PNEUMONIA"] for answer in (*before.answers, *during.answers)}) < 5
    assert first["failed"] == 0
    assert first["compared"] > 100
    assert first["compared"] + first["dropped"] == len(during.answers)
    assert {one["answered"] for one in first["decisions"]} == {decided(during)}
    assert first["agreed"] == 0  # the one film, and a challenger that would say otherwise
    assert {key: over_http[key] for key in first if key != "replicas"} == {
        key: value for key, value in first.items() if key != "replicas"
    }
    alone, shadowed = (statistics.median(latencies_ms(load)) for load in (before, during))
    print(  # noqa: T201  # the figures of docs/adr
        f"median {alone:.1f} ms without, {shadowed:.1f} ms with a challenger; answers"
        f" {len(before.answers)} and {len(during.answers)}; {first}"
    )
    assert shadowed < 3 * alone  # on a busy machine

    with started(place) as service:
        again = report(service)
        wait_for(lambda: len(ready(service)) == 2, 60)
        with service.client("carl") as carl:
            for _ in range(20):
                carl.post(INFER, content=film(), headers=JPEG).raise_for_status()
        wait_for(lambda: seen(service) == seen_in(first) + 20, 60)
        done(service.medai("models", "activate", NAME, "1.1.0"))
        ended = report(service)

    assert (again["compared"], again["started_at"]) == (first["compared"], first["started_at"])
    assert ended["ended_at"] is not None


def ready(service: Service) -> list[dict[str, Any]]:
    """The replicas that hold the challenger."""
    return [one for one in report(service)["replicas"] if one["state"] == "ready"]


def seen_in(found: dict[str, Any]) -> int:
    return int(found["compared"] + found["dropped"] + found["failed"])


def decided(load: Load) -> str:
    """The decision on the film: the same for every answer."""
    scores = load.answers[0]["scores"]
    best: str = max(scores, key=scores.__getitem__)
    return best if scores[best] >= load.answers[0]["threshold"] else "BELOW_THRESHOLD"
