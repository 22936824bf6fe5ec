"""The bundled models hosted in this process, a predictor of them, and a guard."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.inference.guard import Guard
from deployments.inference.host import ModelHost
from deployments.inference.predictor import Predictor
from tests.inference.files import LIMITS
from tests.inference.models import InProcess
from tests.inference.predictors import BODY_PART, CXR, KEY, build


@pytest.fixture(scope="module")
def hosts() -> dict[str, ModelHost]:
    """The bundled models, hosted in this process."""
    return {
        version.model.name: ModelHost(version, threads=1, deadline_s=30)
        for version in (CXR, BODY_PART)
    }


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "pseudonym.key"
    path.write_bytes(KEY)
    return path


@pytest.fixture
def scoring(hosts: dict[str, ModelHost]) -> InProcess:
    return InProcess(hosts)


@pytest.fixture
async def predictor(scoring: InProcess, key_file: Path) -> AsyncIterator[Predictor]:
    predictor = build(scoring, key_file)
    yield predictor
    await predictor.close()


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    guard = Guard(LIMITS)
    guard.start()
    yield guard
    guard.close()
