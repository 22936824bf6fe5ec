"""Fixtures of the API's tests: a house to send requests to, and the log lines it writes."""

import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from configs.settings import LogSettings
from deployments.telemetry import logs
from deployments.telemetry.sink import LineSink
from tests.api.house import House, open_house


@pytest.fixture
async def build(
    sqlite_template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Callable[..., Any]]:
    """Makes a house with the options of `open_house`. What its start logs is thrown away."""
    file = tmp_path / "medai.db"
    shutil.copy(sqlite_template, file)
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> House:
            opened = open_house(file, tmp_path / "keys", **options)
            house = await stack.enter_async_context(opened)
            capsys.readouterr()
            return house

        yield make


@pytest.fixture
async def house(build: Callable[..., Any]) -> House:
    """A house with the scripted screening and the usual limits."""
    built: House = await build()
    return built


@pytest.fixture(autouse=True)
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """JSON lines on the standard error stream; calling the fixture reads them."""
    before = logs._process.chain
    logs._process.chain = logs.LogChain(LogSettings(format="json"), "test", LineSink())
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logs._process.chain = before
