"""The model's host: calls that wait become one run, and get their own answers back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.topology import ModelTuning
from deployments.inference.host import ModelHost
from registry.catalogue import Served
from registry.contract import Tensors
from registry.errors import Internal, InvalidModel, ModelUnavailable
from tests.inference.models import SIDE, served


@pytest.fixture
def tiny(tmp_path: Path) -> Served:
    return served(tmp_path)


@pytest.fixture
async def host(tiny: Served) -> AsyncIterator[ModelHost]:
    host = ModelHost(tiny, threads=1, deadline_s=5)
    yield host
    await host.close()


def tensors(version: Served, *levels: int) -> Tensors:
    pixels = np.stack([np.full((1, SIDE, SIDE), level, np.uint8) for level in levels])
    return Tensors(version.model, pixels)


def bright(level: int) -> float:
    mean = (level / 255 - 0.5) / 0.25
    return float(np.exp(mean) / (np.exp(mean) + np.exp(-mean)))


async def test_each_call_gets_the_scores_of_its_own_images(host: ModelHost, tiny: Served) -> None:
    calls = [(10,), (20, 30, 40), (50, 60)]

    answers = await asyncio.gather(*(host.score(tensors(tiny, *levels)) for levels in calls))

    for levels, answer in zip(calls, answers, strict=True):
        assert np.allclose(answer.values[:, 1], [bright(level) for level in levels], atol=1e-6)
        assert answer.batch_size == 6
        assert answer.inference_ms > 0


async def test_a_call_larger_than_a_batch_is_run_in_parts(host: ModelHost, tiny: Served) -> None:
    host.reconfigure(ModelTuning(max_batch_size=4))
    levels = range(0, 250, 25)

    answer = await host.score(tensors(tiny, *levels))

    assert np.allclose(answer.values[:, 1], [bright(level) for level in levels], atol=1e-6)
    assert answer.batch_size == 10


async def test_another_version_is_refused(host: ModelHost, tiny: Served) -> None:
    other = replace(tiny, model=replace(tiny.model, sha256="0" * 64))

    with pytest.raises(ModelUnavailable, match="another version"):
        await host.score(tensors(other, 1))


async def test_a_tensor_of_another_shape_harms_only_its_call(host: ModelHost, tiny: Served) -> None:
    odd = Tensors(tiny.model, np.zeros((1, 1, SIDE, SIDE + 1), np.uint8))

    ends = await asyncio.gather(
        host.score(odd), host.score(tensors(tiny, 1)), return_exceptions=True
    )

    assert isinstance(ends[0], Internal)
    assert not isinstance(ends[1], BaseException)


async def test_a_host_whose_golden_case_fails_does_not_start(tmp_path: Path) -> None:
    golden = {"seed": "g", "scores": {"DARK": 0.9, "BRIGHT": 0.1}, "tolerance": 0.01}

    with pytest.raises(InvalidModel, match="golden"):
        ModelHost(served(tmp_path, golden=golden), threads=1, deadline_s=5)


async def test_health_is_what_the_last_golden_case_said(host: ModelHost) -> None:
    host.check_health()
    assert host._health is not None
    host._health.result(5)
    host.check_health()
    host._health.result(5)

    host._session._offset += 5  # as if memory had gone bad
    host.check_health()
    with pytest.raises(InvalidModel):
        host._health.result(5)
    with pytest.raises(InvalidModel, match="golden"):
        host.check_health()


async def test_closing_answers_what_waits(tiny: Served) -> None:
    host = ModelHost(tiny, threads=1, deadline_s=5)
    waiting = asyncio.ensure_future(host.score(tensors(tiny, 9)))
    await asyncio.sleep(0)

    await host.close()

    assert waiting.done()
    assert (await waiting).batch_size == 1
