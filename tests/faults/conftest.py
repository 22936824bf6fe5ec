"""The ground on which faults happen, and a gateway on it."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from configs.settings import LimitSettings, LogSettings
from deployments.telemetry import logs
from deployments.telemetry.sink import LineSink
from tests.api.core import Core
from tests.api.house import House, open_house
from tests.faults.place import Ground
from tests.postgres import PostgresServer


@pytest.fixture
def ground(request: pytest.FixtureRequest, sqlite_template: Path) -> Ground:
    """SQLite, and PostgreSQL where the test is marked for it."""
    marked = request.node.get_closest_marker("postgres") is not None
    server: PostgresServer | None = request.getfixturevalue("postgres") if marked else None
    return Ground(server, sqlite_template)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """JSON log lines on the standard error stream; calling the fixture gives them."""
    before = logs._process.chain
    logs._process.chain = logs.LogChain(LogSettings(format="json"), "test", LineSink())
    yield lambda: capsys.readouterr().err
    logs._process.chain = before


OpenHouse = Callable[..., Any]


@pytest.fixture
async def house_at(tmp_path: Path) -> AsyncIterator[OpenHouse]:
    """Opens a gateway with the real core behind it, on a database of the test's choice."""
    async with AsyncExitStack() as stack:

        async def open_at(
            url: str, *directories: Path, limits: LimitSettings | None = None
        ) -> House:
            core = Core(tmp_path, directories or None, limits)
            stack.push_async_callback(core.close)
            house: House = await stack.enter_async_context(
                open_house(
                    tmp_path / "medai.db",
                    tmp_path / "keys",
                    url=url,
                    screening=core,
                    stock=core.stock,
                    limits=limits,
                )
            )
            return house

        yield open_at


def problem_of(response: Any) -> str:
    """The code of the problem that was answered."""
    assert response.headers["Content-Type"] == "application/problem+json", response.text
    return str(json.loads(response.text)["type"]).rpartition("/")[2]
