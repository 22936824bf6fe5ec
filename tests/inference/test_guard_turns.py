"""Turns in the guard: a slow file gives way, once, and takes nobody's turn for good."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments.inference import guard as module
from deployments.inference.guard import Guard
from tests.inference import bombs
from tests.inference.files import LIMITS, dicom_file
from tests.inference.test_guard import work, workers
from tests.inference.ticks import until


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    guard = Guard(LIMITS)
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    yield guard
    guard.close()


async def test_nobody_waits_for_a_slow_file_to_end(guard: Guard) -> None:
    slow = asyncio.ensure_future(guard.prepare(work(bombs.segment_flood())))
    await until(lambda: not guard._turns._value)

    quick = await guard.prepare(work(dicom_file("MR_small.dcm")))

    assert quick.facts.modality == "MR"
    assert not slow.done()
    await asyncio.gather(slow, return_exceptions=True)
    assert (guard._slow, guard._turns._value, guard.waiting) == (0, 1, 0)


async def test_only_so_many_slow_files_are_decoded_beside_the_others(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.05)
    body = bombs.segment_flood()
    slow = [asyncio.ensure_future(guard.prepare(work(body))) for _ in range(3)]
    most = 0
    while not any(task.done() for task in slow):
        most = max(most, len(workers(guard)))
        await asyncio.sleep(0.02)

    assert most == 2
    assert guard.waiting <= 1
    await asyncio.gather(*slow, return_exceptions=True)
    assert (guard._slow, guard._turns._value) == (0, 1)


async def test_a_caller_who_leaves_a_slow_file_gives_back_what_it_held(guard: Guard) -> None:
    slow = asyncio.ensure_future(guard.prepare(work(bombs.segment_flood())))
    await until(lambda: guard._slow)

    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)

    assert (guard._slow, guard._turns._value) == (0, 1)
