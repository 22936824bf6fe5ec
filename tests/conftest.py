"""Fixtures every test may use: migrated databases of both kinds, each test with its own.

PostgreSQL comes from a wheel: one server a process, reached by a Unix socket in a directory of its
own, and a copy of a migrated template for each test.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from storage import schema
from tests.postgres import TEMPLATE, PostgresServer, volatile_directory

RAY = (
    "tests/serve/",
    "tests/telemetry/test_metrics_ray.py",
    "tests/docs/test_commands_run.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes through Ray first: those are the longest groups, and a late start would show."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process a module, but one for all modules that start Ray.

    Two clusters at a time wait for each other's cores, longer than a start may take.
    (`--dist=loadgroup` would say it by marks, but xdist 3.8 writes them to where pytest 9 does not
    read them any more.)
    """
    from xdist.scheduler import LoadFileScheduling  # where it is installed

    class ByModule(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(RAY) else str(super()._split_scope(nodeid))

    return ByModule(config, log)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything here runs on asyncio: Ray Serve, SQLAlchemy's drivers and uvicorn do."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL with a migrated template and the role the server uses."""
    directory = Path(tempfile.mkdtemp(prefix="medai-pg-", dir=volatile_directory()))
    server = PostgresServer(directory)
    server.start()
    server.execute(f"CREATE ROLE {schema.APP_ROLE} LOGIN", f"CREATE DATABASE {TEMPLATE}")
    asyncio.run(schema.upgrade(server.url(TEMPLATE)))
    yield server
    server.stop()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to be copied: migrating takes longer than a test."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(schema.upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "medai.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    name = f"t{uuid4().hex}"
    yield postgres.copy_template(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    """A migrated database of its own, on each kind in turn."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found
