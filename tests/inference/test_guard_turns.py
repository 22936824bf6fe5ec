"""Turns in the guard: who is soon done waits for nobody who is slow, foretold or not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import psutil
import pytest

from deployments.inference import guard as module
from deployments.inference.guard import Guard
from deployments.inference.signature import signature
from deployments.inference.turns import SOON_S, Turns
from deployments.telemetry.metrics import Instruments
from registry.errors import Overloaded, UndecodableImage
from tests.inference import bombs
from tests.inference.files import FILM, LIMITS, dicom_file
from tests.inference.guards import work, workers
from tests.inference.ticks import until

SMALL = work(dicom_file("MR_small.dcm"))
SLOW = work(dicom_file("RG1_J2KR.dcm"))  # a second and more
LIAR = work(bombs.element_flood(600_000))  # likewise, and small by its words


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    guard = Guard(LIMITS)
    await guard.prepare(SMALL)
    yield guard
    guard.close()


def restarts(guard: Guard) -> dict[str, float]:
    points = guard._instruments.decoder_restarts.points()
    return {values[0]: total for values, total in points if total}


@pytest.mark.parametrize("body", [SLOW, LIAR], ids=["foretold", "a liar"])
async def test_nobody_who_is_soon_done_waits_for_slow_files(
    guard: Guard, body: module.Work
) -> None:
    slow = [asyncio.ensure_future(guard.prepare(body)) for _ in range(3)]
    await asyncio.sleep(0)

    waits = []
    while not any(task.done() for task in slow):
        started = time.perf_counter()
        assert (await guard.prepare(SMALL)).facts.modality == "MR"
        waits.append(time.perf_counter() - started)

    assert len(waits) > 10
    assert sorted(waits)[len(waits) // 2] < SOON_S / 2
    await asyncio.gather(*slow, return_exceptions=True)  # on a busy machine the clock may end one
    assert guard.waiting == 0


async def test_a_file_that_is_slower_than_foretold_begins_again_among_the_slow(
    guard: Guard,
) -> None:
    assert not signature(LIAR.body).slow

    assert (await guard.prepare(LIAR)).facts.width == 16

    assert restarts(guard) == {"not_soon": 1}


async def test_slow_files_are_decoded_one_by_one(guard: Guard) -> None:
    slow = [asyncio.ensure_future(guard.prepare(SLOW)) for _ in range(2)]
    most = 0
    while not all(task.done() for task in slow):
        most = max(most, len(workers(guard)))
        await asyncio.sleep(0.02)

    await asyncio.gather(*slow, return_exceptions=True)
    assert most == 2  # the one that idles for who is soon done


async def test_a_slow_files_process_ends_with_it_and_gives_its_memory_back(guard: Guard) -> None:
    (idle,) = workers(guard)
    slow = asyncio.ensure_future(guard.prepare(SLOW))
    await until(guard._turns._slow._turns.locked)
    await until(lambda: len(workers(guard)) == 2)
    (busy,) = (worker for worker in workers(guard) if worker != idle)

    await slow

    busy.wait(10)
    assert workers(guard) == [idle]


async def test_workers_beyond_the_usual_number_end_when_they_have_nothing_to_do(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.3)
    film = work(dicom_file(FILM))
    await asyncio.gather(*(guard.prepare(film) for _ in range(2)))
    assert len(workers(guard)) == 2

    await until(lambda: len(workers(guard)) == 1)

    assert (await guard.prepare(SMALL)).facts.modality == "MR"


async def test_a_caller_who_leaves_a_slow_file_gives_its_turn_back(guard: Guard) -> None:
    slow = asyncio.ensure_future(guard.prepare(SLOW))
    await until(guard._turns._slow._turns.locked)

    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)

    assert not guard._turns._slow._turns.locked()
    assert (await guard.prepare(SLOW)).facts.modality == "CR"


async def test_slow_files_that_wait_leave_the_queue_of_the_others_empty() -> None:
    turns = Turns(slow=1, max_queue=1)
    async with turns.slow():
        waits = asyncio.ensure_future(turns.slow().__aenter__())
        await until(lambda: turns.waiting == 1)

        with pytest.raises(Overloaded, match="too many"):
            await turns.slow().__aenter__()
        async with turns.soon():
            assert turns.waiting == 1
        waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert turns.waiting == 0


async def test_decoders_that_die_are_counted_by_their_cause(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guard._server is not None
    await end_during(guard, workers(guard)[0].kill, UndecodableImage)
    await end_during(guard, guard._server._process.kill, Overloaded)
    monkeypatch.setattr(module, "GRACE_S", -7.8)
    guard.start()
    psutil.Process(guard._server._process.pid).suspend()
    with pytest.raises(Overloaded, match="did not answer"):
        await guard.prepare(SMALL)

    assert restarts(guard) == {"crash": 1, "server": 1, "silent": 1}


async def test_a_file_that_takes_too_long_is_counted_where_the_validator_counts() -> None:
    ours = Instruments("validator")
    guard = Guard(LIMITS, wall_s=0.05, instruments=ours)
    try:
        with pytest.raises(UndecodableImage, match="too long"):
            await guard.prepare(SLOW)
    finally:
        guard.close()

    assert ours.decoder_restarts.points() == [(("time",), 1.0)]


async def end_during(guard: Guard, end: Callable[[], None], expected: type[Exception]) -> None:
    """Send a small file to a worker that is held still, and end who shall be ended."""
    await guard.prepare(SMALL)
    (worker,) = workers(guard)
    worker.suspend()
    pending = asyncio.ensure_future(guard.prepare(SMALL))
    await until(lambda: not guard._idle)
    end()
    with pytest.raises(expected):
        await pending
