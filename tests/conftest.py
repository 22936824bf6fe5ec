"""Fixtures every test may use."""

from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Say to pytest-xdist which tests share a process: those of a module, and all that start Ray.

    Two Ray clusters on two cores start in more than twice the time of one. The group of Ray comes
    first, since it is the longest; a wrapper, so that the shuffling is done by then.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            module = item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group("serve" if _through_ray(item) else module))
    yield
    items.sort(key=lambda item: not _through_ray(item))


def _through_ray(item: pytest.Item) -> bool:
    return item.get_closest_marker("serve") is not None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything here runs on asyncio: Ray Serve, SQLAlchemy's drivers and uvicorn do."""
    return "asyncio"
