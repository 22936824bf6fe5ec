"""Fixtures every test may use."""

from typing import Any

import pytest

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
