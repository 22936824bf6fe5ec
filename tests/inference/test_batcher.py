"""The batcher: how it gathers, and that nobody harms anybody."""

import asyncio
import contextvars
import random
from collections.abc import Sequence
from typing import Any

import pytest

from deployments.inference.batcher import Batcher
from registry.errors import Internal, InvalidModel, ModelHalted, Overloaded, Violation
from tests.inference.ticks import until

request_context: contextvars.ContextVar[str] = contextvars.ContextVar("request_context")


class Echo:
    """Answers each item with itself; holds every call until `gate` is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.arrived = asyncio.Condition()
        if is_open:
            self.gate.set()

    async def __call__(self, items: list[int]) -> list[int | BaseException]:
        self.calls.append(items)
        async with self.arrived:
            self.arrived.notify_all()
        await self.gate.wait()
        return list(items)

    async def calls_reach(self, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.calls) >= count)


def batcher(send: Echo, **limits: int) -> Batcher[int, int]:
    defaults: dict[str, Any] = {"max_batch_size": 16, "max_in_flight": 1, "max_queue": 512}
    return Batcher(send, **{**defaults, **limits})


async def test_a_burst_goes_as_one_call() -> None:
    echo = Echo()
    under_test = batcher(echo)

    answers = await asyncio.gather(*(under_test.submit(item) for item in range(5)))

    assert answers == [0, 1, 2, 3, 4]
    assert echo.calls == [[0, 1, 2, 3, 4]]
    assert under_test.last_batch_size == 5


async def test_an_idle_batcher_sends_within_one_tick_of_the_first_item() -> None:
    echo = Echo(is_open=False)
    answer = asyncio.ensure_future(batcher(echo).submit(1))

    for _ in range(3):  # submit, depart, call
        await asyncio.sleep(0)

    assert echo.calls == [[1]]
    echo.gate.set()
    assert await answer == 1


async def test_items_gather_while_calls_are_in_flight() -> None:
    echo = Echo(is_open=False)
    under_test = batcher(echo)
    first = asyncio.ensure_future(under_test.submit(0))
    await echo.calls_reach(1)
    later = [asyncio.ensure_future(under_test.submit(item)) for item in (1, 2, 3)]
    await asyncio.sleep(0)

    assert (under_test.depth, under_test.in_flight) == (3, 1)
    echo.gate.set()
    await asyncio.gather(first, *later)

    assert echo.calls == [[0], [1, 2, 3]]
    assert (under_test.depth, under_test.in_flight) == (0, 0)


async def test_no_call_carries_more_than_the_batch_size() -> None:
    echo = Echo()

    await asyncio.gather(
        *(batch.submit(item) for batch in [batcher(echo, max_batch_size=4)] for item in range(10))
    )

    assert [len(call) for call in echo.calls] == [4, 4, 2]


async def test_no_more_calls_than_allowed_are_in_flight() -> None:
    echo = Echo(is_open=False)
    under_test = batcher(echo, max_batch_size=1, max_in_flight=3)
    answers = [asyncio.ensure_future(under_test.submit(item)) for item in range(9)]
    await echo.calls_reach(3)
    await asyncio.sleep(0)

    assert len(echo.calls) == under_test.in_flight == 3
    echo.gate.set()
    assert await asyncio.gather(*answers) == list(range(9))


async def test_weight_counts_and_a_heavy_item_goes_alone() -> None:
    echo = Echo()
    under_test: Batcher[int, int] = Batcher(
        echo, max_batch_size=10, max_in_flight=1, max_queue=9, weight=lambda item: item
    )

    await asyncio.gather(*(under_test.submit(item) for item in (4, 6, 1, 50, 2)))

    assert echo.calls == [[4, 6], [1], [50], [2]]


async def test_a_full_queue_refuses_at_once_with_advice_when_to_return() -> None:
    echo = Echo(is_open=False)
    under_test = batcher(echo, max_queue=2)
    first = asyncio.ensure_future(under_test.submit(0))
    await echo.calls_reach(1)
    waiting = [asyncio.ensure_future(under_test.submit(item)) for item in (1, 2)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded) as refusal:
        await under_test.submit(3)

    assert refusal.value.retry_after_s == 1
    echo.gate.set()
    assert await asyncio.gather(first, *waiting) == [0, 1, 2]


async def test_one_bad_item_among_eight_fails_alone() -> None:
    async def send(items: list[int]) -> Sequence[int | BaseException]:
        return [InvalidModel("bad", (Violation("v"),)) if item == 3 else item for item in items]

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=8, max_in_flight=1, max_queue=8)
    answers = await asyncio.gather(*map(under_test.submit, range(8)), return_exceptions=True)

    assert [answer for answer in answers if isinstance(answer, int)] == [0, 1, 2, 4, 5, 6, 7]
    assert isinstance(answers[3], InvalidModel)
    assert answers[3].violations == (Violation("v"),)


async def test_a_failed_call_gives_each_caller_an_error_of_its_own() -> None:
    async def send(items: list[int]) -> Sequence[int | BaseException]:
        raise ModelHalted("stopped", retry_after_s=7)

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=8, max_in_flight=1, max_queue=8)
    errors = await asyncio.gather(*map(under_test.submit, range(3)), return_exceptions=True)

    assert all(isinstance(error, ModelHalted) and error.retry_after_s == 7 for error in errors)
    assert len({id(error) for error in errors}) == 3


async def test_a_foreign_exception_leaves_only_its_type() -> None:
    async def send(items: list[int]) -> Sequence[int | BaseException]:
        raise ValueError("DOE^JOHN")

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=8, max_in_flight=1, max_queue=8)
    with pytest.raises(Internal) as failure:
        await under_test.submit(1)

    assert str(failure.value) == "the call ended with ValueError"


async def test_an_answer_of_the_wrong_length_is_an_error_for_all() -> None:
    async def send(items: list[int]) -> Sequence[int | BaseException]:
        return items[:-1]

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=8, max_in_flight=1, max_queue=8)
    errors = await asyncio.gather(*map(under_test.submit, range(3)), return_exceptions=True)

    assert [str(error) for error in errors] == ["2 results for 3 items"] * 3


async def test_it_works_on_after_a_call_has_failed() -> None:
    async def send(items: list[int]) -> Sequence[int | BaseException]:
        if 0 in items:
            raise ValueError
        return items

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=1, max_in_flight=1, max_queue=8)
    answers = await asyncio.gather(*map(under_test.submit, range(4)), return_exceptions=True)

    assert answers[1:] == [1, 2, 3]
    assert under_test.in_flight == 0


async def test_a_cancelled_call_fails_its_items_and_frees_its_place() -> None:
    echo = Echo(is_open=False)
    under_test = batcher(echo)
    answer = asyncio.ensure_future(under_test.submit(1))
    await echo.calls_reach(1)

    (call,) = under_test._calls
    call.cancel()

    with pytest.raises(Internal, match="CancelledError"):
        await answer
    echo.gate.set()
    assert await under_test.submit(2) == 2


async def test_a_caller_who_leaves_before_departure_is_not_sent() -> None:
    echo = Echo(is_open=False)
    under_test = batcher(echo)
    first = asyncio.ensure_future(under_test.submit(0))
    await echo.calls_reach(1)
    stays, leaves = (asyncio.ensure_future(under_test.submit(item)) for item in (1, 2))
    await asyncio.sleep(0)

    leaves.cancel()
    await asyncio.sleep(0)

    assert under_test.depth == 1
    echo.gate.set()
    assert [await first, await stays] == [0, 1]
    assert echo.calls == [[0], [1]]


async def test_a_caller_who_leaves_in_the_tick_of_departure_is_not_sent() -> None:
    echo = Echo()
    under_test = batcher(echo)
    stays, leaves = (asyncio.ensure_future(under_test.submit(item)) for item in (1, 2))
    await asyncio.sleep(0)

    leaves.cancel()  # its future is cancelled, its task has not run yet; the batch departs now

    assert await stays == 1
    assert echo.calls == [[1]]


async def test_a_caller_who_leaves_after_departure_harms_nobody() -> None:
    echo = Echo(is_open=False)
    under_test = batcher(echo)
    stays, leaves = (asyncio.ensure_future(under_test.submit(item)) for item in (1, 2))
    await echo.calls_reach(1)

    leaves.cancel()
    echo.gate.set()

    assert await stays == 1
    assert leaves.cancelled()


async def test_an_error_that_arrives_as_its_caller_leaves_is_not_reported_as_unseen() -> None:
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    release = asyncio.Event()

    async def send(items: list[int]) -> Sequence[int | BaseException]:
        await release.wait()
        raise ValueError

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=1, max_in_flight=1, max_queue=8)
    leaves = asyncio.ensure_future(under_test.submit(1))
    for _ in range(3):
        await asyncio.sleep(0)
    release.set()
    await until(lambda: not under_test.in_flight)

    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    del leaves

    assert unseen == []


async def test_calls_run_in_an_empty_context() -> None:
    seen: list[str | None] = []

    async def send(items: list[int]) -> Sequence[int | BaseException]:
        seen.append(request_context.get(None))
        return items

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=1, max_in_flight=1, max_queue=8)
    request_context.set("a request that Serve may cancel")
    await asyncio.gather(*map(under_test.submit, range(3)))

    assert seen == [None, None, None]


async def test_calls_made_while_closing_run_in_an_empty_context_too() -> None:
    seen: list[str | None] = []

    async def send(items: list[int]) -> Sequence[int | BaseException]:
        seen.append(request_context.get(None))
        return items

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=1, max_in_flight=1, max_queue=8)
    answer = asyncio.ensure_future(under_test.submit(1))
    await asyncio.sleep(0)
    request_context.set("a request that Serve may cancel")
    await under_test.close()

    assert await answer == 1
    assert seen == [None]


async def test_limits_change_while_it_runs() -> None:
    echo = Echo(is_open=False)
    under_test = batcher(echo, max_batch_size=1)
    answers = [asyncio.ensure_future(under_test.submit(item)) for item in range(5)]
    await echo.calls_reach(1)

    under_test.reconfigure(max_batch_size=2, max_in_flight=3, max_queue=4)
    await echo.calls_reach(3)

    assert echo.calls == [[0], [1, 2], [3, 4]]
    echo.gate.set()
    assert await asyncio.gather(*answers) == [0, 1, 2, 3, 4]


async def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    echo = Echo()
    under_test = batcher(echo, max_batch_size=2)
    answers = [asyncio.ensure_future(under_test.submit(item)) for item in range(5)]
    await asyncio.sleep(0)

    await under_test.close()

    assert [answer.result() for answer in answers] == [0, 1, 2, 3, 4]
    with pytest.raises(Overloaded):
        await under_test.submit(9)


@pytest.mark.parametrize("seed", range(5))
async def test_two_hundred_requests_with_random_cancellations_all_end(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # which of them leave, not a secret

    async def send(items: list[int]) -> Sequence[int | BaseException]:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            raise ValueError
        return [InvalidModel("bad") if item % 17 == 0 else item for item in items]

    under_test: Batcher[int, int] = Batcher(send, max_batch_size=5, max_in_flight=2, max_queue=512)
    requests: list[asyncio.Task[int]] = []
    for item in range(200):
        requests.append(asyncio.create_task(under_test.submit(item)))
        if chance.random() < 0.3:
            chance.choice(requests).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*requests, return_exceptions=True)

    for item, end in enumerate(ends):
        assert end == item or isinstance(end, (InvalidModel, Internal, asyncio.CancelledError))
    assert (under_test.depth, under_test.in_flight) == (0, 0)
