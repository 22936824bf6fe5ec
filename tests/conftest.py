"""Fixtures every test may use."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything here runs on asyncio: Ray Serve, SQLAlchemy's drivers and uvicorn do."""
    return "asyncio"
