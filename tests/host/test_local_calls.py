"""Calls between processes of one machine: what reaches whom, and what is left where one ends."""

import asyncio
import contextvars
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from deployments import local_replicas
from deployments.local_calls import Calling, Gone
from deployments.local_replicas import LocalReplica, LocalReplicas, folder_of
from registry.errors import Internal, ValidationFailed, Violation

NAME = "Validator"
SOON_S = 5.0
PROCESS = Path(__file__).with_name("replica_process.py")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose sockets have short paths; pytest's own are too long for some systems."""
    with tempfile.TemporaryDirectory(prefix="medai-test-") as name:
        yield Path(name)


async def until(holds: Callable[[], object]) -> None:
    """Wait for `holds`."""
    async with asyncio.timeout(SOON_S):
        while not holds():  # noqa: ASYNC110  # what is waited for happens in other objects
            await asyncio.sleep(0.01)


def sockets(folder: Path) -> list[str]:
    """What is in the folder."""
    return [path.name for path in folder.iterdir()]


async def found(replicas: LocalReplicas) -> Calling:
    """The connection that is picked, once there is one."""
    await until(replicas.pick)
    connection = replicas.pick()
    assert connection is not None
    return connection


@asynccontextmanager
async def connected(
    folder: Path, handler: Callable[[object], Awaitable[object]]
) -> AsyncIterator[tuple[LocalReplica, LocalReplicas]]:
    """A replica and somebody who calls it, in one process."""
    replica = LocalReplica(folder, NAME, handler)
    replicas = LocalReplicas(folder, NAME)
    try:
        await found(replicas)
        yield replica, replicas
    finally:
        await replicas.close()
        await replica.close()


async def double(argument: object) -> object:
    """What the replicas here do."""
    assert isinstance(argument, int)
    return argument * 2


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


@pytest.mark.parametrize("kind", ["raised", "cannot be written"])
async def test_of_any_other_error_only_the_type_arrives(folder: Path, kind: str) -> None:
    async def fail(_: object) -> object:
        if kind == "raised":
            raise RuntimeError("DOE^JANE")
        return threading.Lock()

    async with connected(folder, fail) as (_, replicas):
        with pytest.raises(Internal) as failed:
            await (await found(replicas)).call(1)

    assert "DOE" not in str(failed.value)
    assert ("RuntimeError" if kind == "raised" else "TypeError") in failed.value.detail


async def test_a_caller_that_leaves_stops_nothing_and_harms_no_other_call(folder: Path) -> None:
    ended = asyncio.Event()

    async def slow(argument: object) -> object:
        await asyncio.sleep(0.1)
        ended.set()
        return argument

    async with connected(folder, slow) as (replica, replicas):
        connection = await found(replicas)
        leaving = asyncio.ensure_future(connection.call(1))
        await until(lambda: replica.ongoing)
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving

        assert await connection.call(2) == 2
        assert ended.is_set()
        assert connection.ongoing == replica.ongoing == 0


async def test_the_work_runs_in_an_empty_context(folder: Path) -> None:
    caller = contextvars.ContextVar("caller", default="nobody")
    caller.set("a request")

    async def whose(_: object) -> object:
        return caller.get()

    async with connected(folder, whose) as (_, replicas):
        assert await (await found(replicas)).call(None) == "nobody"


async def test_a_replica_that_ends_answers_what_it_got_and_gets_nothing_more(folder: Path) -> None:
    go = asyncio.Event()

    async def wait(argument: object) -> object:
        await go.wait()
        return argument

    async with connected(folder, wait) as (replica, replicas):
        connection = await found(replicas)
        call = asyncio.ensure_future(connection.call(1))
        await until(lambda: replica.ongoing)
        closing = asyncio.ensure_future(replica.close())
        await until(lambda: not connection.open)

        assert replicas.pick() is None
        assert not sockets(folder)
        with pytest.raises(Gone) as gone:
            await connection.call(2)
        assert not gone.value.sent
        assert not closing.done()
        go.set()
        assert await call == 1
        await asyncio.wait_for(closing, SOON_S)


