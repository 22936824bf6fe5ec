"""The versions a replica holds: loaded beside the one that serves, let go when nobody cares."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from deployments.inference.host import ModelHost
from deployments.inference.versions import MAX_HELD, HeldVersions
from registry.catalogue import Served
from registry.contract import Tensors
from registry.errors import InvalidModel, ModelUnavailable
from registry.lifecycle import ReplicaState
from tests.inference.models import SIDE, Known, graph, served

GOLDEN_OFF = {"seed": "g", "scores": {"DARK": 0.9, "BRIGHT": 0.1}, "tolerance": 0.05}


def tensors(version: Served) -> Tensors:
    return Tensors(version.model, np.full((1, 1, SIDE, SIDE), 200, np.uint8))


class Loader:
    """Loads versions, counts how often, and can be held up."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, version: Served) -> ModelHost:
        assert self.open.wait(10)
        self.loads.append(version.model.version)
        return ModelHost(version, threads=1, deadline_s=5)


def versions_of(directory: Path, *numbers: str) -> list[Served]:
    """Versions of one model with one file, each with an id of its own."""
    first = served(directory)
    return [
        replace(first, model=replace(first.model, id=uuid4(), version=number)) for number in numbers
    ]


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
async def pair(tmp_path: Path, loader: Loader) -> AsyncIterator[tuple[HeldVersions, list[Served]]]:
    """A replica that serves 1.0.0, and knows 1.1.0."""
    known = versions_of(tmp_path, "1.0.0", "1.1.0")
    held = HeldVersions(known[0], Known(*known), loader, keep_s=0)
    yield held, known
    loader.open.set()
    await held.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # nothing tells when a thread is done
            await asyncio.sleep(0.01)


async def test_a_staged_version_is_loaded_while_the_old_one_answers(
    pair: tuple[HeldVersions, list[Served]], loader: Loader
) -> None:
    held, (old, new) = pair
    loader.open.clear()

    held.hold((old, new), old.model)
    during = await held.score(tensors(old))
    loading = held.holdings()[new.model.id].state
    loader.open.set()
    await until(lambda: held.holdings()[new.model.id].state is ReplicaState.READY)

    assert loading is ReplicaState.LOADING
    assert np.array_equal(during.values, (await held.score(tensors(new))).values)
    assert loader.loads == ["1.0.0", "1.1.0"]


async def test_a_version_that_is_not_loaded_yet_is_loaded_once_for_all_who_ask(
    pair: tuple[HeldVersions, list[Served]], loader: Loader
) -> None:
    held, (_, new) = pair

    answers = await asyncio.gather(*(held.score(tensors(new)) for _ in range(8)))

    assert len(answers) == 8
    assert loader.loads == ["1.0.0", "1.1.0"]


async def test_who_leaves_does_not_end_the_load_that_others_wait_for(
    pair: tuple[HeldVersions, list[Served]], loader: Loader
) -> None:
    held, (_, new) = pair
    loader.open.clear()
    leaves = asyncio.create_task(held.score(tensors(new)))
    stays = asyncio.create_task(held.score(tensors(new)))
    await asyncio.sleep(0.05)

    leaves.cancel()
    loader.open.set()

    assert (await stays).values.shape == (1, 2)


async def test_a_version_nobody_wants_is_let_go_but_not_while_it_answers(
    pair: tuple[HeldVersions, list[Served]],
) -> None:
    held, (old, new) = pair
    await held.score(tensors(new))

    asked = asyncio.create_task(held.score(tensors(old)))
    await asyncio.sleep(0)  # it waits in the old version's queue
    held.hold((new,), new.model)
    busy = set(held.holdings())
    await asked
    await until(lambda: held.holdings().keys() == {old.model.id, new.model.id})
    held.hold((new,), new.model)

    assert old.model.id in busy
    assert held.holdings().keys() == {new.model.id}


async def test_a_version_that_fails_its_golden_case_is_reported_and_the_old_one_serves_on(
    tmp_path: Path, loader: Loader
) -> None:
    good = served(tmp_path)
    bad = served(tmp_path, version="1.1.0", golden=GOLDEN_OFF)
    bad = replace(bad, model=replace(bad.model, id=uuid4()))
    held = HeldVersions(good, Known(good, bad), loader)

    held.hold((good, bad), good.model)
    await until(lambda: held.holdings()[bad.model.id].state is ReplicaState.FAILED)

    reason = held.holdings()[bad.model.id].reason
    assert reason is not None
    assert "golden.scores.DARK" in reason
    held.check_health()
    assert (await held.score(tensors(good))).values.shape == (1, 2)
    with pytest.raises(ModelUnavailable):
        await held.score(tensors(bad))
    held.hold((good,), good.model)
    assert held.holdings().keys() == {good.model.id}  # staged no longer: it may be tried again
    await held.close()


async def test_a_version_that_serves_and_cannot_be_loaded_makes_the_replica_sick(
    tmp_path: Path, loader: Loader
) -> None:
    good = served(tmp_path)
    bad = served(tmp_path, version="1.1.0", golden=GOLDEN_OFF)
    bad = replace(bad, model=replace(bad.model, id=uuid4()))
    held = HeldVersions(good, Known(good, bad), loader)

    held.hold((bad,), bad.model)
    await until(lambda: held.holdings()[bad.model.id].state is ReplicaState.FAILED)

    with pytest.raises(InvalidModel, match="golden"):
        held.check_health()
    await held.close()


async def test_a_version_nobody_registered_is_refused(
    pair: tuple[HeldVersions, list[Served]],
) -> None:
    held, (old, _) = pair
    unknown = replace(old, model=replace(old.model, id=uuid4()))

    with pytest.raises(ModelUnavailable):
        await held.score(tensors(unknown))


async def test_another_models_version_is_refused(tmp_path: Path, loader: Loader) -> None:
    ours, other = served(tmp_path), served(tmp_path, graph(), name="other")
    other = replace(other, model=replace(other.model, id=uuid4()))
    held = HeldVersions(ours, Known(ours, other), loader)

    with pytest.raises(ModelUnavailable, match="another model"):
        await held.score(tensors(other))
    await held.close()


async def test_no_more_versions_are_loaded_on_demand_than_fit(
    tmp_path: Path, loader: Loader
) -> None:
    known = versions_of(tmp_path, *(f"1.{number}.0" for number in range(MAX_HELD + 1)))
    held = HeldVersions(known[0], Known(*known), loader)
    for version in known[:MAX_HELD]:
        await held.score(tensors(version))

    with pytest.raises(ModelUnavailable, match="too many"):
        await held.score(tensors(known[MAX_HELD]))
    await held.close()
