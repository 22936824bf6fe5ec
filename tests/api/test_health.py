"""Health: quick whatever the checks do, and with the reason."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from deployments.api import health
from deployments.api.health import HealthChecks, HealthReport
from registry.errors import DatabaseUnavailable
from tests.api.house import House


class Check:
    """A check whose answer a test sets."""

    def __init__(self) -> None:
        self.runs = 0
        self.fault: BaseException | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> None:
        self.runs += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def check() -> Check:
    return Check()


@pytest.fixture
async def house(build: Callable[..., Any], check: Check) -> House:
    built: House = await build(checks={"database": check})
    return built


async def test_all_is_well(house: House) -> None:
    client = house.client()

    for path in ("/health", "/health/ready", "/health/startup"):
        response = await client.get(path)

        report = HealthReport.model_validate(response.json())
        assert response.status_code == 200
        assert (report.live, report.ready, report.started) == (True, True, True)
        assert report.checks["database"].condition == "ok"
    assert (await client.get("/health/live")).json() == {"live": True}


async def test_what_fails_is_said_with_its_reason(
    house: House, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MAX_AGE_S", 0.0)
    check.fault = DatabaseUnavailable("the database did not answer")
    client = house.client()

    ready = await client.get("/health/ready")

    assert ready.status_code == 503
    report = HealthReport.model_validate(ready.json())
    assert report.ready is False
    assert report.checks["database"].condition == "failed"
    assert report.checks["database"].reason == "the database did not answer"
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/startup")).status_code == 503

    check.fault = None
    assert (await client.get("/health/ready")).status_code == 200
    check.fault = DatabaseUnavailable("again")
    assert (await client.get("/health/ready")).status_code == 503
    assert (await client.get("/health/startup")).status_code == 200  # it had started


async def test_an_unforeseen_reason_is_only_its_type(house: House, check: Check) -> None:
    check.fault = ValueError("postgresql://user:secret@host")

    response = await house.client().get("/health")

    assert response.json()["checks"]["database"]["reason"] == "ValueError"


async def test_a_check_that_hangs_costs_less_than_100_ms(house: House, check: Check) -> None:
    check.gate = asyncio.Event()
    client = house.client()
    await client.get("/health/live")

    started = time.perf_counter()
    response = await client.get("/health/ready")
    took_ms = (time.perf_counter() - started) * 1e3

    assert took_ms < 100
    assert response.status_code == 503
    assert response.json()["checks"]["database"]["reason"] == "has not been checked yet"
    check.gate.set()
    assert (await client.get("/health/ready")).status_code == 200
    assert check.runs == 1


async def test_a_check_that_hangs_later_is_answered_by_what_it_said_last(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = HealthChecks({"database": check})
    assert (await checks.results())["database"].condition == "ok"
    monkeypatch.setattr(health, "MAX_AGE_S", 0.0)
    check.gate = asyncio.Event()

    assert (await checks.results())["database"].condition == "ok"
    monkeypatch.setattr(health, "TIMEOUT_S", 0.0)
    late = (await checks.results())["database"]

    assert (late.condition, late.reason) == ("unknown", "does not answer")
    check.gate.set()


async def test_a_check_runs_on_while_somebody_asks_and_no_request_waits_for_it(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "EVERY_S", 0.01)
    monkeypatch.setattr(health, "PATIENCE_S", 60.0)
    checks = HealthChecks({"database": check})
    await checks.results()
    await asyncio.sleep(0.2)
    assert check.runs > 2

    check.gate = asyncio.Event()
    await asyncio.sleep(0.05)  # it hangs now
    async with asyncio.timeout(5):
        assert (await checks.results())["database"].condition == "ok"

    monkeypatch.setattr(health, "ASKED_S", 0.0)
    check.gate.set()
    await asyncio.sleep(0.05)
    runs = check.runs
    await asyncio.sleep(0.1)
    assert check.runs == runs  # nobody asks any more


async def test_once_closed_nothing_is_checked_and_nothing_held(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "EVERY_S", 0.01)
    idle = HealthChecks({"database": check})
    await idle.results()
    ended = asyncio.Event()

    async def hold() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(health, "PATIENCE_S", 0.01)
    monkeypatch.setattr(health, "TIMEOUT_S", 60.0)
    busy = HealthChecks({"database": hold})
    await busy.results()
    async with asyncio.timeout(5):  # nobody waits for a check that hangs
        await idle.close()
        await busy.close()
    runs = check.runs
    await asyncio.sleep(0.1)

    assert check.runs == runs
    assert ended.is_set()


async def test_a_check_is_given_up(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT_S", 0.01)
    check.gate = asyncio.Event()

    said = (await HealthChecks({"database": check}).results())["database"]

    assert (said.condition, said.reason) == ("failed", "no answer within 0.01 s")


async def test_however_many_ask_a_check_runs_once(house: House, check: Check) -> None:
    client = house.client()

    await asyncio.gather(*(client.get("/health/ready") for _ in range(50)))

    assert check.runs == 1


async def test_health_answers_while_the_house_is_full(build: Callable[..., Any]) -> None:
    house = await build(checks={})
    house.services.inference.admission.in_progress = 10**6

    started = time.perf_counter()
    response = await house.client().get("/health/ready")

    assert response.status_code == 200
    assert (time.perf_counter() - started) * 1e3 < 100


async def test_an_administrator_is_told_how_the_gateway_stands(house: House) -> None:
    report = (await house.client("ada").get("/health")).json()

    details = HealthReport.model_validate(report).details
    assert details is not None
    assert details.memory_rss_bytes > 10 * 2**20
    assert details.memory_available_bytes > 0
    assert details.disk_free_bytes > 0
    assert (details.requests_in_progress, details.queues) == (2, {"audit": 3})
    assert details.database.circuit == "closed"
    assert details.database.in_use <= details.database.open
    assert [(model.name, model.version) for model in details.models] == [("cxr-pneumonia", "1.0.0")]
    assert report["details"]["replicas"] == {
        "deployments": {"Gateway": {"running": 1, "wanted": 2}},
        "reason": None,
        "age_s": 0.5,
    }


@pytest.mark.parametrize("username", [None, "clara", "vera"])
async def test_nobody_else_is_told_more_than_a_probe_needs(
    house: House, username: str | None
) -> None:
    report = (await house.client(username).get("/health")).json()

    assert set(report) == {"live", "ready", "started", "checks"}


@pytest.mark.parametrize("authorization", ["Bearer x", "Basic eDp5", ""])
async def test_a_token_that_is_not_good_is_no_error_of_a_probe(
    house: House, authorization: str
) -> None:
    headers = {"Authorization": authorization}

    response = await house.client().get("/health", headers=headers)

    assert response.status_code == 200
    assert "details" not in response.json()
