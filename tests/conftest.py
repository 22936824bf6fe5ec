"""Fixtures every test may use."""

from typing import Any

import pytest

RAY = ("tests/serve/", "tests/telemetry/test_metrics_ray.py")
SHARED = ("test_doctor", "test_faults", "test_one_image")  # modules on the session's one service


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes through Ray first: those are the longest groups, and a late start would show."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process a module; all modules that start Ray in two.

    More than two clusters at a time would wait for each other's cores, and the tests of one service
    need to be where it is. (`--dist=loadgroup` would say it by marks, but xdist 3.8 writes them to
    where pytest 9 does not read them any more.)
    """
    from xdist.scheduler import LoadFileScheduling  # where it is installed

    class ByModule(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if not nodeid.startswith(RAY):
                return str(super()._split_scope(nodeid))
            return "one service" if any(name in nodeid for name in SHARED) else "own services"

    return ByModule(config, log)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything here runs on asyncio: Ray Serve, SQLAlchemy's drivers and uvicorn do."""
    return "asyncio"