async def test_a_caller_that_does_not_close_is_waited_for_so_long_and_no_longer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_replicas, "GOODBYE_S", 0.2)
    forever = asyncio.Event()

    async def wait(_: object) -> object:
        await forever.wait()
        return None

    async with connected(folder, wait) as (replica, replicas):
        call = asyncio.ensure_future((await found(replicas)).call(1))
        await until(lambda: replica.ongoing)
        await asyncio.wait_for(replica.close(), SOON_S)

        with pytest.raises(Gone) as gone:
            await asyncio.wait_for(call, SOON_S)

    assert gone.value.sent


@pytest.fixture
def process(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A replica in a process of its own."""
    started = subprocess.Popen([sys.executable, str(PROCESS), str(folder), NAME])
    yield started
    started.kill()
    started.wait()


async def test_a_killed_replica_fails_its_calls_at_once_and_its_socket_is_removed(
    folder: Path, process: "subprocess.Popen[bytes]"
) -> None:
    replicas = LocalReplicas(folder, NAME)
    try:
        async with asyncio.timeout(30):
            connection = await found(replicas)
        assert await connection.call(21) == 42
        waiting = asyncio.ensure_future(connection.call("wait"))
        await until(lambda: connection.ongoing)
        process.send_signal(signal.SIGKILL)

        with pytest.raises(Gone) as gone:
            await asyncio.wait_for(waiting, SOON_S)

        assert gone.value.sent
        assert replicas.pick() is None
        await until(lambda: not sockets(folder))
    finally:
        await replicas.close()


async def test_the_least_busy_replica_is_called_and_of_idle_ones_each_in_turn(
    folder: Path,
) -> None:
    async with several(folder) as (asked, go):
        replicas = LocalReplicas(folder, NAME)
        await until(lambda: len(replicas) == 2)
        calls = []
        for _ in range(4):
            connection = replicas.pick()
            assert connection is not None
            calls.append(asyncio.ensure_future(connection.call(None)))
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*calls)
        await replicas.close()

    assert sorted(asked) == [0, 0, 1, 1]


async def test_where_one_replica_is_meant_the_newest_is_called_and_no_other(folder: Path) -> None:
    async with several(folder) as (asked, go):
        go.set()
        replicas = LocalReplicas(folder, NAME, only_newest=True)
        await until(lambda: len(replicas) == 2)
        for _ in range(3):
            await (await found(replicas)).call(None)
        await replicas.close()

    assert asked == [1, 1, 1]


@asynccontextmanager
async def several(folder: Path) -> AsyncIterator[tuple[list[int], asyncio.Event]]:
    """Two replicas, the second newer, and one of another deployment; which of them was called."""
    go = asyncio.Event()
    asked: list[int] = []

    def answering(number: int) -> Callable[[object], Awaitable[object]]:
        async def answer(_: object) -> object:
            asked.append(number)
            await go.wait()
            return number

        return answer

    replicas = []
    for number, name in enumerate((NAME, NAME, "AuditWriter")):
        replicas.append(LocalReplica(folder, name, answering(number)))
        await asyncio.sleep(0.005)  # their names are of milliseconds
    try:
        yield asked, go
    finally:
        for replica in replicas:
            await replica.close()


async def test_without_a_folder_or_with_too_long_a_path_there_are_no_local_calls(
    folder: Path,
) -> None:
    long = folder / ("x" * 100)
    long.mkdir()
    for place in (None, long):
        replica, replicas = LocalReplica(place, NAME, double), LocalReplicas(place, NAME)
        await asyncio.sleep(0.05)

        assert replicas.pick() is None
        await replicas.close()
        await replica.close()


def test_the_folder_of_a_home_is_closed_to_others_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = folder_of(tmp_path / "home")
    assert made is not None
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert folder_of(tmp_path / "home") == made != folder_of(tmp_path / "another")

    made.chmod(0o755)
    assert folder_of(tmp_path / "home") is None


def test_a_folder_that_somebody_else_put_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = folder_of(tmp_path / "home")
    assert made is not None
    made.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    made.symlink_to(elsewhere)
    assert folder_of(tmp_path / "home") is None
    made.unlink()

    made.mkdir(mode=0o700)
    assert folder_of(tmp_path / "home") == made
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert folder_of(tmp_path / "home") is None
