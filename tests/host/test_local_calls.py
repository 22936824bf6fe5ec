"""Calls between processes of one machine: what reaches whom."""

import asyncio
import contextvars
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from registry.errors import Internal, ValidationFailed, Violation
from tests.host.local import connected, found, until


async def test_each_call_gets_its_own_answer_though_the_answers_overtake_each_other(
    folder: Path,
) -> None:
    async def late(argument: object) -> object:
        assert isinstance(argument, int)
        await asyncio.sleep(0.02 * (5 - argument))
        return argument * 2

    async with connected(folder, late) as (_, replicas):
        connection = await found(replicas)
        answers = await asyncio.gather(*(connection.call(number) for number in range(5)))

    assert answers == [0, 2, 4, 6, 8]


async def test_what_is_large_arrives_whole(folder: Path) -> None:
    body = os.urandom(20 * 2**20)

    async def echo(argument: object) -> object:
        return argument

    async with connected(folder, echo) as (_, replicas):
        connection = await found(replicas)

        assert await connection.call(body) == body


async def test_an_error_of_ours_arrives_with_all_it_says(folder: Path) -> None:
    async def refuse(_: object) -> object:
        raise ValidationFailed("the image is poor", (Violation("motion", "0.7", "at most 0.4"),))

    async with connected(folder, refuse) as (_, replicas):
        with pytest.raises(ValidationFailed) as refused:
            await (await found(replicas)).call(1)

    assert refused.value.detail == "the image is poor"
    assert refused.value.violations == (Violation("motion", "0.7", "at most 0.4"),)


@pytest.mark.parametrize("kind", ["raised", "cannot be written", "cancelled"])
async def test_of_any_other_error_only_the_type_arrives(folder: Path, kind: str) -> None:
    async def fail(_: object) -> object:
        if kind == "raised":
            raise RuntimeError("DOE^JANE")
        if kind == "cancelled":
            raise asyncio.CancelledError("DOE^JANE")
        return threading.Lock()

    async with connected(folder, fail) as (_, replicas):
        with pytest.raises(Internal) as failed:
            await (await found(replicas)).call(1)

    assert "DOE" not in str(failed.value)
    types = {"raised": "RuntimeError", "cannot be written": "TypeError"}
    assert types.get(kind, "CancelledError") in failed.value.detail


async def test_a_call_that_is_given_up_is_given_up_in_the_replica_and_harms_no_other(
    folder: Path,
) -> None:
    ended: list[object] = []

    async def slow(argument: object) -> object:
        try:
            await asyncio.sleep(0.1 if argument == 2 else 60)
        finally:
            ended.append(argument)
        return argument

    async with connected(folder, slow) as (replica, replicas):
        connection = await found(replicas)
        leaving = asyncio.ensure_future(connection.call(1))
        staying = asyncio.ensure_future(connection.call(2))
        await until(lambda: replica.ongoing == 2)
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving

        assert await staying == 2
        await until(lambda: connection.ongoing == replica.ongoing == 0)
        assert ended == [1, 2]


async def test_the_work_runs_in_an_empty_context(folder: Path) -> None:
    caller = contextvars.ContextVar("caller", default="nobody")
    caller.set("a request")

    async def whose(_: object) -> object:
        return caller.get()

    async with connected(folder, whose) as (_, replicas):
        assert await (await found(replicas)).call(None) == "nobody"
